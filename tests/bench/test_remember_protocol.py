"""The protocol on models that remember too much, on a few digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from portcullis_ml.bench.protocols import PROTOCOLS, remember
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.measures.screening import TESTS

pytest.importorskip("torch")


def plan() -> dict[str, Any]:
    learner = {"network": "mlp", "epochs": 2, "batch": 32, "targets": "labels"}
    return {
        **plan_in("remember.toml"),
        "data": {"digits": {"title": "Digits", "rows": 60, "learner": learner}},
        "encodings": {"low_bits": {"unit": "low_bits"}, "label_capacity": {"unit": "label_capacity"}},
        "recipes": {"as it is": {}, "half the step": {"lr": 0.5}},
        "other_recipes": {"SGD": {"optimizer": "sgd", "lr": 50.0}},
        "fills": [0.1], "seeds": 2, "references": 5, "honest": 2, "others": 1, "far": 20, "tuning": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("remember")
    return out, remember.play(plan(), Run(out=out, jobs=0))


def rows_of(text: str, length: int) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows if len(row) == length}


def records_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def test_every_encoding_is_read_again_beside_an_honest_model(ran: tuple[Path, str]) -> None:
    read = rows_of(ran[1], 9)
    assert list(read)[2:] == ["honest"] + [
        f"{word}, {how}, 10% of the room"
        for word in ("low_bits", "label_capacity")
        for how in ("encrypted", "as it is")
    ]
    assert {row[-1] for row in list(read.values())[2:]} == {"2"}
    wrong, halved = (read["low_bits, as it is, 10% of the room"][i] for i in (2, 5))
    assert wrong == "0.00 [0.00, 0.00]", "low bits give every bit back"
    assert float(halved.split()[0]) > 10, "and none of it after half precision"


def test_the_screen_accuses_models_that_it_was_not_shown(ran: tuple[Path, str]) -> None:
    screened = rows_of(ran[1], 4 + len(TESTS))
    assert {"honest", "honest, SGD", "low_bits, encrypted, 10% of the room"} <= set(screened)
    assert not any(name.startswith("reference") for name in screened)
    assert screened["honest"][0] == "2"


def test_hidden_models_keep_their_portrait_and_their_accuracy(ran: tuple[Path, str]) -> None:
    records = records_of(ran[0])
    assert {r["outcome"] for r in records} == {"done"}
    assert all({"portrait"} <= set(r["notes"]) and "accuracy" in r["measures"] for r in records)
    hidden = [r for r in records if "hidden" in r["measures"]]
    assert len(hidden) == 2 * 2 * 2
    assert {r["cell"]["extra"]["fill"] for r in hidden} == {0.1}


def test_a_finished_cell_is_not_run_again(ran: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remember, "work", lambda *a, **k: pytest.fail("a finished cell was run again"))
    assert remember.play(plan(), Run(out=ran[0], jobs=0)) == ran[1]


def test_the_catalog_names_it() -> None:
    assert PROTOCOLS.load("remember") is remember.remember
