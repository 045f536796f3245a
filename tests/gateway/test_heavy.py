"""Stages that run a model: one client's does not hold up the others, and decides as it would on the event loop."""

from __future__ import annotations

import asyncio
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway import units
from tests.gateway.asgi import ALICE, Here, down
from tests.gateway.harness import KEYS, SECRET, policy_text, running, served_of, stored
from tests.gateway.test_server import MODEL, post, process

from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Answer, Request
from portcullis_ml.defenses.quota import Quota
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.querylog import QueryLogFile, read_log
from portcullis_ml.gateway.replay import replay
from portcullis_ml.gateway.state.streams import Streams
from portcullis_ml.gateway.state.workers import FEW

THIEF = {"x-api-key": KEYS["thief"]}
WAITS = '[[guard]]\nunit = "tests.gateway.units:Waits"\n'
SLOW = '[[guard]]\nunit = "tests.gateway.units:Slow"\nseconds = {seconds}\n'
X = np.full((1, 4), 0.5)


@pytest.fixture
def door(request: pytest.FixtureRequest) -> Iterator[units.Door]:
    """A door at the step that the test's parameter names."""
    step = getattr(request, "param", "release")
    units.DOORS[step] = units.Door()
    yield units.DOORS[step]
    units.DOORS.pop(step).opened.set()


async def until(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.001)


def packed(here: Here, client: str) -> bytes:
    return b"".join(here.streams.fold.pack(here.streams.open[client]))


@pytest.mark.parametrize("door", ["admit", "undo", "release"], indirect=True)
async def test_while_a_stage_holds_one_client_another_is_answered(door: units.Door, tmp_path: Path) -> None:
    here = Here(tmp_path, WAITS)
    if "undo" in units.DOORS:
        here.upstream.fails = down()
    held = [asyncio.create_task(here.infer(X, THIEF)) for _ in range(3)]
    await until(door.reached)
    here.upstream.fails = None
    assert [(await here.infer(X, ALICE))[0] for _ in range(3)] == [200] * 3
    assert not any(task.done() for task in held)
    door.opened.set()
    found = {status for status, _, _ in await asyncio.gather(*held)}
    assert found <= ({502, 200} if "undo" in units.DOORS else {200})
    assert here.gate.in_flight == 0


@pytest.mark.parametrize("door", ["admit", "release"], indirect=True)
async def test_a_light_guard_takes_many_rows_beside_the_loop(door: units.Door, tmp_path: Path) -> None:
    here = Here(tmp_path, WAITS.replace("Waits", "WaitsLightly"))
    held = asyncio.create_task(here.infer(np.zeros((FEW + 1, 4)), THIEF))
    await until(door.reached)
    assert (await here.infer(X, ALICE))[0] == 200
    assert not held.done()
    door.opened.set()
    assert (await held)[0] == 200


async def test_while_a_journal_is_folded_at_a_start_another_client_is_answered(tmp_path: Path) -> None:
    here = Here(tmp_path, WAITS)
    for _ in range(5):
        await here.infer(X, THIEF)
    before = packed(here, "thief")
    await here.store.close()
    here.open()  # nothing was written down but the journal
    door = units.DOORS["release"] = units.Door()
    try:
        held = asyncio.create_task(here.infer(X, THIEF))
        await until(door.reached)
        assert (await here.infer(X, ALICE))[0] == 200
        stream = here.streams.open["thief"]
        assert not stream.ready
        door.opened.set()
        assert (await held)[0] == 200
    finally:
        del units.DOORS["release"]
    await here.store.close()
    here.open()
    again = await here.streams.look("thief")
    assert (again.tally["requests"], again.states["0-tests.gateway.units:Waits"].suspicion) == (6, 6.0)
    assert before != packed(here, "thief")


async def test_a_restart_folds_the_same_state(tmp_path: Path) -> None:
    here = Here(tmp_path, SLOW.format(seconds=0.0))
    rng = np.random.default_rng(1)
    await asyncio.gather(*(here.infer(rng.normal(size=(2, 4)), THIEF) for _ in range(30)))
    before = packed(here, "thief")
    await here.store.close()
    here.open()
    await here.streams.look("thief")
    assert packed(here, "thief") == before


async def test_requests_at_once_are_decided_as_the_guard_decides_them_one_by_one(tmp_path: Path) -> None:
    log = QueryLogFile(tmp_path / "log", queries=True)
    here = Here(tmp_path, SLOW.format(seconds=0.001), querylog=log)
    rng = np.random.default_rng(2)
    x = {name: rng.normal(size=(20, 2, 4)) for name in ("thief", "alice")}
    asked = [(name, rows) for pair in zip(*([(n, r) for r in x[n]] for n in x), strict=True) for name, rows in pair]
    replies = await asyncio.gather(*(here.infer(rows, {"x-api-key": KEYS[name]}) for name, rows in asked))
    await asyncio.to_thread(log.close)
    lines = sorted(read_log(tmp_path / "log"), key=lambda line: line.ended)
    guard, shown = Guard(*here.policy.stages, key=SECRET), {}
    for line in lines:  # one after another, in the order of the journal
        request = Request(line.client, line.x, line.at)
        guard.admit(request)
        assert line.clean is not None
        shown[line.x.tobytes()] = guard.release(request, line.clean).answer.scores
    for (_, rows), (status, _, tree) in zip(asked, replies, strict=True):
        assert status == 200
        found = next(o["data"] for o in tree["outputs"] if o["name"] == "probabilities")
        np.testing.assert_array_equal(found, shown[rows.tobytes()].ravel())
    same = replay(lines, here.policy)
    assert (same.requests, same.different) == (40, [])


async def test_a_client_who_goes_away_leaves_its_request_to_end_by_itself(door: units.Door, tmp_path: Path) -> None:
    here = Here(tmp_path, WAITS)
    gone = asyncio.create_task(here.infer(X, THIEF))
    await until(door.reached)
    gone.cancel()
    await asyncio.wait([gone])
    assert here.gate.in_flight == 1
    later = asyncio.create_task(here.infer(X, THIEF))
    door.opened.set()
    assert (await later)[0] == 200
    assert here.gate.in_flight == 0
    assert here.streams.open["thief"].tally["requests"] == 2


async def test_a_cancelled_caller_holds_the_client_until_the_stage_has_ended(door: units.Door) -> None:
    streams = Streams(Guard(Quota(rows=9, per=None), units.Waits(), key=SECRET), stored(":memory:"))
    seq = await streams.admit("thief", X, 0.0)
    answer = Answer.of(MODEL.scores(X), served_of(MODEL).interface)
    release = asyncio.create_task(streams.release("thief", seq, answer))
    await until(door.reached)
    stream = streams.open["thief"]
    for _ in range(3):
        release.cancel()
        await asyncio.sleep(0.005)
        assert not release.done()
        assert stream.lock.locked()
    door.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await release
    assert stream.tally["requests"] == 1
    assert (stream.busy, stream.lock.locked()) == (0, False)
    await streams.close()


async def test_a_policy_exchanged_during_a_release_leaves_no_state_of_the_old_stage(
    door: units.Door, tmp_path: Path
) -> None:
    here = Here(tmp_path, '[[guard]]\nunit = "quota"\nrows = 100\n' + WAITS)
    held = asyncio.create_task(here.infer(X, THIEF))
    await until(door.reached)
    new = Guard(Quota(rows=100, per=86_400.0), units.Waits(extra=1), key=SECRET)
    assert [d["unit"] for d in new.describe()] == [d["unit"] for d in here.policy.guard().describe()]
    here.streams.fold.use(new)
    door.opened.set()
    assert (await held)[0] == 200
    await here.infer(X, THIEF)
    waits = here.streams.open["thief"].states["1-tests.gateway.units:Waits"]
    assert (waits.rows, waits.suspicion) == (1, 1.0)  # the second request alone


@pytest.mark.parametrize(("word", "status"), [("closed", 503), ("labels", 200), ("open", 200)])
@pytest.mark.parametrize("step", ["admit", "release"])
async def test_an_error_on_a_thread_does_what_the_policy_says(
    step: str, word: str, status: int, tmp_path: Path
) -> None:
    stage = f'[[guard]]\nunit = "tests.gateway.units:BrokenModel"\nstep = "{step}"\n'
    here = Here(tmp_path, stage, more=f'[failure]\nguard = "{word}"\n')
    for _ in range(2):
        got, _, tree = await here.infer(X)
        assert got == status
        if got == 503:
            assert tree == {"error": "The guard failed on this request."}
        else:
            shown = {o["name"]: o["data"] for o in tree["outputs"]}
            full = here.model.scores(X)
            assert shown["label"] == [int(full.argmax())]
            assert shown["probabilities"] == (full.ravel().tolist() if word == "open" else [None] * 3)
            assert here.gate.metrics.not_enforced["guard"] > 0
        await here.store.close()
        here.open()  # the error is in the journal, and met again when that is folded


async def test_an_error_while_a_reservation_is_given_back_is_logged_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = Here(tmp_path, '[[guard]]\nunit = "tests.gateway.units:BrokenModel"\nstep = "undo"\n')
    here.upstream.fails = down()
    assert (await here.infer(X))[0] == 502
    assert "a stage of the guard failed" in caplog.text
    here.upstream.fails = None
    assert (await here.infer(X))[0] == 200


async def test_draining_waits_for_a_stage(door: units.Door, tmp_path: Path) -> None:
    here = Here(tmp_path, WAITS)
    held = asyncio.create_task(here.infer(X, THIEF))
    await until(door.reached)
    assert not await here.gate.drained(0.05)
    drained = asyncio.create_task(here.gate.drained(20.0))
    assert (await here.infer(X, ALICE))[0] == 503
    door.opened.set()
    assert await drained
    assert (await held)[0] == 200
    await here.streams.close()


def test_a_terminated_process_lets_its_stages_end(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        path.write_text(policy_text(MODEL, upstream, tmp_path, SLOW.format(seconds=1.0)))
        with process(path) as (server, url):
            found: list[int] = []
            threads = [threading.Thread(target=lambda: found.append(post(url, "thief")[0])) for _ in range(2)]
            for thread in threads:
                thread.start()
            time.sleep(0.4)
            server.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
            assert found == [200] * 2
            assert server.wait(20) == 0


@pytest.mark.slow
async def test_a_stage_of_200_ms_moves_another_clients_median_by_less_than_10_ms(tmp_path: Path) -> None:
    here = Here(tmp_path, SLOW.format(seconds=0.2))

    async def median(n: int = 60) -> float:
        taken = []
        for _ in range(n):
            since = time.perf_counter()
            assert (await here.infer(X, ALICE))[0] == 200
            taken.append(time.perf_counter() - since)
            await asyncio.sleep(0.005)
        return statistics.median(taken)

    async def busy() -> Any:
        while True:
            await here.infer(X, THIEF)

    await median(10)
    alone = await median()
    tasks = [asyncio.create_task(busy()) for _ in range(4)]
    await asyncio.sleep(0.05)
    beside = await median()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await here.gate.drained(20.0)
    assert here.streams.open["thief"].tally["requests"] >= 2
    print(f"median of 60: {1e3 * alone:.2f} ms alone, {1e3 * beside:.2f} ms beside a stage of 200 ms")
    assert beside - alone < 0.010
