"""What private training stops and what it does not: digits, at several epsilons and without.

    python benchmarks/private.py [--seeds 3] [--epochs 20]

For every seed the 1,797 digits are dealt anew: 900 to the victim, 300 that the thief asks about, 597 that nobody trains
on. Victim and copy are the same network with two hidden layers of 128; the victim takes SGD with the same step with
and without privacy. The membership attack says of every row how large the victim's loss is on it. Needs the extra
`private`; two minutes of one core.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.datasets import load_digits

from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Labels, Model, Rows
from portcullis_ml.hardening.private_training import PrivateTraining
from portcullis_ml.measures.membership import area_under_curve
from portcullis_ml.measures.statistics import mean_over_seeds
from portcullis_ml.models.torch import TorchLearner

EPSILONS = (None, 8.0, 4.0, 1.0)
COLUMNS = ("victim's accuracy", "copy's accuracy", "agreement, scores", "agreement, labels", "membership AUC")


def victim_of(epsilon: float | None, x: Array, y: Labels, epochs: int, rng: np.random.Generator) -> Model:
    learner = TorchLearner(network="mlp", epochs=epochs, optimizer="sgd", lr=0.1)
    if epsilon is None:
        return learner.fit(x, np.eye(10)[y], rng=rng)
    return PrivateTraining(epsilon=epsilon)(learner, Rows(x, y), None, rng=rng)


def cell(epsilon: float | None, seed: int, epochs: int) -> list[float]:
    """The columns for one victim and its two copies."""
    x, y = load_digits(return_X_y=True)
    x = x / 16
    own, asked, rest = np.split(derive(seed, "private", "rows").permutation(len(x)), [900, 1200])
    victim = victim_of(epsilon, x[own], y[own], epochs, derive(seed, "private", "victim"))
    shown = victim.scores(x[asked])
    thief = TorchLearner(network="mlp", epochs=100)
    rng = derive(seed, "private", "thief")
    copies = [thief.fit(x[asked], targets, rng=rng) for targets in (shown, np.eye(10)[shown.argmax(axis=1)])]
    said, *copied = (model.scores(x[rest]).argmax(axis=1) for model in (victim, *copies))
    both = np.concatenate([own, rest])
    right = victim.scores(x[both])[np.arange(len(both)), y[both]]
    auc = area_under_curve(right, np.arange(len(both)) < len(own)).value
    shares = [said == y[rest], copied[0] == y[rest], copied[0] == said, copied[1] == said]
    return [*(100 * float(share.mean()) for share in shares), 100 * auc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    print(f"| epsilon | n | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * (1 + len(COLUMNS))}")
    for epsilon in EPSILONS:
        found = np.array([cell(epsilon, seed, given.epochs) for seed in range(given.seeds)])
        means = [mean_over_seeds(column.tolist()) for column in found.T]
        shown = " | ".join(f"{m.value:.1f} [{m.low:.1f}, {m.high:.1f}]" for m in means)
        print(f"| {'none' if epsilon is None else f'{epsilon:g}'} | {given.seeds} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
