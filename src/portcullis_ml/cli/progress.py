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
    from portcullis_ml.bench.run import Progress

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
    """Shows how far a run is; `quiet` shows nothing."""

    def __init__(self, bars: Any = None, *, quiet: bool = False) -> None:
        self._bars = bars
        self._quiet = quiet
        self._lines: dict[str, Any] = {}
        self._all: Any = None
        self._shown_at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if self._quiet:
            return
        if self._bars is not None:
            self._draw(progress)
        elif time.monotonic() - self._shown_at > EVERY or progress.finished == progress.total:
            self._shown_at = time.monotonic()
            line = f"{progress.finished} of {progress.total} cells, {left(progress.seconds_left)}. Now: {progress.cell}"
            print(line, file=sys.stderr, flush=True)

    def training(self, what: str, done: int, steps: int) -> None:
        """Show how far a training is that comes before the cells."""
        if self._quiet:
            return
        if self._bars is None:
            if done == steps or time.monotonic() - self._shown_at > EVERY:
                self._shown_at = time.monotonic()
                print(f"Training {what}: {done} of {steps} steps", file=sys.stderr, flush=True)
            return
        if what not in self._lines:
            self._lines[what] = self._bars.add_task(f"training {what}", total=steps, note="")
        self._bars.update(self._lines[what], completed=done, note=f"{done:,} of {steps:,} steps")
        if done == steps:
            self._bars.remove_task(self._lines.pop(what))

    def _draw(self, progress: Progress) -> None:
        bars, id = self._bars, progress.cell.id
        if self._all is None:
            self._all = bars.add_task("cells", total=progress.total, note="")
        bars.update(self._all, completed=progress.finished, note=left(progress.seconds_left))
        if progress.kind == "ended":
            bars.remove_task(self._lines.pop(id))
            return
        if id not in self._lines:
            about = f"{progress.cell.attack_name} | {progress.cell.defense_name} | seed {progress.cell.seed}"
            self._lines[id] = bars.add_task(f"  {about}", total=max(progress.cell.budget, 1), note="")
        note = f"{progress.paid:,} of {progress.cell.budget:,} queries" if progress.cell.budget else ""
        bars.update(self._lines[id], completed=progress.paid, note=note)


@contextmanager
def watching(*, quiet: bool = False) -> Iterator[Watcher]:
    """A callback for `run_cells`."""
    if quiet or not sys.stderr.isatty():
        yield Watcher(quiet=quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
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
