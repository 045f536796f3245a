"""Averaging: ask about every row several times, each time moved a little, and train on the mean of the answers.

Orekondy, Schiele, Fritz. "Prediction Poisoning: Towards Defenses Against DNN Model Stealing Attacks", ICLR 2020, the
section on baselines, describes the noise that is averaged out; Kariyappa, Prakash, Qureshi. "Protecting DNNs from Theft
Using an Ensemble of Diverse Models", ICLR 2021, the section on inference, the members whose answers are put together.

Threat model   answers: labels or more, with noise of a defense that the thief has been told of, or of one of several
               networks for each question.
               data: that of the attack that it wraps; by itself a pool where there is one, else uniform questions.
Query cost     that of the attack that it wraps, `repeats` times; so a budget reaches fewer different rows.

A guard gives the same question the same noise, so asking again teaches nothing. Asking about a row that lies next to
it does: the model answers almost the same, and the noise is new. The wrapped attack sees an API with fewer questions
left and less noise. Where rows are to be had, asking about new rows in place of neighbours averages as well, since a
learner averages over rows; it is the thief with few rows, and the attack that solves equations, whom this helps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import NotApplicable, Refused
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Array, Interface, Model, Reveals
from portcullis_ml.extraction._wrapped import collect

__all__ = ["Averaging"]

UNITS = (
    "dawn", "diverse_ensemble", "label_preserving_noise", "noise", "out_of_domain", "private_answers", "random_vertex",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Averaging(ExtractionAttack):
    of: ExtractionAttack | None = None  # the attack that is wrapped; None asks about the pool, or about uniform rows
    repeats: int = 3  # questions about every row; more leave less noise and reach fewer rows
    jitter: float = 0.01  # how far a number is moved at most, as a share of its range; more blurs what is learned

    name: ClassVar[str] = "averaging"
    needs: ClassVar[Needs] = Needs(learner=True, defense=UNITS)

    def __post_init__(self) -> None:
        check(self, "of", "an extraction attack, or None", lambda v: v is None or isinstance(v, ExtractionAttack))
        check(self, "repeats", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "jitter", "a number in [0.0001, 0.5]", lambda v: 1e-4 <= v <= 0.5)  # guards round questions to 1e-6

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        assert knowledge.learner is not None  # `needs` says so
        if not _numeric(interface).any():
            raise NotApplicable(f"{self.name} needs an input that is a number; this API's are all categories.")
        inner = Harvest(_Averaged(harvest, interface, self.repeats, self.jitter, rng))
        copy = collect(self.of, inner, interface, knowledge, rng)
        harvest.notes |= inner.notes | {"different_rows": len(inner)}
        paid = [min(rows * self.repeats, harvest.paid) for rows, _ in inner.history]
        harvest.history += [(n, model) for n, (_, model) in zip(paid, inner.history, strict=True) if model is not copy]
        return knowledge.learner.fit(inner.x, inner.targets(), rng=rng) if copy is None else copy


class _Averaged:
    """The API as the wrapped attack sees it: every row is asked `repeats` times, and the mean is the answer.

    The last row is asked as often as the budget allows, once at least.
    """

    def __init__(
        self, harvest: Harvest, interface: Interface, repeats: int, jitter: float, rng: np.random.Generator
    ) -> None:
        self.interface = interface
        self._harvest, self._repeats, self._rng = harvest, repeats, rng
        self._reach = np.where(_numeric(interface), jitter * (interface.high - interface.low), 0.0)

    @property
    def left(self) -> int:
        return -(-self._harvest.left // self._repeats)

    def query(self, x: Array) -> Answer:
        each = np.repeat(np.arange(len(x)), self._repeats)
        asked = x[each]
        again = np.arange(len(each)) % self._repeats > 0  # the first question about a row is the row itself
        asked[again] = self._moved(asked[again])
        answer = self._harvest.ask(asked)
        mean = _mean(answer, each[: len(answer)], self.interface) if len(answer) else None
        if self._harvest.stopped != "done":
            raise Refused(self._harvest.stopped, answered=mean)
        assert mean is not None  # nothing was refused and there was something left
        return mean

    def _moved(self, x: Array) -> Array:
        """The rows with every number moved by up to the reach; one that would leave its range goes the other way."""
        flat = x.reshape(len(x), -1)
        step = self._rng.uniform(-1, 1, flat.shape) * self._reach
        outside = (flat + step < self.interface.low) | (flat + step > self.interface.high)
        return np.asarray(np.where(outside, flat - step, flat + step).reshape(x.shape))


def _numeric(interface: Interface) -> NDArray[np.bool_]:
    """(n_inputs,) which inputs are numbers that can be moved."""
    return np.array([not f.categorical for f in interface.features or ()] or [True] * interface.n_inputs)


def _mean(answer: Answer, each: NDArray[np.int64], interface: Interface) -> Answer:
    """One answer for each row from those to its neighbours; each (m,) says whose neighbour it is, in order.

    What is averaged is what a thief would train on. An API that shows labels is answered with the most frequent one.
    """
    count = np.bincount(each)
    total = np.add.reduceat(answer.soft(interface.n_classes), np.flatnonzero(np.diff(each, prepend=-1)), axis=0)
    shares = total / count[:, None]
    return Answer(shares.argmax(axis=1), None if interface.reveals == Reveals.LABELS else shares)
