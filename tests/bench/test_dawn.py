"""Protocol dawn on few rows: its tables, its resumption, and the sizes that the published confidence needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portcullis_ml.bench.protocols import PROTOCOLS, dawn
from portcullis_ml.bench.protocols.dawn_tables import NOT_MATCHED, smallest
from portcullis_ml.bench.protocols.plans import Run, plan_in

TINY = {"network": "prada_1_layer", "epochs": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    means = rng.integers(0, 200, (10, 28, 28))
    for name in ("mnist", "emnist_letters"):
        y = np.arange(600) % 10
        x = (means[y] + rng.integers(0, 50, (600, 28, 28))).astype(np.uint8)
        np.savez(place / f"{name}.npz", x_train=x[:500], y_train=y[:500], x_test=x[500:], y_test=y[500:])
    return place


def small() -> dict[str, Any]:
    plan = plan_in("dawn.toml")
    rows = {name: 60 for name in plan if name.endswith("_rows")} | {"thief_rows": 200}
    thefts = [t | {"budget": 200, "rates": [0.2]} for t in plan["theft"][:3]]
    few = {"repetitions": 1, "innocent": 20, "utility": [0.2], "keys": 2, "noises": [0.05], "folds": 2}
    return {**plan, **rows, **few, "victim": TINY, "learner": TINY, "scene": {"mnist": "MNIST"}, "theft": thefts}


def test_the_protocol_prints_its_tables_and_runs_nothing_twice(folder: Path, tmp_path: Path) -> None:
    assert PROTOCOLS.load("dawn") is dawn.dawn
    told = dawn.play(small(), Run(out=tmp_path, data=str(folder), jobs=0))
    assert "Not measured" not in told
    heads = ("What marks cost", "What a question's code survives", "Whose copies carry the marks")
    for head in (*heads, "What removes the marks: MNIST", "How many marks the published confidence needs"):
        assert f"## {head}\n" in told
    assert told.count("| MNIST | ") == 1 + 1 + 3
    assert "| the model itself | 0 [0, " in told  # it is not marked
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert dawn.play(small(), Run(out=tmp_path, data=str(folder), jobs=0)) == told
    assert (tmp_path / "records.jsonl").read_text().splitlines() == lines


def test_the_quick_look_changes_rows_and_thefts_alone() -> None:
    plan = plan_in("dawn.toml")
    quick = dawn.shortened(plan)
    assert [t["budget"] for t in quick["theft"]] == [300] * len(plan["theft"])
    assert quick["scene"] == plan["scene"]
    assert len(list(dawn.cells_of(plan))) == 3 * (1 + 5 + 4) + 3 * (
        1 + 5
    )  # Fashion-MNIST has no thefts that make their questions up


@pytest.mark.parametrize(
    ("classes", "sizes"),
    [
        (2, [64, 114, 315, 2042, None]),
        (10, [20, 24, 35, 56, 81]),
        (43, [12, 14, 18, 26, 35]),
        (100, [10, 12, 14, 19, 25]),
        (256, [8, 8, 11, 16, 21]),
    ],
)
def test_so_many_marks_give_the_published_confidence(classes: int, sizes: list[int | None]) -> None:
    assert [smallest(classes, missed) for missed in NOT_MATCHED] == sizes
