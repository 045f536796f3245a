"""What a thief saves by asking: the labels that their rows would have needed, and what those would have cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array, Estimate
from portcullis_ml.repetitions import paired
from portcullis_ml.report.numbers import count, points
from portcullis_ml.report.pairs import Pair, right_of

__all__ = ["Prices", "ahead", "bill", "labelled", "prices_of"]


class Prices(NamedTuple):
    """What one query and one label cost, in one currency; None where nobody said."""

    query: float | None = None
    label: float | None = None


def prices_of(meta: Mapping[str, Any]) -> Prices:
    """What an audit's own words say of prices."""
    return Prices(*(meta.get("prices") or ()))


def ahead(thief: Pair, own: Pair, weights: Array | None) -> Estimate | None:
    """By how much the thief agrees more often than whoever labels the same rows by hand.

    On the same test rows, each counted by its weight (n,), and for the same seeds; None where the records do not say on
    which rows they agree, or there are no weights because the measure is no mean over rows.
    """
    one, other = (_by_seed(pair) for pair in (thief, own))
    shared = sorted(one.keys() & other.keys())
    if not shared or weights is None:
        return None
    return paired(np.array([(one[s] * 1.0 - other[s]) * weights for s in shared]))


def _by_seed(pair: Pair) -> Mapping[int, NDArray[np.bool_]]:
    found = {int(r["cell"].get("seed", 0)): right_of(r) for r in pair.done}
    return {seed: right for seed, right in found.items() if right is not None}


def labelled(own: Pair) -> int | None:
    """How many labels whoever asks nobody has written by hand; None where the records do not say."""
    found = [n for r in own.done if (n := (r.get("notes") or {}).get("labelled")) is not None]
    return int(found[0]) if found else None


def bill(queries: int, labels: int | None, prices: Prices, gain: Estimate | None) -> str:
    """What the queries saved, in a sentence or two; "" where nothing is known of it."""
    if labels is None:
        return ""
    said = f"The queries save {count(labels, 'label')}."
    asked, written = _cost(queries, prices.query), _cost(labels, prices.label)
    if asked and written:
        said = f"The queries cost {asked}, and save {count(labels, 'label')} that would cost {written}."
    elif written:
        said = f"The queries save {count(labels, 'label')} that would cost {written}."
    elif asked:
        said = f"The queries cost {asked}, and save {count(labels, 'label')}."
    if gain is not None:
        said += f" On the same rows the thief's copy agrees {_points(gain)} than that one."
    return said


def _cost(n: int, price: float | None) -> str:
    return "" if price is None or math.isnan(price) else f"{n * price:,.2f}"


def _points(gain: Estimate) -> str:
    """ "0.3 points more often [0.1, 0.5]", or less often."""
    if gain.value < 0:
        gain = Estimate(-gain.value, -gain.high, -gain.low, gain.n, level=gain.level, unit=gain.unit)
        return points(gain).replace(" [", " less often [", 1)
    return points(gain).replace(" [", " more often [", 1)
