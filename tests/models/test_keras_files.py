"""Keras 3 files and SavedModel folders, against their libraries' own predictions; TensorFlow's are marked slow."""

import importlib.util
import os
import sys
import types
import zipfile

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError
from portcullis_ml.models.load import load_model

SHAPE = (6, 6, 1)
X = np.random.default_rng(0).random((5, *SHAPE))

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries that are not ours


@pytest.fixture(scope="module")
def keras():
    if importlib.util.find_spec("tensorflow") is None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras")


def network(keras, units, activation):
    layers = keras.layers
    return keras.Sequential(
        [layers.Input(SHAPE), layers.Conv2D(3, 3), layers.Flatten(), layers.Dense(units, activation=activation)]
    )


@pytest.mark.parametrize(
    ("units", "activation", "reading"),
    [(3, "softmax", "probabilities"), (3, None, "logits"), (1, "sigmoid", "probabilities")],
)
def test_a_keras_file_answers_as_its_model(tmp_path, keras, monkeypatch, units, activation, reading):
    model = network(keras, units, activation)
    model.save(tmp_path / "m.keras")
    own = model.predict(X, verbose=0).astype(np.float64)
    p = np.exp(own) / np.exp(own).sum(axis=1, keepdims=True) if reading == "logits" else own
    p = np.hstack([1 - p, p]) if units == 1 else p
    held = types.ModuleType("own_keras")
    held.model = model
    monkeypatch.setitem(sys.modules, "own_keras", held)
    for spec in (str(tmp_path / "m.keras"), "own_keras:model"):
        taken = load_model(spec, input_shape=SHAPE, n_classes=2 if units == 1 else None)
        assert taken.reading == reading
        np.testing.assert_allclose(taken.scores(X), p, atol=1e-6)


def test_of_several_outputs_the_named_one_is_read(tmp_path, keras):
    one = network(keras, 4, "softmax")
    several = keras.Model(one.inputs, {"embedding": one.layers[1].output, "which": one.outputs[0]})
    several.save(tmp_path / "m.keras")
    taken = load_model(str(tmp_path / "m.keras"), input_shape=SHAPE, output="which")
    np.testing.assert_allclose(taken.scores(X), one.predict(X, verbose=0), atol=1e-6)


def test_whole_numbers_are_sent_where_words_are_looked_up(tmp_path, keras):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((4,), dtype="int32"),
            layers.Embedding(9, 2),
            layers.Flatten(),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.save(tmp_path / "m.keras")
    codes = np.random.default_rng(0).integers(0, 9, (5, 4))
    taken = load_model(str(tmp_path / "m.keras"), input_shape=(4,))
    np.testing.assert_allclose(taken.scores(codes + 0.3), model.predict(codes, verbose=0), atol=1e-6)


# what is refused


def test_a_lambda_is_not_run(tmp_path, keras):
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=r"holds code \(a lambda\).*name the model as module:object"):
        load_model(str(tmp_path / "m.keras"), input_shape=(3,))


def test_a_damaged_file_and_another_version_are_named(tmp_path, keras, monkeypatch):
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(InputError, match="made of Keras' own layers; it cannot be read"):
        load_model(str(tmp_path / "m.keras"), input_shape=SHAPE)
    monkeypatch.setattr(keras, "__version__", "3.8.0")
    with pytest.raises(InputError, match=r"not read by Keras 3\.8\.0, whose safe mode can be got round"):
        load_model(str(tmp_path / "m.keras"), input_shape=SHAPE)


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"\x89HDF\r\n")
    with pytest.raises(InputError, match=r"was expected to be a \.keras archive; it is none"):
        load_model(str(tmp_path / "m.keras"), input_shape=SHAPE)
    (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n")
    with pytest.raises(InputError, match=r"former format, whose reader runs code.*model\.save\('model\.keras'\)"):
        load_model(str(tmp_path / "m.h5"), input_shape=SHAPE)


@pytest.mark.parametrize("package", ["keras", "tensorflow"])
def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == package else found(name, *more)
    )
    if package == "keras":
        path = tmp_path / "m.keras"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
    else:
        path = tmp_path / "saved"
        path.mkdir()
        (path / "saved_model.pb").write_bytes(b"1")
    with pytest.raises(InputError, match=rf"{package}.* not installed\. Install it: pip install {package}"):
        load_model(str(path), input_shape=SHAPE)


# SavedModel


@pytest.fixture(scope="module")
def tensorflow():
    return pytest.importorskip("tensorflow")


@pytest.mark.slow
def test_a_saved_model_answers_as_its_signature(tmp_path, tensorflow, keras):
    model = network(keras, 3, None)
    model.export(tmp_path / "saved", verbose=False)
    own = model.predict(X, verbose=0).astype(np.float64)
    taken = load_model(str(tmp_path / "saved"), input_shape=SHAPE)
    assert taken.reading == "logits"
    np.testing.assert_allclose(taken.scores(X), np.exp(own) / np.exp(own).sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.slow
def test_a_saved_model_that_touches_files_is_not_run(tmp_path, tensorflow):
    tf = tensorflow

    class Writes(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def __call__(self, x):
            tf.io.write_file(str(tmp_path / "written"), "here")
            return tf.nn.softmax(x)

    tf.saved_model.save(Writes(), str(tmp_path / "saved"))
    with pytest.raises(InputError, match=r"touches files \(WriteFile\), and is not run"):
        load_model(str(tmp_path / "saved"), input_shape=(3,))
    assert not (tmp_path / "written").exists()


@pytest.mark.slow
def test_a_damaged_saved_model_is_named(tmp_path, tensorflow):
    (tmp_path / "saved_model.pb").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"was expected to be a SavedModel; TensorFlow .* cannot read it"):
        load_model(str(tmp_path), input_shape=(3,))
