"""Utility: what a guard costs the clients whom it is there to serve.

Orekondy, Schiele, Fritz. "Prediction Poisoning", ICLR 2020, section 5.1 (accuracy and L1 change of the served
answers, both against theft); Guo, Pleiss, Sun, Weinberger. "On Calibration of Modern Neural Networks", ICML
2017, section 2 (expected calibration error).

Threat model   none: these clients are honest; each sends its own natural questions, one at a time.
Query cost     none.

Every client goes through the same guard that the thief meets, and every answer is put beside the one that
the client would have got without it. A row that was refused has no answer: it counts as disagreeing and as
wrong, since that is what it is worth to the client, and its share is reported by itself.

A guard that remembers treats clients as wholes (one is blocked, four are not), so the spread between clients
decides how wide the intervals are; where nothing at all happened to anyone there is no such spread, and the
rows count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError, NotApplicable, Refused
from portcullis_ml.core.guard import Guard, changed
from portcullis_ml.core.oracle import LocalOracle, checked_answer
from portcullis_ml.core.types import WITHHELD, Answer, Array, Estimate, Interface, Labels, Model
from portcullis_ml.measures.statistics import UNIT, bootstrap, clopper_pearson, clustered, clustered_mean, mean_of

__all__ = ["ClientAnswers", "HonestCost", "calibration_error", "honest_cost", "serve", "shown_distance"]

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class ClientAnswers:
    """One honest client's answers (withheld where refused), those without the guard, and whether it was alarmed."""

    answer: Answer
    clean: Answer
    alarmed: bool


@dataclass(frozen=True, kw_only=True)
class HonestCost:
    """What honest clients lose. Those that need the truth are None without it, and explanations where there are none.

    accuracy, utility  the share of rows labelled right without the guard, and with it
    accuracy_drop      the first minus the second, on the same rows
    l1                 mean L1 distance of the served scores from the undefended ones, over answered rows
    calibration_*      expected calibration error of what is shown, without and with the guard
    """

    agreement: Estimate  # the label served is the undefended label
    altered: Estimate  # rows answered otherwise than without the guard, in label, score or explanation, or not at all
    refused: Estimate  # rows not answered
    flagged: Estimate  # clients for whom some alarm went off
    l1: Estimate
    unexplained: Estimate | None = None  # rows whose explanation is withheld or another one
    accuracy_drop: Estimate | None = None
    accuracy: Estimate | None = None
    utility: Estimate | None = None
    clean_calibration: Estimate | None = None
    served_calibration: Estimate | None = None

    def measures(self) -> dict[str, Estimate]:
        """By name, as a record keeps them; with labels_changed (1 - agreement) and tv (half of l1)."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        same, moved = self.agreement, self.l1
        named["labels_changed"] = replace(same, value=1 - same.value, low=1 - same.high, high=1 - same.low)
        named["tv"] = replace(moved, value=moved.value / 2, low=moved.low / 2, high=moved.high / 2)
        return {name: estimate for name, estimate in named.items() if estimate is not None}


def honest_cost(
    guard_factory: Callable[[], Guard],
    model: Model,
    interface: Interface,
    streams: Sequence[Array],
    truths: Sequence[Labels] | None = None,
    *,
    rng: np.random.Generator,
    plain: Model | None = None,
) -> HonestCost:
    """Send one stream (n, *input_shape) for each honest client through one fresh guard, and add up the loss.

    truths   the true labels of each stream, or None
    rng      for the interval of the calibration error only
    plain    whose answers stand for those without the guard; the model's own unless given
    """
    if interface.task != "classification":
        raise NotApplicable(f"The cost to honest clients compares labels; this API does {interface.task}.")
    if not streams or (truths is not None and [len(t) for t in truths] != [len(x) for x in streams]):
        raise InputError(
            f"Honest clients need at least one stream and a true label for each row; got {len(streams)} streams"
            + ("." if truths is None else f" and labels for {[len(t) for t in truths]} rows.")
        )
    guard = guard_factory()
    served = [serve(guard, model, interface, x, client=f"honest-{i}", plain=plain) for i, x in enumerate(streams)]
    moved = [shown_distance(s.clean, s.answer, interface.n_classes) for s in served]
    alarmed = sum(s.alarmed for s in served)
    cost = HonestCost(
        agreement=_share([_labels(s.answer) == _labels(s.clean) for s in served]),
        altered=_share([changed(s.clean, s.answer) for s in served]),
        refused=_share([~s.answer.answered for s in served]),
        flagged=clopper_pearson(alarmed, len(served), unit="clients"),
        l1=_mean([m[~np.isnan(m)] for m in moved], (0.0, 2.0)),
        unexplained=_share([_unexplained(s.clean, s.answer) for s in served]) if interface.explains else None,
    )
    return cost if truths is None else _with_truth(cost, served, truths, rng)


def _with_truth(
    cost: HonestCost, served: Sequence[ClientAnswers], truths: Sequence[Labels], rng: np.random.Generator
) -> HonestCost:
    pairs = list(zip(served, truths, strict=True))
    clean = [_labels(s.clean) == true for s, true in pairs]
    right = [_labels(s.answer) == true for s, true in pairs]
    return replace(
        cost,
        accuracy_drop=_mean([was.astype(float) - now for was, now in zip(clean, right, strict=True)], (-1.0, 1.0)),
        accuracy=_share(clean),
        utility=_share(right),
        clean_calibration=calibration_error([s.clean for s in served], truths, rng=rng),
        served_calibration=calibration_error([s.answer for s in served], truths, rng=rng),
    )


def serve(
    guard: Guard, model: Model, interface: Interface, x: Array, *, client: str, plain: Model | None = None
) -> ClientAnswers:
    """Send x (n, *input_shape) row by row, as one client, and go on asking after a refusal."""
    full = checked_answer(model, x, interface)
    beside = full if plain is None else checked_answer(plain, x, interface)
    recorded = _Recorded(full, interface.input_shape)
    oracle = LocalOracle(recorded, interface, budget=max(len(x), 1), guard=guard, client=client)
    clean = beside.only(interface)
    got = clean.withhold(np.ones(len(x), bool))
    parts = got.labels, got.scores, got.explanation
    for i in range(len(x)):
        recorded.row = i
        try:
            answer = oracle.query(x[i : i + 1])
        except Refused:
            continue
        for part, shown in zip(parts, (answer.labels, answer.scores, answer.explanation), strict=True):
            if part is not None and shown is not None:
                part[i] = shown[0]
    return ClientAnswers(Answer(*parts), clean, bool(oracle.alarms))


class _Recorded:
    """The model's answers, worked out in one go: it is the guard that has to see rows one at a time."""

    def __init__(self, answer: Answer, input_shape: tuple[int, ...]) -> None:
        assert answer.scores is not None
        self._scores, self._explanation = answer.scores, answer.explanation
        self.input_shape = input_shape
        self.n_classes = answer.scores.shape[1]
        self.row = 0

    def scores(self, x: Array) -> Array:
        return self._scores[self.row : self.row + len(x)]

    def explain(self, x: Array, classes: Labels) -> Array:
        assert self._explanation is not None  # asked for only where the API explains
        return self._explanation[self.row : self.row + len(x)]


def _unexplained(clean: Answer, served: Answer) -> Flags:
    """(n,) whether the explanation that is served is not the undefended one."""
    same = [replace(a, labels=clean.labels, scores=None) for a in (clean, served)]
    return changed(*same)


def shown_distance(clean: Answer, served: Answer, n_classes: int) -> Array:
    """(n,) L1 distance of what is shown; NaN where the served row was refused.

    A score that is not shown counts as 0, a row that shows a label only as certainty of that label.
    """
    distance = abs(_shown(clean, n_classes) - _shown(served, n_classes)).sum(axis=1)
    return np.where(served.answered, distance, np.nan)


def _shown(answer: Answer, n_classes: int) -> Array:
    shown = np.zeros((len(answer), n_classes)) if answer.scores is None else np.nan_to_num(answer.scores)
    bare = np.ones(len(answer), bool) if answer.scores is None else np.isnan(answer.scores).all(axis=1)
    labels = _labels(answer)
    bare &= labels != WITHHELD
    shown[bare, labels[bare]] = 1.0
    return shown


def calibration_error(
    answers: Sequence[Answer], truths: Sequence[Labels], *, rng: np.random.Generator, bins: int = 15
) -> Estimate:
    """How far the score of the served label is from the share of times that it is right: the mean gap over
    `bins` equal slices of [0, 1], weighted by rows. Rows without a score have no say.

    Of a finite sample the error is never 0, and resampling adds to it: read the upper end as generous.
    """
    confidence, right = [], []
    for answer, true in zip(answers, truths, strict=True):
        if answer.scores is None:
            continue
        labels = _labels(answer)
        own = answer.scores[np.arange(len(answer)), np.maximum(labels, 0)]
        scored = (labels != WITHHELD) & ~np.isnan(own)
        confidence.append(own[scored])
        right.append(labels[scored] == true[scored])
    scores = np.concatenate([np.empty(0), *confidence])
    gap = np.concatenate([np.empty(0), *right]) - scores
    place = np.clip(np.ceil(scores * bins) - 1, 0, bins - 1).astype(np.int64)

    def error(rows: NDArray[np.int64]) -> float:
        return float(abs(np.bincount(place[rows], weights=gap[rows], minlength=bins)).sum() / len(rows))

    return bootstrap(error, len(gap), rng=rng, within=UNIT)


def _labels(answer: Answer) -> Labels:
    assert answer.labels is not None  # a classifier's: honest_cost refuses other tasks
    return answer.labels


def _share(hits: Sequence[Flags]) -> Estimate:
    """The share of rows, from one array for each client."""
    yes, rows = np.array([float(h.sum()) for h in hits]), np.array([float(len(h)) for h in hits])
    if 0 < yes.sum() < rows.sum() and len(hits) > 1:
        return clustered(yes, rows, unit="clients")
    return clopper_pearson(float(yes.sum()), float(rows.sum()))


def _mean(values: Sequence[Array], within: tuple[float, float]) -> Estimate:
    """The mean over rows, from one array for each client."""
    rows = sum(map(len, values))
    if rows and not any(v.any() for v in values):  # no spread to read: bound the share of rows it may happen to
        share = clopper_pearson(0, rows).high
        return Estimate(0.0, within[0] * share, within[1] * share, rows, unit="rows")
    if len(values) == 1:
        return mean_of(values[0], within=within)
    return clustered_mean(
        np.array([v.sum() for v in values]), np.array([float(len(v)) for v in values]), unit="clients", within=within
    )
