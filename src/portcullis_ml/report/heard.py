"""Which attacks a detector heard, and at which query: a sentence for each defense that watches."""

from __future__ import annotations

from portcullis_ml.report.figures import alarm_words
from portcullis_ml.report.numbers import listed
from portcullis_ml.report.results import Audit
from portcullis_ml.report.sections import alarms

__all__ = ["heard"]


def heard(audit: Audit) -> list[str]:
    """ "watch(...): first alarm of papernot after 140 to 150 queries (3 of 3 seeds); none of knockoff."."""
    said = []
    for defense in audit.defenses:
        if not alarms(audit, defense):
            continue
        ran = [(a, pair) for a in audit.columns if (pair := audit.cell(a, defense)) and pair.done]
        loud = [f"{a} {alarm_words(pair)}" for a, pair in ran if any(pair.alarms)]
        silent = [a for a, pair in ran if not any(pair.alarms)]
        first = f"first alarm of {'; of '.join(loud)}" if loud else ""
        none = f"none of {listed(silent, 'or')}" if silent else ""
        if ran:
            said.append(f"{defense}: {'; '.join(filter(None, [first, none]))}.")
    return said
