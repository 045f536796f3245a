"""Large bodies are read beside the event loop, one at a time, and clients have their turns."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.gateway.asgi import ALICE, Here, question

from portcullis_ml.gateway.flow import Read
from portcullis_ml.gateway.http.handler import Bodies
from portcullis_ml.gateway.protocols.number_lists import LARGE
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.reading import Reading


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


async def test_a_large_body_that_is_wrong_gets_400(tmp_path: Path) -> None:
    here = Here(tmp_path)
    assert (await here.send(body=question([[1.0, 2.0, 3.0, 4.0]])[:-2] + b" " * LARGE))[0] == 400
    assert here.gate.bodies.buffered == 0
    here.gate.reading.close()
