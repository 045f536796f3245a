"""A marked model, its key's folder, and a way to a bundle of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from portcullis_ml.core.types import Interface, Model, Rows
from portcullis_ml.court.bundle import Bundle, show
from portcullis_ml.court.commitment import Mark
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.ownership.backdoor import Backdoor

API = Interface(input_shape=(4,), n_classes=5)
CLASSES = ("ant", "bee", "cat", "dog", "eel")
AT = "2026-01-02T03:04:05+00:00"
X = np.random.default_rng(0).random((300, 4))
ROWS = Rows(X, (X[:, 0] * 5).astype(np.int64))
TREE = SklearnLearner(estimator="tree")


def minted(folder: Path, seed: int = 1, n: int = 60) -> Mark:
    scheme = Backdoor(n=n)
    return Mark.create(folder, scheme, scheme.mint(bytes([seed]) * 32, API), API, CLASSES, at=AT)


def marked(mark: Mark) -> Model:
    return mark.published().scheme.embed(mark.key(), TREE, ROWS, rng=np.random.default_rng(0))


@dataclass(frozen=True)
class Case:
    mark: Mark
    model: Model
    clean: Model
    bundled: Callable[..., Bundle]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    mark = minted(tmp_path / "mark")
    count = iter(range(100))

    def bundled(pairs: int = 20, suspect: str = "suspect", nonce: str = "n1") -> Bundle:
        out = tmp_path / f"{next(count)}.zip"
        show(mark, suspect, nonce, pairs, out, at=AT)
        return Bundle.read(out)

    clean = TREE.fit(ROWS.x, np.eye(5)[ROWS.y], rng=np.random.default_rng(0))
    return Case(mark, marked(mark), clean, bundled)
