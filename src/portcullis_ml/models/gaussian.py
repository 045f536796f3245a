"""Gaussian-process regression that learns how much each column matters: what smooth victims are copied best by.

Rasmussen, Williams. "Gaussian Processes for Machine Learning", MIT Press 2006: algorithm 2.1 fits, equation 5.9 is the
gradient by which the settings are chosen, "automatic relevance determination" (section 5.1) the weights of columns.

The kernel is a linear one plus a rational quadratic one, s / (1 + d / 2), over squared distances d in which every
column has its weight; all indicators of one category share theirs. The weights, the two scales and the noise maximise
the marginal likelihood of at most `TUNED` rows by L-BFGS; the regression itself is then solved for up to `SOLVED`.
Time grows with the cube of the rows and space with their square.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from portcullis_ml.core.types import Array

__all__ = ["GaussianProcess"]

TUNED = 500  # rows at most by which the weights are chosen
SOLVED = 2500  # rows at most that the regression is solved for
STEPS = 40
JITTER = 1e-6  # added to the diagonal, so that equal rows can be factored
PRIOR = 3.0  # standard deviation of a weight's logarithm around its start
TINY = 1e-12
BATCH = 1000  # rows that are predicted at a time
LEAST, MOST = np.log(1e-5), np.log(2.0)  # the noise, as a share of the targets' variance


class GaussianProcess:
    """fit(z (n, width), y (n,) or (n, c)), then predict(z); `groups` (width,) numbers the source of every column."""

    def __init__(self, groups: NDArray[np.int64], seed: int = 0) -> None:
        self.groups = groups
        self.seed = seed

    def fit(self, z: Array, y: Array) -> GaussianProcess:
        """Raises LinAlgError where no kernel matrix can be factored (say, rows that are not finite)."""
        y = y.reshape(len(z), -1)
        rows = np.random.default_rng(self.seed).permutation(len(z))[:SOLVED]
        self.middle, self.spread = y.mean(axis=0), float(y.std()) or 1.0
        self.rows, goal = z[rows], (y[rows] - self.middle) / self.spread
        self.settings = self._tuned(self.rows[:TUNED], goal[:TUNED])
        curved, linear, _ = self._kernels(self.settings, self.rows)
        kernel = curved + linear
        kernel[np.diag_indices(len(kernel))] += np.exp(self.settings[-1]) + JITTER
        self.weights = cho_solve(cho_factor(kernel, overwrite_a=True), goal)
        return self

    def predict(self, z: Array) -> Array:
        """(n, c), or (n,) for one target."""
        parts = [np.empty((0, self.weights.shape[1]))]
        for start in range(0, len(z), BATCH):
            curved, linear, _ = self._kernels(self.settings, z[start : start + BATCH])
            parts.append((curved + linear) @ self.weights)
        found = self.middle + self.spread * np.concatenate(parts)
        return np.asarray(found if found.shape[1] > 1 else found[:, 0])

    def _tuned(self, z: Array, y: Array) -> Array:
        """The logarithms of the weights of all groups, the scale of either kernel and the noise."""
        k = int(self.groups.max()) + 1
        start = np.concatenate([np.full(k, -np.log(2.0 * k)), [0.0, 0.0, np.log(0.05)]])
        bounds = [(-15.0, 5.0)] * k + [(-8.0, 6.0)] * 2 + [(LEAST, MOST)]
        options: dict[str, Any] = {"maxiter": STEPS}
        found = minimize(self._loss, start, (z, y, start), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return np.asarray(found.x)

    def _kernels(self, settings: Array, z: Array, centres: Array | None = None) -> tuple[Array, Array, Array]:
        """The curved kernel (n, m), the linear one, and the derivative of the curved one by the squared distance."""
        centres = self.rows if centres is None else centres
        weights, curve, line = np.exp(settings[:-3])[self.groups], np.exp(settings[-3]), np.exp(settings[-2])
        weighted = z * weights
        products = weighted @ centres.T
        squares = (weighted * z).sum(axis=1)[:, None] + (centres**2 @ weights) - 2 * products
        share = 1 / (1 + np.maximum(squares, 0.0) / 2)
        return curve * share, line * (products + 1), -curve / 2 * share**2

    def _loss(self, settings: Array, z: Array, y: Array, start: Array) -> tuple[float, Array]:
        """The negative logarithm of the marginal likelihood and of the weights' prior, per row, with its gradient."""
        curved, linear, slope = self._kernels(settings, z, z)
        kernel, noise = curved + linear, np.exp(settings[-1])
        kernel[np.diag_indices(len(z))] += noise + JITTER
        try:
            factor = cho_factor(kernel, overwrite_a=True)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(settings)
        solved, inverse = cho_solve(factor, y), cho_solve(factor, np.eye(len(z)))
        loss = 0.5 * float((y * solved).sum()) + y.shape[1] * float(np.log(np.diag(factor[0])).sum())
        error = 0.5 * (y.shape[1] * inverse - solved @ solved.T)  # the derivative of the loss by the kernel
        moved = error * slope
        np.fill_diagonal(moved, 0.0)
        by_column = 2 * (moved.sum(axis=1) @ z**2 - ((moved @ z) * z).sum(axis=0))
        by_column += np.exp(settings[-2]) * ((error @ z) * z).sum(axis=0)
        by_group = np.bincount(self.groups, by_column, minlength=len(settings) - 3) * np.exp(settings[:-3])
        off = (settings[:-3] - start[:-3]) / PRIOR
        scales = [(error * curved).sum(), (error * linear).sum(), np.trace(error) * noise]
        gradient = np.concatenate([by_group + off / PRIOR, scales])
        return (loss + 0.5 * float((off**2).sum())) / len(z), gradient / len(z)
