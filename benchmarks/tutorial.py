"""The figures of docs/tutorial-pipeline.md: how much of the pipeline that the page builds is taken with 500 queries.

    export PORTCULLIS_DATA=... OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python benchmarks/tutorial.py [seeds] > benchmarks/results/tutorial.txt

The pipeline is made by the page's own code from adult.csv.gz. Agreement in percent on the table's held-out people: mean
and 95% interval of Student's t over seeds (5 unless said), the least of them, and what was paid.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.controls import PlainStranger, most_frequent
from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.defenses.rounding import Rounding
from portcullis_ml.extraction.equation_solving import EquationSolving
from portcullis_ml.measures.statistics import mean_over_seeds

PAGE = Path(__file__).parent.parent / "docs" / "tutorial-pipeline.md"
BUDGET = 500
ATTACKS: dict[str, Any] = {
    "equation_solving": EquationSolving(),
    "plain stranger": PlainStranger(),
}


def pipeline(table: Path, folder: Path) -> Experiment:
    """What the page audits: its first block of code, run beside the table."""
    (code,) = re.findall(r"```\n(import pandas.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (folder / "adult.csv.gz").symlink_to(table.resolve())
    here = Path.cwd()
    os.chdir(folder)
    try:
        exec(compile(code, str(PAGE), "exec"), {})
    finally:
        os.chdir(here)
    paths = {"victim": str(folder / "income.skops"), "test": str(folder / "adult.csv.gz")}
    return ExperimentSpec(**paths, target="income").load()


def theft(attack: Any, experiment: Experiment, decimals: int | None, seed: int) -> tuple[float, int]:
    """Agreement in percent on the held-out rows, and queries."""
    door, model = experiment.interface, experiment.model
    guard = None if decimals is None else Guard(Rounding(decimals=decimals), key=bytes(16), interface=door)
    oracle = LocalOracle(model, door, budget=BUDGET, guard=guard)
    found = attack(oracle, Knowledge(), rng=np.random.default_rng(seed))
    same = found.model.scores(experiment.test_x).argmax(axis=1) == model.scores(experiment.test_x).argmax(axis=1)
    return 100 * float(same.mean()), found.queries


def main(seeds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        experiment = pipeline(Path(os.environ["PORTCULLIS_DATA"], "adult.csv.gz"), Path(folder))
    truth = experiment.model.scores(experiment.test_x).argmax(axis=1)
    print(f"agreement in percent on {len(truth):,} held-out people, {BUDGET} queries, {seeds} seeds\n")
    print(f"{'attacker':24}{'decimals':10}{'mean [95% interval]':24}{'least':8}queries")
    for name, attack in ATTACKS.items():
        for decimals in (None, 2):
            found = [theft(attack, experiment, decimals, seed) for seed in range(seeds)]
            e = mean_over_seeds([value for value, _ in found], within=(0, 100))
            mean = f"{e.value:.1f} [{e.low:.1f}, {e.high:.1f}]"
            paid = max(queries for _, queries in found)
            print(f"{name:24}{decimals or 'all'!s:10}{mean:24}{min(v for v, _ in found):<8.1f}{paid}", flush=True)
    constant = most_frequent(truth, experiment.interface).scores(experiment.test_x).argmax(axis=1)
    print(f"{'never asks':24}{'':10}{100 * float((constant == truth).mean()):.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
