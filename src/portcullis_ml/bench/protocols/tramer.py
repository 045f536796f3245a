"""Tramèr et al., the published experiments: every attack of the paper on victims of its kinds, figures side by side.

Tramèr, Zhang, Juels, Reiter, Ristenpart. "Stealing Machine Learning Models via Prediction APIs",
USENIX Security 2016, sections 4 to 7 (Tables 4, 6 and 7; Figure 7).

Threat model   what each row's API shows: probabilities, rounded ones, node confidences, labels, incomplete queries.
Query cost     alpha times the victim's unknowns, as in the paper, or the budget that a row states.

Seven protocols, one TOML file each, with its victims, rows and the published figures. A cell is one attack on one
victim with one budget and one repetition; victims are trained in the process that needs them, always the same way. An
attack that this installation does not have is reported as not applicable, and run as soon as it is there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.ensembles import distinct_thresholds
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.protocols.tramer_tables import document
from portcullis_ml.bench.protocols.tramer_victims import Victim, api_of, dataset_of, victim_of
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Array, Estimate, Interface, Model, Reveals
from portcullis_ml.extraction import CATALOG as EXTRACTION
from portcullis_ml.measures.agreement import Exam
from portcullis_ml.measures.statistics import clopper_pearson
from portcullis_ml.models.encoding import Encoding
from portcullis_ml.models.surrogates import unknowns

__all__ = ["ensembles", "features", "labels", "linear", "mlp", "rounding", "trees"]

SAME = 1e-6  # regression values nearer than this share of their spread are one value
MEASURED = ("agreement", "agreement_uniform", "tv_natural", "tv_uniform", "victim_accuracy")

Plan = Mapping[str, Any]


def linear(run: Run) -> str:
    """Run tramer-linear and return its table; see `run`."""
    return planned("tramer_linear.toml", run)


def mlp(run: Run) -> str:
    """Run tramer-mlp and return its table; see `run`."""
    return planned("tramer_mlp.toml", run)


def trees(run: Run) -> str:
    """Run tramer-trees and return its table; see `run`."""
    return planned("tramer_trees.toml", run)


def ensembles(run: Run) -> str:
    """Run tramer-ensembles and return its table; see `run`."""
    return planned("tramer_ensembles.toml", run)


def labels(run: Run) -> str:
    """Run tramer-labels and return its table; see `run`."""
    return planned("tramer_labels.toml", run)


def features(run: Run) -> str:
    """Run tramer-features and return its table; see `run`."""
    return planned("tramer_features.toml", run)


def rounding(run: Run) -> str:
    """Run tramer-rounding and return its table; see `run`."""
    return planned("tramer_rounding.toml", run)


def planned(file: str, run: Run) -> str:
    """Published beside measured, as Markdown; resumable: a finished cell is never run again. `device` is not used."""
    plan = plan_in(file)
    if run.quick:
        plan = shortened(plan)
    cells = list(cells_of(plan, run.data))
    records = run.cells(cells, partial(work, folder=run.data))
    return document(plan, records, quick=run.quick)


def shortened(plan: Plan) -> dict[str, Any]:
    """The quick look: some victims, one repetition, smaller budgets and fewer points. Its figures stand for little."""
    quick = plan["quick"]
    rows = []
    for row in plan["row"]:
        sizes = {k: row[k][: quick["sizes"]] for k in ("alpha", "budget") if k in row}
        on = [name for name in row["on"] if name in quick["victims"]]
        rows.append({**row, **sizes, "on": on, "repetitions": 1})
    return {**plan, "repetitions": 1, "points": quick["points"], "row": [row for row in rows if row["on"]]}


# Cells


def cells_of(plan: Plan, folder: str | None) -> Iterator[Cell]:
    """A cell for every row, victim, size and repetition; those of one victim stand together."""
    for name, spec in plan["victims"].items():
        interface = api_of(spec, dataset_of(spec, folder))
        for row in plan["row"]:
            if name in row["on"]:
                for size in row.get("alpha") or row["budget"]:
                    for seed in range(row.get("repetitions", plan["repetitions"])):
                        yield _cell(plan, row, name, size, seed, interface)


def _cell(plan: Plan, row: Plan, name: str, size: float, seed: int, interface: Interface) -> Cell:
    spec = plan["victims"][name]
    budget = int(size)
    if "alpha" in row:
        kind = spec["model"] if spec["model"] in ("mlp", "svm", "one_vs_rest") else "softmax"
        width = Encoding.of(interface, drop_first=True).width
        k = width + 1 if row.get("unknowns") == "d + 1" else unknowns(kind, width, interface.n_classes)
        budget = max(1, round(size * k)) + row.get("spare", 0)
    return Cell(
        victim={"name": name},
        data={"name": spec["data"]},
        interface=row.get("interface", {"reveals": "probs"}),
        attack=_described(row["attack"]),
        budget=budget,
        seed=seed,
        extra={"version": plan["version"], "victim": spec, "points": plan["points"]},
        names={"attack": f"{row['name']} on {name}"},
    )


def _described(word: str) -> dict[str, Any]:
    """The attack's settings, or its bare word where this installation has no such attack."""
    try:
        return describe(EXTRACTION.build(word))
    except ParameterError:
        if word.partition("(")[0] in EXTRACTION:
            raise
        return {"unit": "absent", "word": word}


# Work


@lru_cache(maxsize=2)
def _victim(spec: str, folder: str | None) -> Victim:
    return victim_of(json.loads(spec), folder)


@lru_cache(maxsize=2)
def _exam(spec: str, folder: str | None, points: int) -> Exam:
    v = _victim(spec, folder)
    return Exam.of(v.model, v.x, np.asarray(v.y, np.int64), interface=v.interface, rng=derive(0, "exam"), points=points)


def work(cell: Cell, workspace: Workspace, *, folder: str | None) -> Record:
    """Steal, and compare the copy with the victim on held-out rows and on uniform points."""
    if cell.attack["unit"] == "absent":
        raise NotApplicable(f"{cell.attack['word'].partition('(')[0]} is not part of this installation")
    spec, points = json.dumps(cell.extra["victim"], sort_keys=True), cell.extra["points"]
    victim = _victim(spec, folder)
    shown = {k: Reveals.parse(v) if k == "reveals" else v for k, v in cell.interface.items()}
    interface = victim.interface.revealing(**shown)
    ledger = workspace.ledger(columns=max(interface.n_classes, 1))
    oracle = LocalOracle(victim.model, interface, budget=cell.budget, ledger=ledger)
    before = time.perf_counter()
    extraction = EXTRACTION.build(cell.attack)(oracle, Knowledge(), rng=cell.rng("attack"), watch=workspace.report)
    notes = extraction.notes | {"seconds": round(time.perf_counter() - before, 2), "d": interface.n_inputs}
    notes |= {"classes": interface.n_classes, "trained_on": victim.trained_on}
    if hasattr(victim.model, "leaves"):
        notes["victim_leaves"] = victim.model.leaves
    if thresholds := distinct_thresholds(victim.model):
        notes["victim_thresholds"] = thresholds
    if interface.task == "regression":
        measures = same_values(victim, extraction.model, points)
        notes["explained"] = explained(victim, extraction.model, points)
    else:
        close = _exam(spec, folder, points).grade(extraction.model, rng=cell.rng("grade"))
        measures = {k: v for k, v in close.measures().items() if k in MEASURED}
        notes["classes_on_uniform"] = int(np.count_nonzero(close.histogram_uniform))
    finite = {k: v for k, v in measures.items() if np.isfinite(v.value)}
    return Record(
        cell=cell, measures=finite, queries=extraction.queries, stopped=extraction.stopped, notes=json_of(notes)
    )


def same_values(victim: Victim, copy: Model, points: int) -> dict[str, Estimate]:
    """For regression: the share of held-out rows and of uniform points on which both give one value."""
    uniform = victim.interface.uniform(points, derive(0, "exam"))
    return {
        "agreement": _same(victim.model.scores(victim.x), copy.scores(victim.x)),
        "agreement_uniform": _same(victim.model.scores(uniform), copy.scores(uniform)),
    }


def explained(victim: Victim, copy: Model, points: int) -> list[float]:
    """R^2 of a regression's copy on held-out rows and on uniform points: how near, where no value is the same."""
    places = (victim.x, victim.interface.uniform(points, derive(0, "exam")))
    pairs = [(victim.model.scores(x), copy.scores(x)) for x in places]
    return [float(1 - ((f - g) ** 2).mean() / (f.var() or 1.0)) for f, g in pairs]


def _same(f: Array, g: Array) -> Estimate:
    spread = float(f.max() - f.min()) or 1.0
    return clopper_pearson(int((np.abs(f - g)[:, 0] <= SAME * spread).sum()), len(f))


def json_of(notes: Any) -> Any:
    """Notes as strict JSON: numpy numbers become numbers, what is not finite becomes null."""
    if isinstance(notes, Mapping):
        return {str(k): json_of(v) for k, v in notes.items()}
    if isinstance(notes, list | tuple):
        return [json_of(v) for v in notes]
    if isinstance(notes, np.generic | np.ndarray):
        return json_of(notes.tolist())
    if isinstance(notes, float) and not np.isfinite(notes):
        return None
    return notes if notes is None or isinstance(notes, bool | int | float | str) else str(notes)
