"""The guard without a gate: around a model in this process, or inside an application that exists already.

model = Guarded(classifier, guard)
model.predict_proba(rows, client="alice")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, ClassVar

import numpy as np

from portcullis_ml.core.errors import Refused
from portcullis_ml.core.guard import Alarm, Guard
from portcullis_ml.core.oracle import checked_answer
from portcullis_ml.core.types import Answer, Array, Floats, Interface, Model, Request
from portcullis_ml.gateway.exchange import Notes
from portcullis_ml.gateway.flow import Admit, Ask, Books, Release, Rules, Step, answered, driven
from portcullis_ml.gateway.gate import Gate
from portcullis_ml.gateway.models import Models
from portcullis_ml.gateway.protocols.wire import NOTHING, Carried
from portcullis_ml.models.texts import with_texts

__all__ = ["Guarded", "GuardedRoutes"]


class Guarded:
    """A model behind a guard, for code that expects a scikit-learn classifier.

    `at` is the time of a request in seconds; it matters to quotas only.
    """

    def __init__(self, model: Model, guard: Guard, *, interface: Interface | None = None) -> None:
        self._model = model
        self._guard = guard
        shape, classes = model.input_shape, model.n_classes
        task: Any = "classification" if classes else "regression"
        self.interface = interface or Interface(input_shape=shape, n_classes=classes, task=task)
        guard.bind(self.interface)  # unless it is bound already
        self.alarms: list[Alarm] = []

    def answer(self, x: Array, *, client: str, at: float = 0.0) -> Answer:
        """(n, *input_shape) -> what the API shows for n rows; raises Refused."""
        request = Request(client, np.asarray(x, np.float64), at)

        def take(step: Step) -> Any:
            if isinstance(step, Admit):
                self._guard.admit(request)
                return 1
            if isinstance(step, Ask):
                return checked_answer(self._model, step.x, self.interface)
            if isinstance(step, Release):
                return 1, self._guard.release(request, step.clean)
            return self._guard.undo(request)

        books = Books(on_alarm=lambda alarm, line: self.alarms.append(alarm))
        steps = answered(client, request.x, at, Rules(), Notes(), books, {})
        shown = driven(steps, take).only(self.interface)
        if not shown.answered.any():
            raise Refused("this client was blocked")
        return shown

    def predict_proba(self, x: Array, *, client: str, at: float = 0.0) -> Array:
        """(n, columns) what is shown of the probabilities; NaN where withheld."""
        answer = self.answer(x, client=client, at=at)
        blank = np.full((len(answer), self.interface.columns), np.nan)
        return blank if answer.scores is None else answer.scores

    def predict(self, x: Array, *, client: str, at: float = 0.0) -> np.ndarray:
        """(n,) classes, -1 where withheld; for regression, values: (n, outputs) where a row has more than one."""
        answer = self.answer(x, client=client, at=at)
        if answer.labels is not None:
            return answer.labels
        values = np.asarray(answer.scores)
        return values[:, 0] if self.interface.outputs == 1 else values


class GuardedRoutes:
    """ASGI middleware: the gate answers its own protocols' routes, the application all others.

        app = GuardedRoutes(app, gate=gate)

    The gate's upstream may be a model in this process (`LocalUpstream`), so that no hop is added. Take
    care that the application has no unguarded route to the same model.
    """

    def __init__(self, app: Callable[..., Any], *, gate: Gate | Models) -> None:
        self.app = app
        self.gate = gate

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        ours = scope["type"] == "http" and self.gate.take(scope["method"], scope["path"])
        await (self.gate if ours else self.app)(scope, receive, send)


class LocalUpstream:
    """A model in this process as a gate's upstream; one that takes texts is a `models.texts.TextModel`."""

    without_task: ClassVar[bool] = True

    def __init__(self, model: Model, interface: Interface) -> None:
        self._model = model
        self._interface = interface

    async def ask(self, x: Floats, headers: Mapping[str, str], carried: Carried = NOTHING) -> Answer:
        return checked_answer(*with_texts(self._model, x, carried.texts), self._interface)

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        pass
