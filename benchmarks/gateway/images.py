"""Rows as a gate meets them: MNIST (784) or CIFAR-10 (3,072) from $PORTCULLIS_DATA, in 32 bits, each with a little
noise so that no question is asked twice; without the folder, images made of 24 smooth patterns."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

NAMES = {784: "mnist", 3072: "cifar10"}


def images(n: int, d: int, seed: int) -> np.ndarray:
    """(n, d) float32 in [0, 1]."""
    rng = np.random.default_rng([seed, d])
    folder = os.environ.get("PORTCULLIS_DATA")
    path = Path(folder or "") / f"{NAMES.get(d, '')}.npz"
    if folder and path.is_file():
        with np.load(path) as held:
            x = held["x_train"]
            x = x[rng.choice(len(x), n, replace=False)].reshape(n, -1) / np.float32(255)
    else:
        patterns = np.cumsum(rng.normal(size=(24, d)), axis=1) / np.sqrt(d)
        x = 0.5 + 0.2 * rng.normal(size=(n, 24)) @ patterns
    return np.clip(x + rng.normal(0, 0.01, x.shape) * (x > 0), 0, 1).astype(np.float32)
