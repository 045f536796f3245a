"""Two gates, each a process of its own, on one Redis: they decide as one, and neither dies with what it was told."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.harness import Softmax, policy_of, policy_text, running, served_of
from tests.gateway.test_server import fetch, post, process

from portcullis_ml.core.guard import Alarm
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.policy.clients import hashed
from portcullis_ml.gateway.querylog import read_log
from portcullis_ml.gateway.replay import replay
from portcullis_ml.gateway.state.redis_store import RedisStore
from portcullis_ml.gateway.state.stores import open_store
from portcullis_ml.gateway.state.streams import Streams

MODEL = Softmax()
CLIENTS = ("alice", "bob", "thief")
QUOTA = '[[guard]]\nunit = "quota"\nrows = {rows}\n'
PRADA = """
[[guard]]
unit = "watch"
detector = { unit = "prada", window = 5, threshold = 1.5 }
then = { unit = "other_class" }
"""
AT = """
[[guard]]
unit = "watch"
detector = {{ unit = "tests.gateway.units:At", row = {row} }}
then = {{ unit = "{then}" }}
"""
ROUNDING = '[[guard]]\nunit = "rounding"\ndecimals = 3\n'
GUARD = QUOTA.format(rows=110) + PRADA + AT.format(row=70, then="label_only") + ROUNDING


@pytest.fixture
def empty(redis: Any) -> tuple[str, Any]:
    import redis as client

    with client.Redis.from_url(redis[0]) as r:
        r.flushall()
    return redis  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with running(ModelServer(MODEL, served_of(MODEL))) as url:
        yield url


def free() -> int:
    """A port that nobody has, or so it seems."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def gates(folder: Path, upstream: str, stages: str, states: list[str], more: str = "") -> Iterator[list[Any]]:
    """So many gates as there are states: (process, address). Each logs to a folder of its own."""
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        found = []
        for i, state in enumerate(states):
            path = folder / f"{i}.toml"
            log = f'[log]\npath = "{folder}/log-{i}"\nqueries = true\n'
            text = policy_text(MODEL, upstream, folder, stages, f'[state]\nurl = "{state}"\n{log}{more}')
            path.write_text(text)
            found.append(stack.enter_context(process(path)))
        yield found


def questions(client: str, n: int) -> list[np.ndarray]:
    """Varied at first, near one another afterwards, so that PRADA has something to see."""
    rng = np.random.default_rng([7, len(client)])
    varied = [rng.normal(size=(int(rng.integers(1, 4)), 4)) for _ in range(n // 2)]
    return varied + [varied[0] + 1e-3 * rng.normal(size=varied[0].shape) for _ in range(n - n // 2)]


def all_at_once(works: list[Any]) -> None:
    """Every work in a thread of its own; an error in one is the test's."""
    errors: list[BaseException] = []

    def run(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def alarms_of(found: list[tuple[str, Alarm]]) -> set[tuple[str, str, int, float]]:
    return {(a.client, a.stage, a.row, a.suspicion) for _, a in found}


async def test_two_processes_answer_byte_for_byte_as_one_does(empty: Any, upstream: str, tmp_path: Path) -> None:
    url, _ = empty
    answers: dict[str, list[tuple[int, Any]]] = {}
    with gates(tmp_path, upstream, GUARD, [url, url, f"sqlite:///{tmp_path}/one.db"]) as [(_, a), (_, b), (_, one)]:

        def life(client: str) -> None:
            """One client's requests in its order, each at whichever replica; it meets the other clients as it comes."""
            rng = np.random.default_rng(len(client))
            answers[client] = [post((a, b)[rng.integers(2)], client, x) for x in questions(client, 70)]

        all_at_once([lambda c=c: life(c) for c in CLIENTS])
        for client in CLIENTS:
            assert answers[client] == [post(one, client, x) for x in questions(client, 70)]
    stores = [open_store(url), open_store(f"sqlite:///{tmp_path}/one.db")]
    together, alone = [alarms_of(await store.alarms()) for store in stores]
    assert together == alone
    for store in stores:
        await store.close()
    # ... and every stage had its say, or the test would show nothing
    statuses = [status for found in answers.values() for status, _ in found]
    assert {status: statuses.count(status) > 5 for status in set(statuses)} == {200: True, 429: True}
    assert {stage for _, stage, _, _ in alone} == {"1-watch", "2-watch"}
    assert any(body["outputs"][1]["data"][0] is None for s, body in answers["alice"] if s == 200)


def test_requests_of_one_client_at_both_replicas_at_once_are_decided_in_one_order(
    empty: Any, upstream: str, tmp_path: Path
) -> None:
    url, _ = empty
    with gates(tmp_path, upstream, GUARD, [url, url]) as found:
        for process_, address in found:
            assert process_.poll() is None
            assert post(address)[0] == 200

        def part(address: str, client: str, share: list[np.ndarray]) -> None:
            for x in share:
                assert post(address, client, x)[0] in (200, 429)

        all_at_once(
            [
                lambda i=i, c=c: part(found[i % 2][1], c, questions(c, 60)[i::4])  # four threads for each client
                for c in CLIENTS
                for i in range(4)
            ]
        )
        for gate, _ in found:
            gate.send_signal(signal.SIGTERM)
            assert gate.wait(20) == 0
    lines = [line for i in range(2) for line in read_log(tmp_path / f"log-{i}")]
    again = replay(lines, policy_of(MODEL, upstream, tmp_path, GUARD))  # one process, in the journal's order
    assert (again.requests, again.different) == (2 + 60 * len(CLIENTS), [])
    assert all(fate.stopped_row is not None for fate in again.fates.values())


STAGES = QUOTA.format(rows=60) + AT.format(row=25, then="label_only")
OPERATOR = f'[admin]\nport = {{port}}\noperator = [{{{{ name = "ops", sha256 = "{hashed("token")}" }}}}]\n'


class Crowd:
    """Clients that ask one replica or, when it hangs up, the other, until they are refused; what they were told."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        self.answered = dict.fromkeys(CLIENTS, 0)  # rows
        self.labels_only = dict.fromkeys(CLIENTS, False)
        self.refused: dict[str, set[int]] = {client: set() for client in CLIENTS}
        self.after_the_block = 0  # answers to the blocked client, to questions asked after that block was acknowledged
        self.hung_up: list[tuple[str, str]] = []  # (replica, client) of requests in the air when the replica died
        self.acknowledged = threading.Event()
        self.lock = threading.Lock()

    def ask(self, client: str, at: int) -> None:
        while True:
            late = self.acknowledged.is_set()
            try:
                status, body = post(self.addresses[at], client)
            except (OSError, http.client.HTTPException):
                with self.lock:
                    self.hung_up.append((self.addresses[at], client))
                at = 1 - at
                continue
            with self.lock:
                if status != 200:
                    self.refused[client].add(status)
                    return
                self.answered[client] += 1
                self.labels_only[client] |= body["outputs"][1]["data"][0] is None
                self.after_the_block += late and client == "thief"


async def test_a_killed_replica_takes_no_acknowledged_alarm_quota_or_block_along(
    empty: Any, upstream: str, tmp_path: Path
) -> None:
    url, _ = empty
    admin = free()
    more = OPERATOR.format(port=admin)
    with (
        gates(tmp_path, upstream, STAGES, [url], more) as [(dying, a)],
        gates(tmp_path / "b", upstream, STAGES, [url]) as [(living, b)],
    ):
        crowd = Crowd([a, b])
        threads = [threading.Thread(target=crowd.ask, args=(c, i % 2)) for c in CLIENTS for i in range(4)]
        for thread in threads:
            thread.start()
        while min(crowd.answered.values()) < 30:  # past the alarm
            time.sleep(0.002)
        assert fetch(f"http://127.0.0.1:{admin}/act", "token", name="thief", deed="block")[0] == 200
        os.kill(dying.pid, signal.SIGKILL)
        crowd.acknowledged.set()
        for thread in threads:
            thread.join(20)
        assert living.poll() is None
        lost = {client: crowd.hung_up.count((a, client)) for client in CLIENTS}
        assert sum(lost.values()) == len(crowd.hung_up) > 0  # it died under load, and the other never hung up
        assert crowd.refused == {"alice": {429}, "bob": {429}, "thief": {403}}  # nor failed for want of the first
        assert crowd.after_the_block == 0
        assert all(crowd.labels_only.values())
        for client in ("alice", "bob"):  # never more than the quota, and less only by what died with the replica
            assert 60 - lost[client] <= crowd.answered[client] <= 60
            assert post(b, client)[0] == 429
        store = RedisStore(url)
        assert {(alarm.client, alarm.row) for _, alarm in await store.alarms()} == {(c, 25) for c in CLIENTS}
        streams = Streams(policy_of(MODEL, upstream, tmp_path, STAGES).guard(), store)
        for client in CLIENTS:  # nothing that was answered is missing from the journal
            assert (await streams.look(client)).tally["rows"] >= crowd.answered[client]
        await store.close()
