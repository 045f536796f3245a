"""A pool as a table: without labels, with columns in another order, with columns too many or too few."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import InputError

pd = pytest.importorskip("pandas")
skops_io = pytest.importorskip("skops.io")
from sklearn.linear_model import LogisticRegression  # noqa: E402

RNG = np.random.default_rng(0)
X = pd.DataFrame(RNG.normal(size=(120, 3)), columns=list("abc"))
Y = np.where(X.a > 0, "yes", "no")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    skops_io.dump(LogisticRegression().fit(X, Y), tmp_path / "named.skops")
    skops_io.dump(LogisticRegression().fit(X.values, Y), tmp_path / "placed.skops")
    X.assign(label=Y)[:60].to_csv(tmp_path / "test.csv", index=False)
    return tmp_path


def load(files: Path, victim: str, pool: Any, **more: Any) -> Experiment:
    pool.to_csv(files / "pool.csv", index=False)
    where = {"test": str(files / "test.csv"), "pool": str(files / "pool.csv")}
    return ExperimentSpec(victim=str(files / f"{victim}.skops"), **where, **more).load()


@pytest.mark.parametrize("target", [None, "label"])
@pytest.mark.parametrize("victim", ["named", "placed"])
def test_a_pool_needs_no_labels_and_its_columns_are_found_by_name(files, victim, target) -> None:
    pool = X[60:].assign(customer=[None, *range(59)], note="long")[["note", "c", "a", "customer", "b"]]
    found = load(files, victim, pool, target=target)
    assert found.pool_labels is None
    assert found.pool is not None
    assert sorted(map(tuple, found.pool.round(6).tolist())) == sorted(map(tuple, X[60:].round(6).values.tolist()))
    assert "Of the pool's columns 2 are not the victim's and were left out: note, customer." in found.notes


@pytest.mark.parametrize("victim", ["named", "placed"])
def test_a_labelled_pool_keeps_its_labels(files: Path, victim: str) -> None:
    found = load(files, victim, X[60:].assign(label=Y[60:]))
    assert found.pool_labels is not None
    assert sorted(found.pool_labels.tolist()) == sorted((Y[60:] == "yes").astype(int).tolist())


@pytest.mark.parametrize("victim", ["named", "placed"])
def test_a_column_that_is_missing_is_one_sentence(files: Path, victim: str) -> None:
    with pytest.raises(InputError, match="The pool lacks the column 'b', which the test set has"):
        load(files, victim, X[60:][["a", "c"]])


def test_the_control_of_own_labels_says_that_it_is_not_applicable(files: Path) -> None:
    X[60:].to_csv(files / "pool.csv", index=False)
    where = ["--test", str(files / "test.csv"), "--pool", str(files / "pool.csv"), "--out", str(files / "out")]
    words = ["--attacks", "equation_solving", "--defenses", "rounding", "--budget", "20", "--seeds", "1", "--jobs", "0"]
    ran = CliRunner().invoke(app, ["audit", "--victim", str(files / "named.skops"), *where, *words, "--json"])
    assert ran.exit_code == 0, ran.output
    notes = json.loads(ran.stdout)["notes"]
    assert "The control own_labels is not applicable: the pool has no labels of the victim's classes." in notes
