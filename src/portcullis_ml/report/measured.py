"""What a theft is measured by, in words: agreement where the victim answers classes, R^2 where it answers numbers."""

from __future__ import annotations

from collections.abc import Mapping

from portcullis_ml.core.types import Estimate
from portcullis_ml.report.numbers import count, percent
from portcullis_ml.report.pairs import IN_UNITS
from portcullis_ml.report.results import Audit
from portcullis_ml.report.thieves import Thief

__all__ = ["MEASURES", "constant_said", "controls_said", "loss_word", "measure_word", "reaches", "short_of", "written"]

MEASURES = {
    "agreement": "agreement",
    "balanced_agreement": "balanced agreement",
    "macro_f_agreement": "macro-F agreement",
    "minority_f_agreement": "F score of the rarest class",
    "rank_correlation": "rank correlation",
    "auc_agreement": "area under the curve",
    "agreement_uniform": "agreement on uniform points",
    "accuracy": "accuracy",
    "r2": "variance explained",
}
CONTROLS = {
    "no_api": "asks nothing and always answers the victim's most frequent class",
    "own_labels": "asks nothing and trains on the pool with the pool's own labels",
    "random_queries": "pays for uniform noise and trains the same learner on the answers",
    "plain_stranger": "pays for the pool's rows and for uniform noise, and fits a stock model to the answers",
    "shuffled": "trains on a real attack's queries with the answers permuted",
}
OF_NUMBERS = {
    "no_api": "asks nothing and always answers the mean of the victim's numbers",
    "own_labels": "asks nothing and trains on the pool with the pool's own targets",
}


def measure_word(audit: Audit) -> str:
    return MEASURES.get(audit.measure, audit.measure.replace("_", " "))


def loss_word(audit: Audit) -> str:
    """What honest clients lose behind a defense."""
    return "variance explained" if audit.numbers else "accuracy"


def controls_said(audit: Audit) -> Mapping[str, str]:
    """What each control is."""
    return CONTROLS | OF_NUMBERS if audit.numbers else CONTROLS


def constant_said(audit: Audit) -> str:
    """What someone answers who never asks."""
    return "the mean of your model's answers" if audit.numbers else "the most frequent answer"


def reaches(audit: Audit, thief: Thief, who: str, copy: Estimate | None = None) -> str:
    """ "With 600 queries a stranger reaches 84% agreement with your model [81, 87]".

    Of numbers: the share of the variance that they explain, and by how much they are off in the target's units.
    """
    e = thief.copy if copy is None else copy
    share, _, interval = percent(e).partition(" ")
    bought = f"With {count(thief.queries, 'query')} {who}"
    if not audit.numbers:
        return f"{bought} reaches {share} {measure_word(audit)} with your model {interval}"
    said = f"{bought} explains {share} of the variance of your model's answers {interval}"
    off = thief.pair.measures.get("mae")
    if off is None or thief.failed or thief.how:  # the error is that of the whole run
        return said
    return f"{said}; its answers are off by {_units(off)} on average, in the units of your target"


def short_of(audit: Audit, e: Estimate) -> str:
    """ "84% agreement", "97% of the variance"."""
    share = percent(e).split(" ")[0]
    return f"{share} of the variance" if audit.numbers else f"{share} {measure_word(audit)}"


def written(name: str, e: Estimate | None) -> str:
    """A measure for a table: a percentage, or a number in the target's units."""
    if e is None:
        return "not measured"
    return _units(e) if name in IN_UNITS else percent(e, 1)


def _units(e: Estimate) -> str:
    """ "2.1 [1.9, 2.3]"."""
    low, high = (f"{v:.3g}".replace("inf", "∞") for v in (e.low, e.high))
    return f"{e.value:.3g} [{low}, {high}]"
