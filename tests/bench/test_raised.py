"""What a victim's own code raises is one sentence with its last line, for every kind of victim, never a traceback."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from portcullis_ml.bench.raised import victims_own
from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import InputError

X = np.random.default_rng(0).uniform(size=(40, 3))
LINES = "a first line\nthe disk of weights is not mounted."
SAID = "the disk of weights is not mounted"


def function(x):
    raise RuntimeError(LINES)


def later(x):
    """Answers one row, and fails on more."""
    if len(x) > 1:
        raise KeyError("colour")
    return np.full((len(x), 2), 0.5)


def words(x):
    return [["yes"] * 2] * len(x)


class Estimator:
    n_features_in_, classes_ = 3, np.array([0, 1])

    def predict(self, x):
        raise ValueError(LINES)

    predict_proba = predict


class Model:
    input_shape, n_classes = (3,), 2

    def scores(self, x):
        raise RuntimeError(LINES)


estimator, model = Estimator(), Model()


def module() -> Any:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def forward(self, x):
            raise RuntimeError(LINES)

    return Net()


def inspect(tmp_path: Path, victim: str) -> Any:
    np.savez(tmp_path / "test.npz", x=X, y=np.arange(40) % 2)
    return CliRunner().invoke(app, ["inspect", "--victim", victim, "--test", str(tmp_path / "test.npz")])


@pytest.mark.parametrize("kind", ["function", "later", "words", "estimator", "model", "module", "broken file"])
def test_a_victim_that_raises_is_one_sentence(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = f"bench.test_raised:{kind}"
    if kind == "module":
        held = types.ModuleType("raising_module")
        held.net = module()  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, held.__name__, held)
        victim = "raising_module:net"
    if kind == "broken file":
        (tmp_path / "broken_victim.py").write_text("raise RuntimeError('the disk of weights is not mounted.')\n")
        monkeypatch.syspath_prepend(tmp_path)
        victim = "broken_victim:model"
    found = inspect(tmp_path, victim)
    assert found.exit_code == 2, found.output
    assert len(found.stderr.strip().splitlines()) == 1
    assert "first line" not in found.stderr
    said = {"later": "colour", "words": "could not convert"}.get(kind, SAID)
    assert said in found.stderr


def test_an_onnx_graph_that_refuses_a_row_is_one_sentence(tmp_path: Path) -> None:
    to_onnx = pytest.importorskip("skl2onnx").to_onnx
    from sklearn.linear_model import LogisticRegression

    wide = np.hstack([X, X])
    graph = to_onnx(LogisticRegression().fit(wide, np.arange(40) % 2), wide[:1].astype(np.float32))
    (tmp_path / "wide.onnx").write_bytes(graph.SerializeToString())
    found = inspect(tmp_path, str(tmp_path / "wide.onnx"))
    assert found.exit_code == 2, found.output
    assert len(found.stderr.strip().splitlines()) == 1


def test_an_endpoint_that_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTCULLIS_CACHE", str(tmp_path))
    found = inspect(tmp_path, "http://127.0.0.1:9")
    assert found.exit_code == 2, found.output
    assert len(found.stderr.strip().splitlines()) == 1


def test_a_mistake_of_our_own_stays_one() -> None:
    with pytest.raises(TypeError), victims_own("m:v"):
        np.bincount(np.array([0.5]))
    with pytest.raises(ZeroDivisionError), victims_own(None):
        1 / 0  # noqa: B018
    with pytest.raises(InputError, match="as it was"), victims_own("m:v"):
        raise InputError("as it was")
