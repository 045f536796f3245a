"""The door's transport: how many writes an answer takes, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

from portcullis.gateway.door import _OneWrite
from portcullis.gateway.server import settle

HEAD, BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", b"ok"


class Wire:
    """Notes what is done to a transport."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.done


def after(*steps: str) -> list[Any]:
    """What a transport saw: "head" and "body" are written, "pause" lets the loop run, "close" closes."""

    async def run() -> list[Any]:
        wire = Wire()
        joined = _OneWrite(wire, asyncio.get_running_loop())  # type: ignore[arg-type]
        for step in steps:
            if step == "pause":
                await asyncio.sleep(0)
            elif step == "close":
                joined.close()
                assert joined.is_closing()
            else:
                joined.write({"head": HEAD, "body": BODY}[step])
        return wire.done

    return asyncio.run(run())


def test_the_head_and_the_body_behind_it_are_one_write() -> None:
    assert after("head", "body") == [HEAD + BODY]
    assert after("head", "body", "head", "body", "pause") == [HEAD + BODY, HEAD + BODY]


def test_a_head_without_a_body_goes_by_itself() -> None:
    assert after("head", "pause") == [HEAD]
    assert after("head", "pause", "body", "pause") == [HEAD, BODY]
    assert after("head", "close") == [HEAD, "closed"]
    assert after("head", "head", "pause") == [HEAD + HEAD]


def test_what_is_there_at_the_start_is_kept_from_the_garbage_collector() -> None:
    before, asked = gc.get_freeze_count(), []
    detector = SimpleNamespace(warm=lambda: asked.append("warm"))
    policy: Any = SimpleNamespace(stages=[object(), SimpleNamespace(detector=detector), SimpleNamespace(detector=1)])
    try:
        settle(policy)
        assert asked == ["warm"]
        assert gc.get_freeze_count() > before + 1_000
    finally:
        gc.unfreeze()
