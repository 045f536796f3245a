"""What a guard costs honest clients of a regression: answers moved and refused, and R^2 lost.

Threat model   none: these clients are honest; each sends its own natural questions, one at a time.
Query cost     none.

As `utility.py` does for classes. A row that was refused counts as answered with the mean, since that is what it is
worth to the client, and its share is reported by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.guard import Guard, changed
from portcullis_ml.core.types import Array, Estimate, Interface, Model
from portcullis_ml.measures.regression import DRAWS, mean_error, r_squared
from portcullis_ml.measures.statistics import bootstrap, clopper_pearson
from portcullis_ml.measures.utility import serve

__all__ = ["ValueCost", "value_cost"]


@dataclass(frozen=True, kw_only=True)
class ValueCost:
    """What honest clients lose. Without the truth, R^2 is of the undefended answers.

    r2_drop    the share of the variance that is explained without the guard and not with it
    moved      the mean absolute change of an answer, in the target's units, over answered rows
    """

    altered: Estimate  # rows answered otherwise than without the guard, or not at all
    refused: Estimate  # rows not answered
    flagged: Estimate  # clients for whom some alarm went off
    moved: Estimate
    r2_drop: Estimate
    served_r2: Estimate
    victim_r2: Estimate | None = None

    def measures(self) -> dict[str, Estimate]:
        """By name, as a record keeps them."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: estimate for name, estimate in named.items() if estimate is not None}


def value_cost(
    guard_factory: Callable[[], Guard],
    model: Model,
    interface: Interface,
    streams: Sequence[Array],
    truths: Sequence[Array] | None = None,
    *,
    rng: np.random.Generator,
    plain: Model | None = None,
) -> ValueCost:
    """Send one stream (n, *input_shape) for each honest client through one fresh guard, and add up the loss."""
    if not streams:
        raise InputError("Honest clients need at least one stream of rows; got none.")
    guard = guard_factory()
    sent = [serve(guard, model, interface, x, client=f"honest-{i}", plain=plain) for i, x in enumerate(streams)]
    clean = np.concatenate([s.clean.scores[:, 0] for s in sent if s.clean.scores is not None])
    served = np.concatenate([s.answer.scores[:, 0] for s in sent if s.answer.scores is not None])
    answered = ~np.isnan(served)
    truth = clean if truths is None else np.concatenate(list(truths))
    altered = np.concatenate([changed(s.clean, s.answer) for s in sent])
    return ValueCost(
        altered=clopper_pearson(int(altered.sum()), len(altered)),
        refused=clopper_pearson(int((~answered).sum()), len(answered)),
        flagged=clopper_pearson(sum(s.alarmed for s in sent), len(sent), unit="clients"),
        moved=mean_error(clean[answered], served[answered]),
        r2_drop=_lost(truth, clean, served, rng),
        served_r2=r_squared(truth, served, rng=rng),
        victim_r2=None if truths is None else r_squared(truth, clean, rng=rng),
    )


def _lost(truth: Array, clean: Array, served: Array, rng: np.random.Generator) -> Estimate:
    """R^2 of the undefended answers less that of the served ones, on the same rows."""
    middle, half = truth.min() / 2 + truth.max() / 2, float(truth.max() / 2 - truth.min() / 2) or 1.0
    truth, clean, served = ((v - middle) / half for v in (truth, clean, served))
    served = np.where(np.isnan(served), truth.mean(), served)
    more = (served - truth) ** 2 - (clean - truth) ** 2

    def lost(rows: np.ndarray) -> float:
        variance = float(truth[rows].var())
        return float(more[rows].mean()) / variance if variance > 0 else math.nan

    return bootstrap(lost, len(truth), rng=rng, draws=DRAWS)
