"""The audit of whoever brings nothing: a scene in which every part of the tool has something to say, within minutes.

The victim is a softmax regression of scikit-learn's digits, whose weights can be solved for with 65 exact answers, one
for each of 64 pixels and one more. The thief holds as many pictures, so that labels by hand cost as much as the exact
attack asks. Beside it run an attack on natural questions and one on synthetic ones, which a detector hears. The
defenses are one that hides what the exact attack needs (label only, always tried), one that changes every score and
hides nothing (temperature), and the detector. The scene was chosen, the figures were not: docs/reading-the-report.md
says what was looked at.
"""

from __future__ import annotations

from dataclasses import replace

from portcullis_ml.bench.experiment import ExperimentSpec, has_torch
from portcullis_ml.bench.run_audit import AuditOptions

__all__ = ["showcase"]

VICTIM = "sklearn(c=1.0)"  # scikit-learn's own strength
PIXELS = 64
EXACT = PIXELS + 1  # queries that determine the weights, and the thief's pictures
BUDGETS = (EXACT, 300)
ATTACKS = ("equation_solving", "knockoff", "papernot" if has_torch() else "copycat")
DEFENSES = ("temperature", "watch(detector=prada_normality, then=block)")


def showcase(options: AuditOptions) -> AuditOptions:
    """The options with the scene filled in where nothing was said of the victim, the thief or the defenses; otherwise
    as they are."""
    spec = options.spec
    same = ("folder", "device", "cache", "rows", "data")  # what does not make it somebody's own audit
    plain = replace(ExperimentSpec(), **{name: getattr(spec, name) for name in same})
    chosen = (
        options.attacks, options.budgets, options.deployed, options.privacy, options.then, options.marks,
        options.learner, options.epochs, options.regimes != ("matched",), options.transfer,
    )  # fmt: skip
    if spec != plain or any(chosen) or options.defenses is not None or options.answers != "probs" or options.decimals:
        return options
    scene = replace(spec, trained=VICTIM, rows=EXACT)
    budgets = BUDGETS[:1] if options.quick else BUDGETS
    return replace(options, spec=scene, attacks=ATTACKS, defenses=DEFENSES, budgets=budgets)
