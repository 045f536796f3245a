"""Defenses that change answers, the published experiments: who still gets a copy, and what honest clients lose.

Each protocol has a TOML file with every setting and the figures that were published. A cell is one attacker behind one
defense of one victim, in one repetition. The victim is trained once. What a defense needs trained is trained in as many
repetitions as `trainings` says (one training serves all repetitions where it says 1), and where that takes outside rows
twice: with some from the source of the thief's pool (matched), and with some from elsewhere (held out).

Threat model   probabilities; a pool from elsewhere (Knockoff and its kin) or a few rows of the domain (JbDA, Jb-top3).
               Those who know the defense look at labels only, ask three times, undo what is known of it, or hold rows
               like the victim's own; `[attackers]` in each file says who is who.
Query cost     `budget` for every attacker.

Records name what a defense is trained from, not what came out, so that a page is printed from records alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.honest import honest_cell
from portcullis_ml.bench.named import GuardSpec, attack_named, guard_named
from portcullis_ml.bench.outside import REGIMES, SHOWN
from portcullis_ml.bench.prepare import needs_outside, prepare_cells
from portcullis_ml.bench.protocols.defended_facts import FACTS
from portcullis_ml.bench.protocols.defended_scene import Scene
from portcullis_ml.bench.protocols.defended_tables import document
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.records import Record, RecordFile
from portcullis_ml.bench.run import Progress, Workspace
from portcullis_ml.bench.target import hardened_folder, target_of
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.guard import changed
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Answer, Array, Labels
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.agreement import agreement
from portcullis_ml.measures.statistics import clopper_pearson
from portcullis_ml.recipes import CATALOG as RECIPES

__all__ = ["diverse_ensemble", "mad", "misinformation", "ood_filter", "planned", "play"]

Plan = Mapping[str, Any]


def mad(run: Run) -> str:
    """Run mad and return its tables; see `play`."""
    return planned("mad.toml", run)


def misinformation(run: Run) -> str:
    """Run misinformation and return its tables; see `play`."""
    return planned("misinformation.toml", run)


def diverse_ensemble(run: Run) -> str:
    """Run diverse-ensemble and return its tables; see `play`."""
    return planned("diverse_ensemble.toml", run)


def ood_filter(run: Run) -> str:
    """Run ood-filter and return its tables; see `play`."""
    return planned("ood_filter.toml", run)


def planned(file: str, run: Run) -> str:
    """The protocol of that file; see `play`."""
    plan = plan_in(file)
    return play(shortened(plan) if run.quick else plan, run)


def play(plan: Plan, run: Run) -> str:
    """Published beside measured, as Markdown; resumable: a finished cell is never run again."""
    scenes = {name: scene_of(plan, name, run.data, run.out, run.device) for name in plan["scene"]}
    cells = list(cells_of(plan))
    ready = trained(cells, scenes, run.out, run.progress)
    records = run.cells(cells, partial(work, scenes=scenes, ready=ready))
    return document(plan, records, quick=run.quick)


def shortened(plan: Plan) -> dict[str, Any]:
    """The quick look: some defenses, one repetition, fewer rows and epochs. Its figures stand for nothing."""
    quick = plan["quick"]
    scenes = {name: plan["scene"][name] | quick["rows"] for name in quick["scenes"]}
    rows = []
    for i in quick["defenses"]:
        row = plan["row"][i]
        on = [name for name in row["scenes"] if name in scenes]
        rows.append({**row, "scenes": on, "attackers": [a for a in row["attackers"] if a in quick["attackers"]]})
    epochs = {"epochs": quick["epochs"]}
    return {
        **plan,
        "repetitions": 1,
        "budget": quick["budget"],
        "seeds": quick["seeds"],
        "victim": plan["victim"] | epochs,
        "learner": plan["learner"] | epochs,
        "scene": scenes,
        "row": rows,
    }


def scene_of(plan: Plan, name: str, data: str | None, out: Path, device: str) -> Scene:
    settings = {**plan["scene"][name], "victim": {**plan["victim"], **plan["scene"][name].get("victim", {})}}
    return Scene(plan=json.dumps(settings, sort_keys=True), folder=data, cache=str(out), device=device)


# Cells


def cells_of(plan: Plan) -> Iterator[Cell]:
    """All cells of the first repetition first, so that a run that is cut short has something to say."""
    for seed in range(plan["repetitions"]):
        for row in plan["row"]:
            for scene in row["scenes"]:
                yield from _of_row(plan, row, scene, seed)


def _of_row(plan: Plan, row: Plan, scene: str, seed: int) -> Iterator[Cell]:
    guard = guard_named(row["defense"])
    outside = needs_outside([*guard.stages, guard.hardening])
    for regime in row.get("regimes", REGIMES) if outside else ("",):
        name = row.get("name", row["defense"]) + SHOWN.get(regime, "")
        base = Cell(
            victim={"name": scene, "settings": plan["victim"]},
            data={"name": scene, "settings": plan["scene"][scene]},
            interface={"reveals": "probs"},
            attack={"unit": "honest"},
            defense=guard.stages,
            hardening=guard.hardening,
            regime=regime,
            seed=seed,
            extra={"version": plan["version"], "seeds": plan["seeds"], "training": seed % plan["trainings"]},
            names={"attack": "honest", "defense": name, "scene": scene},
        )
        if seed < (plan["trainings"] if _trains(guard) else 1):  # honest clients meet each training once
            yield replace(base, role="honest", budget=0)
            if row.get("facts"):
                yield _named(replace(base, attack={"unit": "facts", "of": row["facts"]}, role="control"), "facts")
        for word in row["attackers"]:
            if regime not in plan["attackers"][word].get("regimes", [regime]):
                continue
            yield _attacker(base, plan, word)


def _trains(guard: GuardSpec) -> bool:
    """Whether something of this guard is trained."""
    values = [value for stage in guard.stages for value in stage.values()]
    return guard.hardening is not None or any(isinstance(v, Mapping) and v.get("unit") in RECIPES for v in values)


def _named(cell: Cell, attack: str) -> Cell:
    return replace(cell, names={**cell.names, "attack": attack})


def _attacker(base: Cell, plan: Plan, word: str) -> Cell:
    how = plan["attackers"][word]
    from portcullis_ml.models.torch import TorchLearner

    cell = replace(
        base,
        attack=attack_named(how["attack"]),
        budget=plan["budget"],
        learner=describe(TorchLearner(**plan["learner"])),
        uses=how.get("uses", ""),
        knows_defense=how.get("knows", False),
        extra={**base.extra, "holds": how.get("holds", "pool")},
    )
    return _named(cell, word)


# Training, and work


def trained(
    cells: Sequence[Cell],
    scenes: Mapping[str, Scene],
    out: Path,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Cell]:
    """By id, every cell that is still to be run, with what its defense needs trained in place."""
    finished = RecordFile(out / "records.jsonl").finished
    made: dict[str, Cell] = {}
    ready = {}
    for cell in cells:
        if cell.id in finished:
            continue
        scene, training = cell.names["scene"], cell.extra["training"]
        key = json.dumps([scene, cell.defense, cell.hardening, cell.regime, training], sort_keys=True)
        if key not in made:
            if progress:  # the cell for which something is trained
                progress(Progress("started", cell, 0, len(finished), len(cells), None))
            asked, regimes = replace(cell, seed=training), (cell.regime,)
            (made[key],) = prepare_cells(
                [asked], scenes[scene], regimes=regimes, out=out, watch=lambda what, done, steps: None
            ).cells
        ready[cell.id] = replace(cell, defense=made[key].defense, hardening=made[key].hardening)
    return ready


def work(cell: Cell, workspace: Workspace, *, scenes: Mapping[str, Scene], ready: Mapping[str, Cell]) -> Record:
    """Steal, and compare the copy with the truth and with the model that is served."""
    scene, full = scenes[cell.names["scene"]], ready[cell.id]
    experiment = scene.load(hardened_folder(full))
    if cell.role == "honest":
        return replace(honest_cell(full, experiment, None, scene), cell=cell)
    if cell.role == "control":
        measures, notes = FACTS[cell.attack["of"]](full, scene)
        return Record(cell=cell, measures=measures, notes=notes)
    target = target_of(full, scene)
    attack: ExtractionAttack = ATTACKS.build(cell.attack)
    knowledge = holding(target.knowledge, scene, cell)
    with workspace.ledger(columns=target.columns) as ledger:
        oracle = target.oracle(full, ledger)
        extraction = attack(oracle, knowledge, rng=cell.rng("attack"), watch=workspace.report)
    said = extraction.model.scores(experiment.test_x).argmax(axis=1)
    served = target.model.scores(experiment.test_x).argmax(axis=1)
    assert experiment.test_y is not None  # pictures with classes
    clean = Answer.of(target.model.scores(extraction.x), target.interface).only(target.interface)
    otherwise = changed(clean, extraction.answer)
    return Record(
        cell=cell,
        measures={
            "accuracy": agreement(experiment.test_y, said),
            "agreement": agreement(served, said),
            "altered": clopper_pearson(int(otherwise.sum()), len(otherwise)),
        },
        queries=extraction.queries,
        stopped=extraction.stopped,
        threat_model={"knows_defense": cell.knows_defense, "answers": cell.uses or "probs"},
        notes={"classes_seen": len(np.unique(extraction.answer.soft(experiment.interface.n_classes).argmax(axis=1)))},
    )


def holding(knowledge: Knowledge, scene: Scene, cell: Cell) -> Knowledge:
    """The thief's rows: the pool, or rows like the victim's own; and seeds of the domain, as many of every class.

    Whoever asks three times does so without knowing what stands before the model: nobody tells them that a defense
    draws no noise.
    """
    x, y = scene.own()
    seeds = x[_shared_out(y, cell.extra["seeds"], cell.rng("seeds"))]
    pool = x if cell.extra["holds"] == "own" else knowledge.pool
    defense = [] if cell.attack["unit"] == "averaging" else knowledge.defense
    return replace(knowledge, pool=pool, pool_groups=None, seeds=seeds, defense=defense)


def _shared_out(y: Labels, n: int, rng: np.random.Generator) -> Array:
    """Indices of n rows, as many of every class as there are."""
    order = rng.permutation(len(y))
    rank = np.empty(len(y), np.int64)  # a row's place among the rows of its class
    for c in np.unique(y):
        own = order[y[order] == c]
        rank[own] = np.arange(len(own))
    return np.asarray(order[np.argsort(rank[order], kind="stable")][:n])
