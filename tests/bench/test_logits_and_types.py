"""Logits that only --softmax tells, and inputs of every type: the same answers from every kind of victim."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import InputError
from portcullis_ml.models.load import load_model

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

W = np.array([[1.0, -1, 2], [0.5, 2, -1], [-2, 0, 1], [1, 1, -1]])
X = np.random.default_rng(0).integers(0, 6, size=(120, 4)).astype(float)
Y = (X @ W).argmax(axis=1)
P = np.exp(X @ W) / np.exp(X @ W).sum(axis=1, keepdims=True)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    np.savez(tmp_path / "t.npz", x=X, y=Y)
    return str(tmp_path / "t.npz")


class Linear(torch.nn.Module):
    """x W in the type given, whatever type the rows have."""

    def __init__(self, dtype: Any, takes: Any) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(W, dtype=dtype))
        self.takes_only = takes

    def forward(self, x: Any) -> Any:
        if x.dtype != self.takes_only:
            raise TypeError(f"{self.takes_only} was expected, got {x.dtype}")
        return x.to(self.w.dtype) @ self.w


def graph(folder: Path, kind: int, softmax: bool) -> str:
    """An ONNX graph of x W that takes rows of this type."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["z"]),
    ]
    nodes += [helper.make_node("Softmax", ["z"], ["p"], axis=1)] if softmax else []
    given = helper.make_tensor_value_info("x", kind, [None, 4])
    found = helper.make_tensor_value_info("p" if softmax else "z", TensorProto.FLOAT, [None, 3])
    weights = numpy_helper.from_array(W.astype(np.float32), "w")
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], [found], [weights]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    onnx.save(model, folder / "m.onnx")
    return str(folder / "m.onnx")


def victim(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A victim of that kind that gives the logits x W."""
    if kind == "onnx":
        return graph(folder, TensorProto.FLOAT, softmax=False)
    module = torch.nn.Linear(4, 3, bias=False)
    module.weight.data = torch.tensor(W.T, dtype=torch.float32)
    if kind == "torchscript":
        torch.jit.trace(module, torch.zeros(2, 4)).save(str(folder / "m.pt"))
        return str(folder / "m.pt")
    held = types.ModuleType(f"logits_of_{kind}")
    held.v = module if kind == "module" else lambda x: x @ W  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, held.__name__, held)
    return f"{held.__name__}:v"


def load(spec: str, test: str, **more: Any) -> Experiment:
    return ExperimentSpec(victim=spec, test=test, **more).load()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["onnx", "torchscript", "module", "function"])
def test_softmax_turns_logits_into_probabilities(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str
) -> None:
    experiment = load(victim(kind, tmp_path, monkeypatch), rows, softmax=True)
    np.testing.assert_allclose(experiment.model.scores(experiment.test_x), P, atol=1e-6)


@pytest.mark.parametrize("kind", ["onnx", "function"])
def test_logits_without_it_are_refused_by_the_options_name(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str
) -> None:
    spec = victim(kind, tmp_path, monkeypatch)
    found = CliRunner().invoke(app, ["inspect", "--victim", spec, "--test", rows])
    assert found.exit_code == 2
    assert "say --softmax" in " ".join(found.output.split())
    assert CliRunner().invoke(app, ["inspect", "--victim", spec, "--test", rows, "--softmax"]).exit_code == 0


def test_a_function_of_probabilities_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, rows: str) -> None:
    held = types.ModuleType("sure")
    held.v = lambda x: np.exp(x @ W) / np.exp(x @ W).sum(axis=1, keepdims=True)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sure", held)
    experiment = load("sure:v", rows, softmax=True)
    np.testing.assert_allclose(experiment.model.scores(experiment.test_x), P)
    assert any("--softmax was not needed" in note for note in experiment.notes)


KINDS = {
    "float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE,
    "uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "uint16": TensorProto.UINT16, "int16": TensorProto.INT16,
    "int32": TensorProto.INT32, "int64": TensorProto.INT64, "bool": TensorProto.BOOL,
}  # fmt: skip
NUMBERS = [name for name in KINDS if name != "bool"]


@pytest.mark.parametrize("dtype", NUMBERS)
def test_an_onnx_graph_gets_rows_of_its_type(dtype: str, tmp_path: Path, rows: str) -> None:
    experiment = load(graph(tmp_path, KINDS[dtype], softmax=True), rows)
    np.testing.assert_allclose(experiment.model.scores(experiment.test_x), P, atol=1e-6)


def test_a_type_that_holds_no_numbers_is_named(tmp_path: Path, rows: str) -> None:
    with pytest.raises(InputError, match=r"take one tensor of numbers; this one takes x tensor\(bool\)"):
        load(graph(tmp_path, KINDS["bool"], softmax=True), rows)


@pytest.mark.parametrize("weights", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("takes", ["float64", "float32", "float16", "bfloat16", "uint8", "int64", "int32"])
def test_a_torch_module_gets_rows_of_its_type(
    weights: str, takes: str, monkeypatch: pytest.MonkeyPatch, rows: str
) -> None:
    held = types.ModuleType("typed")
    held.v = Linear(getattr(torch, weights), getattr(torch, takes))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "typed", held)
    experiment = load("typed:v", rows)
    assert experiment.model.dtype == getattr(torch, takes)  # type: ignore[attr-defined]
    exact = weights in ("float64", "float32")  # small whole numbers are exact in all types, their products are here too
    np.testing.assert_allclose(experiment.model.scores(experiment.test_x), P, atol=1e-6 if exact else 0.02)


def test_values_between_whole_numbers_go_to_the_nearest(tmp_path: Path) -> None:
    model = load_model(graph(tmp_path, TensorProto.UINT8, softmax=True), input_shape=(4,))
    np.testing.assert_allclose(model.scores(X + 0.4), P, atol=1e-6)
    np.testing.assert_allclose(model.scores(X - 0.4), P, atol=1e-6)
    np.testing.assert_array_equal(model.scores(np.full((1, 4), 300.0)), model.scores(np.full((1, 4), 255.0)))
    np.testing.assert_array_equal(model.scores(np.full((1, 4), -3.0)), model.scores(np.zeros((1, 4))))


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "module", "function"])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_table_of_two_labels_does_not_make_a_victim_of_three_classes_binary(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Y < 2
    lines = [",".join(map(str, [*x, f"c{y}"])) for x, y in zip(X[own], Y[own], strict=True)]
    (tmp_path / "t.csv").write_text("a,b,c,d,label\n" + "\n".join(lines) + "\n")
    spec = victim(kind, tmp_path, monkeypatch)
    experiment = load(spec, str(tmp_path / "t.csv"), target="label", softmax=True, classes="c0,c1,c2")
    assert experiment.interface.n_classes == 3
    z = experiment.test_x @ W
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(experiment.model.scores(experiment.test_x), expected, atol=1e-6)


def test_options_that_messages_name_exist() -> None:
    """Every --option in the code that reads and judges victims is one of `portcullis inspect` or `audit`."""
    import typer

    source = Path(sys.modules["portcullis_ml.models.load"].__file__ or "").parents[1]
    files = [*source.glob("models/*.py"), *(source / "bench" / f"{n}.py" for n in ("brought", "labels", "rows"))]
    group = typer.main.get_command(app)
    known = {o for verb in ("inspect", "audit") for p in group.commands[verb].params for o in p.opts}  # type: ignore[attr-defined]
    others = {"--saved-model", "--output"}  # of a converter that a sentence names
    for path in files:
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", path.read_text()):
            assert option in known | others, f"{path.name}: {option}"


def test_pixels_are_not_scaled_by_what_a_constant_gets_right_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was never trained agrees a little better by chance when its pixels go to 255."""
    x = np.random.default_rng(0).integers(0, 256, (200, 6, 6), dtype=np.uint8)
    y = np.repeat([0, 1, 2, 3], 50)
    np.savez(tmp_path / "t.npz", x=x, y=y)
    held = types.ModuleType("untrained")

    def ask(rows: Any) -> Any:
        """Class 0 for pixels of 0 to 255, right for a quarter; for those of 0 to 1 always wrong."""
        classes = np.zeros(len(rows), int) if rows.max() > 1 else np.resize((y + 1) % 4, len(rows))
        sure = 0.7 + 0.2 * rows[:, :1, 0] / max(rows.max(), 1e-9)
        return sure * np.eye(4)[classes] + (1 - sure) / 4

    held.v = ask  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "untrained", held)
    assert not any("Pixels go into" in note for note in load("untrained:v", str(tmp_path / "t.npz")).notes)
