"""Relevance-CAM: a class activation map whose maps are weighted by their relevance, not by their gradients.

Lee, Kim, Park, Eo, Hwang. "Relevance-CAM: Your Model Already Knows Where to Look", CVPR 2021, the section on its
weighting component; Gu, Yang, Tresp. "Understanding Individual Decisions of CNNs via Contrastive Backpropagation",
ACCV 2018, the section on contrastive relevance.

Relevance R starts as 1 at the class and -1 / c at every other of c classes, and goes down to a layer's maps A^k by the
z+ rule of `row_network`. A map's weight is the mean of its R^k, and the explanation ReLU(sum_k weight_k A^k), of shape
(h, w). What a layer hands on is its map, as for `grad_cam`. The start and the ReLU are those of public implementations:
the paper's own text was not at hand.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import ClassVar

from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Labels, Model
from portcullis_ml.models.explain import Explainer, Explanation

try:
    import torch

    from portcullis_ml.models.row_network import RowNetwork
    from portcullis_ml.models.torch import TorchModel
except ModuleNotFoundError as error:
    raise MissingExtra("relevance_cam", "torch") from error

__all__ = ["RelevanceCam"]


@dataclass(frozen=True, kw_only=True)
class RelevanceCam(Explainer):
    layer: str | None = None  # whose maps: its name in the network; None takes the convolution that runs last

    name: ClassVar[str] = "relevance_cam"

    def __post_init__(self) -> None:
        check(self, "layer", "a layer's name, or None", lambda v: v is None or isinstance(v, str))

    def prepare(self, model: Model) -> Explanation:
        if not isinstance(model, TorchModel):
            raise InputError(
                f"relevance_cam explains a convolutional network in PyTorch; this victim is a {type(model).__name__}. "
                "Choose another: portcullis list explainers."
            )
        network, lock = RowNetwork(model.module, model.input_shape, "relevance_cam", self.layer), threading.Lock()

        def explain(x: Array, classes: Labels) -> Array:
            rows, wanted = torch.tensor(x, dtype=torch.float32), torch.tensor(classes)
            with lock:
                found = network.explanation(rows, wanted, network.run(rows))
            return found.detach().double().numpy()  # type: ignore[no-any-return, unused-ignore]

        return explain
