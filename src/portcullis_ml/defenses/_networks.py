"""Networks that a recipe has trained for a defense: read from its artifact, held against the API, and made to serve."""

from __future__ import annotations

from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.recipes import prepared
from portcullis_ml.core.types import Interface
from portcullis_ml.models.artifacts import unpack_arrays
from portcullis_ml.models.blocks import BlockModel
from portcullis_ml.models.dense import DenseModel

__all__ = ["network_of"]


def network_of(unit: Defense[None], setting: str, file: str, recipe: str, interface: Interface) -> BlockModel:
    """The network in this file of the artifact in a setting, which knows the API's rows and classes.

    NotApplicable or InputError, in one sentence, where the API or the artifact does not fit.
    """
    if interface.task != "classification":
        raise NotApplicable(f"{unit.name} needs an API that predicts classes; this one does regression.")
    if interface.missing:
        raise NotApplicable(f"{unit.name} needs whole rows; this API takes rows with inputs left out.")
    files, where = prepared(unit, setting).files, f"{unit.name}.{setting}"
    if file not in files:
        raise InputError(f"{where} must hold {file}, as {recipe} writes it; it does not.")
    model = DenseModel(unpack_arrays(files[file], f"{where}: {file}"))
    wanted, given = (interface.input_shape, interface.n_classes), (model.input_shape, model.n_classes)
    if wanted != given:
        raise InputError(
            f"{where} must take rows of {wanted[0]} and know {wanted[1]} classes; this one takes {given[0]} and knows "
            f"{given[1]}. Prepare one for this model."
        )
    return BlockModel(model)
