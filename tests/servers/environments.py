"""Model servers that nobody here wrote, each in an environment of its own, which `make servers` makes and tests.

A file NAME.txt beside this one lists what an environment holds. A test names its environment, starts the server on
loopback and stops it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

__all__ = ["free_port", "python_of", "serving"]


def python_of(name: str) -> str:
    """The Python of the environment `name` below PORTCULLIS_SERVERS."""
    folder = os.environ.get("PORTCULLIS_SERVERS")
    if not folder:
        pytest.skip("PORTCULLIS_SERVERS names no folder of the servers' environments: run `make servers`")
    python = Path(folder).absolute() / name / "bin" / "python"
    assert python.exists(), f"There is no environment {name} in {folder}: run `make servers`."
    return str(python)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def serving(
    command: Sequence[str], folder: Path, ready: str, *, patience_s: float = 120.0, most: int = 499
) -> Iterator[str]:
    """The command while it runs in this folder, from when the URL `ready` answers with a status of at most `most`. What
    it says goes to server.log.

    It gets a process group of its own, all of which is stopped: some servers leave their workers behind.
    """
    log = folder / "server.log"
    with log.open("wb") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, start_new_session=True)
        try:
            end = time.monotonic() + patience_s
            while not _answers(ready, most):
                assert process.poll() is None, log.read_text(errors="replace")[-2000:]
                assert time.monotonic() < end, log.read_text(errors="replace")[-2000:]
                time.sleep(0.1)
            yield ready
        finally:
            _stop(process)


def _answers(url: str, most: int) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        return error.code <= most
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    for word in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, word)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
