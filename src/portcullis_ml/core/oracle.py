"""Oracles: the only thing an attack may touch. They count, record and refuse.

One row sent is one query paid, charged before it is answered; midpoints of line searches, finite differences,
validation and repeats included. A batch that does not fit in what is left is cut by the attack, never by the oracle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Protocol, final, runtime_checkable

import numpy as np

from portcullis_ml.core.errors import BudgetExhausted, InputError, ParameterError, Refused
from portcullis_ml.core.guard import Alarm, Guard
from portcullis_ml.core.types import Answer, Array, Explaining, Floats, Interface, Model, Request

__all__ = ["Ledger", "LocalOracle", "MeteredOracle", "Oracle"]


@runtime_checkable
class Oracle(Protocol):
    """A prediction API with a budget."""

    @property
    def interface(self) -> Interface: ...

    @property
    def left(self) -> int:
        """Rows that can still be paid for."""

    def query(self, x: Array) -> Answer:
        """(n, *input_shape) -> the answer for n rows. Raises BudgetExhausted, Refused or Unreachable."""


class Ledger(Protocol):
    """Every row paid for and what came back, kept in order; on a resumed run it answers instead of the API."""

    def recall(self, x: Array) -> Answer | None:
        """The recorded answers for the rows at the head of x that come next in the record (None if there
        are none). Raises InputError if the record holds other questions at this place."""

    def record(self, x: Array, answer: Answer) -> None:
        """Append; on return the rows are safe on disk."""


class MeteredOracle(ABC):
    """Counting, checking and recording for every oracle; a subclass only says how to ask."""

    def __init__(self, interface: Interface, *, budget: int, ledger: Ledger | None = None) -> None:
        if budget < 1:
            raise ParameterError("budget", "at least 1 query", budget)
        self._interface = interface
        self.budget = budget
        self.queries = 0
        self._ledger = ledger

    @property
    def interface(self) -> Interface:
        return self._interface

    @property
    def left(self) -> int:
        return self.budget - self.queries

    @final
    def query(self, x: Array) -> Answer:
        x = self._checked(x)
        if len(x) > self.left:
            raise BudgetExhausted(len(x), self.left)
        self.queries += len(x)
        known = self._ledger.recall(x) if self._ledger is not None and len(x) else None
        if known is None:
            return self._paid(x)
        self._relive(x[: len(known)])
        if len(known) == len(x):
            return known
        try:
            return Answer.concat([known, self._paid(x[len(known) :])])
        except Refused as refusal:
            refusal.answered = known if refusal.answered is None else Answer.concat([known, refusal.answered])
            raise

    @abstractmethod
    def _ask(self, x: Array) -> Answer:
        """The API's answer, already cut to what the interface shows."""

    def _relive(self, x: Array) -> None:  # noqa: B027 (most oracles have nothing to do)
        """These rows were paid for in an earlier run; bring whatever remembers the client up to date."""

    def _paid(self, x: Array) -> Answer:
        """Ask, and have the answer recorded before anyone sees it."""
        try:
            answer = self._ask(x)
        except Refused as refusal:
            self.queries -= refusal.untaken(len(x))
            if self._ledger is not None and refusal.answered is not None:
                self._ledger.record(x[: len(refusal.answered)], refusal.answered)
            raise
        if self._ledger is not None:
            self._ledger.record(x, answer)
        return answer

    def _checked(self, x: Array) -> Array:
        x = np.asarray(x, np.float64)
        shape = self._interface.input_shape
        if x.ndim != len(shape) + 1 or x.shape[1:] != shape:
            raise InputError(f"A query must have shape (n, {', '.join(map(str, shape))}); got {x.shape}.")
        bad = ~np.isfinite(x) & ~(np.isnan(x) & self._interface.missing)
        if bad.any():
            omitted = "NaN means 'omitted' only where the interface allows missing inputs."
            raise InputError(f"A query must be finite; got NaN or infinity. {omitted}")
        return x


class LocalOracle(MeteredOracle):
    """A model in this process behind its guard: the audit's oracle, and the twin of the gateway.

    client   who asks, for the guard's state
    rate     queries a second, from which `Request.at` follows; no clock is read

    When the guard closes the door in the middle of a batch, the rows answered before travel in `Refused.answered`: a
    thief who had sent them one at a time would have them too. So do the rows that a quota had room for.
    """

    def __init__(
        self,
        model: Model,
        interface: Interface,
        *,
        budget: int,
        guard: Guard | None = None,
        client: str = "thief",
        rate: float = 1.0,
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(interface, budget=budget, ledger=ledger)
        self._model = model
        self._guard = guard
        if guard is not None:
            guard.bind(interface)  # unless it is bound to more than the thief is shown
        self._client = client
        self._rate = rate
        self.alarms: list[Alarm] = []
        self.hashes = 0.0  # that proofs of work would have taken on average: they are counted, not computed

    def _ask(self, x: Array, work: int = 0) -> Answer:
        request = Request(self._client, x, self.queries / self._rate, work)
        if self._guard:
            try:
                self._guard.admit(request)
            except Refused as refusal:
                if refusal.work > work:
                    self.hashes += 2.0**refusal.work
                    return self._ask(x, refusal.work)
                if 0 < (refusal.room or 0) < len(x):
                    refusal.answered = self._ask(x[: refusal.room])
                raise
        try:
            clean = checked_answer(self._model, x, self._interface)
        except Exception:
            if self._guard:
                self._guard.undo(request)
            raise
        if self._guard is None:
            return clean.only(self._interface)
        released = self._guard.release(request, clean)
        self.alarms.extend(released.alarms)
        answer = released.answer.only(self._interface)
        answered = answer.answered
        if answered.all():
            return answer
        first = int(answered.argmin())
        raise Refused("this client was blocked", answered=answer.take(slice(first)) if first else None)

    def _relive(self, x: Array) -> None:
        if self._guard is None:
            return
        try:
            self._ask(x)
        except Refused:
            pass  # the record says how far the answers went; the guard now stands where it stood


def checked_answer(model: Model, x: Floats, interface: Interface) -> Answer:
    """The model's full answer, or InputError in one sentence if it is not what a model may return.

    The model gets a copy: one that writes into its rows would change what the guard looks at afterwards.
    """
    scores = np.asarray(model.scores(np.array(x, np.float64)), np.float64)
    wanted = (len(x), interface.columns)
    if scores.shape != wanted:
        raise InputError(f"The model must return {len(x)} x {wanted[1]} scores; got an array of shape {scores.shape}.")
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
        raise InputError(f"The model must return finite scores; row {row} of the batch has NaN or infinity.")
    if interface.task == "classification":
        total = scores.sum(axis=1)
        if (scores < 0).any() or (abs(total - 1) > 1e-3).any():
            found = f"one row sums to {total[np.argmax(abs(total - 1))]:.4g} and the least score is {scores.min():.4g}"
            raise InputError(
                f"The model must return probabilities that sum to one; {found}. "
                "If they are logits, say --softmax in an audit; elsewhere wrap the model with a softmax."
            )
    answer = Answer.of(scores, interface)
    return replace(answer, explanation=_explanation(model, x, answer)) if interface.explains else answer


def _explanation(model: Model, x: Floats, answer: Answer) -> Array:
    if answer.labels is None or not isinstance(model, Explaining):
        raise InputError("This API is said to explain its answers, and the model cannot. Leave explanations out.")
    explanation = np.asarray(model.explain(np.array(x, np.float64), answer.labels), np.float64)
    if len(explanation) != len(x) or not np.isfinite(explanation).all():
        raise InputError(f"The model must explain {len(x)} rows by finite numbers; got shape {explanation.shape}.")
    return explanation
