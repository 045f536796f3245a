"""The court: for every ownership scheme and every removal attack, who is convicted, and who is accused in error.

Threat model   the thief of `bench/removal.py`: they hold the stolen file, or a copy made from marked answers, know the
               scheme and not the key, and have labelled rows of their own.
Query cost     one question for each of a key's; many more where a scheme walks from them (see its page).

Every setting stands in court.toml, the schemes too. A cell is one scheme and one repetition; innocent models are
trained once a repetition and judged by every scheme. Those that calibrate a null are none of those that are judged.
A suspect is convicted where it is under every null of the plan: models that learnt the owner's rows with other seeds
calibrate one, models that learnt other rows the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.court_room import Room, Where, removals_of, room_of, victim_attacked
from portcullis_ml.bench.protocols.court_tables import sections
from portcullis_ml.bench.protocols.defended_tables import page
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.ownership import Evidence, Key, MarkLog, Scheme
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Interface, Model, Rows
from portcullis_ml.measures.statistics import clopper_pearson
from portcullis_ml.ownership import CATALOG as SCHEMES

__all__ = ["court", "play"]

Plan = Mapping[str, Any]
TAKEN = ("version", "rows", "learner", "tuner", "null", "equivalent")
ENDLESS = 10**9  # questions that an examiner may ask; schemes bound theirs themselves


def court(run: Run) -> str:
    """Run court and return its tables; see `play`."""
    plan = plan_in("court.toml")
    return play({**plan, **plan["quick"]["changes"]} if run.quick else plan, run)


def play(plan: Plan, run: Run) -> str:
    """The matrix as Markdown, and survival.svg in `out`; resumable: a finished cell is never run again."""
    records = run.cells(cells_of(plan), partial(work, folder=run.data, device=run.device))
    done = [r for r in records if r["outcome"] == "done"]
    return page(plan, sections(plan, done, run.out) if done else [], records, run.quick)


def cells_of(plan: Plan) -> Iterator[Cell]:
    """A cell for every repetition and scheme: those of one repetition stand together, so that they share its models."""
    for seed in range(plan["repetitions"]):
        for name, scheme in plan["scheme"].items():
            if seed >= scheme.get("repetitions", plan["repetitions"]):
                continue
            more = {"unseen": scheme["unseen"]} if "unseen" in scheme else {}
            yield Cell(
                victim={"name": plan["learner"]["network"], "settings": plan["learner"]},
                data={"name": plan["data"]},
                interface={"reveals": "probs"},
                attack={"unit": "removal"},
                seed=seed,
                role="control",
                mark=describe(SCHEMES.build(scheme["mark"])),
                extra={"epochs": scheme.get("epochs"), **more, **{key: plan[key] for key in TAKEN}},
                names={"attack": name},
            )


def work(cell: Cell, workspace: Workspace, *, folder: str | None, device: str) -> Record:
    """Who is convicted: what the thief makes of the stolen model, and every near-equivalent."""
    settings = json.dumps({key: cell.extra[key] for key in TAKEN}, sort_keys=True)
    where = Where(cell.data["name"], settings, cell.seed, folder, device)
    room = room_of(where)
    assert cell.mark is not None
    scheme: Scheme[Any] = SCHEMES.build(cell.mark)
    learner = replace(room.learner, epochs=cell.extra["epochs"] or room.learner.epochs)
    unseen = room.unseen_rows(cell.extra.get("unseen", len(room.unseen)))
    key, log, stolen = stolen_from(room, unseen, scheme, learner, cell.rng("mark"))
    examine = partial(examined, scheme, key, log, interface=room.interface, rng=cell.rng("examination"))
    innocent = {name: [examine(model) for model in models] for name, models in room.calibrating.items()}

    def judged(model: Model) -> dict[str, Any]:
        return under_each(scheme, examine(model), innocent)

    if stolen is room.clean:
        suspects = victim_attacked(where, learner.epochs)
    else:
        suspects = removals_of(room, stolen, learner, cell.rng("thief"))
    removals = {name: {**judged(suspect), "accuracy": accuracy(suspect, room.test)} for name, suspect in suspects}
    equivalents = [{"kind": kind, **judged(model)} for kind, model in room.equivalents]
    convicted = sum(e["convicted"] for e in equivalents)
    shares = {name: [e.matches / e.n for e in others if e.n] for name, others in innocent.items()}
    notes = {
        "removals": removals,
        "equivalents": equivalents,
        "calibrating_shares": shares,
        "accuracy_unmarked": accuracy(room.clean, room.test),
    }
    measures = {"false_claims": clopper_pearson(convicted, len(equivalents), unit="models")}
    threat = {"answers": "probs", "data": "labelled rows of the same kind", "accounts": 1, "knows_defense": True}
    return Record(cell=cell, measures=measures, queries=0, notes=notes, threat_model=threat)


def under_each(scheme: Scheme[Any], found: Evidence, innocent: Mapping[str, Sequence[Evidence]]) -> dict[str, Any]:
    """What the record says of one suspect: its answers, and its p-value under each null apart."""
    under = {name: scheme.weigh(found, others) for name, others in innocent.items()}
    convicted = {name: e.verdict == "derived" for name, e in under.items()}
    return {
        "share": found.matches / found.n if found.n else 0.0,
        "n": found.n,
        "p": {name: e.p_value for name, e in under.items()},
        "convicted_under": convicted,
        "convicted": all(convicted.values()),
    }


def stolen_from(
    room: Room, unseen: Rows, scheme: Scheme[Any], learner: Any, rng: np.random.Generator
) -> tuple[Key, MarkLog, Any]:
    """(key, log, what was stolen): the marked model, the victim as it is, or a copy from marked answers."""
    key = scheme.mint(rng.bytes(32), room.interface, room.clean, (room.own, unseen))
    if scheme.marks == "model":
        return key, MarkLog(), scheme.embed(key, room.learner, room.own, rng=rng)
    if scheme.marks == "nothing":
        return key, MarkLog(), room.clean
    guard = Guard(scheme.defense(key), key=rng.bytes(32))
    oracle = LocalOracle(room.clean, room.interface, budget=len(room.thief), guard=guard, client="thief")
    answer = oracle.query(room.thief.x)
    copy = learner.fit(room.thief.x, answer.soft(room.interface.n_classes), rng=rng)
    return key, scheme.log(guard.store.load(("thief", guard.names[0]))), copy


def examined(
    scheme: Scheme[Any], key: Key, log: MarkLog, model: Model, *, interface: Interface, rng: np.random.Generator
) -> Evidence:
    """What the scheme counts in this model's answers, before innocent models are weighed against it."""
    return scheme.examine(key, Harvest(LocalOracle(model, interface, budget=ENDLESS)), interface, log, rng)


def accuracy(model: Model, rows: Rows) -> float:
    return float((model.scores(rows.x).argmax(axis=1) == rows.y).mean())
