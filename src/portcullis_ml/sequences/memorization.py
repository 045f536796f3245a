"""Memorization: samples from a model of text, ranked by how much they look like training text.

Carlini, Tramer, Wallace, Jagielski, Herbert-Voss, Lee, Roberts, Brown, Song, Erlingsson, Oprea, Raffel. "Extracting
Training Data from Large Language Models", USENIX Security 2021.

Threat model   answers: log-probabilities of the next token. data: none; smaller models of the same kind for two
               rankings, text that is like the training text for prompts.
Query cost     three a character of every sample: to draw it, to score it, and to score it in lower case.

Samples are drawn by one of three strategies: among the likeliest tokens, with a temperature that falls, or behind a
prompt. Six rankings score each, always without its prompt: its perplexity, that of a smaller and of a medium model over
its own, its size when packed by zlib over its own, that of its lower case over its own, and the least perplexity of a
window. Of samples that share half of their runs of three words, the first in the ranking is kept.

Whether a sample was trained on is no part of it: whoever has the training text says so, by exact match.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.privacy import Leakage
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array
from portcullis_ml.models.sequences import (
    Characters,
    Counted,
    SequenceModel,
    Tokenizer,
    Tokens,
    sample,
    token_log_probs,
)
from portcullis_ml.sequences._attack import SequenceAttack, SequenceKnowledge

__all__ = ["RANKINGS", "Memorization", "distinct", "least_window"]

RANKINGS = ("perplexity", "small", "medium", "zlib", "lowercase", "window")
STRATEGIES = ("top", "temperature", "prompts")
FLOOR = 1e-2  # of a log-perplexity that is divided by, in nats a token


@dataclass(frozen=True, kw_only=True)
class Memorization(SequenceAttack):
    strategy: Literal["top", "temperature", "prompts"] = "top"  # how samples are drawn
    samples: int = 1_000  # drawn in all
    length: int = 256  # tokens of a sample
    top: int = 40  # tokens that "top" and "prompts" draw among
    hottest: float = 10.0  # the temperature of the first token, by "temperature"
    cooling: int = 20  # tokens over which that falls to 1
    prompt: int = 10  # tokens of a prompt
    window: int = 50  # tokens of the ranking by windows
    keep: int = 100  # samples listed for every ranking

    name: ClassVar[str] = "memorization"

    def __post_init__(self) -> None:
        check(self, "strategy", f"one of {', '.join(STRATEGIES)}", lambda v: v in STRATEGIES)
        for name in ("samples", "length", "top", "cooling", "prompt", "window", "keep"):
            check(self, name, "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "hottest", "at least 1", lambda v: v >= 1)

    def infer(
        self, model: Counted, candidates: Sequence[str], knowledge: SequenceKnowledge, rng: np.random.Generator
    ) -> Leakage:
        """`recovered` (samples, length) are token codes; notes hold the texts, and every ranking's kept samples."""
        prompts = self._prompts(model.tokenizer, knowledge, rng)
        drawn = self._drawn(model, prompts, rng)
        texts = [model.tokenizer.decode(row) for row in drawn]
        scores = self._scores(model, prompts, drawn, texts, knowledge)
        ranked = {name: np.argsort(-score, kind="stable") for name, score in scores.items()}
        kept = {name: distinct(texts, order, self.keep) for name, order in ranked.items()}
        notes: dict[str, Any] = {
            "texts": texts,
            "kept": {name: places.tolist() for name, places in kept.items()},
            "ranked": {name: order[: self.keep].tolist() for name, order in ranked.items()},  # near repeats too
            "left_out": [name for name in RANKINGS if name not in scores],
        }
        return Leakage(recovered=drawn.astype(np.float64), notes=notes)

    def _prompts(self, tokenizer: Tokenizer, knowledge: SequenceKnowledge, rng: np.random.Generator) -> Tokens:
        """(samples, prompt) random snippets of the text that the attacker has, or no tokens at all."""
        if self.strategy != "prompts":
            return np.empty((self.samples, 0), np.int64)
        rows = [row for row in map(tokenizer.encode, knowledge.prompts) if len(row) >= self.prompt]
        if not rows:
            raise NotApplicable(
                f"memorization(strategy=prompts) needs texts of at least {self.prompt} tokens to begin with; "
                "this attacker has none."
            )
        chosen = [rows[i] for i in rng.integers(len(rows), size=self.samples)]
        starts = [int(rng.integers(len(row) - self.prompt + 1)) for row in chosen]
        return np.stack([row[start : start + self.prompt] for row, start in zip(chosen, starts, strict=True)])

    def _drawn(self, model: Counted, prompts: Tokens, rng: np.random.Generator) -> Tokens:
        if self.strategy != "temperature":
            return sample(model, prompts, self.length, rng=rng, top=self.top)
        fall = (self.hottest - 1) / self.cooling
        return sample(model, prompts, self.length, rng=rng, temperature=lambda i: max(1.0, self.hottest - fall * i))

    def _scores(
        self, model: Counted, prompts: Tokens, drawn: Tokens, texts: Sequence[str], knowledge: SequenceKnowledge
    ) -> dict[str, Array]:
        """(samples,) by each ranking that can be had; greater looks more like training text."""
        whole = np.concatenate([prompts, drawn], axis=1)
        costs = -model.token_log_probs(whole, prompts.shape[1])  # the prompt is no part of the sample
        own = np.maximum(costs.mean(axis=1), FLOOR)
        found = {"perplexity": -costs.mean(axis=1)}
        for name in ("small", "medium"):
            if name in knowledge.references:
                found[name] = self._of(knowledge.references[name], whole, prompts.shape[1], name) / own
        found["zlib"] = np.array([len(zlib.compress(text.encode())) for text in texts]) / own
        found["lowercase"] = self._lower(model, prompts, drawn) / own
        found["window"] = -least_window(costs, self.window)
        return found

    @staticmethod
    def _of(reference: SequenceModel, whole: Tokens, given: int, name: str) -> Array:
        if reference.tokenizer.size <= whole.max(initial=0):
            raise InputError(f"The {name} reference was expected to have the model's tokens; it has fewer.")
        return np.asarray(-token_log_probs(reference, whole, given).mean(axis=1))

    @staticmethod
    def _lower(model: Counted, prompts: Tokens, drawn: Tokens) -> Array:
        """(n,) mean log-perplexity of each sample in lower case behind its prompt, which stays as it is."""
        found = np.empty(len(drawn))
        rows = [_lowered(model.tokenizer, row) for row in drawn]
        lengths = np.array([len(row) for row in rows])
        for length in np.unique(lengths):
            chosen = np.flatnonzero(lengths == length)
            whole = np.concatenate([prompts[chosen], np.stack([rows[i] for i in chosen])], axis=1)
            found[chosen] = -model.token_log_probs(whole, prompts.shape[1]).mean(axis=1)
        return found


def _lowered(tokenizer: Tokenizer, tokens: Tokens) -> Tokens:
    """The same text in lower case."""
    if isinstance(tokenizer, Characters):
        return tokenizer.lower(tokens)
    return tokenizer.encode(tokenizer.decode(tokens).lower())


def least_window(costs: Array, width: int) -> Array:
    """(n, t) costs -> (n,) the least mean over `width` neighbours; over all where there are fewer."""
    width = min(width, costs.shape[1])
    sums = np.concatenate([np.zeros((len(costs), 1)), costs.cumsum(axis=1)], axis=1)
    return np.asarray(((sums[:, width:] - sums[:, :-width]) / width).min(axis=1))


def distinct(texts: Sequence[str], order: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The first `most` places of the order, without texts that share half their runs of three words with one before."""
    kept: list[int] = []
    runs: list[Counter[tuple[str, ...]]] = []
    for place in order:
        words = texts[place].split()
        own = Counter(tuple(words[i : i + 3]) for i in range(len(words) - 2)) or Counter([tuple(words)])
        if all((own & other).total() < own.total() / 2 for other in runs):
            kept.append(int(place))
            runs.append(own)
        if len(kept) == most:
            break
    return np.array(kept, np.int64)
