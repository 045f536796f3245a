"""Runs cells on worker processes: each once, each on its own randomness, each resumable.

`run_cells(cells, work, out=..., jobs=2)` hands every unfinished cell to `work(cell, workspace)` in one of
`jobs` processes with one thread each, and appends the record to `<out>/records.jsonl` as soon as it
is there. What a cell draws follows from the cell alone, so neither the number of processes nor the order
changes a result. An error becomes a record with its sentence; a killed run, a full disk or Ctrl-C
leaves a folder from which the same command goes on. `jobs` may also be a cluster (`on_ray.py`).
"""

from __future__ import annotations

import fcntl
import shutil
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.ledger import DiskFull, FileLedger, disk_full, no_room
from portcullis_ml.bench.raised import last_line
from portcullis_ml.bench.records import Record, RecordFile, versions
from portcullis_ml.bench.workers import Do, on_workers
from portcullis_ml.core.errors import (
    AttackFailed,
    BudgetExhausted,
    InputError,
    NotApplicable,
    ParameterError,
    PortcullisError,
    Refused,
)

__all__ = [
    "Clock",
    "Cluster",
    "Jobs",
    "Progress",
    "Work",
    "Workspace",
    "called",
    "cell_folder",
    "recorded",
    "run_cells",
]


@dataclass(frozen=True)
class Workspace:
    """What a cell works with: a folder of its own that outlives a crash, and a callback that reports how far it is."""

    folder: Path
    report: Callable[[int, int], None]  # (rows paid, budget)

    def ledger(self, name: str = "ledger", *, columns: int = 0) -> FileLedger:
        """The cell's record of paid answers, as it stood when the last run ended."""
        return FileLedger(self.folder / f"{name}.bin", columns=columns)


Work = Callable[[Cell, Workspace], Record]  # a module-level function, or a functools.partial of one
Ended = Generator[tuple[Cell, dict[str, Any]], None, None]  # every cell with its record, as they come in


class Cluster(Protocol):
    """Machines that run cells for this one."""

    @property
    def slots(self) -> int:
        """How many cells may run at a time."""

    def run(self, waiting: Sequence[Cell], work: Work, *, out: Path, clock: Clock) -> Ended:
        """Run these cells; what they keep lies below `out` on this machine, as if they had run here."""


Jobs = int | Cluster  # processes of this machine, 0 for none but this one, or other machines


@dataclass(frozen=True)
class Progress:
    """Something to show: a cell started, paid or ended. `seconds_left` is None until there is something to go by."""

    kind: str  # "started", "paid", "ended"
    cell: Cell
    paid: int
    finished: int  # cells, those of earlier runs included
    total: int
    seconds_left: float | None
    outcome: str = ""


def run_cells(
    cells: Sequence[Cell],
    work: Work,
    *,
    out: Path,
    jobs: Jobs = 2,
    progress: Callable[[Progress], None] | None = None,
    keep: bool = False,
) -> list[dict[str, Any]]:
    """The record of every cell as JSON, in the order of `cells`; finished ones are read, not run.

    jobs=0 works in this process (for debugging). keep=True leaves the folders of finished cells in place.
    Raises DiskFull or KeyboardInterrupt with everything finished on disk.
    """
    if isinstance(jobs, int) and jobs < 0:
        raise ParameterError("jobs", "0 or more processes", jobs)
    with _sole(out):
        records = RecordFile(out / "records.jsonl")
        unique = {cell.id: cell for cell in cells}
        waiting = [cell for id, cell in unique.items() if id not in records.finished]
        slots = max(jobs, 1) if isinstance(jobs, int) else jobs.slots
        clock = Clock(waiting, len(unique), slots, progress or (lambda _: None))
        with closing(_started(jobs, waiting, work, out, clock)) as results:
            for cell, record in results:
                records.append(record)
                clock.ended(cell, record["outcome"])
                if record["final"] and not keep:
                    shutil.rmtree(cell_folder(out, record["id"]), ignore_errors=True)
        return [called(records[cell.id], cell) for cell in cells]


def called(record: dict[str, Any], cell: Cell) -> dict[str, Any]:
    """The record under the names by which its cell is asked for now; they are no part of its identity."""
    names = {"attack": cell.attack_name, "defense": cell.defense_name}
    return {**record, **names, "cell": {**record["cell"], "names": dict(cell.names)}}


@contextmanager
def _sole(out: Path) -> Iterator[None]:
    """One run at a time in a folder."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise InputError(f"The results cannot be written to {out}: {error.strerror}. Choose another --out.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"Another run is writing to {out}. Wait for it, or choose another --out.") from error
        yield


def cell_folder(out: Path, id: str) -> Path:
    """Where a cell keeps what it needs to go on."""
    return out / "cells" / id


def _started(jobs: Jobs, waiting: Sequence[Cell], work: Work, out: Path, clock: Clock) -> Ended:
    if not isinstance(jobs, int):
        return jobs.run(waiting, work, out=out, clock=clock)
    do = partial(finish, work=work, out=out)
    return _here(waiting, do, clock) if jobs == 0 else on_workers(waiting, do, jobs, clock)


def _here(waiting: Sequence[Cell], do: Do, clock: Clock) -> Ended:
    for cell in waiting:
        clock.started(cell)
        yield cell, do(cell, partial(_paid, clock, cell))


def _paid(clock: Clock, cell: Cell, paid: int, budget: int) -> None:
    clock.paid(cell, paid)


def finish(cell: Cell, report: Callable[[int, int], None], *, work: Work, out: Path) -> dict[str, Any]:
    """The record of a cell that runs in its folder on this machine; see `recorded`."""
    return recorded(cell, Workspace(cell_folder(out, cell.id), report), work)


def recorded(cell: Cell, workspace: Workspace, work: Work) -> dict[str, Any]:
    """The cell's record, whatever happens: errors become outcomes, only DiskFull is raised."""
    workspace.folder.mkdir(parents=True, exist_ok=True)
    before = time.perf_counter()
    try:
        record = work(cell, workspace)
    except DiskFull:
        raise
    except (NotApplicable, BudgetExhausted) as error:
        record = Record(cell=cell, outcome="not applicable", reason=str(error))
    except Refused as error:
        record = Record(cell=cell, outcome="refused", reason=str(error), stopped=error.reason)
    except AttackFailed as error:
        record = Record(cell=cell, outcome="failed", reason=str(error))
    except PortcullisError as error:
        record = Record(cell=cell, outcome="failed", reason=str(error), final=False)
    except Exception as error:
        if isinstance(error, OSError) and no_room(error):
            raise disk_full(workspace.folder, "all finished cells") from error
        (workspace.folder / "error.txt").write_text(traceback.format_exc())
        sentence = f"{type(error).__name__}: {last_line(error)}. The whole story is in cells/{cell.id}/error.txt."
        record = Record(cell=cell, outcome="failed", reason=sentence, final=False)
    took = time.perf_counter() - before
    return replace(record, seconds=round(took, 3), versions=record.versions or versions()).to_json()


class Clock:
    """Reports progress as cells start, pay and end; estimates the time left from earlier cells of the same attack."""

    def __init__(self, waiting: Sequence[Cell], total: int, jobs: int, show: Callable[[Progress], None]) -> None:
        self._open = {cell.id: cell for cell in waiting}
        self._total = total
        self._jobs = jobs
        self._show = show
        self._began: dict[str, float] = {}
        self._took: dict[str, list[float]] = {}

    def started(self, cell: Cell) -> None:
        self._began[cell.id] = time.monotonic()
        self._say("started", cell, 0)

    def paid(self, cell: Cell, rows: int) -> None:
        self._say("paid", cell, rows)

    def ended(self, cell: Cell, outcome: str) -> None:
        self._took.setdefault(cell.attack_name, []).append(time.monotonic() - self._began[cell.id])
        del self._open[cell.id]
        self._say("ended", cell, cell.budget, outcome)

    def _say(self, kind: str, cell: Cell, paid: int, outcome: str = "") -> None:
        finished = self._total - len(self._open)
        self._show(Progress(kind, cell, paid, finished, self._total, self._left(), outcome))

    def _left(self) -> float | None:
        every = [t for times in self._took.values() for t in times]
        if not every:
            return None
        usual = sum(every) / len(every)
        means = {name: sum(times) / len(times) for name, times in self._took.items()}
        now = time.monotonic()
        run = [max(means.get(c.attack_name, usual) - (now - self._began.get(i, now)), 0) for i, c in self._open.items()]
        return sum(run) / self._jobs
