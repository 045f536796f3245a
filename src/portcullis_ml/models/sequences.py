"""Generative models of text: what comes next, asked in batches, counted, sampled from.

A context is a row of token codes; in one batch all are of one length, which may be 0 (the beginning of a document).
A model gives the log-probabilities of the next token, in nats. Whatever gives those can be attacked: a network here, a
causal model of `transformers`, or any function or API (`FromFunction`).

One next-token distribution is one query, however it is asked for: scoring n texts of t tokens costs n * t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import BudgetExhausted, InputError, ParameterError
from portcullis_ml.core.types import Array

__all__ = [
    "Characters", "Counted", "FromFunction", "Logits", "SequenceModel", "Tokenizer", "Tokens", "draw_tokens", "sample",
    "token_log_probs",
]  # fmt: skip

Tokens = NDArray[np.int64]
Logits = Callable[[Tokens], Array]  # (n, t) contexts -> (n, size)
CLOSE = 1e-3  # how far the probabilities of an answer may be from summing to 1
ROWS = 256  # contexts asked at a time


class Tokenizer(Protocol):
    """Text to token codes and back. `size` is how many codes there are."""

    @property
    def size(self) -> int: ...

    def encode(self, text: str) -> Tokens: ...

    def decode(self, tokens: Tokens) -> str: ...


@dataclass(frozen=True)
class Characters:
    """Characters as tokens: code 0 ends a document, code i + 1 is the i-th character of `alphabet`."""

    alphabet: str

    @classmethod
    def of(cls, documents: Sequence[str]) -> Characters:
        """Every character that stands in these documents."""
        return cls("".join(sorted(set().union(*map(set, documents)))))

    @property
    def size(self) -> int:
        return len(self.alphabet) + 1

    def encode(self, text: str) -> Tokens:
        """(t,) codes. InputError for a character that the model does not know."""
        codes = {character: i + 1 for i, character in enumerate(self.alphabet)}
        if unknown := sorted(set(text) - codes.keys()):
            raise InputError(
                f"The text was expected to hold characters that the model was trained on; it has {unknown[0]!r}. "
                "Choose other text, or train on text that has it."
            )
        return np.array([codes[character] for character in text], np.int64)

    def decode(self, tokens: Tokens) -> str:
        """The text of these codes; the end of a document is an empty line."""
        return "".join("\n\n" if code == 0 else self.alphabet[code - 1] for code in tokens.tolist())

    def lower(self, tokens: Tokens) -> Tokens:
        """The codes of the same text in lower case; characters whose lower case is not known stay."""
        small = [self.alphabet.find(c.lower()) for c in self.alphabet]
        codes = np.array([0, *(i + 1 if found < 0 else found + 1 for i, found in enumerate(small))], np.int64)
        return codes[tokens]


@runtime_checkable
class SequenceModel(Protocol):
    """A generative model. It may have `token_log_probs(sequences)` and `start(contexts)` as faster ways to the same."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def log_probs(self, contexts: Tokens) -> Array:
        """(n, t) contexts -> (n, size) natural logarithms of the next token's probabilities."""


class FromFunction:
    """Any function or API that maps (n, t) contexts to (n, size) log-probabilities, as a model."""

    def __init__(self, function: Logits, tokenizer: Tokenizer) -> None:
        self.function, self.tokenizer = function, tokenizer

    def log_probs(self, contexts: Tokens) -> Array:
        """Raises InputError where what comes back are no log-probabilities."""
        found = np.asarray(self.function(contexts), np.float64)
        wanted = (len(contexts), self.tokenizer.size)
        if found.shape != wanted:
            raise InputError(f"A model of text was expected to give log-probabilities {wanted}; it gave {found.shape}.")
        sums = np.exp(found).sum(axis=1)
        if not (np.abs(sums - 1) <= CLOSE).all():  # NaN is not close either
            raise InputError(
                "A model of text was expected to give natural logarithms of probabilities; the probabilities of an "
                f"answer sum to {sums[np.argmax(np.abs(sums - 1))]:.4g} and not to 1. Give its log-softmax."
            )
        return found


class Counted:
    """A model behind a counter of its next-token distributions. InputError for what gives no log-probabilities.

    budget   how many may be asked for, or None; BudgetExhausted for more, before anything is asked
    watch    is called with (asked so far, budget) behind every question, or None
    """

    def __init__(self, model: Any, budget: int | None = None, watch: Callable[[int, int], None] | None = None) -> None:
        if not isinstance(model, SequenceModel):
            raise InputError(
                "A model of text was expected to give log_probs(contexts) and to have a tokenizer; "
                f"a {type(model).__name__} does not. Wrap the function that gives them with FromFunction."
            )
        self.model, self.tokenizer, self.queries = model, model.tokenizer, 0
        self.budget, self._watch = budget, watch

    def _pay(self, queries: int) -> None:
        if self.budget is not None and self.queries + queries > self.budget:
            raise BudgetExhausted(queries, self.budget - self.queries)
        self.queries += queries
        if self._watch is not None:
            self._watch(self.queries, self.budget or self.queries)

    def log_probs(self, contexts: Tokens) -> Array:
        self._pay(len(contexts))
        return self.model.log_probs(contexts)

    def token_log_probs(self, sequences: Tokens, given: int = 0) -> Array:
        """(n, t) -> (n, t - given) log-probability of each token behind the first `given`, by what stands before."""
        self._pay(len(sequences) * (sequences.shape[1] - given))
        return token_log_probs(self.model, sequences, given)

    def start(self, contexts: Tokens) -> Callable[[Tokens | None], Array]:
        following = _follow(self.model, contexts)

        def counted(tokens: Tokens | None) -> Array:
            self._pay(len(contexts))
            return following(tokens)

        return counted


def token_log_probs(model: SequenceModel, sequences: Tokens, given: int = 0) -> Array:
    """(n, t) sequences -> (n, t - given) log-probability of every token behind the first `given`.

    By the model's own way where it has one, else by asking about every beginning.
    """
    if hasattr(model, "token_log_probs"):
        return np.asarray(model.token_log_probs(sequences))[:, given:]
    n, t = sequences.shape
    found = np.empty((n, t - given))
    for end in range(given, t):
        for start in range(0, n, ROWS):
            rows = slice(start, start + ROWS)
            answer = model.log_probs(sequences[rows, :end])
            found[rows, end - given] = np.take_along_axis(answer, sequences[rows, end, None], axis=1)[:, 0]
    return found


def sample(
    model: SequenceModel | Counted,
    prompts: Tokens,
    length: int,
    *,
    rng: np.random.Generator,
    top: int | None = None,
    temperature: Callable[[int], float] = lambda _: 1.0,
) -> Tokens:
    """(n, length) tokens that go on from (n, p) prompts; see `draw_tokens`. `temperature` is that of a position."""
    if length < 1:
        raise ParameterError("length", "at least 1 token", length)
    drawn = np.empty((len(prompts), length), np.int64)
    following, last = _follow(model, prompts), None
    for position in range(length):
        answer = following(last)
        last = draw_tokens(answer, rng.random(len(prompts)), top=top, temperature=temperature(position))
        drawn[:, position] = last
    return drawn


def draw_tokens(log_probs: Array, chance: Array, *, top: int | None = None, temperature: float = 1.0) -> Tokens:
    """(n,) a token of each row (n, size) by a number of [0, 1): among the `top` likeliest, flattened by temperature."""
    scaled = log_probs / temperature
    if top is not None and top < log_probs.shape[1]:
        least = np.partition(scaled, -top, axis=1)[:, -top, None]
        scaled = np.where(scaled >= least, scaled, -np.inf)
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True)).cumsum(axis=1)
    return np.asarray((weights <= chance[:, None] * weights[:, -1:]).sum(axis=1))


def _follow(model: SequenceModel | Counted, contexts: Tokens) -> Callable[[Tokens | None], Array]:
    """What comes next, token by token: by the model's own way where it has one, else by asking about longer contexts.

    The function is given None first and then the tokens (n,) that were chosen.
    """
    if hasattr(model, "start"):
        return model.start(contexts)  # type: ignore[no-any-return]
    so_far = contexts

    def following(tokens: Tokens | None) -> Array:
        nonlocal so_far
        if tokens is not None:
            so_far = np.concatenate([so_far, tokens[:, None]], axis=1)
        return np.concatenate([model.log_probs(so_far[i : i + ROWS]) for i in range(0, len(so_far), ROWS)])

    return following
