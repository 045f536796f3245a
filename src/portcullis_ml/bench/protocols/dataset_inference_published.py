"""The published test of dataset inference, without any innocent model: what the calibrated one is compared with.

Maini, Yaghini, Papernot. "Dataset Inference", ICLR 2021: walks of 50 steps in ten random directions of each of three
kinds, a small network that is fitted to tell the victim's private rows from public ones by these 30 distances, and
Welch's t of what it says of the suspect's distances on other rows.

The published notebook reads the (rows, directions, kinds) distances with `.T.reshape(rows, 30)`, which puts 30
rows' distances for one direction into each line: the network is then fitted to and tried on the same rows. `mixed`
does the same, to see what it makes of innocent models.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from portcullis_ml.core.types import Array, Labels, Model

__all__ = ["Groups", "apart", "fit_regressor", "mixed", "one_sided", "walked"]

KINDS: tuple[Callable[[np.random.Generator, tuple[int, ...]], Array], ...] = (
    lambda rng, shape: rng.uniform(-0.005, 0.005, shape),
    lambda rng, shape: rng.normal(0, 0.005, shape),
    lambda rng, shape: rng.laplace(0, 0.01, shape),
)
NORMS: tuple[Callable[[Array], Array], ...] = (
    lambda d: np.abs(d).max(axis=1),
    lambda d: np.linalg.norm(d, axis=1),
    lambda d: np.abs(d).sum(axis=1),
)
Groups = tuple[Array, Array]  # of private rows and of public ones
Regressor = Callable[[Array], Array]


def walked(model: Model, x: Array, y: Labels, *, starts: int, steps: int, rng: np.random.Generator) -> Array:
    """(n, starts, 3) how far each walk has gone when the model no longer gives the row's class, or after all steps."""
    found = np.empty((len(x), starts, len(KINDS)))
    for kind, (draw, norm) in enumerate(zip(KINDS, NORMS, strict=True)):
        for start in range(starts):
            way, left, at = draw(rng, x.shape), np.arange(len(x)), np.ones(len(x), np.int64)
            for step in range(1, steps + 1):
                at[left] = step
                moved = np.clip(x[left] + step * way[left], 0, 1)
                left = left[model.scores(moved).argmax(axis=1) == y[left]]
                if not len(left):
                    break
            gone = np.clip(x + at.reshape(-1, *[1] * (x.ndim - 1)) * way, 0, 1) - x
            found[:, start, kind] = norm(gone.reshape(len(x), -1))
    return found


def apart(features: Array) -> Array:
    """(n, starts, 3) -> (n, starts * 3): a line for each row."""
    return features.reshape(len(features), -1)


def mixed(features: Array) -> Array:
    """The same as the published notebook has it: each line holds distances of many rows."""
    return features.T.reshape(len(features), -1)


def fit_regressor(private: Array, public: Array, *, steps: int, rng: np.random.Generator) -> Regressor:
    """A network of 100 units, fitted to give 1 on the public lines and -1 on the private ones."""
    import torch

    from portcullis_ml.models.training import seeded

    x = torch.tensor(np.concatenate([private, public]), dtype=torch.float32)
    side = torch.tensor(np.repeat([-1.0, 1.0], [len(private), len(public)]), dtype=torch.float32)
    with seeded(rng, "cpu"):
        network = torch.nn.Sequential(
            torch.nn.Linear(x.shape[1], 100), torch.nn.ReLU(), torch.nn.Linear(100, 1), torch.nn.Tanh()
        )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -(side * network(x).squeeze(-1)).mean()
        loss.backward()
        optimizer.step()

    def said(lines: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(network(torch.tensor(lines, dtype=torch.float32)).squeeze(-1).double().numpy())

    return said


def one_sided(
    victim: Groups, suspect: Groups, lines: Callable[[Array], Array], *, steps: int, rng: np.random.Generator
) -> float:
    """The published one-sided p-value: the network is fitted to the first half of the victim's lines, and tried on the
    other half of the suspect's. Distances are standardised by those of the victim's private rows."""
    from scipy.stats import ttest_ind

    mean, deviation = victim[0].mean(axis=(0, 1)), victim[0].std(axis=(0, 1)) + 1e-12
    own, its = ([lines((group - mean) / deviation) for group in groups] for groups in (victim, suspect))
    half = len(own[0]) // 2
    said = fit_regressor(own[0][:half], own[1][:half], steps=steps, rng=rng)
    private, public = (said(group[half:]) for group in its)
    if np.ptp(private) == 0 == np.ptp(public):
        return 1.0
    return float(ttest_ind(public, private, equal_var=False, alternative="greater").pvalue)
