"""Misdirection: the victim's own network, kept for `deep_defense`, and how much its answers depend on every layer.

Lee, Han, Lee. "Model Stealing Defense against Exploiting Information Leak through the Interpretation of Deep Neural
Nets", IJCAI 2022, as its author's talk has it: the section on sparse layer selection.

Threat model   none: it is made without knowing the thief.
Cost           nothing is trained. The artifact holds the victim's weights: keep it as you keep those.

The sensitivity of a layer is the mean, over rows of the owner's, of the L1 norm of the gradient of their class's logit
with respect to the layer's weights. A layer is one that has weights: a convolution, a normalisation, a linear one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.artifacts import Contents
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.recipes import Recipe
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Model, Rows
from portcullis_ml.models.artifacts import pack_arrays

__all__ = ["Misdirection"]


@dataclass(frozen=True, kw_only=True)
class Misdirection(Recipe):
    rows: int = 100  # rows of the owner's over which sensitivities are taken

    name: ClassVar[str] = "misdirection"
    needs_outside: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self, "rows", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def fit(
        self,
        given: Model,
        rows: Rows,
        outside: Array | None,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None],
    ) -> Contents:
        """victim.safetensors: the network's weights; in its header its name, shapes and layers' sensitivities."""
        import torch

        from portcullis_ml.models.misdirection import sensitivities
        from portcullis_ml.models.row_network import RowNetwork
        from portcullis_ml.models.torch import TorchModel

        if not isinstance(given, TorchModel) or given.network is None or given.reading != "logits":
            raise NotApplicable(
                "misdirection needs a victim with gradients, a PyTorch network that a name builds again and that gives "
                f"logits; this one is a {type(given).__name__}. Give FILE.safetensors@module:factory."
            )
        network = RowNetwork(given.module, given.input_shape, "none")
        if len(network.layers) < 2:
            raise NotApplicable(
                f"misdirection needs a victim of two layers at least; this one has {len(network.layers)}, and the "
                "gradient of a linear model does not depend on its weights."
            )
        chosen = rng.permutation(len(rows.x))[: self.rows]
        classes = given.scores(rows.x[chosen]).argmax(axis=1) if rows.y is None else rows.y[chosen]
        x = torch.tensor(rows.x[chosen], dtype=torch.float32)
        found = sensitivities(network, x, torch.tensor(np.asarray(classes, np.int64)))
        if not np.isfinite(list(found.values())).all() or not sum(found.values()) > 0:
            raise InputError("misdirection was expected to find finite gradients; all are 0 or some are not. Retrain.")
        watch(1, 1)
        about = {
            "network": given.network,
            "input_shape": given.input_shape,
            "n_classes": given.n_classes,
            "sensitivity": found,
        }
        state = {name: value.cpu().contiguous().numpy() for name, value in given.module.state_dict().items()}
        return Contents({"victim.safetensors": pack_arrays(state, about)}, {"layers": len(found), "rows": len(chosen)})
