"""Adi's table: what a backdoor mark costs and how much of it is learnt, from scratch and by a trained network.

Adi, Baum, Cisse, Pinkas, Keshet. "Turning Your Weakness Into a Strength: Watermarking Deep Neural Networks by
Backdooring", USENIX Security 2018, the table of test and trigger accuracy, and the removal tests.

Threat model   the thief has the marked network, or its probabilities for pictures of another kind (Knockoff); their
               labelled pictures are others than those that the mark was trained in with.
Query cost     one question for each of 100 triggers; Knockoff asks one for each picture of its pool.

Every setting stands in adi.toml. A cell is one data set and one repetition, with rows, key and networks of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.defended_scene import pictures
from portcullis_ml.bench.protocols.defended_tables import markdown, page
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.types import Answer, Estimate, Interface, Model, Rows
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.measures.statistics import clopper_pearson, mean_over_seeds
from portcullis_ml.ownership import CATALOG as SCHEMES

__all__ = ["adi", "play"]

Plan = Mapping[str, Any]
WAYS = ("no mark", "from scratch", "pretrained")


def adi(run: Run) -> str:
    """Run adi and return its tables; see `play`."""
    plan = plan_in("adi.toml")
    return play(shortened(plan) if run.quick else plan, run)


def shortened(plan: Plan) -> dict[str, Any]:
    """The quick look. Its figures stand for nothing."""
    epochs = plan["quick"]["epochs"]
    fewer = {name: plan[name] | {"epochs": epochs} for name in ("learner", "tuner")}
    return {**plan, **plan["quick"]["changes"], **fewer}


def play(plan: Plan, run: Run) -> str:
    """Published beside measured, as Markdown; resumable: a finished cell is never run again."""
    records = run.cells(cells_of(plan), partial(work, folder=run.data, device=run.device))
    done = [r for r in records if r["outcome"] == "done"]
    by_scene = {scene: [r for r in done if r["attack"] == scene] for scene in plan["scene"]}
    parts = [section for scene, own in by_scene.items() if own for section in _sections(plan["scene"][scene], own)]
    return page(plan, parts, records, run.quick)


def cells_of(plan: Plan) -> Iterator[Cell]:
    """A cell for every repetition and data set."""
    for seed in range(plan["repetitions"]):
        for scene, settings in plan["scene"].items():
            yield Cell(
                victim={"name": plan["learner"]["network"], "settings": plan["learner"]},
                data={key: settings[key] for key in ("data", "pool", "rows") if key in settings},
                interface={"reveals": "probs"},
                attack={"unit": "removal", "names": settings["removals"]},
                seed=seed,
                role="control",
                mark=plan["mark"],
                extra={"version": plan["version"], "tuner": plan["tuner"]},
                names={"attack": scene},
            )


def work(cell: Cell, workspace: Workspace, *, folder: str | None, device: str) -> Record:
    """Test and trigger accuracy without a mark, with it, and after every removal."""
    from portcullis_ml.bench.removal import Thief, attacked
    from portcullis_ml.models.torch import TorchLearner

    own, thief_rows, test, interface = _rows(cell, folder)
    assert cell.mark is not None
    scheme, learner = SCHEMES.build(cell.mark), TorchLearner(**cell.victim["settings"], device=device)
    key = scheme.mint(cell.rng("key").bytes(32), interface)
    targets = np.eye(interface.n_classes)[own.y]
    models: dict[str, Any] = {"no mark": learner.fit(own.x, targets, rng=cell.rng("no mark"))}
    models["from scratch"] = scheme.embed(key, learner, own, rng=cell.rng("from scratch"))
    models["pretrained"] = scheme.embed(key, learner, own, models["no mark"], rng=cell.rng("pretrained"))

    def judged(model: Model) -> dict[str, float]:
        found = scheme.counted(key.labels, Answer(model.scores(key.x).argmax(axis=1)), interface.n_classes)
        right = float((model.scores(test.x).argmax(axis=1) == test.y).mean())
        return {"test": right, "trigger": found.matches / found.n, "p": found.p_value}

    found = {way: judged(model) for way, model in models.items()}
    names = cell.attack["names"]
    size = cell.data["rows"]["pool"]
    pool = pictures(cell.data["pool"], folder, interface.input_shape, size) if size else own.x[:0]
    tuner = replace(TorchLearner(**cell.extra["tuner"]), device=device)
    thief = Thief(interface, thief_rows, pool, learner, tuner)
    for way in WAYS[1:]:
        for name, suspect in attacked(models[way], thief, names, cell.rng("thief", way)):
            found[f"{way}, {name}"] = judged(suspect)
    measures = {
        f"{measure}_{way}": clopper_pearson(round(found[way][measure] * n), n)
        for way in WAYS
        for measure, n in (("test", len(test)), ("trigger", len(key)))
    }
    threat = {"answers": "probs", "data": "labelled rows of the same kind", "accounts": 1, "knows_defense": True}
    return Record(cell=cell, measures=measures, queries=size, notes={"found": found}, threat_model=threat)


def _rows(cell: Cell, folder: str | None) -> tuple[Rows, Rows, Rows, Interface]:
    """The owner's rows, the thief's and those that judge (of the data set's own test rows), and the interface."""
    dataset, sizes = load_dataset(cell.data["data"], folder), cell.data["rows"]
    order, ends = cell.rng("rows").permutation(len(dataset.x)), np.cumsum([0, sizes["own"], sizes["thief"]])
    own, thief = (Rows(dataset.x[order[a:b]], dataset.y[order[a:b]].astype(np.int64)) for a, b in pairwise(ends))
    test = Rows(dataset.x_test[: sizes["test"]], dataset.y_test[: sizes["test"]].astype(np.int64))
    return own, thief, test, Interface(input_shape=tuple(dataset.x.shape[1:]), n_classes=len(dataset.classes))


def _sections(scene: Plan, own: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The published table beside ours, then the removals."""
    found = [r["notes"]["found"] for r in own]
    sizes, n, judging = scene["rows"], len(found), own[0]["measures"]["test_no mark"]["n"]
    rows = []
    for way in WAYS:
        test, trigger = scene["published"][way]
        change = [f[way]["test"] - f["no mark"]["test"] for f in found]
        published = f"(published {test - scene['published']['no mark'][0]:+.2f})"
        rows.append([
            way,
            f"{_shown([f[way]['test'] for f in found])} (published {test})",
            f"{_shown([f[way]['trigger'] for f in found])} (published {trigger})",
            "" if way == "no mark" else f"{_shown(change, within=(-1.0, 1.0))} {published}",
            _convicted([f[way] for f in found]),
        ])  # fmt: skip
    yield (
        f"## {scene['title']}\n\n{sizes['own']:,} rows of the owner's, {judging:,} test rows. Percent, mean "
        f"[95% interval over {n} repetitions]; convicted: p < 0.001 by theory, of {n}.\n\n"
    ) + markdown(["network", "test accuracy", "trigger accuracy", "test, against no mark", "convicted"], rows)
    if names := [name.removeprefix("from scratch, ") for name in found[0] if name.startswith("from scratch, ")]:
        yield _removed(scene, names, found)


def _removed(scene: Plan, names: Sequence[str], found: Sequence[Plan]) -> str:
    rows = []
    for name in names:
        row = [name]
        for way in WAYS[1:]:
            after = [f[f"{way}, {name}"] for f in found]
            lost = [f[way]["test"] - a["test"] for f, a in zip(found, after, strict=True)]
            shown = _shown([a["trigger"] for a in after]), _shown(lost, within=(-1.0, 1.0)), _convicted(after)
            row += shown
        rows.append(row)
    head = [f"{way}: {what}" for way in WAYS[1:] for what in ("trigger accuracy", "test accuracy lost", "convicted")]
    return (
        f"### {scene['title']}: removal\n\nTraining on with {scene['rows']['thief']:,} labelled rows that the owner "
        f"never had; Knockoff with {scene['rows']['pool']:,} questions of {scene.get('pool')}. Rows with the owner's "
        "last layer need the suspect's file: where the body was frozen they say nothing.\n\n"
        + markdown(["removal", *head], rows)
    )


def _shown(values: Sequence[float], within: tuple[float, float] = (0.0, 1.0)) -> str:
    e: Estimate = mean_over_seeds(values, within=within)
    return f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"


def _convicted(found: Sequence[Plan]) -> str:
    return f"{sum(f['p'] < 1e-3 for f in found)} of {len(found)}"
