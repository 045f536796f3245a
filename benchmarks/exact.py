"""Exact extraction: how long an attack takes without its oracle, and how exact the copy is.

    python benchmarks/exact.py [--data FOLDER] [--part speed trees logistic softmax mlp labels adaptive rounding kernel]

FOLDER holds adult.csv.gz (default: the environment variable PORTCULLIS_DATA); without it, the Adult victims are random
ones of the same size. The oracle's time is measured by itself and taken off. Copies are compared with the victim on
10,000 uniform points; "seen" is how many classes the victim gives those points, since agreement means nothing at 1.
Seconds are the processor's, so that other work on the machine does not count. A new part is one generator of rows and
one line in PARTS.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, make_blobs, make_classification
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from portcullis_ml.core.types import Array, Interface, Labels, Reveals
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.extraction.equation_solving import EquationSolving
from portcullis_ml.extraction.kernel import Kernel
from portcullis_ml.extraction.lowd_meek import LowdMeek
from portcullis_ml.extraction.retraining import Retraining
from portcullis_ml.extraction.tree_ensembles import TreeEnsembles
from portcullis_ml.extraction.tree_paths import TreePaths
from portcullis_ml.models.encoding import Encoding
from portcullis_ml.models.kernel import KernelRegression, Quadric, match_representers, rbf
from portcullis_ml.models.mlp import Mlp, fit_mlp
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.models.tree import grow_tree
from thefts import HEAD, Row, Theft, door_of


def scaled(x: Array) -> Array:
    low, high = x.min(axis=0), x.max(axis=0)
    return np.where(high > low, 2 * (x - low) / np.where(high > low, high - low, 1) - 1, 0)


def table(name: str) -> tuple[Array, Labels]:
    if name == "5-class":
        x, y = make_classification(1000, 20, n_informative=4, n_classes=5, n_clusters_per_class=1, random_state=0)
    elif name == "blobs":
        x, y = make_blobs(5000, centers=3, cluster_std=0.5, random_state=0)
    else:
        x, y = {"iris": load_iris, "digits": load_digits}[name](return_X_y=True)
    return scaled(x), y


def adult_race(folder: str | None) -> tuple[Array, Labels]:
    """Encoded rows, complete ones; random ones of the paper's size (105 inputs, 5 classes) where there is no folder."""
    if folder is None:
        rng = np.random.default_rng(0)
        x = rng.uniform(-1, 1, (5000, 105))
        return x, (x @ rng.normal(size=(105, 5))).argmax(axis=1)
    data = load_dataset("adult", folder=folder, target="race")
    interface = Interface(input_shape=data.x.shape[1:], n_classes=5, features=data.features)
    return Encoding.of(interface)(data.x), data.y


def linear(name: str, one_vs_rest: bool = False) -> SklearnModel:
    x, y = table(name)
    estimator = LogisticRegression(max_iter=5000)
    return SklearnModel((OneVsRestClassifier(estimator) if one_vs_rest else estimator).fit(x, y))


def network(x: Array, y: Labels, seed: int = 0) -> Mlp:
    """20 tanh units; the penalty of the published code, 1e-4 |w|^2 beside a loss averaged over rows *and* classes."""
    classes = int(y.max()) + 1
    rng = np.random.default_rng(seed)
    return fit_mlp(x, np.eye(classes)[y], rng=rng, restarts=1, penalty=2e-4 * classes, iterations=200)


def speed(folder: str | None) -> Iterator[Row]:
    """Softmax of 530 unknowns under 5 s and a network at 4,450 queries under 60 s are the targets, on two cores."""
    x, y = adult_race(folder)
    rows = np.random.default_rng(0).permutation(len(x))[:6000]
    d = x.shape[1]
    yield HEAD
    victim = SklearnModel(LogisticRegression(max_iter=300).fit(x[rows], y[rows]))
    for route, budget in (("log_ratio", d + 1), ("cross_entropy", 5 * (d + 1)), ("auto", 10_000)):
        theft = Theft(
            EquationSolving(route=route, held_out=0 if route != "auto" else 5), victim, door_of(victim), budget
        )
        yield theft.row(f"Adult-Race softmax, {route}")
    ovr = SklearnModel(OneVsRestClassifier(LogisticRegression(max_iter=300)).fit(x[rows], y[rows]))
    yield Theft(EquationSolving(), ovr, door_of(ovr), 10_000).row("Adult-Race one-vs-rest, auto")
    labels = door_of(victim, reveals=Reveals.LABELS)
    yield Theft(Retraining(strategy="adaptive", surrogate="softmax", alpha=5), victim, labels, 10_000).row(
        "Adult-Race softmax, labels, alpha 5"
    )
    shuffled = np.random.default_rng(0).permutation(len(x))
    train, test = np.split(shuffled, [len(x) * 7 // 10])
    net = network(x[train], y[train])
    truth = net.scores(x[test]).argmax(axis=1)
    for budget in (1112, 2225, 4450, 11_125):  # published 1 - R_test: 98.17, 98.68, 99.89, 99.96%
        theft = Theft(Retraining(strategy="uniform", surrogate="mlp"), net, door_of(net), budget)
        same = float((theft.result.model.scores(x[test]).argmax(axis=1) == truth).mean())
        yield (*theft.row("Adult-Race network"), f"1 - R_test {same:.2%}, seen {len(np.unique(truth))}")


def trees(folder: str | None) -> Iterator[Row]:
    """One tree of 250 leaves, in under 10 s, and 50 trees of depth 4. At the end: boxes of leaves, or thresholds.

    The single tree shows 156 confidences at its 250 leaves: what lies between leaves that answer alike, `probes` finds.
    """
    yield (*HEAD, "found", "of")
    x, y = make_classification(20_000, 10, n_informative=8, flip_y=0.3, random_state=0)
    tree = grow_tree(scaled(x), y, rng=np.random.default_rng(0), shows="confidence", max_leaf_nodes=250)
    for mode, probes in (("bottom_up", 0), ("bottom_up", 20), ("top_down", 0), ("top_down", 20)):
        door = door_of(tree, missing=mode == "top_down")
        theft = Theft(TreePaths(mode=mode, probes=probes), tree, door, 10**6)
        yield (*theft.row(f"one tree, {mode}, {probes} probes"), theft.result.notes["leaves"], tree.leaves)
    x, y = load_breast_cancer(return_X_y=True)
    for kind in (RandomForestClassifier, GradientBoostingClassifier):
        ensemble = kind(n_estimators=50, max_depth=4, random_state=0).fit(scaled(x), y)
        victim, splits = SklearnModel(ensemble), [t.tree_ for t in np.ravel(ensemble.estimators_)]
        true = {(j, e) for t in splits for j, e in zip(t.feature, t.threshold, strict=True) if j >= 0}
        theft = Theft(TreeEnsembles(), victim, door_of(victim), 10**6)
        yield (*theft.row(f"{kind.__name__}, 50 trees"), theft.result.notes["thresholds"], len(true))


def logistic(folder: str | None) -> Iterator[Row]:
    yield ("d", "queries", "worst parameter error of 20 victims")
    for d in (2, 8, 63, 108):
        worst = 0.0
        for seed in range(20):
            rng = np.random.default_rng(seed)
            w, b = rng.normal(size=d), rng.normal()
            victim = SoftmaxRegression(np.stack([0 * w, w]), np.array([0.0, b]))
            theft = Theft(EquationSolving(), victim, door_of(victim), d + 1, seed)
            copy: Any = theft.result.model
            worst = max(worst, float(np.abs(np.append(copy.w[1] - copy.w[0] - w, copy.b[1] - copy.b[0] - b)).max()))
        yield (d, theft.result.queries, f"{worst:.1e}")


def softmax(folder: str | None) -> Iterator[Row]:
    yield (*HEAD, "family", "log-ratio residual")
    for name in ("iris", "5-class", "blobs", "digits"):
        for one_vs_rest in (False, True):
            victim = linear(name, one_vs_rest)
            d, c = victim.input_shape[0], victim.n_classes
            kind = "one-vs-rest" if one_vs_rest else "softmax"
            if not one_vs_rest:
                theft = Theft(EquationSolving(), victim, door_of(victim), d + 1)
                yield theft.row(f"{name} {kind}, d + 1")
                k = c * (d + 1)
                theft = Theft(EquationSolving(route="cross_entropy", held_out=0), victim, door_of(victim), k)
                yield theft.row(f"{name} {kind}, cross-entropy")
            theft = Theft(EquationSolving(), victim, door_of(victim), 10_000)
            notes = theft.result.notes
            yield (*theft.row(f"{name} {kind}, auto"), notes["family"], f"{notes['residual']:.1e}")


def mlp(folder: str | None) -> Iterator[Row]:
    """The phase transition of a network's extraction, from probabilities and from labels."""
    yield (*HEAD, "alpha")
    for name in ("5-class", "iris"):
        victim = network(*table(name))
        for alpha in (0.5, 1, 2, 5):
            attack = Retraining(strategy="uniform", surrogate="mlp", alpha=alpha)
            yield (*Theft(attack, victim, door_of(victim), 100_000).row(f"{name} network"), alpha)
        attack = Retraining(strategy="uniform", surrogate="mlp", alpha=5, answers="labels")
        yield (*Theft(attack, victim, door_of(victim), 100_000).row(f"{name} network, labels"), 5)


def labels(folder: str | None) -> Iterator[Row]:
    """Lowd and Meek: the direction of random hyperplanes, and random quadrics."""
    yield (*HEAD, "queries each unknown", "direction error")
    for d in (2, 8, 20, 63, 105):
        rng = np.random.default_rng(d)
        w, b = rng.normal(size=d), 0.3 * rng.normal()
        victim = SoftmaxRegression(np.stack([0 * w, w]), np.array([0.0, b]))
        theft = Theft(LowdMeek(), victim, door_of(victim, reveals=Reveals.LABELS), 10**6)
        copy: Any = theft.result.model
        ours, true = np.append(copy.w[1], copy.b[1]), np.append(w, b)
        error = np.abs(ours / np.linalg.norm(ours[:-1]) - true / np.linalg.norm(w)).max()
        yield (*theft.row(f"hyperplane, d = {d}"), f"{theft.result.queries / (d + 1):.1f}", f"{error:.1e}")
    for d in (2, 5, 10):
        unknowns = (d + 1) * (d + 2) // 2
        quadric = Quadric(np.random.default_rng(d).normal(size=unknowns), d)
        theft = Theft(LowdMeek(kernel="quadratic"), quadric, door_of(quadric, reveals=Reveals.LABELS), 60 * unknowns)
        yield (*theft.row(f"quadric, d = {d}"), f"{theft.result.queries / unknowns:.1f}", "")


def adaptive(folder: str | None) -> Iterator[Row]:
    """Mean R_unif of five logistic regressions with 20 inputs, from labels."""
    yield ("alpha", "uniform", "line_search", "adaptive", "uniform / adaptive")
    for alpha in (5, 10, 20, 50, 100):
        means = []
        for strategy in ("uniform", "line_search", "adaptive"):
            wrong = []
            for seed in range(5):
                rng = np.random.default_rng(seed)
                w, b = rng.normal(size=20), 0.3 * rng.normal()
                victim = SoftmaxRegression(np.stack([0 * w, w]), np.array([0.0, b]))
                door = door_of(victim, reveals=Reveals.LABELS)
                theft = Theft(
                    Retraining(strategy=strategy, surrogate="softmax", alpha=alpha), victim, door, 10_000, seed
                )
                assert theft.result.queries == alpha * 21
                wrong.append(theft.wrong)
            means.append(float(np.mean(wrong)))
        yield (alpha, *(f"{m:.2%}" for m in means), f"{means[0] / max(means[2], 1e-9):.1f}")


def rounding(folder: str | None) -> Iterator[Row]:
    """Softmax on digits, its 650 unknowns from 650 rounded answers."""
    yield (*HEAD, "decimals")
    victim = linear("digits")
    for decimals in (None, 5, 4, 3, 2):
        door = door_of(victim, decimals=decimals)
        theft = Theft(EquationSolving(route="cross_entropy", held_out=0), victim, door, 650)
        yield (*theft.row("digits softmax, cross-entropy"), decimals)


def kernel(folder: str | None) -> Iterator[Row]:
    """The representers of a kernel regression on 20 digits, mean |difference| a pixel of [-1, 1]."""
    x, y = load_digits(return_X_y=True)
    x, rng = x / 8 - 1, np.random.default_rng(0)
    rows = np.concatenate([rng.choice(np.flatnonzero(y == c), 2, replace=False) for c in range(10)])
    fitted = LogisticRegression(C=100, max_iter=5000).fit(rbf(x, x[rows], 0.03), y)
    victim = KernelRegression(x[rows], fitted.coef_.T, fitted.intercept_, 0.03)
    yield (*HEAD, "median matched", "best", "median random")
    for gamma in (0.03, None):
        theft = Theft(Kernel(gamma=gamma), victim, door_of(victim), 5000)
        copy: Any = theft.result.model
        _, leaked = match_representers(copy.representers, x[rows])
        _, random = match_representers(rng.uniform(-1, 1, (20, 64)), x[rows])
        figures = (f"{np.median(leaked):.3f}", f"{leaked.min():.3f}", f"{np.median(random):.3f}")
        yield (*theft.row(f"digits, gamma {'given' if gamma else 'found: ' + format(copy.gamma, '.4f')}"), *figures)


PARTS: dict[str, Callable[[str | None], Iterator[Row]]] = {
    "speed": speed,
    "trees": trees,
    "logistic": logistic,
    "softmax": softmax,
    "mlp": mlp,
    "labels": labels,
    "adaptive": adaptive,
    "rounding": rounding,
    "kernel": kernel,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("PORTCULLIS_DATA"))
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    for part in arguments.part:
        print(f"\n{part}")
        for row in PARTS[part](arguments.data):
            print("  ".join(f"{cell!s:>{34 if i == 0 else 10}}" for i, cell in enumerate(row)), flush=True)


if __name__ == "__main__":
    main()
