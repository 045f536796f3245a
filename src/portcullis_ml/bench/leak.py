"""What a copy gives away of the training set: its representers, beside the training rows that they are.

Tramèr et al. (USENIX Security 2016), section 4.1.3. A representer near some training row means little by itself where
there are many rows: so the same number of test rows, which the victim never saw, and of random points is matched with
the training set too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from portcullis_ml.bench.experiment import Experiment
from portcullis_ml.core.types import Array, Model
from portcullis_ml.models.encoding import Encoded
from portcullis_ml.models.kernel import KernelRegression, match_representers

__all__ = ["leaked"]

SHOWN = 12  # pairs in a record, those that match best
NUMBERS = 50_000  # inputs in all beyond which a record keeps distances only
LEAST = 0.01  # of the greatest weight: a representer with less says nothing


def leaked(copy: Model, experiment: Experiment, rng: np.random.Generator) -> dict[str, Any] | None:
    """None for a copy without representers. Otherwise a record's note, inputs brought to 0 to 255 within their ranges:

    recovered   [[...], ...] representers that carry weight, the best matched first (by weight without a training set)
    training    [[...], ...] the training row that belongs to each, one to one; None where the training set is unknown
    shape       of a row
    found       representers that carry weight
    difference  mean |difference| per input of every match, as a share of its range, at the median: of the
                representers; `unseen` of as many test rows; `random` of as many uniform points
    closer      representers that are nearer to their training row than any of these test rows is to its match
    """
    kernel = copy.inner if isinstance(copy, Encoded) else copy
    if not isinstance(kernel, KernelRegression):
        return None
    strength = np.abs(kernel.weights).max(axis=1)
    order = np.argsort(-strength)
    order = order[strength[order] >= LEAST * strength.max()]
    found = _shares(kernel.representers[order], experiment)
    note: dict[str, Any] = {"shape": list(experiment.interface.input_shape), "found": len(found), "training": None}
    near: Array | None = None
    if experiment.train is not None:
        train = _shares(experiment.train, experiment)
        found = found[: len(train)]  # the strongest, where there are more of them than training rows
        matched, difference = match_representers(found, train)
        note["difference"] = float(np.median(difference))
        unseen = _shares(experiment.test_x[rng.permutation(len(experiment.test_x))[: len(found)]], experiment)
        of_unseen = match_representers(unseen, train)[1]
        note["unseen"], note["closer"] = float(np.median(of_unseen)), int((difference < of_unseen.min()).sum())
        note["random"] = float(np.median(match_representers(rng.random(found.shape), train)[1]))
        best = np.argsort(difference)
        found, near = found[best], train[matched[best]]
    if found[:SHOWN].size > NUMBERS:
        return note
    return note | {"recovered": _bytes(found), "training": None if near is None else _bytes(near)}


def _shares(x: Array, experiment: Experiment) -> Array:
    """(n, d) rows as shares of every input's range; one that cannot vary is 0."""
    low, high = experiment.interface.low, experiment.interface.high
    width = np.where(high > low, high - low, np.inf)
    return np.asarray((x.reshape(len(x), -1) - low) / width)


def _bytes(rows: Array) -> list[list[int]]:
    return np.rint(255 * np.clip(rows[:SHOWN], 0, 1)).astype(int).tolist()  # type: ignore[no-any-return]
