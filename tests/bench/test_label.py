"""Multi-label victims: one sentence that names --label, and each label read as a task of two classes."""

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
from sklearn.ensemble import RandomForestClassifier  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: E402
from sklearn.multiclass import OneVsRestClassifier  # noqa: E402
from sklearn.multioutput import MultiOutputClassifier  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier  # noqa: E402
from sklearn.neural_network import MLPClassifier  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, size=(150, 4))
W = RNG.normal(size=(4, 3)) * 3
Y = (X @ W + [0.0, 1.0, -0.5] > 0).astype(int)


def sigmoids(x):
    return 1 / (1 + np.exp(-(x @ W + [0.0, 1.0, -0.5])))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    np.savez(tmp_path / "test.npz", x=X[:90], y=Y[:90])
    np.savez(tmp_path / "pool.npz", x=X[90:], y=Y[90:])
    return tmp_path


def load(files: Path, victim: str, **more: Any):
    return ExperimentSpec(victim=victim, test=str(files / "test.npz"), pool=str(files / "pool.npz"), **more).load()


ESTIMATORS = {
    "multi_output": lambda: MultiOutputClassifier(LogisticRegression(C=100)),
    "one_vs_rest": lambda: OneVsRestClassifier(LogisticRegression(C=100)),
    "forest": lambda: RandomForestClassifier(20, random_state=0),
    "neighbours": lambda: KNeighborsClassifier(3),
    "network": lambda: MLPClassifier((8,), solver="lbfgs", max_iter=200, random_state=0),
}


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_estimators_say_that_they_are_multi_label_and_answer_one(files: Path, kind: str) -> None:
    model = ESTIMATORS[kind]().fit(X, Y)
    skops_io.dump(model, files / "m.skops")
    with pytest.raises(InputError, match=r"answers 3 labels at once.*--label INDEX \(0 to 2"):
        _untold(files)
    experiment = load(files, str(files / "m.skops"), label="1")
    scores = experiment.model.scores(X[:90])
    truth = model.predict_proba(X[:90])
    expected = truth[1][:, 1] if isinstance(truth, list) else truth[:, 1]
    np.testing.assert_allclose(scores[:, 1], expected)
    assert (experiment.test_y == Y[:90, 1]).all()
    assert experiment.interface.n_classes == 2


def _untold(files: Path) -> None:
    """The labels of one column, and nobody names the column of the victim."""
    np.savez(files / "one.npz", x=X[:90], y=Y[:90, 1])
    ExperimentSpec(victim=str(files / "m.skops"), test=str(files / "one.npz")).load()


def module(monkeypatch: pytest.MonkeyPatch, *, logits: bool) -> str:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight[:] = torch.tensor(W.T)
        layer.bias[:] = torch.tensor([0.0, 1.0, -0.5])
    held = types.ModuleType("module_of_labels")
    held.net = layer if logits else torch.nn.Sequential(layer, torch.nn.Sigmoid())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, held.__name__, held)
    return "module_of_labels:net"


def graph(path: Path) -> str:
    to_onnx = pytest.importorskip("skl2onnx").to_onnx
    model = OneVsRestClassifier(LogisticRegression(C=1e6, max_iter=5000)).fit(X, sigmoids(X) > 0.5)
    path.write_bytes(to_onnx(model, X[:1].astype(np.float32), options={"zipmap": False}).SerializeToString())
    return str(path)


@pytest.mark.parametrize("kind", ["function", "sigmoids in torch", "logits in torch", "onnx"])
def test_other_victims_show_it_by_numbers_that_are_no_distributions(files, kind, monkeypatch) -> None:
    victim = {
        "function": lambda: "bench.test_label:sigmoids",
        "sigmoids in torch": lambda: module(monkeypatch, logits=False),
        "logits in torch": lambda: module(monkeypatch, logits=True),
        "onnx": lambda: graph(files / "m.onnx"),
    }[kind]()
    if kind != "logits in torch":  # those may be of classes: only the labels of a row say otherwise
        np.savez(files / "one.npz", x=X[:90], y=Y[:90, 2])
        with pytest.raises(InputError, match="answers 3 labels at once"):
            ExperimentSpec(victim=victim, test=str(files / "one.npz")).load()
    with pytest.raises(InputError, match=r"has 3 labels a row \(y of \(90, 3\)\): a multi-label task"):
        load(files, victim)
    spec = ExperimentSpec(victim=victim, test=str(files / "test.npz"), label="c", classes="a,b,c")
    experiment = spec.load()
    scores = experiment.model.scores(X[:90])
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert ((scores[:, 1] > 0.5) == (Y[:90, 2] == 1)).mean() > 0.95
    assert {p.about: p.taken for p in understood(spec, experiment)}["answers"].startswith("column 2 of 3, yes or no")


def test_one_of_several_numbers_is_a_regression(files: Path) -> None:
    model = LinearRegression().fit(X, X @ W)
    skops_io.dump(model, files / "m.skops")
    np.savez(files / "test.npz", x=X[:90], y=(X @ W)[:90])
    np.savez(files / "pool.npz", x=X[90:])
    with pytest.raises(InputError, match="answers 3 numbers at once"):
        load(files, str(files / "m.skops"))
    experiment = load(files, str(files / "m.skops"), label="2")
    assert experiment.numbers
    np.testing.assert_allclose(experiment.model.scores(X[:90])[:, 0], experiment.test_y)


@pytest.mark.parametrize(
    ("label", "said"),
    [("7", "from 0 to 2"), ("beard", "the number of a column"), ("-1", "the number of a column")],
)
def test_a_label_that_is_none_is_one_sentence(files: Path, label: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(files, "bench.test_label:sigmoids", label=label)


def test_a_label_of_one_column_is_one_sentence(files: Path) -> None:
    np.savez(files / "test.npz", x=X[:90], y=Y[:90, 0])
    skops_io.dump(LogisticRegression().fit(X, Y[:, 0]), files / "m.skops")
    with pytest.raises(InputError, match="--label reads one of several columns"):
        ExperimentSpec(victim=str(files / "m.skops"), test=str(files / "test.npz"), label="0").load()


def test_one_label_is_audited_end_to_end(files: Path) -> None:
    words = ["--label", "1", "--attacks", "equation_solving", "--defenses", "rounding(decimals=1)", "--budget", "30"]
    where = ["--test", str(files / "test.npz"), "--pool", str(files / "pool.npz"), "--out", str(files / "out")]
    victim = ["--victim", "bench.test_label:sigmoids", "--seeds", "1", "--jobs", "0", "--json"]
    ran = CliRunner().invoke(app, ["audit", *victim, *words, *where])
    assert ran.exit_code == 0, ran.output
    rows = {(r["attack"], r["defense"]): r for r in json.loads(ran.stdout)["rows"]}
    assert rows["equation_solving", "none"]["measures"]["agreement"][0] == 1.0
    assert rows["own_labels", "none"]["measures"]["agreement"][0] > 0.8
