"""Replay of logs that several processes wrote."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.gateway.asgi import ALICE, Here

from portcullis_ml.core.types import Answer
from portcullis_ml.gateway.querylog import Line, QueryLogFile, read_log
from portcullis_ml.gateway.replay import _in_order, replay

WATCH = """
[[guard]]
unit = "quota"
rows = 70
per = 1000000
[[guard]]
unit = "watch"
detector = { unit = "prada", window = 4, threshold = 1.2 }
then = { unit = "label_only" }
"""


async def lived(folder: Path, redis: Any) -> list[Line]:
    """Two replicas on one Redis, one client whose requests overlap; the lines of both logs."""
    import redis as client

    with client.Redis.from_url(redis[0]) as r:
        r.flushall()
    rng = np.random.default_rng(3)
    here = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        log = QueryLogFile(folder / name / "log", queries=True)
        here.append(Here(folder / name, WATCH, more=f'[state]\nurl = "{redis[0]}"\n', querylog=log))
    seeds = rng.normal(size=(5, 4))
    for _ in range(12):  # six at a time, to whichever replica
        x = [seeds[rng.integers(5)] + rng.choice([0.01, 1.0]) * rng.normal(size=4) for _ in range(6)]
        await asyncio.gather(*(here[rng.integers(2)].infer(row[None], ALICE) for row in x))
        here[0].now += 1.0
        here[1].now += 1.0
    for h in here:
        await asyncio.to_thread(h.gate.querylog.close)
        await h.store.close()
    return [line for name in ("one", "two") for line in read_log(folder / name / "log")]


async def test_logs_of_two_replicas_replay_to_their_decisions_bit_for_bit(tmp_path: Path, redis: Any) -> None:
    lines = await lived(tmp_path, redis)
    policy = Here(tmp_path / "one", WATCH).policy
    assert {line.run for line in lines} == {lines[0].run, lines[-1].run}
    assert lines[0].run != lines[-1].run
    same = replay(lines, policy)
    assert (same.requests, same.different) == (72, [])
    fate = same.fates["alice"]
    assert fate.refused == fate.was_refused == 2  # 72 rows, and 70 are hers
    assert fate.altered == fate.was_altered > 5
    blind = [replace(line, seq=0, ended=0) for line in lines]  # as if nobody knew how the two interleaved
    assert replay(blind, policy).different


def moment(run: str, place: int, at: float, **more: Any) -> Line:
    return Line(id=f"{run}{place}", client="c", run=run, seq=place, ended=place + 1, admitted=place, released=place + 1,
                at=at, seconds=0.5, x=np.full((1, 4), float(place)), clean=Answer(np.array([0])), **more)  # fmt: skip


def seen(lines: list[Line]) -> list[str]:
    return [f"{type(step).__name__.lower()} {line.id}" for step, line in _in_order(lines)]


def test_a_process_that_began_after_all_others_comes_after_them_whatever_its_places() -> None:
    old, new = moment("b", 7, 100.0), moment("a", 1, 200.0)  # a new state file: its journal begins anew
    assert seen([new, old]) == ["admit b7", "release b7", "admit a1", "release a1"]


def test_what_could_not_be_written_down_stays_where_its_process_did_it() -> None:
    first, offline, last = moment("a", 2, 1.0), replace(moment("a", 4, 1.2), seq=-1, ended=0), moment("a", 8, 1.4)
    other = moment("b", 6, 1.1)
    assert seen([last, other, offline, first]) == [
        "admit a2", "release a2", "admit a4", "release a4", "admit b6", "release b6", "admit a8", "release a8",
    ]  # fmt: skip
