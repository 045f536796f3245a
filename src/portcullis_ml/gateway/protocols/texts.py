"""A model's input that is a text: what is taken of a client's texts, and the rows that the guard sees in their place.

The texts themselves go on to the model, beside their rows (`wire.Carried`). A row is the hash of its text, which no
two texts share and which says nothing else, or a vector of its counted words, between which there are distances. Two
texts of the same words are one such vector, and one question to the guard.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.models.texts import SHAPE, TOP, rows_of_texts

__all__ = ["Hashing", "TextInput"]

ANALYSERS = {"word": ("word", (1, 1)), "char": ("char_wb", (3, 3))}  # of scikit-learn: words, or three letters of one
MARKS = 30  # combining marks on one letter, as in Unicode's stream-safe format: sorting more of them takes long


@dataclass(frozen=True, kw_only=True)
class Hashing:
    """Texts as vectors of counted words: each adds 1 or -1 in a place that its hash chooses, and every vector is
    brought to length 1 (scikit-learn's HashingVectorizer). An empty text is all zeros.

    dimensions   how many places there are
    ngrams       what is counted: "word", or "char" for the runs of three letters in each word
    """

    dimensions: int = 256
    ngrams: str = "word"

    def __post_init__(self) -> None:
        check(self, "dimensions", "a whole number in [2, 65536]", lambda v: type(v) is int and 2 <= v <= 65536)
        check(self, "ngrams", '"word" or "char"', lambda v: v in ANALYSERS)

    @cached_property
    def _vectoriser(self) -> Any:
        from sklearn.feature_extraction.text import HashingVectorizer  # it takes a second to load

        analyser, lengths = ANALYSERS[self.ngrams]
        return HashingVectorizer(
            n_features=self.dimensions, analyzer=analyser, ngram_range=lengths, token_pattern=r"\w+", norm="l2"
        )

    def rows(self, texts: Sequence[str]) -> Array:
        """(n, dimensions) float64, each number one that float32 holds exactly."""
        found = self._vectoriser.transform(texts).toarray()
        return np.asarray(found, np.float32).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """How a model takes texts.

    hashing     how texts become vectors; None where a row is the hash of its text
    longest     characters of a text
    normalise   "nfc" brings every text to Unicode's composed form before anybody sees it; "none" leaves it as it came
    column      what the text is called where a row is an object or a table has columns; None where texts stand bare
    tried       a text that the model takes, to see whether it answers
    """

    hashing: Hashing | None = None
    longest: int = 10_000
    normalise: str = "none"
    column: str | None = None
    tried: str = "hello"

    def __post_init__(self) -> None:
        check(self, "longest", "a whole number of characters, at least 1", lambda v: type(v) is int and v >= 1)
        check(self, "normalise", '"none" or "nfc"', lambda v: v in ("none", "nfc"))
        check(self, "column", "printable text", lambda v: v is None or (v.strip() != "" and v.isprintable()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return SHAPE if self.hashing is None else (self.hashing.dimensions,)

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest number of a row."""
        return (0.0, TOP) if self.hashing is None else (-1.0, 1.0)

    def rows(self, texts: Sequence[str]) -> Array:
        """(n, *shape) what the guard sees of these texts."""
        return rows_of_texts(texts) if self.hashing is None else self.hashing.rows(texts)

    def taken(self, values: Any, most: int, where: str) -> tuple[str, ...]:
        """The texts in a list of 1 to `most`, each bare or in a list of its own, as the model will see them. Raises
        BadRequest."""
        if not isinstance(values, list) or not values:
            raise BadRequest(f"{where} must be a list of texts.")
        if len(values) > most:
            raise BadRequest(f"{where} must hold 1 to {most} rows; got {len(values)}.", 413)
        if all(type(value) is list and len(value) == 1 for value in values):
            values = [value for (value,) in values]
        if set(map(type, values)) != {str}:
            raise BadRequest(f"{where} must hold texts only, one a row.")
        return tuple(self._taken(text, where) for text in values)

    def _taken(self, text: str, where: str) -> str:
        if len(text) > self.longest:
            raise BadRequest(f"{where} must hold texts of at most {self.longest} characters; got {len(text)}.", 413)
        if "\0" in text:  # some servers end the text there, and would answer another question than was inspected
            raise BadRequest(f"{where} must hold texts without the character NUL.")
        if self.normalise == "none" or text.isascii():
            return text
        if any(map(unicodedata.combining, text)) and _marks(text) > MARKS:
            raise BadRequest(f"{where} must hold texts with at most {MARKS} combining marks in a row.")
        return unicodedata.normalize("NFC", text)


def _marks(text: str) -> int:
    """The length of the longest run of combining marks."""
    longest = run = 0
    for letter in text:
        run = run + 1 if unicodedata.combining(letter) else 0
        longest = max(longest, run)
    return longest
