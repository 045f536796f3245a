"""Who asks in `campaigns.py`: honest clients of ten kinds, and thieves whose rows go through many accounts.

No row of MNIST has two owners: the victim has the training rows 0 to 10,000; honest clients by whom thresholds are set
10,000 to 34,000 and those reported 34,000 to 60,000; thieves the test rows 0 to 5,000; copies are graded on the rest.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from portcullis_ml.bench.protocols.prada import fitted
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.oracle import LocalOracle, MeteredOracle
from portcullis_ml.core.types import Answer, Array, Interface, Labels
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.extraction import CATALOG
from portcullis_ml.gateway.demo import MlpLearner
from portcullis_ml.models.sklearn import SklearnModel

INTERFACE = Interface(input_shape=(784,), n_classes=10)
BUDGET, GAP, PER_CLIENT = 1_600, 5.0, 100  # rows of a thief, seconds between two of them, rows of an honest client
ATTACKS = {"JbDA": "papernot", "Jb-top3": "jb_top3", "Knockoff": "knockoff"}
VARIANTS = ("plain", "jitter .05", "jitter .15", "two decoys")
KINDS = ("mixture", "one class", "bursts", "retries", "frames", "noise", "USPS", "slow", "more noise", "by the minute")
LEARNER = MlpLearner(hidden=32, iterations=60)


class Asked(NamedTuple):
    """Rows that one account asks at one time."""

    account: str
    x: Array
    at: float


@dataclass(frozen=True)
class Scene:
    """The victim and everybody's rows."""

    victim: SklearnModel
    x: Array  # MNIST training rows
    y: Labels
    thief: Array  # test rows
    thief_y: Labels
    graded: Array
    usps: Array
    letters: Array

    def answer(self, x: Array) -> Answer:
        return Answer.of(self.victim.scores(x), INTERFACE)

    def agreement(self, x: Array, seed: int) -> float:
        """How often a copy that is trained on the answers to x says what the victim says."""
        if len(x) < 2:
            return 0.0
        rng = np.random.default_rng([4, seed])
        copy = LEARNER.fit(x, self.answer(x).soft(10), rng=rng)
        truth = self.victim.scores(self.graded).argmax(axis=1)
        return float((copy.scores(self.graded).argmax(axis=1) == truth).mean())


@cache
def scene() -> Scene:
    mnist, usps, letters = load_dataset("mnist"), load_dataset("usps"), load_dataset("emnist_letters")
    x, test = mnist.x.reshape(-1, 784), mnist.x_test.reshape(-1, 784)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        victim = MLPClassifier((100,), max_iter=15, random_state=0).fit(x[:10_000], mnist.y[:10_000])
    other = fitted(np.concatenate([usps.x, usps.x_test]), (28, 28)).reshape(-1, 784)
    return Scene(SklearnModel(victim), x, mnist.y, test[:5_000], mnist.y_test[:5_000], test[5_000:], other,
                 letters.x[:5_000].reshape(-1, 784))  # fmt: skip


def honest(here: Scene, seed: int, first: int, last: int, span: float, each: int = PER_CLIENT) -> list[Asked]:
    """Ten clients, one of each kind, within `span` seconds. Two in a hundred of their questions all of them ask."""
    rng = np.random.default_rng([1, seed])
    rows = rng.permutation(np.arange(first, last))
    found = []
    for i, kind in enumerate(KINDS):
        own = rows[i :: len(KINDS)]
        x, at = _client(here, kind, own, rng, span, each)
        popular = rng.random(len(x)) < 0.02
        x[popular] = here.x[first + rng.integers(5, size=int(popular.sum()))]
        found += [Asked(f"honest {kind}", x[j : j + 1], float(at[j])) for j in range(len(x))]
    return sorted(found, key=lambda asked: asked.at)


def _client(
    here: Scene, kind: str, own: Labels, rng: np.random.Generator, span: float, each: int
) -> tuple[Array, Array]:
    """What a client of a kind asks, and when."""
    share = rng.dirichlet(np.ones(10)) if kind != "one class" else np.eye(10)[rng.integers(10)]
    weights = share[here.y[own]] + 1e-12
    n = each if kind != "slow" else each // 4
    x = here.x[rng.choice(own, n, replace=False, p=weights / weights.sum())]
    at = np.sort(rng.uniform(0, span, n))
    if kind == "bursts":
        at = np.sort(rng.choice(rng.uniform(0, span, 6), n) + rng.exponential(2.0, n))
    elif kind == "retries":
        x = np.repeat(x[: n // 2], 2, axis=0)
        at = np.sort(np.repeat(rng.uniform(0, span, n // 2), 2) + np.tile([0.0, 1.0], n // 2))
    elif kind == "frames":  # pictures that are filmed for ten frames each: a pixel's shift now and then, and noise
        scenes = np.repeat(x[: n // 10], 10, axis=0)
        frames = [np.roll(row.reshape(28, 28), rng.integers(-1, 2, 2), (0, 1)) for row in scenes]
        x = np.clip(np.reshape(frames, (-1, 784)) + rng.normal(0, 0.02, (len(frames), 784)), 0, 1)
        at = np.sort(np.repeat(rng.uniform(0, span, n // 10), 10) + np.tile(np.arange(10.0), n // 10))
    elif kind in ("noise", "more noise"):
        x = np.clip(x + rng.normal(0, 0.1 if kind == "noise" else 0.15, x.shape), 0, 1)
    elif kind == "USPS":
        x = here.usps[rng.choice(len(here.usps), n, replace=False)]
    elif kind == "by the minute":
        at = np.arange(n) * 60.0 % span + rng.uniform(0, 2, n)
    return x.copy(), at


class Jittered(MeteredOracle):
    """A thief's own oracle that adds noise to every row before it is sent, and remembers what was sent."""

    def __init__(self, under: LocalOracle, jitter: float, rng: np.random.Generator) -> None:
        super().__init__(under.interface, budget=under.budget)
        self.under, self.jitter, self.rng, self.sent = under, jitter, rng, list[Array]()

    def _ask(self, x: Array) -> Answer:
        self.sent.append(np.clip(x + self.rng.normal(0, self.jitter, x.shape), 0, 1))
        return self.under.query(self.sent[-1])


def asked_by(here: Scene, attack: str, variant: str, seed: int) -> Array:
    """(1,600, 784) what a thief asks, in the order in which it comes about."""
    rng = np.random.default_rng([2, seed])
    own = np.concatenate([rng.permutation(np.flatnonzero(here.thief_y == c))[:10] for c in range(10)])
    own = rng.permutation(own)
    decoys = here.thief[rng.permutation(np.setdiff1d(np.arange(len(here.thief)), own))]
    if attack == "natural rows":
        return decoys[:BUDGET]
    budget = -(-BUDGET // 3) if variant == "two decoys" else BUDGET
    jitter = float(variant.split()[1]) if variant.startswith("jitter") else 0.0
    oracle = Jittered(LocalOracle(here.victim, INTERFACE, budget=budget), jitter, rng)
    knows = Knowledge(seeds=here.thief[own], pool=here.letters[rng.permutation(len(here.letters))], learner=LEARNER)
    CATALOG.build(ATTACKS[attack])(oracle, knows, rng=rng)
    x = np.concatenate(oracle.sent)
    if variant == "two decoys":
        mixed = np.empty((3 * len(x), 784))
        mixed[0::3], mixed[1::3], mixed[2::3] = x, decoys[: len(x)], decoys[len(x) : 2 * len(x)]
        x = mixed
    return x[:BUDGET]


def campaign(x: Array, accounts: int, order: str, seed: int) -> list[Asked]:
    """The rows through so many accounts: in turn, in blocks of one account after another, or each by lot."""
    rng = np.random.default_rng([3, seed])
    at = np.cumsum(rng.exponential(GAP, len(x)))
    which = {
        "in turn": np.arange(len(x)) % accounts,
        "blocks": np.arange(len(x)) * accounts // len(x),
        "by lot": rng.integers(accounts, size=len(x)),
    }[order]
    return [Asked(f"thief {which[i]}", x[i : i + 1], float(at[i])) for i in range(len(x))]
