"""`--label`: which column of a multi-label victim is read, and the sentence where nobody says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from portcullis_ml.bench.rows import LabelledRows
from portcullis_ml.bench.sources import Sources
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Model
from portcullis_ml.models.known import KnownVictim
from portcullis_ml.models.one_label import LabelOf, OneLabel, labels_of, shows_labels

__all__ = ["column_of", "one_label", "single", "with_label"]

LOOKED_AT = 64  # test rows


def column_of(sources: Sources) -> int | None:
    """The column that --label names by its number, or by one of the words of --classes; None where it was not given."""
    label = sources.label
    if label is None:
        return None
    names = [word.strip() for word in (sources.classes or "").split(",") if word.strip()]
    if label in names:
        return names.index(label)
    if label.isdecimal():
        return int(label)
    known = f"; --classes names {', '.join(names)}" if names else ""
    raise InputError(
        f"--label was expected to be the number of a column, from 0, or a name among --classes A,B,... in the order of "
        f"the victim's columns; got {label!r}{known}."
    )


def single(sources: Sources) -> Sources:
    """The sources for that one label: --classes named labels and no classes, and a table's label has its own column."""
    if sources.label is None:
        return sources
    return replace(sources, classes=None, target=sources.target or _name(sources), column=column_of(sources))


def _name(sources: Sources) -> str | None:
    return None if sources.label is None or sources.label.isdecimal() else sources.label


def with_label(sources: Sources, known: KnownVictim) -> KnownVictim:
    """What is known of the estimator that answers this label alone. InputError for several labels and none named."""
    many = labels_of(known.found)
    if not many:
        return known
    if sources.column is None:
        raise _several(sources.victim, many, "numbers" if known.regressor else "labels")
    if sources.column >= many:
        raise InputError(f"--label names the label of a column from 0 to {many - 1}; got {sources.column}.")
    found: Any = LabelOf(known.found, sources.column)
    words = () if known.regressor else tuple(map(str, getattr(found, "classes_", ())))
    return replace(known, found=found, classes=words)


def one_label(sources: Sources, known: KnownVictim, model: Model, test: LabelledRows) -> Model:
    """The model that reads the named column. InputError for several labels and none named."""
    fits = tuple(model.input_shape) == test.x.shape[1:]
    if isinstance(known.found, LabelOf) or not fits:
        return model
    if sources.column is not None:
        return OneLabel(model, sources.column, test.x, numbers=sources.regression, logits=sources.softmax)
    if not sources.softmax and model.n_classes > 1 and (many := shows_labels(model, test.x[:LOOKED_AT])):
        raise _several(sources.victim, many, "labels")
    return model


def _several(victim: str, many: int, what: str) -> InputError:
    reads = "as yes or no" if what == "labels" else "as a regression"
    return InputError(
        f"{victim} answers {many} {what} at once, and each stands for itself. Audit them one at a time: --label INDEX "
        f"(0 to {many - 1}, or a name among --classes A,B,...) reads that column {reads}."
    )
