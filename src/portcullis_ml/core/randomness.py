"""Randomness as an argument: generators derived from words, and noise keyed by the question.

Three kinds, three spellings. *Choice* is a `rng: numpy.random.Generator`, keyword-only and required. *Noise in a
served answer* is a `Noise`, keyed by (guard key, stage, canonical query): the same question meets the same noise from
every client and in every batching, so repeats and collusion teach nothing. *Secrets* come from `secrets`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array

__all__ = ["Noise", "canonical", "derive"]

QUANTUM = 1e-6  # queries closer than this in every input are the same question


def derive(seed: int, *words: str) -> np.random.Generator:
    """A generator for one purpose: the same seed and words give the same stream on every machine."""
    digest = hashlib.blake2b("\x1f".join(words).encode(), digest_size=16).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, "<u4").tolist()])


def canonical(x: Array, quantum: float = QUANTUM) -> list[bytes]:
    """n byte strings, equal exactly for rows that are the same question.

    Rows are rounded to multiples of `quantum`, so that a change in the last bit of a float buys no fresh noise. Whoever
    moves past it asks a new question: choose it no finer than your inputs really are (1/255 for 8-bit images).
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2:
        x = x.reshape(len(x), math.prod(x.shape[1:]))  # -1 would not do for no rows
    steps = x / quantum
    np.rint(steps, steps)
    return [_packed(row) for row in steps]


def _packed(steps: Array) -> bytes:
    """Whole numbers in four bytes each where all of a row fit, which halves what is hashed; else in eight."""
    if np.vdot(steps, steps) < 2.0**62:  # one number is far cheaper than a look at each
        return steps.astype("<i4").tobytes()
    steps = steps + 0.0  # folds -0.0; int64 would overflow for huge values
    steps[np.isnan(steps)] = np.nan  # one NaN among all bit patterns
    return steps.astype("<f8").tobytes()


@dataclass(frozen=True)
class Noise:
    """Random numbers that are a function of the question: one BLAKE2b and one Philox stream for every row asked for."""

    key: bytes
    stage: str
    quantum: float = QUANTUM

    def uniform(self, x: Array, size: int = 1) -> Array:
        """(n, size) numbers in [0, 1)."""
        return self._draw(x, lambda g: g.random(size), size)

    def normal(self, x: Array, size: int = 1) -> Array:
        """(n, size) standard normal numbers."""
        return self._draw(x, lambda g: g.standard_normal(size), size)

    def integers(self, x: Array, high: int) -> NDArray[np.int64]:
        """(n,) integers in [0, high)."""
        return (self.uniform(x)[:, 0] * high).astype(np.int64)

    def _draw(self, x: Array, sample, size: int) -> Array:  # type: ignore[no-untyped-def]
        rows = [np.frombuffer(d, "<u8") for d in self._digests(x)]
        drawn = [sample(np.random.Generator(np.random.Philox(key=row))) for row in rows]
        return np.array(drawn).reshape(len(x), size)

    def _digests(self, x: Array) -> list[bytes]:
        person = hashlib.blake2b(self.stage.encode(), digest_size=16).digest()
        keyed = {"digest_size": 16, "key": self.key[:64], "person": person}
        return [hashlib.blake2b(row, **keyed).digest() for row in canonical(x, self.quantum)]  # type: ignore[arg-type]
