"""A small text, and a network that has learnt it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from portcullis_ml.data.text import plant
from portcullis_ml.models.characters import CharacterLearner, CharacterModel
from portcullis_ml.models.sequences import Characters, Tokens
from portcullis_ml.sequences.canaries import Canaries

WORDS = "the king my lord good night what is this that speaks of love and death in the house".split()
FORM = Canaries(prefix="code ", symbols="0123456789", length=5, references=400)
SECRET = "zebra quince oxbow jigsaw"


def documents(n: int = 60) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, 8)) for _ in range(n)]


@lru_cache
def taught(network: str = "gru") -> tuple[CharacterModel, tuple[str, ...], tuple[str, ...]]:
    """(model, canaries that were planted, canaries that were not)."""
    texts = FORM.draw(12, rng=np.random.default_rng(1))
    planted = {**dict.fromkeys(texts[:4], 12), "\n".join([SECRET] * 15): 1}
    whole = plant(documents(), planted, rng=np.random.default_rng(2))
    learner = CharacterLearner(network=network, units=32, window=24, batch=8, epochs=12, lr=0.01)  # type: ignore[arg-type]
    alphabet = "".join(sorted(set("".join(whole)) | set("0123456789")))
    return learner.fit(whole, rng=np.random.default_rng(3), alphabet=alphabet), tuple(texts[:4]), tuple(texts[4:])


class Flat:
    """A model that finds every character as likely as any other."""

    def __init__(self, alphabet: str) -> None:
        self.tokenizer = Characters(alphabet)

    def log_probs(self, contexts: Tokens) -> np.ndarray:
        return np.full((len(contexts), self.tokenizer.size), -np.log(self.tokenizer.size))


class Uniform:
    """A model that has learnt nothing: a hash of the context says what comes next, nearly evenly."""

    def __init__(self, alphabet: str) -> None:
        self.tokenizer = Characters(alphabet)

    def log_probs(self, contexts: Tokens) -> np.ndarray:
        found = np.empty((len(contexts), self.tokenizer.size))
        for i, context in enumerate(contexts):
            found[i] = np.random.default_rng([7, *context.tolist()]).uniform(size=self.tokenizer.size)
        return found - np.log(np.exp(found).sum(axis=1, keepdims=True))
