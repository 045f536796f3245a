"""TorchScript and torch.export files: what they answer, and what is refused before anything of theirs runs."""

import io
import json
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from portcullis_ml.core.errors import InputError
from portcullis_ml.models.load import load_model
from portcullis_ml.models.torch import TorchModel

SHAPE = (2, 6, 6)  # channels first
X = np.random.default_rng(0).random((5, *SHAPE))

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Detonates:
    """A pickle that would leave a trace if anybody read it."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.DETONATED = True",)


@pytest.fixture(autouse=True)
def trap():
    import builtins

    yield
    assert not hasattr(builtins, "DETONATED")


def network(classes: int, *more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, classes), *more).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A file of torch.export that takes any number of rows."""
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    module = network(4)
    rows = torch.zeros(3, *SHAPE)
    torch.export.save(torch.export.export(module, (rows,), dynamic_shapes=({0: torch.export.Dim("batch")},)), path)
    return path, module


@pytest.mark.parametrize(
    ("classes", "end", "reading"),
    [(4, (), "logits"), (4, (nn.Softmax(1),), "probabilities"), (1, (nn.Sigmoid(),), "probabilities")],
)
@pytest.mark.parametrize("way", ["trace", "script"])
def test_torchscript_answers_as_its_module(tmp_path, way, classes, end, reading):
    module = network(classes, *end)
    made = torch.jit.script(module) if way == "script" else torch.jit.trace(module, torch.zeros(2, *SHAPE))
    made.save(str(tmp_path / "m.pt"))
    model = load_model(str(tmp_path / "m.pt"), input_shape=SHAPE, n_classes=2 if classes == 1 else None)
    expected = TorchModel(module, SHAPE, max(classes, 2), reading=reading).scores(X)
    assert (model.reading, model.n_classes) == (reading, max(classes, 2))
    np.testing.assert_allclose(model.scores(X), expected, atol=1e-6)


def test_an_exported_program_answers_as_its_module_in_any_number(exported):
    path, module = exported
    model = load_model(str(path), input_shape=SHAPE)
    expected = TorchModel(module, SHAPE, 4).scores(X)
    assert model.reading == "logits"
    for n in (1, 2, 5):
        np.testing.assert_allclose(model.scores(X[:n]), expected[:n], atol=1e-6)


def test_an_exported_program_of_a_fixed_batch_is_filled_up_and_cut(tmp_path):
    module = network(4).double()
    rows = torch.zeros(3, *SHAPE, dtype=torch.float64)
    torch.export.save(torch.export.export(module, (rows,)), tmp_path / "m.pt2")
    model = load_model(str(tmp_path / "m.pt2"), input_shape=SHAPE)
    assert model.dtype == torch.float64
    expected = TorchModel(module, SHAPE, 4, dtype=torch.float64).scores(X)
    for n in (1, 3, 5):
        np.testing.assert_allclose(model.scores(X[:n]), expected[:n], atol=1e-12)


def test_a_program_named_as_an_object_is_taken(exported, monkeypatch):
    held = types.ModuleType("own_program")
    held.model = torch.export.load(exported[0]).module()
    monkeypatch.setitem(sys.modules, "own_program", held)
    model = load_model("own_program:model", input_shape=SHAPE)
    np.testing.assert_allclose(model.scores(X), TorchModel(exported[1], SHAPE, 4).scores(X), atol=1e-6)


def test_softmax_says_that_one_column_is_a_logit(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(72, 1), nn.Sigmoid())
    torch.jit.script(module).save(str(tmp_path / "m.pt"))
    said = load_model(str(tmp_path / "m.pt"), input_shape=SHAPE, n_classes=2, softmax=True)
    z = module(torch.tensor(X, dtype=torch.float32)).detach().numpy()[:, 0]
    np.testing.assert_allclose(said.scores(X)[:, 1], 1 / (1 + np.exp(-z)), atol=1e-6)


# what is refused


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.pt2", "m.ts"])
def test_a_plain_pickle_is_refused_with_the_right_way(tmp_path, name):
    torch.save(Detonates(), tmp_path / name)
    expected = "torch.export.save" if name == "m.pt2" else r"torch\.jit\.script\(module\)\.save|was expected to be FILE"
    with pytest.raises(InputError, match=expected):
        load_model(str(tmp_path / name), input_shape=SHAPE)


@pytest.mark.parametrize("inner", ["data.pkl", "constants.pkl"])
def test_torchscript_does_not_unpickle_what_is_not_its_own(tmp_path, inner):
    torch.jit.script(network(4)).save(str(tmp_path / "good.pt"))
    rewrite(tmp_path / "good.pt", tmp_path / "bad.pt", lambda n, b: pickle.dumps(Detonates(), 2) if n == inner else b)
    with pytest.raises(InputError, match=r"was expected to hold TorchScript; PyTorch .* cannot read it"):
        load_model(str(tmp_path / "bad.pt"), input_shape=SHAPE)


class Writes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "written.bin")
        return x


def test_torchscript_that_writes_files_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Writes()).save("m.pt")
    with pytest.raises(InputError, match=r"reads or writes files \(torch.save\), and is not run"):
        load_model("m.pt", input_shape=SHAPE)
    assert not (tmp_path / "written.bin").exists()


def with_operator(document, name):
    document["graph_module"]["graph"]["nodes"][0]["target"] = name


def with_expression(document, text):
    size = document["graph_module"]["graph"]["tensor_values"]["input"]["sizes"][0]
    size["as_expr"]["expr_str"] = text


BREAK = "exec('import builtins; builtins.DETONATED = True')"
FORGED = {
    "a function of Python": ("models/model.json", lambda d: with_operator(d, "torch.os.system"), "the operator"),
    "an operator of files": (
        "models/model.json",
        lambda d: with_operator(d, "torch.ops.aten.from_file.default"),
        "the op",
    ),
    "an extension": ("models/model.json", lambda d: with_operator(d, "#mine:op"), "the operator"),
    "code for a size": ("models/model.json", lambda d: with_expression(d, BREAK), "the expression"),
    "code of numbers": ("models/model.json", lambda d: with_expression(d, "exec(chr(49)+chr(43))"), "the expression"),
    "an attribute": ("models/model.json", lambda d: with_expression(d, "s0.__class__"), "the expression"),
    "a pickled weight": (
        "data/weights/model_weights_config.json",
        lambda d: next(iter(d["config"].values())).update(use_pickle=True),
        "a pickle",
    ),
    "a pickled object": (
        "data/constants/model_constants_config.json",
        lambda d: d["config"].update(x={"path_name": "opaque_obj_0", "use_pickle": False}),
        "an object of Python",
    ),
}


@pytest.mark.parametrize("kind", list(FORGED))
def test_a_forged_program_is_refused_before_it_is_read(tmp_path, exported, monkeypatch, kind):
    name, change, why = FORGED[kind]

    def changed(inner, data):
        if inner != name:
            return data
        document = json.loads(data)
        change(document)
        return json.dumps(document).encode()

    rewrite(exported[0], tmp_path / "bad.pt2", changed)
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("it was read"))
    with pytest.raises(InputError, match=f"holds {why}.*and is not read"):
        load_model(str(tmp_path / "bad.pt2"), input_shape=SHAPE)


@pytest.mark.parametrize("inner", ["data/sample_inputs/model.pt", "data/weights/model.pt"])
def test_a_pickle_inside_a_program_is_refused(tmp_path, exported, monkeypatch, inner):
    held = io.BytesIO()
    torch.save((Detonates(),), held)
    rewrite(
        exported[0],
        tmp_path / "bad.pt2",
        lambda n, b: held.getvalue() if n == inner else b,
        extra={inner: held.getvalue()},
    )
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("it was read"))
    with pytest.raises(InputError, match="holds a pickle"):
        load_model(str(tmp_path / "bad.pt2"), input_shape=SHAPE)


def test_a_program_that_is_cut_short_or_empty_is_named(tmp_path, exported):
    (tmp_path / "cut.pt2").write_bytes(exported[0].read_bytes()[:500])
    with pytest.raises(InputError, match=r"cut\.pt2 was expected to be an archive of torch\.export"):
        load_model(str(tmp_path / "cut.pt2"), input_shape=SHAPE)
    (tmp_path / "none.pt2").touch()
    with pytest.raises(InputError, match="it is empty"):
        load_model(str(tmp_path / "none.pt2"), input_shape=SHAPE)
    with pytest.raises(InputError, match="There is no file"):
        load_model(str(tmp_path / "absent.pt2"), input_shape=SHAPE)


def rewrite(source, target, change, extra=None):
    """The same archive with some entries changed, and others added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        names = old.namelist()
        top = names[0].partition("/")[0]
        for name in names:
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
        for inner, data in (extra or {}).items():
            if f"{top}/{inner}" not in names:
                new.writestr(f"{top}/{inner}", data)
