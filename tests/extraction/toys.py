"""Toys for the extraction tests: a victim, a learner, a purse-watching oracle, a ledger and one set-up for each attack.

A new attack gets its line in `SETUPS`, and with it the whole contract of test_contract.py; "name-variant" is another
line for settings that take another road through the same attack.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.special import softmax

from portcullis_ml.bench.named import guard_named
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.guard import Defense, Guard
from portcullis_ml.core.types import Answer, Array, Explaining, Interface, Model, Request, Reveals, Rows
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction.active_thief import ActiveThief
from portcullis_ml.extraction.averaging import Averaging
from portcullis_ml.extraction.copycat import Copycat
from portcullis_ml.extraction.d_dae import DDae
from portcullis_ml.extraction.dfme import Dfme
from portcullis_ml.extraction.equation_solving import EquationSolving
from portcullis_ml.extraction.feature_extraction import FeatureExtraction
from portcullis_ml.extraction.functional_equivalence import FunctionalEquivalence
from portcullis_ml.extraction.gradient_matching import GradientMatching
from portcullis_ml.extraction.in_distribution import InDistribution
from portcullis_ml.extraction.jacobian import Jacobian
from portcullis_ml.extraction.kernel import Kernel
from portcullis_ml.extraction.knockoff import Knockoff
from portcullis_ml.extraction.least_likely import LeastLikely
from portcullis_ml.extraction.lowd_meek import LowdMeek
from portcullis_ml.extraction.maze import Maze
from portcullis_ml.extraction.retraining import Retraining
from portcullis_ml.extraction.swift_thief import SwiftThief
from portcullis_ml.extraction.tree_ensembles import TreeEnsembles
from portcullis_ml.extraction.tree_paths import TreePaths
from portcullis_ml.models.artifacts import write_artifact
from portcullis_ml.models.binned import BinnedLinear, Block
from portcullis_ml.models.explain import explainer_named
from portcullis_ml.models.kernel import KernelRegression
from portcullis_ml.models.ovr import OneVsRest
from portcullis_ml.models.relu import ReluNetwork
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.torch import TorchLearner
from portcullis_ml.models.tree import TreeModel, grow_tree


@dataclass(frozen=True)
class ToySoftmax:
    """A softmax regression on inputs of any shape: w (c, d), b (c,)."""

    w: Array
    b: Array
    input_shape: tuple[int, ...]

    @property
    def n_classes(self) -> int:
        return len(self.b)

    def scores(self, x: Array) -> Array:
        return softmax(x.reshape(len(x), -1) @ self.w.T + self.b, axis=1)

    def input_gradient(self, x: Array, weights: Array, *, of: Literal["logits", "log_probs"]) -> Array:
        if of == "log_probs":
            weights = weights - weights.sum(axis=1, keepdims=True) * self.scores(x)
        return (weights @ self.w).reshape(x.shape)


@dataclass
class ToyLearner:
    """Full-batch gradient descent on the cross-entropy. Remembers what it was given."""

    steps: int = 150
    rate: float = 2.0
    fits: list[tuple[Array, Array, Any]] = field(default_factory=list)

    def fit(self, x: Array, targets: Array, *, rng: np.random.Generator, start: Model | None = None) -> ToySoftmax:
        self.fits.append((x.copy(), targets.copy(), start))
        flat, n = x.reshape(len(x), -1), len(x)
        w = rng.normal(scale=0.01, size=(targets.shape[1], flat.shape[1]))
        b = np.zeros(targets.shape[1])
        if isinstance(start, ToySoftmax):
            w, b = start.w.copy(), start.b.copy()
        for _ in range(self.steps):
            error = (softmax(flat @ w.T + b, axis=1) - targets) / n
            w -= self.rate * error.T @ flat
            b -= self.rate * error.sum(axis=0)
        return ToySoftmax(w, b, x.shape[1:])


def toy_victim(shape: tuple[int, ...] = (2, 3), n_classes: int = 3, seed: int = 5, scale: float = 4.0) -> ToySoftmax:
    """A softmax regression whose classes meet in the middle of the unit box."""
    rng = np.random.default_rng(seed)
    w = rng.normal(scale=scale, size=(n_classes, int(np.prod(shape))))
    return ToySoftmax(w, -w.sum(axis=1) / 2, shape)


def toy_rectifiers(seed: int = 9) -> ReluNetwork:
    """A network of four rectified units and three classes on the unit box."""
    rng = np.random.default_rng(seed)
    w = rng.normal(scale=2, size=(4, 4))
    return ReluNetwork(w, -w.sum(axis=1) / 2, rng.normal(size=(2, 4)), np.zeros((2, 4)), np.zeros(2), 3)


def toy_tree(leaves: int = 10, seed: int = 3) -> TreeModel:
    """A tree of three classes on the unit box, each leaf with a confidence of its own."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(400, 2, 2))
    y = (3 * x[:, 0, 0] * x[:, 0, 1] + x[:, 1, 0] + 0.3 * rng.normal(size=400)).clip(0, 2.9).astype(int)
    return grow_tree(x, y, rng=rng, shows="confidence", max_leaf_nodes=leaves)


def toy_forest(trees: int = 3, depth: int = 2, seed: int = 3) -> Model:
    """A forest of three classes on the unit box (2, 2)."""
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(400, 4))
    y = (3 * x[:, 0] * x[:, 1] + x[:, 2] + 0.3 * rng.normal(size=400)).clip(0, 2.9).astype(int)
    forest = RandomForestClassifier(trees, max_depth=depth, random_state=seed).fit(x, y)
    return SklearnModel(forest, input_shape=(2, 2), n_classes=3)


def toy_bins(seed: int = 11) -> BinnedLinear:
    """Three numbers, four bins each."""
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.uniform(0.1, 0.9, size=(3, 3)), axis=1)
    return BinnedLinear([Block(2 * rng.normal(size=(4, 3)), e) for e in edges], np.zeros(3))


def inputs(n: int, seed: int, shape: tuple[int, ...] = (2, 3)) -> Array:
    return np.random.default_rng(seed).uniform(size=(n, *shape))


@cache
def misinformation() -> str:
    """The folder of a misinformation network for `toy_victim`."""
    from portcullis_ml.recipes.misinformation import Misinformation

    made = Misinformation(epochs=10)(toy_victim(), Rows(inputs(400, 9)), None, rng=np.random.default_rng(0))
    return str(write_artifact(made, Path(tempfile.mkdtemp()) / "network"))


class WatchedOracle:
    """Passes everything on to an oracle, fails on a batch that cannot be paid for, and notes what else is touched."""

    def __init__(self, oracle: Any) -> None:
        self._oracle = oracle
        self.touched: set[str] = set()
        self.batches: list[Array] = []

    @property
    def interface(self) -> Interface:
        return self._oracle.interface

    @property
    def left(self) -> int:
        return self._oracle.left

    def query(self, x: Array) -> Answer:
        assert 0 < len(x) <= self._oracle.left, f"asked {len(x)} rows with {self._oracle.left} left"
        self.batches.append(x.copy())
        before = x.copy()
        answer = self._oracle.query(x)
        np.testing.assert_array_equal(x, before)
        return answer

    def __getattr__(self, name: str) -> Any:  # weights, model, coef_, budget ... whatever is not in the protocol
        self.touched.add(name)
        raise AttributeError(name)


class MemoryLedger:
    """The record of one run, and its replay in the next: `rewind` between them."""

    def __init__(self) -> None:
        self._rows: list[tuple[Array, Answer]] = []
        self._next = 0

    def rewind(self) -> None:
        self._next = 0

    def recall(self, x: Array) -> Answer | None:
        known = self._rows[self._next : self._next + len(x)]
        for asked, (recorded, _) in zip(x, known, strict=False):
            if not np.array_equal(asked, recorded, equal_nan=True):
                raise InputError("The record holds other questions.")
        self._next += len(known)
        return Answer.concat([answer for _, answer in known]) if known else None

    def record(self, x: Array, answer: Answer) -> None:
        self._rows += [(x[i], answer.take(slice(i, i + 1))) for i in range(len(x))]
        self._next = len(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class Flaky:
    """A victim whose machine is switched off at the n-th batch. Counts the rows that it scored."""

    def __init__(self, victim: Model, off_at: int) -> None:
        self.input_shape, self.n_classes = victim.input_shape, victim.n_classes
        self._victim, self._off_at = victim, off_at
        self.batches = self.rows = 0

    def scores(self, x: Array) -> Array:
        self.batches += 1
        if self.batches == self._off_at:
            raise KeyboardInterrupt
        self.rows += len(x)
        return self._victim.scores(x)

    def explain(self, x: Array, classes: np.ndarray) -> Array:
        assert isinstance(self._victim, Explaining)
        return self._victim.explain(x, classes)


@dataclass
class Seen:
    rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Closes(Defense[Seen]):
    """Answers `after` rows of a client and nothing more."""

    after: int

    def start(self) -> Seen:
        return Seen()

    def release(self, request: Request, answer: Answer, clean: Answer, state: Seen, noise: object) -> Answer:
        late = state.rows + np.arange(len(answer)) >= self.after
        state.rows += len(answer)
        return answer.withhold(late)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One attack in its element.

    least     the smallest budget that it can do anything with; below it, AttackFailed and nothing asked
    weakest   needs nothing that is not in `knowledge`, and no answers above `attack.needs.answers`
    """

    attack: ExtractionAttack
    budget: int
    victim: Model = field(default_factory=toy_victim)
    knowledge: Knowledge = field(default_factory=Knowledge)
    interface: Interface | None = None
    least: int = 1
    blocked_after: int | None = None  # rows answered before the guard closes; half the budget unless given
    all_or_nothing: bool = False  # with fewer answers than it wants there is no copy, and AttackFailed says so
    defense: str = ""  # the guard that it stands before and is told of, as words: "rounding(decimals=2)"

    @property
    def told(self) -> list[Any] | None:
        """What an attack that knows the defense is told of it."""
        return list(guard_named(self.defense).stages) if self.defense else None

    @property
    def door(self) -> Interface:
        plain = Interface(input_shape=self.victim.input_shape, n_classes=self.victim.n_classes)
        return self.interface or plain.revealing(reveals=max(self.attack.needs.answers, Reveals.LABELS))


DOUBT = "watch(detector=prada, then=label_only)"  # one that needs no probabilities


def doubting(copy: Model, own: Array, outside: Array) -> Guard:
    """A thief's own guard of that kind; nothing in it is trained."""
    return Guard(*(DEFENSES.build(stage) for stage in guard_named(DOUBT).stages), key=b"t" * 16)


SETUPS: dict[str, Callable[[], Setup]] = {
    "active_thief": lambda: Setup(
        attack=ActiveThief(rounds=4),
        budget=90,
        knowledge=Knowledge(pool=inputs(120, 1), learner=ToyLearner()),
    ),
    "active_thief-dfal": lambda: Setup(
        attack=ActiveThief(strategy="dfal_k_centre", rounds=3, validation=0.2),
        budget=90,
        knowledge=Knowledge(pool=inputs(120, 1), learner=ToyLearner()),
    ),
    "averaging": lambda: Setup(
        attack=Averaging(),
        budget=90,
        knowledge=Knowledge(pool=inputs(120, 1), learner=ToyLearner()),
        defense="random_vertex",
    ),
    "averaging-wrapping": lambda: Setup(
        attack=Averaging(of=Retraining(), repeats=2),
        budget=200,
        knowledge=Knowledge(learner=ToyLearner()),
        defense="noise",
    ),
    "d_dae": lambda: Setup(
        attack=DDae(pairs=500, epochs=3),
        budget=90,
        knowledge=Knowledge(pool=inputs(120, 1), learner=ToyLearner()),
        defense="reverse_sigmoid",
    ),
    "d_dae-subtract": lambda: Setup(
        attack=DDae(way="subtract", pairs=500),
        budget=90,
        knowledge=Knowledge(pool=inputs(120, 1), learner=ToyLearner()),
        defense="random_vertex",
    ),
    "d_dae-wrapping": lambda: Setup(
        attack=DDae(of=Retraining(strategy="uniform", surrogate="softmax"), pairs=500, epochs=3),
        budget=90,
        knowledge=Knowledge(pool=inputs(120, 1), learner=ToyLearner()),
        defense="reverse_sigmoid",
    ),
    "dfme": lambda: Setup(attack=Dfme(network="mlp", batch=8, latent=8, maps=8, lr=0.3, lr_generator=1e-2), budget=900),
    "dfme-table": lambda: Setup(
        attack=Dfme(network="mlp", batch=8, latent=8, maps=8, lr=0.3, lr_generator=1e-2),
        budget=900,
        victim=toy_victim((6,)),
    ),
    "in_distribution": lambda: Setup(
        attack=InDistribution(first=20, batch=20),
        budget=90,
        knowledge=Knowledge(pool=inputs(120, 1), learner=ToyLearner(), train=doubting),
        defense=DOUBT,
    ),
    "in_distribution-wrapping": lambda: Setup(
        attack=InDistribution(of=Knockoff(batch=16), first=20, batch=20),
        budget=90,
        knowledge=Knowledge(pool=inputs(120, 1), seeds=inputs(8, 2), learner=ToyLearner(), train=doubting),
        defense=DOUBT,
    ),
    "least_likely": lambda: Setup(
        attack=LeastLikely(),
        budget=90,
        knowledge=Knowledge(pool=inputs(120, 1), learner=ToyLearner()),
        defense=f'adaptive_misinformation(network="{misinformation()}", tau=0.8)',
    ),
    "least_likely-wrapping": lambda: Setup(
        attack=LeastLikely(of=Retraining(strategy="uniform", surrogate="softmax"), rounds=0),
        budget=90,
        knowledge=Knowledge(learner=ToyLearner()),
        defense=f'adaptive_misinformation(network="{misinformation()}", tau=0.8)',
    ),
    "copycat": lambda: Setup(
        attack=Copycat(balance="oversample", cap=40, batch=16),
        budget=90,
        knowledge=Knowledge(pool=inputs(120, 1), learner=ToyLearner()),
    ),
    "swift_thief": lambda: Setup(
        attack=SwiftThief(rounds=4, contrast=1, projector=16),
        budget=90,
        knowledge=Knowledge(pool=inputs(120, 1), learner=ToyLearner()),
    ),
    "swift_thief-network": lambda: Setup(
        attack=SwiftThief(rounds=3, contrast=1, projector=16, validation=0.2),
        budget=90,
        knowledge=Knowledge(pool=inputs(120, 1), learner=TorchLearner(network="mlp", epochs=40)),
    ),
    "equation_solving": lambda: Setup(attack=EquationSolving(), budget=12, least=7, blocked_after=5),
    "equation_solving-binary": lambda: Setup(
        attack=EquationSolving(design="uniform", oversample=1.5, held_out=0),
        budget=12,
        victim=toy_victim((6,), 2),
        least=7,
        blocked_after=5,
    ),
    "equation_solving-one_vs_rest": lambda: Setup(
        attack=EquationSolving(), budget=40, victim=OneVsRest(toy_victim((6,)).w, toy_victim((6,)).b), least=7
    ),
    "equation_solving-rounded": lambda: Setup(
        attack=EquationSolving(),
        budget=40,
        interface=Interface(input_shape=(2, 3), n_classes=3, decimals=3),
        least=7,
    ),
    "feature_extraction": lambda: Setup(attack=FeatureExtraction(), budget=600, victim=toy_bins(), blocked_after=150),
    "feature_extraction-omit": lambda: Setup(
        attack=FeatureExtraction(eps=1e-3),
        budget=400,
        victim=toy_bins(),
        interface=Interface(input_shape=(3,), n_classes=3, missing=True),
        blocked_after=120,
    ),
    "gradient_matching": lambda: Setup(
        attack=GradientMatching(epochs=40),
        budget=90,
        victim=explainer_named("gradient_x_input")(toy_victim()),
        interface=Interface(input_shape=(2, 3), n_classes=3, explains=True),
        knowledge=Knowledge(pool=inputs(120, 1)),
    ),
    "jacobian": lambda: Setup(
        attack=Jacobian(k=2, steps=5),
        budget=100,
        knowledge=Knowledge(seeds=inputs(8, 2), learner=ToyLearner()),
    ),
    "jacobian-away": lambda: Setup(
        attack=Jacobian(direction="away", tau=2, sigma=2, kappa=20),
        budget=100,
        knowledge=Knowledge(seeds=inputs(12, 2), learner=ToyLearner()),
    ),
    "jacobian-own_class": lambda: Setup(
        attack=Jacobian(direction="own_class", steps=5, of="logits", warm_start=True),
        budget=100,
        knowledge=Knowledge(seeds=inputs(12, 2), learner=ToyLearner()),
    ),
    "functional_equivalence": lambda: Setup(
        attack=FunctionalEquivalence(patience=4, held_out=5),
        budget=400,
        victim=toy_rectifiers(),
        least=6,
        blocked_after=20,
    ),
    "kernel": lambda: Setup(
        attack=Kernel(representers=4, iterations=100),
        budget=150,
        victim=KernelRegression(inputs(4, 7, (3,)), 6 * np.eye(4, 3), np.zeros(3), 2.0),
    ),
    "knockoff-adaptive": lambda: Setup(
        attack=Knockoff(selection="adaptive", batch=16, clusters=5),
        budget=90,
        knowledge=Knowledge(pool=inputs(120, 1), learner=ToyLearner()),
    ),
    "knockoff": lambda: Setup(
        attack=Knockoff(batch=16),
        budget=90,
        knowledge=Knowledge(pool=inputs(120, 3), learner=ToyLearner()),
    ),
    "lowd_meek": lambda: Setup(attack=LowdMeek(), budget=250, victim=toy_victim((2, 3), 2), least=28),
    "lowd_meek-quadratic": lambda: Setup(
        attack=LowdMeek(kernel="quadratic"), budget=500, victim=toy_victim((3,), 2), least=108
    ),
    "maze": lambda: Setup(attack=Maze(network="mlp", batch=16, directions=4, latent=8, maps=8), budget=900),
    "retraining": lambda: Setup(attack=Retraining(), budget=100),
    "retraining-line_search": lambda: Setup(attack=Retraining(strategy="line_search", surrogate="tree"), budget=200),
    "retraining-uniform": lambda: Setup(attack=Retraining(strategy="uniform", surrogate="svm"), budget=90),
    "tree_ensembles": lambda: Setup(
        attack=TreeEnsembles(checks=200, anchors=2, trees=20),
        budget=2500,
        victim=toy_forest(),
        interface=Interface(input_shape=(2, 2), n_classes=3),
        blocked_after=300,
    ),
    "tree_ensembles-labels": lambda: Setup(
        attack=TreeEnsembles(trees=20),
        budget=60,
        victim=toy_forest(),
        interface=Interface(input_shape=(2, 2), n_classes=3, reveals=Reveals.LABELS),
    ),
    "tree_paths": lambda: Setup(attack=TreePaths(), budget=300, victim=toy_tree(), blocked_after=200),
    "tree_paths-top_down": lambda: Setup(
        attack=TreePaths(mode="top_down", probes=1),
        budget=300,
        victim=toy_tree(),
        interface=Interface(input_shape=(2, 2), n_classes=3, missing=True),
        blocked_after=100,
    ),
}
