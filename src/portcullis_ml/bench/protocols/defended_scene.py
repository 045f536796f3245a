"""The victims of the protocols on defenses: a small network on real pictures, and whose rows are whose.

    victim   rows that it was trained on; recipes and hardenings are trained on the same
    own      rows of the same domain in the hands of a thief who has some; the seeds of attacks are drawn from them
    pool     pictures from somewhere else, about which a thief without such rows asks
    matched  outside rows of the owner's from the pool's source, none of which is in the pool
    held_out outside rows of the owner's from another source
    test     rows that judge

No row is in two of them. Everything is drawn from a fixed seed, so a scene is the same in every process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import fingerprint
from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.bench.outside import Outside
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Array, Labels, Model
from portcullis_ml.data.dataset import Dataset
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.models.load import load_model
from portcullis_ml.models.victims import train_victim

__all__ = ["Scene", "pictures"]


@dataclass(frozen=True, kw_only=True)
class Scene(ExperimentSpec):
    """A scene of a protocol: its table in the TOML file as JSON. `folder` holds the data, `cache` the victim."""

    plan: str

    def load(self, hardened: str | None = None) -> Experiment:
        """The victim and its rows; `hardened` names the folder of a model that is served instead."""
        experiment = _loaded(self)
        if hardened is None:
            return experiment
        interface = experiment.interface
        return replace(experiment, model=_hardened(hardened, interface.input_shape, interface.n_classes))

    def own(self) -> tuple[Array, Labels]:
        """(n, *input_shape), (n,): rows of the victim's domain that a thief may hold, with their true classes."""
        return _own(self)


@lru_cache(maxsize=4)
def _loaded(scene: Scene) -> Experiment:
    from portcullis_ml.models.torch import TorchLearner

    plan = json.loads(scene.plan)
    dataset = load_dataset(plan["dataset"], scene.folder)
    rows, _ = _divided(dataset, plan)
    x, y = dataset.x[rows], np.asarray(dataset.y, np.int64)[rows]
    judge = derive(0, plan["dataset"], "test").permutation(len(dataset.x_test))[: plan["test_rows"]]
    learner = TorchLearner(**plan["victim"], device=scene.device)
    model = train_victim(x, y, dataset.n_classes, learner, rng=derive(0, "victim"), cache=scene.cache)
    shape, n = dataset.input_shape, plan["outside_rows"]
    pool = pictures(plan["pool"], scene.folder, shape, plan["pool_rows"] + n)
    matched, held_out = (
        Outside(plan["pool"], pool[-n:]),
        Outside(plan["outside"], pictures(plan["outside"], scene.folder, shape, n)),
    )
    return Experiment(
        model=model,
        interface=dataset.interface,
        test_x=dataset.x_test[judge],
        test_y=np.asarray(dataset.y_test, np.int64)[judge],
        pool=pool[:-n],
        pool_labels=None,
        overlap=0,
        names=_names(scene, plan["dataset"], model.scores(dataset.x_test[:200]), learner),
        splits="",
        classes=dataset.classes,
        train=x,
        train_y=y,
        source=plan["dataset"],
        outside={"matched": matched, "held_out": held_out},
    )


def _names(scene: Scene, dataset: str, scores: Array, learner: Any) -> dict[str, dict[str, Any]]:
    mark = fingerprint(scores.round(6))
    return {
        "victim": {"name": dataset, "sha256": mark, "learner": describe(learner)},
        "data": {"name": dataset, "sha256": fingerprint(scene.plan)},
    }


@lru_cache(maxsize=2)
def _own(scene: Scene) -> tuple[Array, Labels]:
    plan = json.loads(scene.plan)
    dataset = load_dataset(plan["dataset"], scene.folder)
    _, rows = _divided(dataset, plan)
    return dataset.x[rows], np.asarray(dataset.y, np.int64)[rows]


def _divided(dataset: Dataset, plan: Mapping[str, Any]) -> tuple[Labels, Labels]:
    """Training rows of the victim and of a thief; frames of one object are on one side."""
    rng, wanted = derive(0, plan["dataset"], "rows"), plan["victim_rows"]
    groups = np.arange(len(dataset.x)) if dataset.groups is None else dataset.groups
    order = np.argsort(rng.permutation(int(groups.max()) + 1)[groups], kind="stable")
    if len(order) < wanted + plan["own_rows"]:
        raise InputError(
            f"{dataset.name} has {len(order)} rows; {wanted} + {plan['own_rows']} were asked. Ask for less."
        )
    cut = wanted
    while groups[order[cut - 1]] == groups[order[cut]]:
        cut += 1
    victim, own = order[:wanted], order[cut : cut + plan["own_rows"]]
    return rng.permutation(victim), rng.permutation(own)


def pictures(name: str, folder: str | None, shape: tuple[int, ...], n: int) -> Array:
    """(n, *shape) pictures of a data set, drawn at random; with a comma, as many of each of several sets."""
    parts = []
    names = name.split(",")
    for part in names:
        data = load_dataset(part.strip(), folder)
        if data.x.shape[1:] != shape:
            raise InputError(f"Pictures of {shape} were expected; {part} holds {data.x.shape[1:]}. Name another set.")
        parts.append(data.x[derive(0, part.strip(), "pool").permutation(len(data.x))[: -(-n // len(names))]])
    found = np.concatenate(parts)
    if len(found) < n:
        raise InputError(f"{name} has {len(found)} pictures; {n} were asked. Ask for less.")
    return found[derive(0, name, "order").permutation(len(found))[:n]]


@lru_cache(maxsize=4)
def _hardened(folder: str, shape: tuple[int, ...], classes: int) -> Model:
    return load_model(folder, input_shape=shape, n_classes=classes)
