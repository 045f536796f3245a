"""What whoever holds a network's file can do to its weights: prune, round, start the last layer anew, exchange it.

Every function returns a new model and leaves the one that it was given alone. "The last layer" is the last fully
connected one, which gives the logits; the body is everything before it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Array
from portcullis_ml.models.torch import TorchLearner, TorchModel
from portcullis_ml.models.training import seeded

__all__ = ["fresh_last_layer", "last_layer_of", "pruned", "quantised", "train_last_layer"]

HEAD = "prada_1_layer"  # the network that is nothing but a fully connected layer


def pruned(model: TorchModel, share: float) -> TorchModel:
    """The model with this share of each layer's weights set to 0, those of least magnitude (Han et al., 2015)."""
    if not 0 <= share < 1:
        raise ParameterError("share", "in [0, 1)", share)

    def smallest_to_zero(weights: Tensor) -> Tensor:
        flat = weights.reshape(-1).clone()
        flat[flat.abs().argsort()[: round(share * flat.numel())]] = 0
        return flat.reshape(weights.shape)

    return _with_weights(model, smallest_to_zero)


def quantised(model: TorchModel, levels: int) -> TorchModel:
    """The model with each layer's weights rounded to an odd number of levels, evenly between the greatest magnitude
    and its negative: 255 for 8 bits, 15 for 4."""
    if levels < 3 or levels % 2 == 0:
        raise ParameterError("levels", "an odd int of at least 3", levels)

    def rounded(weights: Tensor) -> Tensor:
        greatest, half = weights.abs().max().clamp_min(1e-12), (levels - 1) // 2
        return torch.round(weights / greatest * half) * greatest / half

    return _with_weights(model, rounded)


def fresh_last_layer(model: TorchModel, rng: np.random.Generator) -> TorchModel:
    """The model with new random weights in its last layer."""
    changed = _copied(model)
    with seeded(rng, model.device):
        _last(changed.module).reset_parameters()
    return changed


def last_layer_of(owner: TorchModel, model: TorchModel) -> TorchModel:
    """The model with the owner's last layer in place of its own: who has the suspect's file can test its body so."""
    changed = _copied(model)
    _last(changed.module).load_state_dict(_last(owner.module).state_dict())
    return changed


def train_last_layer(
    learner: TorchLearner, model: TorchModel, x: Array, targets: Array, *, rng: np.random.Generator
) -> TorchModel:
    """The model with its last layer trained on, from where it is, on rows x (n, *input_shape) and targets (n, c).

    The body is frozen, its batch statistics too, so the layer is trained on what the body makes of the rows.
    """
    from dataclasses import replace

    changed = _copied(model)
    last = _last(changed.module)
    head = TorchModel(
        nn.Sequential(nn.Flatten(), nn.Dropout(), copy.deepcopy(last)), (last.in_features,), targets.shape[1]
    )
    trained = replace(learner, network=HEAD).fit(_features(model, x), targets, rng=rng, start=head)
    last.load_state_dict(_last(trained.module).state_dict())
    return changed


def _features(model: TorchModel, x: Array) -> Array:
    """(n, width) what the last layer is given for rows x (n, *input_shape)."""
    seen: list[Tensor] = []
    hook = _last(model.module).register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().cpu()))
    try:
        model.scores(x)
    finally:
        hook.remove()
    return torch.cat(seen).double().numpy()


def _with_weights(model: TorchModel, change: Callable[[Tensor], Tensor]) -> TorchModel:
    """The model with every layer's matrix or kernel changed; biases and scales of normalisation stay."""
    changed = _copied(model)
    with torch.no_grad():
        for weights in changed.module.parameters():
            if weights.ndim > 1:
                weights.copy_(change(weights))
    return changed


def _copied(model: TorchModel) -> TorchModel:
    return TorchModel(
        copy.deepcopy(model.module), model.input_shape, model.n_classes, device=model.device, network=model.network
    )


def _last(module: nn.Module) -> nn.Linear:
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise InputError("A network that ends in a fully connected layer was expected; this one has none.")
    return layers[-1]
