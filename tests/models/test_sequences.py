"""Models of text: fast ways beside asking about every beginning, and what is no model of text."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError
from portcullis_ml.models.sequences import Characters, FromFunction, draw_tokens, sample, token_log_probs

torch = pytest.importorskip("torch")

from portcullis_ml.models.causal import CausalModel  # noqa: E402
from portcullis_ml.models.characters import CharacterLearner, CharacterModel  # noqa: E402

TEXT = ["the king is dead", "long live the king", "what news from the house"] * 4


def learnt(network: str = "gru") -> CharacterModel:
    learner = CharacterLearner(network=network, units=16, window=12, batch=4, epochs=2)  # type: ignore[arg-type]
    return learner.fit(TEXT, rng=np.random.default_rng(0))


def plainly(model: CharacterModel) -> FromFunction:
    """The same model, which can be asked about contexts only."""
    return FromFunction(model.log_probs, model.tokenizer)


@pytest.mark.parametrize("network", ["gru", "transformer"])
def test_a_sequence_in_one_pass_is_every_beginning_asked_about(network: str) -> None:
    model = learnt(network)
    rows = np.random.default_rng(1).integers(model.tokenizer.size, size=(3, 17))  # longer than the window
    assert token_log_probs(model, rows, 2) == pytest.approx(token_log_probs(plainly(model), rows, 2), abs=1e-5)
    assert token_log_probs(model, rows).shape == (3, 17)


@pytest.mark.parametrize("network", ["gru", "transformer"])
@pytest.mark.parametrize("given", [0, 4, 14])  # 14 are more than the window
def test_samples_are_those_of_contexts_that_grow(network: str, given: int) -> None:
    model = learnt(network)
    prompts = np.random.default_rng(1).integers(model.tokenizer.size, size=(5, given))
    draws = [sample(m, prompts, 15, rng=np.random.default_rng(2), top=8) for m in (model, plainly(model))]
    assert draws[0].tolist() == draws[1].tolist()


def test_drawing_is_the_plain_loop() -> None:
    rng = np.random.default_rng(0)
    log_probs = np.log(rng.dirichlet(np.ones(6), 40))
    chance = rng.random(40)
    for top, temperature in ((None, 1.0), (3, 1.0), (None, 4.0), (9, 0.5)):
        plain = []
        for row, u in zip(log_probs, chance, strict=True):
            order = np.argsort(-row)[: top or 6]
            weights = {j: np.exp(row[j] / temperature) for j in sorted(order)}
            left = u * sum(weights.values())
            for weight in weights.values():
                left -= weight
                if left < 0:
                    break
            plain.append(next(j for j, w in weights.items() if w == weight))
        assert draw_tokens(log_probs, chance, top=top, temperature=temperature).tolist() == plain


def test_the_same_generator_trains_the_same_network() -> None:
    context = np.zeros((1, 3), np.int64)
    torch.manual_seed(5)
    one = learnt().log_probs(context)
    torch.manual_seed(6)
    assert np.array_equal(one, learnt().log_probs(context))


@pytest.mark.parametrize("documents", [[], [""], ["", ""]])
def test_no_text_cannot_be_learnt(documents: list[str]) -> None:
    with pytest.raises(InputError, match="expected to be trained on text; what was given is empty"):
        CharacterLearner().fit(documents, rng=np.random.default_rng(0))


def test_text_shorter_than_a_window_cannot_be_learnt() -> None:
    with pytest.raises(InputError, match="at least 65 characters; got 4"):
        CharacterLearner().fit(["abc"], rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (np.zeros((2, 2)), r"log-probabilities \(2, 3\); it gave \(2, 2\)"),
        (np.full((2, 3), 1 / 3), r"sum to 4\.187 and not to 1"),
        (np.full((2, 3), np.nan), "sum to nan"),
    ],
)
def test_what_are_no_log_probabilities_is_refused(answer: np.ndarray, match: str) -> None:
    with pytest.raises(InputError, match=match):
        FromFunction(lambda contexts: answer, Characters("ab")).log_probs(np.zeros((2, 1), np.int64))


def test_a_character_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(InputError, match="it has '7'"):
        Characters("ab").encode("ab7")
    assert Characters("ab").decode(np.array([1, 0, 2])) == "a\n\nb"


def test_lower_case_keeps_what_has_none_and_what_the_model_does_not_know() -> None:
    tokenizer = Characters("AaB1")
    assert tokenizer.decode(tokenizer.lower(tokenizer.encode("AaB1"))) == "aaB1"
    assert tokenizer.lower(np.array([[0, 1]])).tolist() == [[0, 2]]


class Causal(torch.nn.Module):
    """Looks like a causal model of `transformers`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = learnt().module

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.inner(input_ids)[0])


def test_a_causal_model_is_asked_like_any_other() -> None:
    own = learnt()
    tokenizer = SimpleNamespace(
        bos_token_id=0, eos_token_id=None, decode=lambda t: own.tokenizer.decode(np.array(t)),
        encode=lambda text, add_special_tokens: own.tokenizer.encode(text).tolist(),
    )  # fmt: skip
    model = CausalModel(Causal(), tokenizer, size=own.tokenizer.size)
    rows = np.stack([model.tokenizer.encode("the king"), model.tokenizer.encode("the hous")])
    assert model.log_probs(rows) == pytest.approx(own.log_probs(rows), abs=1e-6)
    assert token_log_probs(model, rows) == pytest.approx(own.token_log_probs(rows), abs=1e-5)
    assert model.tokenizer.decode(rows[0]) == "the king"
    tokenizer.bos_token_id = None
    with pytest.raises(InputError, match="begins or ends a text"):
        CausalModel(Causal(), tokenizer, size=5)
