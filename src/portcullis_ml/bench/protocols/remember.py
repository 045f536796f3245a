"""Models that remember too much: what four encodings hide in a model, what it costs, and what a screen finds.

Song, Ristenpart, Shmatikov. "Machine Learning Models that Remember Too Much", CCS 2017.

Threat model   a provider who trains the model and gets to read its weights, or its labels, later; an owner who has the
               training rows and trains honest models to compare with.
Query cost     none for weights; for labels, one query for every log2(classes) bits.

Every setting stands in remember.toml. A cell is one model: a reference of the screen, an honest one, or one with hidden
pictures. The screen is run over the cells' portraits when the page is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.canaries import shortened
from portcullis_ml.bench.protocols.defended_tables import page
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.protocols.remember_tables import sections
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Estimate, Rows
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.hidden_data import CATALOG as ENCODINGS
from portcullis_ml.measures.screening import far_rows, portrait, weights_of
from portcullis_ml.measures.statistics import clopper_pearson

__all__ = ["pictures", "play", "remember"]

Plan = Mapping[str, Any]
HONEST = {"unit": "honest"}


def remember(run: Run) -> str:
    """Run remember and return its tables; see `play`."""
    plan = plan_in("remember.toml")
    return play(shortened(plan) if run.quick else plan, run)


def play(plan: Plan, run: Run) -> str:
    """What was measured, as Markdown; resumable: a finished cell is never run again. All of it runs on the CPU."""
    records = run.cells(cells_of(plan), partial(work, folder=run.data))
    return page(plan, [s for name in plan["data"] for s in sections(plan, name, records)], records, run.quick)


def cells_of(plan: Plan) -> Iterator[Cell]:
    """A cell for every model."""
    recipes, others = plan["recipes"], plan["other_recipes"]
    for name in plan["data"]:
        for seed in range(plan["references"]):
            yield _cell(plan, name, "reference, recipe known", {}, seed)
            recipe = list(recipes)[seed % len(recipes)]
            yield _cell(plan, name, "reference, recipe guessed", recipes[recipe], seed, recipe=recipe)
        for seed in range(plan["honest"]):
            yield _cell(plan, name, "honest", {}, seed)
        for recipe, changes in others.items():
            for seed in range(plan["others"]):
                yield _cell(plan, name, f"honest, {recipe}", changes, seed)
        for word, encoding in plan["encodings"].items():
            for encrypted in (True, False):
                for fill in plan["fills"] if encrypted else plan["fills"][:1]:
                    hidden = {**encoding, "encrypted": encrypted}
                    label = f"{word}, {'encrypted' if encrypted else 'as it is'}, {100 * fill:g}% of the room"
                    for seed in range(plan["seeds"]):
                        yield _cell(plan, name, label, {}, seed, hidden, fill=fill)


def _cell(
    plan: Plan,
    name: str,
    label: str,
    changes: Mapping[str, Any],
    seed: int,
    attack: Mapping[str, Any] = HONEST,
    **more: Any,
) -> Cell:
    data = {k: v for k, v in plan["data"][name].items() if k not in ("title", "learner")}
    return Cell(
        victim={"name": "network", "settings": _changed(plan["data"][name]["learner"], changes)},
        data={"name": name, **data},
        interface={"reveals": "probs"},
        attack=attack,
        seed=seed,
        role="privacy",
        extra={"version": plan["version"], "kind": label, "far": plan["far"], "tuning": plan["tuning"], **more},
        names={"attack": label, "data": name},
    )


def _changed(learner: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with these changes; those of epochs and of the step are factors."""
    factors = {k: changes[k] for k in ("epochs", "lr") if k in changes}
    scaled = {"epochs": round(learner["epochs"] * factors.get("epochs", 1)), "lr": 1e-3 * factors.get("lr", 1)}
    return {**learner, **{k: v for k, v in changes.items() if k not in factors}, **scaled}


def pictures(about: Mapping[str, Any], folder: str | None) -> tuple[Rows, Rows]:
    """Training and test rows of [0, 1]; `shrink` takes the mean of so many pixels each way."""
    found = load_dataset(about["name"], folder)
    x, x_test = (_shrunk(a, about.get("shrink", 1)) for a in (found.x, found.x_test))
    y, y_test = found.y.astype(np.int64), found.y_test.astype(np.int64)
    return Rows(x[: about["rows"]], y[: about["rows"]]), Rows(x_test, y_test)


def _shrunk(x: Array, by: int) -> Array:
    n, height, width = x.shape
    return np.asarray(x.reshape(n, height // by, by, width // by, by).mean((2, 4)))


def work(cell: Cell, workspace: Workspace, *, folder: str | None) -> Record:
    """Train one model, read what is hidden in it, and note what the screen looks at."""
    from portcullis_ml.models.torch import TorchLearner

    rows, test = pictures(cell.data, folder)
    learner = TorchLearner(**cell.victim["settings"])
    measures: dict[str, Estimate] = {}
    if cell.attack == HONEST:
        model = learner.fit(rows.x, _one_hot(rows), rng=cell.rng("training"))
    else:
        model, measures = _hidden(cell, learner, rows, test)
    right = model.scores(test.x).argmax(1) == test.y
    measures["accuracy"] = clopper_pearson(int(right.sum()), len(right))
    far = far_rows(rows.x, cell.extra["far"], rng=derive(0, "far rows", cell.data["name"]))
    seen = portrait(weights_of(model), model, far)
    threat = {"answers": "weights", "data": "training rows", "accounts": 1, "knows_defense": False}
    return Record(cell=cell, measures=measures, notes={"portrait": seen.to_json()}, threat_model=threat)


def _one_hot(rows: Rows) -> Array:
    y = np.asarray(rows.y, np.int64)
    return np.eye(y.max() + 1)[y]


def _hidden(cell: Cell, learner: Any, rows: Rows, test: Rows) -> tuple[Any, dict[str, Estimate]]:
    """A model with training pictures in it, and how well they are read from it as it is and after two changes."""
    grays = np.rint(255 * rows.x).astype(np.uint8).ravel()
    settings = dict(cell.attack)
    if settings["unit"] == "correlated_values":  # whoever reads knows other pictures of the kind
        settings |= {"mean": 255 * float(test.x.mean()), "spread": 255 * float(test.x.std())}
    encoding = ENCODINGS.build(settings)
    payload = grays[: int(encoding.capacity(learner, rows) * cell.extra["fill"])]
    key = cell.rng("key").bytes(16)
    model = encoding.hide(learner, rows, payload, key=key, rng=cell.rng("training"))
    weights = sum(w.size for w in weights_of(model))
    measures = {"hidden": _exactly(8 * len(payload) / weights), **_read(encoding, model, payload, key, "")}
    measures["told"] = _exactly(measures["told"].value * len(payload) / weights)
    measures |= _read(encoding, _halved(model, learner, rows), payload, key, "_halved")
    from dataclasses import replace

    more = replace(learner, epochs=cell.extra["tuning"])
    tuned = more.fit(rows.x, _one_hot(rows), rng=cell.rng("tuning"), start=model)
    return model, measures | _read(encoding, tuned, payload, key, "_tuned")


def _read(encoding: Any, model: Any, payload: NDArray[np.uint8], key: bytes, suffix: str) -> dict[str, Estimate]:
    """Wrong bits, gray levels that a pixel is off, and bits that a byte tells: 1 - H(errors), summed over its bits."""
    found = encoding.read(model, len(payload), key=key)
    wrong = np.unpackbits(found ^ payload).reshape(-1, 8)
    errors = wrong.mean(0).clip(1e-12, 1 - 1e-12)
    told = 1 + errors * np.log2(errors) + (1 - errors) * np.log2(1 - errors)
    off = np.abs(found.astype(float) - payload).mean()
    measures = {f"wrong{suffix}": clopper_pearson(int(wrong.sum()), wrong.size, unit="bits")}
    return measures | {f"off{suffix}": _exactly(float(off)), f"told{suffix}": _exactly(float(told.sum()))}


def _exactly(value: float) -> Estimate:
    return Estimate(value, value, value, 1, unit="models")


def _halved(model: Any, learner: Any, rows: Rows) -> Any:
    """The model with its weights in half precision."""
    import copy

    from portcullis_ml.models.torch import TorchModel

    module = copy.deepcopy(model.module).half().float()
    return TorchModel(module, model.input_shape, model.n_classes, network=learner.network)
