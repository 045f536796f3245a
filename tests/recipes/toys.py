"""Toys for the tests of recipes and hardenings: rows of two domains, and one set-up for each unit.

A new recipe gets its line in `RECIPES`, a new hardening in `HARDENINGS`, and with it the whole contract of
recipes/test_contract.py or hardening/test_contract.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.recipes import Hardening, Recipe
from portcullis_ml.core.types import Array, Interface, Model, Rows
from portcullis_ml.defenses.adaptive_misinformation import AdaptiveMisinformation
from portcullis_ml.defenses.label_only import LabelOnly
from portcullis_ml.defenses.out_of_domain import OutOfDomain
from portcullis_ml.defenses.prediction_poisoning import PredictionPoisoning
from portcullis_ml.defenses.watch import Watch
from portcullis_ml.detectors.extraction_monitor import ExtractionMonitor
from portcullis_ml.detectors.hardness import Hardness
from portcullis_ml.hardening.diverse_ensemble import DiverseEnsemble
from portcullis_ml.hardening.input_quantisation import InputQuantisation
from portcullis_ml.hardening.outlier_exposure import OutlierExposure
from portcullis_ml.hardening.private_training import PrivateTraining
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.models.torch import TorchLearner, TorchModel
from portcullis_ml.recipes.class_means import ClassMeans
from portcullis_ml.recipes.domain_filter import DomainFilter
from portcullis_ml.recipes.evaluation_set import EvaluationSet
from portcullis_ml.recipes.misinformation import Misinformation
from portcullis_ml.recipes.odin_step import OdinStep
from portcullis_ml.recipes.random_surrogate import RandomSurrogate
from portcullis_ml.recipes.training_steps import TrainingSteps

API = Interface(input_shape=(4,), n_classes=3)
VICTIM = SoftmaxRegression(np.random.default_rng(7).normal(size=(3, 4)) * 4, np.array([0.5, -1.0, 0.0]))
LEARNER = TorchLearner(network="mlp", epochs=30)


def own(n: int = 120, seed: int = 1) -> Rows:
    """Rows of the victim's domain, the box [0, 0.6)."""
    x = 0.6 * np.random.default_rng(seed).random((n, 4))
    return Rows(x, VICTIM.scores(x).argmax(axis=1))


@cache
def network() -> TorchModel:
    """A victim that is a PyTorch network."""
    rows = own(300, 3)
    return TorchLearner(network="table_mlp", epochs=15).fit(rows.x, np.eye(3)[rows.y], rng=np.random.default_rng(0))


def foreign(n: int = 100, seed: int = 2) -> Array:
    """Rows of another domain, the box [0.6, 1)."""
    return 0.6 + 0.4 * np.random.default_rng(seed).random((n, 4))


@dataclass(frozen=True)
class Setup:
    """One recipe, the defense that takes what it has trained (a watch where a detector does), and its victim."""

    recipe: Recipe
    defense: Callable[[Artifact | Recipe], Defense[Any]]
    victim: Model = VICTIM


RECIPES: dict[str, Callable[[], Setup]] = {
    "class_means": lambda: Setup(
        ClassMeans(), lambda fitted: OutOfDomain(filter=fitted, score="mahalanobis"), network()
    ),
    "odin_step": lambda: Setup(OdinStep(), lambda fitted: OutOfDomain(filter=fitted, score="odin"), network()),
    "misinformation": lambda: Setup(
        Misinformation(epochs=5), lambda trained: AdaptiveMisinformation(network=trained, tau=0.99)
    ),
    "random_surrogate": lambda: Setup(RandomSurrogate(), lambda trained: PredictionPoisoning(surrogate=trained)),
    "domain_filter": lambda: Setup(DomainFilter(epochs=15), lambda trained: OutOfDomain(filter=trained)),
    "evaluation_set": lambda: Setup(
        EvaluationSet(), lambda trained: Watch(ExtractionMonitor(evaluation=trained, every=20), then=LabelOnly())
    ),
    "training_steps": lambda: Setup(
        TrainingSteps(epochs=20, window=20), lambda trained: Watch(Hardness(steps=trained), then=LabelOnly())
    ),
}
HARDENINGS: dict[str, Callable[[], Hardening]] = {
    "diverse_ensemble": lambda: DiverseEnsemble(members=3, weight=0.3),
    "input_quantisation": lambda: InputQuantisation(levels=8, trained=True),
    "outlier_exposure": lambda: OutlierExposure(weight=0.5),
    "private_training": lambda: PrivateTraining(epsilon=100.0),
}
