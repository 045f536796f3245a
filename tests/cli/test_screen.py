"""`portcullis screen`: what it says of a model that somebody else trained, and what it refuses."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.types import Rows
from portcullis_ml.hidden_data import CATALOG

pytest.importorskip("torch")

from portcullis_ml.models.load import save_model
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.torch import TorchLearner

DIGITS = load_digits()
X, Y = DIGITS.images[:100] / 16, DIGITS.target[:100].astype(np.int64)
LEARNER = "network(network=mlp, epochs=5, batch=20, lr=3e-3, targets=labels)"
TORCH = TorchLearner(network="mlp", epochs=5, batch=20, lr=3e-3, targets="labels")
FORM = SklearnModel(LogisticRegression().fit(X.reshape(100, -1), Y), input_shape=(8, 8), n_classes=10)


def honest():
    return TORCH.fit(X, np.eye(10)[Y], rng=np.random.default_rng(1))


@pytest.fixture(autouse=True)
def _files(monkeypatch):
    monkeypatch.setitem(sys.modules, "toy_screen", sys.modules[__name__])
    np.savez("train.npz", x=X, y=Y)
    save_model(honest(), "honest.safetensors")


def call(model: str = "honest.safetensors", *more: object, learner: str = LEARNER, models: int = 8):
    words = ["screen", model, "--train", "train.npz", "--models", models, *(["--learner", learner] if learner else [])]
    return CliRunner().invoke(app, [str(w) for w in (*words, *more)])


def test_a_clean_model_is_not_accused_and_clean_models_are_trained_once(monkeypatch):
    result = call()
    assert result.exit_code == 0, result.output
    assert "Nothing in the model's weights and answers speaks against it." in result.output
    assert "Of 8 clean models, each beside the others, 0% [0, 37] are accused" in result.output
    assert "Assumed: --learner says how it was trained." in result.output
    assert "low bits that are encrypted" in result.output
    monkeypatch.setattr(TorchLearner, "fit", None)  # whoever trains now fails
    said = json.loads(call("honest.safetensors", "--json").stdout)
    assert not said["accused"]
    assert set(said["encodings"]) == set(CATALOG)
    assert said["encodings"]["signs"]["clean_accused"][0] == 0
    assert said["clean_models"] == 8


def test_hidden_bytes_are_named_by_their_encoding_unless_the_weights_were_rounded():
    payload = np.rint(255 * X).astype(np.uint8).ravel()
    encoding = CATALOG.build("low_bits(encrypted=False)")
    model = encoding.hide(TORCH, Rows(X, Y), payload, key=b"k", rng=np.random.default_rng(1))
    save_model(model, "hiding.safetensors")
    result = call("hiding.safetensors", "--json")
    assert result.exit_code == 3, result.output
    said = json.loads(result.stdout)
    assert said["headline"] == "The model was not trained as stated, or hides data: it shows signs of low_bits."
    assert said["encodings"]["low_bits"]["shown"]
    model.module.half().float()
    save_model(model, "rounded.safetensors")
    result = call("rounded.safetensors")
    assert result.exit_code == 0, result.output
    assert "were in half precision" in result.output


def flat():
    """A module that takes 64 columns, not pictures."""
    from torch import nn

    return nn.Linear(64, 10)


def logistic() -> SklearnModel:
    return FORM


@pytest.mark.parametrize(
    ("model", "changes", "sentence"),
    [
        ("toy_screen:logistic", {}, "A screen reads the weights of a PyTorch network; toy_screen:logistic is a "),
        ("honest.safetensors", {"models": 5}, "train at least 6 clean models"),
        ("honest.safetensors", {"learner": ""}, "got no --learner to train them with"),
        ("honest.safetensors", {"learner": "sklearn"}, "--learner was expected to train a PyTorch network"),
        ("honest.safetensors", {"learner": "network(network=digits_cnn, epochs=1)"}, "to have the model's matrices, 1"),
        (
            "toy_screen:flat",
            {},
            "toy_screen:flat() was expected to answer a row of (8, 8); it raised RuntimeError",
        ),
        ("absent.safetensors", {}, "There is no file absent.safetensors"),
    ],
)
def test_what_cannot_be_screened_is_refused_in_a_sentence(model, changes, sentence):
    result = call(model, **changes)
    assert result.exit_code == 2, result.output
    assert sentence in " ".join(result.output.split())


def test_training_rows_without_classes_are_refused():
    np.savez("train.npz", x=X)
    result = call()
    assert result.exit_code == 2
    assert "train.npz holds rows without y" in " ".join(result.output.split())
