"""The protocols on detectors of streams: HODA and the extraction monitor, on small sets."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols import PROTOCOLS, defended, hoda, monitor
from portcullis_ml.bench.protocols.plans import Run
from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.types import Answer
from portcullis_ml.detectors.hardness import Hardness
from portcullis_ml.measures.detection import run_detector
from portcullis_ml.models.artifacts import unpack_arrays
from portcullis_ml.models.hardness import SubModels, distances, histogram

pytest.importorskip("torch")

SCENE = {
    "title": "Digits", "dataset": "digits", "victim_rows": 500, "own_rows": 200, "test_rows": 150, "pool": "noise",
    "pool_rows": 100, "outside": "noise", "outside_rows": 20,
}  # fmt: skip
NETWORKS = {
    "victim": {"network": "mlp", "epochs": 15, "lr": 0.003},
    "learner": {"network": "mlp", "epochs": 3, "lr": 0.003},
}
HODA: dict[str, Any] = {
    "protocol": "toy", "version": 1, "about": "About.", "repetitions": 2, "users": 50, "windows": [40], "epochs": 20,
    "budget": 80, "seeds_per_class": 2, "titles": {"test": "honest"}, **NETWORKS,
    "scene": {"digits": SCENE | {
        "sources": ["test", "own", "attack:papernot", "pool:noise", "mixed:0.5"],
        "published": {"test": {"40": 0.02}, "delta": {"40": 0.29}},
    }},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sets")
    x, y = np.random.default_rng(0).uniform(size=(140, 8, 8)), np.arange(140) % 2
    np.savez(place / "noise.npz", x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    return place


class TestHardness:
    def test_it_prints_published_beside_measured_and_runs_nothing_twice(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = hoda.play(HODA, Run(out=tmp_path, data=str(folder), jobs=0))
        rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("| ")}
        assert "n=2 (published 0.02) |" in rows["honest"]
        assert "(published 0.29) |" in rows["delta"]
        assert "n=2" in rows["attack:papernot"]
        assert "Not measured" not in text
        monkeypatch.setattr(hoda, "work", lambda *a, **k: pytest.fail("a finished cell was run again"))
        assert hoda.play(HODA, Run(out=tmp_path, data=str(folder), jobs=0)) == text

    def test_a_users_window_is_judged_as_the_detector_judges_it(self, folder: Path, tmp_path: Path) -> None:
        scene = defended.scene_of(HODA, "digits", str(folder), tmp_path, "cpu")
        cells = list(hoda.cells_of(HODA))[:1]
        steps = defended.trained(cells, {"digits": scene}, tmp_path)[cells[0].id].defense[0]["detector"]["steps"]
        arrays = unpack_arrays(Artifact.at(steps).read().files["steps.safetensors"], "steps")
        experiment = scene.load()
        x = experiment.test_x[:40]
        detector = Hardness(steps=Artifact.at(steps)).bind(experiment.interface)
        answer = Answer.of(experiment.model.scores(x), experiment.interface)
        away = distances(histogram(SubModels(arrays).hardness(x))[None], arrays["benign"])[0]
        assert run_detector(detector, x, answer)[-1] == pytest.approx(away / arrays["greatest"][0])

    def test_synthetic_questions_are_the_attacks_without_its_seeds(self, folder: Path, tmp_path: Path) -> None:
        scene = defended.scene_of(HODA, "digits", str(folder), tmp_path, "cpu")
        cell = next(c for c in hoda.cells_of(HODA) if c.names["attack"] == "attack:papernot")
        x = hoda.questions(cell, HODA, scene)
        assert len(x) == 80 - 20
        held = {row.tobytes() for row in scene.own()[0]}
        assert not any(row.tobytes() in held for row in x)


TREES: dict[str, Any] = {
    "protocol": "toy", "version": 1, "about": "About.", "repetitions": 1, **NETWORKS,
    "clients": {
        "path finding": {"kind": "attack", "attack": "tree_paths(mode=bottom_up, eps=0.001)"},
        "random questions": {"kind": "uniform"}, "honest client": {"kind": "honest"},
        "JbDA": {"kind": "attack", "attack": "papernot"}, "foreign": {"kind": "foreign"},
    },
    "scene": {
        "iris": {"title": "Iris", "data": "iris", "model": "tree", "access": "table", "max_leaf_nodes": 9,
                 "evaluation": 90, "every": 10, "budget": 300, "points": [10, 300],
                 "clients": ["path finding", "random questions", "honest client"]},
        "digits": SCENE | {"evaluation": 100, "every": 50, "budget": 100, "points": [100],
                           "clients": ["honest client", "JbDA", "foreign"]},
    },
}  # fmt: skip


class TestMonitor:
    def test_every_client_has_a_status_alone_and_shared(self, folder: Path, tmp_path: Path) -> None:
        text = monitor.play(TREES, Run(out=tmp_path, data=str(folder), jobs=0))
        assert "Not measured" not in text
        rows = [[part.strip() for part in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("| ")]
        found = {(row[0], row[1]): row for row in rows}
        search = found["path finding", "gain"]
        assert float(search[4].split()[0]) > float(search[3].split()[0])
        covers = found["path finding", "coverage"]
        assert covers[4] == covers[5]  # two accounts that share the questions cover together what one covers
        assert search[-1].startswith("100.0")
        assert found["JbDA", "agreement"][2] == "1"
        assert monitor.play(TREES, Run(out=tmp_path, data=str(folder), jobs=0)) == text

    def test_a_run_that_was_cut_short_goes_on(self, folder: Path, tmp_path: Path) -> None:
        plan = {**TREES, "scene": {"iris": TREES["scene"]["iris"] | {"clients": ["honest client"]}}}
        (cell,) = monitor.cells_of(plan)
        (tmp_path / "cells" / cell.id / "evaluation").mkdir(parents=True)
        (tmp_path / "cells" / cell.id / "evaluation" / "half").write_text("written")
        assert "Not measured" not in monitor.play(plan, Run(out=tmp_path, data=str(folder), jobs=0))


@pytest.mark.parametrize("module", [hoda, monitor])
@pytest.mark.parametrize("quick", [False, True])
def test_the_frozen_protocols_describe_cells_that_can_be_built(module: Any, quick: bool) -> None:
    name = "hardness" if module is hoda else "monitor"
    plan = tomllib.loads((resources.files(module.__package__) / f"{name}.toml").read_text())
    cells: list[Cell] = list(module.cells_of(module.shortened(plan) if quick else plan))
    assert len({cell.id for cell in cells}) == len(cells)
    assert plan["protocol"] in PROTOCOLS
    assert plan["repetitions"] >= 3
