"""A small softmax regression to audit, its rows as files, and scenes made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.experiment import ExperimentSpec
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.settings import describe
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.models.softmax import SoftmaxRegression

DRAW = np.random.default_rng(7)
victim = SoftmaxRegression(DRAW.normal(size=(3, 4)) * 4, np.array([0.5, -1.0, 0.0]), input_shape=(4,))

reticent = SoftmaxRegression(victim.w, victim.b - [0, 0, 100], input_shape=(4,))  # never says class 2


class Broken:
    """Says NaN, or rows that do not sum to one."""

    input_shape, n_classes = (4,), 3

    def __init__(self, value: float) -> None:
        self.value = value

    def scores(self, x: np.ndarray) -> np.ndarray:
        return np.full((len(x), 3), self.value)


nan_victim, logits_victim = Broken(np.nan), Broken(2.0)


def truth(x: np.ndarray) -> np.ndarray:
    return victim.scores(x).argmax(axis=1)


def write(folder: Path, **changes: np.ndarray | None) -> dict[str, str]:
    """test.npz (x, y), pool.npz (x) and train.npz (x) in the folder; `changes` replace arrays, as test_y=..."""
    rng = np.random.default_rng(1)
    arrays = {
        "test_x": rng.uniform(size=(120, 4)),
        "pool_x": rng.uniform(size=(150, 4)),
        "train_x": rng.uniform(size=(50, 4)),
    }
    arrays["test_y"] = truth(arrays["test_x"])
    arrays |= changes
    for name in ("test", "pool", "train"):
        own = {k.removeprefix(f"{name}_"): v for k, v in arrays.items() if k.startswith(name) and v is not None}
        np.savez(folder / f"{name}.npz", **own)
    return {name: str(folder / f"{name}.npz") for name in ("test", "pool", "train")}


def spec(folder: Path, victim: str = f"{__name__}:victim", **changes: np.ndarray | None) -> ExperimentSpec:
    return ExperimentSpec(victim=victim, **write(folder, **changes))


def cell_for(spec: ExperimentSpec, attack: dict, **changes: object) -> Cell:
    names = spec.load().names
    settings = {
        "victim": names["victim"], "data": names["data"], "interface": {"reveals": "probs"}, "attack": attack,
        "budget": 60, "learner": describe(SklearnLearner()),
    }  # fmt: skip
    return Cell(**{**settings, **changes})


def workspace(folder: Path) -> Workspace:
    return Workspace(folder, lambda paid, budget: None)
