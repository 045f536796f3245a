"""DeepDefense: each question is answered, and explained, by another model whose gradients lead a thief elsewhere.

Lee, Han, Lee. "Model Stealing Defense against Exploiting Information Leak through the Interpretation of Deep Neural
Nets", IJCAI 2022, after its author's talk: the sections on gradient misdirection, on learning the misdirection model
and on sparse layer selection.

Costs the honest client   probabilities far from the model's own, with the most likely `k` classes in their order;
                          explanations whose order is kept nearly, not their values, and of Gradient x Input on large
                          pictures not even that; a search by gradient descent for every new question. Labels never
                          change.
Does not stop             whoever reads labels, or the order of the first classes. One who has this defense and the
                          victim's weights has the misdirection models as well.

The misdirection model of a question starts from the victim's weights and makes the gradients of the predicted class's
logit orthogonal to the victim's, below and above the layer that is explained; hinges keep both orders. Of the layers'
gradients only those are turned that have `sensitivity` per cent of all sensitivity together. The talk gives none of the
weights, steps and rates: those here were chosen by how far gradients turn on scikit-learn's digits and on 16 flowers of
no test set, before any thief was run.

Its answer is a function of the canonical question, and is remembered. Put it first: it takes the place of what stages
before it made of the scores. Where `explanation` is "none" explanations are withheld, and scores alone are misdirected.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import numpy as np

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.recipes import PREPARED, Recipe, prepared
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import WITHHELD, Answer, Interface, Request
from portcullis_ml.defenses._misdirecting import Answers, Misdirecting, misdirecting
from portcullis_ml.defenses._poisoned import replaced, whole_rows

__all__ = ["DeepDefense"]

KINDS = ("grad_cam", "relevance_cam", "gradient_x_input", "none")
APART = 0.01  # how far a probability of the artifact's network may be from the served model's


@dataclass(frozen=True, kw_only=True)
class DeepDefense(Defense[None]):
    network: Artifact | Recipe = field(metadata={"recipe": "misdirection"})  # what `misdirection` has made
    explanation: Literal["grad_cam", "relevance_cam", "gradient_x_input", "none"] = "grad_cam"  # how the API explains
    layer: str | None = None  # the layer that a class activation map is of, as the API's explainer has it
    sensitivity: float = 90.0  # per cent of it in the layers whose gradients are turned; 90, 70 or 50 in the talk
    k: int = 3  # the most likely classes, whose order is kept
    alpha: float = 0.5  # the weight of the gradient below the explained layer; that above has the rest
    class_weight: float = 1.0  # of the order of classes in the loss
    map_weight: float = 3.0  # of the order of an explanation's places in the loss
    steps: int = 20  # of gradient descent for a question, at most
    lr: float = 0.05  # the length of a step, as a share of the weights'
    _model: Misdirecting | None = field(default=None, init=False, compare=False, repr=False)  # once bound

    name: ClassVar[str] = "deep_defense"
    keeps_labels: ClassVar[bool] = True
    heavy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, "network", 'what misdirection has made: "FOLDER"', lambda v: isinstance(v, PREPARED))
        check(self, "explanation", f"one of {', '.join(KINDS)}", lambda v: v in KINDS)
        check(self, "layer", "a layer's name, or None", lambda v: v is None or isinstance(v, str))
        check(self, "sensitivity", "a number above 0 and at most 100", lambda v: 0 < v <= 100)
        check(self, "k", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "alpha", "a number in [0, 1]", lambda v: 0 <= v <= 1)
        for weight in ("class_weight", "map_weight"):
            check(self, weight, "a number of at least 0", lambda v: 0 <= v < np.inf)
        check(self, "steps", "an int in [1, 1000]", lambda v: isinstance(v, int) and 1 <= v <= 1000)
        check(self, "lr", "a number above 0 and at most 1", lambda v: 0 < v <= 1)

    def bind(self, interface: Interface) -> Self:
        if interface.task != "classification":
            raise NotApplicable(f"{self.name} needs an API that predicts classes; this one does regression.")
        if interface.missing:
            raise NotApplicable(f"{self.name} needs whole rows; this API takes rows with inputs left out.")
        if self.explanation != "none" and not interface.explains:
            raise NotApplicable(
                f"{self.name} needs an API that explains its answers, by {self.explanation}; this one has none. Take "
                "explanation=none to misdirect probabilities alone."
            )
        from portcullis_ml.models.misdirection import Descent

        prepared(self, "network")
        assert isinstance(self.network, Artifact)  # `prepared` says so
        names = ("k", "alpha", "class_weight", "map_weight", "steps", "lr")
        how = Descent(**{name: getattr(self, name) for name in names})
        where = f"{self.name}.network"
        model = misdirecting(self.network, where, self.explanation, self.layer, float(self.sensitivity), how)
        wanted, given = (interface.input_shape, interface.n_classes), (model.input_shape, model.n_classes)
        if wanted != given:
            raise InputError(
                f"{where} must take rows of {wanted[0]} and know {wanted[1]} classes; this one takes {given[0]} and "
                f"knows {given[1]}. Prepare one for this model."
            )
        return bound(self, _model=model)

    def shown(self, interface: Interface) -> Interface:
        return interface if self.explanation != "none" else interface.revealing(explains=False)

    def release(self, request: Request, answer: Answer, clean: Answer, state: None, noise: Noise) -> Answer:
        whole = whole_rows(self.name, answer)
        if self.explanation == "none":
            answer = Answer(answer.labels, answer.scores)
        assert answer.labels is not None  # `whole_rows` says so
        assert clean.labels is not None
        rows = (answer.labels != WITHHELD) & (answer.labels == clean.labels)
        if not rows.any():
            return answer
        assert self._model is not None  # the guard binds its stages
        said = self._model(request.x[rows], noise.quantum)
        self._agrees(said, clean.take(rows))
        finite = np.isfinite(said.scores).all(axis=1)  # a row of NaN or of huge numbers may have no answer
        same = finite & (said.scores.argmax(axis=1) == clean.labels[rows])  # a tie may fall otherwise when rounded
        rows[rows] = same
        said = Answers(said.own[same], said.scores[same], said.explanation[same])
        shown = replaced(answer, whole & rows, said.scores[whole[rows]]) if (whole & rows).any() else answer
        if shown.explanation is None:
            return shown
        return replace(shown, explanation=self._explained(shown.explanation, rows, said))

    def _agrees(self, said: Answers, clean: Answer) -> None:
        """InputError where the artifact's network is not the model that is served."""
        if clean.scores is None:
            return
        known = np.isfinite(clean.scores).all(axis=1)
        if (np.abs(said.own - clean.scores)[known] > APART).any():
            raise InputError(
                f"{self.name}.network was expected to answer as the model does; it gives other probabilities. Prepare "
                "one for this model."
            )

    def _explained(self, shown: np.ndarray, rows: np.ndarray, said: Answers) -> np.ndarray:
        if shown.shape[1:] != said.explanation.shape[1:]:
            raise InputError(
                f"{self.name} was expected to explain as the API does, in shape {shown.shape[1:]}; {self.explanation} "
                f"gives {said.explanation.shape[1:]}. Name the API's explainer and layer, without upsampling."
            )
        explanation = shown.copy()
        explanation[rows] = said.explanation
        return explanation
