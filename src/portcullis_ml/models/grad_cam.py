"""Grad-CAM: where in an image a convolutional network finds a class.

Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra. "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization", ICCV 2017, section 3, equations 1 and 2.

With A^k (h, w) the maps of a convolutional layer and z_c the class's logit, a map's weight is the mean of its gradient
dz_c/dA^k, and the explanation is ReLU(sum_k weight_k A^k), of shape (h, w). What a layer hands on is its map: for our
own networks that is after pooling and ReLU.

By default the map keeps its own size. An image of the input's size, which the paper lays over the picture, is computed
from these h x w numbers alone, so it tells a client and a thief nothing more and costs both more bytes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from portcullis_ml.core.errors import InputError, MissingExtra, ParameterError
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Labels, Model
from portcullis_ml.models.explain import Explainer, Explanation

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    from portcullis_ml.models.torch import TorchModel
except ModuleNotFoundError as error:
    raise MissingExtra("grad_cam", "torch") from error

__all__ = ["GradCam"]

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class GradCam(Explainer):
    layer: str | None = None  # whose maps: its name in the network; None takes the convolution that runs last
    upsample: bool = False  # bilinearly to the height and width that the first convolution sees

    name: ClassVar[str] = "grad_cam"

    def __post_init__(self) -> None:
        check(self, "layer", "a layer's name, or None", lambda v: v is None or isinstance(v, str))
        check(self, "upsample", "True or False", lambda v: isinstance(v, bool))

    def prepare(self, model: Model) -> Explanation:
        if not isinstance(model, TorchModel):
            raise InputError(
                f"grad_cam explains a convolutional network in PyTorch; this victim is a {type(model).__name__}. "
                "Choose another: portcullis list explainers."
            )
        convolutions = _convolutions(model)
        if not convolutions and (self.layer is None or self.upsample):
            raise InputError(
                "grad_cam explains a network with convolutions; this one runs none. Choose another: "
                "portcullis list explainers."
            )
        layer = convolutions[-1][0] if self.layer is None else _named(model.module, self.layer)
        return partial(_class_map, model, layer, convolutions[0][1] if self.upsample else None)


def _named(module: nn.Module, name: str) -> nn.Module:
    layers: dict[str, nn.Module] = {n: layer for n, layer in module.named_modules() if n}
    if name not in layers:
        raise ParameterError("GradCam.layer", f"one of {', '.join(layers)}", name)
    return layers[name]


def _convolutions(model: TorchModel) -> list[tuple[nn.Module, Size]]:
    """The convolutions in the order in which they run, each with the height and width of what it sees."""
    found: list[tuple[nn.Module, Size]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((layer, (inputs[0].shape[-2], inputs[0].shape[-1])))

    handles = [m.register_forward_hook(note) for m in model.module.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.inference_mode():
            model.module(torch.zeros((1, *model.input_shape), device=model.device))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _class_map(model: TorchModel, layer: nn.Module, size: Size | None, x: Array, classes: Labels) -> Array:
    """x (n, *input_shape), classes (n,) -> (n, h, w), or (n, *size)."""
    logits, maps = _with_maps(model, layer, torch.tensor(x, dtype=torch.float32, device=model.device))
    (slopes,) = torch.autograd.grad(logits[torch.arange(len(x)), torch.tensor(classes)].sum(), maps)
    weights = slopes.double().mean(dim=(2, 3), keepdim=True)
    found = torch.relu((weights * maps.detach().double()).sum(dim=1))
    if size is not None:
        found = F.interpolate(found[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return found.cpu().numpy()  # type: ignore[no-any-return, unused-ignore]


def _with_maps(model: TorchModel, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits, and the layer's maps (n, k, h, w) on which they depend; what comes before is not differentiated."""
    taken: list[Tensor] = []
    caller = threading.get_ident()

    def take(_: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        if threading.get_ident() != caller:  # another request runs through the same network
            return None
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise InputError("grad_cam takes a layer that gives maps (n, k, h, w); name another as its layer.")
        taken[:] = [output.detach().requires_grad_(True)]
        return taken[0].clone()  # a later layer may write into what it is given

    handle = layer.register_forward_hook(take)
    try:
        with torch.enable_grad():
            logits = model.module(x)
    finally:
        handle.remove()
    if not taken or not logits.requires_grad:
        raise InputError("grad_cam takes a layer on which the scores depend; name another as its layer.")
    return logits, taken[0]
