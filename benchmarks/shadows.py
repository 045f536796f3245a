"""Shadow models trained as one stack beside one after another.

    OMP_NUM_THREADS=1 python benchmarks/shadows.py [--models 16] [--turns 5] [--epochs 3]

The same networks on the same halves of the same rows, in turns. Seconds are those of the processor, which other
processes on the machine disturb less than a clock. A ratio of 2 says that the stack needs half of the computing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np

from portcullis_ml.core.types import Array, Labels
from portcullis_ml.measures.statistics import quantile
from portcullis_ml.models.shadows import paired_halves
from portcullis_ml.models.together import fit_together
from portcullis_ml.models.torch import TorchLearner

CLASSES = 10


def workloads(rng: np.random.Generator) -> Iterator[tuple[str, Array, Labels]]:
    """Network, rows and labels; speed does not depend on what they show."""
    for network, n, shape in (
        ("table_mlp", 2000, (30,)),
        ("mlp", 2000, (64,)),
        ("digits_cnn", 1000, (8, 8)),
        ("prada_mnist", 300, (28, 28)),
    ):
        yield network, rng.random((n, *shape)), rng.integers(CLASSES, size=n)


def seconds(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    print(
        f"{given.models} models, {given.epochs} epochs in batches of 64, {given.turns} turns, medians with quartiles\n"
    )
    print("network            rows  one by one   together  ratio  quartiles")
    for network, x, y in workloads(np.random.default_rng(0)):
        learner = TorchLearner(network=network, epochs=given.epochs)
        held, targets = paired_halves(given.models, len(x), np.random.default_rng(1)), np.eye(CLASSES)[y]

        def together(learner=learner, x=x, y=y, held=held) -> None:
            fit_together(learner, x, y, CLASSES, held, rng=np.random.default_rng(2))

        def one_by_one(learner=learner, x=x, targets=targets, held=held) -> None:
            for mine in held:
                learner.fit(x[mine], targets[mine], rng=np.random.default_rng(2))

        together()  # what torch prepares once
        turns = np.array([(seconds(one_by_one), seconds(together)) for _ in range(given.turns)])
        ratio = turns[:, 0] / turns[:, 1]
        alone, stack = np.median(turns, axis=0)
        low, middle, high = (quantile(ratio, q) for q in (0.25, 0.5, 0.75))
        print(f"{network:14}{len(x):9,}{alone:10.2f} s{stack:9.2f} s{middle:7.2f}  [{low:.2f}, {high:.2f}]", flush=True)


if __name__ == "__main__":
    main()
