"""Removal attacks: what a thief does to a stolen network so that its owner's mark is no longer seen.

Adi, Baum, Cisse, Pinkas, Keshet. "Turning Your Weakness Into a Strength", USENIX Security 2018: FTLL, FTAL, RTLL, RTAL.
The others stand in surveys of removal (Lukas et al., "SoK: How Robust is Image Classification Deep Neural Network
Watermarking?", IEEE S&P 2022). Knockoff and distillation make copies, which take nothing of the file with them.

Threat model   the thief holds the stolen file, knows the scheme and not the key, and has labelled rows of the same kind
               that the owner never had. The more of them, the stronger the removals that train, and the less the
               thief needs the theft.
Query cost     none; a copy asks one question for each row of the thief's.

`attacked` runs them by name. The four of fine-tuning are judged twice: as the suspect answers, and with the owner's
last layer put back onto the suspect's body, which needs its file and is what the published code measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Interface, Labels, Reveals, Rows
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.models import weights
from portcullis_ml.models.torch import TorchLearner, TorchModel
from portcullis_ml.ownership import CATALOG as SCHEMES

__all__ = ["OWNERS_HEAD", "REMOVALS", "Thief", "attacked", "copied"]

OWNERS_HEAD = ", owner's last layer"  # behind the name of a removal: judged with that layer put back
NOISE = 0.2  # of the labels are drawn anew by `noise labels`
TEMPERATURE = 4.0  # of distillation: scores are taken to the power of 1 / this


@dataclass(frozen=True)
class Thief:
    """What a thief has besides the stolen model.

    own      labelled rows that the owner never had, to train a stolen file on with
    pool     (n, *input_shape) rows without classes to ask about, for copies
    learner  how they train a copy, from scratch
    tuner    how they train a stolen file on
    """

    interface: Interface
    own: Rows
    pool: Array
    learner: TorchLearner
    tuner: TorchLearner

    @property
    def targets(self) -> Array:
        """(n, c) the classes of their own rows, one-hot."""
        return np.eye(self.interface.n_classes)[self.own.y]


Removal = Callable[[TorchModel, Thief, np.random.Generator], TorchModel]


def attacked(
    model: TorchModel, thief: Thief, names: Sequence[str], rng: np.random.Generator
) -> Iterator[tuple[str, TorchModel]]:
    """(name, what the thief makes of the model) for each removal of these names, then what the owner can put back."""
    for name in names:
        suspect = REMOVALS[name](model, thief, rng)
        yield name, suspect
        if name in TUNED:
            yield name + OWNERS_HEAD, weights.last_layer_of(model, suspect)


def copied(
    model: TorchModel, thief: Thief, rng: np.random.Generator, *, labels: bool = False, pool: Array | None = None
) -> TorchModel:
    """Knockoff with the thief's whole pool, or another: a copy from scores, or from labels alone."""
    interface = thief.interface.revealing(reveals=Reveals.LABELS) if labels else thief.interface
    rows = thief.pool if pool is None else pool
    oracle = LocalOracle(model, interface, budget=len(rows))
    found: Any = ATTACKS.build("knockoff")(oracle, Knowledge(pool=rows, learner=thief.learner), rng=rng)
    copy: TorchModel = found.model
    return copy


def _nothing(model: TorchModel, thief: Thief, rng: np.random.Generator) -> TorchModel:
    return model


def _train_last(model: TorchModel, thief: Thief, rng: np.random.Generator, *, fresh: bool) -> TorchModel:
    """FTLL, or RTLL where the last layer begins anew."""
    start = weights.fresh_last_layer(model, rng) if fresh else model
    return weights.train_last_layer(thief.tuner, start, thief.own.x, thief.targets, rng=rng)


def _train_all(
    model: TorchModel, thief: Thief, rng: np.random.Generator, *, fresh: bool = False, pruned: float = 0.0
) -> TorchModel:
    """FTAL, RTAL where the last layer begins anew, or fine-pruning where weights are pruned first."""
    start = weights.fresh_last_layer(model, rng) if fresh else model
    start = weights.pruned(start, pruned) if pruned else start
    return thief.tuner.fit(thief.own.x, thief.targets, rng=rng, start=start)


def _noise_labels(model: TorchModel, thief: Thief, rng: np.random.Generator) -> TorchModel:
    """Trained on with a share of the labels drawn anew, so that what was memorised is unlearnt."""
    assert thief.own.y is not None
    return thief.tuner.fit(
        thief.own.x, np.eye(model.n_classes)[noisy(thief.own.y, model.n_classes, rng)], rng=rng, start=model
    )


def noisy(y: Labels, n_classes: int, rng: np.random.Generator) -> Labels:
    """The classes y (n,) with a share `NOISE` of them drawn anew."""
    drawn = rng.integers(n_classes, size=len(y))
    return np.where(rng.random(len(y)) < NOISE, drawn, y)


def _prune(model: TorchModel, thief: Thief, rng: np.random.Generator, *, share: float) -> TorchModel:
    return weights.pruned(model, share)


def _quantise(model: TorchModel, thief: Thief, rng: np.random.Generator, *, levels: int) -> TorchModel:
    return weights.quantised(model, levels)


def _distil(model: TorchModel, thief: Thief, rng: np.random.Generator) -> TorchModel:
    """A student from scratch, on the thief's rows: half their classes, half the teacher's softened scores."""
    soft = model.scores(thief.own.x) ** (1 / TEMPERATURE)
    soft /= soft.sum(axis=1, keepdims=True)
    return thief.learner.fit(thief.own.x, (soft + thief.targets) / 2, rng=rng)


def _copy_twice(model: TorchModel, thief: Thief, rng: np.random.Generator) -> TorchModel:
    """Double extraction: a copy, from half of the pool, of a copy from the other half."""
    half = len(thief.pool) // 2
    return copied(copied(model, thief, rng, pool=thief.pool[:half]), thief, rng, pool=thief.pool[half:])


def _overwrite(model: TorchModel, thief: Thief, rng: np.random.Generator) -> TorchModel:
    """The thief embeds a mark of their own, by Adi's scheme, into the stolen model."""
    scheme = SCHEMES.build("backdoor")
    key = scheme.mint(rng.bytes(32), thief.interface)
    model = scheme.embed(key, thief.tuner, thief.own, start=model, rng=rng)
    return model


TUNED: dict[str, Removal] = {
    "FTLL": partial(_train_last, fresh=False),
    "FTAL": _train_all,
    "RTLL": partial(_train_last, fresh=True),
    "RTAL": partial(_train_all, fresh=True),
}
REMOVALS: dict[str, Removal] = {
    "none": _nothing,
    **TUNED,
    "noise labels": _noise_labels,
    **{f"pruning {percent}%": partial(_prune, share=percent / 100) for percent in range(10, 100, 10)},
    "fine-pruning": partial(_train_all, pruned=0.5),
    "quantised, 8 bits": partial(_quantise, levels=255),
    "quantised, 4 bits": partial(_quantise, levels=15),
    "quantised, 5 levels": partial(_quantise, levels=5),
    "quantised, 3 levels": partial(_quantise, levels=3),
    "overwriting": _overwrite,
    "distillation": _distil,
    "Knockoff, scores": copied,
    "Knockoff, labels": partial(copied, labels=True),
    "double extraction": _copy_twice,
}
