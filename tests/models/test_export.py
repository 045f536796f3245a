"""Models as files: their own format, and an ONNX file that answers alike or is not written."""

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError
from portcullis_ml.models.export import model_files
from portcullis_ml.models.function import FunctionModel
from portcullis_ml.models.load import load_model, model_folder
from portcullis_ml.models.onnx import OnnxModel
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.models.torch import TorchLearner

X = np.random.default_rng(0).random((60, 2, 3))
TARGETS = np.eye(3)[np.arange(60) % 3]


@pytest.mark.parametrize("learner", [TorchLearner(network="mlp", epochs=2), SklearnLearner()])
def test_both_files_answer_as_the_model_does(learner, tmp_path):
    model = learner.fit(X, TARGETS, rng=np.random.default_rng(1))
    files, sentence = model_files(model, X)
    assert sorted(files) == ["model.onnx", f"model{learner.suffix}"]
    assert "within" in sentence
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    np.testing.assert_allclose(load_model(str(tmp_path), input_shape=(2, 3)).scores(X), model.scores(X), atol=1e-12)
    asked = X if learner.suffix == ".safetensors" else X.reshape(60, 6)
    np.testing.assert_allclose(OnnxModel(files["model.onnx"]).scores(asked), model.scores(X), atol=1e-4)


def test_an_onnx_file_that_answers_otherwise_is_not_written(monkeypatch):
    model = TorchLearner(network="mlp", epochs=1).fit(X, TARGETS, rng=np.random.default_rng(1))
    monkeypatch.setattr("portcullis_ml.models.onnx.OnnxModel.scores", lambda self, x: np.full((len(x), 3), 1 / 3))
    files, sentence = model_files(model, X)
    assert list(files) == ["model.safetensors"]
    assert sentence.startswith("There is no ONNX file: its probabilities differ by up to")


def test_where_a_library_is_absent_the_onnx_file_is_left_out(monkeypatch):
    model = SklearnLearner().fit(X, TARGETS, rng=np.random.default_rng(1))
    monkeypatch.setitem(__import__("sys").modules, "skl2onnx", None)
    files, sentence = model_files(model, X)
    assert list(files) == ["model.skops"]
    assert sentence.startswith("There is no ONNX file: ModuleNotFoundError")


def test_a_model_without_a_format_and_a_folder_without_a_model_are_refused(tmp_path):
    with pytest.raises(InputError, match="can be saved; got FunctionModel"):
        model_files(FunctionModel(lambda x: x, (3,), 3), X)
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match=r"was expected to hold one of model\.safetensors"):
        load_model(str(tmp_path))
    assert model_folder("app:model") is None
    with pytest.raises(InputError, match="the SHA-256 000000000000"):
        load_model(f"{tmp_path}@sha256:{'0' * 64}")
