"""Weights in .safetensors files, and the module that they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from portcullis_ml.catalog import resolve
from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.core.types import Model
from portcullis_ml.models.objects import Shape, from_module, required

__all__ = ["from_safetensors"]


def from_safetensors(
    path: Path,
    factory: str,
    input_shape: Shape,
    n_classes: int | None,
    output: str | None = None,
    softmax: bool = False,
) -> Model:
    from portcullis_ml.models.torch import TorchModel

    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise MissingExtra("A .safetensors file", "safetensors") from error
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("portcullis", "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"{path} was expected to hold safetensors; it cannot be read ({error}). "
            "It may be cut short: write it again."
        ) from error
    network = factory or about.get("network")
    shape = input_shape or (tuple(about["input_shape"]) if "input_shape" in about else None)
    classes = n_classes or about.get("n_classes")
    if not network or shape is None:
        raise InputError(
            f"{path} holds weights and does not say of what. Write {path}@module:factory, with the function that makes "
            "the module, and give rows that it takes."
        )
    module = _module(network, shape, classes)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"The weights in {path} do not fit the module that {network} makes. Name the right one."
        ) from error
    if factory:  # a module of the user's own may end in a softmax, and its columns say how many classes it knows
        return from_module(
            str(path), module, shape, classes if classes == 2 else None, output, softmax=softmax, network=network
        )
    assert classes is not None
    return TorchModel(module, shape, classes, network=network)


def _module(network: str, shape: tuple[int, ...], classes: int | None) -> Any:
    """A network of ours by name, or what a factory makes: called with (input_shape, n_classes), or with nothing."""
    from portcullis_ml.models.networks import NETWORKS, build_network

    ours = network.startswith("pretrained {")  # and JSON, which has colons of its own
    if not ours and ":" in network and not required(factory := resolve(network)):
        return factory()
    if classes is None:
        raise InputError(
            f"{network} is made for a number of classes, and nobody says how many. Give test rows with named classes "
            "(.csv), or a factory without arguments."
        )
    if ours:
        from portcullis_ml.models.pretrained import pretrained_network

        return pretrained_network(network, shape, classes)
    if network in NETWORKS or ":" not in network:
        return build_network(network, shape, classes)
    return resolve(network)(shape, classes)
