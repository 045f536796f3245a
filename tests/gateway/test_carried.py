"""What a question carries beside its rows goes from the client to the model server, and nothing else does."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from portcullis_ml.core.guard import Released
from portcullis_ml.core.types import Answer, Interface
from portcullis_ml.gateway.exchange import Notes
from portcullis_ml.gateway.flow import Ask, Books, Release, Rules, Step, answered, driven
from portcullis_ml.gateway.protocols.mapping import JsonPath
from portcullis_ml.gateway.protocols.wire import NOTHING, Carried, ModelSpec
from portcullis_ml.gateway.protocols.wire import Ask as Question
from portcullis_ml.gateway.upstream import HttpUpstream

X = np.zeros((2, 3))


class Texts(JsonPath):
    """A protocol that sends texts in the place of rows."""

    def ask(self, served: ModelSpec, x: np.ndarray, carried: Carried = NOTHING) -> Question:
        return Question("/", json.dumps([*(carried.texts or ("plain",)), *carried.extras]).encode(), {})


async def test_upstream_sends_what_is_carried_and_tries_with_it_later() -> None:
    interface = Interface(input_shape=(3,), n_classes=2)
    upstream = HttpUpstream("http://127.0.0.1:9", Texts(), ModelSpec(name="m", interface=interface))
    sent: list[bytes] = []

    async def posted(method: str, path: str, headers: Any, body: bytes, **limits: Any) -> tuple[int, Any, bytes]:
        sent.append(body)
        rows = 2 if b"two" in body else 1
        return 200, {}, json.dumps({"scores": [[0.5, 0.5]] * rows}).encode()

    upstream._client.ask = posted  # type: ignore[method-assign, assignment]
    await upstream.ask(X, {}, carried=Carried(("one", "two"), {"lang": "en"}))
    await upstream.try_out()
    assert sent == [b'["one", "two", "lang"]', b'["one", "lang"]']
    await upstream.close()


def test_flow_hands_on_what_is_carried() -> None:
    asked: list[Carried] = []
    clean = Answer(np.array([0, 1]), np.full((2, 2), 0.5))

    def take(step: Step) -> Any:
        if isinstance(step, Ask):
            asked.append(step.carried)
            return clean
        return (1, Released(clean, np.zeros(2, bool))) if isinstance(step, Release) else 1

    carried = Carried(("a", "b"))
    driven(answered("alice", X, 0.0, Rules(), Notes(), Books(), {}, carried), take)
    assert asked == [carried]
