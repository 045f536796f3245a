"""Out of domain: answer questions that are not of the model's domain with less, with nonsense, or not at all.

Atli, Szyller, Juuti, Marchal, Asokan. "Extraction of Complex DNN Models: Real Threat or Boogeyman?", EDSMLS 2020,
the section on detecting foreign queries (a filter in front of the model; what it flags gets its scores shuffled).

Costs the honest client   for the share of their rows that are taken for foreign: the scores (`label_only`), the right
                          label (`shuffled`, `fixed`) or the answer (`block`).
Does not stop             a thief whose rows are like the victim's own, or who learns from labels (`label_only`);
                          steps made from seed rows are flagged only where they leave the domain. One who knows of
                          `fixed` and has some rows of their own learns the permutation from them and undoes it.

What is foreign is said by
    trained      a filter that was trained for it (recipe `domain_filter`)
    msp          the model's own doubt, one minus the greatest probability of its undefended answer (the maximum softmax
                 probability: Hendrycks, Gimpel, ICLR 2017), which needs no training and no second model
    odin         the same after a step along the victim's gradient, at a temperature (Liang, Li, Srikant, ICLR 2018;
                 recipe `odin_step`)
    mahalanobis  the distance to the nearest class in the victim's last features (Lee et al., NeurIPS 2018; recipe
                 `class_means`)
The last two run the victim's own network, which must be one in PyTorch, and set their scale by the owner's rows: 0.5 is
crossed by the share of them that the recipe says, 5% unless told otherwise.

`shuffled` is a permutation keyed by the question: who asks again gets the same nonsense, there is no one permutation
that undoes it, and a label is right as often as by chance. `fixed` is one permutation for all questions, keyed by the
guard alone, in which no class keeps its place: of the flagged answers no label that was right stays right, so that a
copy can fall below chance. Audited with `block`, an attack ends at its first flagged row, as at any refusal; a thief
who goes on asking keeps the rows that pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import numpy as np

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.recipes import PREPARED, Recipe, prepared
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import WITHHELD, Answer, Array, Interface, Labels, Request, Reveals
from portcullis_ml.models.artifacts import unpack_arrays
from portcullis_ml.models.blocks import BlockModel
from portcullis_ml.models.dense import DenseModel
from portcullis_ml.models.foreign import foreign_score

__all__ = ["OutOfDomain"]

TAKES = {"recipe": "domain_filter", "odin_step": {"score": "odin"}, "class_means": {"score": "mahalanobis"}}
FILE = "filter.safetensors"
MSP_NEEDS = "out_of_domain(score=msp) needs a model that gives probabilities; this one gives labels alone."
SCORES = ("trained", "msp", "odin", "mahalanobis")
RECIPES = {
    "trained": ("domain_filter", "trained"),
    "odin": ("odin_step", "fitted"),
    "mahalanobis": ("class_means", "fitted"),
}


@dataclass(frozen=True, kw_only=True)
class OutOfDomain(Defense[None]):
    filter: Artifact | Recipe | None = field(default=None, metadata=TAKES)  # none for msp
    then: Literal["label_only", "shuffled", "fixed", "block"] = "shuffled"  # what a flagged question gets
    threshold: float = 0.5  # a question is flagged above this share of being foreign, or of doubt; higher flags fewer
    score: Literal["trained", "msp", "odin", "mahalanobis"] = "trained"  # what says how foreign a question is
    _score: Callable[[Array], Array] | None = field(default=None, init=False, compare=False, repr=False)  # once bound
    _classes: int = field(default=0, init=False, compare=False, repr=False)  # of the API, once bound

    name: ClassVar[str] = "out_of_domain"

    def __post_init__(self) -> None:
        check(self, "score", f"one of {', '.join(SCORES)}", lambda v: v in SCORES)
        if self.score == "msp":
            check(self, "filter", "left out with score=msp, which needs none", lambda v: v is None)
        else:
            recipe, done = RECIPES[self.score]
            said = f'what {recipe} has {done}: "FOLDER", or filter={recipe} in an audit'
            check(self, "filter", said, lambda v: isinstance(v, PREPARED))
        words = ("label_only", "shuffled", "fixed", "block")
        check(self, "then", f"one of {', '.join(words)}", lambda v: v in words)
        check(self, "threshold", "in (0, 1)", lambda v: 0 < v < 1)

    @property
    def keeps_labels(self) -> bool:  # type: ignore[override]  # it depends on a setting
        return self.then == "label_only"

    @property
    def heavy(self) -> bool:  # type: ignore[override]  # it depends on a setting
        return self.score != "msp"

    def bind(self, interface: Interface) -> Self:
        if interface.task != "classification":
            raise NotApplicable("out_of_domain needs an API that predicts classes; this one does regression.")
        if self.score == "msp":
            if interface.reveals is Reveals.LABELS:
                raise NotApplicable(MSP_NEEDS)
            return bound(self, _classes=interface.n_classes)
        score = (
            self._filter(interface) if self.score == "trained" else foreign_score(self, "filter", self.score, interface)
        )
        return bound(self, _score=score, _classes=interface.n_classes)

    def _filter(self, interface: Interface) -> Callable[[Array], Array]:
        """The trained filter: rows -> (n,) the probability that they are foreign."""
        if interface.missing:
            raise NotApplicable("out_of_domain needs whole rows; this API takes rows with inputs left out.")
        files = prepared(self, "filter").files
        if FILE not in files:
            raise InputError(f"out_of_domain.filter must hold {FILE}, as domain_filter writes it; it does not.")
        model = DenseModel(unpack_arrays(files[FILE], f"out_of_domain.filter: {FILE}"))
        if model.input_shape != interface.input_shape or model.n_classes != 2:
            raise InputError(
                f"out_of_domain.filter must be a filter of rows {interface.input_shape} that knows two sides, own and "
                f"outside; this one is of {model.input_shape} and knows {model.n_classes}. Prepare one for this model."
            )
        blocks = BlockModel(model)
        return lambda x: blocks.scores(x)[:, 1]

    def release(self, request: Request, answer: Answer, clean: Answer, state: None, noise: Noise) -> Answer:
        if answer.labels is None:
            raise NotApplicable("out_of_domain needs an API that predicts classes; this one does regression.")
        flagged = ~(self._foreign(request.x, clean) <= self.threshold)
        if not flagged.any():
            return answer
        if self.then == "block":
            return answer.withhold(flagged)
        labels, scores, explanation = answer.labels.copy(), _copied(answer.scores), _copied(answer.explanation)
        if explanation is not None:
            explanation[flagged] = np.nan
        if scores is not None and self.then == "label_only":
            scores[flagged] = np.nan
        if self.then in ("shuffled", "fixed"):
            goes_to = self._permuted(request.x[flagged], noise)
            labels[flagged] = _exchanged(labels[flagged], goes_to)
            if scores is not None:
                np.put_along_axis(moved := scores[flagged], goes_to, scores[flagged], axis=1)
                scores[flagged] = moved
        return Answer(labels, scores, explanation)

    def _foreign(self, x: Array, clean: Answer) -> Array:
        """(n,) how foreign rows are, from 0 to 1."""
        if self.score != "msp":
            assert self._score is not None  # the guard binds its stages
            return self._score(x)
        if clean.scores is None:
            raise NotApplicable(MSP_NEEDS)
        return np.asarray(1 - clean.scores.max(axis=1))

    def _permuted(self, x: Array, noise: Noise) -> Labels:
        """(n, classes) which class each class becomes for rows x."""
        if self.then == "shuffled":
            return np.argsort(noise.uniform(x, self._classes), axis=1)
        order = np.argsort(noise.uniform(np.zeros((1, 1)), self._classes)[0])  # of the key alone
        goes_to = np.empty_like(order)
        goes_to[order] = np.roll(order, -1)  # a cycle through all classes, so none stays where it is
        return np.broadcast_to(goes_to, (len(x), self._classes))


def _copied(values: Array | None) -> Array | None:
    return None if values is None else values.copy()


def _exchanged(labels: Labels, goes_to: Labels) -> Labels:
    """Labels (n,) after class c of row i has become class goes_to[i, c]; withheld ones stay so."""
    return np.where(labels == WITHHELD, WITHHELD, goes_to[np.arange(len(labels)), labels])
