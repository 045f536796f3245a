"""A gate without sockets: requests as ASGI messages, on the test's own event loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from tests.gateway.harness import KEYS, Softmax, policy_of, stored

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer, Array
from portcullis_ml.gateway.gate import Gate
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.state.streams import Streams

URL = "/v2/models/m/infer"
ALICE = {"x-api-key": KEYS["alice"]}


class FakeUpstream:
    """A model server that a test can break, slow down and look into."""

    def __init__(self, model: Softmax, explains: bool = False) -> None:
        self.model = model
        self.explains = explains
        self.looked = 0  # how often it was asked whether it is ready
        self.fails: BaseException | None = None
        self.waits: asyncio.Event | None = None
        self.headers: list[dict[str, str]] = []
        self.x: list[Array] = []

    async def ask(self, x: Array, headers: Mapping[str, str]) -> Answer:
        self.headers.append(dict(headers))
        self.x.append(x)
        if self.waits:
            await self.waits.wait()
        if self.fails:
            raise self.fails
        scores = self.model.scores(x)
        labels = scores.argmax(axis=1)
        return Answer(labels, scores, self.model.explain(x, labels) if self.explains else None)

    async def ready(self) -> bool:
        self.looked += 1
        return self.fails is None

    async def close(self) -> None:
        pass


def down() -> Unreachable:
    return Unreachable("The model server cannot be reached.", status=502)


class Here:
    """A gate, its upstream and its clock, for one test."""

    def __init__(self, folder: Path, stages: str = "", more: str = "", top: str = "", **settings: Any) -> None:
        self.model = Softmax()
        self.folder = folder
        self.policy: Policy = policy_of(self.model, "http://127.0.0.1:1", folder, stages, more, top)
        self.upstream = FakeUpstream(self.model, self.policy.asked.interface.explains)
        self.now = 1_000.0
        self.alarms: list[Any] = []
        self.open(**settings)

    def open(self, **settings: Any) -> None:
        """Start, or start again after a crash."""
        policy = self.policy
        self.store = stored(policy.state.url)
        self.streams = Streams(
            policy.guard(), self.store, capacity=policy.state.clients_in_memory, when_down=policy.failure.state
        )
        self.gate = Gate(
            policy, self.streams, self.upstream, clock=lambda: self.now, on_alarm=self.alarms.append, **settings
        )

    async def infer(self, x: Any, headers: Mapping[str, str] = ALICE, **more: Any) -> tuple[int, dict[str, str], Any]:
        return await self.send(body=question(x, **more), headers=headers)

    async def send(
        self, method: str = "POST", path: str = URL, body: bytes = b"", headers: Mapping[str, str] = ALICE, **scope: Any
    ) -> tuple[int, dict[str, str], Any]:
        status, found, text = await call(self.gate, method, path, body, headers, **scope)
        return status, found, orjson.loads(text) if text[:1] in (b"{", b"[") else text


def question(x: Any, **more: Any) -> bytes:
    x = np.asarray(x, float)
    tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP64", "data": x.ravel().tolist()}
    return orjson.dumps({"inputs": [tensor], **more})


async def call(
    app: Any, method: str, path: str, body: bytes, headers: Mapping[str, str] | list[tuple[str, str]], **scope: Any
) -> tuple[int, dict[str, str], bytes]:
    """One request; `pieces` cuts the body, `slow` waits before each piece."""
    pieces, slow = scope.pop("pieces", 1), scope.pop("slow", 0.0)
    cut = _cut(body, pieces)
    messages = itertools.chain(
        ({"type": "http.request", "body": part, "more_body": i < len(cut) - 1} for i, part in enumerate(cut)),
        itertools.repeat({"type": "http.disconnect"}),
    )
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(slow)
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = headers.items() if isinstance(headers, Mapping) else headers
    raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in pairs]
    head = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": raw}
    await app({**head, "client": ("127.0.0.1", 1234), **scope}, receive, send)
    found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:])


def _cut(body: bytes, pieces: int) -> list[bytes]:
    size = max(1, -(-len(body) // pieces))
    return [body[i : i + size] for i in range(0, len(body), size)] or [b""]
