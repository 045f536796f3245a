"""The victim's network as `misdirection` keeps it, and its misdirection models' answers: in blocks, remembered."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import InputError, PortcullisError
from portcullis_ml.core.randomness import canonical
from portcullis_ml.core.types import Array
from portcullis_ml.models.artifacts import read_about, unpack_arrays
from portcullis_ml.models.blocks import Blocks

__all__ = ["Answers", "Misdirecting", "misdirecting"]

FILE = "victim.safetensors"
SIZES = (16, 4, 2)  # questions that are answered together
PROBED = 16  # rows with which `Blocks` finds out which of these sizes give the same bits
MOST = 64 * 2**20  # bytes of answers that are remembered


@dataclass(frozen=True)
class Answers:
    """For n questions: the victim's own scores (n, c), those of the misdirection models, and their explanations."""

    own: Array
    scores: Array
    explanation: Array


class Misdirecting:
    """A function of the canonical question alone, so that a restart, another client or another batch change nothing."""

    def __init__(self, network: Any, layers: list[str], how: Any, n_classes: int) -> None:
        self.input_shape = network.input_shape
        self.n_classes = n_classes
        self.layers = layers
        self._network, self._how, self._steps = network, how, 1
        self._reading, self._searching = threading.Lock(), threading.Lock()
        self._known: OrderedDict[bytes, Array] = OrderedDict()
        self.shape = self._searched(np.zeros((1, *self.input_shape)))[1]
        self._blocks = Blocks(self._columns, self.input_shape, sizes=SIZES, probed=PROBED)  # one step shows the kernels
        self._steps = how.steps

    def __call__(self, x: Array, quantum: float) -> Answers:
        """The answers to rows x (n, *input_shape); questions that were asked before cost a hash."""
        words = [hashlib.blake2b(row + str(quantum).encode(), digest_size=16).digest() for row in canonical(x, quantum)]
        with self._reading:
            found = {word: self._known[word] for word in words if word in self._known}
        new = {word: i for i, word in enumerate(words) if word not in found}
        if new:
            rows = np.rint(np.asarray(x, np.float64)[list(new.values())] / quantum) * quantum
            with self._searching:
                found.update(zip(new, self._blocks(rows), strict=True))
        with self._reading:
            self._remember({word: found[word] for word in words})
        table = np.stack([found[word] for word in words]) if words else np.empty((0, self._width))
        own, scores, shown = np.split(table, [self.n_classes, 2 * self.n_classes], axis=1)
        return Answers(own, scores, shown.reshape(len(table), *self.shape))

    @property
    def _width(self) -> int:
        return 2 * self.n_classes + math.prod(self.shape)

    def _remember(self, answers: dict[bytes, Array]) -> None:
        for word, row in answers.items():
            self._known[word] = row
            self._known.move_to_end(word)
        while len(self._known) * 8 * self._width > MOST:
            self._known.popitem(last=False)

    def _columns(self, x: Array) -> Array:
        return self._searched(x)[0]

    def _searched(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """(n, columns) the victim's scores, the misdirection models' and their explanations; and these' shape."""
        from dataclasses import replace

        import torch

        from portcullis_ml.models.misdirection import misdirected

        rows = torch.tensor(x, dtype=torch.float32)
        found = misdirected(self._network, self.layers, rows, replace(self._how, steps=self._steps))
        scores = [torch.softmax(part.double(), 1).numpy() for part in (found.victim, found.logits)]
        shown = found.shown.double().numpy()
        return np.concatenate([*scores, shown.reshape(len(x), -1)], axis=1), shown.shape[1:]


@lru_cache(maxsize=8)
def misdirecting(
    artifact: Artifact, where: str, kind: Any, layer: str | None, percent: float, how: Any
) -> Misdirecting:
    """What answers in the name of the network in this artifact. InputError in one sentence where it does not fit."""
    import torch

    from portcullis_ml.models.misdirection import chosen_layers
    from portcullis_ml.models.networks import build_network
    from portcullis_ml.models.row_network import RowNetwork

    files = artifact.read().files
    if FILE not in files:
        raise InputError(f"{where} must hold {FILE}, as misdirection writes it; it does not.")
    arrays = unpack_arrays(files[FILE], f"{where}: {FILE}")
    try:
        about = read_about(files[FILE])
        shape, classes = tuple(about["input_shape"]), int(about["n_classes"])
        module = build_network(about["network"], shape, classes)
        module.load_state_dict({name: torch.tensor(value) for name, value in arrays.items()})
        network = RowNetwork(module, shape, kind, layer)
        layers = chosen_layers({name: float(about["sensitivity"][name]) for name in network.layers}, percent)
    except PortcullisError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{where}: {FILE} must name in its header the network whose weights it holds; it does not ({error}). "
            "Prepare it again."
        ) from error
    return Misdirecting(network, layers, how, classes)
