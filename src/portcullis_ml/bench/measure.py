"""By which measure an audit's verdict goes: chosen by the task, or by whoever runs it, and named with its reason.

Where one class takes most rows, plain agreement counts whoever always answers that class as a good copy, so that the
classes count alike there. Where nearly every row has one class, the labels say next to nothing and the order of the
scores is what can be stolen. A model whose scores rank (a bank's, a search's) is graded by that order on request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from portcullis_ml.core.errors import InputError, ParameterError

__all__ = ["MEASURES", "checked_measure", "measure_of"]

MEASURES = ("agreement", "balanced_agreement", "macro_f_agreement", "minority_f_agreement", "rank_correlation",
            "auc_agreement")  # fmt: skip
UNEVEN = 1 / 3  # of the way from an even share of the rows to all of them, from which on classes count alike
FEW = 10  # rows of all classes but the most frequent: with fewer, labels say next to nothing
OLD = "Some records here are from before it was measured."

Record = Mapping[str, Any]


def checked_measure(word: str | None) -> str | None:
    """The word; ParameterError for one that is no measure."""
    if word is not None and word not in MEASURES:
        raise ParameterError("--measure", f"one of {', '.join(MEASURES)}", word)
    return word


def measure_of(
    records: Sequence[Record], asked: str | None, n_classes: int, classes: Sequence[str] | None = None
) -> dict[str, str] | None:
    """{"name", "why"} of the measure for these records; None where nothing was graded by labels.

    asked     the measure that somebody wants; InputError where a record lacks it
    classes   the classes' names
    """
    graded = [r["measures"] for r in records if r["role"] in ("attack", "control") and r["outcome"] == "done"]
    graded = [measures for measures in graded if "agreement" in measures]
    if not graded:
        return None
    if asked is not None:
        return _asked(asked, graded)
    name, why = _suited(records, graded, n_classes, classes)
    if lacking := _lacking(name, graded):
        return {"name": "agreement", "why": f"{why} {OLD} ({lacking} of {len(graded)}), so plain agreement is taken."}
    return {"name": name, "why": why}


def _asked(name: str, graded: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    if lacking := _lacking(name, graded):
        raise InputError(
            f"--measure {name} needs that figure of every copy; {lacking} of {len(graded)} have none. {OLD} "
            "Run the audit into another --out, or choose another measure."
        )
    return {"name": name, "why": "It was asked for with --measure."}


def _suited(
    records: Sequence[Record], graded: Sequence[Mapping[str, Any]], n_classes: int, classes: Sequence[str] | None
) -> tuple[str, str]:
    """(name, why) by how the victim's own classes share the test rows."""
    constant = next((m["constant"] for m in graded if m.get("constant")), None)
    if constant is None:
        return "agreement", "How often each class comes is not recorded."
    share, n = float(constant["value"]), int(constant["n"])
    most = f"the class {_most(records, classes)}"
    if round((1 - share) * n) < FEW:
        others = round((1 - share) * n)
        return "rank_correlation", (
            f"Your model gives {n - others:,} of {n:,} test rows {most}, so its labels say next to nothing, and the "
            "order of its scores is compared."
        )
    if (share - 1 / n_classes) / (1 - 1 / n_classes) >= UNEVEN:
        return "balanced_agreement", (
            f"Your model gives {share:.0%} of the test rows {most}, so plain agreement would count whoever always "
            "answers that as a good copy; here every class counts alike."
        )
    return "agreement", f"No class takes most of the test rows (the most frequent has {share:.0%})."


def _most(records: Iterable[Record], classes: Sequence[str] | None) -> str:
    """The most frequent class by its name, or "that is most frequent" where nobody knows it."""
    labels = next((found for r in records if (found := (r.get("notes") or {}).get("victim"))), None)
    if not labels:
        return "that is most frequent"
    most = max(set(labels), key=labels.count)
    return repr(classes[most] if classes else most)


def _lacking(name: str, graded: Iterable[Mapping[str, Any]]) -> int:
    """How many of the graded copies lack this measure."""
    return sum(not measures.get(name) for measures in graded)
