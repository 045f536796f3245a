"""A learner that chooses what to train on pictures by answers that it sets aside.

A quarter of the rows is set aside. Networks with and without batch normalisation, from every place or pooled, with and
without shifts are trained on the others, for half of the epochs; the best is tried with fewer epochs, with twice the
width and, where shifts help, with mirroring. They are compared by agreement on the rows set aside, then by
cross-entropy. Three networks are then trained on all rows, for all epochs, and the mean of their log-probabilities is
the copy. The rows that were set aside were paid for like the others, so nothing is learned for free.

The rows set aside are from the pool, which may look unlike what the copy is judged on: they cannot tell how a network
does elsewhere, and batch normalisation keeps the pool's statistics. So one of the three is the best network of another
kind, unless that makes the blend clearly worse on the rows set aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Model
from portcullis_ml.models.constant import ConstantModel
from portcullis_ml.models.layers import Blend
from portcullis_ml.models.networks import LARGE, image_shape, plain_network
from portcullis_ml.models.picture_training import Recipe, log_scores, train_network
from portcullis_ml.models.torch import TorchModel
from portcullis_ml.models.torch_model import keep_memory
from portcullis_ml.models.training import seeded

__all__ = ["AutoPictures", "PictureModel"]

FEW = 20  # rows: fewer are not split
ASIDE = 0.25  # of the rows: to compare recipes on
COMPARED = 1000  # rows at most that take part in choosing
COPIES = 3  # networks in the copy
HEDGE = 0.05  # a blend's cross-entropy may be so much worse than the best one's, as a share of it
SMALLEST = 4  # pixels of a side that the plain network needs
WORK = 30_000 * 28 * 28  # pixels that a network sees in training, between the bounds below
EPOCHS = (15, 60)  # at least, at most


class PictureModel(TorchModel):
    """A blend of networks; `chosen` says which recipes, and how each did on the rows set aside."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...], n_classes: int, *, chosen: Any, **how: Any) -> None:
        super().__init__(module, shape, n_classes, **how)
        self.chosen: dict[str, Any] = chosen


@dataclass(frozen=True, kw_only=True)
class AutoPictures:
    """Chooses among networks by rows set aside; always a new model, a function of (x, targets, rng)."""

    suffix: ClassVar[str] = ".safetensors"  # what `save_model` writes for its models

    epochs: int | None = None  # of every network of the copy; None: by the number of rows, 15 to 60
    one: bool = False  # one network, not chosen, for half of the epochs
    device: str = "cpu"  # or "cuda"

    def __post_init__(self) -> None:
        check(self, "epochs", "an int of at least 1, or None", lambda v: v is None or v >= 1)

    def rough(self) -> AutoPictures:
        """One network, not chosen: for copies that only say what to ask next."""
        return replace(self, one=True)

    def fit(self, x: Array, targets: Array, *, rng: np.random.Generator, start: Model | None = None) -> Model:
        """x (n, *input_shape), targets (n, n_classes) distributions; rows whose target is all zero are left out."""
        x, p = np.asarray(x), np.asarray(targets)
        if p.ndim != 2 or len(p) != len(x) or not (p > 0).any():
            raise InputError(
                f"Targets were expected to be ({len(x)}, n_classes), at least one of them known; got {p.shape}."
            )
        if not (np.isfinite(x).all() and np.isfinite(p).all()):
            raise InputError("A learner takes finite numbers; got NaN or infinity. Drop those rows first.")
        known = p.sum(axis=1) > 0
        x, p = x[known], p[known]
        mean = p.mean(axis=0) / p.mean(axis=0).sum()
        if (p == p[0]).all():
            return ConstantModel(x.shape[1:], mean)
        keep_memory()
        rows, goals = (torch.tensor(a, dtype=torch.float32, device=self.device) for a in (x, p))
        with seeded(rng, self.device):
            recipes, epochs, table = self._chosen(rows, goals)
            tried = [(recipe, train_network(recipe, rows, goals, epochs)) for recipe in recipes]
        fitted = [(recipe, module) for recipe, module in tried if _finite(module, rows)]
        if not fitted:
            return ConstantModel(x.shape[1:], mean)
        chosen = {
            "fitted": [str(recipe) for recipe, _ in fitted], "epochs": epochs, "rows": len(x), "set_aside": table
        }  # fmt: skip
        name = " + ".join(recipe.network for recipe, _ in fitted)
        blend = Blend([module for _, module in fitted])
        return PictureModel(blend, x.shape[1:], p.shape[1], chosen=chosen, network=name, device=self.device)

    def _chosen(self, x: Tensor, p: Tensor) -> tuple[list[Recipe], int, dict[str, tuple[float, float]]]:
        """The recipes of the copy's networks, their epochs, and {recipe or blend: (agreement, cross-entropy)}."""
        shape = tuple(x.shape[1:])
        epochs = self.epochs or int(np.clip(round(WORK / (len(x) * shape[0] * shape[1])), *EPOCHS))
        first = candidates(shape)
        if self.one:
            return first[:1], -(-epochs // 2), {}
        if len(x) < FEW:
            return [first[k % 2] for k in range(COPIES)], epochs, {}
        trial = _Trial(x, p)
        for recipe in first:
            trial.run(recipe, str(recipe), epochs)
        if not trial.table:
            return first[:1] * COPIES, epochs, {}
        best = next(recipe for recipe in first if str(recipe) == trial.ranked()[0])
        shorter = f"{best}, fewer epochs"
        trial.run(best, shorter, epochs // 2)
        if trial.ranked()[0] == shorter:
            epochs = -(-epochs // 2)
        for variant in variants(best):
            trial.run(variant, str(variant), epochs)
            first.append(variant)
        recipes = trial.blended(first)
        return [recipes[k % len(recipes)] for k in range(COPIES)], epochs, trial.table


def candidates(input_shape: tuple[int, ...]) -> list[Recipe]:
    """What is compared first; the first two are what few rows are fitted by."""
    short = min(image_shape(input_shape)[:2])
    shift = 2 if short >= LARGE else 1
    plain = Recipe(plain_network(input_shape), rate=3e-3, effort=1.5)  # learns slower without normalisation
    return [
        Recipe("picture_flat"),
        *([plain] if short >= SMALLEST else []),
        Recipe("picture_flat", shift),
        Recipe("picture_pooled", shift),
    ]


def variants(best: Recipe) -> list[Recipe]:
    """What is compared with the best of them."""
    wide = [replace(best, network=f"{best.network}_wide")] if best.network.startswith("picture_") else []
    return wide + ([replace(best, mirror=True)] if best.shift else [])


class _Trial:
    """Recipes trained on some of the rows and compared on the others."""

    def __init__(self, x: Tensor, p: Tensor) -> None:
        order = torch.randperm(len(x))[:COMPARED].to(x.device)
        n = max(1, round(ASIDE * len(order)))
        self._train, aside = order[n:], order[:n]
        self._x, self._p, self._aside = x, p, x[aside]
        self._truth = p[aside].double().cpu().numpy()
        self._found: dict[str, Array] = {}
        self.table: dict[str, tuple[float, float]] = {}

    def run(self, recipe: Recipe, name: str, epochs: int) -> None:
        """Train it for half of the epochs and note how it did; a network that gives NaN is left out."""
        module = train_network(recipe, self._x[self._train], self._p[self._train], -(-epochs // 2))
        found = log_scores(module, self._aside)
        if np.isfinite(found).all():
            self._found[name] = found
            self.table[name] = self._score(found)

    def ranked(self) -> list[str]:
        """Names, the best first: by agreement, then by cross-entropy. Where probabilities are shown, agreements within
        one standard error of the best are taken for equal."""
        best = max(agreement for agreement, _ in self.table.values())
        hard = (self._truth.max(axis=1) >= 1.0).all()
        error = 0.0 if hard else np.sqrt(best * (1 - best) / len(self._truth))
        return sorted(self.table, key=lambda name: (max(best - self.table[name][0] - error, 0.0), self.table[name][1]))

    def blended(self, recipes: Sequence[Recipe]) -> list[Recipe]:
        """Which of these to train: the best, and beside it the best of another kind unless that makes it worse."""
        named = {str(recipe): recipe for recipe in recipes}
        order = [named[name] for name in self.ranked() if name in named]
        pair = [order[0], *[recipe for recipe in order if recipe.kind != order[0].kind][:1]]
        found = np.mean([self._found[str(recipe)] for recipe in pair], axis=0)
        self.table[" + ".join(map(str, pair))] = (agreement, entropy) = self._score(found)
        best, least = self.table[str(pair[0])]
        error = np.sqrt(best * (1 - best) / len(self._truth))
        worse = agreement < best - 2 * error or entropy > (1 + HEDGE) * least
        return pair[:1] if worse else pair

    def _score(self, logits: Array) -> tuple[float, float]:
        """(agreement, cross-entropy) to four digits."""
        agreement = (logits.argmax(axis=1) == self._truth.argmax(axis=1)).mean()
        shifted = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return round(float(agreement), 4), round(float(-(self._truth * shifted).sum(axis=1).mean()), 4)


def _finite(module: nn.Module, x: Tensor) -> bool:
    return bool(np.isfinite(log_scores(module, x)).all())
