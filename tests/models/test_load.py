"""Files from users: what is read, and what an untrusted or damaged one gets."""

import gzip
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from torch import nn

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Feature, Interface
from portcullis_ml.models.auto import AutoLearner
from portcullis_ml.models.function import FunctionModel
from portcullis_ml.models.load import load_model, save_model
from portcullis_ml.models.relu import ReluNetwork
from portcullis_ml.models.sklearn import SklearnLearner, SklearnModel
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.models.torch import TorchLearner, TorchModel

IRIS = load_iris()
X = IRIS.data
LOGISTIC = LogisticRegression(max_iter=1000).fit(X, IRIS.target)


class Detonates:
    """A pickle that would leave a trace if anybody read it."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.DETONATED = True",)


@pytest.fixture
def trap(monkeypatch):
    import builtins

    yield
    assert not hasattr(builtins, "DETONATED")


@pytest.fixture
def user_module(monkeypatch):
    module = types.ModuleType("user_code")
    module.logistic = LOGISTIC
    module.network = nn.Linear(4, 3)
    module.even = lambda x: np.full((len(x), 3), 1 / 3)
    module.make = lambda: SoftmaxRegression(np.eye(3), np.zeros(3))
    module.linear = lambda: nn.Linear(4, 3)
    module.sized = lambda input_shape, n_classes: nn.Linear(input_shape[0], n_classes)
    module.number = 3
    monkeypatch.setitem(sys.modules, "user_code", module)
    return module


# what is read


def test_surrogates_survive_the_disk(tmp_path):
    x, t = np.random.default_rng(0).random((40, 8, 8)), np.eye(10)[np.arange(40) % 10]
    learned = TorchLearner(network="digits_cnn", epochs=1).fit(x, t, rng=np.random.default_rng(0))
    simple = SklearnLearner().fit(x, np.eye(10)[np.arange(40) % 4], rng=np.random.default_rng(0))  # 4 of 10 classes
    exact = SoftmaxRegression(np.ones((10, 64)), np.arange(10.0), input_shape=(8, 8))
    rebuilt = ReluNetwork(*relu_weights(64, 5, 9), n_classes=10, input_shape=(8, 8))
    for model, suffix in ((learned, ".safetensors"), (simple, ".skops"), (exact, ".npz"), (rebuilt, ".npz")):
        path = save_model(model, tmp_path / "copy")
        assert path.suffix == suffix
        again = load_model(str(path), input_shape=(8, 8), n_classes=10)
        np.testing.assert_array_equal(again.scores(x), model.scores(x))
    assert load_model(str(tmp_path / "copy.safetensors")).input_shape == (8, 8)  # it says so itself


def relu_weights(d, h, k):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in ((h, d), (h,), (k, h), (k, d), (k,))]


def test_a_network_of_one_hidden_layer_that_gives_a_value_survives_the_disk(tmp_path):
    model = ReluNetwork(*relu_weights(4, 3, 1), n_classes=0)
    again = load_model(str(save_model(model, tmp_path / "value")))
    assert (again.n_classes, again.input_shape) == (0, (4,))
    np.testing.assert_array_equal(again.scores(X), model.scores(X))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"v": np.zeros((2, 7))}, r"got w \(3, 4\), b \(3,\), v \(2, 7\)"),
        ({"b": np.array([1, np.nan, 0])}, "needs finite w"),
        ({"w": np.zeros(4)}, r"needs finite w \(h, d\)"),
        ({"input_shape": np.array([5])}, r"an input_shape of \(5,\)"),
        ({"skip": None}, r"was expected to hold w, b and input_shape of a softmax regression, or v, skip"),
        ({"n_classes": np.array("three")}, "was expected to hold w, b"),
    ],
)
def test_an_npz_whose_arrays_do_not_fit_gets_a_sentence(tmp_path, change, said):
    names = ("w", "b", "v", "skip", "a")
    held = dict(zip(names, relu_weights(4, 3, 2), strict=True)) | {
        "n_classes": np.array(3),
        "input_shape": np.array([4]),
    }
    np.savez(tmp_path / "m.npz", **{k: v for k, v in (held | change).items() if v is not None})
    with pytest.raises(InputError, match=said):
        load_model(str(tmp_path / "m.npz"))


def test_weights_with_a_factory(tmp_path, user_module):
    from safetensors.torch import save_file

    path = tmp_path / "own.safetensors"
    save_file(user_module.network.state_dict(), path)
    expected = TorchModel(user_module.network, (4,), 3).scores(X)
    for factory in ("user_code:linear", "user_code:sized"):
        model = load_model(f"{path}@{factory}", input_shape=(4,), n_classes=3)
        np.testing.assert_array_equal(model.scores(X), expected)
    with pytest.raises(InputError, match=r"holds weights and does not say of what\. Write .*@module:factory"):
        load_model(str(path))
    with pytest.raises(InputError, match="do not fit the module that mlp makes"):
        load_model(f"{path}@mlp", input_shape=(4,), n_classes=3)


def test_a_skops_file_is_read(tmp_path):
    path = save_model(SklearnModel(LOGISTIC), tmp_path / "model.skops")
    np.testing.assert_array_equal(load_model(str(path)).scores(X), LOGISTIC.predict_proba(X))


def test_python_objects(user_module):
    assert isinstance(load_model("user_code:logistic"), SklearnModel)
    assert isinstance(load_model("user_code:network", input_shape=(4,), n_classes=3), TorchModel)
    assert isinstance(load_model("user_code:even", input_shape=(4,), n_classes=3), FunctionModel)
    assert isinstance(load_model("user_code:make"), SoftmaxRegression)
    user_module.ready = user_module.make()
    assert load_model("user_code:ready") is user_module.ready
    with pytest.raises(InputError, match="torch module and does not say its shape; give input_shape"):
        load_model("user_code:network")
    with pytest.raises(InputError, match=r"user_code:number was expected to be a Model, .* it is a int"):
        load_model("user_code:number")
    with pytest.raises(InputError, match="user_code has no 'absent'"):
        load_model("user_code:absent")
    with pytest.raises(InputError, match="there is no module 'no_such_module'"):
        load_model("no_such_module:thing")


def test_how_many_scores_a_function_or_a_module_gives_is_asked_of_it(user_module):
    user_module.amount = lambda x: x.sum(axis=1)
    user_module.broken = lambda x: x @ np.ones(7)
    user_module.flat = lambda x: np.ones((2, 3, 4))
    found = [load_model(f"user_code:{name}", input_shape=(4,)) for name in ("even", "network", "amount")]
    assert [m.n_classes for m in found] == [3, 3, 0]
    with pytest.raises(InputError, match=r"broken was expected to answer a row of \(4,\); it raised ValueError"):
        load_model("user_code:broken", input_shape=(4,))
    with pytest.raises(InputError, match="one row of scores for one row asked"):
        load_model("user_code:flat", input_shape=(4,))


# what is refused


@pytest.mark.parametrize("name", ["m.pkl", "m.pickle", "m.joblib", "m.pt", "m.pth", "m.ckpt", "m.bin", "M.PKL"])
def test_pickles_are_refused_by_name(tmp_path, trap, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Detonates()))
    with pytest.raises(InputError, match=r"is a pickle or may hide one, and is not read\. .*skops\.io\.dump"):
        load_model(str(path))


@pytest.mark.parametrize("suffix", [".onnx", ".skops", ".npz"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_pickles_are_refused_by_content(tmp_path, trap, suffix, protocol):
    path = tmp_path / f"renamed{suffix}"
    path.write_bytes(pickle.dumps(Detonates(), protocol=protocol))
    with pytest.raises(InputError, match="is a pickle under another name, and is not read"):
        load_model(str(path))


def test_a_torch_archive_under_another_name_is_refused(tmp_path, trap):
    path = tmp_path / "renamed.skops"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(InputError, match="holds a pickle"):
        load_model(str(path))


def test_pickles_that_no_head_betrays_are_not_read_either(tmp_path, trap):
    for suffix in (".onnx", ".skops", ".npz", ".safetensors"):
        path = tmp_path / f"old{suffix}"
        path.write_bytes(pickle.dumps(Detonates(), protocol=0))
        with pytest.raises(InputError, match="was expected to"):
            load_model(str(path))
        path.write_bytes(gzip.compress(pickle.dumps(Detonates())))
        with pytest.raises(InputError, match="was expected to"):
            load_model(str(path))


def test_an_npz_of_objects_is_refused(tmp_path, trap):
    path = tmp_path / "objects.npz"
    np.savez(path, w=np.array([Detonates()], object), b=np.zeros(2), input_shape=np.array([1]))
    with pytest.raises(InputError, match="was expected to hold w, b and input_shape"):
        load_model(str(path))


def test_a_skops_file_of_unknown_types_is_refused(tmp_path):
    import skops.io

    path = tmp_path / "odd.skops"
    skops.io.dump(Odd(), path)
    with pytest.raises(InputError, match=r"needs .*Odd, which skops does not trust"):
        load_model(str(path))


class Odd:
    n_features_in_ = 4

    def predict(self, x):
        return x[:, 0]


def test_damaged_files_get_a_sentence(tmp_path):
    whole = {
        ".safetensors": save_model(
            TorchLearner(network="mlp", epochs=1).fit(X, np.eye(3)[IRIS.target], rng=np.random.default_rng(0)),
            tmp_path / "a",
        ),
        ".skops": save_model(SklearnModel(LOGISTIC), tmp_path / "a"),
        ".npz": save_model(SoftmaxRegression(np.eye(3), np.zeros(3)), tmp_path / "a"),
    }
    from skl2onnx import to_onnx

    whole[".onnx"] = tmp_path / "a.onnx"
    whole[".onnx"].write_bytes(to_onnx(LOGISTIC, X[:1].astype(np.float32)).SerializeToString())
    for suffix, path in whole.items():
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=r"was expected to hold|was expected to be") as caught:
            load_model(str(cut))
        assert "\n" not in str(caught.value)


def test_absent_empty_and_oversized_files_get_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"There is no file absent\.onnx"):
        load_model("absent.onnx")
    empty = tmp_path / "empty.onnx"
    empty.touch()
    with pytest.raises(InputError, match="expected to hold a model; it is empty"):
        load_model(str(empty))
    large = tmp_path / "large.onnx"
    large.write_bytes(b"x" * 101)
    with pytest.raises(InputError, match="has 101 bytes; at most 100 are read"):
        load_model(str(large), limit=100)


def test_other_names_and_other_models_get_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"'model\.other' was expected to be FILE\.onnx, FILE\.skops"):
        load_model("model.other")
    with pytest.raises(InputError, match="can be saved; got FunctionModel"):
        save_model(FunctionModel(len, (1,), 2), tmp_path / "m")


@pytest.mark.parametrize("family", ["boosted", "network", "forest", "linear", "kernel"])
@pytest.mark.parametrize("hard", [False, True])
def test_a_copy_that_auto_fitted_is_written_and_read_again(tmp_path, family, hard):
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.random((120, 3)), rng.integers(3, size=120)])
    targets = np.column_stack([x[:, 0], 1 - x[:, 0]])
    api = Interface(
        input_shape=(4,), n_classes=2, features=(*(Feature(n, 0, 1) for n in "abc"), Feature("d", values="xyz"))
    )
    learner = AutoLearner(families=(family,)).knowing(api)
    model = learner.fit(x, np.eye(2)[targets.argmax(axis=1)] if hard else targets, rng=rng)
    again = load_model(str(save_model(model, tmp_path / "copy")), input_shape=(4,))
    np.testing.assert_array_equal(again.scores(x), model.scores(x))
