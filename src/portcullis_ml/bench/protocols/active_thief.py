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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
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
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.agreement import agreement
from portcullis_ml.models.learners import learner_named

__all__ = ["active_thief", "cells_of", "play"]

Plan = Mapping[str, Any]


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
            asked = [(name, settings["budget"], plan["points"] if name in plan["attacks"] else 1) for name in named]
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
    own, domain = np.split(order[: plan["victim_rows"] + plan["domain_rows"]], [plan["victim_rows"]])
    targets = np.eye(data.n_classes)[np.asarray(data.y, np.int64)[own]]
    victim = learner_named(plan["victim"], device).fit(data.x[own], targets, rng=derive(0, plan["data"], "victim"))
    test = slice(*plan["test_rows"])
    return Scene(
        victim=victim,
        interface=data.interface,
        learner=learner_named(plan["learner"], device),
        pool=pictures(plan["pool"], folder, data.input_shape, plan["pool_rows"]),
        domain=data.x[domain],
        test_x=data.x_test[test],
        test_y=np.asarray(data.y_test, np.int64)[test],
    )


def work(cell: Cell, workspace: Workspace, *, folder: str | None, device: str) -> Record:
    """The attack, and how near its copies are to the truth and to the victim."""
    scene = scene_of(json.dumps(cell.data["settings"]), folder, device)
    truth = scene.victim.scores(scene.test_x).argmax(axis=1)
    start, rng = time.process_time(), derive(cell.seed, "active-thief", cell.victim["name"])
    with workspace.ledger(columns=scene.interface.n_classes) as ledger:
        oracle = LocalOracle(scene.victim, scene.interface, budget=cell.budget, ledger=ledger)
        knowledge = Knowledge(pool=scene.pool, seeds=scene.domain, learner=scene.learner)
        found = ATTACKS.build(cell.attack)(oracle, knowledge, rng=rng, watch=workspace.report)
    copies = on_the_way(found, scene, cell, rng)
    curve = []
    for queries, copy in copies:
        given = copy.scores(scene.test_x).argmax(axis=1)
        curve.append((queries, {"accuracy": agreement(scene.test_y, given), "agreement": agreement(truth, given)}))
    own: dict[str, Estimate] = {"victim_accuracy": agreement(scene.test_y, truth)}
    kept = ("class_counts", "classes_seen", "domain_rows", "sampling", "student")
    notes = {name: found.notes[name] for name in kept if name in found.notes}
    return Record(
        cell=cell,
        measures=dict(curve[-1][1]) | own,
        curve=tuple(curve),
        queries=found.queries,
        notes=notes | {"cpu_seconds": round(time.process_time() - start, 1)},
        threat_model={"answers": "probs", "data": "a pool of another domain", "accounts": 1, "knows_defense": False},
    )


def on_the_way(found: Extraction, scene: Scene, cell: Cell, rng: np.random.Generator) -> list[tuple[int, Model]]:
    """Copies by growing number of queries: those that the attack made, and for random order one at every point."""
    points = cell.extra["points"]
    if points == 1 or cell.attack["unit"] != "knockoff":
        return list(found.history)[-points:]
    targets = found.answer.soft(scene.interface.n_classes)
    ends = np.linspace(0, len(found.x), points + 1)[1:-1].round().astype(int)
    early = [(int(n), scene.learner.fit(found.x[:n], targets[:n], rng=rng)) for n in ends]
    return [*early, (found.queries, found.model)]
