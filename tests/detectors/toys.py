"""Streams that every detector's contract is tested on: real digits, their predictions, and synthetic neighbours."""

from __future__ import annotations

from functools import cache

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from portcullis_ml.core.types import Answer, Array

__all__ = ["answer_to", "attack", "natural"]


@cache
def _digits() -> tuple[Array, LogisticRegression]:
    x, y = load_digits(return_X_y=True)
    x = np.rint(x * 255 / 16) / 255  # 8-bit
    return x, LogisticRegression(max_iter=1000).fit(x[:600], y[:600])


def answer_to(x: Array) -> Answer:
    """The undefended answer of one fixed model."""
    model = _digits()[1]
    logits = (x[:, None, :] * model.coef_).sum(axis=2) + model.intercept_  # one row at a time, to the last bit
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    return Answer(scores.argmax(axis=1), scores)


def natural(n: int, seed: int) -> Array:
    """(n, 64) digits in a random order."""
    x, _ = _digits()
    return x[np.random.default_rng(seed).permutation(len(x))[:n]]


def attack(n: int, seed: int, seeds: int = 60) -> Array:
    """(n, 64) in the order asked: natural seeds, then rounds of small steps along a linear copy's weights."""
    x, _ = _digits()
    rng = np.random.default_rng(seed)
    rows = x[rng.permutation(len(x))[:seeds]]
    weights = _digits()[1].coef_ + 0.1 * rng.normal(size=(10, 64))
    while len(rows) < n:
        step = np.sign(weights[answer_to(rows).labels])
        rows = np.concatenate([rows, np.clip(rows + 0.05 * step, 0, 1)])
    return rows[:n]
