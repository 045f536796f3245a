"""What holds questions, names or secrets is for its owner's eyes only, whatever the process's umask lets through."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.gateway.asgi import Here
from tests.gateway.harness import Softmax, policy_text

from portcullis_ml.gateway.demo import write_demo
from portcullis_ml.gateway.policy.policy import parse_policy
from portcullis_ml.gateway.policy.warn import warnings
from portcullis_ml.gateway.querylog import QueryLogFile

pytestmark = pytest.mark.usefixtures("open_umask")


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0o000)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """What others than the owner may do with each file."""
    return {str(p.relative_to(folder)): p.stat().st_mode & 0o077 for p in folder.rglob("*")}


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
async def test_state_files_and_query_logs_are_private(format: str, tmp_path: Path) -> None:
    place = tmp_path / "made"
    place.mkdir()
    log = QueryLogFile(place / "log", queries=True, format=format)
    here = Here(tmp_path, more=f'[state]\nurl = "sqlite:///{place}/state.db"\n', querylog=log)
    assert (await here.infer(np.zeros((1, 4))))[0] == 200
    await here.store.ping()
    here.gate.querylog.close()
    found = modes(place)
    assert {"state.db", "state.db-wal", "state.db-shm", "state.db-tail", "log"} < set(found)
    assert any(name.startswith("log/queries-") for name in found)
    assert set(found.values()) == {0}
    await here.store.close()


def test_the_demonstrations_files_are_private(tmp_path: Path) -> None:
    write_demo("http://127.0.0.1:1", str(tmp_path))
    assert modes(tmp_path) == {"guard.key": 0, "portcullis.toml": 0}


@pytest.mark.parametrize("flag", ["--new-secret", "--new-key"])
def test_a_secret_that_is_written_into_a_file_is_private(flag: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from portcullis_ml.cli import main; main()", "check", flag]
    with (tmp_path / "guard.key").open("w") as out:
        subprocess.run(command, stdout=out, check=True)
    assert (tmp_path / "guard.key").stat().st_size > 60
    assert modes(tmp_path) == {"guard.key": 0}


def test_a_secret_that_everyone_may_read_is_noted(tmp_path: Path) -> None:
    names = ("guard.key", "hook.key", "server.token", "jwt.key", "jwt.pem")
    more = '[alarms]\nwebhook = "http://127.0.0.1:1/"\nsecret_file = "{0}/hook.key"\n'
    more += '[upstream]\nurl = "http://127.0.0.1:1"\ntoken_file = "{0}/server.token"\n'
    more += '[clients]\ntoken = {{ key_file = "{1}", algorithms = ["{2}"] }}\n'

    def noted(key: str, algorithm: str) -> set[str]:
        text = policy_text(Softmax(), "", tmp_path, more=more.format(tmp_path, key, algorithm))
        for name in names:
            (tmp_path / name).touch()
            (tmp_path / name).chmod(0o640 if name == "server.token" else 0o644)
        found = " ".join(warnings(parse_policy(text, folder=tmp_path)))
        return {name for name in names if f"/{name}, which holds a secret" in found}

    assert noted("jwt.key", "HS256") == {"guard.key", "hook.key", "jwt.key"}
    assert noted("jwt.pem", "RS256") == {"guard.key", "hook.key"}  # a public key is no secret
