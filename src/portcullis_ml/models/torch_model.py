"""A PyTorch module as a model: dtype, device, eval mode and batches are seen to here."""

from __future__ import annotations

import copy
import ctypes
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from portcullis_ml.core.errors import InputError, MissingExtra, ParameterError
from portcullis_ml.core.types import Array
from portcullis_ml.models.outputs import Reading, one_output
from portcullis_ml.models.whole import whole_numbers

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise MissingExtra("A PyTorch model", "torch") from error

__all__ = ["TorchModel", "as_tensor", "evaluated", "input_type", "keep_memory"]


TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int64, torch.int32)


class TorchModel:
    """A module that maps (n, *input_shape) to (n, n_classes) logits. The module is kept, in eval mode.

    dtype    what it takes: float32, another float, or whole numbers, to which rows are rounded; see `input_type`
    reading  "probabilities" where the module ends in a softmax of its own, or in a sigmoid
    output   which of several outputs to read, see `one_output`

    Of two classes, one column is enough: the logit, or the probability, of class 1.
    """

    def __init__(
        self,
        module: nn.Module,
        input_shape: tuple[int, ...],
        n_classes: int,
        *,
        device: str = "cpu",
        batch: int = 512,
        network: str | None = None,
        reading: Reading = "logits",
        output: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        self.reading = reading
        self.output = output
        self.module: nn.Module = evaluated(module.to(device))
        for weights in self.module.parameters():  # TorchScript has no other way
            weights.requires_grad_(False)
        self.input_shape = tuple(input_shape)
        self.n_classes = n_classes
        self.device = device
        self.batch = batch
        self.network = network
        keep_memory()

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes) softmax probabilities."""
        with torch.inference_mode():
            parts = [_shares(self._logits(rows)) for rows in self._batches(x)]
        return np.concatenate(parts) if parts else np.empty((0, self.n_classes))

    def raw(self, x: Array) -> Array:
        """(n, columns) the module's own numbers."""
        with torch.inference_mode():
            outs = [one_output(self.module(r), len(r), self.n_classes, self.output) for r in self._batches(x)]
        return np.concatenate([out.double().cpu().numpy() for out in outs])

    def input_gradient(self, x: Array, weights: Array, *, of: Literal["logits", "log_probs"]) -> Array:
        """(n, *input_shape): the gradient of sum_j weights[:, j] * of_j(x) with respect to x."""
        parts = [gradients[:, 0] for _, gradients in self._passes(x, weights[:, None], of)]
        return np.concatenate(parts) if parts else np.empty((0, *self.input_shape))

    def input_gradients(self, x: Array, weights: Array, *, of: Literal["logits", "log_probs"]) -> Array:
        """(n, k, *input_shape): `input_gradient` for k weightings (n, k, n_classes), by one forward pass a row."""
        parts = [gradients for _, gradients in self._passes(x, weights, of)]
        return np.concatenate(parts) if parts else np.empty((0, weights.shape[1], *self.input_shape))

    def scores_and_gradient(
        self, x: Array, weights: Array, *, of: Literal["logits", "log_probs"]
    ) -> tuple[Array, Array]:
        """What `scores` and `input_gradient` say of x, by one pass through the module."""
        parts = [(_shares(logits), gradients[:, 0]) for logits, gradients in self._passes(x, weights[:, None], of)]
        if not parts:
            return np.empty((0, self.n_classes)), np.empty((0, *self.input_shape))
        scores, gradients = zip(*parts, strict=True)
        return np.concatenate(scores), np.concatenate(gradients)

    def _passes(self, x: Array, weights: Array, of: Literal["logits", "log_probs"]) -> Iterator[tuple[Tensor, Array]]:
        """A batch at a time: logits, and the gradient for each of k weightings (n, k, n_classes)."""
        if of not in ("logits", "log_probs"):
            raise ParameterError("of", "'logits' or 'log_probs'", of)
        for rows, start in zip(self._batches(x), range(0, len(x), self.batch), strict=True):
            weight = torch.tensor(weights[start : start + self.batch], dtype=torch.float32, device=self.device)
            rows.requires_grad_(True)
            logits = self._logits(rows)
            out = logits if of == "logits" else torch.log_softmax(logits, 1)
            # Given `weight` as grad_outputs, torch would import sympy first, a third of a second.
            sums = [(out * each).sum() for each in weight.unbind(1)]
            slopes = [torch.autograd.grad(one, rows, retain_graph=one is not sums[-1])[0] for one in sums]
            yield logits.detach(), torch.stack(slopes, 1).double().cpu().numpy()

    def _batches(self, x: Array) -> Iterator[Tensor]:
        for start in range(0, len(x), self.batch):
            yield as_tensor(x[start : start + self.batch], self.dtype, self.device)

    def _logits(self, x: Tensor) -> Tensor:
        out = one_output(self.module(x), len(x), self.n_classes, self.output)
        if self.n_classes == 2 and out.numel() == len(x):  # one column: the second class against the first
            out = out.reshape(-1, 1)
            if self.reading == "probabilities":
                out = torch.cat([1 - out, out], 1)
            else:
                out = torch.cat([torch.zeros_like(out), out], 1)
        if self.reading == "probabilities":
            out = out.clamp_min(torch.finfo(out.dtype).tiny).log()
        if out.shape != (len(x), self.n_classes):
            raise InputError(
                f"The module was expected to give ({len(x)}, {self.n_classes}) logits; it gave {tuple(out.shape)}. "
                "End the module with a layer of that size, or name the output to read with --output-name."
            )
        return out  # type: ignore[no-any-return]

    @property
    def learning(self) -> nn.Module:
        """The part of the network that its learner trains."""
        return self.module

    def entered(self, x: Array) -> Tensor:
        """Rows (n, *input_shape) as that part takes them, on the device."""
        return as_tensor(x, self.dtype, self.device)

    def duplicate(self) -> TorchModel:
        """The same model with weights of its own in that part."""
        twin = copy.copy(self)
        twin.module = copy.deepcopy(self.module)
        return twin

    def save(self, path: str | Path) -> Path:
        """Weights and, in the header, what builds the network again, as safetensors."""
        from safetensors.torch import save_file

        about = {"network": self.network, "input_shape": self.input_shape, "n_classes": self.n_classes}
        state = {k: v.contiguous() for k, v in self.module.state_dict().items()}
        save_file(state, path, {"portcullis": json.dumps(about)})
        return Path(path)


def as_tensor(x: Array, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """Rows in the type that a module takes; the nearest whole numbers where it takes no others."""
    if not dtype.is_floating_point:
        x = whole_numbers(x, str(dtype).removeprefix("torch."))
    return torch.tensor(x, dtype=dtype, device=device)


def evaluated(module: Any) -> Any:
    """The module in eval mode; what `torch.export` made has one mode and refuses to be told."""
    try:
        return module.eval()
    except NotImplementedError:
        return module


def input_type(module: Any, input_shape: tuple[int, ...]) -> torch.dtype:
    """The type of rows that a module answers: what it says, that of its weights, else the first of `TYPES`."""
    weights: list[torch.dtype] = [p.dtype for p in module.parameters() if p.is_floating_point()]
    said = getattr(module, "takes", None)  # of an exported program
    for dtype in dict.fromkeys(([said] if isinstance(said, torch.dtype) else []) + weights[:1] + list(TYPES)):
        try:
            with torch.inference_mode():
                module(torch.zeros((1, *input_shape), dtype=dtype))
        except Exception:  # a module of somebody's own may raise anything
            continue
        return dtype
    return torch.float32


def _shares(logits: Tensor) -> Array:
    """(n, n_classes) softmax probabilities."""
    return np.asarray(torch.softmax(logits.double(), 1).cpu().numpy())


@functools.cache
def keep_memory() -> None:
    """Ask glibc, once, to keep the blocks of a step for the next one.

    It would hand each back to the kernel and fault every page in again: a fifth of a training step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: smaller blocks come from the heap
    mallopt(-1, 1 << 29)  # M_TRIM_THRESHOLD: the heap shrinks when so much of it is free
