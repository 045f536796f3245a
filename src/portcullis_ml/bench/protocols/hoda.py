"""HODA, the published experiment: which users' questions are harder or easier than honest ones, a window at a time.

Sadeghzadeh et al. "HODA: Hardness-Oriented Detection of Model Extraction Attacks", submitted to ICLR 2022, the table of
detection rates.

Threat model   honest users of the victim's domain and of one that lies next to it; thieves who ask synthetic or foreign
               questions, or foreign ones mixed with rows of the domain; a thief whose rows are like the victim's own.
Query cost     the synthetic attacks run once, undefended, with `budget` questions; users draw their windows from those.

Every setting stands in hardness.toml. A cell is one source of questions, one window and one training: `users` windows
are drawn from the source, and the share of them that is further from the benign histogram than any benign user is
noted. The threshold comes from the owner's rows alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.named import attack_named, guard_named
from portcullis_ml.bench.protocols.defended import scene_of, trained
from portcullis_ml.bench.protocols.defended_scene import Scene, pictures
from portcullis_ml.bench.protocols.defended_tables import markdown, page
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.protocols.prada import fitted
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.statistics import clopper_pearson, median_iqr
from portcullis_ml.models.artifacts import unpack_arrays
from portcullis_ml.models.hardness import SubModels, distances, histogram

__all__ = ["hardness", "play"]

Plan = Mapping[str, Any]


def hardness(run: Run) -> str:
    """Run hardness and return its tables; see `play`."""
    plan = plan_in("hardness.toml")
    return play(shortened(plan) if run.quick else plan, run)


def play(plan: Plan, run: Run) -> str:
    """Published beside measured, as Markdown; resumable: a finished cell is never run again."""
    scenes = {name: scene_of(plan, name, run.data, run.out, run.device) for name in plan["scene"]}
    cells = list(cells_of(plan))
    ready = trained(cells, scenes, run.out, run.progress)
    records = run.cells(cells, partial(work, plan=plan, scenes=scenes, ready=ready))
    return page(plan, [_section(plan, scene, records) for scene in plan["scene"]], records, run.quick)


def shortened(plan: Plan) -> dict[str, Any]:
    """The quick look: one scene, one training, fewer rows. Its figures stand for nothing."""
    quick = plan["quick"]
    scenes = {name: plan["scene"][name] | quick["rows"] for name in quick["scenes"]}
    learner = plan["learner"] | {"epochs": 2}
    return {**plan, "repetitions": 1, "users": 100, "budget": quick["budget"], "learner": learner, "scene": scenes}


def cells_of(plan: Plan) -> Iterator[Cell]:
    """A cell for every training, scene, window and source."""
    for seed in range(plan["repetitions"]):
        for scene, settings in plan["scene"].items():
            for source in settings["sources"]:
                for window in plan["windows"]:
                    recipe = f"training_steps(window={window}, epochs={plan['epochs']})"
                    yield Cell(
                        victim={"name": scene, "settings": plan["victim"]},
                        data={"name": scene, "settings": settings},
                        interface={"reveals": "probs"},
                        attack={"unit": "stream", "of": source, "learner": plan["learner"]},
                        defense=guard_named(f"watch(detector=hardness(steps={recipe}))").stages,
                        budget=plan["budget"],
                        seed=seed,
                        role="control",
                        extra={"version": plan["version"], "training": seed, "users": plan["users"]},
                        names={"attack": source, "defense": str(window), "scene": scene},
                    )


def work(
    cell: Cell, workspace: Workspace, *, plan: Plan, scenes: Mapping[str, Scene], ready: Mapping[str, Cell]
) -> Record:
    """The share of a source's users who are further from benign than any benign user was."""
    scene = scenes[cell.names["scene"]]
    steps = ready[cell.id].defense[0]["detector"]["steps"]
    arrays = unpack_arrays(Artifact.at(steps).read().files["steps.safetensors"], "steps.safetensors")
    x = questions(cell, plan, scene)
    hard = SubModels(arrays).hardness(x)
    window, rng = int(arrays["window"][0]), cell.rng("users")
    counts = np.array([histogram(hard[rng.choice(len(x), window, replace=False)]) for _ in range(cell.extra["users"])])
    flagged = distances(counts, arrays["benign"]) > arrays["greatest"][0]
    return Record(
        cell=cell,
        measures={"flagged": clopper_pearson(int(flagged.sum()), len(flagged))},
        queries=len(x),
        notes={
            "delta": round(float(arrays["greatest"][0]), 4),
            "mean_hardness": round(float(hard.mean()), 3),
            "histogram": histogram(hard).tolist(),
        },
    )


def questions(cell: Cell, plan: Plan, scene: Scene) -> Array:
    """(n, *input_shape) what users of this source ask about: rows of a kind, an attack's questions, or a mixture."""
    experiment, source = scene.load(), str(cell.attack["of"])
    shape, rng = experiment.interface.input_shape, cell.rng("source")
    kind, _, name = source.partition(":")
    if kind == "test":
        return experiment.test_x
    if kind == "own":
        return scene.own()[0]
    if kind == "pool":
        return pictures(name, scene.folder, shape, cell.budget)
    if kind == "shifted":
        data = load_dataset(name, scene.folder)
        return fitted(data.x[rng.permutation(len(data.x))[: cell.budget]], shape)
    if kind == "mixed":
        foreign = pictures(plan["scene"][cell.names["scene"]]["pool"], scene.folder, shape, cell.budget)
        own = scene.own()[0]
        n = min(len(own), len(foreign))
        honest = rng.random(n) < float(name)
        return np.where(honest.reshape(-1, *[1] * len(shape)), own[:n], foreign[:n])
    return synthetic(scene, name, cell.seed, cell.budget, plan["seeds_per_class"], json.dumps(plan["learner"]))


@lru_cache(maxsize=4)
def synthetic(scene: Scene, attack: str, seed: int, budget: int, per_class: int, learner: str) -> Array:
    """The questions that an attack asks the undefended victim, its seeds left out: the same for every window."""
    from portcullis_ml.models.torch import TorchLearner

    experiment, (x, y) = scene.load(), scene.own()
    seeds = np.concatenate([np.flatnonzero(y == c)[:per_class] for c in np.unique(y)])
    oracle = LocalOracle(experiment.model, experiment.interface, budget=budget)
    knowledge = Knowledge(seeds=x[seeds], learner=TorchLearner(**json.loads(learner)))
    asked = ATTACKS.build(attack_named(attack))(oracle, knowledge, rng=derive(seed, "stream", attack)).x
    return np.asarray(asked[len(seeds) :])


def _section(plan: Plan, scene: str, records: Sequence[Mapping[str, Any]]) -> str:
    settings = plan["scene"][scene]
    rows = []
    for source in settings["sources"]:
        row = [plan["titles"].get(source, source)]
        for window in map(str, plan["windows"]):
            own = [
                r
                for r in records
                if r["outcome"] == "done"
                and (r["cell"]["names"]["scene"], r["defense"], r["attack"]) == (scene, window, source)
            ]
            known = settings.get("published", {}).get(source, {}).get(window)
            row.append(_cell([r["measures"]["flagged"]["value"] for r in own], known))
        rows.append(row)
    deltas = []
    for window in map(str, plan["windows"]):
        values = [
            r["notes"]["delta"]
            for r in records
            if r["outcome"] == "done" and (r["cell"]["names"]["scene"], r["defense"]) == (scene, window)
        ]
        if values:
            low, middle, high = min(values), float(np.median(values)), max(values)
            known = settings.get("published", {}).get("delta", {}).get(window)
            deltas.append(f"{middle:.3f} [{low:.3f}, {high:.3f}]" + (f" (published {known})" if known else ""))
    title = (
        f"## {settings['title']}\n\n{settings['victim_rows']:,} rows of the owner's, two fifths of them set aside for "
        f"the threshold. Share of {plan['users']:,} users who are flagged, in percent: median [quartiles] over n "
        "trainings (published, where known). Last line: the greatest benign distance, median [least, greatest].\n\n"
    )
    head = ["questions", *(f"{w} a user" for w in plan["windows"])]
    return title + markdown(head, [*rows, ["delta", *deltas]])


def _cell(values: Sequence[float], known: Any) -> str:
    if not values:
        return ""
    e = median_iqr(values)
    shown = f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}] n={len(values)}"
    return shown + (f" (published {known})" if known is not None else "")
