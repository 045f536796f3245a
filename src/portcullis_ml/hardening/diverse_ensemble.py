"""Diverse ensemble: several networks that agree on the victim's own rows only, one of which answers each question.

Kariyappa, Prakash, Qureshi. "Protecting DNNs from Theft Using an Ensemble of Diverse Models", ICLR 2021, the sections
on the diversity objective and on inference by a hash of the input.

Threat model   the thief asks about natural rows that are not of the victim's domain: what answers them is several
               functions in turns, which one copy does not follow. Whoever asks with rows like the victim's own is not
               hindered, nor who takes a majority over small steps that cross from one network to the next.
Cost           a training of `members` networks of the learner's kind, with its epochs and step; serving computes all
               of them and shows one. Rows near a border of classes get the answer of their member, so honest answers
               may change within a small step.

The loss is the mean cross-entropy of the members on the victim's rows, plus `weight` times the diversity loss on
outside rows: the logarithm of the sum, over pairs of members, of exp(cosine similarity of their probabilities). The
hash is where a row lies along a secret direction, in pieces that hold as many rows each and fall to the members in
turns (`models.layers.OneOf`): coarse, so that small noise seldom changes the member, and the same for the same
question. The direction is drawn with the weights: keep the model's file secret, and train with a seed that nobody
guesses. Members are never averaged, which would give the thief one function to copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from portcullis_ml.core.recipes import Hardening
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Learner, Model, Rows
from portcullis_ml.hardening._given import network_learner, several_classes
from portcullis_ml.models.own_loss import fit_own_loss

__all__ = ["DiverseEnsemble", "diversity_loss"]


@dataclass(frozen=True, kw_only=True)
class DiverseEnsemble(Hardening):
    members: int = 5  # networks; 1 is a plain training
    weight: float = 1.0  # of the diversity loss; more makes members differ more, also near the victim's own rows

    name: ClassVar[str] = "diverse_ensemble"

    def __post_init__(self) -> None:
        check(self, "members", "an int in [1, 20]", lambda v: isinstance(v, int) and 1 <= v <= 20)
        check(self, "weight", "a number in [0, 10]", lambda v: 0 <= v <= 10)

    def fit(
        self,
        given: Learner,
        rows: Rows,
        outside: Array | None,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None],
    ) -> Model:
        """A TorchModel, with as many classes as the labels say, that shows one member's answer to each row."""
        assert outside is not None  # `needs_outside` and `needs_labels` say so
        classes, given = several_classes(self.name, rows), network_learner(self.name, given)
        found: Model = fit_own_loss(
            self._loss(rows, outside),
            rows.x,
            classes,
            epochs=given.epochs,
            rng=rng,
            watch=watch,
            network=f"one_of_{self.members}_{given.network}",
            dropout=given.dropout,
            batch=given.batch,
            optimizer=lambda module: given.optimizer_for(module.parameters()),
        )
        _measure(found, rows.x, outside, rng)
        return found

    def _loss(self, rows: Rows, outside: Array) -> Callable[[Any, Any, Any], Any]:
        import torch
        from torch.nn import functional as F

        classes, other = torch.from_numpy(np.asarray(rows.y, np.int64)), torch.tensor(outside, dtype=torch.float32)

        def loss(module: Any, own: Any, which: Any) -> Any:
            logits = module(own)
            right = classes[which].repeat_interleave(self.members)
            total = F.cross_entropy(logits.flatten(0, 1), right)
            if self.members > 1 and self.weight:
                drawn = other[torch.randint(len(other), (len(own),))]
                total = total + self.weight * diversity_loss(torch.softmax(module(drawn), 2)).mean()
            return total

        return loss


def diversity_loss(p: Any) -> Any:
    """(n,) log of the sum over pairs of exp(cosine similarity), for probabilities p (n, members, classes), a tensor.

    With P pairs it lies from log P, where no two members share a class, to log P + 1, where all agree.
    """
    import torch

    unit = p / p.norm(dim=2, keepdim=True)
    first, second = torch.triu_indices(p.shape[1], p.shape[1], 1)
    return torch.logsumexp((unit[:, first] * unit[:, second]).sum(2), 1)


def _measure(model: Any, own: Array, outside: Array, rng: np.random.Generator) -> None:
    """Cut the line that chooses a member so that own and outside rows, as many of either, fill the pieces evenly."""
    import torch

    n = min(len(own), len(outside), 5000)
    drawn = [part[rng.permutation(len(part))[:n]] for part in (own, outside)]
    model.module.measure(torch.tensor(np.concatenate(drawn), dtype=torch.float32, device=model.device))
