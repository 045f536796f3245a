"""Which network a thief trains whose attack trains features as well: the learner's own, or a small one of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Interface, Learner, Model
from portcullis_ml.models.contrastive import Contrast, View, last_layer
from portcullis_ml.models.encoding import Encoded, Encoding
from portcullis_ml.models.networks import LARGE, build_network, image_shape
from portcullis_ml.models.pretrained import PretrainedLearner
from portcullis_ml.models.torch import TorchLearner
from portcullis_ml.models.training import measure
from portcullis_ml.models.views import picture_view, row_view

__all__ = ["Student", "student_of"]

SMALLEST = 8  # pixels of a picture's shorter side; what is smaller is taken for a table


@dataclass(frozen=True)
class Student:
    """A learner that goes on from a model's weights, and how rows come to it.

    about     says which network it is, for the report
    pictures  whether views are those of pictures
    encoding  of tables with categories, where the network is ours
    """

    learner: Any
    interface: Interface
    about: str
    pictures: bool
    encoding: Encoding | None = None

    def encoded(self, x: Array) -> Array:
        """Rows as the learner takes them."""
        return x if self.encoding is None else self.encoding(x)

    def model(self, fitted: Model) -> Model:
        """What the learner fitted, as a model of inputs."""
        return fitted if self.encoding is None else Encoded(self.encoding, fitted)

    def contrast(
        self, *, width: int, rate: float, epochs: int, crop: float, mirror: bool, corrupted: float
    ) -> Contrast:
        """The training of features, with views of the kind that suits the rows; see `SwiftThief` for the settings."""
        view = self._picture_view(crop, mirror) if self.pictures else self._row_view(corrupted)
        return Contrast(view, width=width, rate=rate, epochs=epochs)

    def _picture_view(self, crop: float, mirror: bool) -> View:
        low, high = self.interface.bounds
        return lambda x: picture_view(x, low, high, crop=crop, mirror=mirror)

    def _row_view(self, corrupted: float) -> View:
        groups = None if self.encoding is None else torch.from_numpy(_groups(self.encoding))

        def view(x: Tensor) -> Tensor:
            own = torch.arange(x[0].numel()) if groups is None else groups
            return row_view(x, own.to(x.device), corrupted)

        return view


def student_of(learner: Learner, interface: Interface) -> Student:
    """The learner's own network where it trains one, else a small one. Raises InputError for a network without
    features, before anything is asked."""
    shape = interface.input_shape
    pictures = interface.features is None and len(shape) in (2, 3) and min(image_shape(shape)[:2]) >= SMALLEST
    if isinstance(learner, PretrainedLearner):
        frozen = learner.train == "frozen"
        return Student(learner, interface, f"{learner.backbone}, {learner.train}", not frozen)
    if isinstance(learner, TorchLearner):
        _check(learner.network, interface)
        return Student(learner, interface, learner.network, pictures)
    return _ours(str(getattr(learner, "device", "cpu")), interface, pictures)


def _ours(device: str, interface: Interface, pictures: bool) -> Student:
    """A small network, for learners that are no single network."""
    if pictures:
        shift = 2 if min(image_shape(interface.input_shape)[:2]) >= LARGE else 1
        how: dict[str, Any] = {"optimizer": "adamw", "lr": 3e-3, "schedule": "one_cycle", "weight_decay": 0.02}
        network = TorchLearner(network="picture_flat", epochs=15, shift=shift, device=device, **how)
        return Student(network, interface, "picture_flat, ours", pictures)
    table = TorchLearner(network="table_mlp", epochs=60, device=device)
    words = any(f.categorical for f in interface.features or ())
    encoding = Encoding.of(interface) if words else None
    return Student(table, interface, "table_mlp, ours", pictures, encoding)


def _check(network: str, interface: Interface) -> None:
    with torch.random.fork_rng(devices=[]):
        module = build_network(network, interface.input_shape, interface.n_classes)
    rows = torch.zeros(2, *interface.input_shape)
    measure(module, rows)
    try:
        last_layer(module, rows)
    except InputError as error:
        raise InputError(f"{network}: {error}") from error


def _groups(encoding: Encoding) -> np.ndarray:
    """(width,) which input each encoded column comes from, from 0 without gaps."""
    numbers = int(encoding.numeric.sum())
    coded = encoding.categories[encoding.categories > 1]
    return np.concatenate([np.arange(numbers), numbers + np.repeat(np.arange(len(coded)), coded - encoding.drop_first)])
