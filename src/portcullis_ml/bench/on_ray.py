"""Runs cells on a Ray cluster: the same records, the same folder, the same resume as on this machine.

Everything that a run keeps lies where the command runs. A cell's ledger is written here before its attack sees an
answer: the worker sends each frame through a mailbox and waits until it is on this disk. So a cell whose worker is lost
is started again on another node with its ledger, and pays for no row twice.

Files that the cells need are put into Ray's object store once; a node that lacks one writes it to the same path. What
is named as module:object must be importable on every node, as must Portcullis itself.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.ledger import MAGIC, DiskFull, FileLedger, disk_full, no_room
from portcullis_ml.bench.luggage import Luggage, pack, strings_in, unpack
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Clock, Ended, Work, Workspace, cell_folder, recorded
from portcullis_ml.core.errors import InputError, MissingExtra, ParameterError

__all__ = ["RayCluster"]

WAIT = 0.2  # seconds for which the mailbox is listened to before finished cells are looked for
PATIENCE = 0.5  # seconds between two reports of progress from one cell
ANSWER = 5.0  # seconds within which an address must take a connection
LOOK = 5.0  # seconds after which the cluster is asked for its size again
LIVES = 3  # times that a cell is started before the loss of its worker is its outcome


@dataclass(frozen=True)
class RayCluster:
    """The cluster at `address`: "ray" for that of this machine, started where none runs, or "ray://HOST:PORT".

    Raises MissingExtra without Ray, InputError where nothing answers.
    """

    address: str = "ray"

    def __post_init__(self) -> None:
        url = urlsplit(self.address)
        if self.address != "ray" and not (url.scheme == "ray" and url.hostname and url.port):
            raise ParameterError("--on", "ray, or ray://HOST:PORT", self.address)
        try:
            import ray
        except ModuleNotFoundError as error:
            raise MissingExtra("Running cells on Ray", "ray", "ray") from error
        if ray.is_initialized():
            return
        if url.port:
            try:
                socket.create_connection((url.hostname or "", url.port), ANSWER).close()
            except OSError as error:
                raise InputError(
                    f"No Ray cluster answers at {self.address} ({error.strerror or error}). Start one there with "
                    "`ray start --head --ray-client-server-port=PORT`, or correct --on."
                ) from error
        settings = {} if self.address == "ray" else {"address": self.address}
        try:
            ray.init(**settings, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            what = str(error).strip().partition("\n")[0]
            raise InputError(f"Ray at {self.address} did not take this run: {what}") from error

    def __str__(self) -> str:
        return self.address

    @property
    def slots(self) -> int:
        return self.count("CPU")

    def run(self, waiting: Sequence[Cell], work: Work, *, out: Path, clock: Clock) -> Ended:
        """Every cell with its record, as they come in. Raises DiskFull when this machine or a node has no room."""
        gpu = {cell.id: _on_gpu(work) or _on_gpu(cell) for cell in waiting}
        if any(gpu.values()) and not self.count("GPU"):
            raise InputError("These cells want a GPU, and no node of the Ray cluster has one. Leave --device at cpu.")
        return _Run(self, work, out.resolve(), clock, gpu).all(waiting)

    def count(self, resource: str) -> int:
        """How many of "CPU" or "GPU" the cluster has now."""
        import ray

        return int(ray.cluster_resources().get(resource, 0))


def _on_gpu(thing: Work | Cell) -> bool:
    """Whether what is described computes on a GPU."""
    for name, value in strings_in(thing):
        if name == "device" and value.startswith("cuda"):
            if value != "cuda":
                raise ParameterError("--device", "cuda beside --on ray, which chooses the GPU", value)
            return True
    return False


class Mailbox:
    """An actor on the cluster: workers leave letters, the command takes them and answers."""

    def __init__(self) -> None:
        self._letters: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[bool]] = {}
        self._number = 0

    async def tell(self, letter: Any) -> None:
        await self._letters.put((0, letter))

    async def ask(self, letter: Any) -> bool:
        """Whether the command did what the letter wants."""
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._letters.put((self._number, letter))
        done: bool = await answer
        return done

    async def take(self, wait: float) -> list[tuple[int, Any]]:
        """All letters that are there, or come within so many seconds."""
        try:
            found = [await asyncio.wait_for(self._letters.get(), wait)]
        except TimeoutError:
            return []
        while not self._letters.empty():
            found.append(self._letters.get_nowait())
        return found

    async def answer(self, answers: Mapping[int, bool]) -> None:
        for number, done in answers.items():
            answer = self._answers.pop(number)
            if not answer.done():  # whoever asked may be lost
                answer.set_result(done)


class _Run:
    """One run of cells: which are at work, under which number, and for the how manieth time."""

    def __init__(self, cluster: RayCluster, work: Work, out: Path, clock: Clock, gpu: Mapping[str, bool]) -> None:
        self._cluster, self._work, self._out, self._clock, self._gpu = cluster, work, out, clock, gpu
        self._busy: dict[Any, tuple[int, Cell]] = {}  # what Ray calls the result -> number of the start, cell
        self._open: dict[int, Cell] = {}  # the starts whose letters count
        self._starts = 0
        self._tries: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._looked = -math.inf

    def all(self, waiting: Sequence[Cell]) -> Ended:
        import ray

        queue = deque(waiting)
        work, luggage = ray.put(self._work), pack(self._work, waiting, self._out, put=ray.put)
        mailbox = ray.remote(Mailbox).options(num_cpus=0, **_beside_this_process()).remote()
        start = partial(self._start, mailbox=mailbox, work=work, luggage=luggage)
        try:
            while queue or self._busy:
                while queue and len(self._busy) < self._room(queue[0]):
                    start(queue.popleft())
                self._read(mailbox)
                for result in ray.wait(list(self._busy), num_returns=len(self._busy), timeout=0)[0]:
                    number, cell = self._busy.pop(result)
                    record = self._record(result, cell)
                    del self._open[number]
                    if record is None:
                        queue.appendleft(cell)
                    else:
                        yield cell, record
        finally:
            for result in self._busy:
                ray.cancel(result, force=True)
            with suppress(ray.exceptions.RayError):
                ray.kill(mailbox)

    def _room(self, cell: Cell) -> int:
        """Cells at a time; at least one, which waits for a node to join where there is none."""
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            self._sizes = {resource: self._cluster.count(resource) for resource in ("CPU", "GPU")}
        return max(1, self._sizes["GPU" if self._gpu[cell.id] else "CPU"])

    def _start(self, cell: Cell, *, mailbox: Any, work: Any, luggage: Luggage) -> None:
        import ray

        self._starts += 1
        self._tries[cell.id] = self._tries.get(cell.id, 0) + 1
        task = ray.remote(_work_on).options(num_cpus=1, num_gpus=int(self._gpu[cell.id]), max_retries=0)
        files = _content(cell_folder(self._out, cell.id))
        self._busy[task.remote(cell, self._starts, files, work, luggage, mailbox)] = (self._starts, cell)
        self._open[self._starts] = cell
        if self._tries[cell.id] == 1:
            self._clock.started(cell)

    def _read(self, mailbox: Any) -> None:
        """Do what the letters want. Those of a start that was given up are refused: another one writes there now."""
        import ray

        answers: dict[int, bool] = {}
        try:
            letters = ray.get(mailbox.take.remote(WAIT))
        except ray.exceptions.RayError as error:
            raise InputError(
                f"The Ray cluster {self._cluster} was lost ({type(error).__name__}). Run the same command again when "
                "it is back: no query is paid twice."
            ) from error
        for asked, (number, *what) in letters:
            cell = self._open.get(number)
            if cell is not None and len(what) == 1:
                self._clock.paid(cell, what[0])
            elif cell is not None:
                write_at(cell_folder(self._out, cell.id), *what)
            if asked:
                answers[asked] = cell is not None
        if answers:
            ray.get(mailbox.answer.remote(answers))

    def _record(self, result: Any, cell: Cell) -> dict[str, Any] | None:
        """What came of a cell; None where its worker was lost and it is to be started again."""
        import ray

        try:
            kind, what, files = ray.get(result)
        except ray.exceptions.RayTaskError as error:
            what = str(error.cause).strip().partition("\n")[0]
            raise InputError(
                f"A node of {self._cluster} could not begin a cell ({type(error.cause).__name__}: {what}). Install "
                "this version of Portcullis with its extra `ray` on every node."
            ) from error
        except ray.exceptions.RayError as error:
            if self._tries[cell.id] < LIVES:
                return None
            sentence = (
                f"The workers that ran this cell were lost {LIVES} times (last: {type(error).__name__}), perhaps for "
                "lack of memory. Run the same command again: no query is paid twice."
            )
            return Record(cell=cell, outcome="failed", reason=sentence, final=False).to_json()
        if kind == "unfit":
            raise InputError(what)
        if kind == "full":
            raise DiskFull(what)
        for name, content in files.items():
            write_at(cell_folder(self._out, cell.id), name, 0, content)
        record: dict[str, Any] = what
        return record


def _beside_this_process() -> dict[str, Any]:
    """Options that keep an actor off the nodes that may be lost, where this process runs on one of the cluster's."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}


def _content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write_at(folder: Path, name: str, at: int, data: bytes) -> None:
    """Write to a file of a cell from this place on, the last of it; on return it is on disk. Raises DiskFull."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, at)
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], at + written)
        os.fsync(descriptor)
    except OSError as error:
        os.ftruncate(descriptor, at)
        if no_room(error):
            raise disk_full(path, "all rows paid before") from error
        raise
    finally:
        os.close(descriptor)


# What runs on a node.


@dataclass(frozen=True)
class _Letters:
    """What one start of a cell writes to the command."""

    mailbox: Any
    number: int

    def paid(self, rows: int) -> None:
        self.mailbox.tell.remote((self.number, rows))

    def keep(self, name: str, at: int, data: bytes) -> None:
        """Return when these bytes are on the command's disk."""
        import ray

        if not ray.get(self.mailbox.ask.remote((self.number, name, at, data))):
            raise RuntimeError("this start of the cell was given up, and another one goes on")


class _SentLedger(FileLedger):
    """A ledger whose every frame is on the command's disk before `record` returns."""

    def __init__(self, path: Path, letters: _Letters, *, columns: int) -> None:
        self._letters = letters
        super().__init__(path, columns=columns)

    def _write(self, data: bytes, at: int) -> None:
        super()._write(data, at)
        self._letters.keep(self.path.name, at, data)


@dataclass(frozen=True)
class _Away(Workspace):
    """A workspace on a node."""

    letters: _Letters

    def ledger(self, name: str = "ledger", *, columns: int = 0) -> FileLedger:
        return _SentLedger(self.folder / f"{name}.bin", self.letters, columns=columns)


def _work_on(
    cell: Cell, number: int, files: Mapping[str, bytes], work: Work, luggage: Luggage, mailbox: Any
) -> tuple[str, Any, dict[str, bytes]]:
    """("ended", record, files beside the ledgers), or ("full" or "unfit", sentence, {})."""
    import ray

    letters, last = _Letters(mailbox, number), 0.0

    def report(paid: int, budget: int) -> None:
        nonlocal last
        if time.monotonic() - last > PATIENCE:
            last = time.monotonic()
            letters.paid(paid)

    try:
        unpack(luggage, get=ray.get)
        with tempfile.TemporaryDirectory(prefix="portcullis-") as folder:
            for name, content in files.items():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).write_bytes(content)
            record = recorded(cell, _Away(Path(folder), report, letters), work)
            kept = {name: data for name, data in _content(Path(folder)).items() if not data.startswith(MAGIC)}
            return "ended", record, kept
    except DiskFull as error:
        return "full", f"On node {socket.gethostname()}: {error}", {}
    except InputError as error:
        return "unfit", str(error), {}
