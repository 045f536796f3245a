"""What the studies of Knockoff share: whose rows are whose, victims, and the pictures that a thief asks about.

    victim   rows that a victim is trained on
    own      rows of the same domain in the hands of a thief who has some; none of them is the victim's
    test     rows that judge

No row is in two of them, and frames of one object are on one side. Everything is drawn from fixed seeds. The pictures
of a theft follow from its pool and its seed alone, so thefts of one seed ask the same, whatever else they differ in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Interface, Labels, Model, Rows
from portcullis_ml.data.dataset import Dataset
from portcullis_ml.data.datasets import data_folder, load_dataset
from portcullis_ml.data.pools import of_dataset, open_pool
from portcullis_ml.data.splits import split

__all__ = ["Scene", "Victim", "asked_about", "scene_of", "victim_of"]

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Scene:
    """Rows of one domain with their true classes."""

    victim: Rows
    own: Rows
    test: Rows
    interface: Interface
    classes: tuple[str, ...]


def scene_of(settings: Settings, folder: str | None) -> Scene:
    """The rows that `settings` asks for: dataset, victim_rows, own_rows, test_rows; of the first `classes` only."""
    return _scene(json.dumps(settings, sort_keys=True), folder)


@lru_cache(maxsize=3)
def _scene(settings: str, folder: str | None) -> Scene:
    wanted = json.loads(settings)
    data = _first_classes(load_dataset(wanted["dataset"], folder), wanted.get("classes"))
    own, rng = wanted["own_rows"], derive(0, "knockoff", wanted["dataset"])
    parts = split(data, rng=rng, victim=wanted["victim_rows"], attacker=own or None, test=wanted["test_rows"])
    thief = parts.attacker.x[: own or 0], parts.attacker.y[: own or 0]  # a split gives them all that is left, at least
    victim, theirs, test = (
        Rows(x, y.astype(np.int64)) for x, y in ((parts.victim.x, parts.victim.y), thief, (parts.test.x, parts.test.y))
    )
    return Scene(victim, theirs, test, data.interface, data.classes)


def _first_classes(data: Dataset, n: int | None) -> Dataset:
    """The rows of the first n classes."""
    if n is None:
        return data
    kept, kept_test = np.asarray(data.y < n), np.asarray(data.y_test < n)
    return replace(
        data, x=data.x[kept], y=data.y[kept], x_test=data.x_test[kept_test], y_test=data.y_test[kept_test],
        classes=data.classes[:n], groups=None if data.groups is None else data.groups[kept],
    )  # fmt: skip


class Victim:
    """A trained model that answers a picture once and looks the answer up from then on."""

    def __init__(self, model: Model, folder: Path) -> None:
        from portcullis_ml.models.features import FeatureStore

        self.input_shape, self.n_classes = model.input_shape, model.n_classes
        self._answers = FeatureStore(lambda rows: model.scores(rows).astype(np.float32), folder)

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes) probabilities."""
        if len(x) == 0:
            return np.empty((0, self.n_classes))
        held = self._answers(x).astype(np.float64)
        return np.asarray(held / held.sum(axis=1, keepdims=True))


def victim_of(settings: Settings, folder: str | None, device: str) -> Model:
    """The victim of those settings, scene, learner and training; trained once, and kept in the cache folder."""
    return _victim(json.dumps(settings, sort_keys=True), folder, device)


@lru_cache(maxsize=6)
def _victim(settings: str, folder: str | None, device: str) -> Model:
    from portcullis_ml.models.features import features_folder
    from portcullis_ml.models.learners import learner_named
    from portcullis_ml.models.victims import train_victim

    wanted = json.loads(settings)
    scene, learner = scene_of(wanted["scene"], folder), learner_named(wanted["learner"], device)
    frozen = getattr(learner, "train", "") == "frozen"  # one read from a file has lost its features
    place = features_folder().parent / "victims"
    model = train_victim(
        scene.victim.x,
        _known(scene.victim.y),
        len(scene.classes),
        learner,
        rng=derive(wanted["training"], "victim"),
        cache=None if frozen else place,
    )
    if frozen:
        return model
    mark = hashlib.sha256(model.scores(scene.test.x[:50]).round(6).tobytes()).hexdigest()[:16]
    return Victim(model, place / f"answers-{mark}")


def _known(y: Labels | None) -> Labels:
    assert y is not None  # every scene has classes
    return y


def asked_about(pool: Settings, victim: Settings, folder: str | None, budget: int, seed: int) -> Array:
    """(n, *input_shape) the pictures of a theft, `budget` in all: of each part of the pool its share, in any order."""
    return _asked(json.dumps(pool, sort_keys=True), json.dumps(victim["scene"], sort_keys=True), folder, budget, seed)


@lru_cache(maxsize=2)
def _asked(pool: str, scene: str, folder: str | None, budget: int, seed: int) -> Array:
    parts = []
    for part in json.loads(pool)["parts"]:
        held, groups = _source(part["of"], scene, folder)
        rows = _eligible(part, len(held), groups, seed)
        wanted = round(budget * part.get("share", 1.0))
        if len(rows) < wanted:
            raise InputError(f"{part['of']} has {len(rows):,} pictures; {wanted:,} were asked. Ask for less.")
        drawn = np.sort(derive(seed, "asked", part["of"]).permutation(rows)[:wanted])
        parts.append(held[drawn])
    found = np.concatenate(parts)
    return np.asarray(found[derive(seed, "order").permutation(len(found))])


def _source(name: str, scene: str, folder: str | None) -> tuple[Any, Any]:
    """The pictures of that name in the scene's shape, and what sorts them: own, train, or a file of the data folder."""
    known = _scene(scene, folder)
    if name in ("own", "train"):
        rows = known.own if name == "own" else known.victim
        return rows.x, rows.y
    path = (data_folder(folder) or Path()) / name
    if path.suffix == ".npz" and path.is_file():
        with np.load(path, allow_pickle=False) as file:  # pictures of any size are brought to the victim's
            return of_dataset(file["x_train"], known.interface.input_shape), file["y_train"]
    held = open_pool(path, known.interface.input_shape)
    return held, getattr(held, "groups", None)


def _eligible(part: Settings, n: int, groups: Any, seed: int) -> Labels:
    """The rows of a source from which a part is drawn: some groups, of which every seed draws its own, or a subset that
    is the same for all seeds."""
    if "groups" in part:
        names = np.unique(groups)
        chosen = derive(seed, "groups", part["of"]).permutation(names)[: part["groups"]]
        return np.flatnonzero(np.isin(groups, chosen))
    return derive(0, "pool", part["of"]).permutation(n)[: part.get("rows")]
