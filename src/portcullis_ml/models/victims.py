"""Victims trained on the spot, once: the same data, settings and seed are read back from a folder the next time."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Array, Labels, Learner, Model
from portcullis_ml.models.load import load_model, save_model

__all__ = ["SavedLearner", "fit_watched", "train_victim"]


class SavedLearner(Protocol):
    """A learner, as settings, whose models `save_model` can write."""

    suffix: ClassVar[str]

    def fit(
        self,
        x: Array,
        targets: Array,
        *,
        rng: np.random.Generator,
        start: Model | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Model: ...


def train_victim(
    x: Array,
    y: Labels,
    n_classes: int,
    learner: SavedLearner,
    *,
    rng: np.random.Generator,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Train `learner` on x (n, *input_shape) and the true labels y (n,), or read the same victim from `cache`.

    The file's name is a hash of the rows, the labels, the settings and the seed. `rng` gives that seed and nothing
    else, so what is drawn from it later does not depend on whether the victim was cached.
    """
    x, y = np.asarray(x), np.asarray(y, np.int64)
    if len(x) == 0 or y.shape != (len(x),):
        raise InputError(f"A victim needs rows and one label for each; got {len(x)} rows and labels {y.shape}.")
    if y.min() < 0 or y.max() >= n_classes:
        raise InputError(f"Labels must lie in 0..{n_classes - 1}; got {y.min()}..{y.max()}. Say the right n_classes.")
    seed = rng.integers(2**63, size=2).tolist()
    path = None if cache is None else Path(cache) / f"victim-{_digest(x, y, [describe(learner), seed])}{learner.suffix}"
    if path is not None and path.is_file():
        return load_model(str(path), input_shape=x.shape[1:], n_classes=n_classes)
    model = learner.fit(x, np.eye(n_classes)[y], rng=np.random.default_rng(seed), progress=progress)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = save_model(model, path.with_name(f"{path.stem}-{os.getpid()}{path.suffix}"))
        os.replace(partial, path)  # a killed run leaves no half-written victim
    return model


def fit_watched(
    learner: Learner, x: Array, targets: Array, *, rng: np.random.Generator, watch: Callable[[int, int], None]
) -> Model:
    """Train, and call watch(steps done, steps in all) where the learner says how far it is."""
    told: dict[str, Any] = {"progress": watch} if "progress" in inspect.signature(learner.fit).parameters else {}
    return learner.fit(x, targets, rng=rng, **told)


def _digest(x: Array, y: Labels, about: list[Any]) -> str:
    digest = hashlib.blake2b(json.dumps([about, x.shape, str(x.dtype)], sort_keys=True).encode(), digest_size=12)
    digest.update(np.ascontiguousarray(x).data)
    digest.update(np.ascontiguousarray(y).data)
    return digest.hexdigest()
