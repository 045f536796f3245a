"""Toys for the tests of the bench: a victim that counts, a stage that counts, cells that do odd things."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.errors import AttackFailed, BudgetExhausted, InputError, NotApplicable, Refused
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Estimate, Interface

INTERFACE = Interface(input_shape=(3,), n_classes=2)


class Counting:
    """A victim that counts the rows it answered."""

    input_shape, n_classes = (3,), 2

    def __init__(self) -> None:
        self.rows = 0

    def scores(self, x: np.ndarray) -> np.ndarray:
        self.rows += len(x)
        p = 1 / (1 + np.exp(-x.sum(axis=1)))
        return np.column_stack([p, 1 - p])


class Logging(Counting):
    """Writes every row that it answers to a file, and kills its process rather than answer row `die_at`."""

    def __init__(self, log: Path, die_at: int = 10**9) -> None:
        super().__init__()
        self.log, self.die_at = log, die_at

    def scores(self, x: np.ndarray) -> np.ndarray:
        if self.rows + len(x) > self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with self.log.open("a") as file:
            file.write("".join(row.tobytes().hex() + "\n" for row in x))
        return super().scores(x)


def questions(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(n, 3))


@dataclass
class Rows:
    rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Count(Defense[Rows]):
    """Counts a client's rows."""

    name = "count"

    def start(self):
        return Rows()

    def release(self, request, answer, clean, state, noise):
        state.rows += len(request)
        return answer


def cell(what: str, seed: int = 0, budget: int = 30, **extra: object) -> Cell:
    toy = {"name": "toy", "sha256": "0"}
    return Cell(
        victim=toy,
        data=toy,
        interface={"reveals": "probs"},
        attack={"unit": what},
        budget=budget,
        seed=seed,
        extra=extra,
    )


def work(cell: Cell, workspace: Workspace) -> Record:
    """What a cell's attack is called says what becomes of it."""
    what = cell.attack["unit"]
    if what == "draw":
        value = float(cell.rng("draw").random())
        return Record(cell=cell, measures={"agreement": Estimate(value, 0.0, 1.0, 1)}, queries=cell.budget)
    if what in ERRORS:
        raise ERRORS[what]
    if what == "die" and not (workspace.folder / "died").exists():
        (workspace.folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "slow":
        time.sleep(float(cell.extra["seconds"]))
    victim = Logging(
        Path(cell.extra["log"]), cell.extra.get("die_at", 10**9) if not list(workspace.folder.iterdir()) else 10**9
    )
    with workspace.ledger(columns=2) as ledger:
        oracle = LocalOracle(victim, INTERFACE, budget=cell.budget, ledger=ledger)
        x = cell.rng("attack").uniform(size=(cell.budget, 3))
        for i in range(0, cell.budget, 7):
            oracle.query(x[i : i + 7])
            workspace.report(oracle.queries, cell.budget)
    return Record(cell=cell, queries=oracle.queries)


ERRORS = {
    "lacks": NotApplicable("lacks needs probs; this API gives labels."),
    "poor": BudgetExhausted(65, 10),
    "refused": Refused("its queries look like an extraction attack"),
    "fails": AttackFailed("Not one row was answered."),
    "bad input": InputError("The model must return finite scores; row 3 of the batch has NaN or infinity."),
    "breaks": ZeroDivisionError("division by zero"),
}
