"""The extraction monitor, on trees and on a network: what its status says of thieves and of honest clients.

Kesarwani, Mukhoty, Arya, Mehta. "Model Extraction Warning in MLaaS Paradigm", ACSAC 2018. Only the paper's
abstract could be checked, so no figure stands beside ours; what it claims is tried: that the status tells thieves from
others, and that two who collude are seen together as one would be.

Threat model   thieves who search a tree's thresholds, or ask synthetic or foreign pictures; a client who asks at
               random; an honest client. One account each, or two that share the questions.
Query cost     `budget` of the scene for every client.

Every setting stands in monitor.toml. A cell is one client and one repetition; the evaluation set is drawn from the
rows that the victim was trained on, and the status is noted after each of `points` questions.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.named import attack_named
from portcullis_ml.bench.protocols.defended import scene_of
from portcullis_ml.bench.protocols.defended_tables import markdown, page
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.protocols.tramer_victims import dataset_of, victim_of
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Answer, Array, Estimate, Interface, Model, Request, Rows
from portcullis_ml.detectors import CATALOG as DETECTORS
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.agreement import agreement
from portcullis_ml.measures.detection import first_alarm
from portcullis_ml.measures.statistics import median_iqr
from portcullis_ml.models.artifacts import write_artifact
from portcullis_ml.recipes import CATALOG as RECIPES

__all__ = ["monitor", "play"]

Plan = Mapping[str, Any]


@dataclass(frozen=True)
class Victim:
    """A model, what it was trained on, rows of honest clients, and foreign rows (none for a table)."""

    model: Model
    interface: Interface
    train: Array
    honest: Array
    foreign: Array


def monitor(run: Run) -> str:
    """Run monitor and return its tables; see `play`."""
    plan = plan_in("monitor.toml")
    return play(shortened(plan) if run.quick else plan, run)


def play(plan: Plan, run: Run) -> str:
    """What was measured, as Markdown; resumable: a finished cell is never run again."""
    work_here = partial(work, plan=json.dumps(plan), folder=run.data, out=str(run.out), device=run.device)
    records = run.cells(cells_of(plan), work_here)
    return page(plan, [_section(plan, scene, records) for scene in plan["scene"]], records, run.quick)


def shortened(plan: Plan) -> dict[str, Any]:
    """The quick look: some scenes, one repetition. Its figures stand for nothing."""
    quick = plan["quick"]
    scenes = {name: plan["scene"][name] | quick["changes"] for name in quick["scenes"]}
    return {**plan, "repetitions": 1, "scene": scenes}


def cells_of(plan: Plan) -> Iterator[Cell]:
    """A cell for every scene, repetition and client; trees come first, since networks take longest."""
    for scene, settings in plan["scene"].items():
        for seed in range(plan["repetitions"]):
            for client in settings["clients"]:
                yield Cell(
                    victim={"name": scene, "settings": settings},
                    data={"name": scene},
                    interface={"reveals": "probs"},
                    attack={"unit": "client", "of": client, **plan["clients"][client]},
                    budget=settings["budget"],
                    seed=seed,
                    role="honest" if client == "honest client" else "control",
                    extra={"version": plan["version"], "learner": plan["learner"]},
                    names={"attack": client, "scene": scene},
                )


@lru_cache(maxsize=4)
def _victim(plan: str, name: str, folder: str | None, out: str, device: str) -> Victim:
    settings = json.loads(plan)["scene"][name]
    if "model" in settings:
        found, data = victim_of(settings, folder), dataset_of(settings, folder)
        return Victim(found.model, found.interface, data.x, found.x, found.x[:0])
    scene = scene_of(json.loads(plan), name, folder, Path(out), device)
    experiment = scene.load()
    assert experiment.train is not None
    assert experiment.pool is not None
    return Victim(experiment.model, experiment.interface, experiment.train, scene.own()[0], experiment.pool)


def work(cell: Cell, workspace: Workspace, *, plan: str, folder: str | None, out: str, device: str) -> Record:
    """The client's status after each number of questions, alone and where two share the questions."""
    name, settings = cell.names["scene"], cell.victim["settings"]
    victim = _victim(plan, name, folder, out, device)
    recipe = RECIPES.build({"unit": "evaluation_set", "rows": settings["evaluation"]})
    contents = recipe(victim.model, Rows(victim.train), None, rng=cell.rng("evaluation"))
    place = workspace.folder / "evaluation"
    shutil.rmtree(place, ignore_errors=True)  # of a run that was cut short
    artifact = write_artifact(contents, place)
    x, copied = asked(cell, victim)
    measures: dict[str, Estimate] = {}
    notes: dict[str, Any] = {"asked": len(x)}
    often = {"unit": "extraction_monitor", "every": settings["every"], "growth": 0.0, "cap": cell.budget}
    detectors = {"gain": {**often, "measure": "gain"}, "agreement": often, "coverage": {"unit": "coverage"}}
    for measure, spec in detectors.items():
        detector = DETECTORS.build({**spec, "evaluation": str(artifact)}).bind(victim.interface)
        status, pair = watched(detector, victim, x)
        for n in settings["points"]:
            measures[f"{measure}_{n}"] = _figure(status[min(n, len(x)) - 1] if len(x) else math.nan)
        measures[f"{measure}_pair"] = _figure(pair)
        notes[f"{measure}_alarm"] = first_alarm(detector.alarms(status))
    if copied is not None:
        rows = victim.honest
        given, said = (m.scores(rows).argmax(axis=1) for m in (victim.model, copied))
        measures["agreement_of_copy"] = agreement(given, said)
    return Record(cell=cell, measures=measures, queries=len(x), notes=notes)


def _figure(value: float) -> Estimate:
    return Estimate(float(value), 0.0, 100.0, 1, unit="status")


def asked(cell: Cell, victim: Victim) -> tuple[Array, Model | None]:
    """The client's questions in order, and the copy that a thief makes of the answers."""
    kind, rng = cell.attack["kind"], cell.rng("questions")
    if kind == "uniform":
        return victim.interface.uniform(cell.budget, rng), None
    if kind in ("honest", "foreign"):
        rows = victim.honest if kind == "honest" else victim.foreign
        return rows[rng.permutation(len(rows))[: cell.budget]], None
    learner: Any = None
    seeds = victim.honest[rng.permutation(len(victim.honest))[:100]]
    if len(victim.interface.input_shape) > 1:
        from portcullis_ml.models.torch import TorchLearner

        learner = TorchLearner(**cell.extra["learner"])
    oracle = LocalOracle(victim.model, victim.interface, budget=cell.budget)
    attack = ATTACKS.build(attack_named(cell.attack["attack"]))
    extraction = attack(oracle, Knowledge(seeds=seeds, pool=seeds, learner=learner), rng=cell.rng("attack"))
    return extraction.x, extraction.model


def watched(detector: Any, victim: Victim, x: Array) -> tuple[Array, float]:
    """(n,) the status after every question, and that of two accounts together who take turns asking."""
    answer = Answer.of(victim.model.scores(x), victim.interface)
    status = detector.update(detector.start(), Request("one", x), answer)
    states: dict[str, Any] = {}
    for i in range(2):
        states[f"half {i}"] = detector.start()
        half = slice(i, None, 2)
        detector.update(states[f"half {i}"], Request(f"half {i}", x[half]), answer.take(half))
    return status, detector.colluding(states, 2)[1]


def _section(plan: Plan, scene: str, records: Sequence[Mapping[str, Any]]) -> str:
    settings, rows = plan["scene"][scene], []
    done = [r for r in records if r["outcome"] == "done" and r["cell"]["names"]["scene"] == scene]
    for client in settings["clients"]:
        own = [r for r in done if r["attack"] == client]
        if not own:
            continue
        for measure in ("gain", "agreement", "coverage"):
            named = [f"{measure}_{n}" for n in settings["points"]] + [f"{measure}_pair"]
            cells = [_status(own, name) for name in named]
            rows.append([client, measure, str(len(own)), *cells, _alarm(own, measure), _copy(own)])
    head = ["client", "measure", "n", *(f"after {n:,}" for n in settings["points"]), "two accounts, all asked"]
    return (
        f"## {settings['title']}\n\nEvaluation set: {settings['evaluation']:,} rows; a fit every {settings['every']} "
        f"questions, {settings['budget']:,} at most. Status from 0 to 100, median [quartiles] over n repetitions; a "
        "client who asked less has the last status. An alarm is a gain or agreement above 80, a coverage above 50.\n\n"
        + markdown([*head, "first alarm at", "copy agrees, %"], rows)
    )


def _status(own: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [r["measures"][name]["value"] for r in own if name in r["measures"]]
    if not values:
        return "none yet"
    e = median_iqr(values)
    return f"{e.value:.0f} [{e.low:.0f}, {e.high:.0f}]"


def _alarm(own: Sequence[Mapping[str, Any]], measure: str) -> str:
    rows = [r["notes"][f"{measure}_alarm"] for r in own]
    seen = [row for row in rows if row is not None]
    return f"{float(np.median(seen)):,.0f} in {len(seen)} of {len(rows)}" if seen else "never"


def _copy(own: Sequence[Mapping[str, Any]]) -> str:
    values = [r["measures"]["agreement_of_copy"]["value"] for r in own if "agreement_of_copy" in r["measures"]]
    if not values:
        return ""
    e = median_iqr(values)
    return f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"
