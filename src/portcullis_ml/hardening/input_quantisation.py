"""Input quantisation: a victim that sees its inputs in a few levels only, so that small steps change nothing.

Khalid et al. "QuSecNets: Quantization-based Defense Mechanism for Securing Deep Neural Network against Adversarial
Attacks", IOLTS 2019, the sections on constant and on trainable quantisation.

Threat model   adversarial examples of small steps, and probing by steps that stay within a level, such as finite
               differences or a Jacobian's smallest ones.
Does not stop  extraction. The levels are part of the function that a copy learns, and natural rows teach it as well as
               before; a thief who takes larger steps, or finds the borders between levels, loses nothing. An
               adversarial example made on a copy without levels may still cross.
Cost           a training like any other; honest answers lose what the lost digits of their inputs were worth. Where
               many inputs lie near a border between levels, small noise changes more answers than without levels.

The cuts between levels lie evenly over the range of the victim's own rows (the constant levels of the paper), or start
there and are trained with the weights (`trained`). It is here so that its effect can be measured: do not choose it
against theft.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from portcullis_ml.core.recipes import Hardening
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Learner, Model, Rows
from portcullis_ml.hardening._given import network_learner, several_classes
from portcullis_ml.models.victims import fit_watched

__all__ = ["InputQuantisation"]


@dataclass(frozen=True, kw_only=True)
class InputQuantisation(Hardening):
    levels: int = 4  # of every input; fewer hide larger steps and cost more accuracy
    trained: bool = False  # whether the cuts between levels are trained; else they lie evenly

    name: ClassVar[str] = "input_quantisation"
    needs_outside: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self, "levels", "an int in [2, 256]", lambda v: isinstance(v, int) and 2 <= v <= 256)
        check(self, "trained", "True or False", lambda v: isinstance(v, bool))

    def fit(
        self,
        given: Learner,
        rows: Rows,
        outside: Array | None,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None],
    ) -> Model:
        """A TorchModel of the learner's network behind a layer of levels."""
        classes, given = several_classes(self.name, rows), network_learner(self.name, given)
        kind = "trained_" if self.trained else ""
        learner = replace(given, network=f"quantised_{self.levels}_{kind}{given.network}")
        return fit_watched(learner, rows.x, np.eye(classes)[rows.y], rng=rng, watch=watch)
