"""The section that sets what honest clients lose against what thieves keep."""

from __future__ import annotations

from portcullis_ml.report import figures
from portcullis_ml.report.markup import el, join, table
from portcullis_ml.report.measured import written
from portcullis_ml.report.numbers import percent, points
from portcullis_ml.report.results import Audit
from portcullis_ml.report.sections import Section, honest, named

__all__ = ["cost"]

LOST = (("labels_changed", "Labels changed"), ("tv", "Probabilities moved"), ("refused", "Rows refused"))
LOST_NUMBERS = (("moved", "Answers moved, in units"), ("refused", "Rows refused"))


def cost(audit: Audit) -> Section:
    """What honest clients pay for what the thief is denied."""
    plotted = figures.pareto(audit, "pareto")
    if plotted is None:
        return None
    drawing, letters = plotted
    names = dict((d, letter) for letter, d in letters)
    lost = LOST_NUMBERS if audit.numbers else LOST
    rows = [
        [join([el("b", names.get(d, ""), class_="letter"), named(d)], "\N{NO-BREAK SPACE}"),
         points(loss) if (loss := audit.cost(d)) else "not measured",
         *(written(measure, honest(audit, d, measure)) for measure, _ in lost),
         percent(w.copy) if (w := audit.worst(d)) else "no copy"]
        for d in audit.defenses
    ]  # fmt: skip
    first = "Variance explained lost" if audit.numbers else "Accuracy lost"
    head = ["Defense", first, *(title for _, title in lost), "Worst theft"]
    return join([
        el("p", "Further left is cheaper for honest clients, further down holds the thief better. Round marks on the "
           "step are defenses that no other one beats at both; square ones are beaten. Every defense stands with its "
           "worst attacker."),
        el("figure", drawing),
        table(head, rows, "Utility against theft", class_="stack"),
    ])  # fmt: skip
