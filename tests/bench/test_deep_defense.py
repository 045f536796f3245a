"""The protocol deep-defense: its plan, its splits, its table, and one cell of each kind on toy pictures."""

from __future__ import annotations

import io
import json
import tomllib
import zipfile
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from portcullis_ml.bench.protocols import PROTOCOLS
from portcullis_ml.bench.protocols import deep_defense as protocol
from portcullis_ml.bench.protocols.deep_defense import cells_of, shortened, split
from portcullis_ml.bench.protocols.deep_defense_tables import document
from portcullis_ml.bench.run import run_cells
from portcullis_ml.core.errors import InputError
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.models.explain import explainer_named

PLAN = tomllib.loads((resources.files("portcullis_ml.bench.protocols") / "deep_defense.toml").read_text())


def test_every_row_names_units_that_there_are() -> None:
    assert PROTOCOLS[PLAN["protocol"]] == "portcullis_ml.bench.protocols.deep_defense:deep_defense"
    for row in PLAN["row"]:
        assert not row["defense"] or DEFENSES.build(row["defense"]).keeps_labels
    for row in PLAN["explained"]:
        explainer_named(f"{row['kind']}({row['settings']})")
    rows = len(PLAN["row"]) + len(PLAN["explained"])
    assert len({cell.id for cell in cells_of(PLAN)}) == PLAN["seeds"] * rows
    assert [cell.seed for cell in cells_of(PLAN)] == sorted(cell.seed for cell in cells_of(PLAN))


def test_near_identical_pictures_share_a_part() -> None:
    pairs = [[i, i + 20] for i in range(1, 20)]
    for seed in range(20):
        parts = split(60, pairs, [15, 20], np.random.default_rng(seed))
        assert [len(part) for part in parts] == [15, 20, 25]
        assert sorted(np.concatenate(parts)) == list(range(60))
        side = {int(i): k for k, part in enumerate(parts) for i in part}
        assert all(side[a - 1] == side[b - 1] for a, b in pairs)


def test_without_the_data_it_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORTCULLIS_DATA", raising=False)
    with pytest.raises(InputError, match=r"needs the folder with flowers17_96.zip. Give --data"):
        protocol.folder_of(None)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The plan cut down to pictures of 16 pixels in 3 colours, and the folder of its archive."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    with zipfile.ZipFile(folder / "toy.zip", "w") as out:
        for i in range(60):
            picture = rng.integers(0, 120, (16, 16, 3), dtype=np.uint8)
            picture[4:12, 4:12, i % 3] += 120
            data = io.BytesIO()
            Image.fromarray(picture).save(data, "PNG")
            out.writestr(f"{i % 3:02d}/{i:04d}.png", data.getvalue())
    plan = {**shortened(PLAN), "archive": "toy.zip", "shrink": 1, "test_rows": 15, "pool_rows": 12, "explained_rows": 3}
    plan["row"] = [PLAN["row"][0], {**PLAN["row"][2], "defense": PLAN["row"][2]["defense"][:-1] + ", steps=2)"}]
    return json.loads(json.dumps(plan)), folder


def test_cells_measure_thieves_and_explanations_and_are_not_run_twice(toy: Any, tmp_path: Path) -> None:
    plan, folder = toy
    text = json.dumps(plan, sort_keys=True)

    def work(cell: Any, workspace: Any) -> Any:
        return protocol.work(cell, workspace, plan=text, data=str(folder), out=tmp_path)

    records = run_cells(cells_of(plan), work, out=tmp_path, jobs=0)
    assert [r["outcome"] for r in records] == ["done"] * 3, [r["reason"] for r in records]
    plain, defended, explained = (r["measures"] for r in records)
    assert plain["l1"]["value"] == 0
    assert set(plain) == {"l1", "label_kept", "victim", *PLAN["row"][0]["thieves"]}
    assert defended["label_kept"]["value"] == 1
    assert defended["victim"] == plain["victim"]
    assert set(explained) == {
        "original", "misdirected", "original_positive", "misdirected_positive", "order_kept",
    }  # fmt: skip
    assert explained["original_positive"]["value"] >= explained["original"]["value"]
    again = run_cells(cells_of(plan), lambda cell, workspace: 1 / 0, out=tmp_path, jobs=0)  # type: ignore[arg-type, return-value]
    assert again == records
    page = document(plan, records, quick=True)
    assert "DeepDefense, block 6, CS 90 | 1 | 8.09 to 9.19 |" in page
    assert "| Grad-CAM | 1 | 0.513 / 0.515 |" in page
    assert "A quick look" in page


def test_a_cell_that_failed_is_said_to_have(toy: Any) -> None:
    cell = cells_of(toy[0])[0]
    record = {"cell": asdict(cell), "defense": "undefended", "outcome": "failed", "reason": "why", "measures": {}}
    page = document(toy[0], [{**record, "notes": {}}], quick=False)
    assert "- undefended, seed 0: failed, why" in page
