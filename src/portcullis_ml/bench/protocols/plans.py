"""What every protocol is given: its settings from the TOML file of the same name, and where and how it runs."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.run import Jobs, Progress, Work, run_cells

__all__ = ["Run", "plan_in"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a protocol runs and how; `portcullis bench run` makes one of its options.

    out       the folder of its records; cells that are finished there are not run again
    data      the folder that holds the data sets, if it is not the one of the environment
    quick     a look in minutes, whose figures stand for nothing
    jobs      processes at work, 0 for this one only, or a cluster
    """

    out: Path
    data: str | None = None
    quick: bool = False
    jobs: Jobs = 2
    device: str = "cpu"
    progress: Callable[[Progress], None] | None = None

    def cells(self, cells: Iterable[Cell], work: Work, *, keep: bool = False) -> list[dict[str, Any]]:
        """The record of every cell as JSON, in their order; see `run_cells`."""
        return run_cells(list(cells), work, out=self.out, jobs=self.jobs, progress=self.progress, keep=keep)


def plan_in(file: str) -> dict[str, Any]:
    """What that file says: settings, published figures and what a quick look changes."""
    return tomllib.loads((resources.files(__package__) / file).read_text())
