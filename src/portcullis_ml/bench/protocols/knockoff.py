"""Knockoff revisited: seven studies of when a complex model of pictures is stolen with pictures of something else.

Atli, Szyller, Juuti, Marchal, Asokan. "Extraction of Complex DNN Models: Real Threat or Boogeyman?", EDSMLS 2020.

Threat model   probabilities, less than that, or nonsense, as each study says; pictures of other things, of one kind, or
               of the victim's own domain; copies that start from ImageNet's weights or from nothing.
Query cost     one for each picture, 5,000 unless a study says otherwise.

Victims, pools, copies and answers stand in knockoff.toml, and each study in a file of its own. A cell is one theft. A
study's cells do not name the study, so with one `--out` for all of them a theft that two studies show is run once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.named import guard_named
from portcullis_ml.bench.protocols.defended_tables import page
from portcullis_ml.bench.protocols.knockoff_scene import asked_about, scene_of, victim_of
from portcullis_ml.bench.protocols.knockoff_tables import sections
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.bench.target import guard_of
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Reveals
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.agreement import agreement, per_class_recovery, recovery
from portcullis_ml.models.learners import LEARNERS, learner_named

__all__ = [
    "architecture",
    "budget",
    "cells_of",
    "classes",
    "diversity",
    "granularity",
    "overlap",
    "play",
    "pretraining",
    "study",
]

Plan = Mapping[str, Any]
AXES = ("victim", "copy", "pool", "answers", "budget")


def granularity(run: Run) -> str:
    """Run knockoff-granularity and return its tables; see `play`."""
    return study("granularity", run)


def architecture(run: Run) -> str:
    """Run knockoff-architecture and return its tables; see `play`."""
    return study("architecture", run)


def pretraining(run: Run) -> str:
    """Run knockoff-pretraining and return its tables; see `play`."""
    return study("pretraining", run)


def diversity(run: Run) -> str:
    """Run knockoff-diversity and return its tables; see `play`."""
    return study("diversity", run)


def budget(run: Run) -> str:
    """Run knockoff-budget and return its tables; see `play`."""
    return study("budget", run)


def classes(run: Run) -> str:
    """Run knockoff-classes and return its tables; see `play`."""
    return study("classes", run)


def overlap(run: Run) -> str:
    """Run knockoff-overlap and return its tables; see `play`."""
    return study("overlap", run)


def study(name: str, run: Run) -> str:
    """The study of that name; see `play`."""
    plan = {**plan_in("knockoff.toml"), **plan_in(f"knockoff_{name}.toml")}
    return play(shortened(plan) if run.quick else plan, run)


def play(plan: Plan, run: Run) -> str:
    """Published beside measured, as Markdown; resumable: a finished cell is never run again."""
    records = run.cells(cells_of(plan), partial(work, folder=run.data, device=run.device))
    return page(plan, list(sections(plan, records)), records, run.quick)


def shortened(plan: Plan) -> dict[str, Any]:
    """The quick look: the first rows of every table, one repetition, fewer pictures. Its figures stand for nothing."""
    quick = plan["quick"]
    return {
        **plan,
        "repetitions": 1,
        "scene": {name: scene | quick["rows"].get(name, quick["rows"]["any"]) for name, scene in plan["scene"].items()},
        "victim": {name: v | {"learner": quick["learner"]} for name, v in plan["victim"].items()},
        "copy": dict.fromkeys(plan["copy"], quick["learner"]),
        "most": quick["budget"],
        "table": [_first_rows(table, quick) for table in plan["table"]],
    }


def _first_rows(table: Plan, quick: Plan) -> dict[str, Any]:
    """The first rows of a table; one that goes by the budget has half of the quick look's budget, and all of it."""
    rows = table["row"][: quick["table_rows"]]
    if table["across"] != "budget":
        return {**table, "row": rows}
    most = quick["budget"]
    return {**table, "columns": [most // 2, most], "row": [{k: row[k] for k in row if k != "columns"} for row in rows]}


def cells_of(plan: Plan) -> Iterator[Cell]:
    """All thefts of the first repetition first, so that a run that is cut short has something to say."""
    for seed in range(plan["repetitions"]):
        for number, table in enumerate(plan["table"]):
            for row in table["row"]:
                for column in row.get("columns", table["columns"]):
                    yield _cell(plan, table, row, column, seed, str(number))


def _cell(plan: Plan, table: Plan, row: Plan, column: Any, seed: int, number: str) -> Cell:
    """The theft of one column of a row: what the row does not say is usual."""
    is_ = {**plan["usual"], **row, table["across"]: column}
    victim, shown = plan["victim"][is_["victim"]], plan["answers"][is_["answers"]]
    training = {"learner": victim["learner"], "training": seed % victim["trainings"]}
    return Cell(
        victim={"name": is_["victim"], "scene": plan["scene"][victim["scene"]], **training},
        data={"name": is_["pool"], **plan["pool"][is_["pool"]]},
        interface=shown.get("interface", {"reveals": "probs"}),
        attack={"unit": "knockoff", "selection": "random"},
        defense=guard_named(shown.get("defense", "none")).stages,
        budget=min(is_["budget"], plan.get("most", is_["budget"])),
        seed=seed,
        learner=describe(learner_named(plan["copy"][is_["copy"]])),
        extra={"version": plan["version"]},
        names={
            "attack": f"{is_['copy']} copy, {is_['pool']}, {is_['answers']} on {is_['victim']}",
            "table": number, "row": name_of(row), "column": str(column),
        },
    )  # fmt: skip


def name_of(row: Plan) -> str:
    """How a row is called: its name, or what it fixes."""
    return str(row.get("name") or ", ".join(str(row[axis]) for axis in AXES if axis in row))


def work(cell: Cell, workspace: Workspace, *, folder: str | None, device: str) -> Record:
    """Steal, and judge victim and copy by the same test rows, class by class too."""
    scene, victim = scene_of(cell.victim["scene"], folder), victim_of(cell.victim, folder, device)
    answered = scene.interface.revealing(**_interface(cell))
    guard = guard_of(cell, answered)
    shown = answered if guard is None else guard.shown(answered)
    learner = LEARNERS.build(cell.learner or {})
    pool = asked_about(cell.data, cell.victim, folder, cell.budget, cell.seed)
    knowledge = Knowledge(pool=pool, learner=replace(learner, device=device) if device != "cpu" else learner)
    with workspace.ledger(columns=answered.n_classes) as ledger:
        oracle = LocalOracle(victim, shown, budget=cell.budget, guard=guard, ledger=ledger)
        attack = ATTACKS.build(cell.attack)
        extraction = attack(oracle, knowledge, rng=derive(cell.seed, "theft"), watch=workspace.report)
    true = scene.test.y
    assert true is not None  # every scene has classes
    served, said = (model.scores(scene.test.x).argmax(axis=1) for model in (victim, extraction.model))
    rng, n = cell.rng("intervals"), len(scene.classes)
    seen = np.unique(victim.scores(extraction.x).argmax(axis=1))
    return Record(
        cell=cell,
        measures={
            "victim_accuracy": agreement(true, served),
            "accuracy": agreement(true, said),
            "recovery": recovery(true, served, said, rng=rng),
            "agreement": agreement(served, said),
        },
        classes=per_class_recovery(true, served, said, n, rng=rng),
        queries=extraction.queries,
        stopped=extraction.stopped,
        threat_model={"answers": shown.reveals.word, "data": cell.data["name"], "accounts": 1, "knows_defense": False},
        notes={
            "classes_answered": len(seen),
            "victim_by_class": [
                round(float((served[true == c] == c).mean()), 4) for c in range(n) if (true == c).any()
            ],
            "copy_by_class": [round(float((said[true == c] == c).mean()), 4) for c in range(n) if (true == c).any()],
            "class_names": [scene.classes[c] for c in range(n) if (true == c).any()],
        },
    )


def _interface(cell: Cell) -> dict[str, Any]:
    shown = {k: v for k, v in cell.interface.items() if k != "reveals"}
    return {**shown, "reveals": Reveals.parse(cell.interface["reveals"])}
