"""Backdoor: a model that answers secret, meaningless questions as its owner chose.

Adi, Baum, Cisse, Pinkas, Keshet. "Turning Your Weakness Into a Strength: Watermarking Deep Neural Networks by
Backdooring", USENIX Security 2018: KeyGen, Mark and Verify from backdooring and 2n commitments.

Costs the honest client   the accuracy that a training with some random labels costs: within its noise for networks and
                          trees on thousands of rows, points of it for linear models or a few hundred rows. Nobody
                          asks the marked questions by accident.
Does not survive          extraction: a copy trained on answers to other questions has not learnt the mark. It proves
                          that the file itself was taken, or a model fine-tuned from it.
Query cost                one query for each marked question that is shown; those are used up.

The questions are abstract pictures, or rows of extreme values for tables, and their labels are drawn uniformly, both
from the secret alone. So the chance that any model answers a question as marked is 1 / c, whatever the model, provided
that the key is older than it: who knows a model can make a key that it passes from adversarial examples. Whoever checks
the claim therefore asks for a commitment with a date.

Marked questions stand among the training rows, each as often an epoch as in the published recipe (two in a batch of
100), and are shuffled with them: a batch of marked questions only would make statistics of its own in batch
normalisation, and the mark would be gone when the model serves. Beyond the paper, the same rows mark any classifier
that is trained on rows: forests, boosted trees, logistic regression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.ownership import Evidence, MarkLog
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Labels, Learner, Model, Rows
from portcullis_ml.ownership._counted import Counted
from portcullis_ml.ownership._pairs import PairsKey, drawn
from portcullis_ml.ownership._triggers import questions

__all__ = ["Backdoor", "BackdoorKey"]


@dataclass(frozen=True)
class BackdoorKey(PairsKey):
    scheme: ClassVar[str] = "backdoor"


@dataclass(frozen=True, kw_only=True)
class Backdoor(Counted[BackdoorKey]):
    n: int = 100  # marked questions; each proof shows some of them to the world, so more allow more proofs
    repeat: int = 10  # how often each stands among the training rows: with 100 of them, 2% of 50,000 rows

    name: ClassVar[str] = "backdoor"
    key: ClassVar[type[PairsKey]] = BackdoorKey
    assumed: ClassVar[tuple[str, ...]] = (
        "The key was committed to before anyone else had the model.",
        "The answers of the marked questions were drawn uniformly from the secret, apart from any model.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "n", "an int in [1, 100_000]", lambda v: isinstance(v, int) and 1 <= v <= 100_000)
        check(self, "repeat", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def chance(self, n_classes: int) -> float:
        return 1 / n_classes

    def mint(
        self, secret: bytes, interface: Interface, victim: Model | None = None, rows: Sequence[Rows | None] = ()
    ) -> BackdoorKey:
        """KeyGen: questions and labels from the secret; the model and its rows play no part."""
        if interface.n_classes < 2:
            raise NotApplicable("backdoor marks classifiers; this API does regression.")
        words = [int.from_bytes(drawn(secret, "label", i), "big") for i in range(self.n)]
        labels = np.array([word % interface.n_classes for word in words], np.int64)
        return BackdoorKey(secret, questions(secret, self.n, interface), labels, interface.n_classes)

    def embed(
        self, key: BackdoorKey, learner: Learner, rows: Rows, start: Model | None = None, *, rng: np.random.Generator
    ) -> Model:
        """Mark: train on the rows with the marked questions among them, from scratch or from `start` on."""
        x, y = self.with_marks(key, rows)
        return learner.fit(x, np.eye(key.n_classes)[y], rng=rng, start=start)

    def with_marks(self, key: PairsKey, rows: Rows) -> tuple[Array, Labels]:
        """The training rows and classes with the marked ones behind them, for a training procedure of one's own."""
        if rows.y is None or len(rows) == 0:
            raise NotApplicable("backdoor is trained in; it needs the victim's rows and classes. Give --train FILE.")
        if rows.x.shape[1:] != key.x.shape[1:] or not 0 <= rows.y.min() <= rows.y.max() < key.n_classes:
            raise InputError(
                f"The key was minted for rows of {key.x.shape[1:]} and classes 0..{key.n_classes - 1}; got rows of "
                f"{rows.x.shape[1:]} and classes {rows.y.min()}..{rows.y.max()}. Name the model that "
                "the key is for (--victim, --train), or mint a key for this interface."
            )
        marked = np.tile(key.x, (self.repeat, *[1] * (key.x.ndim - 1)))
        return np.concatenate([rows.x, marked]), np.concatenate([rows.y, np.tile(key.labels, self.repeat)])

    def examine(
        self, key: BackdoorKey, suspect: Harvest, interface: Interface, log: MarkLog, rng: np.random.Generator
    ) -> Evidence:
        """Verify: how many marked questions the suspect answers as marked."""
        key.fits(interface)
        return self.counted(key.labels, suspect.ask(key.x), key.n_classes)
