"""The section that says when the alarms came, and how often honest clients set them off."""

from __future__ import annotations

from portcullis_ml.report import figures
from portcullis_ml.report.markup import disclosure, el, join, table
from portcullis_ml.report.numbers import percent
from portcullis_ml.report.results import Audit
from portcullis_ml.report.sections import Section, alarms, honest, named, number, ordered, words

__all__ = ["detection"]

WHY_LATER = (
    "A track that goes on behind its alarm is no mistake. An attack sends many rows in one request, and the alarm "
    "falls on one of them: the rows before it are answered as ever, those behind it in the same request are paid for "
    "and not answered, and the next request is refused."
)


def detection(audit: Audit) -> Section:
    """When the alarms came, and how often honest clients set them off."""
    watched = [d for d in audit.defenses if alarms(audit, d)]
    if not watched:
        return None
    panels = [
        el("figure", el("figcaption", named(d), el("small", _false(audit, d))),
           figures.timeline(audit, d, f"alarms-{n}"))
        for n, d in enumerate(watched)
    ]  # fmt: skip
    rows = [
        [f"{a}, {words(d)}", figures.alarm_words(p),
         ", ".join("none" if r is None else f"{r:,}" for r in p.alarms), f"{p.queries:,}"]
        for (a, d), p in ordered(audit) if d in watched
    ]  # fmt: skip
    false = [[named(d), *number(honest(audit, d, "false_alarm"))] for d in watched]
    return join([
        el("p", "Each mark is the first alarm of one run, at the query that set it off; the gray track ends with the "
           "last query that was paid for. An alarm that never comes is a thief who leaves unseen."),
        el("p", WHY_LATER) if any(figures.late_words(p) for (_, d), p in ordered(audit) if d in watched) else None,
        el("div", panels, class_="panels"),
        disclosure("Numbers behind the timelines",
            table(["Attack and defense", "First alarm", "By seed", "Queries paid"], rows, "First alarms"),
            table(["Defense", "False alarms", "Interval", "n"], false, "Chunks of honest rows with an alarm")),
    ])  # fmt: skip


def _false(audit: Audit, defense: str) -> str:
    """How often honest clients set this off, by chunks of their rows or else by clients."""
    for measure, noun in (("false_alarm", "chunks"), ("flagged", "clients")):
        if e := honest(audit, defense, measure):
            n = (
                f"chunks of 50 rows (n = {e.n:,} {e.unit})"
                if (noun, e.unit) == ("chunks", "clients")
                else f"{e.n:,} {noun}"
            )
            return f"honest clients: false alarms in {percent(e, 1)} of {n}"
    return "honest clients: not measured"
