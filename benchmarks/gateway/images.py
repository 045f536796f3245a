"""Rows as a gate meets them, with their classes: MNIST (784) or CIFAR-10 (3,072) from $PORTCULLIS_DATA, in 32 bits,
each with a little noise so that no question is asked twice; without the folder, images made of 24 smooth patterns."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

NAMES = {784: "mnist", 3072: "cifar10"}


def images(n: int, d: int, seed: int, each: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) float32 in [0, 1] and (n,) classes 0 to 9; with `each`, so many of every class and n is not asked."""
    rng = np.random.default_rng([seed, d])
    folder = os.environ.get("PORTCULLIS_DATA")
    path = Path(folder or "") / f"{NAMES.get(d, '')}.npz"
    if folder and path.is_file():
        with np.load(path) as held:
            x, y = held["x_train"], held["y_train"].astype(int)
        pools = [np.flatnonzero(y == c) for c in range(10)] if each else [np.arange(len(x))]
        size = each or n
        rows = np.concatenate([rng.choice(pool, size, replace=size > len(pool)) for pool in pools])
        x, y = x[rows].reshape(len(rows), -1) / np.float32(255), y[rows]
    else:
        n = 10 * each or n
        patterns = np.cumsum(rng.normal(size=(24, d)), axis=1) / np.sqrt(d)
        weights = rng.normal(size=(n, 24))
        x, y = (
            0.5 + 0.2 * weights @ patterns,
            weights[:, :10].argmax(axis=1) if not each else np.repeat(range(10), each),
        )
    return np.clip(x + rng.normal(0, 0.01, x.shape) * (x > 0), 0, 1).astype(np.float32), y
