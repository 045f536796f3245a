"""Text trained with differential privacy: gradients of single documents, what is cut, what is spent."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError, MissingExtra, ParameterError

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from portcullis_ml.models import private_text  # noqa: E402
from portcullis_ml.models.characters import Gru  # noqa: E402
from portcullis_ml.models.private_text import PrivateCharacterLearner, document_gradients, padded  # noqa: E402

TEXT = ["the king", "my lord of love", "good night", "death in the house", "o"] * 4


def learnt(**settings):
    learner = PrivateCharacterLearner(**{"units": 8, "epochs": 2, "batch": 5, "epsilon": None, **settings})
    return learner.fit(TEXT, rng=np.random.default_rng(0))


def test_gradients_are_those_of_documents_alone() -> None:
    module, rng = Gru(9, 8, 1), np.random.default_rng(0)
    codes, lengths = padded([rng.integers(1, 9, size=n) for n in (5, 11, 1)])
    found = document_gradients(module, codes, lengths)
    for i, length in enumerate(lengths.tolist()):
        module.zero_grad()
        row = codes[i : i + 1, :length]
        F.cross_entropy(module(row[:, :-1])[0].flatten(0, 1), row[:, 1:].flatten()).backward()
        for parameter, each in zip(module.parameters(), found, strict=True):
            assert parameter.grad is not None
            assert each[i].numpy() == pytest.approx(parameter.grad.numpy(), abs=1e-6)


def test_no_document_moves_the_weights_further_than_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = PrivateCharacterLearner(units=8, batch=1, clip=0.01, epsilon=None)
    module = Gru(9, 8, 1)
    taken: list[float] = []

    class Still:
        def step(self) -> None:
            taken.append(float(torch.cat([p.grad.flatten() for p in module.parameters()]).norm()))

    codes, lengths = padded([np.array([1, 2, 3])])
    learner._step(module, Still(), codes, lengths, 0.0)
    assert taken == [pytest.approx(0.01, rel=1e-4)]


def test_it_learns_and_the_same_generator_gives_the_same_model() -> None:
    one, two = learnt(epochs=40, lr=0.02), learnt(epochs=40, lr=0.02)
    row = one.tokenizer.encode("the king")[None]
    assert one.token_log_probs(row) == pytest.approx(two.token_log_probs(row))
    assert one.token_log_probs(row).mean() > learnt().token_log_probs(row).mean() + 0.3


def test_a_smaller_epsilon_takes_more_noise() -> None:
    pytest.importorskip("opacus")
    weak, strong = (private_text.noise_for(e, 1e-4, 0.1, 100) for e in (8.0, 1.0))
    assert strong > 2 * weak > 0
    assert np.isfinite(learnt(epsilon=8.0).log_probs(np.zeros((1, 0), np.int64))).all()
    with pytest.raises(InputError, match="cannot be reached in 1,000,000 steps"):
        private_text.noise_for(1e-6, 1e-9, 1.0, 1_000_000)


def test_without_opacus_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opacus.accountants.utils", None)
    with pytest.raises(MissingExtra, match="private"):
        private_text.noise_for(8.0, 1e-4, 0.1, 10)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"network": "transformer"}, "a GRU of one layer"),
        ({"layers": 2}, "a GRU of one layer"),
        ({"clip": None, "epsilon": 8.0}, "a norm where epsilon bounds"),
        ({"epsilon": 0}, "above 0, or None"),
    ],
)
def test_settings_that_protect_nothing_are_refused(settings, sentence) -> None:
    with pytest.raises(ParameterError, match=sentence):
        PrivateCharacterLearner(**settings)


def test_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="what was given is empty"):
        PrivateCharacterLearner(epsilon=None).fit(["", ""], rng=np.random.default_rng(0))
