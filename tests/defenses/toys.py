"""Answers, a detector that counts and a filter of what is foreign, for the tests of defenses."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.core.artifacts import Artifact, Contents
from portcullis_ml.core.guard import Detector
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.recipes import Recipe
from portcullis_ml.core.types import Answer, Array, Interface, Request, Rows
from portcullis_ml.defenses import CATALOG
from portcullis_ml.models.artifacts import pack_arrays, write_artifact
from portcullis_ml.models.torch import TorchLearner
from portcullis_ml.recipes import CATALOG as RECIPES
from portcullis_ml.recipes.class_means import ClassMeans
from portcullis_ml.recipes.odin_step import OdinStep

__all__ = [
    "API",
    "REQUIRED",
    "VARIANTS",
    "Count",
    "Tally",
    "answer_to",
    "explained",
    "noise",
    "rows",
    "same",
    "toy_filter",
    "toy_misdirection",
    "toy_misinformation",
    "toy_scores",
    "toy_surrogate",
]

API = Interface(input_shape=(4,), n_classes=5)


def rows(n: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((n, 4))


def answer_to(x: Array) -> Answer:
    """The undefended answer of a fixed softmax model with five classes, some of them confident."""
    weights = np.random.default_rng(1).normal(size=(4, 5)) * 4
    logits = (x[:, :, None] * weights).sum(axis=1)  # a matrix product's last bits depend on the batch
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Answer.of(scores / scores.sum(axis=1, keepdims=True), API)


def explained(x: Array) -> Answer:
    """The same answer with an explanation of shape (2, 2) for each row."""
    return replace(answer_to(x), explanation=np.sin(x + answer_to(x).labels[:, None]).reshape(len(x), 2, 2))


@functools.cache
def toy_filter() -> Artifact:
    """A filter that takes rows for foreign whose inputs sum to more than 2: about half of `rows`."""
    arrays = {
        "mean": np.full(4, 0.5),
        "deviation": np.ones(4),
        "w0": np.array([np.full(4, -8.0), np.full(4, 8.0)]),
        "b0": np.zeros(2),
    }
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_artifact(Contents({"filter.safetensors": pack_arrays(arrays)}), folder / "filter")


@functools.cache
def toy_surrogate() -> Artifact:
    """A stand-in with random weights for a model of four inputs and five classes."""
    return _network("surrogate.safetensors", 3)


@functools.cache
def toy_misinformation() -> Artifact:
    """A network with random weights that says something else than the model of `answer_to`, mostly."""
    return _network("misinformation.safetensors", 4)


@functools.cache
def toy_scores(kind: str) -> Artifact:
    """ODIN or the Mahalanobis distance of a small PyTorch network that knows the classes of `answer_to` on half of
    `rows`, those whose inputs sum to less than 2."""
    x = rows(600, 5)
    own, outside = x[x.sum(axis=1) < 2], x[x.sum(axis=1) > 2]
    labels = answer_to(own).labels
    learner = TorchLearner(network="table_mlp", epochs=5)
    victim = learner.fit(own, np.eye(5)[labels], rng=np.random.default_rng(0))
    recipe: Recipe = OdinStep(most=0.02) if kind == "odin" else ClassMeans()
    contents = recipe(victim, Rows(own, labels), outside, rng=np.random.default_rng(0))
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_artifact(contents, folder / kind)


@functools.cache
def toy_misdirection() -> Artifact:
    """The model of `answer_to` as a network, with the sensitivities of its layers."""
    from tests.recipes.toys import deep

    x = rows(50, 6)
    victim = deep(np.random.default_rng(1).normal(size=(4, 5)).T * 4, np.zeros(5))
    made = RECIPES.build("misdirection")(victim, Rows(x), None, rng=np.random.default_rng(0))
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_artifact(made, folder / "network")


def _network(file: str, seed: int) -> Artifact:
    rng = np.random.default_rng(seed)
    arrays = {"mean": np.full(4, 0.5), "deviation": np.full(4, 0.3)}
    arrays |= {"w0": rng.normal(size=(8, 4)), "b0": np.zeros(8), "w1": rng.normal(size=(5, 8)), "b1": np.zeros(5)}
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_artifact(Contents({file: pack_arrays(arrays)}), folder / "network")


def noise(key: bytes = b"k" * 32) -> Noise:
    return Noise(key, "stage")


def same(a: Answer, b: Answer) -> bool:
    pairs = [(a.labels, b.labels), (a.scores, b.scores), (a.explanation, b.explanation)]
    if any((p is None) != (q is None) for p, q in pairs):
        return False
    return all(p is None or np.array_equal(p, q, equal_nan=p.dtype.kind == "f") for p, q in pairs)


@dataclass
class Count:
    rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Tally(Detector[Count]):
    """As suspicious as the client has asked rows; no verdict on the first two."""

    threshold: float = 20.0

    def start(self) -> Count:
        return Count()

    def update(self, state: Count, request: Request, answer: Answer) -> Array:
        suspicion = state.rows + 1.0 + np.arange(len(request))
        state.rows += len(request)
        return np.where(suspicion > 2, suspicion, np.nan)


# What a defense must be given, for settings without a default: an artifact is made by hand, as `toy_filter` is.
REQUIRED: dict[str, dict[str, Any]] = {
    "adaptive_misinformation": {"network": toy_misinformation()},
    "deep_defense": {"network": toy_misdirection(), "explanation": "none", "steps": 3},
    "out_of_domain": {"filter": toy_filter()},
    "prediction_poisoning": {"surrogate": toy_surrogate()},
    "priced": {"detector": Tally()},
    "proof_of_work": {"detector": Tally(), "factor": 2.0, "seconds": 1.0, "hashes_per_s": 16.0},  # soon done for real
    "watch": {"detector": Tally()},
}
# "name-what": further settings under which the suite runs a defense, beside its defaults.
VARIANTS: dict[str, dict[str, Any]] = {
    "adaptive_misinformation-soft": {"network": toy_misinformation(), "tau": 0.7, "nu": 10.0},
    "dawn-often": {"rate": 0.3, "planes": 2},
    "out_of_domain-block": {"filter": toy_filter(), "then": "block"},
    "out_of_domain-label_only": {"filter": toy_filter(), "then": "label_only"},
    "out_of_domain-fixed": {"filter": toy_filter(), "then": "fixed"},
    "out_of_domain-mahalanobis": {"score": "mahalanobis", "filter": toy_scores("mahalanobis"), "then": "fixed"},
    "out_of_domain-msp": {"score": "msp", "threshold": 0.4},
    "out_of_domain-odin": {"score": "odin", "filter": toy_scores("odin")},
    "label_preserving_noise-l1": {"eps": 6.0, "ball": "l1"},
    "noise-l1": {"eps": 2.0, "ball": "l1"},
    "prediction_poisoning-argmax": {"surrogate": toy_surrogate(), "objective": "argmax", "eps": 1.5},
    "prediction_poisoning-kl": {"surrogate": toy_surrogate(), "ball": "kl"},
    "prediction_poisoning-relaxed": {"surrogate": toy_surrogate(), "objective": "relaxed", "ball": "l2"},
    "priced-poor": {"detector": Tally(), "credit": 30.0, "price": 0.7, "per": None},
    "random_vertex-least": {"vertex": "least", "eps": 0.9},
    "rounding-none": {"decimals": 0},
    "rounding-renormalised": {"decimals": 1, "renormalise": True},
    "top_k-1": {"k": 1},
    "top_k-all": {"k": 9},
    "watch-calm": {"detector": Tally(threshold=1e9), "then": CATALOG.build("label_only")},
    "watch-label_only": {"detector": Tally(), "then": CATALOG.build("label_only")},
    "watch-log": {"detector": Tally(), "then": CATALOG.build("log")},
    "watch-other_class": {"detector": Tally(), "then": CATALOG.build("other_class")},
    "watch-watch": {"detector": Tally(), "then": CATALOG.load("watch")(Tally(threshold=3.0))},
}
