"""The policy's table of the model, as an interface, and under the names that the upstream has for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.types import Feature, Interface, Reveals
from portcullis_ml.gateway.policy.settings import UpstreamTable
from portcullis_ml.gateway.protocols.wire import ModelSpec

__all__ = ["asked", "class_names", "feature", "interface_of", "undefended"]


def asked(served: ModelSpec, upstream: UpstreamTable | None) -> ModelSpec:
    """The model under the names that the upstream has for it."""
    if upstream is None:
        return served
    labels = upstream.answers == "labels"
    return dataclasses.replace(
        served,
        name=upstream.model or served.name,
        version=upstream.version,
        input=upstream.input or served.input,
        scores=None if labels else upstream.scores or served.scores,
        label=upstream.label or ("label" if labels else None),
        explanation=served.explanation and (upstream.explanation or served.explanation),
        datatype=upstream.datatype or served.datatype,
        binary=upstream.binary,
    )


def undefended(asked: ModelSpec) -> Interface:
    """The interface of the model's own answers, as the guard meets them."""
    return asked.interface.revealing(reveals=Reveals.LABELS if asked.scores is None else Reveals.PROBS)


def feature(table: Mapping[str, Any]) -> Feature:
    return Feature(**{**table, "values": tuple(table.get("values", ()))})


def class_names(table: Mapping[str, Any]) -> tuple[str | int, ...]:
    """What the model calls its classes, where the policy says so: words, whole numbers, or false and true."""
    names = table.get("classes", 0)
    if isinstance(names, list):
        kinds = set(map(type, names))
        told = kinds in ({str}, {int}, {bool}) and len(set(names)) == len(names) >= 2
        if not told or not all(n.strip() and n.isprintable() for n in names if isinstance(n, str)):
            raise ParameterError("classes", "a list of 2 or more different names, all words or all numbers", names)
        return tuple(names)
    if type(names) is not int:
        raise ParameterError("classes", "a whole number, or a list of the classes' names", names)
    return ()


def interface_of(table: Mapping[str, Any], features: tuple[Feature, ...] | None) -> Interface:
    return Interface(
        input_shape=tuple(table["input_shape"]),
        n_classes=len(class_names(table)) or table.get("classes", 0),
        task=table.get("task", "classification"),
        bounds=tuple(table.get("bounds", (0.0, 1.0))),
        features=features,
        missing=table.get("missing", False),
        explains="explanation" in table,
        precision="float32" if table.get("datatype") == "FP32" else "float64",
    )
