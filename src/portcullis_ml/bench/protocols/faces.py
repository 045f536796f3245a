"""The 40 faces: two halves of everybody's photographs, a model of the one, and a judge that was trained on the other.

AT&T Laboratories Cambridge (Samaria, Harter. "Parameterisation of a Stochastic Model for Human Face Identification",
IEEE Workshop on Applications of Computer Vision, 1994): 40 people, ten photographs each, the classes of the models in
Fredrikson, Jha, Ristenpart (CCS 2015) and of the composition in Tramèr et al. (USENIX Security 2016).

The judge sees other photographs than the model and is of another kind: a linear support vector machine on pictures
whose pixels were brought to mean 0 and deviation 1, as a person looks past brightness and contrast.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from portcullis_ml.bench.protocols.contact_sheet import packed
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.guard import Defense, Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.randomness import Noise, derive
from portcullis_ml.core.types import Answer, Array, Estimate, Interface, Labels, Model, Request, Rows
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.measures.inversion import inversion_measures, likeness
from portcullis_ml.measures.statistics import clopper_pearson
from portcullis_ml.models.lbfgs import fit_softmax
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.privacy import CATALOG as PRIVACY

__all__ = ["Faces", "SoftmaxLearner", "Steps", "faces_of", "guard_of", "inverted", "judged"]


@dataclass(frozen=True)
class Faces:
    """The victim, the photographs that it was trained on (`own`), those of the judge (`apart`), and the judge."""

    model: Model
    own: Rows
    apart: Rows
    judge: Callable[[Array], Labels]
    interface: Interface

    @property
    def people(self) -> Labels:
        return np.arange(self.interface.n_classes)

    def quality(self) -> dict[str, Estimate]:
        """The victim's accuracy on the judge's photographs, and the judge's on the victim's."""
        assert self.own.y is not None  # photographs have a name
        assert self.apart.y is not None
        right = int((self.model.scores(self.apart.x).argmax(axis=1) == self.apart.y).sum())
        judge = int((self.judge(self.own.x) == self.own.y).sum())
        return {
            "victim_accuracy": clopper_pearson(right, len(self.apart), unit="photographs"),
            "judge_accuracy": clopper_pearson(judge, len(self.own), unit="photographs"),
        }


@dataclass(frozen=True, kw_only=True)
class SoftmaxLearner:
    """Softmax regression on pictures, by L-BFGS: the victim, and what a thief who knows its family trains."""

    iterations: int = 100
    penalty: float = 0.0  # lambda / 2 times the squared weights
    middle: float = 0.0  # taken from every pixel: .5 suits uniform points, whose pixels are around it

    name: ClassVar[str] = "softmax"

    def fit(self, x: Array, targets: Array, *, rng: np.random.Generator, start: Model | None = None) -> Model:
        """x (n, *input_shape) in [0, 1]; rows of which no share was shown are left out."""
        told = targets.sum(axis=1) > 0
        z, shares = x[told].reshape(int(told.sum()), -1) - self.middle, targets[told]
        shares = shares / shares.sum(axis=1, keepdims=True)
        w, b = fit_softmax(z, shares, penalty=self.penalty, iterations=self.iterations)
        return SoftmaxRegression(w, b - self.middle * w.sum(axis=1), input_shape=x.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Steps(Defense[None]):
    """Shows every probability as the nearest multiple of `step`, so that .05 can be tried as well as .1 and .01."""

    step: float = 0.1

    keeps_labels: ClassVar[bool] = True
    same_for_all: ClassVar[bool] = True

    def release(self, request: Request, answer: Answer, clean: Answer, state: None, noise: Noise) -> Answer:
        assert answer.scores is not None  # the protocols show probabilities
        return Answer(answer.labels, np.round(answer.scores / self.step) * self.step)


def guard_of(step: float) -> Guard | None:
    """A guard that rounds to multiples of `step`; none for 0."""
    return Guard(Steps(step=step), key=bytes(16)) if step else None


def faces_of(settings: Mapping[str, Any], seed: int, folder: str | None, device: str = "cpu") -> Faces:
    """The faces of one repetition: {"data", "shrink", "own", "victim"}; see the protocols' TOML files."""
    return _faces(json.dumps(settings, sort_keys=True), seed, folder, device)


@lru_cache(maxsize=2)
def _faces(settings: str, seed: int, folder: str | None, device: str) -> Faces:
    plan = json.loads(settings)
    data = load_dataset(plan["data"], folder)
    x, y = shrunk(np.concatenate([data.x, data.x_test]), plan["shrink"]), np.concatenate([data.y, data.y_test])
    rng = derive(seed, "photographs")
    classes = int(y.max()) + 1
    order = [rng.permutation(np.flatnonzero(y == c)) for c in range(classes)]
    first, rest = (np.concatenate([o[part] for o in order]) for part in (np.s_[: plan["own"]], np.s_[plan["own"] :]))
    own, apart = Rows(x[first], y[first]), Rows(x[rest], y[rest])
    learner = _learner(plan["victim"], device)
    model = learner.fit(own.x, np.eye(classes)[y[first]], rng=derive(seed, "victim"))
    interface = Interface(input_shape=x.shape[1:], n_classes=classes)
    return Faces(model, own, apart, _judge_of(apart), interface)


def shrunk(x: Array, by: int) -> Array:
    """(n, height, width): the mean of every square of by x by pixels."""
    n, height, width = x.shape
    if height % by or width % by:
        raise InputError(f"Pictures of {height}x{width} were expected to be divisible by {by}; choose another shrink.")
    return np.asarray(x.reshape(n, height // by, by, width // by, by).mean(axis=(2, 4)))


def _learner(described: Mapping[str, Any], device: str) -> Any:
    if "network" not in described:
        return SoftmaxLearner(**described)
    from portcullis_ml.models.torch import TorchLearner

    return TorchLearner(**described, device=device)


def _judge_of(rows: Rows) -> Callable[[Array], Labels]:
    from sklearn.svm import SVC

    machine = SVC(kernel="linear", random_state=0).fit(_even(rows.x), rows.y)
    return lambda pictures: np.asarray(machine.predict(_even(pictures)))


def _even(pictures: Array) -> Array:
    """(n, pixels), every row with mean 0 and deviation 1; a picture of one grey is 0 throughout."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(flat.std(axis=1, keepdims=True), 1e-9))


def inverted(
    attack: Mapping[str, Any], faces: Faces, *, copy: Model | None, budget: int, rounded: float
) -> tuple[Array, int, dict[str, int]]:
    """(pictures of all people, queries paid, why each descent ended and how often). `attack`: settings of mi_face.

    With a copy in hand all descend together, once for each of `steps`, and of every person the picture of which the
    copy is surest is kept: that is free. Through the API one person after another, which holds fewer rows in memory;
    whoever is not reached within the budget stays at the neutral start.
    """
    settings = dict(attack)
    steps = settings.pop("steps", [settings.pop("step", 0.1)])
    oracle = LocalOracle(faces.model, faces.interface, budget=budget, guard=guard_of(rounded))
    turns = [tuple(faces.people.tolist())] if copy is not None else [(c,) for c in faces.people.tolist()]
    pictures, why, nobody = [], list[str](), Rows(faces.own.x[:0])
    for classes in turns:
        if copy is None and oracle.left == 0:
            pictures.append(np.zeros(faces.interface.input_shape))
            why.append("the budget")
            continue
        tries = []
        for step in steps:
            unit = PRIVACY.build({"unit": "mi_face", **settings, "step": step, "classes": classes})
            tries.append(unit(oracle, Knowledge(model=copy), nobody, rng=np.random.default_rng(0)))
        best, people = np.argmin([t.notes["cost"] for t in tries], axis=0), range(len(classes))
        pictures += [tries[t].recovered[i] for i, t in zip(people, best, strict=True)]
        why += [tries[t].notes["ended_by"][i] for i, t in zip(people, best, strict=True)]
    return np.stack(pictures), oracle.queries, dict(Counter(why))


def judged(pictures: Array, faces: Faces, *, shown: int) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """Measures of a picture for every person, and the first `shown` of them for the contact sheet."""
    assert faces.own.y is not None  # photographs have a name
    x, y, people = faces.own.x, faces.own.y, faces.people
    measures = inversion_measures(pictures, people, x, y, faces.judge(pictures))
    return measures | likeness(pictures, people, x, y), {"pictures": packed(pictures[:shown])} if shown else {}
