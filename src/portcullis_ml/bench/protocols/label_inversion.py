"""The part of `inversion` that needs labels only: digits rebuilt from public letters, beside its two controls.

After Liu et al., ACM CCS 2023; see `privacy/label_only_inversion.py`. The judge is a convolutional network that was
trained on other digits than the victim.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.contact_sheet import packed
from portcullis_ml.bench.protocols.faces import Faces
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Interface, Labels, Reveals, Rows
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.measures.inversion import inversion_measures, likeness
from portcullis_ml.privacy import CATALOG as PRIVACY

__all__ = ["label_only_cells", "label_only_work"]

Plan = Mapping[str, Any]


def label_only_cells(plan: Plan) -> Iterator[Cell]:
    """For every repetition a cell for the attack and one for each control."""
    settings = {name: value for name, value in plan["label_only"].items() if name not in ("attack", "rows")}
    for seed in range(plan["repetitions"]):
        for name, by in plan["label_only"]["rows"].items():
            yield Cell(
                victim=settings["victim"],
                data={"name": settings["data"]},
                interface={"reveals": "labels"},
                attack={"unit": "label_only_inversion", **plan["label_only"]["attack"], "by": by},
                seed=seed,
                role="privacy" if by == "generator" else "control",
                extra={"label_only": settings, "people": int(seed == 0)},
                names={"attack": name, "victim": "labels"},
            )


def label_only_work(cell: Cell, workspace: Workspace, *, folder: str | None, device: str) -> Record:
    """How well a picture of every class, rebuilt from labels, shows the class."""
    scene, pool = _scene(json.dumps(cell.extra["label_only"], sort_keys=True), cell.seed, folder, device)
    oracle = LocalOracle(scene.model, scene.interface, budget=cell.extra["label_only"]["budget"])
    nobody = Rows(scene.own.x[:0])
    rng = derive(cell.seed, "label_only")  # the attack and its controls draw alike
    leakage = PRIVACY.build(cell.attack)(oracle, Knowledge(pool=pool), nobody, rng=rng, watch=workspace.report)
    assert leakage.recovered is not None  # of an inversion
    assert scene.own.y is not None  # digits have a name
    classes = np.array(leakage.notes["classes"], np.int64)
    judged = scene.judge(leakage.recovered)
    measures = inversion_measures(leakage.recovered, classes, scene.own.x, scene.own.y, judged)
    measures |= likeness(leakage.recovered, classes, scene.own.x, scene.own.y) | scene.quality()
    notes = {name: value for name, value in leakage.notes.items() if name != "pool_labelled"}
    notes |= {"pictures": packed(leakage.recovered)} if cell.extra["people"] else {}
    return Record(cell=cell, measures=measures, queries=leakage.queries, notes=notes)


@lru_cache(maxsize=1)
def _scene(settings: str, seed: int, folder: str | None, device: str) -> tuple[Faces, Array]:
    """(the victim of digits with its judge, the public letters)."""
    from portcullis_ml.models.torch import TorchLearner

    plan = json.loads(settings)
    data, letters = load_dataset(plan["data"], folder), load_dataset(plan["pool"], folder)
    rng = derive(seed, "digits")
    order = rng.permutation(len(data.x))
    ours, theirs = order[: plan["victim_rows"]], order[plan["victim_rows"] :][: plan["judge_rows"]]
    y: Labels = data.y.astype(np.int64)
    own, apart = Rows(data.x[ours], y[ours]), Rows(data.x[theirs], y[theirs])
    classes = np.eye(int(y.max()) + 1)
    model = TorchLearner(**plan["victim"], device=device).fit(own.x, classes[own.y], rng=derive(seed, "victim"))
    judge = TorchLearner(**plan["judge"], device=device).fit(apart.x, classes[apart.y], rng=derive(seed, "judge"))
    interface = Interface(input_shape=data.x.shape[1:], n_classes=len(classes), reveals=Reveals.LABELS)
    pool = letters.x[rng.permutation(len(letters.x))[: plan["pool_rows"]]]
    return Faces(model, own, apart, lambda x: np.asarray(judge.scores(x).argmax(axis=1)), interface), pool
