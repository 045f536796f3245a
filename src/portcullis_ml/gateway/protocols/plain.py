"""A question that is nothing special, with which a model is tried."""

from __future__ import annotations

import numpy as np

from portcullis_ml.core.types import Array
from portcullis_ml.gateway.protocols.wire import NOTHING, Carried, ModelSpec

__all__ = ["plain_question"]


def plain_question(served: ModelSpec) -> tuple[Array, Carried]:
    """(1, *input_shape) a row in the middle of the bounds, and of the first category where a feature has some; of a
    model that takes texts, the policy's own."""
    interface = served.interface
    if served.text is not None:
        return served.text.rows([served.text.tried]), Carried(texts=(served.text.tried,))
    if interface.features is not None:
        middle = [0.0 if f.categorical else (f.low + f.high) / 2 for f in interface.features]
        return np.array([middle]).reshape(1, *interface.input_shape), NOTHING
    return np.full((1, *interface.input_shape), sum(interface.bounds) / 2), NOTHING
