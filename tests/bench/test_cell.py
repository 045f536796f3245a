"""Cells: the identity of an experiment is its content."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from portcullis_ml.bench.cell import Cell, fingerprint
from portcullis_ml.bench.records import read_records
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.settings import describe
from portcullis_ml.extraction import CATALOG as ATTACKS

from .toys import cell


def test_an_id_is_a_hash_of_the_content_and_of_nothing_else():
    a = cell("knockoff")
    assert a.id == replace(a, names={"attack": "another word for it"}).id
    changes = {"budget": 31, "seed": 1, "defense": ({"unit": "top_k", "k": 1},), "role": "control", "measures": 2}
    ids = {a.id, *(replace(a, **{name: value}).id for name, value in changes.items())}
    assert len(ids) == 1 + len(changes)


def test_ids_do_not_drift():
    """A change here makes every stored result run again, so it has to be meant."""
    assert cell("knockoff").id == "9baac05ac426ae23"


def test_a_cell_survives_json():
    a = replace(cell("jacobian", k=3), defense=({"unit": "rounding", "decimals": 2},), names={"attack": "jb"})
    b = Cell.from_json(json.loads(json.dumps(a.to_json())))
    assert b == a
    assert b.id == a.id


def test_what_is_not_json_is_refused():
    with pytest.raises(ParameterError, match="a cell must be plain JSON throughout"):
        cell("knockoff", path=Path("x"))
    with pytest.raises(ParameterError, match="a cell must be plain JSON throughout"):
        cell("knockoff", x=float("nan"))
    with pytest.raises(InputError, match="this one also has 'colour'"):
        Cell.from_json(cell("knockoff").to_json() | {"colour": "red"})


def test_randomness_belongs_to_the_cell_and_the_purpose():
    a, b = cell("knockoff"), cell("knockoff", seed=1)
    draws = {a.rng("x").random(), a.rng("y").random(), b.rng("x").random()}
    assert len(draws) == 3
    assert a.rng("x").random() == a.rng("x").random()


def test_fingerprints_follow_content_not_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    assert fingerprint(np.zeros(3)) != fingerprint(np.zeros((3, 1)))
    assert fingerprint("a", "b") != fingerprint("ab", None)


def test_a_cell_keeps_its_id_under_the_packages_former_name() -> None:
    now = Cell(victim={}, data={}, interface={}, attack={"unit": "knockoff"}, learner={"unit": "portcullis_ml.a:B"})
    then = Cell(victim={}, data={}, interface={}, attack={"unit": "knockoff"}, learner={"unit": "portcullis.a:B"})
    assert now.id == then.id


RESULTS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*/records.jsonl"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.parent.name)
def test_committed_records_are_still_read_and_their_cells_keep_their_ids(path: Path) -> None:
    records = read_records(path)
    assert records
    for record in records:
        cell = Cell.from_json(record["cell"])
        assert cell.id == record["id"]
        if cell.learner is not None:
            assert describe(ATTACKS.build(cell.learner))["unit"].startswith("portcullis_ml.")
