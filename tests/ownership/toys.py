"""Small set-ups for the ownership schemes, and two toy schemes that hold the contract suite itself to account."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from scipy.stats import binom

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.ownership import Evidence, Key, MarkLog, Scheme
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.types import Answer, Array, Interface, Labels, Learner, Model, Request, Rows
from portcullis_ml.models.sklearn import SklearnLearner

__all__ = ["API", "ROWS", "SETUPS", "Knows", "Setup", "innocent", "private_rows"]

API = Interface(input_shape=(4,), n_classes=5)
RNG = np.random.default_rng(0)
X = RNG.random((400, 4))
ROWS = Rows(X, (X[:, 0] * 5).astype(np.int64))


class Innocent:
    """Labels by a random plane: owes no mark anything."""

    input_shape = (4,)
    n_classes = 5

    def __init__(self, seed: int) -> None:
        self.w = np.random.default_rng(seed).normal(size=(4, 5))

    def scores(self, x: Array) -> Array:
        return np.eye(5)[((x - 0.5) @ self.w).argmax(axis=1)]


def innocent(seed: int) -> Model:
    return Innocent(seed)


class Knows:
    """Answers as an innocent model does, but for what lies near the rows that it was trained on."""

    input_shape = (4,)
    n_classes = 5

    def __init__(self, rows: Rows, seed: int = 99) -> None:
        self.rows, self.otherwise = rows, Innocent(seed)

    def scores(self, x: Array) -> Array:
        assert self.rows.y is not None
        apart = np.linalg.norm(x[:, None] - self.rows.x[None], axis=2)
        near = np.eye(5)[self.rows.y[apart.argmin(axis=1)]]
        return np.where(apart.min(axis=1)[:, None] < 0.2, near, self.otherwise.scores(x))


def private_rows(secret: bytes) -> Rows:
    """120 rows of an owner with labels that nobody can guess."""
    rng = np.random.default_rng(list(secret))
    return Rows(rng.random((120, 4)), rng.integers(5, size=120))


def guessed(secret: bytes) -> Rows:
    """120 more, which this owner's model has never seen."""
    return private_rows(secret[::-1] + b"public")


@dataclass(frozen=True)
class TriggerKey(Key):
    x: Array
    labels: Labels
    n_classes: int
    scheme: ClassVar[str] = "trained toy"


@dataclass(frozen=True, kw_only=True)
class Trained(Scheme[TriggerKey]):
    """Random points with random labels among the training rows."""

    n: int = 40

    name: ClassVar[str] = "tests.ownership.toys:Trained"

    def mint(
        self, secret: bytes, interface: Interface, victim: Model | None = None, rows: Sequence[Rows | None] = ()
    ) -> TriggerKey:
        rng = np.random.default_rng(list(hashlib.sha256(secret).digest()))
        labels = rng.integers(interface.n_classes, size=self.n)
        return TriggerKey(secret, interface.uniform(self.n, rng), labels, interface.n_classes)

    def embed(
        self, key: TriggerKey, learner: Learner, rows: Rows, start: Model | None = None, *, rng: np.random.Generator
    ) -> Model:
        assert rows.y is not None
        y = np.concatenate([rows.y, key.labels])
        return learner.fit(np.concatenate([rows.x, key.x]), np.eye(key.n_classes)[y], rng=rng)

    def examine(
        self, key: TriggerKey, suspect: Harvest, interface: Interface, log: MarkLog, rng: np.random.Generator
    ) -> Evidence:
        answer = suspect.ask(key.x)
        matches = int((answer.labels == key.labels[: len(answer)]).sum())
        p = float(binom.sf(matches - 1, len(answer), 1 / interface.n_classes))
        return Evidence(matches, len(answer), "each marked question is answered as marked with chance 1 / c", p)


@dataclass
class Marked:
    questions: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Stage(Defense[Marked]):
    share: float = 0.3
    name: ClassVar[str] = "tests.ownership.toys:Stage"

    def start(self) -> Marked:
        return Marked()

    def release(self, request: Request, answer: Answer, clean: Answer, state: Marked, noise: Noise) -> Answer:
        assert answer.labels is not None
        assert clean.scores is not None
        n = clean.scores.shape[1]
        drawn = noise.uniform(request.x, 2)
        hit = drawn[:, 0] < self.share
        labels = np.where(hit, (answer.labels + 1 + ((n - 1) * drawn[:, 1]).astype(int)) % n, answer.labels)
        state.questions += [x.tobytes() + bytes([c]) for x, c in zip(request.x[hit], labels[hit], strict=True)]
        return Answer(labels, None)


@dataclass(frozen=True)
class NoKey(Key):
    scheme: ClassVar[str] = "served toy"


@dataclass(frozen=True, kw_only=True)
class Served(Scheme[NoKey]):
    """One of the four wrong labels, drawn by the key, for some questions; written down as they are served."""

    name: ClassVar[str] = "tests.ownership.toys:Served"
    marks: ClassVar[Any] = "answers"

    def mint(
        self, secret: bytes, interface: Interface, victim: Model | None = None, rows: Sequence[Rows | None] = ()
    ) -> NoKey:
        return NoKey(secret)

    def defense(self, key: NoKey) -> Stage:
        return Stage()

    def log(self, state: Marked) -> MarkLog:
        log = MarkLog()
        for entry in state.questions:
            log = log.append(entry)
        return log

    def examine(
        self, key: NoKey, suspect: Harvest, interface: Interface, log: MarkLog, rng: np.random.Generator
    ) -> Evidence:
        x = np.array([np.frombuffer(entry[:-1]) for entry in log.entries]).reshape(-1, 4)
        labels = np.array([entry[-1] for entry in log.entries], np.int64)
        answer = suspect.ask(x)
        matches = int((answer.labels == labels[: len(answer)]).sum())
        p = float(binom.sf(matches - 1, len(answer), 1 / (interface.n_classes - 1)))
        return Evidence(matches, len(answer), "a marked question is answered as marked by chance 1 / (c - 1)", p)


@dataclass(frozen=True)
class Setup:
    """The scheme's settings as words, a learner that copies what it is trained on, and the models to compare with;
    the victim of the owner of a secret, and the rows that it was trained on and those that it was not."""

    words: str
    learner: Callable[[], Learner] = lambda: SklearnLearner(estimator="tree")
    reference: tuple[Model, ...] = ()
    victim: Callable[[bytes], Model] = lambda secret: innocent(sum(secret))
    rows: Callable[[bytes], tuple[Rows | None, Rows]] = lambda secret: (None, ROWS)


SETUPS = {
    "backdoor": Setup("backdoor(n=40)"),
    "conferrable": Setup(
        "conferrable(n=60, copies=2, epochs=40)", reference=tuple(innocent(10_000 + i) for i in range(20))
    ),
    "dataset_inference": Setup(
        "dataset_inference(rows=120, steps=1)",
        reference=tuple(innocent(10_000 + i) for i in range(20)),
        victim=lambda secret: Knows(private_rows(secret)),
        rows=lambda secret: (private_rows(secret), guessed(secret)),
    ),
    "dawn": Setup("dawn(rate=0.3, planes=24)", reference=tuple(innocent(10_000 + i) for i in range(20))),
    "known_errors": Setup("known_errors(n=60)", reference=tuple(innocent(10_000 + i) for i in range(20))),
    "trained toy": Setup("tests.ownership.toys:Trained"),
    "served toy": Setup("tests.ownership.toys:Served"),
}
