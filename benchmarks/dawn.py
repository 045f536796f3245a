"""What DAWN's marks survive, show and prove, on scikit-learn's digits: a look in a minute, not a protocol.

    export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python benchmarks/dawn.py [seeds] > benchmarks/results/dawn.txt

The victim is a network of 16 units on 500 digits; 1,297 others are asked. Kappa is the agreement of marking a question
and the same question with uniform noise, chance removed. "Told apart" is the area under the ROC curve of a forest that
is trained on six clients' answers and marks, and tried on six others' answers to other questions. Copies are made from
one client's 1,000 answers; "convicted" is at p < 0.001 against 20 innocent models. Means, with the least and greatest.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from sklearn.neural_network import MLPClassifier

from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.types import Answer, Array, Interface, Labels, Request
from portcullis_ml.defenses.dawn import Dawn
from portcullis_ml.defenses.rounding import Rounding
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.ownership.dawn import Dawn as Scheme
from portcullis_ml.ownership.dawn import DawnKey

API = Interface(input_shape=(64,), n_classes=10)
X, Y = load_digits(return_X_y=True)
X = X / 16
OWN = 500
ASKED = X[OWN:]


def fitted(x: Array, y: Labels, seed: int, units: int = 16) -> SklearnModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return SklearnModel(MLPClassifier((units,), max_iter=units + 104, random_state=seed).fit(x, y))


def spread(values: Sequence[float], digits: int = 2) -> str:
    mean, low, high = np.mean(values), min(values), max(values)
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def marked(stage: Dawn, model: SklearnModel, x: Array, key: int) -> Array:
    clean = Answer.of(model.scores(x), API)
    noise = Noise(bytes([key]) * 32, "0-dawn", 1 / 255)
    return stage.release(Request("a", x), clean, clean, stage.start(), noise).labels != clean.labels


def survival(model: SklearnModel, planes: int, keys: int = 20) -> None:
    stage = Dawn(rate=0.05, planes=planes).bind(API)
    clean = Answer.of(model.scores(ASKED), API)
    codes = len(np.unique(stage.codes(ASKED, clean, Noise(bytes(32), "0-dawn", 1 / 255)), axis=0))
    rates = [100 * float(marked(stage, model, ASKED, k).mean()) for k in range(keys)]
    found = []
    for size in (0.02, 0.05, 0.1):
        moved = np.clip(ASKED + np.random.default_rng(0).uniform(-size, size, ASKED.shape), 0, 1)
        pairs = [(marked(stage, model, ASKED, k), marked(stage, model, moved, k)) for k in range(keys)]
        found.append(spread([cohen_kappa_score(a, b) for a, b in pairs if a.any() and b.any()]))
    print(f"planes={planes:2}: {codes} codes of {len(ASKED)} questions, {spread(rates)}% marked at rate 5%;", end=" ")
    print(f"kappa under noise of 0.02, 0.05, 0.1: {'; '.join(found)}  (n={keys} keys)", flush=True)


def told_apart(model: SklearnModel, stages: Sequence[object], shown: str = "scores") -> float:
    """The area under the ROC curve of a forest that is trained on the marks of six clients and tried on those of six
    others, who asked other questions. It sees scores and labels, labels alone, or labels and the questions."""
    features, wrong = [], []
    halves = np.array_split(np.random.default_rng(0).permutation(ASKED), 2)
    for client in range(12):
        guard = Guard(*stages, key=bytes([client]) * 32, quantum=1 / 255, interface=API)
        x = np.random.default_rng(client).permutation(halves[client % 2])
        clean = Answer.of(model.scores(x), API)
        answer = guard.release(Request(f"client {client}", x), clean).answer
        beside = {"scores": [answer.scores], "labels": [], "labels and questions": [x]}[shown]
        features.append(np.column_stack([np.eye(10)[answer.labels], *beside]))
        wrong.append(answer.labels != clean.labels)
    forest = RandomForestClassifier(60, min_samples_leaf=20, random_state=0)
    forest.fit(np.concatenate(features[::2]), np.concatenate(wrong[::2]))
    said = forest.predict_proba(np.concatenate(features[1::2]))[:, 1]
    return float(roc_auc_score(np.concatenate(wrong[1::2]), said))


def proofs(rate: float, seeds: int) -> None:
    found = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(X))
        own, asked, rest = order[:OWN], order[OWN : OWN + 1000], order[OWN + 1000 :]
        victim, scheme, key = fitted(X[own], Y[own], seed), Scheme(rate=rate), DawnKey(bytes(32))
        guard = Guard(scheme.defense(key), key=bytes([seed]) * 32, quantum=1 / 255, interface=API)
        answer = LocalOracle(victim, API, budget=1000, guard=guard, client="thief").query(X[asked])
        log = scheme.log(guard.store.load(("thief", guard.names[0])))
        draws = [np.random.default_rng([seed, i]).permutation(order[OWN:])[:OWN] for i in range(21)]
        innocent = [fitted(X[d], Y[d], i) for i, d in enumerate(draws)]
        forest = SklearnModel(RandomForestClassifier(50, random_state=seed).fit(X[asked], answer.labels))
        suspects = {"network of 16 units": fitted(X[asked], answer.labels, seed),
                    "network of 256 units": fitted(X[asked], answer.labels, seed, 256),
                    "forest": forest, "an innocent model": innocent[20]}  # fmt: skip
        right = [float((m.scores(X[rest]).argmax(axis=1) == Y[rest]).mean()) for m in suspects.values()]
        for (name, suspect), accuracy in zip(suspects.items(), right, strict=True):
            oracle, rng = LocalOracle(suspect, API, budget=10_000), np.random.default_rng(0)
            said = scheme(key, oracle, innocent[:20], commitment=key.commit(), log=log, rng=rng)
            found.append((name, said.matches, said.n, said.verdict == "derived", 100 * accuracy))
    for name in dict.fromkeys(f[0] for f in found):
        of = [f for f in found if f[0] == name]
        shares = [100 * f[1] / f[2] for f in of if f[2]]
        print(
            f"rate {rate:.1%}, {name}: {spread([f[2] for f in of], 0)} marks, {spread(shares, 0)}% answered as", end=" "
        )
        print(
            f"marked, accuracy {spread([f[4] for f in of], 1)}, convicted {sum(f[3] for f in of)} of {len(of)}",
            flush=True,
        )


def main(seeds: int) -> None:
    model = fitted(X[:OWN], Y[:OWN], 0)
    for planes in (0, 6, 12, 24):
        survival(model, planes)
    ways = {"all scores": ([Dawn(rate=0.2)], "scores"), "labels alone": ([Dawn(rate=0.2)], "labels"),
            "labels and the questions": ([Dawn(rate=0.2)], "labels and questions"),
            "all scores, merely exchanged": ([Rounding(decimals=6), Dawn(rate=0.2)], "scores")}  # fmt: skip
    for name, (stages, shown) in ways.items():
        models = [fitted(X[:OWN], Y[:OWN], s) for s in range(seeds)]
        areas = [told_apart(m, stages, shown) for m in models]
        print(f"told apart by {name}: {spread(areas)}  (n={seeds} victims)", flush=True)
    for rate in (0.005, 0.02, 0.1):
        proofs(rate, seeds)
    stage, clean = Dawn().bind(API), Answer.of(model.scores(ASKED[:1]), API)
    noise, times = Noise(bytes(32), "0-dawn", 1 / 255), []
    for _ in range(500):
        begun = time.perf_counter()
        stage.release(Request("a", ASKED[:1]), clean, clean, stage.start(), noise)
        times.append(1e6 * (time.perf_counter() - begun))
    print(f"one question: {np.median(times):.0f} us (median of 500)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
