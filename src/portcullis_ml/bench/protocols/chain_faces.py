"""Chain-faces: a softmax regression of 40 faces is copied through its API, and all faces are inverted on the copy.

Tramèr, Zhang, Juels, Reiter, Ristenpart. "Stealing Machine Learning Models via Prediction APIs",
USENIX Security 2016, after Fredrikson, Jha, Ristenpart (CCS 2015).

Threat model   answers: probabilities, rounded or not.  data: none.  victim: softmax regression, which the thief knows.
Query cost     alpha for each of the victim's weights, whatever the number of faces; by differences on the API, two
               gradients a face.

Every setting stands in chain_faces.toml. A cell is one repetition and one route to the 40 pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.defended_tables import markdown, page
from portcullis_ml.bench.protocols.faces import Faces, SoftmaxLearner, faces_of, guard_of, inverted, judged
from portcullis_ml.bench.protocols.faces_tables import comparison, drawn, mean, named
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Estimate, Model
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.agreement import agreement, total_variation
from portcullis_ml.models.surrogates import unknowns

__all__ = ["chain_faces", "play"]

Plan = Mapping[str, Any]
AMPLE = 10**7  # queries: no row without an alpha ends by its budget
THIEVES = {
    "copy": "retraining(strategy=uniform, surrogate=learner, answers=probs)",
    "equations": "equation_solving(route=log_ratio)",
}


def chain_faces(run: Run) -> str:
    """Run chain-faces and return its tables; see `play`."""
    plan = plan_in("chain_faces.toml")
    return play({**plan, **plan["quick"]} if run.quick else plan, run)


def play(plan: Plan, run: Run) -> str:
    """What was measured, as Markdown, and `contact-sheet.png` beside the records; resumable."""
    records = run.cells(cells_of(plan), partial(work, folder=run.data, device=run.device))
    sections = [
        comparison("The pictures", records) + drawn(records, run.out / "contact-sheet.png"),
        _copies(plan, records),
    ]
    return page(plan, sections, records, run.quick)


def cells_of(plan: Plan) -> Iterator[Cell]:
    """For every repetition a cell for each route."""
    for seed in range(plan["repetitions"]):
        for row in plan["row"]:
            what = {name: value for name, value in row.items() if name != "name"}
            yield Cell(
                victim=plan["scene"]["victim"],
                data={"name": plan["scene"]["data"]},
                interface={"reveals": "probs"},
                attack={"unit": "mi_face", "route": row["route"]},
                seed=seed,
                role="privacy",
                extra={
                    **what,
                    "scene": plan["scene"],
                    "thief": plan["thief"],
                    "invert": plan["invert"],
                    "points": plan["points"],
                    "people": plan["people"] if seed == 0 else 0,
                },
                names={"attack": row["name"]},
            )


def work(cell: Cell, workspace: Workspace, *, folder: str | None, device: str) -> Record:
    """One route to the pictures: what it costs, and how well they show the people."""
    extra = cell.extra
    faces = faces_of(extra["scene"], cell.seed, folder, device)
    size = unknowns("softmax", faces.interface.n_inputs, faces.interface.n_classes)
    budget, step = round(extra["alpha"] * size) if "alpha" in extra else AMPLE, extra.get("rounded", 0)
    measures, queries, copy = faces.quality(), 0, faces.model if extra["route"] == "held" else None
    if extra["route"] in THIEVES:
        oracle = LocalOracle(faces.model, faces.interface, budget=budget, guard=guard_of(step))
        knowledge = Knowledge(learner=SoftmaxLearner(**extra["thief"]))
        thief = ATTACKS.build(THIEVES[extra["route"]])
        stolen = thief(oracle, knowledge, rng=cell.rng("theft"), watch=workspace.report)
        queries, copy = stolen.queries, stolen.model
        measures |= _likeness(copy, faces, extra["points"], cell.rng("points"))
    how = extra["invert"]["differences" if copy is None else "held"]
    pictures, paid, ended = inverted(how, faces, copy=copy, budget=budget, rounded=step)
    more, notes = judged(pictures, faces, shown=extra["people"])
    return Record(cell=cell, measures=measures | more, queries=queries + paid, notes={"ended_by": ended, **notes})


def _likeness(copy: Model, faces: Faces, points: int, rng: np.random.Generator) -> dict[str, Estimate]:
    """How far the copy is from the victim, at uniform points and on photographs that neither has seen."""
    uniform, seen = faces.interface.uniform(points, rng), faces.apart.x
    there, here = faces.model.scores(seen), copy.scores(seen)
    return {
        "tv_uniform": total_variation(faces.model.scores(uniform), copy.scores(uniform)),
        "tv": total_variation(there, here),
        "agreement": agreement(there.argmax(axis=1), here.argmax(axis=1)),
    }


def _copies(plan: Plan, records: list[dict[str, Any]]) -> str:
    rows, published = named(records), plan["published"]
    whole = next((own[0]["queries"] for name, own in rows.items() if own and name == "differences on the API"), 0)
    lines = []
    for name, own in rows.items():
        if own and "tv" in own[0]["measures"]:
            far = f"{sum(r['measures']['tv_uniform']['value'] for r in own) / len(own):.1e}"
            far += f" (published {published['tv_uniform'][name]:.0e})" if name in published["tv_uniform"] else ""
            paid = own[0]["queries"]
            bill = f"{paid:,}" + (
                f" (published {published['queries'][name]:,})" if name in published["queries"] else ""
            )
            lines.append([name, bill, f"{whole / paid:.0f}", far, mean(own, "tv"), mean(own, "agreement", 100)])
    head = ["copy", "queries", "times fewer than by differences", "R^TV, uniform", "R^TV, photographs", "agreement, %"]
    return f"## The copies\n\nOver {len(lines and next(o for o in rows.values() if o))} repetitions.\n\n" + markdown(
        head, lines
    )
