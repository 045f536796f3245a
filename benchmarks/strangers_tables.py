"""Who steals more of a table's model: our attacks, or ten lines of scikit-learn?

    export PORTCULLIS_DATA=... OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python benchmarks/strangers_tables.py [seeds] > benchmarks/results/strangers-tables.txt

Victims are trained on 500 rows (half of Breast Cancer), nobody has a pool, everybody pays for 1,000 questions. Every
attack ends in the learner that chooses (`auto`), so that strategies differ in their questions only; the stranger asks
uniform questions and fits a stock model. Agreement in percent on rows that nobody trained on: mean and 95% interval of
Student's t over seeds. The last column is mixed less stranger, seed by seed.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from portcullis_ml.bench.controls import PlainStranger
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Feature, Interface, Reveals
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.extraction.retraining import Retraining
from portcullis_ml.measures.statistics import mean_over_seeds
from portcullis_ml.models.sklearn import SklearnModel, table_pipeline

BUDGET, TRAIN, TEST = 1000, 500, 2000
KINDS: dict[str, Any] = {
    "boosted trees": lambda: GradientBoostingClassifier(random_state=0),
    "forest": lambda: RandomForestClassifier(100, random_state=0),
    "logistic": lambda: LogisticRegression(max_iter=3000),
    "network": lambda: MLPClassifier((20,), max_iter=800, random_state=0),
}
VICTIMS = [
    *[("german_credit", kind) for kind in ("boosted trees", "network")],
    *[(table, kind) for table in ("adult", "breast_cancer") for kind in ("boosted trees", "forest", "logistic")],
]
ATTACKS: dict[str, Any] = {
    "uniform": Retraining(strategy="uniform"),
    "adaptive": Retraining(strategy="adaptive"),
    "mixed": Retraining(strategy="mixed"),
    "stranger": PlainStranger(),
}


def rows_of(table: str) -> tuple[Array, Any, tuple[Feature, ...]]:
    if table != "breast_cancer":
        d = load_dataset(table, os.environ["PORTCULLIS_DATA"])
        return np.concatenate([d.x, d.x_test]), np.concatenate([d.y, d.y_test]).astype(int), d.features or ()
    found = load_breast_cancer()
    spans = zip(found.feature_names, found.data.min(axis=0), found.data.max(axis=0), strict=True)
    return found.data, found.target, tuple(Feature(str(n), float(low), float(high)) for n, low, high in spans)


@lru_cache
def victim(table: str, kind: str) -> tuple[SklearnModel, Interface, Array]:
    """The victim, its interface and the rows that judge."""
    x, y, features = rows_of(table)
    order = np.random.default_rng(0).permutation(len(x))
    n = min(TRAIN, len(x) // 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = table_pipeline(features, KINDS[kind]()).fit(x[order[:n]], y[order[:n]])
    door = Interface(input_shape=x.shape[1:], n_classes=2, features=features)
    return SklearnModel(fitted, n_classes=2), door, x[order[n:]][:TEST]


def run(job: tuple[str, str, str, str, int]) -> tuple[float, float]:
    """Agreement in percent, and seconds."""
    table, kind, shown, attack, seed = job
    model, door, test = victim(table, kind)
    oracle = LocalOracle(model, door.revealing(reveals=Reveals.parse(shown)), budget=BUDGET)
    clock = time.perf_counter()
    copy = ATTACKS[attack](oracle, Knowledge(), rng=np.random.default_rng(seed)).model
    seconds = time.perf_counter() - clock
    same = copy.scores(test).argmax(axis=1) == model.scores(test).argmax(axis=1)
    return 100 * float(same.mean()), seconds


def main(seeds: int) -> None:
    jobs = [(*v, s, a, i) for v in VICTIMS for s in ("probs", "labels") for a in ATTACKS for i in range(seeds)]
    clock = time.perf_counter()
    with ProcessPoolExecutor() as pool:
        found = dict(zip(jobs, pool.map(run, jobs), strict=True))
    print(f"{BUDGET:,} questions, no pool, {seeds} seeds: mean [95% interval] of agreement in percent\n")
    print(f"{'victim':34}{'shown':8}{'n':>5}" + "".join(f"{a:>23}" for a in ATTACKS) + f"{'mixed - stranger':>22}")
    for table, kind in VICTIMS:
        for shown in ("probs", "labels"):
            got = {a: [found[table, kind, shown, a, i][0] for i in range(seeds)] for a in ATTACKS}
            lead = [a - b for a, b in zip(got["mixed"], got["stranger"], strict=True)]
            cells = "".join(f"{_interval(values, (0, 100)):>23}" for values in got.values())
            n = len(victim(table, kind)[2])
            print(f"{f'{table}, {kind}':34}{shown:8}{n:>5}{cells}{_interval(lead, (-100, 100)):>22}")
    means = {a: np.mean([seconds for job, (_, seconds) in found.items() if job[3] == a]) for a in ATTACKS}
    print("\nseconds a theft: " + ", ".join(f"{a} {s:.1f}" for a, s in means.items()))
    print(f"{time.perf_counter() - clock:.0f} seconds in all on {os.cpu_count()} cores")


def _interval(values: list[float], within: tuple[float, float]) -> str:
    e = mean_over_seeds(values, within=within)
    return f"{e.value:.1f} [{e.low:.1f}, {e.high:.1f}]"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
