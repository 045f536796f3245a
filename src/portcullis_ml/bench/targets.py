"""Victims that answer numbers: how one is recognised, and targets read as numbers.

An estimator that says that it is a regressor is one. A victim with one number a row is one, too, unless the labels are
0 and 1, whose second class that number is then taken for; `--regression` says otherwise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from portcullis_ml.bench.rows import LabelledRows
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Model

__all__ = ["answers_numbers", "as_labels", "as_numbers", "closeness", "judged"]

JUDGED = 1000  # test rows that are asked
SHOWN = 3


def answers_numbers(victim: str, model: Model, test: LabelledRows, *, said: bool, sure: bool) -> bool:
    """Whether the model is a regression: `said` by the user, or `sure` as its estimator says so.

    InputError where nobody can tell, or what was said cannot be.
    """
    if (said or sure) and model.n_classes:
        raise InputError(
            f"{victim} was expected to be a regression, which gives one number a row; it gives {model.n_classes} "
            "scores. Leave --regression out, or read one column with --label INDEX."
        )
    if model.n_classes or said or sure:
        return not model.n_classes
    if test.y is None:
        raise InputError(
            f"{victim} gives one number a row and the test rows have no labels, so it may be a regression or the "
            "probability of one class. Say --regression, or give labels 0 and 1 (y in the .npz, --target in a .csv)."
        )
    return True


def as_numbers(rows: LabelledRows | None, what: str) -> LabelledRows | None:
    """The same rows, y being the targets as finite numbers. InputError for words, NaN and infinity."""
    if rows is None or rows.y is None:
        return rows
    words = rows.classes or ()
    try:
        y = np.array([float(word) for word in words])[rows.y] if words else rows.y.astype(np.float64)
    except ValueError:
        held = [word for word in words if not _is_number(word)]
        raise InputError(
            f"{what} must have numbers as targets, since the victim answers numbers; the target column holds "
            f"{', '.join(map(repr, held[:SHOWN]))}. Name the right --target."
        ) from None
    if not np.isfinite(y).all():
        row = int(np.flatnonzero(~np.isfinite(y))[0])
        raise InputError(f"{what} must have finite targets; row {row} has {y[row]:g}. Drop such rows first.")
    return replace(rows, y=y, classes=None if rows.classes is None else ())


def as_labels(rows: LabelledRows | None, what: str) -> LabelledRows | None:
    """The same rows with whole numbers as labels. InputError where they are real numbers: classes are none."""
    if rows is None or rows.y is None or rows.y.dtype.kind in "iu":
        return rows
    parts = rows.y[rows.y != np.rint(rows.y)]
    if len(parts):
        raise InputError(
            f"{what} have labels such as {parts[0]:g}, which are no classes, and the victim answers classes. Give its "
            "classes as labels, or a regressor as --victim."
        )
    return replace(rows, y=rows.y.astype(np.int64))


def judged(model: Model, test: LabelledRows, victim: str) -> list[str]:
    """Sentences about a regression on its test rows. InputError for targets that are all the same."""
    y = test.y
    if y is None:
        return ["The victim answers numbers; without targets of the test rows nothing is said of how right it is."]
    if (y == y[0]).all():
        raise InputError(
            f"Every one of the {len(y):,} test rows has the target {y[0]:g}, so nobody can be right or wrong by more "
            f"than another. Name the right --target, or give rows with other targets to judge {victim}."
        )
    r2, off = closeness(y[:JUDGED], model.scores(test.x[:JUDGED])[:, 0])
    return [
        f"The victim answers numbers: on {len(y[:JUDGED]):,} test rows it explains {r2:.1%} of the variance of the "
        f"targets, and is off by {off:.4g} on average."
    ]


def closeness(y: Array, found: Array) -> tuple[float, float]:
    """R^2, and the mean absolute error."""
    middle, half = y.min() / 2 + y.max() / 2, float(y.max() / 2 - y.min() / 2) or 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        error = (found - middle) / half - (y - middle) / half
        variance = float(((y - middle) / half).var()) or 1.0
        return 1 - float((error**2).mean()) / variance, half * float(np.abs(error).mean())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
