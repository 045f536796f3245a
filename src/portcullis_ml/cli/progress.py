"""Progress on the terminal: which cell runs, how many queries it has paid, and the time left.

On a terminal that is a bar with one line for every cell at work; elsewhere (a CI log) a plain line now and then.
All of it goes to stderr, so that stdout holds results only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from portcullis_ml.bench.run import Event

__all__ = ["Watcher", "left", "waiting", "watching"]

EVERY = 10.0  # seconds between two lines where there is no terminal


def left(seconds: float | None) -> str:
    """How long it will take, in words."""
    if seconds is None:
        return "time left: not known yet"
    if seconds < 1:
        return "nearly done"
    if seconds < 90:
        return f"about {round(seconds)} s left"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes < 90 else f"about {seconds / 3600:.1f} h left"


class Watcher:
    """Shows events; `quiet` shows nothing."""

    def __init__(self, progress: Any = None, *, quiet: bool = False) -> None:
        self._progress = progress
        self._quiet = quiet
        self._lines: dict[str, Any] = {}
        self._all: Any = None
        self._said = time.monotonic()

    def __call__(self, event: Event) -> None:
        if self._quiet:
            return
        if self._progress is not None:
            self._draw(event)
        elif time.monotonic() - self._said > EVERY or event.finished == event.total:
            self._said = time.monotonic()
            told = f"{event.finished} of {event.total} cells, {left(event.seconds_left)}. Now: {event.cell}"
            print(told, file=sys.stderr, flush=True)

    def _draw(self, event: Event) -> None:
        bars, id = self._progress, event.cell.id
        if self._all is None:
            self._all = bars.add_task("cells", total=event.total, note="")
        bars.update(self._all, completed=event.finished, note=left(event.seconds_left))
        if event.kind == "ended":
            bars.remove_task(self._lines.pop(id))
            return
        if id not in self._lines:
            about = f"{event.cell.attack_name} | {event.cell.defense_name} | seed {event.cell.seed}"
            self._lines[id] = bars.add_task(f"  {about}", total=max(event.cell.budget, 1), note="")
        note = f"{event.paid:,} of {event.cell.budget:,} queries" if event.cell.budget else ""
        bars.update(self._lines[id], completed=event.paid, note=note)


@contextmanager
def watching(*, quiet: bool = False) -> Iterator[Watcher]:
    """A callback for `run_cells`."""
    if quiet or not sys.stderr.isatty():
        yield Watcher(quiet=quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield Watcher(bars)


@contextmanager
def waiting(what: str, *, quiet: bool = False) -> Iterator[None]:
    """A spinner beside a sentence, for what has no bar."""
    if quiet:
        yield
        return
    if not sys.stderr.isatty():
        print(what, file=sys.stderr, flush=True)
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
