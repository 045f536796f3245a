"""What a model's own output means: which of several to read, and whether it is probabilities or logits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array

__all__ = ["Reading", "are_probabilities", "one_output", "output_names", "reading_of"]

Reading = Literal["logits", "probabilities"]

LIKELY = re.compile("prob|softmax|score|logit", re.IGNORECASE)


def output_names(model: object) -> list[str]:
    """The names of a model's outputs, where it holds them by name; a method called `outputs` names none."""
    outputs = getattr(model, "outputs", None)
    return list(outputs) if isinstance(outputs, Mapping) else []


def one_output(found: Any, n: int, n_classes: int | None = None, name: str | None = None) -> Any:
    """The scores among what a model gave for n rows: a tuple or a mapping of outputs, or one array.

    Of several, the one named; else those of n rows and n_classes columns (two columns or more, where the number of
    classes is not known), and of these one that is called scores, probabilities or logits, or the first.
    """
    if not isinstance(found, tuple | Mapping):
        return found
    items = found.items() if isinstance(found, Mapping) else enumerate(found)
    held = {str(key): value for key, value in items if getattr(value, "ndim", 0) and len(value) == n}
    if name is not None and name in held:
        return held[name]
    fitting = {k: v for k, v in held.items() if v.ndim == 2 and _fits(v.shape[1], n_classes) and _is_float(v)}
    if name is not None or not fitting:
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in held.items()) or "nothing of that length"
        asked = f"no output {name!r}" if name else "no output of one column a class"
        raise InputError(f"The model was asked about {n} rows and gave {shapes}: {asked}. Name one with --output-name.")
    return next((v for k, v in fitting.items() if LIKELY.search(k)), next(iter(fitting.values())))


def _fits(width: int, n_classes: int | None) -> bool:
    return width == n_classes if n_classes else width > 1


def _is_float(value: Any) -> bool:
    return "float" in str(value.dtype)


def reading_of(scores: Array, *, softmax: bool = False) -> Reading:
    """How scores (n, c), of rows drawn at random, are to be read: (n,) or (n, 1) may be the probability of class 1.

    With `softmax` somebody says that they are logits; rows that sum to 1 are probabilities nevertheless.
    """
    z = np.asarray(scores, np.float64)
    one = z.ndim == 1 or z.shape[1] == 1
    if one and softmax:
        return "logits"
    sure = bool((z >= 0).all() and (z <= 1).all()) if one else are_probabilities(z)
    return "probabilities" if sure else "logits"


def are_probabilities(scores: Array) -> bool:
    """Whether every row is a distribution."""
    return bool((scores >= -1e-4).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3))
