"""Membership on pictures and a table: every attack under every interface, controls, and what defenses leave of them.

Carlini, Chien, Nasr, Song, Terzis, Tramèr. "Membership Inference Attacks From First Principles", IEEE S&P 2022.

Threat model   an API that shows all probabilities, some, rounded ones or labels; the attacker has the candidates' true
               classes, trains shadow models as the victim was trained, and knows the guard.
Query cost     one query a candidate; nine with moved pictures, and some 25 for the search by labels.

Every setting stands in membership.toml. A first round of cells trains groups of models; every further cell is one
attack on one victim of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.named import guard_named, privacy_named
from portcullis_ml.bench.protocols.defended_tables import page
from portcullis_ml.bench.protocols.membership_scene import Trained, groups_of, learner_of, train
from portcullis_ml.bench.protocols.membership_tables import sections
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.rehearsal import Rehearsal
from portcullis_ml.bench.run import Workspace
from portcullis_ml.bench.target import guard_of
from portcullis_ml.catalog import identity
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.privacy import PrivacyAttack
from portcullis_ml.core.types import Array, Interface, Model, Reveals, Rows
from portcullis_ml.measures.blind import blind_suspicion
from portcullis_ml.measures.membership import membership_measures
from portcullis_ml.measures.utility import honest_cost
from portcullis_ml.privacy import CATALOG as PRIVACY

__all__ = ["BUDGET", "NONE", "membership", "play", "shortened", "work"]

Plan = Mapping[str, Any]
BUDGET = 10**6  # queries: more than any attack here asks
COARSE = 8  # pixels of a side of what the blind baseline sees of a picture
NONE = {"reveals": "probs"}


def membership(run: Run) -> str:
    """Run membership and return its tables; see `play`."""
    plan = plan_in("membership.toml")
    return play(shortened(plan) if run.quick else plan, run)


def play(plan: Plan, run: Run) -> str:
    """Published beside measured, as Markdown; resumable: a finished cell is never run again."""
    groups = list(groups_of(plan))
    where: dict[str, Any] = {"folder": run.data, "device": run.device, "out": run.out}
    trained = run.cells(groups, partial(train, **where))
    cells = [cell for group in groups for cell in cells_of(plan, group)]
    records = run.cells(cells, partial(work, groups={group.id: group for group in groups}, **where))
    return page(plan, sections(plan, trained, records), [*trained, *records], run.quick)


def shortened(plan: Plan) -> dict[str, Any]:
    """The quick look: one scene, fewer rows, models and epochs. Its figures stand for nothing."""
    quick, scenes = plan["quick"], {}
    for name in quick["scenes"]:
        scene = plan["scene"][name]
        training = {
            group: settings
            | {k: v for k, v in quick["training"].items() if k in settings}
            | {"learner": settings["learner"] | {"epochs": quick["epochs"]}}
            for group, settings in scene["training"].items()
        }
        scenes[name] = scene | {"rows": scene["rows"] | quick["rows"], "training": training}
    return {**plan, "scene": scenes}


def cells_of(plan: Plan, group: Cell) -> Iterator[Cell]:
    """Every attack on every victim of a group."""
    name, training = group.names["scene"], group.extra["training"]
    scene = {**plan, **plan["scene"][name]}
    own = [through for through, of in scene["defenses"] if of == training]
    for v in range(group.victim["settings"]["victims"]):
        make = partial(_cell, plan, group, v)
        for through in own:
            yield make("honest", "defense", through=through)
            for word in scene["against"]:
                yield make(word, "defense", through=through)
        if "innocents" not in group.victim["settings"]:
            continue
        yield make("blind", "control")
        for shown, interface in scene["interfaces"].items():
            for word in (*scene["scores"], *(scene["labels"] if interface["reveals"] == "labels" else ())):
                yield make(word, "interface", shown=shown, interface=interface)
        for word in scene["variants"]:
            yield make(word, "interface", shown=next(iter(scene["interfaces"])))
        for word in scene["controls"] if v < group.victim["settings"]["innocents"] else ():
            yield make(word, "control", on="innocent")


def _cell(
    plan: Plan,
    group: Cell,
    v: int,
    word: str,
    table: str,
    *,
    through: str = "none",
    shown: str = "",
    interface: Mapping[str, Any] = NONE,
    on: str = "api",
) -> Cell:
    attack = {"unit": word} if word in ("honest", "blind") else privacy_named(word)
    return Cell(
        victim={"name": group.victim["name"], "trained": group.id},
        data=group.data,
        interface=interface,
        attack=attack,
        defense=guard_named(through).stages,
        budget=BUDGET,
        seed=v,
        role="honest" if word == "honest" else "privacy",
        knows_defense=True,
        extra={"table": table, "on": on, "few": plan["few"].get(word)},
        names={**group.names, "attack": word, "defense": through, "training": group.names["defense"], "shown": shown},
    )


def work(
    cell: Cell, workspace: Workspace, *, groups: Mapping[str, Cell], folder: str | None, device: str, out: Path
) -> Record:
    """What one attack finds in one victim, or what its guard costs honest clients."""
    group = groups[cell.victim["trained"]]
    trained = Trained.of(group, out, folder)
    model = trained.innocent(cell.seed) if cell.extra["on"] == "innocent" else trained.victim(cell.seed)
    if cell.attack["unit"] == "honest":
        return _honest(cell, model, trained)
    few, every = cell.extra["few"], trained.scene.candidates
    assert every.y is not None
    candidates, member = Rows(every.x[:few], every.y[:few]), trained.member(cell.seed)[:few]
    if cell.attack["unit"] == "blind":
        suspicion = blind_suspicion(_coarse(candidates), member, rng=cell.rng("blind"))
        return Record(cell=cell, measures=membership_measures(suspicion, member), notes={"candidates": len(member)})
    answered = shown_by(cell, trained.scene.interface)
    guard = guard_of(cell, answered)
    shown = answered if guard is None else guard.shown(answered)
    attack: PrivacyAttack = PRIVACY.build(cell.attack)
    others = groups[cell.extra.get("shadows_of", group.id)]  # the group that shadow models are taken of
    if hasattr(attack, "shadows"):
        attack = replace(attack, shadows=Trained.of(others, out, folder).shadows(cell.seed))  # type: ignore[call-arg]
    knowledge = Knowledge(
        learner=learner_of(others.victim["settings"], device),
        defense=identity(cell.defense),
        rehearse=Rehearsal(cell, answered) if cell.defense else None,
    )
    with workspace.ledger(columns=answered.n_classes) as ledger:
        oracle = LocalOracle(model, shown, budget=cell.budget, guard=guard, ledger=ledger)
        leakage = attack(oracle, knowledge, candidates, rng=cell.rng("attack"), watch=workspace.report)
    assert leakage.membership is not None
    return Record(
        cell=cell,
        measures=membership_measures(leakage.membership, member),
        queries=leakage.queries,
        stopped=leakage.stopped,
        notes={"candidates": len(member), "shadows": leakage.notes.get("shadows")},
        threat_model={"answers": shown.reveals.word, "data": "the true classes", "accounts": 1, "knows_defense": True},
    )


def shown_by(cell: Cell, interface: Interface) -> Interface:
    """What this cell's API shows."""
    changes = {k: v for k, v in cell.interface.items() if k in ("k", "decimals")}
    return interface.revealing(reveals=Reveals.parse(cell.interface["reveals"]), **changes)


def _honest(cell: Cell, model: Model, trained: Trained) -> Record:
    test, answered = trained.scene.test, shown_by(cell, trained.scene.interface)
    assert test.y is not None
    parts = np.array_split(np.arange(len(test)), max(len(test) // 250, 1))

    def fresh() -> Guard:
        return guard_of(cell, answered) or Guard(key=bytes(16))

    streams, truths = [test.x[p] for p in parts], [test.y[p] for p in parts]
    cost = honest_cost(fresh, model, answered, streams, truths, rng=cell.rng("honest"))
    return Record(cell=cell, measures=cost.measures())


def _coarse(rows: Rows) -> Rows:
    """Pictures as means of squares, at most so many a side; a forest is slow on thousands of pixels."""
    x: Array = rows.x
    if x.ndim < 3:
        return rows
    by = max(x.shape[1] // COARSE, 1)
    side = x.shape[1] // by * by
    x = x[:, :side, :side].reshape(len(x), side // by, by, side // by, by, -1).mean(axis=(2, 4))
    return Rows(x, rows.y)
