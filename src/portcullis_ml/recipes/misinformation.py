"""Misinformation: a network that knows the right class and avoids it, to answer questions of strangers with.

Kariyappa, Qureshi. "Defending Against Model Stealing Attacks with Adaptive Misinformation", CVPR 2020, the section on
the misinformation function.

Threat model   the thief asks about rows of which the victim is unsure, and learns from what this network says of them.
Cost           one training; serving it is one pass of a network with two hidden layers of 128 units, without torch.

The loss on the victim's rows is -log(1 - p), p being the probability of the class to avoid: the true one where it is
known, the victim's own answer where not. The published network has the victim's architecture; this one is as
small whatever the victim is. A tenth of the rows is set aside: the notes say how often the network names their right
class, and below which greatest probability the victim's answers to them lie for a share of them. That is what a `tau`
costs honest clients whose rows are like those, if the victim was not trained on them: where it was, it is surer of
them than of others, and honest clients lose more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from portcullis_ml.core.artifacts import Contents
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.recipes import Recipe
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Labels, Model, Rows
from portcullis_ml.models.artifacts import pack_arrays
from portcullis_ml.models.dense import DenseModel, dense_arrays
from portcullis_ml.models.own_loss import fit_own_loss

__all__ = ["Misinformation", "avoidance"]

SHARES = (0.005, 0.01, 0.05)  # of the rows set aside, for which the notes give a `tau`


@dataclass(frozen=True, kw_only=True)
class Misinformation(Recipe):
    epochs: int = 20  # passes over the rows

    name: ClassVar[str] = "misinformation"
    needs_outside: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self, "epochs", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def fit(
        self,
        given: Model,
        rows: Rows,
        outside: Array | None,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None],
    ) -> Contents:
        """misinformation.safetensors: the arrays of a `models.dense.DenseModel` with the victim's classes."""
        if given.n_classes < 2:
            raise NotApplicable("misinformation needs a victim that predicts classes; this one does regression.")
        if len(rows.x) < 2:
            raise InputError(f"misinformation was expected to get 2 rows at least; got {len(rows.x)}. Give more.")
        order = rng.permutation(len(rows.x))
        aside, kept = np.split(order, [max(len(order) // 10, 1)])
        scores = given.scores(rows.x)
        right = scores.argmax(axis=1) if rows.y is None else rows.y
        loss = _loss(right[kept])
        model = fit_own_loss(loss, rows.x[kept], given.n_classes, epochs=self.epochs, rng=rng, watch=watch)
        arrays = dense_arrays(model)
        named = int((DenseModel(arrays).scores(rows.x[aside]).argmax(axis=1) == right[aside]).sum())
        tau = {f"{share:.1%}": float(np.quantile(scores[aside].max(axis=1), share)) for share in SHARES}
        notes = {"right_class_named": {"times": named, "of": len(aside)}, "tau_by_share_of_rows_below": tau}
        return Contents({"misinformation.safetensors": pack_arrays(arrays)}, notes)


def _loss(right: Labels) -> Callable[[Any, Any, Any], Any]:
    import torch

    classes = torch.from_numpy(np.asarray(right, np.int64))
    return lambda module, rows, which: avoidance(module(rows), classes[which])


def avoidance(logits: Any, right: Any) -> Any:
    """The mean of -log(1 - p) over rows, p being the softmax of logits (n, c) at the class to avoid, right (n,).

    1 - p is the sum of the other classes' shares, so that nothing is lost where p is near 1.
    """
    import torch

    others = logits.scatter(1, right[:, None], -torch.inf)
    return (torch.logsumexp(logits, 1) - torch.logsumexp(others, 1)).mean()
