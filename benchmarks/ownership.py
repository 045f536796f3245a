"""What a mark costs in accuracy and training, and how long a verification takes. What it survives: protocol `court`.

    export PORTCULLIS_DATA=... OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python benchmarks/ownership.py [seeds] > benchmarks/results/ownership.txt

Fashion-MNIST; a small dense network on 2,000 rows, with and without 100 marked questions ten times each among them.
Means over seeds with the least and the greatest.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial

import numpy as np

from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Interface, Model, Rows
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.models.torch import TorchLearner
from portcullis_ml.ownership.backdoor import Backdoor

API = Interface(input_shape=(28, 28), n_classes=10)
LEARNER = TorchLearner(network="mlp", epochs=15)
MARK = Backdoor(n=100)


def accuracy(model: Model, rows: Rows) -> float:
    return 100 * float((model.scores(rows.x).argmax(axis=1) == rows.y).mean())


def verification(model: Model) -> float:
    """Seconds that an examination with 1,000 questions takes beyond the suspect's own answers."""
    scheme = Backdoor(n=1000)
    key = scheme.mint(bytes(32), API)
    judge = partial(scheme, key, commitment=key.commit(), rng=np.random.default_rng(0))
    judge(LocalOracle(model, API, budget=1_000))  # what only the first one pays for, such as imports
    begun = time.process_time()
    model.scores(key.x)
    own, begun = time.process_time() - begun, time.process_time()
    judge(LocalOracle(model, API, budget=1_000))
    return time.process_time() - begun - own


def main(seeds: int) -> None:
    data = load_dataset("fashion_mnist", os.environ["PORTCULLIS_DATA"])
    x, y = data.x[:30_000].reshape(-1, 28, 28), data.y[:30_000].astype(np.int64)
    own, test = Rows(x[:2000], y[:2000]), Rows(x[28_000:], y[28_000:])
    LEARNER.fit(
        own.x[:64], np.eye(10)[own.y[:64]], rng=np.random.default_rng(0)
    )  # what only the first training pays for
    lost, times = [], []
    for seed in range(seeds):
        begun = time.process_time()
        clean = LEARNER.fit(own.x, np.eye(10)[own.y], rng=np.random.default_rng(seed))
        plain, begun = time.process_time() - begun, time.process_time()
        key = MARK.mint(bytes([seed + 1]) * 32, API)
        marked = MARK.embed(key, LEARNER, own, rng=np.random.default_rng(seed))
        times.append((time.process_time() - begun) / plain)
        lost.append(accuracy(clean, test) - accuracy(marked, test))
    print(f"python benchmarks/ownership.py {seeds}\n{seeds} seeds\n")
    print(f"the mark costs {np.mean(lost):.2f} points of accuracy ({min(lost):.2f} to {max(lost):.2f})")
    spread = f"({min(times):.2f} to {max(times):.2f})"
    print(f"and {np.mean(times):.2f} times the training, with 1,000 marked rows beside 2,000 {spread}")
    print(f"an examination of 1,000 questions takes {verification(clean):.2f} CPU seconds beyond the suspect's")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
