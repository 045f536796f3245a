"""Hardness: a thief's questions are harder or easier for the model than honest ones, taken a hundred at a time.

Sadeghzadeh et al. "HODA: Hardness-Oriented Detection of Model Extraction Attacks", submitted to ICLR 2022, the
sections on the hardness of samples and on detection by the distance of histograms.

Costs the honest client   an alarm where their rows come from another distribution than the owner's rows; eleven passes
                          of a small network a question, which delay every answer.
Defaults hold for         clients whose rows are drawn as the owner's were, one by one; calibrate on your own clients.
Does not see              a thief whose rows are like the victim's own; one who mixes enough of those in; whoever asks
                          less than one window from every account.

`training_steps` keeps eleven sub-models of one training. A question's hardness is the first of them from which on all
give the same label. Every `window` questions of a client make a histogram (the window is the recipe's setting), and the
suspicion is its distance to the benign one, one minus Pearson's correlation, divided by the greatest distance of
40,000 benign users: 1 is as far as they came. It holds until the next window is full. Eleven counters are all that is
kept of a client, so a question that is asked again counts again. Nothing but the questions is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.guard import Detector
from portcullis_ml.core.recipes import PREPARED, Recipe, prepared
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import Answer, Array, Interface, Request
from portcullis_ml.models.artifacts import unpack_arrays
from portcullis_ml.models.hardness import STEPS, SubModels, distances

__all__ = ["Hardness", "Window"]

FILE = "steps.safetensors"
LEAST = 1e-6  # a greatest benign distance below this counts as this: all benign users alike would make any other loud


@dataclass
class Window:
    """One client's questions of every hardness since the last verdict, and that verdict."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(STEPS, np.int64))
    suspicion: float = float("nan")


@dataclass(frozen=True)
class _Benign:
    models: SubModels
    histogram: Array
    greatest: float
    window: int


@dataclass(frozen=True, kw_only=True)
class Hardness(Detector[Window]):
    steps: Artifact | Recipe = field(metadata={"recipe": "training_steps"})  # what `training_steps` has trained
    threshold: float = 1.0  # in greatest benign distances; lower alarms sooner and more often falsely
    _benign: _Benign | None = field(default=None, init=False, compare=False, repr=False)  # once bound

    name: ClassVar[str] = "hardness"
    code: ClassVar[str] = "HARDNESS_SHIFTED"
    means: ClassVar[str] = "The questions are harder or easier for the model than its owner's own rows are."
    heavy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, "steps", 'what training_steps has trained: "FOLDER"', lambda v: isinstance(v, PREPARED))
        check(self, "threshold", "a number above 0", lambda v: 0 < v < np.inf)

    def bind(self, interface: Interface) -> Self:
        if interface.task != "classification":
            raise NotApplicable("hardness needs an API that predicts classes; this one does regression. Leave it out.")
        if interface.missing:
            raise NotApplicable("hardness needs whole rows; this API takes rows with inputs left out.")
        files = prepared(self, "steps").files
        if FILE not in files:
            raise InputError(f"hardness.steps must hold {FILE}, as training_steps writes it; it does not.")
        arrays = unpack_arrays(files[FILE], f"hardness.steps: {FILE}")
        models = SubModels(arrays)
        if models.input_shape != interface.input_shape:
            raise InputError(
                f"hardness.steps must be of rows {interface.input_shape}; these are of {models.input_shape}. "
                "Prepare some for this model."
            )
        try:
            greatest, window = float(arrays["greatest"][0]), int(arrays["window"][0])
            benign = _Benign(models, arrays["benign"].reshape(STEPS), max(greatest, LEAST), window)
        except (KeyError, ValueError, IndexError) as error:
            raise InputError(f"hardness.steps lacks the benign histogram ({error}). Prepare it again.") from error
        return bound(self, _benign=benign)

    def start(self) -> Window:
        return Window()

    def suspicion(self, state: Window) -> float:
        return state.suspicion

    def update(self, state: Window, request: Request, answer: Answer) -> Array:
        if answer.labels is None:
            raise NotApplicable("hardness needs an API that predicts classes; this one does regression. Leave it out.")
        assert self._benign is not None  # the guard binds its stages
        suspicion = np.empty(len(request))
        for i, step in enumerate(self._benign.models.hardness(request.x).tolist()):
            state.counts[step] += 1
            if state.counts.sum() == self._benign.window:
                away = distances(state.counts[None], self._benign.histogram)[0]
                state.suspicion = float(away) / self._benign.greatest
                state.counts[:] = 0
            suspicion[i] = state.suspicion
        return suspicion
