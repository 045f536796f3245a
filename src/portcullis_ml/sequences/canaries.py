"""Canaries and exposure: how far a planted secret stands out among all secrets of its form.

Carlini, Liu, Erlingsson, Kos, Song. "The Secret Sharer: Evaluating and Testing Unintended Memorization in Neural
Networks", USENIX Security 2019. How often a canary is repeated is up to whoever plants it.

Threat model   answers: log-probabilities of the next token. data: the form of the secret ("the random number is" and
               nine digits), and candidates.
Query cost     one query for each character of a candidate or reference behind the prefix.

Exposure is -log2 of the share of all fillings that the model finds at least as likely. By sampling, that is
log2 m - log2 rank among m random fillings, so no more than log2 m bits. By extrapolation, a skew-normal is fitted to
the log-perplexities of these fillings, and its left tail says how rare the candidate's would be.

A secret that was never trained on has a rank like any other: its exposure averages log2(e) = 1.44 bits. A model that
shows one exposure of 5 bits among 30 candidates shows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.privacy import Leakage
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array
from portcullis_ml.models.sequences import Counted, Tokens
from portcullis_ml.sequences._attack import SequenceAttack, SequenceKnowledge

__all__ = ["NULL", "Canaries", "exposure_by_extrapolation", "exposure_by_sampling"]

NULL = 1 / math.log(2)  # bits: the mean of -log2 U, what a secret that was never trained on averages


@dataclass(frozen=True, kw_only=True)
class Canaries(SequenceAttack):
    prefix: str = "the random number is "  # what stands before the secret, and is known
    symbols: str = "0123456789"  # what the secret is made of
    length: int = 9  # symbols of a secret
    references: int = 10_000  # random fillings that a candidate is compared with
    by: Literal["extrapolation", "sampling"] = "extrapolation"  # which exposure is the answer; notes have both

    name: ClassVar[str] = "canaries"

    def __post_init__(self) -> None:
        check(self, "symbols", "at least 2 different characters", lambda v: len(v) == len(set(v)) >= 2)
        check(self, "length", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "references", "an int of at least 100", lambda v: isinstance(v, int) and v >= 100)
        check(self, "by", "'extrapolation' or 'sampling'", lambda v: v in ("extrapolation", "sampling"))

    def draw(self, n: int, *, rng: np.random.Generator) -> list[str]:
        """n different random canaries of this form. InputError where there are not so many."""
        if n > len(self.symbols) ** self.length:
            raise InputError(
                f"{n:,} different secrets were asked for; {self.length} of {len(self.symbols)} symbols make "
                f"{len(self.symbols) ** self.length:,}. Make them longer."
            )
        found: dict[str, None] = {}
        while len(found) < n:
            found.setdefault(self.prefix + self._filling(rng))
        return list(found)

    def _filling(self, rng: np.random.Generator) -> str:
        return "".join(self.symbols[i] for i in rng.integers(len(self.symbols), size=self.length))

    def infer(
        self, model: Counted, candidates: Sequence[str], knowledge: SequenceKnowledge, rng: np.random.Generator
    ) -> Leakage:
        for text in candidates:
            self._fits(text)
        if not candidates:
            return Leakage(membership=np.empty(0))
        known = set(candidates)
        others: list[str] = []
        if len(self.symbols) ** self.length < 2 * len(known):
            raise InputError("Canaries were expected to leave other secrets of their form; these are most of all.")
        while len(others) < self.references:  # a candidate is no reference
            text = self.prefix + self._filling(rng)
            others += [text] if text not in known else []
        rows = [[model.tokenizer.encode(text) for text in texts] for texts in (candidates, others)]
        given = _shared(model.tokenizer.encode(self.prefix), [row for part in rows for row in part])
        costs = [self._costs(model, part, given) for part in rows]
        sampled, extrapolated = exposure_by_sampling(*costs), exposure_by_extrapolation(*costs)
        notes = {
            "by_sampling": sampled.tolist(),
            "by_extrapolation": extrapolated.tolist(),
            "null": NULL,
            "most_by_sampling": math.log2(self.references),
            "secrets": math.log2(len(self.symbols)) * self.length,
        }
        return Leakage(membership=extrapolated if self.by == "extrapolation" else sampled, notes=notes)

    def _fits(self, text: str) -> None:
        filling = text.removeprefix(self.prefix)
        if not text.startswith(self.prefix) or len(filling) != self.length or set(filling) - set(self.symbols):
            raise InputError(
                f"A canary was expected to be {self.prefix!r} and {self.length} of {self.symbols!r}; got {text!r}. "
                "Set prefix, symbols and length as it was made."
            )

    @staticmethod
    def _costs(model: Counted, rows: Sequence[Tokens], given: int) -> Array:
        """(n,) log-perplexity in nats of each text behind its first `given` tokens, summed over them."""
        found = np.empty(len(rows))
        lengths = np.array([len(row) for row in rows])
        for length in np.unique(lengths):  # tokens of more than one character may differ in number
            chosen = np.flatnonzero(lengths == length)
            found[chosen] = -model.token_log_probs(np.stack([rows[int(i)] for i in chosen]), given).sum(axis=1)
        return found


def _shared(prefix: Tokens, rows: Sequence[Tokens]) -> int:
    """How many tokens of the prefix begin every text: the last may merge with the first symbol of a secret."""
    most = min(len(prefix), *(len(row) for row in rows))
    same = np.all([row[:most] == prefix[:most] for row in rows], axis=0)
    return most if same.all() else int(np.argmin(same))


def exposure_by_sampling(costs: Array, references: Array) -> Array:
    """(n,) bits: log2 m - log2 rank, where the rank counts the references of less log-perplexity, and the candidate."""
    rank = 1 + np.searchsorted(np.sort(references), costs, side="left")
    return np.asarray(np.log2(len(references)) - np.log2(rank))


def exposure_by_extrapolation(costs: Array, references: Array) -> Array:
    """(n,) bits: -log2 of a skew-normal's distribution function, fitted to the references' log-perplexities."""
    from scipy.stats import skewnorm

    spread = references.std()
    if spread == 0:  # a model that prefers no secret: there is nothing to fit
        return exposure_by_sampling(costs, references)
    middle = references.mean()  # fitted in units of its own, where the search converges
    shape, place, scale = skewnorm.fit((references - middle) / spread)
    z = ((costs - middle) / spread - place) / scale
    return np.asarray([-_log_cdf(float(v), float(shape)) for v in z]) / math.log(2)


def _log_cdf(z: float, shape: float) -> float:
    """The logarithm of the standard skew-normal's distribution function, also where that has no float.

    In the left tail, scipy's is 0 or noise. There the density, integrated leftwards from z in units of its own decay,
    keeps every digit.
    """
    from scipy.integrate import quad
    from scipy.special import log_ndtr
    from scipy.stats import skewnorm

    plain = float(skewnorm.cdf(z, shape))
    if plain > 1e-4:
        return math.log(min(plain, 1.0))

    def log_density(x: float) -> float:
        return math.log(2) - x * x / 2 - math.log(2 * math.pi) / 2 + float(log_ndtr(shape * x))

    top, step = log_density(z), 1e-3
    decay = (top - log_density(z - step)) / step
    area, _ = quad(lambda u: math.exp(log_density(z - u / decay) - top), 0, 60, limit=200)
    return top + math.log(area / decay)
