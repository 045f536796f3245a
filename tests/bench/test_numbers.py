"""Victims that answer numbers: recognised, judged by R^2 in the target's units, refused in a sentence where unfit."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from portcullis_ml.bench.experiment import ExperimentSpec
from portcullis_ml.bench.understood import understood
from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import InputError

skops_io = pytest.importorskip("skops.io")
from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, size=(160, 3))
Y = 20 * X[:, 0] - 5 * X[:, 1] ** 2 + RNG.normal(size=160)
MODEL = LinearRegression().fit(X, Y)
PASS_THROUGH = ["--attacks", "equation_solving,knockoff", "--budget", "40", "--seeds", "1", "--jobs", "0"]


def numbers(x):
    return MODEL.predict(x)


def column(x):
    return MODEL.predict(x)[:, None]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    skops_io.dump(MODEL, tmp_path / "m.skops")
    np.savez(tmp_path / "test.npz", x=X[:80], y=Y[:80])
    np.savez(tmp_path / "pool.npz", x=X[80:], y=Y[80:])
    return tmp_path


def load(files: Path, victim: str = "", **more: Any):
    return ExperimentSpec(victim=victim or str(files / "m.skops"), test=str(files / "test.npz"), **more).load()


def onnx_file(path: Path) -> str:
    to_onnx = pytest.importorskip("skl2onnx").to_onnx
    path.write_bytes(to_onnx(MODEL, X[:1].astype(np.float32)).SerializeToString())
    return str(path)


def torch_module(monkeypatch: pytest.MonkeyPatch) -> str:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(3, 1)
    with torch.no_grad():
        layer.weight[:] = torch.tensor(MODEL.coef_)
        layer.bias[:] = torch.tensor(MODEL.intercept_)
    module = types.ModuleType("module_of_numbers")
    module.net = layer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return "module_of_numbers:net"


@pytest.mark.parametrize("kind", ["skops", "onnx", "torch", "numbers", "column"])
def test_a_regression_is_recognised_in_every_kind_of_victim(files, kind, monkeypatch) -> None:
    names = {
        "skops": lambda: "",
        "onnx": lambda: onnx_file(files / "m.onnx"),
        "torch": lambda: torch_module(monkeypatch),
    }
    made = names.get(kind, lambda: f"bench.test_numbers:{kind}")()
    experiment = load(files, made)
    assert experiment.numbers
    assert experiment.interface.n_classes == 0
    np.testing.assert_allclose(experiment.model.scores(X[:5])[:, 0], numbers(X[:5]), atol=1e-4)
    assert any("explains 9" in note and "% of the variance" in note for note in experiment.notes)


def test_a_regressor_in_a_table_takes_its_targets_from_the_column(files: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    skops_io.dump(LinearRegression().fit(frame, Y), files / "t.skops")
    frame.assign(price=Y.round(2)).to_csv(files / "t.csv", index=False)
    experiment = ExperimentSpec(victim=str(files / "t.skops"), test=str(files / "t.csv"), target="price").load()
    assert experiment.numbers
    np.testing.assert_allclose(np.sort(experiment.test_y), np.sort(Y.round(2)))


def test_whole_numbers_are_targets_of_a_regressor_and_classes_of_a_sigmoid(files: Path) -> None:
    np.savez(files / "test.npz", x=X[:80], y=(Y[:80] > 0).astype(int))
    assert load(files).numbers  # the estimator says so
    with pytest.raises(InputError, match="probabilities"):
        load(files, "bench.test_numbers:numbers")  # one column and labels 0 and 1: the probability of a class
    assert load(files, "bench.test_numbers:numbers", regression=True).numbers


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (np.full(80, 3.5), r"Every one of the 80 test rows has the target 3\.5"),
        (np.where(np.arange(80) == 4, np.nan, Y[:80]), "must have finite targets; row 4 has nan"),
    ],
)
def test_targets_that_cannot_be_judged_by_are_one_sentence(files: Path, y: Any, said: str) -> None:
    np.savez(files / "test.npz", x=X[:80], y=y)
    with pytest.raises(InputError, match=said):
        load(files)


def test_words_as_targets_are_one_sentence(files: Path) -> None:
    rows = "\n".join(f"{a},{b},{c},{'high' if y > 0 else 'low'}" for (a, b, c), y in zip(X, Y, strict=True))
    (files / "t.csv").write_text("a,b,c,y\n" + rows)
    with pytest.raises(InputError, match="the target column holds 'high', 'low'"):
        ExperimentSpec(victim=str(files / "m.skops"), test=str(files / "t.csv")).load()


def test_real_numbers_are_no_labels_of_a_classifier(files: Path) -> None:
    skops_io.dump(LogisticRegression().fit(X, Y > 0), files / "m.skops")
    with pytest.raises(InputError, match="which are no classes, and the victim answers classes"):
        load(files)
    with pytest.raises(InputError, match="expected to be a regression"):
        load(files, regression=True)


def test_without_labels_a_number_a_row_may_be_either(files: Path) -> None:
    np.savez(files / "test.npz", x=X[:80])
    with pytest.raises(InputError, match="it may be a regression or the probability"):
        load(files, "bench.test_numbers:numbers")
    assert load(files, "bench.test_numbers:numbers", regression=True).test_y is None


def test_inspect_says_that_it_answers_numbers(files: Path) -> None:
    spec = ExperimentSpec(victim=str(files / "m.skops"), test=str(files / "test.npz"), pool=str(files / "pool.npz"))
    found = {p.about: p.taken for p in understood(spec, spec.load())}
    assert found["classes"] == "none: it answers numbers (a regression)"
    assert found["answers"] == "one number a row; float64"
    assert found["test rows"].startswith("80; the victim explains 9")
    assert found["pool"] == "80 rows, with targets"


def run(files: Path, *words: str) -> Any:
    where = ["--test", str(files / "test.npz"), "--pool", str(files / "pool.npz"), "--out", str(files / "out")]
    return CliRunner().invoke(app, [words[0], *words[1:], "--victim", str(files / "m.skops"), *where])


def test_an_audit_says_what_a_stranger_explains_and_by_how_much_they_are_off(files: Path) -> None:
    ran = run(files, "audit", *PASS_THROUGH, "--defenses", "rounding(decimals=-1),top_k(k=1)", "--json")
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert found["headline"].startswith(
        "With 9 queries a stranger explains 100% of the variance of your model's answers"
    )
    assert found["headline"].endswith("on average, in the units of your target.")
    rows = {(r["attack"], r["defense"]): r for r in found["rows"]}
    assert rows["equation_solving", "none"]["measures"]["r2"][0] == pytest.approx(1.0)
    assert rows["equation_solving", "none"]["measures"]["mae"][0] < 1e-9
    assert rows["no_api", "none"]["measures"]["r2"][0] == 0.0
    assert rows["shuffled", "none"]["measures"]["r2"][0] < 0.5
    assert 0.5 < rows["own_labels", "none"]["measures"]["r2"][0] <= 1
    assert rows["random_queries", "none"]["measures"]["r2"][0] > 0.9
    assert "needs an API that predicts classes" in rows["equation_solving", "top_k(k=1)"]["reason"]
    assert found["worst_undefended"]["r2"][0] == pytest.approx(1.0)
    page = (files / "out" / "report.html").read_text()
    assert "of the variance of your model" in page
    assert "Answers moved, in units" in page
    assert "through an API that shows one number a row" in page
    assert "all probabilities" not in page
    assert "agreement with your model" not in page
    fails = run(files, "audit", *PASS_THROUGH, "--defenses", "rounding(decimals=-1)", "--fail-over", "0.5")
    assert fails.exit_code == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--answers", "labels"], "answers one number and no label"),
        (["--then", "membership"], "--then needs a victim that predicts classes"),
        (["--learner", "auto"], "learns classes; this victim answers numbers"),
    ],
)
def test_an_audit_refuses_what_needs_classes(files: Path, words: list[str], said: str) -> None:
    ran = run(files, "audit", *PASS_THROUGH, *words)
    assert ran.exit_code == 2
    assert said in ran.stderr


def test_extract_keeps_a_surrogate_of_numbers(files: Path) -> None:
    ran = run(
        files, "extract", "knockoff", "--budget", "60", "--learner", "auto_numbers(families=['boosted'])", "--json"
    )
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert found["surrogate"].endswith(".skops")
    assert found["record"]["measures"]["r2"]["value"] > 0.5
