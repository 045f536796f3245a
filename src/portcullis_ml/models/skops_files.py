"""scikit-learn estimators in .skops files, of trusted types only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.models.trusted import TRUSTED, inspect_trees

__all__ = ["read_skops", "skops_io"]


def skops_io() -> Any:
    """The module skops.io. MissingExtra where it is not installed."""
    try:
        import skops.io
    except ModuleNotFoundError as error:
        raise MissingExtra("A .skops file", "skops") from error
    return skops.io


def read_skops(path: Path) -> Any:
    """The object in a .skops file, of trusted types only."""
    skops = skops_io()
    try:
        unknown = [t for t in skops.get_untrusted_types(file=path) if t not in TRUSTED]
        estimator = None if unknown else skops.load(path, trusted=sorted(TRUSTED))
    except Exception as error:  # a damaged archive fails in many ways
        raise InputError(
            f"{path} was expected to be written by skops; it cannot be read ({type(error).__name__}). "
            "It may be cut short: write it again with skops.io.dump."
        ) from error
    if unknown:
        raise InputError(
            f"{path} needs {', '.join(unknown[:3])}, which skops does not trust. "
            "Load it yourself and name it as module:object."
        )
    inspect_trees(estimator, str(path))
    return estimator
