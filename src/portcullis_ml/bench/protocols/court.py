"""The court: for every ownership scheme and every removal attack, who is convicted, and who is accused in error.

Threat model   the thief of `bench/removal.py`: they hold the stolen file, or a copy made from marked answers, know the
               scheme and not the key, and have labelled rows of their own.
Query cost     one question for each of a key's; many more where a scheme walks from them (see its page).

Every setting stands in court.toml, the schemes too. A cell is one scheme and one repetition; innocent models are
trained once a repetition and judged by every scheme. Those that calibrate the null are none of those that are judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.court_tables import sections
from portcullis_ml.bench.protocols.defended_tables import page
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.ownership import Evidence, Key, MarkLog, Scheme
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Interface, Model, Rows
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.measures.statistics import clopper_pearson
from portcullis_ml.ownership import CATALOG as SCHEMES

__all__ = ["Room", "court", "play", "room_of"]

Plan = Mapping[str, Any]
TAKEN = ("version", "rows", "learner", "tuner", "calibrating", "equivalent")
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
            yield Cell(
                victim={"name": plan["learner"]["network"], "settings": plan["learner"]},
                data={"name": plan["data"]},
                interface={"reveals": "probs"},
                attack={"unit": "removal"},
                seed=seed,
                role="control",
                mark=describe(SCHEMES.build(scheme["mark"])),
                extra={"epochs": scheme.get("epochs"), **_stricter(scheme), **{key: plan[key] for key in TAKEN}},
                names={"attack": name},
            )


def _stricter(scheme: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell says of a null that is calibrated on the owner's own rows; nothing where it is not."""
    return {"calibrated_on": "own"} if scheme.get("calibrated_on") == "own" else {}


@dataclass(frozen=True)
class Room:
    """One repetition: rows for everybody, the clean victim, and innocent models, named by their kind where judged."""

    interface: Interface
    own: Rows
    unseen: Rows
    thief: Rows
    test: Rows
    learner: Any
    tuner: Any
    clean: Any
    calibrating: Sequence[Model]
    equivalents: Sequence[tuple[str, Model]]


@lru_cache(maxsize=1)
def room_of(data: str, settings: str, seed: int, folder: str | None, device: str) -> Room:
    """The room of a repetition, from its settings as JSON; kept for the next scheme."""
    from portcullis_ml.models.torch import TorchLearner

    plan, dataset = json.loads(settings), load_dataset(data, folder)
    sizes, rng = plan["rows"], derive(seed, "court", data)
    names = ("own", "unseen", "thief", "others", "test")
    order, ends = rng.permutation(len(dataset.x)), np.cumsum([0, *(sizes[name] for name in names)])
    shape = dataset.x.shape[1:]
    parts = [Rows(dataset.x[order[a:b]], dataset.y[order[a:b]].astype(np.int64)) for a, b in pairwise(ends)]
    own, unseen, thief, others, test = parts
    learner = TorchLearner(**plan["learner"], device=device)
    interface = Interface(input_shape=tuple(shape), n_classes=len(dataset.classes))

    def innocent(kind: Mapping[str, Any], network: str) -> Model:
        rows = _together(_drawn(own, kind["own"], rng), _drawn(others, kind["others"], rng))
        model: Model = _fitted(replace(learner, network=network), rows, interface, rng)
        return model

    clean = _fitted(learner, own, interface, rng)
    apart = {"own": 0, "others": sizes["own"]}
    return Room(
        interface, own, unseen, thief, test, learner, TorchLearner(**plan["tuner"], device=device), clean,
        [innocent(apart, learner.network) for _ in range(plan["calibrating"])],
        [
            (name, innocent(kind, kind["networks"][i % len(kind["networks"])]))
            for name, kind in plan["equivalent"].items()
            for i in range(kind["models"])
        ],
    )  # fmt: skip


@lru_cache(maxsize=1)
def calibrating_on_own(data: str, settings: str, seed: int, folder: str | None, device: str) -> Sequence[Model]:
    """As many innocent models as calibrate otherwise, trained on the owner's own rows with seeds of their own."""
    room, rng = room_of(data, settings, seed, folder, device), derive(seed, "court", data, "calibrating on own rows")
    return [_fitted(room.learner, room.own, room.interface, rng) for _ in room.calibrating]


def _drawn(rows: Rows, n: int, rng: np.random.Generator) -> Rows:
    assert rows.y is not None
    drawn = rng.permutation(len(rows))[:n]
    return Rows(rows.x[drawn], rows.y[drawn])


def _together(one: Rows, other: Rows) -> Rows:
    assert one.y is not None
    assert other.y is not None
    return Rows(np.concatenate([one.x, other.x]), np.concatenate([one.y, other.y]))


def _fitted(learner: Any, rows: Rows, interface: Interface, rng: np.random.Generator) -> Any:
    return learner.fit(rows.x, np.eye(interface.n_classes)[rows.y], rng=rng)


def work(cell: Cell, workspace: Workspace, *, folder: str | None, device: str) -> Record:
    """Who is convicted: what the thief makes of the stolen model, and every near-equivalent."""
    from portcullis_ml.bench.removal import REMOVALS, Thief, attacked

    settings = {key: cell.extra[key] for key in TAKEN}
    where = cell.data["name"], json.dumps(settings, sort_keys=True), cell.seed, folder, device
    room = room_of(*where)
    assert cell.mark is not None
    scheme: Scheme[Any] = SCHEMES.build(cell.mark)
    learner = replace(room.learner, epochs=cell.extra["epochs"] or room.learner.epochs)
    key, log, stolen = stolen_from(room, scheme, learner, cell.rng("mark"))
    rng = cell.rng("examination")
    calibrating = calibrating_on_own(*where) if "calibrated_on" in cell.extra else room.calibrating
    innocent = [examined(scheme, key, log, model, room.interface, rng) for model in calibrating]

    def judged(model: Model) -> dict[str, Any]:
        found = scheme.weigh(examined(scheme, key, log, model, room.interface, rng), innocent)
        share = found.matches / found.n if found.n else 0.0
        return {"share": share, "n": found.n, "p": found.p_value, "convicted": found.verdict == "derived"}

    labelled = room.thief.x[: settings["rows"]["labelled"]]
    own = Rows(labelled, room.thief.y[: len(labelled)] if room.thief.y is not None else None)
    thief = Thief(room.interface, own, room.thief.x, learner, room.tuner)
    removals = {
        name: {**judged(suspect), "accuracy": accuracy(suspect, room.test)}
        for name, suspect in attacked(stolen, thief, list(REMOVALS), cell.rng("thief"))
    }
    equivalents = [{"kind": kind, **judged(model)} for kind, model in room.equivalents]
    convicted = sum(e["convicted"] for e in equivalents)
    notes = {"removals": removals, "equivalents": equivalents, "accuracy_unmarked": accuracy(room.clean, room.test)}
    measures = {"false_claims": clopper_pearson(convicted, len(equivalents), unit="models")}
    threat = {"answers": "probs", "data": "labelled rows of the same kind", "accounts": 1, "knows_defense": True}
    return Record(cell=cell, measures=measures, queries=0, notes=notes, threat_model=threat)


def stolen_from(room: Room, scheme: Scheme[Any], learner: Any, rng: np.random.Generator) -> tuple[Key, MarkLog, Any]:
    """(key, log, what was stolen): the marked model, the victim as it is, or a copy from marked answers."""
    key = scheme.mint(rng.bytes(32), room.interface, room.clean, (room.own, room.unseen))
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
    scheme: Scheme[Any], key: Key, log: MarkLog, model: Model, interface: Interface, rng: np.random.Generator
) -> Evidence:
    """What the scheme counts in this model's answers, before innocent models are weighed against it."""
    return scheme.examine(key, Harvest(LocalOracle(model, interface, budget=ENDLESS)), interface, log, rng)


def accuracy(model: Model, rows: Rows) -> float:
    return float((model.scores(rows.x).argmax(axis=1) == rows.y).mean())
