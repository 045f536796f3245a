"""The PRADA protocol on digits, and its tables on records made up here."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portcullis_ml.bench.protocols import PROTOCOLS, prada, tables
from portcullis_ml.bench.protocols.plans import Run

pytest.importorskip("torch")

PLAN: dict[str, Any] = {
    "protocol": "prada-digits",
    "version": 1,
    "dataset": "digits",
    "victim_rows": 900,
    "agreement_on": "test",
    "seeds_per_class": 3,
    "budget": 60,
    "repetitions": 2,
    "victim": {"network": "digits_cnn", "epochs": 15, "lr": 0.003},
    "learner": {"network": "digits_cnn", "epochs": 10, "lr": 0.003},
    "dropout": {"rate": 0.5},
    "papernot": {"epochs": 5},
    "transfer": {"eps": 0.25, "steps": 5, "per_class": 1},
    "row": [
        {"name": "Papernot", "attack": "jacobian(direction='away')", "strategy": "papernot",
         "published": {"macro_f": 0.707}},
        {"name": "natural", "attack": "knockoff", "strategy": "p+d", "budget": 40,
         "published": {"macro_f": [0.8, 0.9]}},
    ],
    "detectors": {"prada": "prada"},
    "streams": {
        "count": 1, "rows": 120, "calibration": "digits:train", "benign": ["digits:test"], "blind": ["uniform"],
        "accounts": 4,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("prada")
    return prada.play(PLAN, Run(out=out, jobs=0)), out


def test_it_prints_published_beside_measured(page: tuple[str, Path]) -> None:
    text, _ = page
    rows = [line for line in text.splitlines() if line.startswith(("| Papernot", "| natural"))]
    assert "| Papernot | papernot | 60 | 2 |" in rows[0]
    assert "(published 70.7)" in rows[0]
    assert "| natural | p+d | 40 | 2 |" in rows[1]
    assert "(published 80 to 90)" in rows[1]
    assert "portcullis bench run prada-digits" in text


def test_honest_streams_stay_below_the_threshold_that_was_set_on_others(page: tuple[str, Path]) -> None:
    line = next(line for line in page[0].splitlines() if line.startswith("| digits:test (honest)"))
    assert "never" in line
    assert any(line.startswith("| uniform (unseen thief)") for line in page[0].splitlines())


def test_a_finished_protocol_runs_nothing_again(page: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    text, out = page
    monkeypatch.setattr(prada, "work", lambda *a, **k: pytest.fail("a finished cell was run again"))
    assert prada.play(PLAN, Run(out=out, jobs=0)) == text


@pytest.mark.parametrize("name", ["prada_mnist.toml", "prada_gtsrb.toml"])
@pytest.mark.parametrize("quick", [False, True])
def test_the_frozen_protocols_describe_cells_that_can_be_built(name: str, quick: bool) -> None:
    plan = tomllib.loads((resources.files(prada.__package__) / name).read_text())
    plan = prada.shortened(plan) if quick else plan
    cells = prada.attack_cells(prada.Setting(plan, None, Path(), "cpu"), "victim", {"prada": 2.0})
    assert len({c.id for c in cells}) == len(cells)
    assert len(cells) == sum(min(row.get("repetitions", 99), plan["repetitions"]) for row in plan["row"])
    assert plan["protocol"] in PROTOCOLS
    assert quick or plan["repetitions"] == 5


def test_every_strategy_has_its_learner() -> None:
    plan = PLAN | {"papernot": {"epochs": 7, "optimizer": "sgd"}}
    setting = prada.Setting(plan, None, Path(), "cpu")
    learners = {s: prada.learner_of(setting, {"strategy": s}) for s in ("plain", "d", "p", "p+d", "papernot")}
    assert {s: learner.targets for s, learner in learners.items()} == {
        "plain": "labels", "d": "labels", "p": "soft", "p+d": "soft", "papernot": "labels",
    }  # fmt: skip
    assert {s: learner.dropout for s, learner in learners.items()} == {
        "plain": 0,
        "d": 0.5,
        "p": 0,
        "p+d": 0.5,
        "papernot": 0,
    }
    assert (learners["papernot"].epochs, learners["plain"].epochs) == (7, 10)


def test_digits_of_another_frame_are_put_in_the_middle() -> None:
    grown = prada.fitted(np.ones((2, 16, 16)), (28, 28))
    assert grown.shape == (2, 28, 28)
    assert grown[:, 4:24, 4:24].min() == 1
    assert grown[:, :4].max() == 0
    same = np.zeros((2, 28, 28))
    assert prada.fitted(same, (28, 28)) is same


def record(rows: list[int | None]) -> list[dict[str, Any]]:
    return [
        {
            "attack": "Jb p", "outcome": "done", "queries": 100,
            "cell": {"role": "attack", "extra": {"thresholds": {"prada": 2.5}}},
            "measures": {"macro_f": {"value": 0.5}, "chunks_prada": {"value": 0.5, "n": 2}},
            "alarms": [] if row is None else [{"stage": "prada", "row": row}],
        }
        for row in rows
    ]  # fmt: skip


def test_streams_that_were_never_caught_count_as_never() -> None:
    plan = {"detectors": ["prada"], "streams": {"count": 1, "calibration": "x"}, "row": []}
    assert "| 70 [70, never] in 2 of 3 |" in tables.detector_table(plan, record([70, 70, None])).replace(
        "[70, never]", "[70, never]"
    )
    assert "| never in 2 of 3, earliest at 70 |" in tables.detector_table(plan, record([70, None, None]))
    assert "| never |" in tables.detector_table(plan, record([None, None]))
    assert "| 70 [70, 70] |" in tables.detector_table(plan, record([70, 70, 70]))


def test_cells_that_failed_are_said() -> None:
    plan = {"row": [{"name": "Jb", "strategy": "p", "published": {}}]}
    bad = {**record([1])[0], "outcome": "failed", "reason": "It broke."}
    assert "1 cells did not finish; the first says: It broke." in tables.attack_table(plan, [*record([1]), bad])
