"""What is measured of a defense itself, without a thief: where its answers go, whom it takes for foreign, who answers.

Each function takes a cell with everything trained and its scene, and gives measures by name and notes. Rows of the
pool, of the owner's outside rows and of the thief's own domain are those of the scene; none was trained on, but for the
outside rows of the cell's own regime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.defended_scene import Scene
from portcullis_ml.bench.target import guard_of, hardened_folder, interface_of
from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.types import Answer, Array, Estimate, Model, Request
from portcullis_ml.measures.agreement import agreement
from portcullis_ml.measures.coherence import coherence
from portcullis_ml.measures.statistics import clopper_pearson, mean_of
from portcullis_ml.models.artifacts import unpack_arrays
from portcullis_ml.models.dense import DenseModel

__all__ = ["FACTS"]

Found = tuple[dict[str, Estimate], dict[str, Any]]
NOISE = 1 / 255  # of a pixel: what a question may differ by and still be the same picture


def poisoning(cell: Cell, scene: Scene) -> Found:
    """Labels kept and distance on test rows; entropy of answers, angle and the commonest direction on the pool."""
    experiment = scene.load(hardened_folder(cell))
    assert experiment.pool is not None
    y, shown = _answers(cell, scene, experiment.model, experiment.test_x)
    measures = {
        "labels_kept": agreement(y.argmax(axis=1), shown.argmax(axis=1)),
        "distance": mean_of(np.abs(y - shown).sum(axis=1), within=(0.0, 2.0)),
    }
    y, shown = _answers(cell, scene, experiment.model, experiment.pool)
    safe = np.maximum(shown, 1e-12)
    measures["entropy"] = mean_of(-(safe * np.log2(safe)).sum(axis=1))
    moved = np.bincount((shown - y).argmax(axis=1), minlength=y.shape[1])
    measures["one_class"] = clopper_pearson(int(moved.max()), len(y))
    if cell.defense and "surrogate" in cell.defense[0]:
        p = _network(cell.defense[0]["surrogate"], "surrogate.safetensors").scores(experiment.pool)
        measures["angle"] = mean_of(_degrees(y - p, shown - p))
    return measures, {"poison_by_class": moved.tolist()}


def gate(cell: Cell, scene: Scene) -> Found:
    """Rows of each kind that lie below tau; what accuracy follows from that; how often the network is right."""
    experiment = scene.load(hardened_folder(cell))
    assert experiment.test_y is not None
    stage = cell.defense[0]
    network = _network(stage["network"], "misinformation.safetensors")
    measures = {}
    for name, x in _kinds(scene).items():
        measures[f"below_{name}"] = _share(experiment.model.scores(x).max(axis=1) <= stage["tau"])
    y = experiment.model.scores(experiment.test_x)
    sure = y.max(axis=1) > stage["tau"]
    avoided = network.scores(experiment.test_x).argmax(axis=1) == experiment.test_y
    right = y.argmax(axis=1) == experiment.test_y
    measures["predicted_accuracy"] = _share(np.where(sure, right, avoided))
    measures["network_right"] = _share(avoided)
    return measures, {}


def ensemble(cell: Cell, scene: Scene) -> Found:
    """Coherence of the members, who answers, and how steady labels are when every pixel moves a little."""
    experiment = scene.load(hardened_folder(cell))
    assert experiment.test_y is not None
    model: Any = experiment.model
    measures, notes = {}, {}
    for name, x in _kinds(scene).items():
        members, chosen = _members(model, x)
        measures[f"coherence_{name}"] = mean_of(coherence(members), within=(0.0, 1.0))
        shares = np.bincount(chosen, minlength=members.shape[1]) / len(x)
        measures[f"busiest_{name}"] = clopper_pearson(round(shares.max() * len(x)), len(x))
        notes[f"shares_{name}"] = shares.round(3).tolist()
    members, chosen = _members(model, experiment.test_x)
    accuracy = [(members[:, i].argmax(axis=1) == experiment.test_y).mean() for i in range(members.shape[1])]
    notes["accuracy_of_members"] = [round(float(a), 3) for a in accuracy]
    noise = cell.rng("noise").uniform(-NOISE, NOISE, experiment.test_x.shape)
    moved = np.clip(experiment.test_x + noise, *experiment.interface.bounds)
    again = model.scores(moved)
    measures["steady"] = agreement(model.scores(experiment.test_x).argmax(axis=1), again.argmax(axis=1))
    measures["same_member"] = _share(chosen == _members(model, moved)[1])
    return measures, notes


def domain(cell: Cell, scene: Scene) -> Found:
    """Positive is in-distribution: the share of the domain's rows accepted, and of each foreign kind rejected."""
    experiment = scene.load(hardened_folder(cell))
    interface = interface_of(cell, experiment)
    guard = guard_of(cell, interface)
    assert guard is not None  # facts of a filter are asked of a filter
    measures = {}
    for name, x in _kinds(scene).items():
        clean = Answer.of(experiment.model.scores(x), interface)
        flagged = guard.release(Request(name, x), clean).altered
        measures[f"accepted_{name}" if name in ("test", "own") else f"rejected_{name}"] = _share(
            ~flagged if name in ("test", "own") else flagged
        )
    return measures, {}


FACTS: Mapping[str, Callable[[Cell, Scene], Found]] = {
    "domain": domain,
    "ensemble": ensemble,
    "gate": gate,
    "poisoning": poisoning,
}


def _kinds(scene: Scene) -> dict[str, Array]:
    """Rows by what they are: of the domain (test rows, a thief's own), of the pool, of the other source."""
    experiment = scene.load()
    assert experiment.pool is not None
    return {
        "test": experiment.test_x,
        "own": scene.own()[0],
        "pool": experiment.pool,
        "matched": experiment.outside["matched"].x,
        "held_out": experiment.outside["held_out"].x,
    }


def _answers(cell: Cell, scene: Scene, model: Model, x: Array) -> tuple[Array, Array]:
    """(n, c), (n, c): the model's probabilities, and what the cell's guard makes of them."""
    interface = interface_of(cell, scene.load())
    clean = Answer.of(model.scores(x), interface)
    assert clean.scores is not None
    guard = guard_of(cell, interface)
    shown = clean if guard is None else guard.release(Request("examiner", x), clean).answer
    assert shown.scores is not None
    return clean.scores, shown.scores


def _members(model: Any, x: Array) -> tuple[Array, Any]:
    """(n, members, c) what every member says, and (n,) which of them answers."""
    import torch

    with torch.inference_mode():
        parts = torch.split(torch.tensor(x, dtype=torch.float32), 512)
        said = [torch.stack([member(part) for member in model.module], 1) for part in parts]
        chosen = [model.module.chosen(part) for part in parts]
        return torch.softmax(torch.cat(said).double(), 2).numpy(), torch.cat(chosen).numpy()


def _network(artifact: str, file: str) -> DenseModel:
    return DenseModel(unpack_arrays(Artifact.at(artifact).read().files[file], file))


def _degrees(a: Array, b: Array) -> Array:
    """(n,) angles between rows."""
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.degrees(np.arccos(np.clip((a * b).sum(axis=1) / np.maximum(length, 1e-12), -1, 1))))


def _share(hits: Any) -> Estimate:
    return clopper_pearson(int(np.sum(hits)), len(hits))
