"""Label-only inversion: a generator that learnt from public inputs which of them the model calls what.

After Liu et al., ACM CCS 2023 (label-only model inversion with a conditional diffusion model), by title and idea: the
generator here is a small conditional autoencoder (`models/generator.py`).

Threat model   answers: labels.  data: a pool of public inputs that look like the victim's, without labels.
Query cost     one query for each row of the pool, up to `rows` of them; then at most `samples` times the number of
               noise levels, and one more, for each class.

The victim labels the pool, a generator of inputs by class is trained on these pairs, and draws samples of the class
that is to be inverted. Those that the victim itself puts into the class are asked again under growing noise, and the
one that stays in class under the most is kept: it lies deep in the class and not at its edge.

What of that the model gave away is told by two controls. `by=shuffled` trains the same generator on the same labels in
a random order: it knows the pool and not what the victim calls it. `by=pool` takes the public inputs themselves
and chooses among them in the same way: what the generator adds is the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.privacy import Leakage, PrivacyAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import WITHHELD, Array, Interface, Labels, Rows

__all__ = ["LabelOnlyInversion"]

BY = ("generator", "shuffled", "pool")
SHARE = 0.5  # of a budget that does not pay for all rows: what is left asks about the samples


@dataclass(frozen=True, kw_only=True)
class LabelOnlyInversion(PrivacyAttack):
    by: Literal["generator", "shuffled", "pool"] = "generator"  # where samples come from; the others are controls
    classes: tuple[int, ...] = ()  # to invert; none named: all
    rows: int = 5_000  # of the pool that are labelled at most
    samples: int = 50  # of each class that are drawn
    noises: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)  # deviations, as shares of an input's range
    hidden: int = 256  # units of the generator's layers
    latent: int = 16  # numbers behind a sample
    epochs: int = 20  # passes of its training
    batch: int = 256  # rows sent at a time

    name: ClassVar[str] = "label_only_inversion"
    needs: ClassVar[Needs] = Needs(pool=True)

    def __post_init__(self) -> None:
        check(self, "by", f"one of {', '.join(BY)}", lambda v: v in BY)
        check(self, "classes", "a tuple of ints", lambda v: all(isinstance(c, int) and c >= 0 for c in v))
        for name in ("rows", "samples", "hidden", "latent", "epochs", "batch"):
            check(self, name, "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        rising = "a tuple of numbers above 0 that grow"
        check(self, "noises", rising, lambda v: all(a < b for a, b in zip((0.0, *v), v, strict=False)))

    def infer(
        self,
        harvest: Harvest,
        interface: Interface,
        knowledge: Knowledge,
        candidates: Rows,
        rng: np.random.Generator,
    ) -> Leakage:
        wanted = self.classes or tuple(range(interface.n_classes))
        if max(wanted) >= interface.n_classes:
            raise NotApplicable(
                f"label_only_inversion inverts classes below {interface.n_classes}; class {max(wanted)} was named."
            )
        assert knowledge.pool is not None  # `needs` asks for one
        pool = knowledge.pool[rng.permutation(len(knowledge.pool))[: self._affordable(harvest.left)]]
        labels = self._labels(harvest, pool)
        pool, labels = pool[: len(labels)][labels != WITHHELD], labels[labels != WITHHELD]
        found = [c for c in wanted if (labels == c).any()]
        samples, of = self._drawn(pool.reshape(len(pool), -1), labels, found, interface, rng)
        kept = self._steadiest(harvest, samples, of, interface, rng)
        chosen = [c for c in found if c in kept]
        shape = (-1, *interface.input_shape)
        recovered = np.stack([kept[c][0] for c in chosen]).reshape(shape) if chosen else pool[:0]
        notes = {
            "classes": chosen,
            "stays_under": [kept[c][1] for c in chosen],
            "pool_labelled": {c: int((labels == c).sum()) for c in wanted},
        }
        return Leakage(recovered=recovered, notes=notes)

    def _affordable(self, left: int) -> int:
        """Rows of the pool to label: all that are wanted, where half of the budget pays for them."""
        return min(self.rows, max(1, round(SHARE * left)))

    def _labels(self, harvest: Harvest, x: Array) -> Labels:
        """The labels of as many rows as were answered."""
        told = [np.empty(0, np.int64)]
        for start in range(0, len(x), self.batch):
            answer = harvest.ask(x[start : start + self.batch])
            told.append(answer.labels if answer.labels is not None else np.empty(0, np.int64))
            if not harvest.open:
                break
        return np.concatenate(told)

    def _drawn(
        self, pool: Array, labels: Labels, classes: list[int], interface: Interface, rng: np.random.Generator
    ) -> tuple[Array, Labels]:
        """(m, width) samples of the classes, and the class of each."""
        if not classes:
            return pool[:0], labels[:0]
        if self.by == "pool":
            own = [np.flatnonzero(labels == c)[: self.samples] for c in classes]
            rows = np.concatenate(own)
            return pool[rows], labels[rows]
        from portcullis_ml.models.generator import GeneratorLearner

        low, width = interface.low, np.where(interface.high > interface.low, interface.high - interface.low, 1.0)
        learner = GeneratorLearner(hidden=self.hidden, latent=self.latent, epochs=self.epochs)
        told = rng.permutation(labels) if self.by == "shuffled" else labels
        generator = learner.fit((pool - low) / width, told, interface.n_classes, rng=rng)
        of = np.repeat(np.array(classes, np.int64), self.samples)
        return low + width * generator.sample(of, rng=rng), of

    def _steadiest(
        self, harvest: Harvest, samples: Array, of: Labels, interface: Interface, rng: np.random.Generator
    ) -> dict[int, tuple[Array, float]]:
        """For each class the sample that the victim keeps in it under the largest noise, and that noise.

        A class into which the victim puts none of its samples keeps the first of them, with a noise of -1.
        """
        kept = {int(c): (samples[np.flatnonzero(of == c)[0]], -1.0) for c in np.unique(of)}
        alive, low, high = np.arange(len(samples)), interface.low, interface.high
        for noise in (0.0, *self.noises):
            if not len(alive) or not harvest.open:
                break
            moved = samples[alive] + noise * (high - low) * rng.normal(size=samples[alive].shape)
            told = self._labels(harvest, np.clip(moved, low, high).reshape(-1, *interface.input_shape))
            alive = alive[: len(told)][told == of[alive[: len(told)]]]
            kept |= {int(of[i]): (samples[i], noise) for i in alive[::-1]}  # of equal ones the first is kept
        return kept
