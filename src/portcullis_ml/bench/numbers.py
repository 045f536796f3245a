"""An audit of a victim that answers numbers: what it tries by itself, and what needs classes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from portcullis_ml.bench.experiment import Experiment
from portcullis_ml.bench.named import NONE, GuardSpec, by_name, guard_named
from portcullis_ml.catalog import resolve
from portcullis_ml.core.errors import InputError, NotApplicable

if TYPE_CHECKING:
    from portcullis_ml.bench.grid import Plan

__all__ = ["check_numbers", "deployed_guard", "numbers_guards"]

PART = 0.1  # of the deviation of the victim's answers: about so far are answers moved by the defenses tried by default
MOST = 12  # decimals that rounding takes, before or behind the point
ASKED = 1000  # test rows whose answers are looked at


def check_numbers(options: Any) -> None:
    """InputError for what an audit of numbers cannot do, each in a sentence."""
    asked = {
        "--measure": options.measure,
        "--privacy": options.privacy,
        "--marks": options.marks,
        "--then": options.then,
    }
    for option, words in (asked | {"--transfer": options.transfer}).items():
        if words:
            raise InputError(f"{option} needs a victim that predicts classes; this one answers numbers. Leave it out.")
    if options.answers != "probs":
        raise InputError(
            f"--answers {options.answers} hides scores behind labels; this victim answers one number and no label. "
            "Leave --answers out, or say --decimals."
        )
    unit = (options.named_learner or {}).get("unit")
    if unit and not getattr(resolve(unit), "numbers", False):
        raise InputError(
            f"--learner {options.learner} learns classes; this victim answers numbers. Leave it out, or take "
            "auto_numbers."
        )


def numbers_guards(options: Any, experiment: Experiment) -> dict[str, GuardSpec]:
    """The defenses that were named, or rounding and noise about a tenth of the deviation of the victim's answers, and a
    quota of half the budget."""
    if options.defenses is None:
        words = [*_usual(experiment), *([options.deployed] if options.deployed else [])]
        return by_name(dict.fromkeys(words), guard_named)
    return dict(options.named_guards)


def deployed_guard(options: Any, plan: Plan) -> str:
    """The guard in use: the one named, or the last of those that are tried."""
    return options.deployed or next(reversed(list(plan.defenses)), NONE)


def _usual(experiment: Experiment) -> list[str]:
    """Rounding to about a tenth of the deviation of the victim's answers, and noise of that size."""
    answers = experiment.model.scores(experiment.test_x[:ASKED])[:, 0]
    top = float(abs(answers).max())
    spread = top * float((answers / top).std()) if top else 0.0
    size = PART * spread
    if not math.isfinite(size) or size <= 0:
        raise NotApplicable("The victim answers all test rows alike, so no size of a defense fits them.")
    decimals = max(-MOST, min(MOST, -round(math.log10(size))))
    return [
        f"rounding(decimals={decimals})",
        f"noise(eps={size:.3g})",
        "watch(detector=prada_normality, then=log)",
    ]
