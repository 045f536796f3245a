"""Texts as rows of numbers, so that oracles, guards, ledgers and attacks that ask about given rows take them so.

A row is the hash of a text: three whole numbers below 2^24, which even float32 holds exactly. Equal texts are equal
rows in every process, so a quota, keyed noise or a ledger means the same here and in a gate, and no list of texts has
to be shared. Nothing else can be read off such a row: distances and ranges mean nothing, and only whoever has the texts
(`Texts`, kept by the models and by the API's interface) can answer it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Floats, Interface, Model

__all__ = ["SHAPE", "TOP", "TextInterface", "TextModel", "Texts", "rows_of_texts", "with_texts"]

SHAPE: tuple[int, ...] = (3,)  # of a row
TOP = 2.0**24  # numbers of a row are below this
WORDS = 200_000  # words at most from which texts are drawn
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def rows_of_texts(texts: Iterable[str]) -> Array:
    """(n, 3) the rows that stand for these texts."""
    digests = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=9).digest() for text in texts]
    parts = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 3, 3).astype(np.float64)
    return np.asarray(parts @ np.array([65536.0, 256.0, 1.0]))


class Texts:
    """The texts that rows stand for, and the words from which further ones are drawn."""

    def __init__(self) -> None:
        self._held: dict[bytes, str] = {}
        self._words: Sequence[str] = ()
        self._lengths = np.arange(3, 30)

    def __len__(self) -> int:
        return len(self._held)

    def add(self, texts: Sequence[str]) -> Array:
        """(n, 3) the rows of these texts, which are known from now on."""
        rows = rows_of_texts(texts)
        self._held.update(zip(map(np.ndarray.tobytes, rows), texts, strict=True))
        return rows

    def of(self, rows: Array) -> list[str]:
        """The texts that rows (n, 3) stand for. InputError where a row stands for none."""
        rows = np.ascontiguousarray(rows, np.float64)
        try:
            return [self._held[row.tobytes()] for row in rows]
        except KeyError:
            raise InputError(
                "A row was expected to stand for a text; one stands for none that is known. An attack that makes up "
                "rows of numbers cannot ask a model of texts."
            ) from None

    def known(self, rows: Array) -> NDArray[np.bool_]:
        """(n,) whether each row (n, 3) stands for a text that is held."""
        return np.array([row.tobytes() in self._held for row in np.ascontiguousarray(rows, np.float64)], bool)

    def learn_words(self, texts: Sequence[str]) -> None:
        """Draw further texts from the words of these, each as often as it occurs, and as long as these are."""
        split = [text.split() for text in texts]
        self._words = [word for words in split for word in words][:WORDS]
        self._lengths = np.array([len(words) for words in split if words] or [1])

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """(n, 3) random strings of words: those of `learn_words`, or of random letters where there are none."""
        lengths = self._lengths[rng.integers(len(self._lengths), size=n)]
        words = iter(self._drawn(int(lengths.sum()), rng))
        return self.add([" ".join(next(words) for _ in range(length)) for length in lengths])

    def _drawn(self, n: int, rng: np.random.Generator) -> list[str]:
        if self._words:
            return [self._words[i] for i in rng.integers(len(self._words), size=n)]
        letters = np.array(list(LETTERS))
        return ["".join(letters[rng.integers(len(letters), size=size)]) for size in rng.integers(2, 9, size=n)]


@dataclass(frozen=True, kw_only=True)
class TextInterface(Interface):
    """The interface of an API that takes texts. What it draws are random strings of the thief's own words.

    `words` are the names of the classes, where they are known: the API shows them.
    """

    input_shape: tuple[int, ...] = SHAPE
    bounds: tuple[float, float] = (0.0, TOP)
    text: bool = True
    texts: Texts = field(default_factory=Texts, compare=False, repr=False)
    words: tuple[str, ...] | None = None

    def uniform(self, n: int, rng: np.random.Generator) -> Array:
        """(n, 3) random strings."""
        return self.texts.draw(n, rng)


class TextModel:
    """A function of a list of texts, as a model of rows.

    ask        list of n texts -> (n, n_classes) probabilities, or (n, 1) values of a regression
    classes    the names of its columns, where they are known
    estimator  the scikit-learn pipeline that answers, where one does: what `save_model` writes
    """

    def __init__(
        self,
        ask: Callable[[list[str]], Array],
        texts: Texts,
        n_classes: int,
        *,
        classes: Sequence[str] | None = None,
        estimator: Any = None,
    ) -> None:
        self.input_shape = SHAPE
        self.n_classes = n_classes
        self.classes = None if classes is None else tuple(classes)
        if estimator is not None:
            self.estimator = estimator
        self._ask, self._texts = ask, texts

    def holding(self, texts: Texts) -> TextModel:
        """The same model for rows that stand for these texts."""
        estimator = getattr(self, "estimator", None)
        return TextModel(self._ask, texts, self.n_classes, classes=self.classes, estimator=estimator)

    def scores(self, x: Array) -> Array:
        """(n, 3) -> (n, n_classes) probabilities, or (n, 1) regression values."""
        if len(x) == 0:
            return np.empty((0, max(self.n_classes, 1)))
        return np.asarray(self._ask(self._texts.of(x)), np.float64)


def with_texts(model: Model, x: Floats, texts: Sequence[str] | None) -> tuple[Model, Floats]:
    """The model, and the rows to ask it with: x, or those of the texts that came beside x, which are kept for this
    question only. InputError where the model takes no texts."""
    if texts is None:
        return model, x
    if not isinstance(model, TextModel):
        raise InputError(f"A TextModel was expected, since texts are asked; got a {type(model).__name__}.")
    held = Texts()
    return model.holding(held), held.add(texts)
