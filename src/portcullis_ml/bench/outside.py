"""Outside rows: rows unlike the victim's that its owner has, to train a defense or to harden a victim with.

They are never the thief's. Where they come from decides what a defense that was trained with them is seen to be worth:

    held_out  from another source than the thief's pool (--outside)
    matched   from the thief's own source: the pool is divided once, and the thief holds one half in every cell
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from portcullis_ml.bench.rows import LabelledRows, read_rows
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Array, Feature

__all__ = ["REGIMES", "SAID", "SHOWN", "Outside", "checked_regimes", "read_outside"]

SAID = {
    "matched": "from the source of the thief's pool, no row in common (matched)",
    "held_out": "from another source than the thief's pool (held out)",
}
REGIMES = tuple(SAID)
SHOWN = {"matched": " [matched]", "held_out": " [held out]"}  # behind a defense's name where both regimes are run


@dataclass(frozen=True)
class Outside:
    """x (n, *input_shape), and the name of where they come from."""

    name: str
    x: Array


def checked_regimes(words: Sequence[str]) -> tuple[str, ...]:
    """The regimes in their order, each once. Raises ParameterError."""
    given = [word.strip().lower().replace(" ", "_").replace("-", "_") for word in words]
    if not given or not set(given) <= set(REGIMES):
        raise ParameterError("--regimes", "matched, held_out or both", ",".join(words))
    return tuple(regime for regime in REGIMES if regime in given)


def read_outside(
    text: str, folder: str | None, target: str | None, features: Sequence[Feature] | None, shape: tuple[int, ...]
) -> Outside:
    """The rows in a file or in a data set of that name (its training part), as rows of the API."""
    path = Path(text)
    if text.endswith((".npz", ".npy", ".csv", ".csv.gz", ".zip")) or path.is_dir():
        pictures = None if features else shape
        rows = read_rows("file of outside rows", path, target=target, part="train", shape=pictures)
        name = path.name
    else:
        from portcullis_ml.data.datasets import load_dataset

        data = load_dataset(text, folder, target=target)
        name, rows = data.name, LabelledRows(x=data.x, features=data.features)
    x = rows.x
    if features is not None and rows.features is not None:
        from portcullis_ml.data.schema import aligned

        x = aligned(x, rows.features, features, "The API")
    if x.shape[1:] != shape:
        raise InputError(
            f"Outside rows must have the inputs of the victim, {shape}; {name} holds rows of {x.shape[1:]}. "
            "Reshape them, or give others."
        )
    return Outside(name, np.asarray(x, np.float64))
