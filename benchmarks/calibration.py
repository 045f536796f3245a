"""Default thresholds beside calibrated ones: honest clients called a day, and thieves who are still caught.

    export PORTCULLIS_DATA=...
    python benchmarks/calibration.py [--sets NAME ...] [--clients 120] [--rate 0.05] [--seeds 3]

Tables and pictures that no default was chosen on. A client asks 150 rows on each of two days, drawn from rows that the
victim was not trained on, in a mixture of classes of their own (Dirichlet, 1); one in five is narrow and asks rows of
one class alone. A half of the clients sets the threshold, the other half gives both figures, with 95% intervals over
clients. Thieves ask 600 rows from one account: JbDA and Jb-top3 from ten seeds a class, Knockoff from another picture
set, or from rows of a table whose columns are drawn independently. `row` is the median row of the first alarm.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neural_network import MLPClassifier

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.guard import Detector
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Answer, Array, Estimate, Interface, Labels
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.detectors.low_confidence import LowConfidence
from portcullis_ml.detectors.prada import Prada
from portcullis_ml.detectors.prada_normality import PradaNormality
from portcullis_ml.extraction import CATALOG as EXTRACTION
from portcullis_ml.measures.calibration import ClientStream, calibrate, called, greatest_by_day
from portcullis_ml.measures.detection import first_alarm, run_detector
from portcullis_ml.models.torch import TorchLearner

TABLES = ("adult", "german_credit", "gss_happiness")
PICTURES = {"fashion_mnist": "emnist_letters", "emnist_letters": "fashion_mnist", "cifar10": "cifar100"}  # and pools
THIEVES = {"JbDA": "papernot", "Jb-top3": "jb_top3", "Knockoff": "knockoff"}
PER_DAY, DAYS, BUDGET, SEEDS_PER_CLASS, DAY = 150, 2, 600, 10, 86_400.0
DETECTORS: tuple[Detector[Any], ...] = (Prada(), PradaNormality(), LowConfidence())


@dataclass(frozen=True)
class Scene:
    """A victim and the rows of its domain that it has not seen, with their classes; a thief's pool."""

    estimator: Any
    interface: Interface
    x: Array
    y: Labels
    pool: Array
    said: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.interface.input_shape

    @property
    def n_classes(self) -> int:
        return self.interface.n_classes

    def scores(self, x: Array) -> Array:
        found = np.zeros((len(x), self.n_classes))
        found[:, self.estimator.classes_] = self.estimator.predict_proba(x.reshape(len(x), -1))
        return found

    def answer(self, x: Array) -> Answer:
        return Answer.of(self.scores(x), self.interface)


def scene_of(name: str) -> Scene:
    """The victim of a data set: boosted trees for a table, a layer of 64 for pictures."""
    held, rng = load_dataset(name, os.environ["PORTCULLIS_DATA"]), np.random.default_rng(0)
    x, y = np.concatenate([held.x, held.x_test]), np.concatenate([held.y, held.y_test]).astype(int)
    order = rng.permutation(len(x))[:24_000]
    own, rest = np.split(order, [min(4_000, len(order) * 3 // 10)])
    model: Any = HistGradientBoostingClassifier(random_state=0)
    if name in PICTURES:
        model = MLPClassifier((64,), max_iter=15, random_state=0)
        pool = load_dataset(PICTURES[name], os.environ["PORTCULLIS_DATA"]).x[:5_000]
    else:
        pool = np.stack([rng.permutation(column) for column in x[rest].T], axis=1)[:5_000]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        model.fit(x[own].reshape(len(own), -1), y[own])
    right = (model.predict(x[rest].reshape(len(rest), -1)) == y[rest]).mean()
    said = f"{name}: the victim was trained on {len(own):,} rows; {right:.1%} right on the clients' {len(rest):,}"
    return Scene(model, held.interface, x[rest], y[rest], pool, said)


def client(scene: Scene, number: int) -> ClientStream:
    """What one honest client asks on two days."""
    rng = np.random.default_rng([1, number])
    share = rng.dirichlet(np.ones(scene.n_classes))
    if number % 5 == 0:
        share = np.eye(scene.n_classes)[rng.integers(scene.n_classes)]
    weights = share[scene.y] / np.maximum(np.bincount(scene.y, minlength=scene.n_classes), 1)[scene.y]
    rows = rng.choice(len(scene.x), PER_DAY * DAYS, p=weights / weights.sum())
    x = scene.x[rows]
    return ClientStream(str(number), x, np.repeat(np.arange(DAYS) * DAY, PER_DAY), scene.answer(x))


def thief(scene: Scene, word: str, seed: int) -> tuple[Array, Answer]:
    """What one thief asks, in order, with the answers."""
    rng = np.random.default_rng([2, seed])
    of_class = [np.flatnonzero(scene.y == c) for c in range(scene.n_classes)]
    seeds = np.concatenate([rng.permutation(rows)[:SEEDS_PER_CLASS] for rows in of_class])
    learner = TorchLearner(network="mlp", epochs=20, targets="labels")
    knows = Knowledge(pool=scene.pool[rng.permutation(len(scene.pool))], seeds=scene.x[seeds], learner=learner)
    oracle = LocalOracle(scene, scene.interface, budget=BUDGET)
    found = EXTRACTION.build(word)(oracle, knows, rng=rng)
    return found.x, found.answer


def caught(threshold: float, suspicions: list[Array]) -> str:
    """How many thieves were called, and at which row at the median."""
    first = [first_alarm(s > threshold) for s in suspicions]
    rows = [row for row in first if row is not None]
    return f"{len(rows)} of {len(first)}" + (f", row {np.median(rows):.0f}" if rows else "")


def percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f}% [{100 * e.low:.1f}, {100 * e.high:.1f}]"


def row(
    detector: Detector[Any], streams: list[ClientStream], loud: Mapping[str, list[Array]], rate: float
) -> list[str]:
    """A detector's cells of the table; where no threshold spares these clients, that."""
    try:
        found = calibrate(detector, streams, rate=rate, rng=np.random.default_rng(3))
    except InputError:
        days = [greatest for s in streams if len(greatest := greatest_by_day(detector, s))]
        default = f"{detector.threshold:g}: {percent(called(days, detector.threshold))}"
        n = f"all {len(days)} clients, {sum(map(len, days))} days"
        by_default = [caught(detector.threshold, loud[who]) for who in THIEVES]
        return [default, "none can be set", n, *(f"{cell} / never" for cell in by_default)]
    default = f"{found.before:g}: {percent(found.held_out_before)}"
    now = f"{found.threshold:g}: {percent(found.held_out)}"
    n = f"{found.held_out.n} clients, {found.client_days} days"
    return [
        default,
        now,
        n,
        *(f"{caught(found.before, loud[w])} / {caught(found.threshold, loud[w])}" for w in THIEVES),
    ]


def report(scene: Scene, name: str, options: argparse.Namespace) -> None:
    streams = [client(scene, i) for i in range(options.clients)]
    asked = {who: [thief(scene, word, s) for s in range(options.seeds)] for who, word in THIEVES.items()}
    for detector in DETECTORS:
        loud = {who: [run_detector(detector, x, answer) for x, answer in held] for who, held in asked.items()}
        print(f"| {name} | {detector.name} | {' | '.join(row(detector, streams, loud, options.rate))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=[*TABLES, *PICTURES], default=[*TABLES, *PICTURES])
    parser.add_argument("--clients", type=int, default=120)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if not os.environ.get("PORTCULLIS_DATA"):
        sys.exit("A folder with data sets was expected: set PORTCULLIS_DATA.")
    head = ["set", "detector", "called a day at the default", f"calibrated at {options.rate:g}", "held out"]
    head += [f"{who} caught, default / calibrated" for who in THIEVES]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    scenes = []
    for name in options.sets:
        scene = scene_of(name)
        report(scene, name, options)
        scenes.append(scene.said)
    print("\n" + "\n".join(scenes))


if __name__ == "__main__":
    main()
