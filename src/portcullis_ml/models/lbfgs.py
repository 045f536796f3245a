"""Full-batch L-BFGS in float64: what exact copies are fitted with.

The loss is the Kullback-Leibler divergence rather than the cross-entropy: the two differ by a constant, and
only the former goes to 0 where the copy is exact, so that the last ten digits survive the subtraction.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import OptimizeResult, minimize
from scipy.special import xlogy

from portcullis_ml.core.types import Array

__all__ = ["Divergence", "fit_softmax", "minimise"]

PATIENCE, PROGRESS = 100, 1e-4  # a fit whose loss falls by less than this share in so many steps has converged


def minimise(
    objective: Callable[[Array], tuple[float, Array]], start: Array, *, iterations: int, tolerance: float = 1e-12
) -> tuple[Array, float]:
    """The flat parameters and the loss where the gradient is below `tolerance` or nothing gets better."""
    losses: list[float] = []

    def stop_when_flat(intermediate_result: OptimizeResult) -> None:
        losses.append(float(intermediate_result.fun))
        if len(losses) > PATIENCE and losses[-1] > (1 - PROGRESS) * losses[-1 - PATIENCE]:
            raise StopIteration

    found = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=stop_when_flat,
        options={"maxiter": iterations, "maxfun": 4 * iterations, "maxcor": 30, "ftol": 0.0, "gtol": tolerance},
    )
    return np.asarray(found.x, np.float64), float(found.fun)


class Divergence:
    """Mean over rows of KL(targets || softmax(logits)), and its gradient; targets (n, c) sum to 1."""

    def __init__(self, targets: Array) -> None:
        self._targets = targets
        # "- targets + p" sums to nothing, and makes every single term positive and small near the optimum.
        self._constant = xlogy(targets, targets) - targets

    def __call__(self, logits: Array) -> tuple[float, Array]:
        """The loss, and its gradient (n, c) with respect to the logits."""
        log_p = logits - logits.max(axis=1, keepdims=True)
        p = np.exp(log_p)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        log_p -= np.log(total)
        loss = float((self._constant - self._targets * log_p + p).sum()) / len(p)
        return loss, np.asarray((p - self._targets) / len(p))


def fit_softmax(x: Array, targets: Array, *, penalty: float = 0.0, iterations: int = 5000) -> tuple[Array, Array]:
    """(w (c, d), b (c,)) of the softmax regression nearest to the targets; class 0 has w = 0 and b = 0.

    x (n, d) should be scaled to about [-1, 1]. `penalty` is lambda / 2 times the squared weights.
    """
    n, classes = targets.shape
    design = np.column_stack([x, np.ones(n)])
    columns = design.shape[1]
    divergence = Divergence(targets)

    def objective(flat: Array) -> tuple[float, Array]:
        theta = flat.reshape(columns, classes - 1)
        logits = np.column_stack([np.zeros(n), design @ theta])
        loss, error = divergence(logits)
        gradient = design.T @ error[:, 1:] + penalty * theta
        return loss + penalty / 2 * float((theta**2).sum()), gradient.ravel()

    flat, _ = minimise(objective, np.zeros(columns * (classes - 1)), iterations=iterations)
    theta = np.column_stack([np.zeros(columns), flat.reshape(columns, classes - 1)])
    return theta[:-1].T, theta[-1]
