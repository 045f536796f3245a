"""The copy beside one from labels by hand, by every measure that both were graded by.

A copy may agree with the victim on no more rows than one from labels written by hand, and yet order its rows as the
victim does, which the other does not. So all measures stand side by side, and the verdict names those where the thief
is clearly ahead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from portcullis_ml.core.types import Estimate
from portcullis_ml.repetitions import across
from portcullis_ml.report.markup import Html, el, join, table
from portcullis_ml.report.measured import MEASURES
from portcullis_ml.report.numbers import percent
from portcullis_ml.report.pairs import Pair, estimate
from portcullis_ml.report.results import NO_API, Audit

__all__ = ["Line", "ahead_by", "by_measure", "compared", "said"]

LINES = {
    "agreement": "the same class as the victim, of all test rows",
    "balanced_agreement": "the same, where every class counts alike",
    "macro_f_agreement": "F score with the victim's classes as truth, mean over the classes",
    "minority_f_agreement": "the same of the class that the victim gives least often",
    "rank_correlation": "orders rows by their scores as the victim does (Spearman)",
    "auc_agreement": "scores the rows of a class above the others, with the victim's classes as truth",
    "tv_natural": "distance of its scores from the victim's (total variation; less is closer)",
    "accuracy": "the right class, of all test rows",
    "macro_f": "F score with the true classes, mean over the classes",
    "minority_f": "the same of the rarest true class",
    "calibration_error": "how far its confidence is from its accuracy (less is better)",
}
LESS = ("tv_natural", "calibration_error")  # less is a better copy
DECIMALS = ("rank_correlation", "auc_agreement", "tv_natural")  # written 0.98, not 98%
TOLD = ("rank_correlation", "minority_f_agreement", "minority_f", "tv_natural")  # named in the verdict where clear
WORDS = {
    "macro_f": "macro-F, true classes",
    "minority_f": "F score of the rarest true class",
    "tv_natural": "distance of the scores",
}


class Line(NamedTuple):
    """One measure of the strongest undefended copy, of one from labels by hand, and by how much the first is better."""

    name: str
    copy: Estimate
    own: Estimate | None
    unasked: Estimate | None
    gain: Estimate | None


def compared(audit: Audit) -> list[Line]:
    """A line for every measure of the strongest undefended copy."""
    thief, own, unasked = audit.strongest, audit.control("own_labels"), audit.control(NO_API)
    if thief is None:
        return []
    made = thief.pair.measures
    return [
        Line(name, made[name], _of(own, name), _of(unasked, name), ahead_by(thief.pair, own, name) if own else None)
        for name in LINES
        if name in made
    ]


def ahead_by(thief: Pair, own: Pair, name: str) -> Estimate | None:
    """By how much the thief's copy is better, seed by seed; None where no seed has both.

    The half width is the root of two squares: Student's t over the seeds' differences, and the half widths of both
    copies over the test rows, as if these were independent: wider than it need be, since the rows are the same.
    """
    pairs = _by_seed(thief, own, name)
    if not pairs:
        return None
    sign = -1 if name in LESS else 1
    differences = [
        Estimate(d := sign * (a.value - b.value), d - (h := _half(a, b)), d + h, a.n, unit=a.unit) for a, b in pairs
    ]
    if len(differences) == 1:
        return differences[0]
    rows = sum(e.high - e.value for e in differences) / len(differences)
    exact = [Estimate(e.value, e.value, e.value, e.n, unit=e.unit) for e in differences]
    over_seeds = across(exact)
    half = math.hypot(rows, over_seeds.high - over_seeds.value)
    return Estimate(over_seeds.value, over_seeds.value - half, over_seeds.value + half, len(pairs), unit="seeds")


def said(audit: Audit) -> str:
    """A sentence that names the other measures by which the copy is clearly ahead of labels by hand; "" without any."""
    clear = [line for line in compared(audit) if line.name in TOLD and line.name != audit.measure and _clear(line)]
    named = [f"{_words(line.name)} {_short(line.name, line.copy)} against {_short(line.name, line.own)}"
             for line in clear if line.own]  # fmt: skip
    if not named:
        return ""
    return f"The copy is also closer than labels by hand would be in these: {'; '.join(named)}."


def by_measure(audit: Audit) -> Html | None:
    """The section: a row for each measure; None where nothing was graded."""
    lines = compared(audit)
    if not lines or audit.strongest is None:
        return None
    rows = [
        [
            join([_words(line.name), el("small", LINES[line.name])], " "),
            _whole(line.name, line.copy),
            _whole(line.name, line.own),
            _gain(line),
            _whole(line.name, line.unasked),
        ]
        for line in lines
    ]
    why = f" {audit.chosen['why']}" if audit.chosen.get("name") == audit.measure and audit.chosen.get("why") else ""
    head = ["Measure", "The copy", "Labels by hand", "The copy is ahead by", "Never asking"]
    text = (
        f"The verdict goes by {_words(audit.measure)}.{why} Here is the strongest undefended copy, "
        f"that of {audit.strongest.attack}, by every measure, "
        "beside one trained on the same rows with labels by hand. How far the copy is ahead is compared seed by seed, "
        "with an interval over seeds and test rows; ✓ stands where the whole interval is above 0. Several measures are "
        "compared, so one that is barely clear may be chance."
    )
    return join([el("p", text), table(head, rows, "The copy by every measure", class_="stack")])


def _by_seed(thief: Pair, own: Pair, name: str) -> Sequence[tuple[Estimate, Estimate]]:
    one, other = (
        {int(r["cell"].get("seed", 0)): e for r in pair.done if (e := estimate(r["measures"].get(name)))}
        for pair in (thief, own)
    )
    return [(one[s], other[s]) for s in sorted(one.keys() & other.keys())]


def _half(one: Estimate, other: Estimate) -> float:
    """Of their difference, were they independent; of each the larger side."""
    return math.hypot(*(max(e.value - e.low, e.high - e.value) for e in (one, other)))


def _clear(line: Line) -> bool:
    return line.gain is not None and line.gain.low > 0


def _of(pair: Pair | None, name: str) -> Estimate | None:
    return pair.measures.get(name) if pair else None


def _words(name: str) -> str:
    return WORDS.get(name) or MEASURES.get(name) or name.replace("_", " ")


def _short(name: str, e: Estimate | None) -> str:
    return _whole(name, e).partition(" [")[0]


def _whole(name: str, e: Estimate | None) -> str:
    if e is None:
        return "not measured"
    if name not in DECIMALS:
        return percent(e, 1)
    return f"{_plain(e.value)} [{_plain(e.low)},\N{NO-BREAK SPACE}{_plain(e.high)}]"


def _plain(value: float) -> str:
    return f"{value + 0.0:.2f}".replace("-", "−")


def _gain(line: Line) -> str:
    if line.gain is None:
        return "not measured"
    scale, digits = (1, 2) if line.name in DECIMALS else (100, 1)
    value, low, high = (f"{scale * v:.{digits}f}".replace("-", "−") for v in (line.gain.value, *_ends(line.gain)))
    unit = "" if line.name in DECIMALS else " points"
    return f"{value}{unit} [{low},\N{NO-BREAK SPACE}{high}]{' ✓' if _clear(line) else ''}"


def _ends(e: Estimate) -> tuple[float, float]:
    return e.low, e.high
