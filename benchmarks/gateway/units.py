"""Every defense and detector of the catalog before a network of a given size, with what it needs trained on noise: what
it costs does not depend on what was learnt."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.catalog import Catalog
from portcullis_ml.core.errors import PortcullisError
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.types import Interface, Model, Rows
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.detectors import CATALOG as DETECTORS
from portcullis_ml.models.artifacts import write_artifact
from portcullis_ml.models.dense import DenseModel
from portcullis_ml.models.torch import TorchLearner
from portcullis_ml.recipes import CATALOG as RECIPES

LEAVE = ("block", "deep_defense", "log", "watch")  # answers nothing; has a benchmark of its own; does nothing; a frame
ROWS = 300  # on which what a defense needs is trained


def network(d: int, classes: int, hidden: int = 128, seed: int = 0) -> DenseModel:
    """The victim: one hidden layer and random weights, about as sure of itself as a trained one."""
    rng = np.random.default_rng(seed)
    arrays = {
        "mean": np.full(d, 0.5),
        "deviation": np.full(d, 0.3),
        "w0": rng.normal(scale=np.sqrt(2 / d), size=(hidden, d)),
        "b0": np.zeros(hidden),
        "w1": rng.normal(scale=6 / np.sqrt(hidden), size=(classes, hidden)),
        "b1": np.zeros(classes),
    }
    return DenseModel(arrays)


def guards(d: int, classes: int, folder: Path) -> Iterator[tuple[str, Defense[Any]]]:
    """Each defense, and each detector in a watch, by name, bound; one that cannot stand here is named on stderr."""
    rng = np.random.default_rng(1)
    x = rng.random((ROWS, d))
    rows = Rows(x, network(d, classes).scores(x).argmax(axis=1))
    victim = TorchLearner(network="mlp", epochs=40).fit(x, np.eye(classes)[rows.y], rng=rng)
    for catalog in (DEFENSES, DETECTORS):
        for name in catalog:
            if name in LEAVE:
                continue
            try:
                unit = catalog.load(name)(**_trained(catalog, name, victim, rows, folder))
                stage = (
                    DEFENSES.load("watch")(unit, then=DEFENSES.build("label_only")) if catalog is DETECTORS else unit
                )
                yield name, stage.bind(Interface(input_shape=(d,), n_classes=classes))
            except PortcullisError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)


def _trained(catalog: Catalog, name: str, victim: Model, rows: Rows, folder: Path) -> dict[str, Any]:
    """The settings of a unit that name what a recipe trains, and a short way through trainings."""
    found = {}
    if name == "quota":
        return {"rows": 10**9}
    for setting in fields(catalog.load(name)):
        if recipe := setting.metadata.get("recipe"):
            rng = np.random.default_rng(1)
            kind = RECIPES.load(recipe)
            short = {"epochs": 20} if "epochs" in {f.name for f in fields(kind)} else {}
            contents = kind(**short)(victim, rows, rng.random(rows.x.shape) - 1, rng=rng)
            found[setting.name] = write_artifact(contents, folder / f"{name}-{recipe}")
    return found
