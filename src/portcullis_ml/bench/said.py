"""What an audit's meta data say of its victim, its thieves and what was not tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portcullis_ml.bench.experiment import Experiment
from portcullis_ml.bench.grid import Plan
from portcullis_ml.defenses import CATALOG as DEFENSES

__all__ = ["how_right", "left_out", "thief_said", "without_labels"]


def how_right(honest: Mapping[str, Any] | None, numbers: bool) -> dict[str, Any]:
    """The victim's accuracy, or of numbers its R^2 of the true targets."""
    kept, measured = ("r2", "victim_r2") if numbers else ("accuracy", "accuracy")
    return {kept: honest["measures"].get(measured) if honest else None}


def left_out(options: Any, numbers: bool) -> list[str]:
    """A sentence about the defenses that would have been tried by themselves with outside rows."""
    if options.defenses is not None or options.facts["outside"] or numbers:
        return []
    more = DEFENSES.default_words(options.facts | {"outside": True, "train": True})
    words = [word for word in more if word not in options.guards]
    return [f"With outside rows (--outside, and --train) these would be tried, too: {', '.join(words)}."]


def thief_said(plan: Plan) -> str:
    learner = plan.learner or {}
    if str(learner.get("unit")).endswith((":AutoLearner", ":AutoPictures", ":NumbersLearner")):
        return "Every thief chooses what to train by answers set aside, unless they follow their copy's gradients."
    if "backbone" in learner:
        return f"Every thief who needs a learner starts from {learner['backbone']} ({learner['train']})."
    kind = learner.get("network") or learner.get("estimator") or learner.get("unit")
    effort = f" for {learner['epochs']} epochs" if "epochs" in learner else ""
    return f"Every thief who needs a learner trains {kind}{effort}."


def without_labels(experiment: Experiment) -> list[str]:
    """A sentence where nobody can say what the pool's own labels are worth."""
    if experiment.pool is None or experiment.pool_labels is not None:
        return []
    kind = "targets" if experiment.numbers else "labels of the victim's classes"
    return [f"The control own_labels is not applicable: the pool has no {kind}."]
