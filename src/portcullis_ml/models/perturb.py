"""Perturbation: move inputs a little, inside an L-infinity ball, so that a model we hold changes its answer.

Goodfellow, Shlens, Szegedy. "Explaining and Harnessing Adversarial Examples", ICLR 2015, section 4 (FGSM);
Madry, Makelov, Schmidt, Tsipras, Vladu. "Towards Deep Learning Models Resistant to Adversarial Attacks",
ICLR 2018, section 2.1 (PGD). The synthetic queries of PRADA and the transfer attacks are both made of this.

Threat model   white box, but the box is the thief's own copy: the victim is never differentiated.
Query cost     none; only what is done with the result costs queries.

Every step goes `step` along the sign of the gradient in every input, then is cut back to the ball around the
start and to the box that the API accepts. There is no random start, so one input has one perturbation. A start
outside the box is pulled into it first and the ball is drawn around that point: an API takes nothing else.

`of="log_probs"` follows the cross-entropy, which also pushes the other classes down; `of="logits"` follows one
row of the Jacobian, as the first version of PRADA words it, and still moves where a softmax has saturated.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Array, Differentiable, Labels

__all__ = ["Bounds", "fgsm", "noise_like", "pgd"]

Bounds = tuple[float | Array, float | Array]  # least and greatest value, of all inputs or of each of them


def fgsm(
    model: Differentiable,
    x: Array,
    labels: Labels,
    *,
    eps: float,
    bounds: Bounds,
    targeted: bool = False,
    of: Literal["logits", "log_probs"] = "log_probs",
    batch: int = 512,
) -> Array:
    """(n, *input_shape) one step of length eps away from `labels`, or towards them when `targeted`."""
    return pgd(model, x, labels, eps=eps, steps=1, step=eps, bounds=bounds, targeted=targeted, of=of, batch=batch)


def pgd(
    model: Differentiable,
    x: Array,
    labels: Labels,
    *,
    eps: float,
    steps: int = 40,
    step: float | None = None,
    bounds: Bounds,
    targeted: bool = False,
    of: Literal["logits", "log_probs"] = "log_probs",
    batch: int = 512,
) -> Array:
    """(n, *input_shape) within eps of x in every input: `steps` steps away from `labels`, or towards them.

    step   length of one step; 2.5 eps / steps unless given, so that the edge of the ball is within reach
    batch  rows that the model differentiates at a time; the result does not depend on it
    """
    _check(x, labels, eps, steps, step, model.n_classes, batch)
    step = 2.5 * eps / steps if step is None else step
    low, high = (np.reshape(b, x.shape[1:]) if np.ndim(b) else float(b) for b in bounds)
    start = np.clip(np.asarray(x, np.float64), low, high)
    result = start.copy()
    for rows in (slice(i, i + batch) for i in range(0, len(x) if eps else 0, batch)):
        weights = np.zeros((len(start[rows]), model.n_classes))
        weights[np.arange(len(weights)), labels[rows]] = 1.0 if targeted else -1.0  # a step raises the sum
        floor = np.maximum(start[rows] - eps, low)  # ball and box are both intervals, so one cut does for both
        ceiling = np.minimum(start[rows] + eps, high)
        for _ in range(steps):
            gradient = model.input_gradient(result[rows], weights, of=of)
            result[rows] = np.clip(result[rows] + step * np.sign(gradient), floor, ceiling)
    return result


def noise_like(x: Array, *, eps: float, bounds: Bounds, rng: np.random.Generator) -> Array:
    """(n, *input_shape) x with +eps or -eps in every input by a coin, cut to the box: a step as
    long as FGSM's in a random direction, the control that a transfer attack has to beat."""
    if not (math.isfinite(eps) and eps >= 0):
        raise ParameterError("eps", "a finite number, at least 0", eps)
    low, high = (np.reshape(b, x.shape[1:]) if np.ndim(b) else float(b) for b in bounds)
    start = np.clip(np.asarray(x, np.float64), low, high)
    return np.clip(start + eps * rng.choice([-1.0, 1.0], size=x.shape), low, high)


def _check(x: Array, labels: Labels, eps: float, steps: int, step: float | None, n_classes: int, batch: int) -> None:
    if not (math.isfinite(eps) and eps >= 0):
        raise ParameterError("eps", "a finite number, at least 0", eps)
    if steps < 1:
        raise ParameterError("steps", "at least 1", steps)
    if step is not None and not (math.isfinite(step) and step >= 0):
        raise ParameterError("step", "a finite number, at least 0, or None", step)
    if batch < 1:
        raise ParameterError("batch", "at least 1", batch)
    if np.shape(labels) != (len(x),):
        raise InputError(f"{len(x)} inputs need {len(x)} labels; got an array of shape {np.shape(labels)}.")
    if len(x) and not 0 <= np.min(labels) <= np.max(labels) < n_classes:
        raise InputError(
            f"The labels to move from or to must be classes 0 to {n_classes - 1}; got {np.min(labels)} to "
            f"{np.max(labels)}. Leave out rows whose answer was withheld (label -1)."
        )
