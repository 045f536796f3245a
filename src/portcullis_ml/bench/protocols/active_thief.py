"""Active thieves: do chosen questions reach with fewer queries what questions in random order reach with all?

Pal et al. "ActiveThief", AAAI 2020; Lee, Han, Lee. "SwiftThief", IJCAI 2024; Correia-Silva et al. "Copycat CNN",
IJCNN 2018.

Threat model   probabilities, for Copycat labels alone; a pool of natural pictures from somewhere else; a few rows of
               the domain for the one that fine-tunes.
Query cost     the budget. Copies on the way are made of the questions up to there, and cost no more.

Every setting stands in active_thief.toml. A cell is one attack and one seed: the copy is judged after every fifth of
the budget. With one seed every attack starts from the same rows of the pool, so attacks are compared within seeds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.named import attack_named
from portcullis_ml.bench.protocols.active_thief_tables import sections
from portcullis_ml.bench.protocols.defended_scene import pictures
from portcullis_ml.bench.protocols.defended_tables import page
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Estimate, Interface, Labels, Learner, Model
from portcullis_ml.data.dataset import Dataset
from portcullis_ml.data.datasets import data_folder, load_dataset
from portcullis_ml.data.pools import open_pool
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.agreement import agreement
from portcullis_ml.models.learners import learner_named

__all__ = ["Scene", "active_thief", "cells_of", "play", "scene_of", "shortened", "theft"]

Plan = Mapping[str, Any]
OWN = "the same table"  # a pool of rows of the victim's own domain that nobody else holds


def active_thief(run: Run) -> str:
    """Run active-thief and return its tables; see `play`."""
    plan = plan_in("active_thief.toml")
    return play(shortened(plan) if run.quick else plan, run)


def play(plan: Plan, run: Run) -> str:
    """Published beside measured, as Markdown; resumable: a finished cell is never run again."""
    records = run.cells(cells_of(plan), partial(work, folder=run.data, device=run.device))
    return page(plan, sections(plan, [r for r in records if r["outcome"] == "done"]), records, run.quick)


def shortened(plan: Plan) -> dict[str, Any]:
    """The quick look: one scene, one repetition, fewer rows and passes. Its figures stand for nothing."""
    quick = plan["quick"]
    scenes = {name: plan["scene"][name] | quick["rows"] for name in quick["scenes"]}
    return {**plan, "repetitions": quick["repetitions"], "scene": scenes}


def cells_of(plan: Plan) -> Iterator[Cell]:
    """A cell for every scene, seed and attack; and random order once more with the whole pool."""
    named = {**plan["attacks"], **plan["others"]}
    for seed in range(plan["repetitions"]):
        for scene, settings in plan["scene"].items():
            own = [name for name in named if scene in plan.get("scenes_of", {}).get(name, plan["scene"])]
            asked = [(name, settings["budget"], plan["points"] if name in plan["attacks"] else 1) for name in own]
            if settings["whole"]:
                asked.append((plan["random"], settings["whole"], 1))
            for name, budget, points in asked:
                yield Cell(
                    victim={"name": scene, "settings": settings["victim"]},
                    data={"name": settings["data"], "settings": settings},
                    interface={"reveals": "probs"},
                    attack=attack_named(named[name]),
                    budget=budget,
                    seed=seed,
                    extra={"version": plan["version"], "points": points},
                    names={"attack": name, "scene": scene},
                )


@dataclass(frozen=True)
class Scene:
    """A victim and what everybody holds: the pool, rows of the domain for a thief, test rows with their classes."""

    victim: Model
    interface: Interface
    learner: Learner
    pool: Array
    domain: Array
    test_x: Array
    test_y: Labels


@lru_cache(maxsize=2)
def scene_of(settings: str, folder: str | None, device: str) -> Scene:
    """The scene of these settings as JSON; its victim is trained once in a process, from a fixed seed."""
    plan = json.loads(settings)
    data = load_dataset(plan["data"], folder)
    order = derive(0, plan["data"], "rows").permutation(len(data.x))
    own, domain, others = np.split(order, np.cumsum([plan["victim_rows"], plan["domain_rows"]]))
    targets = np.eye(data.n_classes)[np.asarray(data.y, np.int64)[own]]
    victim, learner = (_learner(plan[who], data, device) for who in ("victim", "learner"))
    test = slice(*plan["test_rows"])
    return Scene(
        victim=victim.fit(data.x[own], targets, rng=derive(0, plan["data"], "victim")),
        interface=data.interface,
        learner=learner,
        pool=data.x[others[: plan["pool_rows"]]] if plan["pool"] == OWN else _pool(plan, folder, data.input_shape),
        domain=data.x[domain],
        test_x=data.x_test[test],
        test_y=np.asarray(data.y_test, np.int64)[test],
    )


def _learner(word: str, data: Dataset, device: str) -> Any:
    """The learner of that name, told what the columns of a table are."""
    learner = learner_named(word, device)
    return learner.knowing(data.interface) if data.features and hasattr(learner, "knowing") else learner


def _pool(plan: Plan, folder: str | None, shape: tuple[int, ...]) -> Array:
    """The pictures that may be asked about: of data sets, or of a folder or zip of image files in the data folder."""
    path = (data_folder(folder) or Path()) / plan["pool"]
    held: Any
    if plan.get("pool_test"):  # the test rows of that set as well
        data = load_dataset(plan["pool"], folder)
        held = np.concatenate([data.x, data.x_test])
    elif path.exists():
        held = open_pool(path, shape)
    else:
        return pictures(plan["pool"], folder, shape, plan["pool_rows"])
    return np.asarray(held[derive(0, plan["pool"], "pool").permutation(len(held))[: plan["pool_rows"]]])


def work(cell: Cell, workspace: Workspace, *, folder: str | None, device: str) -> Record:
    """The attack, and how near its copies are to the truth and to the victim."""
    scene = scene_of(json.dumps(cell.data["settings"]), folder, device)
    return theft(cell, workspace, scene, _nearness)


Judge = Callable[[Labels, Labels, Labels], dict[str, Estimate]]  # (true, the victim's, the copy's classes) -> measures


def theft(cell: Cell, workspace: Workspace, scene: Scene, judge: Judge) -> Record:
    """The record of the attack of this cell, every copy on the way judged."""
    served = scene.victim.scores(scene.test_x).argmax(axis=1)
    start, rng = time.process_time(), derive(cell.seed, "active-thief", cell.victim["name"])
    with workspace.ledger(columns=scene.interface.n_classes) as ledger:
        oracle = LocalOracle(scene.victim, scene.interface, budget=cell.budget, ledger=ledger)
        knowledge = Knowledge(pool=scene.pool, seeds=scene.domain, learner=scene.learner)
        found = ATTACKS.build(cell.attack)(oracle, knowledge, rng=rng, watch=workspace.report)
    curve = []
    for queries, copy in on_the_way(found, scene, cell, rng):
        curve.append((queries, judge(scene.test_y, served, copy.scores(scene.test_x).argmax(axis=1))))
    own: dict[str, Estimate] = {"victim_accuracy": agreement(scene.test_y, served)}
    kept = ("class_counts", "classes_seen", "distance", "domain_rows", "sampling", "student")
    notes = {name: found.notes[name] for name in kept if name in found.notes}
    if found.answer.labels is not None:
        notes["answers"] = np.bincount(found.answer.labels, minlength=scene.interface.n_classes).tolist()
    return Record(
        cell=cell,
        measures=dict(curve[-1][1]) | own,
        curve=tuple(curve),
        queries=found.queries,
        notes=notes | {"cpu_seconds": round(time.process_time() - start, 1)},
        threat_model={"answers": "probs", "data": "a pool of another domain", "accounts": 1, "knows_defense": False},
    )


def _nearness(true: Labels, served: Labels, said: Labels) -> dict[str, Estimate]:
    return {"accuracy": agreement(true, said), "agreement": agreement(served, said)}


def on_the_way(found: Extraction, scene: Scene, cell: Cell, rng: np.random.Generator) -> list[tuple[int, Model]]:
    """Copies by growing number of queries: of those that the attack made as many as the curve has points, evenly
    spaced; for random order one is trained at every point."""
    points, made = cell.extra["points"], list(found.history)
    if points == 1 or cell.attack["unit"] != "knockoff":
        return [made[(i + 1) * len(made) // points - 1] for i in range(points)] if len(made) >= points else made
    targets = found.answer.soft(scene.interface.n_classes)
    ends = np.linspace(0, len(found.x), points + 1)[1:-1].round().astype(int)
    early = [(int(n), scene.learner.fit(found.x[:n], targets[:n], rng=rng)) for n in ends]
    return [*early, (found.queries, found.model)]
