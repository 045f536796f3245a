"""What a victim says of the columns and classes that it takes, before any table is read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.models.files import inspect_file
from portcullis_ml.models.load import peek
from portcullis_ml.models.onnx import column_inputs
from portcullis_ml.models.table import encoders
from portcullis_ml.models.words import word_of

__all__ = ["KnownColumn", "KnownVictim", "known_of"]


@dataclass(frozen=True)
class KnownColumn:
    """text: words (True), numbers (False) or nobody knows (None); words: those that it knows, None for any; missing:
    the word that stands for a missing value."""

    text: bool | None = None
    words: frozenset[str] | None = frozenset()
    missing: str | None = None


@dataclass(frozen=True)
class KnownVictim:
    """named: columns by name; placed: columns in order, where it knows no names; classes: words of its labels.

    `found` is the object itself where it had to be read to know, so that it need not be read again; `regressor` whether
    it says that it answers numbers.
    """

    named: Mapping[str, KnownColumn] | None = None
    placed: tuple[KnownColumn, ...] = ()
    classes: tuple[str, ...] = ()
    found: Any = None
    regressor: bool = False


def known_of(spec: str) -> KnownVictim:
    """What the victim that `spec` names says of itself; nothing where it says nothing."""
    if Path(spec).suffix.lower() == ".onnx":
        inspect_file(Path(spec))
        inputs = column_inputs(spec)
        return KnownVictim(named={name: _of_tensor(text) for name, text in inputs.items()} if inputs else None)
    found = peek(spec)
    if found is None:
        return KnownVictim()
    return replace(_of_object(found), regressor=_is_regressor(found))


def _of_object(found: Any) -> KnownVictim:
    """What an estimator, or another object, says of its columns and classes."""
    classes = getattr(found, "classes_", None)
    words = () if not isinstance(classes, np.ndarray) or classes.ndim != 1 else tuple(map(word_of, classes.tolist()))
    if (features := getattr(found, "features", None)) is not None:
        named = {f.name: KnownColumn(text=bool(f.values), words=frozenset(f.values)) for f in features}
        return KnownVictim(named=named, classes=tuple(getattr(found, "classes", None) or ()), found=found)
    width = getattr(found, "n_features_in_", None)
    if not hasattr(found, "predict") or not isinstance(width, int):
        return KnownVictim(classes=words, found=found)
    held = dict(encoders(found, list(range(width))))
    columns = tuple(_of_encoder(*held[j]) if j in held else KnownColumn(text=False) for j in range(width))
    names = getattr(found, "feature_names_in_", None)
    if names is None:
        return KnownVictim(placed=columns, classes=words, found=found)
    return KnownVictim(named=dict(zip(map(str, names), columns, strict=True)), classes=words, found=found)


def _is_regressor(found: Any) -> bool:
    """Whether an estimator of scikit-learn's kind says that it is a regressor."""
    if not hasattr(found, "predict") or isinstance(found, type):
        return False
    from sklearn.base import is_regressor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of objects that have a predict() and are not scikit-learn's
        try:
            return bool(is_regressor(found))
        except (AttributeError, TypeError):
            return False


def _of_tensor(text: bool) -> KnownColumn:
    """A column of an ONNX graph: any word may be sent to a string tensor."""
    return KnownColumn(text=text, words=None if text else frozenset())


def _of_encoder(categories: Any, refuses: bool) -> KnownColumn:
    """A column of an encoder with these categories, None for any word: text where they are words."""
    if categories is None:
        return KnownColumn(text=True, words=None)
    if np.asarray(categories).dtype.kind in "fiub":
        return KnownColumn(text=False)
    words = [v for v in categories.tolist() if v is not None and v == v]
    gaps = [word_of(v) for v in categories.tolist() if v is None or v != v]
    return KnownColumn(
        text=any(isinstance(v, str) for v in words),
        words=frozenset(map(word_of, words)),
        missing=gaps[0] if gaps else None,
    )
