"""The policy's table of a model that takes texts, [model.text]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.gateway.policy.toml_positions import known, made
from portcullis_ml.gateway.protocols import CATALOG as PROTOCOLS
from portcullis_ml.gateway.protocols.texts import Hashing, TextInput

__all__ = ["about_texts", "implied", "refuse_coarse", "refuse_mute", "text_input"]

KEYS = {"longest": "longest", "normalise": "normalise", "column": "column", "try": "tried"}  # and the settings
NUMBERS = ("bounds", "datatype", "features", "inputs", "missing")  # keys of [model] that are about numbers
UNITS: Mapping[str, Callable[..., Hashing]] = {"hashing": Hashing}


def text_input(table: Any) -> TextInput:
    """The settings in the table. Raises ParameterError, whose parameter is the key that is wrong, or InputError."""
    known(table, ("rows", *KEYS), "text")
    given: dict[str, Any] = {KEYS[key]: value for key, value in table.items() if key in KEYS}
    found = TextInput(hashing=_hashing(table.get("rows", "hash")), **given)
    if not isinstance(found.tried, str):
        raise ParameterError("try", "a text that the model takes", found.tried)
    found.rows([found.tried])  # loads what makes rows, so that the first client need not wait for it
    return found


def _hashing(rows: Any) -> Hashing | None:
    if rows == "hash":
        return None
    words = f'"hash", or a table such as {{ unit = "hashing", dimensions = 256 }} with one of {", ".join(UNITS)}'
    if not isinstance(rows, dict) or rows.get("unit") not in UNITS:
        raise ParameterError("rows", words, rows)
    settings = {key: value for key, value in rows.items() if key != "unit"}
    return made(UNITS[rows["unit"]], settings)


def implied(table: Mapping[str, Any], text: TextInput | None) -> dict[str, Any]:
    """The table [model] with what its texts imply: the shape and the bounds of a row. Raises ParameterError where it
    says otherwise."""
    if text is None:
        return dict(table)
    shape = list(text.shape)
    if table.get("input_shape", shape) != shape:
        raise ParameterError("input_shape", f"left out, since [model.text] makes rows of {shape}", table["input_shape"])
    for key in NUMBERS:
        if key in table:
            raise ParameterError(key, "left out where the model takes texts", table[key])
    return {**table, "input_shape": shape, "bounds": list(text.bounds)}


def refuse_coarse(quantum: float, text: TextInput | None) -> None:
    """Raises ParameterError if questions were one question whose hashes are close by chance."""
    if text is not None and text.hashing is None and quantum >= 1:
        raise ParameterError("quantum", "less than 1, since texts with different hashes are different", quantum)


def refuse_mute(name: str, text: TextInput | None, key: str) -> None:
    """Raises ParameterError, about this key, if the model takes texts and the protocol cannot carry them."""
    if text is not None and "texts" not in PROTOCOLS.load(name).carries:
        able = [other for other in PROTOCOLS if "texts" in PROTOCOLS.load(other).carries]
        raise ParameterError(key, f"one that carries texts ({', '.join(able)}), as [model.text] is given", name)


def about_texts(text: TextInput) -> str:
    """What the guard sees of texts, and what it cannot."""
    composed = ", in Unicode's composed form," if text.normalise == "nfc" else ""
    if text.hashing is None:
        return (
            f"The guard sees each text{composed} as its hash: with one letter more it is another question. No text is "
            "written down."
        )
    counted = "words" if text.hashing.ngrams == "word" else "runs of three letters"
    return (
        f"The guard sees each text{composed} as {text.hashing.dimensions} numbers that count its {counted}: texts with "
        "the same counts are one question. No text is written down."
    )
