"""Large bodies are read and large questions written beside the event loop, one at a time and clients by turns."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.asgi import ALICE, Here, question
from tests.gateway.harness import Softmax, served_of

from portcullis_ml.core.types import Answer
from portcullis_ml.gateway.flow import Read
from portcullis_ml.gateway.http.handler import Bodies
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.number_lists import LARGE, MANY
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import ModelSpec, Wire
from portcullis_ml.gateway.reading import Reading
from portcullis_ml.gateway.upstream import HttpUpstream


async def test_clients_have_their_turns_however_many_bodies_one_of_them_sends() -> None:
    reading, order, first = Reading(Bodies()), list[str](), threading.Event()

    def read(name: str) -> None:
        assert first.wait(20)
        order.append(name)

    asked = [
        asyncio.create_task(reading.read(name[0], 1, lambda n=name: read(n)))
        for name in ("a1", "a2", "a3", "b1", "c1", "b2")
    ]
    await asyncio.sleep(0)
    first.set()
    await asyncio.gather(*asked)
    assert order == ["a1", "a2", "b1", "c1", "a3", "b2"]
    reading.close()


async def test_who_waits_counts_among_the_bytes_that_are_held_and_an_error_ends_a_turn() -> None:
    bodies, opened = Bodies(), threading.Event()
    reading = Reading(bodies)

    def fail() -> None:
        assert opened.wait(20)
        raise BadRequest("No.")

    asked = [asyncio.create_task(reading.read("a", 1_000, fail)) for _ in range(3)]
    await asyncio.sleep(0)
    assert bodies.buffered == 3_000
    opened.set()
    assert [type(e) for e in await asyncio.gather(*asked, return_exceptions=True)] == [BadRequest] * 3
    assert bodies.buffered == 0
    assert await reading.read("a", 1, lambda: threading.current_thread().name) == "reading_0"
    reading.close()


@pytest.mark.parametrize("large", [True, False])
async def test_only_a_large_body_is_read_beside_the_loop(large: bool, tmp_path: Path) -> None:
    here, steps = Here(tmp_path), list[type]()
    take = here.gate.batching._take
    here.gate.batching._take = lambda step: (steps.append(type(step)), take(step))[1]  # type: ignore[method-assign]
    x = np.zeros((1_000 if large else 10, 4)).tolist()
    body = question(x) + b" " * (LARGE if large else 0)
    status, _, tree = await here.send(body=body, headers=ALICE)
    assert (status, len(tree["outputs"][0]["data"])) == (200, len(x))
    assert (Read in steps) is large
    here.gate.reading.close()


@pytest.mark.parametrize("protocol", ["v1", "v2", "invocations", "mapping"])
@pytest.mark.parametrize("large", [True, False])
async def test_only_a_question_of_many_numbers_is_written_beside_the_loop(
    large: bool, protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, width, threads = 1_000, MANY // 1_000 + large, list[str]()
    model = Softmax(d=width)
    wire, served, x = CATALOG.load(protocol)(), served_of(model), np.random.default_rng(0).random((rows, width))
    monkeypatch.setattr(type(wire), "ask", noting(type(wire).ask, threads))
    upstream = HttpUpstream("http://127.0.0.1:1", wire, served)
    upstream._client = Answering(model, wire, served)  # type: ignore[assignment]
    reading = Reading(Bodies())
    answer = await upstream.ask(x, {}, partial(reading.read, "alice", x.nbytes))
    np.testing.assert_allclose(answer.scores, model.scores(x), atol=1e-12)
    assert threads == ["reading_0" if large else threading.main_thread().name]
    reading.close()


async def test_a_gate_has_large_questions_written_by_the_thread_that_reads(tmp_path: Path) -> None:
    here, threads = Here(tmp_path), list[str]()
    here.upstream.ask = writing(here.upstream.ask, threads)  # type: ignore[method-assign]
    here.upstream.writes = True  # type: ignore[attr-defined]
    assert (await here.infer([[0.0, 1.0, 2.0, 3.0]]))[0] == 200
    assert threads == ["reading_0"]
    assert here.gate.bodies.buffered == 0
    here.gate.reading.close()


def noting(ask: Any, threads: list[str]) -> Any:
    def noted(*question: Any) -> Any:
        threads.append(threading.current_thread().name)
        return ask(*question)

    return noted


def writing(ask: Any, threads: list[str]) -> Any:
    """An upstream that has every question written beside the loop."""

    async def asked(x: Any, headers: Any, beside: Any) -> Any:
        threads.append(await beside(lambda: threading.current_thread().name))
        return await ask(x, headers)

    return asked


class Answering:
    """The client of an upstream, and the model server behind it."""

    def __init__(self, model: Softmax, wire: Wire, served: ModelSpec) -> None:
        self.model, self.wire, self.served = model, wire, served

    async def ask(self, method: str, path: str, headers: Any, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        inquiry = self.wire.read(self.served, headers, body)
        scores = self.model.scores(inquiry.x)
        reply = self.wire.write(self.served, inquiry, Answer(scores.argmax(axis=1), scores))
        return reply.status, dict(reply.headers), reply.body


async def test_a_large_body_that_is_wrong_gets_400(tmp_path: Path) -> None:
    here = Here(tmp_path)
    assert (await here.send(body=question([[1.0, 2.0, 3.0, 4.0]])[:-2] + b" " * LARGE))[0] == 400
    assert here.gate.bodies.buffered == 0
    here.gate.reading.close()
