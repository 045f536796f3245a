"""Stages that run a model, behind several replicas on one Redis."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway import units
from tests.gateway.asgi import ALICE, Here
from tests.gateway.harness import policy_of, running, served_of
from tests.gateway.test_heavy import SLOW, THIEF, WAITS, X, until
from tests.gateway.test_replicas import MODEL, all_at_once, gates, questions
from tests.gateway.test_server import post

from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.querylog import read_log
from portcullis_ml.gateway.replay import replay


@pytest.fixture
def replicas(redis: Any, tmp_path: Path) -> list[Here]:
    """Two gates on one empty Redis, on the test's own event loop."""
    import redis as client

    with client.Redis.from_url(redis[0]) as r:
        r.flushall()
    found = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        found.append(Here(folder, WAITS, f'[state]\nurl = "{redis[0]}"\n'))
    return found


@pytest.fixture
def door() -> Iterator[units.Door]:
    units.DOORS["release"] = units.Door()
    yield units.DOORS["release"]
    units.DOORS.pop("release").opened.set()


async def test_while_a_stage_holds_one_client_others_are_answered_at_both_replicas(
    replicas: list[Here], door: units.Door
) -> None:
    a, b = replicas
    held = [asyncio.create_task(here.infer(X, THIEF)) for here in (a, b)]
    await until(door.reached)
    for here in replicas:
        assert [(await here.infer(X, ALICE))[0] for _ in range(3)] == [200] * 3
    assert not any(task.done() for task in held)
    door.opened.set()
    assert [status for status, _, _ in await asyncio.gather(*held)] == [200] * 2
    for seen, here in enumerate(replicas, 3):  # each knows by its next request what the other decided
        assert (await here.infer(X, THIEF))[0] == 200
        stream = here.streams.open["thief"]
        assert stream.tally["requests"] == stream.states["0-tests.gateway.units:Waits"].suspicion == seen
        await here.store.close()


async def test_a_redis_that_dies_while_a_stage_runs_loses_nothing_that_it_had_written_down(
    replicas: list[Here], door: units.Door, redis: Any
) -> None:
    here, other = replicas
    _, (start, stop) = redis
    assert (await here.infer(X, ALICE))[0] == 200
    held = asyncio.create_task(here.infer(X, THIEF))
    await until(door.reached)
    stop()
    door.opened.set()
    try:
        assert (await held)[0] == 200  # what the stage decides on was in the journal already
        assert (await here.infer(X, ALICE))[0] == 503
    finally:
        start()
    for gate in (here, other):
        assert [(await gate.infer(X, client))[0] for client in (THIEF, ALICE)] == [200] * 2
        assert gate.gate.in_flight == 0
    tallies = [other.streams.open[client].tally["requests"] for client in ("thief", "alice")]
    assert tallies == [3, 3]
    for gate in replicas:
        await gate.store.close()


def test_requests_of_one_client_at_both_replicas_are_decided_as_the_guard_decides_them_one_by_one(
    redis: Any, tmp_path: Path
) -> None:
    stages, clients = SLOW.format(seconds=0.002), ("thief", "alice")
    with (
        running(ModelServer(MODEL, served_of(MODEL))) as upstream,
        gates(tmp_path, upstream, stages, [redis[0], redis[0]]) as found,
    ):

        def part(address: str, client: str, share: list[np.ndarray]) -> None:
            for x in share:
                assert post(address, client, x)[0] == 200

        all_at_once(
            [lambda i=i, c=c: part(found[i % 2][1], c, questions(c, 32)[i::4]) for c in clients for i in range(4)]
        )
        for gate, _ in found:
            gate.send_signal(signal.SIGTERM)
            assert gate.wait(20) == 0
        lines = [line for i in range(2) for line in read_log(tmp_path / f"log-{i}")]
        again = replay(lines, policy_of(MODEL, upstream, tmp_path, stages))  # one process, in the journal's order
    assert (again.requests, again.different) == (32 * len(clients), [])
