"""A small network in numpy: one hidden layer of tanh units under a softmax, fitted by full-batch L-BFGS in float64.

Deep-learning optimisers stop at two or three digits; a second-order method on a few thousand unknowns reaches ten,
which is what "the same function" takes. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import log_softmax

from portcullis_ml.core.types import Array
from portcullis_ml.models.lbfgs import Divergence, minimise

__all__ = ["Mlp", "fit_mlp"]

FALLING = (1e-3, 1e-4, 1e-5)  # penalties on the way to the last one


@dataclass(eq=False)
class Mlp:
    """w (h, d), b (h,), then v (c, h), a (c,): softmax(v tanh(w x + b) + a)."""

    w: Array
    b: Array
    v: Array
    a: Array

    def __post_init__(self) -> None:
        self.input_shape: tuple[int, ...] = (self.w.shape[1],)
        self.n_classes = len(self.a)

    def log_probs(self, x: Array) -> Array:
        """(n, d) -> (n, c)."""
        return np.asarray(log_softmax(np.tanh(x @ self.w.T + self.b) @ self.v.T + self.a, axis=1))

    def scores(self, x: Array) -> Array:
        return np.exp(self.log_probs(x))

    def input_gradient(self, x: Array, weights: Array, *, of: Literal["logits", "log_probs"]) -> Array:
        """(n, d): the gradient of sum_j weights[:, j] * of_j(x)."""
        if of == "log_probs":
            weights = weights - weights.sum(axis=1, keepdims=True) * self.scores(x)
        hidden = np.tanh(x @ self.w.T + self.b)
        return np.asarray(((weights @ self.v) * (1 - hidden**2)) @ self.w)

    @property
    def flat(self) -> Array:
        return np.concatenate([part.ravel() for part in (self.w, self.b, self.v, self.a)])

    @classmethod
    def unflat(cls, flat: Array, d: int, h: int, c: int) -> Mlp:
        w, b, v, a = np.split(flat, np.cumsum([h * d, h, c * h]))
        return cls(w.reshape(h, d), b, v.reshape(c, h), a)

    @classmethod
    def random(cls, d: int, h: int, c: int, rng: np.random.Generator) -> Mlp:
        """Glorot-uniform hidden weights and a silent output layer."""
        limit = np.sqrt(6.0 / (d + h))
        return cls(rng.uniform(-limit, limit, (h, d)), np.zeros(h), rng.normal(0, 1e-2, (c, h)), np.zeros(c))


def fit_mlp(
    x: Array,
    targets: Array,
    *,
    rng: np.random.Generator,
    hidden: int = 20,
    restarts: int = 3,
    penalty: float = 1e-8,
    iterations: int = 3000,
    trial: int = 300,
) -> Mlp:
    """The best of `restarts` networks by their loss, which is all that an attacker can see.

    Every start gets `trial` iterations, under a penalty that falls in steps, so that a coarse shape is found before
    the fine one: it ends in far fewer local minima. The lowest loss goes on, for `iterations` at most.
    """
    shape = (x.shape[1], hidden, targets.shape[1])
    divergence = Divergence(targets)
    steps = [step for step in FALLING if step > penalty]

    def tried(flat: Array) -> tuple[Array, float]:
        loss = np.inf
        for step in steps:
            flat, loss = minimise(_Objective(x, divergence, shape, step), flat, iterations=trial // len(steps))
        return flat, loss

    starts = [tried(Mlp.random(*shape, rng).flat) for _ in range(restarts)]
    best, _ = min(starts, key=lambda found: found[1])
    return Mlp.unflat(minimise(_Objective(x, divergence, shape, penalty), best, iterations=iterations)[0], *shape)


@dataclass(frozen=True)
class _Objective:
    """KL(targets || network) + penalty / 2 * |weights|^2, and its gradient by hand."""

    x: Array
    divergence: Divergence
    shape: tuple[int, int, int]
    penalty: float

    def __call__(self, flat: Array) -> tuple[float, Array]:
        net = Mlp.unflat(flat, *self.shape)
        hidden = np.tanh(self.x @ net.w.T + net.b)
        loss, error = self.divergence(hidden @ net.v.T + net.a)
        back = (error @ net.v) * (1 - hidden**2)
        gradient = Mlp(
            back.T @ self.x + self.penalty * net.w,
            back.sum(axis=0),
            error.T @ hidden + self.penalty * net.v,
            error.sum(axis=0),
        )
        weights = float((net.w**2).sum() + (net.v**2).sum())
        return loss + self.penalty / 2 * weights, gradient.flat
