"""Models of text in files: what is written is read again, and what is no such file is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError
from portcullis_ml.models.sequences import Characters, FromFunction, SequenceModel

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from portcullis_ml.models.characters import CharacterLearner, CharacterModel  # noqa: E402
from portcullis_ml.models.learners import TEXT_LEARNERS, learner_named  # noqa: E402
from portcullis_ml.models.text_files import KIND, load_text_model, save_text_model  # noqa: E402

TEXT = ["the king is dead", "long live the king", "what news from the house"] * 4
NETWORKS = {"gru": 2, "transformer": 2}


def learnt(network: str) -> CharacterModel:
    learner = CharacterLearner(network=network, units=8, layers=2, window=12, batch=4, epochs=1)  # type: ignore[arg-type]
    return learner.fit(TEXT, rng=np.random.default_rng(0))


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_a_model_in_a_file_answers_as_it_did(network: str, tmp_path: Path) -> None:
    model = learnt(network)
    path = save_text_model(model, tmp_path / "model")
    assert path.name == "model.safetensors"
    found = load_text_model(str(path))
    assert isinstance(found, CharacterModel)
    assert (found.tokenizer, found.window, found.recurrent) == (model.tokenizer, 12, network == "gru")
    rows = np.random.default_rng(1).integers(model.tokenizer.size, size=(3, 9))
    assert np.array_equal(found.log_probs(rows), model.log_probs(rows))


def rewritten(path: Path, tensors: dict | None = None, **about: object) -> str:
    """The file at `path` with other weights, or with another header."""
    header = {"network": "gru", "alphabet": "".join(sorted(set("".join(TEXT)))), "window": 12} | about
    save_file({**load_file(path), **(tensors or {})}, path, {KIND: json.dumps(header)})
    return str(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"alphabet": "ab"}, "they do not fit it"),
        ({"window": "wide"}, "they do not fit it"),
        ({"network": "transformer"}, "they do not fit it"),
        ({"network": "os"}, "they do not fit it"),
        ({"tensors": {"head.bias": torch.full((3,), float("nan"))}}, "expected to be finite numbers"),
        ({"tensors": {"embedding.weight": torch.zeros(17, 1_000)}}, "they do not fit it"),
        ({"tensors": {f"gru.weight_ih_l{i}": torch.zeros(1) for i in range(99)}}, "they do not fit it"),
    ],
)
def test_weights_that_do_not_fit_their_header_are_refused(change: dict, sentence: str, tmp_path: Path) -> None:
    path = save_text_model(learnt("gru"), tmp_path / "model")
    with pytest.raises(InputError, match=sentence):
        load_text_model(rewritten(path, **change))


def test_files_of_another_kind_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"w": torch.zeros(2)}, "other.safetensors")
    Path("cut.safetensors").write_bytes(b"not safetensors")
    torch.save({"w": torch.zeros(2)}, "model.pt")
    for name, sentence in (
        ("other.safetensors", "it holds weights of another kind"),
        ("cut.safetensors", "may be cut short"),
        ("model.pt", "holds a pickle"),
        ("nothing.safetensors", "There is no file nothing.safetensors"),
        ("nothing", "module:object; got 'nothing'"),
    ):
        with pytest.raises(InputError, match=sentence):
            load_text_model(name)


def test_a_folder_needs_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match="needs transformers, which is not installed"):
        load_text_model(str(tmp_path))


def uneven(contexts: np.ndarray) -> np.ndarray:
    return np.full((len(contexts), 3), -1.0)  # sums to more than 1


def made() -> FromFunction:
    return FromFunction(lambda contexts: np.full((len(contexts), 3), -np.log(3)), Characters("ab"))


def test_an_object_is_a_model_or_makes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = SimpleNamespace(made=made, model=made(), number=3, uneven=uneven)
    objects.wrong = SimpleNamespace(log_probs=uneven, tokenizer=Characters("ab"))
    monkeypatch.setitem(sys.modules, "toys_of_text", objects)  # type: ignore[arg-type]
    for name in ("made", "model"):
        assert isinstance(load_text_model(f"toys_of_text:{name}"), SequenceModel)
    with pytest.raises(InputError, match="a int does not"):
        load_text_model("toys_of_text:number")
    with pytest.raises(InputError, match="make one without arguments"):
        load_text_model("toys_of_text:uneven")
    with pytest.raises(InputError, match=r"sum to 1\.104 and not to 1"):
        load_text_model("toys_of_text:wrong").log_probs(np.zeros((1, 2), np.int64))


def test_learners_of_text_have_names() -> None:
    assert learner_named("transformer(units=8)", catalog=TEXT_LEARNERS) == CharacterLearner(
        network="transformer", units=8, layers=2
    )
    assert learner_named("gru", "cuda", catalog=TEXT_LEARNERS).device == "cuda"
    assert learner_named("private_characters(epsilon=2.0)", catalog=TEXT_LEARNERS).epsilon == 2
