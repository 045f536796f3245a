"""Chain-membership: who is in the training data, asked of a stolen copy and of the API for the same bill.

Carlini, Chien, Nasr, Song, Terzis, Tramèr. "Membership Inference Attacks From First Principles", IEEE S&P 2022, on the
copy of Orekondy, Schiele, Fritz. "Knockoff Nets", CVPR 2019.

Threat model   an API that shows all probabilities, behind a guard that the attacker knows; they have the candidates'
               true classes, train shadow models as the victim was trained, and copy these as they copy the victim.
Query cost     one query for each row of the thief's pool, and none for the copy; one query a candidate on the API.

Every setting stands in chain_membership.toml. A first round of cells trains groups of models, a second one copies every
model of a group through a defense, and every further cell is one attack on one victim or on its copy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from portcullis_ml.bench.cell import Cell, fingerprint
from portcullis_ml.bench.named import attack_named, guard_named, privacy_named
from portcullis_ml.bench.prepare import Training
from portcullis_ml.bench.protocols.chain_membership_tables import sections
from portcullis_ml.bench.protocols.defended_tables import page
from portcullis_ml.bench.protocols.membership import BUDGET, NONE, shortened, work
from portcullis_ml.bench.protocols.membership_scene import Trained, groups_of, keep_group, learner_of, train
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.bench.target import guard_of
from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Model, Rows
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.statistics import mean_over_seeds
from portcullis_ml.models.shadows import Shadows
from portcullis_ml.recipes import CATALOG as RECIPES

__all__ = ["chain_membership", "play"]

Plan = Mapping[str, Any]


def chain_membership(run: Run) -> str:
    """Run chain-membership and return its tables; see `play`."""
    plan = plan_in("chain_membership.toml")
    return play(shortened(plan) if run.quick else plan, run)


def play(plan: Plan, run: Run) -> str:
    """What was measured, as Markdown; resumable: a finished cell is never run again."""
    groups = {group.id: group for group in groups_of(plan)}
    where: dict[str, Any] = {"folder": run.data, "device": run.device, "out": run.out}
    trained = run.cells(groups.values(), partial(train, **where))
    thefts = [theft for group in groups.values() for theft in thefts_of(plan, group, run.out, run.data)]
    stolen = run.cells(thefts, partial(steal, groups=groups, **where))
    own = {id: [t for t in thefts if t.victim["trained"] == id] for id in groups}
    cells = [cell for id, group in groups.items() for cell in cells_of(plan, group, own[id])]
    records = run.cells(cells, partial(work, groups=groups | {theft.id: theft for theft in thefts}, **where))
    return page(plan, sections(plan, trained, stolen, records), [*trained, *stolen, *records], run.quick)


def thefts_of(plan: Plan, group: Cell, out: Path, folder: str | None) -> Iterator[Cell]:
    """A cell for every way in which this group's models are copied."""
    scene, trained = plan["scene"][group.names["scene"]], Trained.of(group, out, folder)
    rows, settings = group.data["settings"], group.victim["settings"]
    for through, training, about in scene["thefts"]:
        if training != group.extra["training"]:
            continue
        yield Cell(
            victim={
                "name": group.victim["name"],
                "trained": group.id,
                "settings": {k: v for k, v in settings.items() if k != "hardening"} | {"learner": scene["learner"]},
            },
            data=group.data,
            interface=NONE,
            attack=attack_named(plan["thief"]),
            defense=tuple(_prepared(stage, trained, out) for stage in guard_named(through).stages),
            budget=rows["candidates"],
            extra={"about": about},
            names={**group.names, "attack": plan["thief"], "defense": through, "training": training, "about": about},
        )


def _prepared(stage: Mapping[str, Any], trained: Trained, out: Path) -> dict[str, Any]:
    """A stage in which a recipe has become what it makes of the first victim and its rows; made once."""
    every, member = trained.scene.candidates, trained.member(0)
    assert every.y is not None
    found = dict(stage)
    for name, value in stage.items():
        if not (isinstance(value, Mapping) and value.get("unit") in RECIPES):
            continue
        model, rows = trained.victim(0), Rows(every.x[member], every.y[member])
        sha256 = fingerprint(model.scores(trained.scene.test.x[:200]).round(6))
        training = Training(
            unit=RECIPES.build(value), given=model, victim={"name": "victim 0", "sha256": sha256}, rows=rows,
            source="candidates", outside=None,
        )  # fmt: skip
        place = out / "artifacts" / training.key()
        made = Artifact.at(str(place)) if place.is_dir() else training(place, lambda *_: None, key=training.key())
        found[name] = str(made)
    return found


def steal(
    cell: Cell, workspace: Workspace, *, groups: Mapping[str, Cell], folder: str | None, device: str, out: Path
) -> Record:
    """Copy every model of a group through the cell's guard, and keep the copies as a group of their own."""
    trained = Trained.of(groups[cell.victim["trained"]], out, folder)
    settings = cell.victim["settings"]
    learner = learner_of(settings, device)
    copied = partial(_copy, cell, trained, learner=learner)
    victims = [trained.model(i) for i in range(settings["models"])]
    copies = []
    for i, victim in enumerate(victims):
        copies.append(copied(victim, i))
        workspace.report(i + 1, len(victims))
    innocents = [
        copied(trained.innocent(v), settings["models"] + v)
        for v in range(settings.get("innocents", 0) if _controlled(cell) else 0)
    ]
    made = Shadows(copies, trained.held())
    keep_group(made, settings["victims"], innocents, workspace, out / "trained" / cell.id, learner, trained.scene)
    test = trained.scene.test
    same = [_same(victims[2 * v], copies[2 * v], test) for v in range(settings["victims"])]
    right = [float((copies[2 * v].scores(test.x).argmax(axis=1) == test.y).mean()) for v in range(settings["victims"])]
    measures = {"agreement": mean_over_seeds(same), "accuracy": mean_over_seeds(right)}
    return Record(cell=cell, measures=measures, queries=cell.budget, notes={"copies": len(copies)})


def _controlled(theft: Cell) -> bool:
    """Whether innocent models are copied too: no defense could make them tell of candidates."""
    return theft.extra["about"] == "other rows" and not theft.defense


def _copy(cell: Cell, trained: Trained, victim: Model, number: int, *, learner: Any) -> Model:
    """The copy of one model, behind a guard whose key is its own."""
    scene = trained.scene
    guard = guard_of(replace(cell, seed=number), scene.interface)
    shown = scene.interface if guard is None else guard.shown(scene.interface)
    oracle = LocalOracle(victim, shown, budget=cell.budget, guard=guard)
    pool = scene.candidates.x if cell.extra["about"] == "the candidates" else scene.others.x
    thief = ATTACKS.build(cell.attack)
    model: Model = thief(oracle, Knowledge(pool=pool, learner=learner), rng=cell.rng("theft", str(number))).model
    return model


def _same(victim: Model, copy: Model, test: Rows) -> float:
    return float((victim.scores(test.x).argmax(axis=1) == copy.scores(test.x).argmax(axis=1)).mean())


def cells_of(plan: Plan, group: Cell, thefts: list[Cell]) -> Iterator[Cell]:
    """Every attack on every victim of a group and on each of its copies."""
    settings = group.victim["settings"]
    behind = {json.dumps(theft.defense): theft for theft in thefts}.values()
    for v in range(settings["victims"]):
        if "innocents" in settings:  # a control of the candidates, not of how models were trained
            yield _cell(group, group, v, "blind")
        for theft in behind:
            yield _cell(group, theft, v, "honest")
            for word in plan["labels"] if theft.names["defense"] == "label_only" else plan["words"]:
                yield replace(_cell(group, theft, v, word), budget=theft.budget)
        for theft in thefts:
            for word in plan["words"]:
                yield _cell(theft, theft, v, word, route="copy")
            for word in plan["plain"] if not theft.defense else ():
                yield _cell(theft, theft, v, word, route="copy, shadows not copied", more={"shadows_of": group.id})
            innocent = _controlled(theft) and v < settings.get("innocents", 0)
            for word in plan["controls"] if innocent else ():
                yield _cell(theft, theft, v, word, route="copy of an innocent", more={"on": "innocent"})


def _cell(
    attacked: Cell, theft: Cell, v: int, word: str, *, route: str = "API", more: Mapping[str, Any] | None = None
) -> Cell:
    """One attack on victim v of a group, behind the theft's guard, or on a copy, which stands behind none."""
    attack = {"unit": word} if word in ("honest", "blind") else privacy_named(word)
    return Cell(
        victim={"name": attacked.victim["name"], "trained": attacked.id},
        data=attacked.data,
        interface=NONE,
        attack=attack,
        defense=theft.defense if route == "API" else (),
        budget=BUDGET,
        seed=v,
        role="honest" if word == "honest" else "privacy",
        knows_defense=True,
        extra={"on": "api", "few": None, **(more or {})},
        names={
            "defense": "none",
            "training": attacked.extra.get("training", ""),
            "about": "",
            **theft.names,
            "attack": word,
            "route": route,
        },
    )
