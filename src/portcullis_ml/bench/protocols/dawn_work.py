"""The work of protocol dawn: victims, thefts, what is done to copies, and what the marks prove of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.dawn_copies import API, CLASSES, Parts, believes, fitted, removed
from portcullis_ml.bench.protocols.defended_scene import pictures
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.randomness import Noise, derive
from portcullis_ml.core.types import Answer, Array, Estimate, Labels, Model, Request, Reveals, Rows
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.statistics import clopper_pearson, mean_of
from portcullis_ml.models.torch import TorchLearner, TorchModel
from portcullis_ml.ownership import CATALOG as SCHEMES

__all__ = ["work"]

Plan = Mapping[str, Any]
SEEDS = 10  # rows of each class from which made-up questions start


@dataclass(frozen=True)
class Marked:
    """One theft under marks: what was answered, what was written down, and the key that speaks for it."""

    stolen: Extraction
    wrong: NDArray[np.bool_]  # which answers were marked
    scheme: Any
    log: Any


def work(cell: Cell, workspace: Workspace, *, plan: Plan, folder: str | None, device: str) -> Record:
    """What one victim's marks cost, or what they prove of the copies of one theft."""
    rows = {name.removesuffix("_rows"): plan[name] for name in plan if name.endswith("_rows")}
    parts = parted(cell.data["name"], folder, json.dumps(rows))
    victim = trained(parts.victim, json.dumps(plan["victim"]), cell.seed, device)
    if cell.attack["unit"] == "facts":
        return Record(cell=cell, measures=dict(facts(cell, victim, parts.test)))
    marked = theft(cell, victim, parts, folder, device, marks=True)
    plain = theft(cell, victim, parts, folder, device, marks=False)
    suspects = {"copy": marked.stolen.model, "copy without marks": plain.stolen.model, "the model itself": victim}
    measures: dict[str, Estimate] = {}
    if "removal" in cell.extra:
        believed = believes(marked.stolen, cell, device)
        measures["doubted_marks"] = clopper_pearson(int((~believed[marked.wrong]).sum()), int(marked.wrong.sum()))
        measures["doubted_others"] = clopper_pearson(int((~believed[~marked.wrong]).sum()), int((~marked.wrong).sum()))
        suspects |= dict(removed(marked.stolen, believed, parts, cell, device))
    innocent = [trained(draw, json.dumps(plan["victim"]), 100 + i, device) for i, draw in drawn(parts, cell)]
    notes: dict[str, Any] = {"marks": int(marked.wrong.sum()), "suspects": {}}
    for name, suspect in suspects.items():
        found = judged(marked, suspect, innocent)
        measures[f"{name}|marks"] = clopper_pearson(found.matches, found.n, unit="marks")
        measures[f"{name}|accuracy"] = accuracy(suspect, parts.test)
        said = {"verdict": found.verdict, "matches": found.matches, "n": found.n}
        notes["suspects"][name] = said | {n: found.notes[n] for n in ("bits", "null_chance") if n in found.notes}
        notes["innocent"] = found.notes.get("innocent_shares", [])
    return Record(cell=cell, measures=measures, queries=cell.budget, notes=notes)


@lru_cache(maxsize=2)
def parted(name: str, folder: str | None, sizes: str) -> Parts:
    """The data set cut into parts; test rows come from its test set, all others from its training set."""
    rows, data = json.loads(sizes), load_dataset(name, folder)
    order = derive(0, name, "parts").permutation(len(data.x))
    found, begin = {}, 0
    for part in ("victim", "thief", "second", "tuning", "innocent"):
        which = order[begin : begin + rows[part]]
        found[part] = Rows(data.x[which].reshape(-1, *API.input_shape), data.y[which].astype(np.int64))
        begin += rows[part]
    test = Rows(data.x_test[: rows["test"]].reshape(-1, *API.input_shape), data.y_test[: rows["test"]].astype(np.int64))
    return Parts(**found, test=test)


def drawn(parts: Parts, cell: Cell) -> Iterator[tuple[int, Rows]]:
    """The rows of each innocent model, the same for all seeds."""
    pool = parts.innocent
    assert pool.y is not None
    for i in range(cell.extra["innocent"]):
        which = np.random.default_rng(i).permutation(len(pool.x))[: len(parts.victim.x)]
        yield i, Rows(pool.x[which], pool.y[which])


TRAINED: dict[tuple[str, str, int], TorchModel] = {}


def trained(rows: Rows, settings: str, seed: int, device: str) -> TorchModel:
    """A network of rows with their true classes, trained once in this process."""
    key = (sha256(rows.x.tobytes()).hexdigest(), settings, seed)
    if key not in TRAINED:
        TRAINED[key] = fitted(rows.x, np.eye(CLASSES)[rows.y], {**json.loads(settings), "device": device}, seed)
    return TRAINED[key]


def theft(cell: Cell, victim: Model, parts: Parts, folder: str | None, device: str, *, marks: bool) -> Marked:
    """The theft of this cell, from a guard that marks or one that does nothing."""
    interface = API.revealing(reveals=Reveals[cell.interface["reveals"].upper()])
    scheme = SCHEMES.build({"unit": "dawn", "rate": cell.extra["rate"]})
    stage = scheme.defense(scheme.mint(bytes(32), interface))
    guard = Guard(*[stage] * marks, key=bytes([cell.seed + 1]) * 32, quantum=1 / 255, interface=API)
    oracle = LocalOracle(victim, interface, budget=cell.budget, guard=guard, client="thief")
    pool = parts.thief.x if cell.extra["pool"] == "own" else None
    if pool is None and cell.extra["pool"]:
        pool = pictures(cell.extra["pool"], folder, API.input_shape, cell.budget).reshape(-1, 28, 28)
    own = parts.thief
    seeds = np.concatenate([own.x[own.y == c][:SEEDS] for c in range(CLASSES)])
    learner = TorchLearner(**cell.extra["learner"], device=device)
    attack = ATTACKS.build(cell.attack)
    rng = derive(cell.seed, "theft", cell.names["attack"])
    stolen = attack(oracle, Knowledge(pool=pool, seeds=seeds, learner=learner), rng=rng)
    assert stolen.answer.labels is not None
    clean = victim.scores(stolen.x).argmax(axis=1)
    log = scheme.log(guard.store.load(("thief", guard.names[0]))) if marks else None
    return Marked(stolen, np.asarray(stolen.answer.labels != clean), scheme, log)


def judged(marked: Marked, suspect: Model, innocent: list[TorchModel]) -> Any:
    """The evidence of the thief's marks against a suspect."""
    scheme = marked.scheme
    key = scheme.mint(bytes(32), API)
    oracle = LocalOracle(suspect, API, budget=len(marked.stolen.x))
    return scheme(key, oracle, innocent, commitment=key.commit(), log=marked.log, rng=np.random.default_rng(0))


def accuracy(model: Model, test: Rows) -> Estimate:
    return clopper_pearson(int((model.scores(test.x).argmax(axis=1) == test.y).sum()), len(test.x))


def facts(cell: Cell, victim: Model, test: Rows) -> Iterator[tuple[str, Estimate]]:
    """What marks cost an honest client at each rate, and how the decision survives noise: one value a key."""
    clean = Answer.of(victim.scores(test.x), API)
    right = np.asarray(clean.labels == test.y)
    rates = {}
    for rate in cell.extra["utility"]:
        shown = [served(victim, test.x, clean, rate, key) for key in range(cell.extra["keys"])]
        wrong = [float(np.mean(labels != clean.labels)) for labels in shown]
        lost = [float(right.mean() - (labels == test.y).mean()) for labels in shown]
        rates[rate] = wrong
        yield f"wrong|{rate:g}", mean_of(wrong, unit="keys")
        yield f"lost|{rate:g}", mean_of(lost, unit="keys")
        yield f"unexplained|{rate:g}", mean_of(np.array(wrong) - np.array(lost), unit="keys")
    last = cell.extra["utility"][-1]
    yield "least_rate", mean_of([min(rates[last])] * 2, unit="keys")
    yield "greatest_rate", mean_of([max(rates[last])] * 2, unit="keys")
    stage = DEFENSES.build({"unit": "dawn", "rate": last}).bind(API)
    codes = stage.codes(test.x, clean, Noise(bytes(32), "0-dawn", 1 / 255))
    yield "codes", mean_of([len(np.unique(codes, axis=0))] * 2, unit="keys")
    for size in cell.extra["noises"]:
        moved = np.clip(test.x + cell.rng("noise").uniform(-size, size, test.x.shape), 0, 1)
        near = Answer.of(victim.scores(moved), API)
        found = [kappa(victim, (test.x, clean), (moved, near), last, key) for key in range(cell.extra["keys"])]
        yield f"kappa|{size:g}", mean_of(found, unit="keys")


def served(victim: Model, x: Array, clean: Answer, rate: float, key: int) -> Labels:
    """(n,) the labels that a client with this key is shown."""
    stage = DEFENSES.build({"unit": "dawn", "rate": rate}).bind(API)
    noise = Noise(bytes([key]) * 32, "0-dawn", 1 / 255)
    labels: Labels = stage.release(Request("honest", x), clean, clean, stage.start(), noise).labels
    return labels


def kappa(victim: Model, one: tuple[Array, Answer], other: tuple[Array, Answer], rate: float, key: int) -> float:
    """The agreement of marking questions and marking them with noise, chance removed."""
    a, b = (served(victim, x, clean, rate, key) != clean.labels for x, clean in (one, other))
    both, chance = float((a == b).mean()), float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    return (both - chance) / (1 - chance) if chance < 1 else 1.0
