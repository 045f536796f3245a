"""The protocols adi and court on scikit-learn's digits, with few rows and epochs."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from portcullis_ml.bench.protocols import PROTOCOLS, adi, court, court_tables
from portcullis_ml.bench.protocols.court_room import Where, room_of, victim_attacked
from portcullis_ml.bench.protocols.court_tables import worst
from portcullis_ml.bench.protocols.plans import Run, plan_in

ROWS = {"own": 100, "unseen": 200, "thief": 60, "labelled": 40, "others": 200, "test": 100}
NULLS = {
    "the owner's": {"own": 100, "others": 0, "networks": ["mlp"], "models": 20},
    "others": {"own": 0, "others": 100, "networks": ["mlp"], "models": 20},
}
EQUIVALENT = {
    "same": {"own": 100, "others": 0, "networks": ["mlp"], "models": 2},
    "other": {"own": 0, "others": 100, "networks": ["mlp", "prada_2_layers"], "models": 2},
}


def small_court() -> dict[str, Any]:
    learner = {"network": "mlp", "epochs": 8}
    schemes = {
        "backdoor": {"mark": "backdoor(n=40)"},
        "errors": {"mark": "known_errors(n=10)"},
        "inference": {"mark": "dataset_inference(rows=50)"},
        "dawn": {"mark": "dawn(rate=0.4, planes=24)", "epochs": 10},
    }
    changes = {"data": "digits", "rows": ROWS, "repetitions": 1, "learner": learner, "tuner": learner}
    return {**plan_in("court.toml"), **changes, "scheme": schemes, "null": NULLS, "equivalent": EQUIVALENT}


def small_room() -> Where:
    plan = small_court()
    return Where("digits", json.dumps({key: plan[key] for key in court.TAKEN}), 0)


def small_adi() -> dict[str, Any]:
    plan = plan_in("adi.toml")
    rows = {"own": 100, "thief": 60, "test": 100, "pool": 80}
    scene = {**plan["scene"]["cifar10"], "data": "digits", "pool": "digits", "rows": rows}
    fewer = {name: plan[name] | {"epochs": 25} for name in ("learner", "tuner")}
    return {**plan, **fewer, "repetitions": 2, "scene": {"cifar10": scene}, "mark": {"unit": "backdoor", "n": 30}}


@pytest.fixture(scope="module")
def courts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("court")
    return court.play(small_court(), Run(out=out, jobs=0)), out


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]


def test_the_court_prints_power_false_claims_and_the_worst_removal(courts: tuple[str, Path]) -> None:
    text, _ = courts
    assert "Not measured" not in text
    matrix = {row[0]: row for row in rows_of(text.partition("## What each null says")[0])}
    assert matrix["backdoor"][1].startswith("1/1 ")
    assert all(matrix[name][4].split("/")[1].startswith("4 ") for name in small_court()["scheme"])
    removals = {row[0] for row in rows_of(text.partition("## Every removal")[2].partition("## False")[0])}
    assert {"none", "FTLL", "RTAL, owner's last layer", "pruning 90%", "Knockoff, labels"} <= removals
    claims = rows_of(text.partition("## False claims")[2])
    assert {(row[0], row[1]) for row in claims[2:]} == {(k, s) for k in EQUIVALENT for s in small_court()["scheme"]}


def test_the_curves_are_one_svg_with_a_panel_for_each_scheme(courts: tuple[str, Path]) -> None:
    root = ET.parse(courts[1] / "survival.svg").getroot()
    name = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{name}g")) == 4
    for panel in root.findall(f"{name}g"):
        line = panel.find(f"{name}polyline")
        assert line is not None
        assert len(line.attrib["points"].split()) == 10  # none, and nine levels of pruning


def test_finished_cells_are_not_run_again(courts: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    text, out = courts
    monkeypatch.setattr(court, "work", lambda *a, **k: pytest.fail("a finished cell was run again"))
    assert court.play(small_court(), Run(out=out, jobs=0)) == text


def test_innocent_models_that_calibrate_are_none_of_those_that_are_judged() -> None:
    room = room_of(small_room())
    calibrating = [model for models in room.calibrating.values() for model in models]
    assert len(calibrating) == 40
    said = {tuple(m.scores(room.test.x).ravel()) for m in (*calibrating, *(m for _, m in room.equivalents))}
    assert len(said) == 44, "two models are the same"
    seen = {row.tobytes() for rows in (room.own, room.unseen, room.thief) for row in rows.x}
    assert len(seen) > 300
    assert not seen & {row.tobytes() for row in room.test.x}


def test_the_null_on_the_owners_rows_is_of_models_that_learnt_them() -> None:
    """They are right about those rows more often than the models of the other null."""
    room = room_of(small_room())
    right = {name: np.mean([court.accuracy(m, room.own) for m in ms]) for name, ms in room.calibrating.items()}
    assert right["the owner's"] > right["others"] + 0.05


def test_every_cell_judges_every_suspect_under_both_nulls_apart(courts: tuple[str, Path]) -> None:
    """No suspect is convicted that one of the nulls lets go, and the p-values are those of the scheme under each."""
    records = [json.loads(line) for line in (courts[1] / "records.jsonl").read_text().splitlines()]
    assert len(records) == len(small_court()["scheme"])
    for record in records:
        for judged in (*record["notes"]["removals"].values(), *record["notes"]["equivalents"]):
            assert judged["convicted_under"] == {name: judged["p"][name] < 1e-3 for name in NULLS}
            assert judged["convicted"] == all(judged["convicted_under"].values())
    errors = next(r for r in records if r["attack"] == "errors")
    shares = errors["notes"]["calibrating_shares"]
    assert [len(shares[name]) for name in NULLS] == [20, 20]
    stricter = max(NULLS, key=lambda name: max(shares[name]))
    p_values = errors["notes"]["removals"]["none"]["p"]
    assert max(p_values, key=lambda name: p_values[name]) == stricter, "more matches of innocents, a greater p-value"


def test_schemes_that_mark_nothing_judge_the_same_stolen_models(courts: tuple[str, Path]) -> None:
    records = [json.loads(line) for line in (courts[1] / "records.jsonl").read_text().splitlines()]
    costs = {r["attack"]: [judged["accuracy"] for judged in r["notes"]["removals"].values()] for r in records}
    assert costs["errors"] == costs["inference"] != costs["backdoor"]
    assert victim_attacked(small_room(), 8) is victim_attacked(small_room(), 8)


def test_a_scheme_may_have_more_unseen_rows_than_others() -> None:
    """They are nobody else's, and cells of the other schemes keep their ids."""
    room = room_of(small_room())
    more = room.unseen_rows(350)
    assert (more.x[:200] == room.unseen.x).all()
    others = {row.tobytes() for rows in (room.own, room.thief, room.test) for row in rows.x}
    assert not others & {row.tobytes() for row in more.x}
    plan = small_court()
    errors = {"mark": "known_errors(n=10)"}
    plain, wider = court.cells_of({**plan, "scheme": {"plain": errors, "wider": {**errors, "unseen": 350}}})
    assert "unseen" not in plain.extra
    assert plain.id != wider.id
    assert plain.id in {cell.id for cell in court.cells_of(plan)}


def test_a_scheme_may_have_fewer_repetitions() -> None:
    fewer = {"backdoor": {"mark": "backdoor", "repetitions": 1}, "errors": {"mark": "known_errors"}}
    cells = court.cells_of({**small_court(), "repetitions": 2, "scheme": fewer})
    assert [c.names["attack"] for c in cells] == ["backdoor", "errors", "errors"]


def test_what_a_null_alone_would_say_stands_beside_both() -> None:
    """One suspect of two goes free under the stricter null: the tables show what that costs, and whom it spares."""

    def judged(strict: bool, **more: Any) -> dict[str, Any]:
        under = {"strict": strict, "weak": True}
        return {"convicted_under": under, "convicted": strict, "share": 0.8, "accuracy": 0.9, **more}

    names = ("none", "FTAL", "Knockoff, scores", "Knockoff, labels", "double extraction")
    record = {
        "removals": {name: judged(name == "none") for name in names},
        "equivalents": [judged(False, kind="same"), judged(False, kind="other")],
        "calibrating_shares": {"strict": [0.5, 0.75], "weak": [0.25]},
    }
    plan = {"null": {"strict": {"models": 2}, "weak": {"models": 1}}, "rows": ROWS, "equivalent": EQUIVALENT}
    rows = rows_of(court_tables.nulls(plan, {"errors": [{"notes": record}]}))[2:]
    assert [row[1:4] for row in rows] == [
        ["both", "", "1/1 [3, 100]"], ["strict", "75%", "1/1 [3, 100]"], ["weak", "25%", "1/1 [3, 100]"]
    ]  # fmt: skip
    assert [row[7] for row in rows] == ["0/4", "0/4", "4/4"]
    assert [[cell.split()[0] for cell in row[8:]] for row in rows] == [["0/1", "0/1"], ["0/1", "0/1"], ["1/1", "1/1"]]


def test_the_worst_removal_is_the_one_that_convicts_least_within_what_it_may_cost() -> None:
    def found(accuracy: float, convicted: bool, share: float) -> dict[str, Any]:
        return {"accuracy": accuracy, "convicted": convicted, "share": share}

    removals = {
        "none": found(0.9, True, 1.0),
        "cheap": found(0.89, True, 0.5),
        "weaker": found(0.89, True, 0.6),
        "dear": found(0.87, False, 0.2),
        "useless": found(0.5, False, 0.0),
        "cheap, owner's last layer": found(0.9, False, 0.0),
    }
    own = [{"notes": {"removals": removals}}]
    assert worst(own, 0.5) is None
    assert worst(own, 2) == "cheap"
    assert worst(own, 5) == "dear"


def test_adis_table_is_printed_beside_what_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_adi()
    text = adi.play(plan, Run(out=tmp_path, jobs=0))
    assert "Not measured" not in text
    rows = {row[0]: row for row in rows_of(text)}
    assert "(published 93.81)" in rows["from scratch"][1]
    assert "(published +0.39)" in rows["from scratch"][3]
    assert rows["no mark"][4] == "0 of 2"
    assert rows["from scratch"][4] == rows["pretrained"][4] == "2 of 2"
    assert rows["FTLL, owner's last layer"][3] == rows["FTLL, owner's last layer"][6] == "2 of 2"
    assert rows["Knockoff, scores"][3] == "0 of 2", "the mark has leaked into the copy's questions"
    monkeypatch.setattr(adi, "work", lambda *a, **k: pytest.fail("a finished cell was run again"))
    assert adi.play(plan, Run(out=tmp_path, jobs=0)) == text


@pytest.mark.parametrize("name", ["adi", "court"])
def test_the_quick_look_changes_settings_that_are_there(name: str) -> None:
    plan = plan_in(f"{name}.toml")
    assert plan["quick"]["changes"].keys() <= plan.keys()
    assert PROTOCOLS.load(name)
    assert re.fullmatch(r"\w+", plan["protocol"])
