"""Inversion: MI-Face with the model in hand and through its API, on models of 40 faces, beside rounding.

Fredrikson, Jha, Ristenpart. "Model Inversion Attacks that Exploit Confidence Information and Basic Countermeasures",
ACM CCS 2015.

Threat model   answers: probabilities, rounded or not; or the model itself.  data: none.
Query cost     none with the model; through the API one for every input, and one more, for each step and person.

Every setting stands in inversion.toml. A cell is one repetition, one model and one row: an attack, or pictures that
no model had a part in, which say what the judge makes of a neutral start, of the average face and of the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.defended_tables import page
from portcullis_ml.bench.protocols.faces import Faces, faces_of, inverted, judged
from portcullis_ml.bench.protocols.faces_tables import comparison, drawn
from portcullis_ml.bench.protocols.label_inversion import label_only_cells, label_only_work
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.types import Array

__all__ = ["inversion", "play"]

Plan = Mapping[str, Any]
AMPLE = 10**7  # queries: no attack of these ends by its budget
PICTURES = (
    "neutral start",
    "noise",
    "average of the judge's photographs",
    "mean of the judge's photographs of the person",
    "mean of the photographs trained on",
)


def inversion(run: Run) -> str:
    """Run inversion and return its tables; see `play`."""
    plan = plan_in("inversion.toml")
    return play({**plan, **plan["quick"]} if run.quick else plan, run)


def play(plan: Plan, run: Run) -> str:
    """What was measured, as Markdown, and `contact-sheet-NAME.png` beside the records; resumable."""
    records = run.cells(cells_of(plan), partial(work, folder=run.data, device=run.device))
    sections = []
    for victim, title in {**{v: f"The {v} model" for v in plan["victims"]}, "labels": "From labels alone"}.items():
        own = [r for r in records if r["cell"]["names"]["victim"] == victim]
        sections.append(comparison(title, own) + drawn(own, run.out / f"contact-sheet-{victim}.png"))
    return page(plan, sections, records, run.quick)


def cells_of(plan: Plan) -> Iterator[Cell]:
    """For every repetition and model a cell for each row, one for each rounding, and the pictures without a model."""
    for seed in range(plan["repetitions"]):
        for victim, settings in plan["victims"].items():
            scene = {**plan["scene"], "victim": settings}
            for row in plan["row"]:
                for step in row.get("rounded", [0]):
                    name = row["name"] + (f", rounded to {step:g}".replace("0.", ".") if step else "")
                    what = {"attack": row["attack"], "held": row.get("held", False), "rounded": step}
                    yield _cell(plan, scene, seed, {"unit": "mi_face", **row["attack"]}, what, victim, name)
            for name in PICTURES:
                yield _cell(plan, scene, seed, {"unit": "picture"}, {"picture": name}, victim, name)
    yield from label_only_cells(plan)


def _cell(plan: Plan, scene: Plan, seed: int, attack: Plan, what: Plan, victim: str, name: str) -> Cell:
    return Cell(
        victim=scene["victim"],
        data={"name": scene["data"]},
        interface={"reveals": "probs"},
        attack=attack,
        seed=seed,
        role="privacy" if "attack" in what else "control",
        extra={**what, "scene": scene, "people": plan["people"] if seed == 0 else 0},
        names={"attack": name, "victim": victim},
    )


def work(cell: Cell, workspace: Workspace, *, folder: str | None, device: str) -> Record:
    """How well one attack's pictures, or pictures without an attack, show the people of the model."""
    if "label_only" in cell.extra:
        return label_only_work(cell, workspace, folder=folder, device=device)
    faces = faces_of(cell.extra["scene"], cell.seed, folder, device)
    queries, notes = 0, dict[str, Any]()
    if "picture" in cell.extra:
        pictures = _without_a_model(cell.extra["picture"], faces, cell.rng("noise"))
    else:
        copy = faces.model if cell.extra["held"] else None
        how, rounded = cell.extra["attack"], cell.extra["rounded"]
        pictures, queries, notes["ended_by"] = inverted(how, faces, copy=copy, budget=AMPLE, rounded=rounded)
    measures, more = judged(pictures, faces, shown=cell.extra["people"])
    return Record(cell=cell, measures=measures | faces.quality(), queries=queries, notes=notes | more)


def _without_a_model(name: str, faces: Faces, rng: np.random.Generator) -> Array:
    """(people, height, width) what an attacker without the model could show, or, of the last two, nobody could."""
    people, own, apart = faces.people, faces.own, faces.apart
    if name == "neutral start":
        return np.zeros((len(people), *faces.interface.input_shape))
    if name == "noise":
        return rng.uniform(size=(len(people), *faces.interface.input_shape))
    if name.startswith("average"):
        return np.repeat(apart.x.mean(axis=0)[None], len(people), axis=0)
    rows = own if name.endswith("trained on") else apart
    return np.stack([rows.x[rows.y == c].mean(axis=0) for c in people])
