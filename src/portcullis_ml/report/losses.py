"""What honest clients lose behind a defense, from the records of one who asks through it."""

from __future__ import annotations

from portcullis_ml.core.types import Estimate
from portcullis_ml.report.pairs import Pair

__all__ = ["accuracy_lost", "most_lost"]


def accuracy_lost(pair: Pair | None, *, defended: bool) -> Estimate | None:
    """Accuracy, or variance explained, that an honest client loses, as a fraction; None where it was not measured.

    Where the records hold the two accuracies and not their difference: they were measured on the same
    rows, so the loss is never more than the labels changed.
    """
    if not defended and pair is not None and pair.measures:
        return Estimate(0.0, 0.0, 0.0, max(p.n for p in pair.measures.values()), unit="rows")
    for drop in ("accuracy_drop", "r2_drop"):
        if pair is not None and drop in pair.measures:
            return pair.measures[drop]
    if pair is None or not {"utility", "accuracy"} <= set(pair.measures):
        return None
    kept, full, moved = pair.measures["utility"], pair.measures["accuracy"], pair.measures.get("labels_changed")
    cap = moved.high if moved else 1.0
    loss = full.value - kept.value
    low, high = max(full.value - kept.high, -cap), min(full.value - kept.low, cap)
    return Estimate(loss, min(low, loss), max(high, loss), kept.n, level=kept.level, unit=kept.unit)


def most_lost(pair: Pair | None, cost: Estimate | None) -> float | None:
    """What honest clients may lose at most, the upper end of the interval, as a fraction.

    Accuracy, or where that was not measured the labels changed; or the rows refused, where those are more. None where
    nothing was measured.
    """
    measures = pair.measures if pair else {}
    found = [cost or measures.get("labels_changed"), measures.get("refused")]
    return max((e.high for e in found if e), default=None)
