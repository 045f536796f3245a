"""Square Attack: fool the API by its answers alone, moving inputs at random and keeping what helps.

Andriushchenko, Croce, Flammarion, Hein. "Square Attack: A Query-Efficient Black-Box Adversarial Attack via Random
Search", ECCV 2020, section 3 (the L-infinity attack).

Threat model   answers: probabilities; of labels it learns only whether it is done. data: the inputs to be changed.
Query cost     one query for every move of every input, `TRIES` at most.

What somebody without a copy can do for the same queries as `Transfer` on a copy: the same inputs, goal and greatest
change. An input starts at random stripes at the edge of the ball; then a square of a picture, or a part of the other
inputs, is drawn anew, and stays so where the answer comes nearer to the goal. Squares become smaller on the way. The
budget is spent on as many inputs at once as it gives `TRIES` moves each; those that it never reaches stay as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.oracle import Oracle
from portcullis_ml.core.types import Answer, Array, Estimate, Labels, Model
from portcullis_ml.measures.transferability import Transfer, by_source
from portcullis_ml.models.perturb import Bounds

__all__ = ["square_attack"]

TRIES = 50  # moves of one input
SHARE = 0.5  # of the inputs that the first move changes
HALVINGS = 4  # of that share until the last move


def square_attack(
    protocol: Transfer,
    oracle: Oracle,
    victim: Model,
    x: Array,
    labels: Labels,
    *,
    bounds: Bounds,
    rng: np.random.Generator,
) -> tuple[Estimate, Harvest]:
    """The share of the protocol's crafted inputs that fool the victim, which judges by its true answers, and what was
    asked. x (n, *input_shape) with the victim's labels (n,)."""
    groups = protocol.groups_of(victim.n_classes)
    chosen, _ = protocol.choose(labels, victim.n_classes, rng)
    source, aim = protocol.pairs(labels[chosen], groups)
    crafted, harvest = x[chosen[source]].copy(), Harvest(oracle)
    order = rng.permutation(len(source))
    while harvest.open and len(order):
        width = max(harvest.left // TRIES, 1)
        part, order = order[:width], order[width:]
        crafted[part] = _searched(protocol, harvest, crafted[part], aim[part], groups, bounds, rng)
    fooled = np.zeros(len(source), bool)
    if len(source):
        fooled = protocol.success(victim.scores(crafted).argmax(axis=1), aim, groups)
    return by_source(fooled, source, len(chosen)), harvest


def _searched(
    protocol: Transfer,
    harvest: Harvest,
    start: Array,
    aim: Labels,
    groups: NDArray[np.int64],
    bounds: Bounds,
    rng: np.random.Generator,
) -> Array:
    """The starts (n, *input_shape), each as far as the moves brought it."""
    best, done, here = np.full(len(start), -np.inf), np.zeros(len(start), bool), start.copy()
    signs = _stripes(start, rng)
    low, high = (np.reshape(b, start.shape[1:]) if np.ndim(b) else float(b) for b in bounds)
    for t in range(TRIES):
        alive = np.flatnonzero(~done)
        if not len(alive) or not harvest.open:
            break
        now = signs[alive] if t == 0 else _redrawn(signs[alive], SHARE * 0.5 ** (HALVINGS * t / TRIES), rng)
        moved = np.clip(start[alive] + protocol.eps * now, low, high)
        answer = harvest.ask(moved)
        heard, classes = alive[: len(answer)], aim[alive][: len(answer)]
        near, won = _nearness(protocol, answer, classes, groups)
        kept = (near >= best[heard]) | won
        signs[heard[kept]], here[heard[kept]] = now[: len(heard)][kept], moved[: len(heard)][kept]
        best[heard[kept]], done[heard[won]] = near[kept], True
    return here


def _nearness(
    protocol: Transfer, answer: Answer, aim: Labels, groups: NDArray[np.int64]
) -> tuple[Array, NDArray[np.bool_]]:
    """How near each answer is to the goal, and whether it is there. A withheld answer is nowhere."""
    p = answer.soft(len(groups))
    given = p[np.arange(len(p)), aim]
    near = given if protocol.goal == "targeted" else -given
    heard = ~np.isnan(p).any(axis=1)
    won = heard & protocol.success(np.where(np.isnan(p), -1, p).argmax(axis=1), aim, groups)
    return np.where(heard, near, -np.inf), won


def _stripes(x: Array, rng: np.random.Generator) -> Array:
    """(n, *input_shape) signs: of every column of a picture one, of other inputs each its own."""
    if x.ndim < 3:
        return rng.choice([-1.0, 1.0], size=x.shape)
    down, _ = _axes(x)
    shape = tuple(1 if axis == down else size for axis, size in enumerate(x.shape))
    return np.broadcast_to(rng.choice([-1.0, 1.0], size=shape), x.shape).copy()


def _redrawn(signs: Array, share: float, rng: np.random.Generator) -> Array:
    """The signs with such a share of them drawn anew: a square of a picture, any of other inputs."""
    signs = signs.copy()
    if signs.ndim < 3:
        drawn = rng.random(signs.shape) < share
        drawn[np.arange(len(signs)), rng.integers(signs.shape[1], size=len(signs))] = True
        signs[drawn] = rng.choice([-1.0, 1.0], size=int(drawn.sum()))
        return signs
    down, across = _axes(signs)
    height, width = signs.shape[down], signs.shape[across]
    side = max(round(np.sqrt(share * height * width)), 1)
    for row in signs:
        window: list[Any] = [slice(None)] * row.ndim
        for axis, size in ((down, height), (across, width)):
            corner = int(rng.integers(max(size - side, 0) + 1))
            window[axis - 1] = slice(corner, corner + side)
        shape = tuple(1 if axis + 1 in (down, across) else size for axis, size in enumerate(row.shape))
        row[tuple(window)] = rng.choice([-1.0, 1.0], size=shape)
    return signs


def _axes(x: Array) -> tuple[int, int]:
    """The axes down and across of pictures (n, H, W), (n, H, W, C) or (n, C, H, W)."""
    first = x.ndim == 4 and x.shape[1] <= 4 < min(x.shape[2:])
    return (2, 3) if first else (1, 2)
