"""The query log: one line for each request, written by a thread of its own.

With `queries` a line also holds the rows and the model's undefended answer, which is what `portcullis
replay` needs; without, it holds decisions only and no one's data. Lines wait in a bounded queue: when
the disk cannot keep up, the policy says whether requests are refused or lines are dropped and counted.
"""

from __future__ import annotations

import base64
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from portcullis_ml.core.errors import InputError, PortcullisError
from portcullis_ml.core.types import Answer, Floats
from portcullis_ml.gateway.state.events import narrow
from portcullis_ml.gateway.state.private import make_private

__all__ = ["Line", "LogFull", "NoLog", "QueryLogFile", "read_log"]

WAITING = 20_000  # lines in the queue at most


class LogFull(PortcullisError):
    """The query log cannot take another line."""


@dataclass
class Line:
    """One request, as the log has it."""

    at: float = 0.0
    id: str = ""
    client: str = ""  # the account that asked
    decision: str = ""
    status: int = 0
    reason: str = ""
    work: int = 0  # bits of a proof of work that came with it
    rows: int = 0
    altered: int = 0  # rows that got something else than everybody gets
    alarms: int = 0
    seq: int = 0  # its place in the client's journal ...
    ended: int = 0  # ... and that of its answer or its end there; 0 or less while the journal could not be written
    admitted: int = 0  # the order in which this process admitted ...
    released: int = 0  # ... and released it ...
    undone: int = 0  # ... or gave it up; 0 if never
    seconds: float = 0.0
    policy: str = ""
    run: str = ""  # the process
    principal: str = ""  # whose limits and history the request counts for; empty in logs of earlier versions
    codes: str = ""  # of the alarms that this request set off, with a comma between them
    x: Floats | None = None
    clean: Answer | None = None

    @property
    def counts_for(self) -> str:
        """In whose journal the request stands."""
        return self.principal or self.client


class NoLog:
    """Nowhere."""

    dropped = 0
    failed = ""

    def write(self, line: Line) -> None:
        pass

    def close(self) -> None:
        pass


class QueryLogFile:
    """A folder of files, each begun anew beyond `file_bytes` and deleted after `days`."""

    def __init__(
        self, folder: str | Path, *, queries: bool = False, format: str = "jsonl", days: float | None = 30.0,
        file_bytes: int = 64 << 20,
    ) -> None:  # fmt: skip
        self._folder = Path(folder)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._queries, self._format, self._days, self._file_bytes = queries, format, days, file_bytes
        # A deque and a look every 50 ms: waking the thread for each line would cost a request more than writing it.
        self._waiting: deque[Line] = deque()
        self._ending = threading.Event()
        self.dropped = 0
        self.failed = ""  # why the last write failed; empty while all is well
        self._thread = threading.Thread(target=self._run, name="query log", daemon=True)
        self._thread.start()

    def write(self, line: Line) -> None:
        """Hand a line over; LogFull if too many wait or the disk refuses them."""
        if self.failed or len(self._waiting) >= WAITING or self._ending.is_set():
            self.dropped += 1
            raise LogFull(f"The query log cannot be written: {self.failed or 'the disk is too slow'}.")
        if not self._queries:
            line.x = line.clean = None  # memory that is held is not used again while the processor still has it
        self._waiting.append(line)

    def close(self) -> None:
        """Write what waits, then stop."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        writer: _Jsonl | _Parquet | None = None
        lines: list[Line] = []  # that the disk did not take last time come first
        while True:
            last = self._ending.wait(0.2 if lines else 0.05)
            lines += [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                if lines and (writer is None or writer.size > self._file_bytes):
                    if writer:
                        writer.close()
                    self._forget_old()
                    writer = (_Parquet if self._format == "parquet" else _Jsonl)(self._folder)
                if lines and writer:
                    writer.write([record(line, self._queries) for line in lines])
                lines, self.failed = [], ""
            except OSError as error:
                self.failed = error.strerror or str(error)
                self.dropped += len(lines) if last else 0
            if last and not self._waiting:
                if writer:
                    writer.close()
                return

    def _forget_old(self) -> None:
        if self._days is None:
            return
        oldest = time.time() - self._days * 86_400
        for path in self._folder.glob("queries-*"):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)


class _Jsonl:
    def __init__(self, folder: Path) -> None:
        path = folder / f"queries-{time.time_ns()}.jsonl"
        make_private(path)
        self._file = open(path, "ab", buffering=0)  # a buffer would be written again when a full file closes
        self.size = 0

    def write(self, records: list[dict[str, Any]]) -> None:
        text = b"".join(orjson.dumps(r, option=orjson.OPT_APPEND_NEWLINE) for r in records)
        left = memoryview(text)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            self._file.truncate(self.size)  # half a line would stand in the middle of the next ones
            raise
        self.size += len(text)

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """One file for each batch of at most 2,000 lines, so that a crash damages none that is finished."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.size = 0

    def write(self, records: list[dict[str, Any]]) -> None:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]

        if records:
            packed = [{**r, "data": orjson.dumps(r.pop("data")) if "data" in r else None} for r in records]
            path = self._folder / f"queries-{time.time_ns()}.parquet"
            part = path.with_suffix(".part")
            make_private(part)
            try:
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(packed), part, compression="zstd")
                part.rename(path)
            except OSError:
                part.unlink()
                raise

    def close(self) -> None:
        pass


def record(line: Line, queries: bool) -> dict[str, Any]:
    """A line as plain values."""
    found = dict(vars(line))
    x, clean = found.pop("x"), found.pop("clean")
    if queries and x is not None:
        arrays: dict[str, np.ndarray | None] = {"x": x}
        if clean is not None:
            arrays |= vars(clean)
        found["data"] = {name: _written(a) for name, a in arrays.items() if a is not None}
    return found


def _written(a: np.ndarray) -> list[Any]:
    small = narrow(a)
    return [small.dtype.str, small.shape, base64.b64encode(small.tobytes()).decode()]


def _read(written: list[Any]) -> np.ndarray:
    dtype, shape, text = written
    found = np.frombuffer(base64.b64decode(text), np.dtype(dtype)).reshape(shape)
    return found.astype(np.float64) if found.dtype.kind == "f" else found.astype(np.int64)


def read_log(path: str | Path) -> Iterator[Line]:
    """The lines of a log's file or folder, in the order in which they were written."""
    top = Path(path)
    files = sorted(p for p in top.glob("queries-*") if p.suffix != ".part") if top.is_dir() else [top]
    if not files or not top.exists():
        raise InputError(f"A query log was expected at {str(path)!r}; there is none. Give its folder or one file.")
    for file in files:
        yield from _parquet_lines(file) if file.suffix == ".parquet" else _jsonl_lines(file)


def _jsonl_lines(file: Path) -> Iterator[Line]:
    with file.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            try:
                yield _line(orjson.loads(text))
            except (ValueError, KeyError, TypeError):
                if text.endswith(b"\n"):
                    raise InputError(f"{file}, line {number}: this is not a line of a query log.") from None
                # a crash cut the last line short


def _parquet_lines(file: Path) -> Iterator[Line]:
    import pyarrow.parquet

    for row in pyarrow.parquet.read_table(file).to_pylist():
        data = row.pop("data", None)
        yield _line({**row, "data": orjson.loads(data)} if data else row)


def _line(found: dict[str, Any]) -> Line:
    data = found.pop("data", None) or {}
    arrays = {name: _read(written) for name, written in data.items()}
    x = arrays.pop("x", None)
    return Line(**found, x=x, clean=Answer(arrays.pop("labels", None), **arrays) if arrays else None)
