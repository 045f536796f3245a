"""The victims of `planner.py`: small parts of known data sets, written to a folder, and how each is trained."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from portcullis_ml.bench.experiment import ExperimentSpec
from portcullis_ml.bench.run_audit import AuditOptions
from portcullis_ml.core.types import Array, Model
from portcullis_ml.models.sklearn import SklearnModel

DATA = Path(os.environ.get("PORTCULLIS_DATA", "."))
NETWORK = "network(network=mlp, epochs=20)"


@dataclass(frozen=True, kw_only=True)
class Boosted:
    """Histogram boosting as a victim's training procedure."""

    suffix: ClassVar[str] = ".skops"
    trees: int = 100

    def fit(
        self, x: Array, targets: Array, *, rng: np.random.Generator, start: Any = None, progress: Any = None
    ) -> Model:
        from sklearn.ensemble import HistGradientBoostingClassifier

        seed = int(rng.integers(2**31))
        made = HistGradientBoostingClassifier(max_iter=self.trees, random_state=seed).fit(x, targets.argmax(axis=1))
        return SklearnModel(made, n_classes=targets.shape[1])


@dataclass(frozen=True)
class Scene:
    """A victim, and the thieves that are tried beside the stranger. `tuning` ones chose the form of the curve."""

    data: Callable[[Path], str]
    trained: str
    attacks: tuple[str, ...]
    learner: str | None
    tuning: bool = False

    def options(self, folder: Path) -> AuditOptions:
        spec = ExperimentSpec(data=self.data(folder), trained=self.trained, rows=3_000, cache=str(folder))
        return AuditOptions(spec=spec, attacks=self.attacks, learner=self.learner, defenses=())


def pictures(name: str, train: int, test: int) -> Callable[[Path], str]:
    """A file with that many of a data set's pictures, drawn once."""

    def made(folder: Path) -> str:
        path = folder / f"{name}_{train}.npz"
        if not path.exists():
            whole, rng = np.load(DATA / f"{name}.npz"), np.random.default_rng(0)
            own, judge = (
                np.sort(rng.permutation(len(whole[f"y_{p}"]))[:n]) for p, n in (("train", train), ("test", test))
            )
            np.savez(
                path, x_train=whole["x_train"][own], y_train=whole["y_train"][own], x_test=whole["x_test"][judge],
                y_test=whole["y_test"][judge],
            )  # fmt: skip
        return str(path)

    return made


def adult(folder: Path) -> str:
    """6,000 rows of Adult, its numbers only."""
    path, numbers = (
        folder / "adult_6000.csv",
        ("age", "education_num", "capital_gain", "capital_loss", "hours_per_week"),
    )
    if not path.exists():
        with gzip.open(DATA / "adult.csv.gz", "rt") as lines, path.open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow([*numbers, "income"])
            for _, row in zip(range(6_000), csv.DictReader(lines), strict=False):
                out.writerow([*(row[n] for n in numbers), row["income"].strip(".")])
    return str(path)


SCENES = {
    "USPS": Scene(pictures("usps", 3_000, 600), NETWORK, ("knockoff",), "sklearn", tuning=True),
    "Fashion-MNIST": Scene(pictures("fashion_mnist", 3_000, 600), NETWORK, ("knockoff",), "sklearn", tuning=True),
    "digits": Scene(lambda _: "digits", NETWORK, ("knockoff",), "sklearn"),
    "MNIST": Scene(pictures("mnist", 4_000, 600), NETWORK, ("knockoff",), "sklearn"),
    "Adult, boosting": Scene(
        adult, "planner_victims:Boosted", ("knockoff", "retraining(strategy=uniform)"), "sklearn(estimator=forest)"
    ),
    "digits, linear": Scene(lambda _: "digits", "sklearn(c=1.0)", (), None),
    "CIFAR-10, frozen features": Scene(pictures("cifar10", 3_000, 600), "pretrained", ("knockoff",), "pretrained"),
}
