"""What the protocols on membership share: candidates, and models trained on known halves of them.

Models come in pairs of complementary halves. A victim is the first of its pair; every other pair is shadow models for
it, so one group of trainings serves several victims, and no shadow model shares a training with its victim.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.recipes import Hardening
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Array, Interface, Learner, Model, Rows
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.hardening import CATALOG as HARDENING
from portcullis_ml.measures.statistics import mean_over_seeds
from portcullis_ml.models.load import load_model, save_model
from portcullis_ml.models.shadows import Shadows, save_shadows, train_shadows

if TYPE_CHECKING:
    from portcullis_ml.models.torch import TorchLearner

__all__ = ["Scene", "Trained", "groups_of", "keep_group", "learner_of", "scene_of", "train", "training_cell"]

Plan = Mapping[str, Any]


@dataclass(frozen=True)
class Scene:
    """Rows that may have been trained on, rows that judge accuracy, and rows that train innocent models."""

    candidates: Rows
    test: Rows
    others: Rows
    interface: Interface


@lru_cache(maxsize=2)
def scene_of(name: str, folder: str | None, candidates: int, test: int) -> Scene:
    """So many candidates, no two of them alike, and test rows that are no candidates. What is left of the training
    rows trains innocent models; where nothing is left, the test rows do."""
    data = load_dataset(name, folder)
    x, y = data.x, data.y.astype(np.int64)
    order = _different(x, derive(0, "membership", name).permutation(len(x)))
    ours, rest = order[:candidates], order[candidates : 2 * candidates]
    known = {row.tobytes() for row in x[ours]}
    apart = np.array([row.tobytes() not in known for row in data.x_test])
    tested = Rows(data.x_test[apart][:test], data.y_test[apart][:test].astype(np.int64))
    others = Rows(x[rest], y[rest]) if len(rest) >= candidates // 2 else tested
    return Scene(Rows(x[ours], y[ours]), tested, others, data.interface)


def _different(x: Array, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order without rows that equal an earlier one."""
    first: dict[bytes, int] = {}
    for i in order:
        first.setdefault(x[i].tobytes(), int(i))
    return np.array(list(first.values()))


@dataclass(frozen=True)
class HardenedLearner:
    """A hardening as a learner, so that shadow models are trained as the victim was."""

    given: TorchLearner
    hardening: Hardening

    def about(self) -> dict[str, Any]:
        return {"given": describe(self.given), "hardening": describe(self.hardening)}

    def fit(self, x: Array, targets: Array, *, rng: np.random.Generator, start: Model | None = None) -> Model:
        """A model of rows x with the most likely classes of `targets`; it always begins anew."""
        return self.hardening(self.given, Rows(x, targets.argmax(axis=1)), None, rng=rng)


def learner_of(training: Plan, device: str) -> Learner:
    """How models of this training are made."""
    from portcullis_ml.models.torch import TorchLearner

    given = TorchLearner(**training["learner"], device=device)
    if "hardening" not in training:
        return given
    return HardenedLearner(given, HARDENING.build(training["hardening"]))


def training_cell(scene: str, rows: Plan, name: str, training: Plan) -> Cell:
    """The cell that trains all models of one group."""
    return Cell(
        victim={"name": scene, "settings": dict(training)},
        data={"name": rows["data"], "settings": dict(rows)},
        interface={"reveals": "probs"},
        attack={"unit": "training"},
        role="control",
        extra={"training": name},
        names={"attack": "training", "defense": name, "scene": scene},
    )


def train(cell: Cell, workspace: Workspace, *, folder: str | None, device: str, out: Path) -> Record:
    """Train the group, and keep its models under `out`/trained. Accuracy on own rows and on test rows."""
    scene, training = scene_for(cell, folder), cell.victim["settings"]
    x, y = scene.candidates.x, scene.candidates.y
    assert y is not None
    assert scene.others.y is not None
    learner, classes = learner_of(training, device), scene.interface.n_classes
    made = train_shadows(
        learner, x, y, classes, models=training["models"], rng=cell.rng("models"), progress=workspace.report
    )
    innocents = [
        learner.fit(scene.others.x, np.eye(classes)[scene.others.y], rng=cell.rng("innocent", str(v)))
        for v in range(training.get("innocents", 0))
    ]
    keep_group(made, training["victims"], innocents, workspace, out / "trained" / cell.id, learner, scene)
    shares = [_accuracy(model, scene.test) for model in made.models]
    own = [_accuracy(m, Rows(x[h], y[h])) for m, h in zip(made.models, made.held, strict=True)]
    measures = {"accuracy": mean_over_seeds(shares), "training_accuracy": mean_over_seeds(own)}
    spent = getattr(made.models[0], "notes", None)
    notes = {"models": len(made.models), "rows": int(made.held[0].sum()), "spent": spent}
    return Record(cell=cell, measures=measures, notes=notes)


def keep_group(
    made: Shadows,
    victims: int,
    innocents: Sequence[Model],
    workspace: Workspace,
    target: Path,
    learner: Learner,
    scene: Scene,
) -> None:
    """Write a group into the folder `target`, whole or not at all: who held what, the first models of so many pairs,
    for each of these the models of all other pairs, and models that held no candidate."""
    candidates, place = scene.candidates, workspace.folder / "trained"
    assert candidates.y is not None
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    np.save(place / "held.npy", made.held, allow_pickle=False)
    for v in range(victims):
        save_model(made.models[2 * v], place / f"victim-{v}")
        apart = [i for i in range(len(made.models)) if i // 2 != v]
        others = Shadows([made.models[i] for i in apart], made.held[apart])
        save_shadows(others, place / f"shadows-{v}", learner, candidates.x, candidates.y)
    for v, innocent in enumerate(innocents):
        save_model(innocent, place / f"innocent-{v}")
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(place, target)


def scene_for(cell: Cell, folder: str | None) -> Scene:
    rows = cell.data["settings"]
    return scene_of(rows["data"], folder, rows["candidates"], rows["test"])


def _accuracy(model: Model, rows: Rows) -> float:
    return float((model.scores(rows.x).argmax(axis=1) == rows.y).mean())


@dataclass(frozen=True)
class Trained:
    """The group of models that a training cell has made, on this machine."""

    place: Path
    scene: Scene

    @classmethod
    def of(cls, training: Cell, out: Path, folder: str | None) -> Trained:
        place = out / "trained" / training.id
        if not place.is_dir():
            raise InputError(
                f"{out} has records and no longer the models that they speak of. Choose another --out to begin anew."
            )
        return cls(place, scene_for(training, folder))

    def victim(self, v: int) -> Model:
        return self._load(f"victim-{v}")

    def innocent(self, v: int) -> Model:
        return self._load(f"innocent-{v}")

    def shadows(self, v: int) -> Artifact:
        return Artifact.at(str(self.place / f"shadows-{v}"))

    def model(self, i: int) -> Model:
        """The model of that number. Shadow models of a victim are all but its own pair."""
        return self._load(f"shadows-0/model-{i - 2:03d}" if i > 1 else f"shadows-1/model-{i:03d}")

    def held(self) -> NDArray[np.bool_]:
        """(models, candidates) which of them each model was trained on."""
        return np.asarray(np.load(self.place / "held.npy", allow_pickle=False), bool)

    def member(self, v: int) -> NDArray[np.bool_]:
        """(candidates,) which of them this victim was trained on."""
        return np.asarray(self.held()[2 * v])

    def _load(self, name: str) -> Model:
        (path,) = self.place.glob(f"{name}.*")
        shape, classes = self.scene.interface.input_shape, self.scene.interface.n_classes
        return load_model(str(path), input_shape=shape, n_classes=classes)


def groups_of(plan: Plan) -> Iterator[Cell]:
    """A training cell for every group of every scene."""
    for scene, settings in plan["scene"].items():
        for name, training in settings["training"].items():
            yield training_cell(scene, settings["rows"], name, training)
