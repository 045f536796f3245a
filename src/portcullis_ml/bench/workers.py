"""Worker processes for a grid: one cell at a time each, one thread each, replaced when they die.

Processes are spawned, never forked (a fork of a process that holds a thread pool or a GPU hangs). Only
the parent handles Ctrl-C and writes results; a worker whose parent is gone ends by itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.ledger import DiskFull
from portcullis_ml.bench.records import Record

__all__ = ["Do", "on_workers"]

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
PATIENCE = 0.1  # seconds between two reports of progress from one cell

Do = Callable[[Cell, Callable[[int, int], None]], dict[str, Any]]  # (cell, report) -> record as JSON


class Listener(Protocol):
    def started(self, cell: Cell) -> None: ...

    def paid(self, cell: Cell, rows: int) -> None: ...


def on_workers(
    waiting: Sequence[Cell], do: Do, jobs: int, clock: Listener
) -> Generator[tuple[Cell, dict[str, Any]], None, None]:
    """Every cell with its record, as they come in. Raises DiskFull when a worker does."""
    queue, idle, busy = deque(waiting), list[_Worker](), dict[Any, _Worker]()
    try:
        while queue or busy:
            while queue and len(busy) < jobs:
                worker = idle.pop() if idle else _Worker(do)
                busy[worker.pipe] = worker
                worker.give(queue.popleft())
                clock.started(worker.cell)
            for pipe in wait(list(busy)):
                worker = busy[pipe]
                kind, what = worker.take()
                if kind == "paid":
                    clock.paid(worker.cell, what)
                    continue
                if kind == "full":
                    raise DiskFull(what)
                del busy[pipe]
                if kind == "ended":
                    idle.append(worker)
                yield worker.cell, what
    finally:
        for worker in [*busy.values(), *idle]:
            worker.stop()


class _Worker:
    """One process, one pipe, one cell at a time."""

    cell: Cell

    def __init__(self, do: Do) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs, do), daemon=True)
        with _one_thread():
            self._process.start()
        theirs.close()

    def give(self, cell: Cell) -> None:
        self.cell = cell
        with suppress(OSError):  # it died while idle; `take` will say so
            self.pipe.send(cell)

    def take(self) -> tuple[str, Any]:
        """("paid", rows), ("ended", record), ("full", sentence) or, if the process is gone, ("died", record)."""
        try:
            kind, what = self.pipe.recv()
            return kind, what
        except (EOFError, OSError):
            self.stop()
            sentence = (
                f"The process that ran this cell died (exit code {self._process.exitcode}), perhaps for lack of "
                "memory. Run the same command again, with fewer --jobs: no query is paid twice."
            )
            return "died", Record(cell=self.cell, outcome="failed", reason=sentence, final=False).to_json()

    def stop(self) -> None:
        self.pipe.close()
        if self._process.is_alive():
            self._process.terminate()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes started inside compute with one thread each: two of them on two cores do not slow each other down."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _serve(pipe: Connection, do: Do) -> None:
    """What a worker does: take a cell, report what is paid, send the record. Ends when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    last = 0.0

    def report(paid: int, budget: int) -> None:
        nonlocal last
        if time.monotonic() - last > PATIENCE:
            last = time.monotonic()
            pipe.send(("paid", paid))

    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            cell = pipe.recv()
            try:
                pipe.send(("ended", do(cell, report)))
            except DiskFull as error:
                pipe.send(("full", str(error)))
