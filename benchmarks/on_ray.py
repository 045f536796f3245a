"""Two Ray workers beside one: the same cells, each of some 20 seconds of one core, on a cluster of this machine.

    python -m venv ray && ray/bin/pip install '.[ray]'
    ray/bin/python benchmarks/on_ray.py                about 6 minutes of two cores that do nothing else
    ray/bin/python benchmarks/on_ray.py --sleep        cells that wait and do not compute: what the cluster adds

One worker and two take turns. A cell multiplies matrices, as training does, and asks a toy victim 1,000 rows through
its ledger. The ratio that is printed is seconds with one worker by seconds with two: 2 is linear, 1.7 within 15%.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.on_ray import RayCluster
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace, run_cells
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Interface

CELLS, SECONDS, BATCHES, PAIRS = 4, 20.0, 40, 2


class Victim:
    """A logistic regression."""

    input_shape, n_classes = (784,), 2

    def scores(self, x: Array) -> Array:
        p = 1 / (1 + np.exp(-x.mean(axis=1)))
        return np.column_stack([p, 1 - p])


def work(cell: Cell, workspace: Workspace) -> Record:
    """Asks its rows in forty batches and computes, or waits, for half a second after each."""
    rng = cell.rng("attack")
    interface = Interface(input_shape=(784,), n_classes=2)
    with workspace.ledger(columns=2) as ledger:
        oracle = LocalOracle(Victim(), interface, budget=cell.budget, ledger=ledger)
        for _ in range(BATCHES):
            oracle.query(interface.uniform(cell.budget // BATCHES, rng))
            workspace.report(oracle.queries, cell.budget)
            if cell.extra["sleep"]:
                time.sleep(SECONDS / BATCHES)
                continue
            end = time.process_time() + SECONDS / BATCHES
            a = rng.normal(size=(256, 256))
            while time.process_time() < end:
                a = np.tanh(a @ a / 16)
    return Record(cell=cell, queries=oracle.queries)


def seconds_with(workers: int, *, sleep: bool) -> float:
    """All cells on a fresh cluster whose nodes have one CPU each."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(workers):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    settings: dict[str, Any] = {
        "victim": {"name": "toy"},
        "data": {"name": "toy"},
        "interface": {},
        "attack": {"unit": "toy"},
    }
    cells = [Cell(**settings, budget=1000, seed=seed, extra={"sleep": sleep}) for seed in range(CELLS)]
    try:
        machines = RayCluster()
        with tempfile.TemporaryDirectory() as out:
            clock = time.perf_counter()
            records = run_cells(cells, work, out=Path(out), jobs=machines)
            took = time.perf_counter() - clock
        assert all(record["outcome"] == "done" for record in records)
        return took
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sleep", action="store_true")
    sleep = parser.parse_args().sleep
    ratios = []
    for pair in range(PAIRS):
        order = (1, 2) if pair % 2 == 0 else (2, 1)
        took = {workers: seconds_with(workers, sleep=sleep) for workers in order}
        ratios.append(took[1] / took[2])
        print(f"one worker {took[1]:.1f} s, two workers {took[2]:.1f} s: {ratios[-1]:.2f} times as fast", flush=True)
    print(
        f"{np.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] n={PAIRS} pairs of {CELLS} cells; 2 is linear"
    )


if __name__ == "__main__":
    main()
