"""Accuracy, fidelity, equivalence: how near each attack comes to a network of one hidden layer of rectifiers.

    python benchmarks/equivalence.py

First, `functional_equivalence` on 25 random networks of the sizes that were tried beforehand (five seeds each): queries
for each parameter, and the greatest error of a logit on 10,000 normal rows. Then answers that are coarser: single
precision, rounded. Last, one victim (16 units, wine, half of the rows) and all attacks at 2,000 queries, five seeds:
the copy's accuracy on the other half, its agreement with the victim there, and its greatest error of a probability on
10,000 uniform rows. All know the ranges of the columns; those that need a pool have the first half, without labels.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.datasets import load_wine
from sklearn.neural_network import MLPClassifier

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Interface, Reveals
from portcullis_ml.extraction import CATALOG
from portcullis_ml.models.auto import AutoLearner
from portcullis_ml.models.relu import ReluNetwork
from portcullis_ml.models.sklearn import SklearnModel

SIZES = [(10, 5, 1), (10, 10, 1), (10, 16, 2), (30, 20, 3), (64, 32, 10)]
GOALS = (
    ("functional_equivalence", Reveals.PROBS),
    ("equation_solving", Reveals.PROBS),
    ("retraining", Reveals.PROBS),
    ("retraining", Reveals.LABELS),
    ("knockoff", Reveals.PROBS),
    ("copycat", Reveals.LABELS),
)


class Coarse(ReluNetwork):
    """The same network, answering in single precision."""

    def scores(self, x: Array) -> Array:
        return super().scores(x).astype(np.float32).astype(np.float64)


def random_network(d: int, h: int, k: int, seed: int, kind: type[ReluNetwork] = ReluNetwork) -> ReluNetwork:
    """One output: a regression. More: a softmax, as differences to the first logit."""
    rng = np.random.default_rng(seed)
    w, b = rng.normal(size=(h, d)) / np.sqrt(d), 0.5 * rng.normal(size=h)
    v, a = rng.normal(size=(k, h)) / np.sqrt(h), 0.1 * rng.normal(size=k)
    if k == 1:
        return kind(w, b, v, np.zeros((1, d)), a, 0)
    return kind(w, b, v[1:] - v[0], np.zeros((k - 1, d)), a[1:] - a[0], k)


def rebuilt(victim: ReluNetwork, parameters: int, seed: int, **interface: Any) -> tuple[float, float, bool, float]:
    """Queries a parameter, greatest error of an output on normal rows, whether the attack believes itself, seconds."""
    task = "regression" if victim.n_classes == 0 else "classification"
    door = Interface(input_shape=victim.input_shape, n_classes=victim.n_classes, task=task, bounds=(-3, 3), **interface)
    oracle = LocalOracle(victim, door, budget=11 * parameters)
    before = time.process_time()
    result = CATALOG.build("functional_equivalence")(oracle, Knowledge(), rng=np.random.default_rng(seed))
    seconds = time.process_time() - before
    x = np.random.default_rng(999).normal(size=(10_000, *victim.input_shape)).clip(-3, 3)
    if hasattr(result.model, "outputs"):
        error = float(np.abs(result.model.outputs(x) - victim.outputs(x)).max())
    else:
        error = float(np.abs(result.model.scores(x) - victim.scores(x)).max())
    return result.queries / parameters, error, bool(result.notes["equivalent"]), seconds


def networks() -> Iterator[str]:
    yield "inputs  units  outputs  rebuilt  queries a parameter  greatest logit error  greatest seconds"
    for d, h, k in SIZES:
        runs = [rebuilt(random_network(d, h, k, s), h * d + h + k * h + k, s + 100) for s in range(5)]
        price, errors = [run[0] for run in runs], [run[1] for run in runs]
        exact = sum(run[2] and run[1] < 1e-6 for run in runs)
        yield (
            f"{d:6}  {h:5}  {k:7}  {exact:5}/5  {min(price):9.2f} to {max(price):5.2f}  "
            f"{max(errors):20.1e}  {max(run[3] for run in runs):16.2f}"
        )


def coarse() -> Iterator[str]:
    yield "10 inputs, 8 units, 3 classes      believes itself  greatest error of an output or probability (5 seeds)"
    cases: dict[str, tuple[type[ReluNetwork], dict[str, Any]]] = {
        "double precision": (ReluNetwork, {}),
        "single precision": (Coarse, {"precision": "float32"}),
        "six decimals": (ReluNetwork, {"decimals": 6}),
        "three decimals": (ReluNetwork, {"decimals": 3}),
    }
    for name, (kind, shown) in cases.items():
        runs = [rebuilt(random_network(10, 8, 3, s, kind), 8 * 11 + 27, s, **shown) for s in range(5)]
        errors = [run[1] for run in runs]
        yield f"{name:34} {sum(run[2] for run in runs):13}/5  {min(errors):.1e} to {max(errors):.1e}"


def wine() -> tuple[SklearnModel, Array, Array, Any]:
    x, y = load_wine(return_X_y=True)
    x = np.clip((x - x.mean(axis=0)) / x.std(axis=0), -3, 3)
    rows = np.random.default_rng(0).permutation(len(x))
    half = len(x) // 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says that a few more steps would change little
        victim = SklearnModel(MLPClassifier((16,), max_iter=300, random_state=0).fit(x[rows[:half]], y[rows[:half]]))
    return victim, x[rows[:half]], x[rows[half:]], y[rows[half:]]


def goals(queries: int = 2000) -> Iterator[str]:
    victim, pool, x, y = wine()
    truth = victim.scores(x)
    accuracy = (truth.argmax(axis=1) == y).mean()
    yield f"{len(x)} held-out rows; the victim is right about {accuracy:.1%}. Mean of five seeds [least, greatest]."
    yield "attack                  answers        queries  accuracy %            agreement %           greatest error"
    door = Interface(input_shape=victim.input_shape, n_classes=3, bounds=(-3, 3))
    uniform = door.uniform(10_000, np.random.default_rng(12345))
    far = victim.scores(uniform)
    for name, reveals in GOALS:
        figures, paid = [], []
        for seed in range(5):
            oracle = LocalOracle(victim, replace(door, reveals=reveals), budget=queries)
            knowledge = Knowledge(pool=np.resize(pool, (queries, 13)), learner=AutoLearner())
            try:
                result = CATALOG.build(name)(oracle, knowledge, rng=np.random.default_rng(seed))
            except AttackFailed as failed:
                yield f"{name:22}  {failed}"
                break
            labels = result.model.scores(x).argmax(axis=1)
            error = float(np.abs(result.model.scores(uniform) - far).max())
            figures.append((100 * (labels == y).mean(), 100 * (labels == truth.argmax(axis=1)).mean(), error))
            paid.append(result.queries)
        else:
            cells = [np.array(column) for column in zip(*figures, strict=True)]
            spread = [f"{c.mean():5.1f} [{c.min():.1f}, {c.max():.1f}]" for c in cells[:2]]
            yield (
                f"{name:22}  {reveals.word:13}  {np.mean(paid):7.0f}  {spread[0]:20}  {spread[1]:20}  "
                f"{cells[2].min():.1e} to {cells[2].max():.1e}"
            )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for part in (networks, coarse, goals):
        print()
        for line in part():
            print(line, flush=True)


if __name__ == "__main__":
    main()
