"""A network whose layers may have other weights for every row of a batch, and what it shows as an explanation.

Each row then runs through a network of its own, though all of them run together. The gradient of the sum of the rows'
scores with respect to such weights holds every row's own gradient, and can be differentiated once more. Convolutions
with a row's weights are one grouped convolution; linear layers are one batched product.

Relevance is gradient times input of a network that hands on the same numbers but is differentiated otherwise: what
a layer gives, z, becomes z+ * (z / z+) with the factor in brackets held fixed, z+ being z by positive weights alone.
That is the z+ rule of layer-wise relevance propagation (Montavon et al., "Layer-Wise Relevance Propagation", 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from portcullis_ml.core.errors import InputError, MissingExtra, ParameterError

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
except ModuleNotFoundError as error:
    raise MissingExtra("A network with weights for every row", "torch") from error

__all__ = ["KINDS", "Kind", "RowNetwork", "Weights"]

Kind = Literal["grad_cam", "relevance_cam", "gradient_x_input", "none"]
KINDS = ("grad_cam", "relevance_cam", "gradient_x_input", "none")
Weights = Mapping[str, tuple[Tensor, ...]]  # layer -> its parameters, each (n, ...): one set for every row
SMALL = 1e-6  # nothing is divided by less


class RowNetwork:
    """A copy of a module (n, *input_shape) -> (n, n_classes) logits, in eval mode; for one thread at a time.

    kind    what it shows: a class activation map of the layer `at` (None takes the convolution that runs last), the
            gradient times the input, or "none"
    layers  the layers that may have weights of their own, by name, in the order in which they run
    below   the names of those among them that run before the explained layer has its output
    """

    def __init__(self, module: nn.Module, input_shape: tuple[int, ...], kind: Kind, at: str | None = None) -> None:
        self.kind = kind
        self.input_shape = tuple(input_shape)
        self._module = copy.deepcopy(module).cpu().float().eval().requires_grad_(False)
        self._own: Weights = {}
        self._relevance = False
        self._maps: Tensor | None = None
        names = {layer: name for name, layer in self._module.named_modules()}
        ran = [names[layer] for layer in self._ran()]
        known = dict(self._module.named_modules())
        explained = self._explained(ran, at) if kind in ("grad_cam", "relevance_cam") else None
        before = ran[: ran.index(explained) + 1] if explained is not None else []
        self.layers = {name: known[name] for name in ran if _takes_rows(known[name])}
        self.below = frozenset(name for name in before if name in self.layers)
        for name, layer in self.layers.items():
            _patch(self, name, layer)
        if explained is not None:
            known[explained].register_forward_hook(self._take)
            self.run(torch.zeros((1, *self.input_shape)))

    def parameters(self, name: str) -> tuple[Tensor, ...]:
        """The layer's own parameters: the weight, and the bias where it has one."""
        layer: Any = self.layers[name]
        return (layer.weight,) if layer.bias is None else (layer.weight, layer.bias)

    def run(self, x: Tensor, own: Weights | None = None, *, relevance: bool = False) -> tuple[Tensor, Tensor | None]:
        """The logits of rows x (n, *input_shape), and the maps of the explained layer on which they depend."""
        self._own, self._relevance, self._maps = own or {}, relevance, None
        try:
            with torch.enable_grad():
                logits = self._module(x)
        finally:
            self._own, self._relevance = {}, False
        return logits, self._maps

    def explanation(
        self, x: Tensor, classes: Tensor, ran: tuple[Tensor, Tensor | None], own: Weights | None = None
    ) -> Tensor:
        """(n, ...) what speaks for classes (n,), or (n, 0), to be differentiated; `ran` is what `run` gave for x."""
        logits, maps = ran
        if self.kind == "none":
            return torch.zeros(len(x), 0)
        if self.kind == "gradient_x_input":
            return x * _slopes(_of(logits, classes).sum(), x)
        assert maps is not None  # a layer is explained
        if self.kind == "grad_cam":
            weights = _slopes(_of(logits, classes).sum(), maps).mean((2, 3), keepdim=True)
        else:
            logits, maps = self.run(x, own, relevance=True)
            assert maps is not None
            weights = (maps * _slopes(_contrast(logits, classes).sum(), maps)).mean((2, 3), keepdim=True)
        return torch.relu((weights * maps).sum(1))

    def _ran(self) -> list[nn.Module]:
        """Every module in the order in which it hands on its output."""
        found: list[nn.Module] = []
        handles = [m.register_forward_hook(lambda m, _, __: found.append(m)) for m in self._module.modules()]
        try:
            with torch.inference_mode():
                self._module(torch.zeros((1, *self.input_shape)))
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _explained(self, ran: list[str], at: str | None) -> str:
        known = dict(self._module.named_modules())
        convolutions = [name for name in ran if isinstance(known[name], nn.Conv2d)]
        if at is None and not convolutions:
            raise InputError(
                f"{self.kind} explains a network with convolutions; this one runs none. Take gradient_x_input."
            )
        name = convolutions[-1] if at is None else at
        if name not in ran:
            raise ParameterError(f"the layer that {self.kind} explains", f"one of {', '.join(filter(None, ran))}", name)
        return name

    def _take(self, _: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise InputError(f"{self.kind} takes a layer that gives maps (n, k, h, w); name another as its layer.")
        self._maps = output if output.requires_grad else output.detach().requires_grad_(True)
        return self._maps.clone()  # a later layer may write into what it is given

    def of_layer(self, name: str, x: Tensor) -> Tensor:
        """What the layer of that name gives for its input."""
        layer: Any = self.layers[name]
        own = self._own.get(name, self.parameters(name))
        each = name in self._own
        z = _output(layer, x, own, each)
        if not self._relevance:
            return z
        plus = x if isinstance(layer, nn.BatchNorm2d) else _output(layer, x, (own[0].clamp(min=0),), each)
        large = plus.abs() > SMALL
        safe = torch.where(large, plus, torch.ones_like(plus))
        return torch.where(large, plus * (z / safe).detach(), z.detach())


def _takes_rows(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.BatchNorm2d) and layer.affine)


def _patch(network: RowNetwork, name: str, layer: Any) -> None:
    """Let the network do this layer's sum; what a subclass does around a convolution's stays."""
    if isinstance(layer, nn.Conv2d):
        setattr(layer, "_conv_forward", lambda x, weight, bias: network.of_layer(name, x))  # noqa: B010
    else:
        layer.forward = partial(network.of_layer, name)


def _output(layer: Any, x: Tensor, parameters: tuple[Tensor, ...], each: bool) -> Tensor:
    """The layer with these parameters; with `each`, every row has its own: (n, ...)."""
    weight, bias = parameters[0], parameters[1] if len(parameters) > 1 else None
    if isinstance(layer, nn.BatchNorm2d):
        scale = torch.rsqrt(layer.running_var + layer.eps)  # type: ignore[operator, arg-type]
        normal = (x - layer.running_mean[:, None, None]) * scale[:, None, None]  # type: ignore[index]
        return normal * weight[..., None, None] + (0.0 if bias is None else bias[..., None, None])
    if isinstance(layer, nn.Linear):
        if each:
            z = torch.bmm(weight, x[:, :, None])[:, :, 0]
        else:
            z = F.linear(x, weight)
        return z if bias is None else z + bias
    settings = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    if each:
        n, maps, *kernel = weight.shape
        grouped = F.conv2d(
            x.reshape(1, -1, *x.shape[2:]), weight.reshape(n * maps, *kernel), None, groups=n, **settings
        )
        z = grouped.reshape(n, maps, *grouped.shape[2:])
    else:
        z = F.conv2d(x, weight, None, **settings)
    return z if bias is None else z + bias[..., None, None]


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


def _slopes(of: Tensor, at: Tensor) -> Tensor:
    (slopes,) = torch.autograd.grad(of, at, create_graph=True)
    return slopes


def _contrast(logits: Tensor, classes: Tensor) -> Tensor:
    """(n,) a number that starts relevance: 1 at the class, and what it is contrasted with, -1 / c, at every other."""
    start = torch.full_like(logits, -1 / logits.shape[1]).scatter(1, classes[:, None], 1.0)
    held = logits.detach()
    safe = torch.where(held.abs() > SMALL, held, torch.ones_like(held))
    return (start * logits / safe).sum(1)
