"""DAWN: ask a suspect the questions of one client that were answered wrongly on purpose, and count who learnt them.

Szyller, Atli, Marchal, Asokan. "DAWN: Dynamic Adversarial Watermarking of Neural Networks", ACM Multimedia 2021:
answers are marked as they are served, by the stage `dawn` of a guard: the mark is in the copy, not in the model.

Costs the honest client   a wrong label for `rate` of their questions.
Does not survive          a copy that does not learn single wrong labels: strong augmentation, few epochs, small
                          networks. A client with few questions has few marks, and nothing can be said of them.
Query cost                one query for each marked question that is shown.

Each client has marks of their own, so the copy that matches names the client whose answers it was trained on. A wrong
answer is a plausible one, and an innocent model confuses the same classes: the null is what at least 20 innocent models
do, and no less than guessing. Commit to a client's marks (`registered`) when they are many enough, before any suspect
is out, and to those that came later again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.ownership import Evidence, Key, MarkLog
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Labels, Model, Rows
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.ownership._counted import Counted
from portcullis_ml.ownership._pairs import PairsKey

__all__ = ["Dawn", "DawnKey", "DawnMarks"]


@dataclass(frozen=True)
class DawnKey(Key):
    """Before anything is served there are no pairs: which questions are marked is up to the guard's own key."""

    scheme: ClassVar[str] = "dawn"


@dataclass(frozen=True)
class DawnMarks(PairsKey):
    """The marks of one client, to be committed to and shown."""

    scheme: ClassVar[str] = "dawn"


@dataclass(frozen=True, kw_only=True)
class Dawn(Counted[DawnKey]):
    rate: float = 0.005  # of the stage: the share of a client's questions that is marked
    planes: int = 6  # of the stage: more make more codes of questions, which survive less noise

    name: ClassVar[str] = "dawn"
    key: ClassVar[type[PairsKey]] = DawnMarks
    marks: ClassVar = "answers"
    least: ClassVar[int] = 20
    assumed: ClassVar[tuple[str, ...]] = (
        "The client's marks were committed to before the suspect was released.",
        "Nobody trained the suspect on these questions with the wrong answers but by asking the guarded model.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "rate", "in (0, 0.5]", lambda v: 0 < v <= 0.5)
        check(self, "planes", "an int in [0, 64]", lambda v: isinstance(v, int) and 0 <= v <= 64)

    def chance(self, n_classes: int) -> float:
        return 1 / n_classes

    def mint(
        self, secret: bytes, interface: Interface, victim: Model | None = None, rows: Sequence[Rows | None] = ()
    ) -> DawnKey:
        """A key without pairs: those come from what is served. See `registered`."""
        if interface.n_classes < 2:
            raise NotApplicable("dawn marks the answers of classifiers; this API does regression.")
        return DawnKey(secret)

    def defense(self, key: DawnKey) -> Defense[Any]:
        stage: Defense[Any] = DEFENSES.build({"unit": "dawn", "rate": self.rate, "planes": self.planes})
        return stage

    def log(self, state: Any) -> MarkLog:
        """An entry for each mark in the stage's state (None for a client who has asked nothing), in their order."""
        log = MarkLog()
        if state is not None:
            for x, label, at in zip(state.x, state.labels, state.at, strict=True):
                log = log.append(json.dumps({"at": at, "label": int(label), "x": x.tolist()}).encode())
        return log

    def registered(self, secret: bytes, log: MarkLog, interface: Interface) -> DawnMarks:
        """The key of one client's marks, to commit to; the salts come from 32 secret bytes."""
        log.verify()
        x, labels = _pairs(log, interface)
        if not len(x):
            raise NotApplicable(
                "dawn has marked nothing of this client yet: they have asked too little. Wait for more."
            )
        return DawnMarks(secret, x, labels, interface.n_classes)

    def examine(
        self, key: DawnKey | DawnMarks, suspect: Harvest, interface: Interface, log: MarkLog, rng: np.random.Generator
    ) -> Evidence:
        """How many of the marked questions, those of the key or of the log, the suspect answers as marked."""
        if isinstance(key, DawnMarks):
            key.fits(interface)
            x, labels = key.x, key.labels
        else:
            x, labels = _pairs(log, interface)
        if not len(x):
            lacking = "Nothing is marked of what this client was answered: they have asked too little, or elsewhere."
            return Evidence(0, 0, "unknown without marks", 1.0, level=self.level, lacking=lacking)
        return self.counted(labels, suspect.ask(x), interface.n_classes)


def _pairs(log: MarkLog, interface: Interface) -> tuple[Array, Labels]:
    """(n, *input_shape) the marked questions of a log, and (n,) their wrong answers."""
    try:
        read = [json.loads(entry) for entry in log.entries]
        x = np.array([entry["x"] for entry in read], np.float64).reshape(-1, *interface.input_shape)
        labels = np.array([entry["label"] for entry in read], np.int64)
        if len(x) != len(labels) or not all(0 <= label < interface.n_classes for label in labels):
            raise ValueError("another interface")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"A log of dawn was expected to hold questions of {interface.input_shape} and classes below "
            f"{interface.n_classes}; it does not ({error}). Take the log of the stage before this model."
        ) from error
    return x, labels
