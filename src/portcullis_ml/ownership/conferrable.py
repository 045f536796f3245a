"""Conferrable examples: ask what the victim and copies of it answer alike, and independent models otherwise.

After Lukas, Zhang, Kerschbaum. "Deep Neural Network Fingerprinting by Conferrable Adversarial Examples", ICLR 2021: no
training of the victim, no wrong answer served. Which copies are made, and how questions are searched for, is our own.

Costs the honest client   nothing: neither the model nor its answers are changed.
Does not accuse           without innocent models: the null is what at least 20 of them do, none of which helped to make
                          the key. The reference models below are made here, used for the key, and never judge it.
Accuses in error          models that honestly learnt the owner's rows, unless innocent models in the null did, too:
                          `portcullis watermark innocents` trains those. They cost most of its power.
Query cost                one query for each question that is shown.

The owner trains copies of the victim as thieves do (from its scores, from its labels and, where the victim is a
network, on from its weights) and reference models on the true classes. A question starts as a natural row that the
victim was not trained on and moves within `eps` of it to where S (1 - R) for its target class is greatest: S and R are
the mean probabilities that the copies and the reference models give that class. Those that the victim itself answers so
are kept, as many for each class, since a model that is merely fond of one class would otherwise match many.

Gradients are those of the networks that are trained here, so a victim without any (a forest, an API of one's own) is
served as well, as far as networks copy it. Whoever knows a model can make such a key at any time: that is what
adversarial examples are. A key proves something only with a date before the suspect's release; the court asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.ownership import Evidence, MarkLog
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Differentiable, Interface, Labels, Model, Rows
from portcullis_ml.ownership._conferring import searched, starts, worth_of
from portcullis_ml.ownership._counted import Counted
from portcullis_ml.ownership._pairs import PairsKey, drawn

if TYPE_CHECKING:
    from portcullis_ml.models.torch import TorchLearner

__all__ = ["Conferrable", "ConferrableKey"]

TRIES = 8  # starts for each question wanted
SHARE = 2 / 3  # of the rows to learn from that each model is trained on


@dataclass(frozen=True)
class ConferrableKey(PairsKey):
    scheme: ClassVar[str] = "conferrable"


@dataclass(frozen=True, kw_only=True)
class Conferrable(Counted[ConferrableKey]):
    n: int = 100  # questions in the key, at most; as many as are found where those are fewer
    eps: float = 0.1  # how far a question may be from a natural row, as a share of each input's range
    copies: int = 9  # copies of the victim that are trained to make the key, and as many reference models
    learn: int = 4_000  # rows that each of them is trained on, at most
    epochs: int = 20  # of their training
    network: str | None = None  # of them; None: the victim's own, or a plain one where it has none

    name: ClassVar[str] = "conferrable"
    key: ClassVar[type[PairsKey]] = ConferrableKey
    marks: ClassVar = "nothing"
    least: ClassVar[int] = 20
    unless_learnt: ClassVar[tuple[str, ...]] = (
        "Nobody but the owner had the victim's training rows: no innocent model is known to have learnt them, so a "
        "model that did may be accused too.",
    )
    assumed: ClassVar[tuple[str, ...]] = (
        "The key was committed to before the suspect was released.",
        "No innocent model is one of those that the key was made with, or was trained on rows beside its questions.",
        *unless_learnt,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "n", "an int in [1, 100_000]", lambda v: isinstance(v, int) and 1 <= v <= 100_000)
        check(self, "eps", "in (0, 1], a share of the input range", lambda v: 0 < v <= 1)
        check(self, "copies", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "learn", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "epochs", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "network", "a name or None", lambda v: v is None or isinstance(v, str))

    def chance(self, n_classes: int) -> float:
        return 0.0  # there is no theory of how often independent models share adversarial examples

    def mint(
        self, secret: bytes, interface: Interface, victim: Model | None = None, rows: Sequence[Rows | None] = ()
    ) -> ConferrableKey:
        """Questions near the second of `rows`; models learn from one half of these, in an order that the secret gives,
        and from the first of `rows` where there are any. The other half are starts."""
        test = rows[1] if len(rows) > 1 else None
        if victim is None or test is None or test.y is None or interface.n_classes < 2:
            raise NotApplicable(
                "conferrable reads its key off a classifier: it needs the model and rows that it was not trained on, "
                "with their classes. Give --victim and --test."
            )
        rng = np.random.default_rng(list(drawn(secret, "models")))
        learnt, natural = np.array_split(rng.permutation(len(test)), 2)
        known = Rows(test.x[learnt], test.y[learnt])
        if rows[0] is not None and rows[0].y is not None:
            known = Rows(np.concatenate([rows[0].x, known.x]), np.concatenate([rows[0].y, known.y]))
        copies, references = self._models(victim, known, interface.n_classes, rng)
        x, targets = self._found(victim, copies, references, test.x[natural], interface)
        if not len(x):
            raise NotApplicable(
                f"conferrable found no question near {len(test)} rows that the victim and its copies answer otherwise "
                "than independent models. Give more rows, or a larger eps."
            )
        return ConferrableKey(secret, x, targets, interface.n_classes)

    def examine(
        self, key: ConferrableKey, suspect: Harvest, interface: Interface, log: MarkLog, rng: np.random.Generator
    ) -> Evidence:
        key.fits(interface)
        return self.counted(key.labels, suspect.ask(key.x), key.n_classes)

    def _learner(self, victim: Model, shape: tuple[int, ...]) -> TorchLearner:
        from portcullis_ml.models.networks import plain_network
        from portcullis_ml.models.torch import TorchLearner

        own = self.network or getattr(victim, "network", None)
        return TorchLearner(
            network=own or (plain_network(shape) if len(shape) > 1 else "table_mlp"), epochs=self.epochs
        )

    def _models(
        self, victim: Model, known: Rows, n_classes: int, rng: np.random.Generator
    ) -> tuple[list[Differentiable], list[Differentiable]]:
        """Copies of the victim, and as many reference models, each from a random part of the known rows."""
        learner = self._learner(victim, known.x.shape[1:])
        said, true = victim.scores(known.x), np.eye(n_classes)[known.y]
        start = victim if learner.network == getattr(victim, "network", None) else None
        ways: list[tuple[Array, Model | None]] = [(said, None), (np.eye(n_classes)[said.argmax(axis=1)], None)]
        ways += [] if start is None else [(true, start)]

        def trained(targets: Array, start: Model | None = None) -> Differentiable:
            mine = rng.permutation(len(known))[: min(self.learn, max(1, round(SHARE * len(known))))]
            return learner.fit(known.x[mine], targets[mine], rng=rng, start=start)

        copies = [trained(*ways[i % len(ways)]) for i in range(self.copies)]
        return copies, [trained(true) for _ in range(self.copies)]

    def _found(
        self,
        victim: Model,
        copies: Sequence[Differentiable],
        references: Sequence[Differentiable],
        natural: Array,
        interface: Interface,
    ) -> tuple[Array, Labels]:
        """(n, *input_shape) the questions and (n,) their targets: the best of what the search found, class by class."""
        each = -(-self.n // interface.n_classes)
        at, targets = starts(copies, references, natural, TRIES * each)
        x = searched(copies, references, natural[at], targets, interface, self.eps)
        worth = worth_of(copies, references, x, targets)
        worth[victim.scores(x).argmax(axis=1) != targets] = 0
        best = [np.flatnonzero(targets == c) for c in range(interface.n_classes)]
        chosen = np.concatenate([mine[np.argsort(-worth[mine], kind="stable")[:each]] for mine in best])
        chosen = chosen[worth[chosen] > 0]
        chosen = chosen[np.argsort(-worth[chosen], kind="stable")[: self.n]]
        return x[chosen], targets[chosen]
