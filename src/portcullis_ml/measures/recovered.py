"""Rows that an attack rebuilt, matched one to one with the training set, beside what chance would give.

Tramèr et al. (USENIX Security 2016), section 4.1.3. A rebuilt row near some training row means little by itself where
there are many rows: so the same number of rows that the victim never saw, and of random points, is matched with the
training set too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from portcullis_ml.core.types import Array, Interface
from portcullis_ml.models.kernel import match_representers

__all__ = ["SHOWN", "match_recovered"]

SHOWN = 12  # pairs in a record, those that match best
NUMBERS = 50_000  # inputs in all beyond which a record keeps distances only


def match_recovered(
    recovered: Array, train: Array | None, unseen: Array, interface: Interface, *, rng: np.random.Generator
) -> dict[str, Any]:
    """A record's note, inputs brought to 0 to 255 within their ranges.

    recovered   (m, *input_shape), the strongest first; train (n, ...) the victim's rows or None; unseen (k, ...) others

    recovered   [[...], ...] rebuilt rows, the best matched first (in the order given without a training set)
    training    [[...], ...] the training row that belongs to each, one to one; None where the training set is unknown
    shape       of a row
    found       how many rows were rebuilt
    difference  mean |difference| per input of every match, as a share of its range, at the median: of the rebuilt
                rows; `unseen` of as many unseen rows; `random` of as many uniform points
    closer      rebuilt rows that are nearer to their training row than any of these unseen rows is to its match
    """
    found = _shares(recovered, interface)
    note: dict[str, Any] = {"shape": list(interface.input_shape), "found": len(found), "training": None}
    near: Array | None = None
    if train is not None:
        rows = _shares(train, interface)
        found = found[: len(rows)]  # the strongest, where there are more of them than training rows
        matched, difference = match_representers(found, rows)
        note["difference"] = float(np.median(difference))
        others = _shares(unseen[rng.permutation(len(unseen))[: len(found)]], interface)
        of_unseen = match_representers(others, rows)[1]
        note["unseen"], note["closer"] = float(np.median(of_unseen)), int((difference < of_unseen.min()).sum())
        note["random"] = float(np.median(match_representers(rng.random(found.shape), rows)[1]))
        best = np.argsort(difference)
        found, near = found[best], rows[matched[best]]
    if found[:SHOWN].size > NUMBERS:
        return note
    return note | {"recovered": _bytes(found), "training": None if near is None else _bytes(near)}


def _shares(x: Array, interface: Interface) -> Array:
    """(n, d) rows as shares of every input's range; one that cannot vary is 0."""
    low, high = interface.low, interface.high
    width = np.where(high > low, high - low, np.inf)
    return np.asarray((x.reshape(len(x), -1) - low) / width)


def _bytes(rows: Array) -> list[list[int]]:
    return np.rint(255 * np.clip(rows[:SHOWN], 0, 1)).astype(int).tolist()  # type: ignore[no-any-return]
