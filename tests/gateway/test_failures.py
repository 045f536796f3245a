"""What the policy says of a full disk and a locked file, done to a real process under load."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.gateway.harness import policy_text, running, served_of
from tests.gateway.test_server import MODEL, QUOTA, post, process

from portcullis_ml.gateway.modelserver import ModelServer


def get(url: str) -> int:
    """The status of a GET, without a name."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.skipif(sys.platform != "linux", reason="a process's limits are set from outside on Linux only")
@pytest.mark.parametrize("failure", ["full", "locked"])
@pytest.mark.parametrize(("policy", "meanwhile"), [("closed", 503), ("open", 200)])
def test_a_state_file_that_cannot_be_written_does_what_the_policy_says(
    failure: str, policy: str, meanwhile: int, tmp_path: Path
) -> None:
    path, state = tmp_path / "p.toml", tmp_path / "state.db"
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        path.write_text(policy_text(MODEL, upstream, tmp_path, QUOTA, f'[failure]\nstate = "{policy}"\n'))
        with process(path) as (server, url):
            assert [post(url)[0] for _ in range(5)] == [200] * 5
            lock = sqlite3.connect(state, isolation_level=None)
            if failure == "locked":
                lock.execute("BEGIN IMMEDIATE")
                assert post(url)[0] == 200  # the tail takes it
                time.sleep(1.6)  # until the state file, which is asked every second, does not
            else:
                most = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)[1]
                resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, most))
            found = [post(url) for _ in range(5)]
            assert [status for status, _ in found] == [meanwhile] * 5
            if policy == "closed":
                assert found[0][1] == {"error": "The gate cannot keep its records just now."}
            assert get(f"{url}/v2/health/ready") == meanwhile
            if failure == "locked":
                lock.execute("ROLLBACK")
            else:
                resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (most, most))
            lock.close()
            left = 25 if policy == "closed" else 20  # what was refused cost nothing, what was served is remembered
            left -= failure == "locked"
            assert [post(url)[0] for _ in range(left + 1)] == [200] * left + [429]
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
        with process(path) as (_, url):
            assert post(url)[0] == 429  # and written down


def test_policies_are_exchanged_under_load_without_dropping_a_request(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        texts = [
            policy_text(MODEL, upstream, tmp_path, QUOTA.replace("30", "100000"), f'[answers]\nreveals = "{r}"\n')
            for r in ("labels", "probs")
        ]
        path.write_text(texts[0])
        with process(path) as (server, url):
            found: list[tuple[int, int]] = []
            end = threading.Event()

            def ask() -> None:
                while not end.is_set():
                    status, tree = post(url)
                    found.append((status, len(tree.get("outputs", ()))))

            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            for i in range(10):
                path.write_text(texts[1 - i % 2])
                os.kill(server.pid, signal.SIGHUP)
                time.sleep(0.15)
            end.set()
            for thread in threads:
                thread.join()
    assert {status for status, _ in found} == {200}
    assert {outputs for _, outputs in found} == {1, 2}  # both policies were at work
    assert len(found) > 100


def test_a_terminated_process_answers_what_is_running_and_takes_nothing_new(tmp_path: Path) -> None:
    path, model = tmp_path / "p.toml", ModelServer(MODEL, served_of(MODEL))

    async def slow(scope, receive, send):  # type: ignore[no-untyped-def]
        await asyncio.sleep(1.0)
        await model(scope, receive, send)

    with running(slow) as upstream:
        path.write_text(policy_text(MODEL, upstream, tmp_path, QUOTA))
        with process(path) as (server, url):
            found: list[int] = []
            threads = [threading.Thread(target=lambda: found.append(post(url)[0])) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.4)
            server.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            assert post(url)[0] == 503
            for thread in threads:
                thread.join()
            assert found == [200] * 3
            assert server.wait(20) == 0
