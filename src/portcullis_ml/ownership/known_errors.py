"""Known errors: ask the suspect what the victim gets wrong, and count who makes the same mistakes.

The baseline AKH of QuRD ("Queries, Representations and Detection: The next 100 Model Fingerprinting Schemes"), which
found it on par with published fingerprints: no training, no wrong answer served, and a scheme that cannot beat it at
equal queries says so.

Costs the honest client   nothing: neither the model nor its answers are changed.
Does not accuse           without innocent models: independent models share hard inputs and make the same mistakes far
                          more often than by chance, so the null is what at least 20 of them do, not 1 / c.
Accuses in error          models that honestly learnt the owner's rows, unless innocent models in the null did, too:
                          `portcullis watermark innocents` trains those. They cost power.
Query cost                one query for each mistake that is shown.

The key is read off the victim: rows that it was not trained on, whose class is known and which it answers otherwise,
with its wrong answers. Where labels are noisy, an innocent model agrees with many "mistakes" that are none; the null
takes that in, and the proof needs more questions. Whoever was trained on these rows with their true classes matches
less, so such a model must not be among the innocent ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.ownership import Evidence, MarkLog
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Interface, Model, Rows
from portcullis_ml.ownership._counted import Counted
from portcullis_ml.ownership._pairs import PairsKey, drawn

__all__ = ["KnownErrors", "KnownErrorsKey"]


@dataclass(frozen=True)
class KnownErrorsKey(PairsKey):
    scheme: ClassVar[str] = "known_errors"


@dataclass(frozen=True, kw_only=True)
class KnownErrors(Counted[KnownErrorsKey]):
    n: int = 100  # mistakes in the key, at most; as many as the victim makes where those are fewer

    name: ClassVar[str] = "known_errors"
    key: ClassVar[type[PairsKey]] = KnownErrorsKey
    marks: ClassVar = "nothing"
    least: ClassVar[int] = 20
    unless_learnt: ClassVar[tuple[str, ...]] = (
        "Nobody but the owner had the victim's training rows: no innocent model is known to have learnt them, so a "
        "model that did may be accused too.",
    )
    assumed: ClassVar[tuple[str, ...]] = (
        "The key was committed to before the suspect was released.",
        "Nobody trained the suspect on these rows with the victim's wrong answers but by asking the victim.",
        "No innocent model was trained on these rows with their true classes.",
        *unless_learnt,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "n", "an int in [1, 100_000]", lambda v: isinstance(v, int) and 1 <= v <= 100_000)

    def chance(self, n_classes: int) -> float:
        return 0.0  # there is no theory of how alike honest mistakes are

    def mint(
        self, secret: bytes, interface: Interface, victim: Model | None = None, rows: Sequence[Rows | None] = ()
    ) -> KnownErrorsKey:
        """The victim's mistakes on the second of `rows`, n of them in an order that the secret gives."""
        test = rows[1] if len(rows) > 1 else None
        if victim is None or test is None or test.y is None:
            raise NotApplicable(
                "known_errors reads its key off the victim: it needs the model and rows that it was not trained on, "
                "with their classes. Give --victim and --test."
            )
        said = victim.scores(test.x).argmax(axis=1)
        wrong = sorted(np.flatnonzero(said != test.y).tolist(), key=lambda i: drawn(secret, "row", i))[: self.n]
        if not wrong:
            raise NotApplicable(f"known_errors needs mistakes, and the victim makes none on {len(test)} rows.")
        return KnownErrorsKey(secret, test.x[wrong], said[wrong].astype(np.int64), interface.n_classes)

    def examine(
        self, key: KnownErrorsKey, suspect: Harvest, interface: Interface, log: MarkLog, rng: np.random.Generator
    ) -> Evidence:
        key.fits(interface)
        return self.counted(key.labels, suspect.ask(key.x), key.n_classes)
