"""DeepDefense, the published experiment: what a thief copies from answers and explanations of a flower classifier.

Lee, Han, Lee. "Model Stealing Defense against Exploiting Information Leak through the Interpretation of Deep Neural
Nets", IJCAI 2022, after its author's talk: the tables on defense performance, cost and interpretation quality.

Threat model   answers: probabilities and class activation maps; data: pictures of the victim's kind; the victim's own
               architecture, from random weights.
Query cost     `pool_rows` for every cell: one question a picture, which all thieves of the cell share.

Every setting stands in deep_defense.toml. A cell is one defense and one seed, or one kind of explanation and one seed.
A seed draws the split, the victim and the thief; near-identical pictures stand on one side of every split.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.deep_defense_tables import document
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Answer, Array, Estimate, Interface, Labels, Model, Request, Rows
from portcullis_ml.data.picture_zip import pictures_in
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.measures.explanations import average_drop, order_kept
from portcullis_ml.measures.statistics import clopper_pearson, mean_of
from portcullis_ml.models.explain import ExplainedModel, explainer_named
from portcullis_ml.models.victims import train_victim

__all__ = ["deep_defense"]

Plan = Mapping[str, Any]


def deep_defense(run: Run) -> str:
    """Published beside measured, as Markdown; resumable: a finished cell is never run again. `device` is not used."""
    plan = plan_in("deep_defense.toml")
    plan = shortened(plan) if run.quick else plan
    text = json.dumps(plan, sort_keys=True)
    records = run.cells(cells_of(plan), partial(work, plan=text, data=run.data, out=run.out))
    return document(plan, records, quick=run.quick)


def shortened(plan: Plan) -> dict[str, Any]:
    """The quick look: one seed, few rows and epochs. Its figures stand for nothing."""
    quick = dict(plan["quick"])
    rows, epochs = [plan["row"][i] for i in quick.pop("rows")], quick.pop("epochs")
    short = {part: {**plan[part], "epochs": epochs} for part in ("victim", "thief")}
    return {**plan, **quick, **short, "row": rows, "explained": plan["explained"][:1]}


def cells_of(plan: Plan) -> list[Cell]:
    """All cells of the first seed first, so that a run that is cut short has something to say."""
    return [
        Cell(
            victim={"name": plan["victim"]["network"], **plan["victim"]},
            data={"name": plan["archive"], "shrink": plan["shrink"]},
            interface={"reveals": "probs", "explains": True},
            attack={"unit": kind, **plan["thief"]},
            budget=plan["pool_rows"] if kind == "row" else plan["explained_rows"],
            seed=seed,
            extra={"version": plan["version"], "row": {k: v for k, v in row.items() if k != "published"}},
            names={"attack": kind, "defense": row["name"]},
        )
        for seed in range(plan["seeds"])
        for kind in ("row", "explained")
        for row in plan[kind]
    ]


# What a seed draws


@dataclass(frozen=True)
class Drawn:
    """The victim of one seed, and rows that have no picture in common: victim's, thief's, test."""

    victim: Any
    own: Rows
    pool: Rows
    test: Rows

    @property
    def interface(self) -> Interface:
        return Interface(input_shape=self.own.x.shape[1:], n_classes=self.victim.n_classes, explains=True)


def folder_of(data: str | None) -> Path:
    import os

    given = data or os.environ.get("PORTCULLIS_DATA")
    if not given:
        raise InputError("deep-defense needs the folder with flowers17_96.zip. Give --data or set PORTCULLIS_DATA.")
    return Path(given)


@lru_cache(maxsize=2)
def pictures(archive: Path, shrink: int) -> tuple[Array, Labels, list[list[int]]]:
    beside = archive.with_name("flowers17_near_duplicates.json")
    pairs = json.loads(beside.read_text("utf-8")) if beside.is_file() else []
    return *pictures_in(archive, shrink), pairs


@lru_cache(maxsize=2)
def drawn(text: str, data: str | None, out: Path, seed: int) -> Drawn:
    """The split and the victim of one seed; the victim is kept in `out`."""
    from portcullis_ml.models.torch import TorchLearner

    plan = json.loads(text)
    x, y, pairs = pictures(folder_of(data) / plan["archive"], plan["shrink"])
    sizes, rng = [plan["test_rows"], plan["pool_rows"]], derive(seed, plan["protocol"], "split")
    test, pool, own = (Rows(x[part], y[part]) for part in split(len(x), pairs, sizes, rng))
    learner = TorchLearner(**plan["victim"], targets="labels")
    assert own.y is not None  # the archive's folders are the classes
    mirrored = np.concatenate([own.x, own.x[:, :, ::-1]]), np.concatenate([own.y, own.y])
    rng = derive(seed, plan["protocol"], "victim")
    return Drawn(train_victim(*mirrored, int(y.max()) + 1, learner, rng=rng, cache=out / "victims"), own, pool, test)


def split(n: int, pairs: list[list[int]], sizes: list[int], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """n pictures in parts of these sizes and the rest; near-identical ones, pairs of numbers from 1, share a part."""
    group = np.arange(n)
    for a, b in pairs:
        group[group == group[b - 1]] = group[a - 1]
    while True:
        place = rng.permutation(n)
        order = np.lexsort((place, place[group]))  # a group stands together; now no cut may go through one
        cuts = np.cumsum(sizes)
        if all(group[order[cut - 1]] != group[order[cut]] for cut in cuts):
            return np.split(order, cuts)


# Work


def work(cell: Cell, workspace: Workspace, *, plan: str, data: str | None, out: Path) -> Record:
    """One defense attacked by its thieves, or one kind of explanation compared."""
    held = drawn(plan, data, out, cell.seed)
    do = attacked if cell.attack["unit"] == "row" else compared
    return do(cell, workspace, json.loads(plan), held)


def attacked(cell: Cell, workspace: Workspace, plan: Plan, held: Drawn) -> Record:
    row = cell.extra["row"]
    served = explainer_named(f"relevance_cam(layer='{row['layer']}')")(held.victim, like=held.pool.x[:16])
    guard = guard_of(row["defense"], held, workspace.folder, cell)
    oracle = LocalOracle(served, held.interface, budget=cell.budget, guard=guard)
    before = time.process_time()
    answer = oracle.query(held.pool.x)
    seconds = (time.process_time() - before) / len(held.pool)
    clean = held.victim.scores(held.pool.x)
    assert answer.scores is not None
    assert answer.labels is not None
    measures = {"l1": mean_of(np.abs(answer.scores - clean).sum(axis=1), within=(0.0, 2.0))}
    measures["label_kept"] = _share(answer.labels == clean.argmax(axis=1))
    measures["victim"] = right(held.victim, held.test)
    for number, thief in enumerate(row["thieves"]):
        copy = copied(thief, plan["thief"], held, answer, derive(cell.seed, plan["protocol"], "thief"))
        measures[thief] = right(copy, held.test)
        workspace.report(number + 1, len(row["thieves"]))
    return Record(cell=cell, measures=measures, queries=len(held.pool), notes={"cpu_seconds_a_question": seconds})


def guard_of(word: str, held: Drawn, folder: Path, cell: Cell) -> Guard | None:
    """The guard with this one stage, whose recipe is trained here; None for no defense."""
    if not word:
        return None
    from portcullis_ml.models.artifacts import write_artifact

    stage = DEFENSES.build(word)
    setting = "network" if hasattr(stage, "network") else "surrogate"
    made = getattr(stage, setting)(held.victim, held.own, None, rng=cell.rng("recipe"))
    place = folder / "prepared"
    artifact = Artifact.at(str(place)) if place.is_dir() else write_artifact(made, place)
    stage = replace(stage, **{setting: artifact})
    return Guard(stage, key=cell.rng("key").bytes(32), quantum=1 / 255, interface=held.interface)


def copied(thief: str, settings: Plan, held: Drawn, answer: Answer, rng: np.random.Generator) -> Model:
    """What this thief makes of the answers: all train the same network for as long."""
    from portcullis_ml.models.gradient_matching import fit_matching

    assert answer.labels is not None
    assert answer.explanation is not None
    assert held.pool.y is not None
    targets = answer.soft(held.interface.n_classes)
    if thief in ("labels", "own labels"):
        targets = np.eye(held.interface.n_classes)[answer.labels if thief == "labels" else held.pool.y]
    shown = answer.explanation if thief == "answers and explanations" else np.full_like(answer.explanation, np.nan)
    return fit_matching(held.pool.x, targets, shown, answer.labels, **settings, rng=rng)


def right(model: Model, test: Rows) -> Estimate:
    return _share(model.scores(test.x).argmax(axis=1) == test.y)


def _share(flags: NDArray[np.bool_]) -> Estimate:
    return clopper_pearson(int(flags.sum()), len(flags), unit="rows")


def compared(cell: Cell, workspace: Workspace, plan: Plan, held: Drawn) -> Record:
    """Explanations of the victim and of its misdirection models, on the same test pictures."""
    kind, settings, x = cell.extra["row"]["kind"], cell.extra["row"]["settings"], held.test.x[: cell.budget]
    victim: ExplainedModel = explainer_named(f"{kind}({settings})")(held.victim, like=x[:16])
    classes = held.victim.scores(x).argmax(axis=1)
    clean = Answer(classes, held.victim.scores(x), victim.explain(x, classes))
    word = f"deep_defense(network=misdirection, explanation={kind}{settings and ', ' + settings})"
    guard = guard_of(word, held, workspace.folder, cell)
    assert guard is not None
    shown = guard.release(Request("honest", x), clean).answer
    assert clean.explanation is not None
    assert shown.explanation is not None
    measures = {"order_kept": order_kept(clean.explanation, shown.explanation)}
    for name, explanation in (("original", clean.explanation), ("misdirected", shown.explanation)):
        for way, positive in (("", False), ("_positive", True)):
            measures[f"{name}{way}"] = average_drop(
                held.victim, x, classes, explanation, share=plan["top_share"], positive=positive
            )
    return Record(cell=cell, measures=measures, queries=len(x))
