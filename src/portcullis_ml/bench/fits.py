"""Whether a brought victim and its rows fit together, and the interface that both make."""

from __future__ import annotations

from typing import Any

from portcullis_ml.bench.brought import Brought
from portcullis_ml.bench.picture_rows import layout_hint
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Interface, Model
from portcullis_ml.models.texts import TextInterface

__all__ = ["interface_of"]


def interface_of(brought: Brought, victim: str, model: Model, *, missing: bool, plain: bool = False) -> Interface:
    """The API of this victim, for rows like its test rows. InputError where model and rows do not fit together, or,
    with `plain`, for a victim that takes texts or answers numbers."""
    if plain and brought.numbers:
        raise InputError(
            f"This command needs the classes of a victim; {victim} answers numbers, and a regression has none. "
            "`portcullis audit`, `inspect` and `extract` take it."
        )
    if plain and brought.texts is not None:
        raise InputError(
            f"This command measures with rows of numbers; {victim} takes texts. `portcullis audit`, `inspect` and "
            "`extract` take it."
        )
    test, shape = brought.test, brought.test.x.shape[1:]
    if model.n_classes < 2 and not brought.numbers:
        raise InputError(f"An audit compares labels; {victim} knows {model.n_classes} class. Give a classifier.")
    if tuple(model.input_shape) != shape:
        raise InputError(
            f"{victim} takes inputs of {tuple(model.input_shape)}; the test rows are {shape}. "
            f"{layout_hint(shape, tuple(model.input_shape))}"
        )
    for what, part in () if brought.numbers else (("Test", test), ("Training", brought.train)):
        y = None if part is None else part.y
        if y is not None and not 0 <= y.min() <= y.max() < model.n_classes:
            raise InputError(
                f"{what} labels must lie in 0..{model.n_classes - 1}, as {victim} has {model.n_classes} classes; "
                f"got {y.min()}..{y.max()}."
            )
    known: dict[str, Any] = {"input_shape": shape, "n_classes": model.n_classes, "bounds": brought.bounds}
    known |= {"precision": getattr(model, "precision", "float64")}
    if brought.texts is not None:
        found: Interface = TextInterface(
            **known, texts=brought.texts, words=test.classes or getattr(model, "classes", None)
        )
        return found
    known["task"] = "regression" if brought.numbers else "classification"
    return Interface(**known, features=test.features, missing=missing)
