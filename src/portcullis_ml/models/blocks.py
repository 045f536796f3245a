"""Scoring in blocks of fixed sizes, so that a row's scores do not depend on the request that it came in.

A matrix product chooses its kernel by the shapes it is given, and each kernel adds in another order: the same row may
get other last bits alone than among 64 rows. A guard that runs a network would then answer a client's rows differently
when the client cuts them into other requests. So rows are scored in blocks of a few fixed sizes, and a block that is
not full is filled with copies of its first row.

A fixed size is not enough: a kernel may treat the rows at its edge in another way. A probe at construction therefore
scores 256 rows in several orders, among ordinary neighbours and among NaN, infinite and huge ones, and keeps the
largest candidate size at which every row gets the same bits at every position. Smaller candidates that give the same
bits as that one are used too, for what does not fill a large block. At size 1 a row has neither position nor
neighbours; a model that does not repeat itself even there is refused.

The probe is evidence, not a proof: it compares about 50 rows at every position of a block. Give rows of the real
kind in `like` where random ones would all get the same scores, or are no valid input.

Threads   Any number of threads may score at the same time. How many threads BLAS uses may change the bits, and the
          probe speaks for the number set at construction: set it before, and leave it.
Restart   The same model on the same machine with the same libraries and number of threads gets the same sizes and the
          same bits. Another machine may give other bits, as it may without blocks.
Errors    A model that raises for a row (scikit-learn does for NaN) raises for the whole request that holds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Model

__all__ = ["BlockModel", "Blocks"]

SIZES = (64, 16, 4, 1)
ROWS = 256  # scored by the probe, and the largest block that it can judge
HOSTILE = (np.nan, np.inf, 1e30)  # neighbours that would show in a row if anything of theirs reached it


class Blocks:
    """A scoring function in blocks: a row's scores are the same bits in whatever request it comes.

    score        (n, *input_shape) float64 -> n scores, columns or feature maps; deterministic
    sizes        candidate block sizes; 1 is always one of them. Smaller ones cost single rows less and batches more
    like         (m, *input_shape) rows to probe with, instead of normal ones at scales from 0.01 to 100
    probed       how many rows the probe compares: fewer where one takes long, and then it is less sure

    The attribute `sizes` holds the sizes in use, the largest first. InputError where no size is exact.
    """

    def __init__(
        self,
        score: Callable[[Array], Any],
        input_shape: tuple[int, ...],
        *,
        sizes: Sequence[int] = SIZES,
        like: Array | None = None,
        probed: int = ROWS,
    ) -> None:
        if not all(1 <= size <= probed for size in sizes):
            raise ParameterError("sizes", f"ints in [1, {probed}]", sizes)
        self._score = score
        self._shape = tuple(input_shape)
        rows = _random_rows(self._shape) if like is None or not len(like) else self._checked(like)
        with np.errstate(all="ignore"):
            rows = np.resize(rows, (probed, *self._shape))
            self._empty = np.atleast_1d(score(rows[:1]))[:0]  # scores of no rows: their shape and dtype
            self.sizes = self._exact_sizes(sorted({*sizes, 1}, reverse=True), rows)

    def __call__(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, ...): what `score` gives, NaN in one bit pattern."""
        return self._in_blocks(self._checked(x), self.sizes)

    def _checked(self, x: Array) -> Array:
        x = np.asarray(x)
        if x.shape[1:] != self._shape:
            raise InputError(f"Rows of shape {self._shape} were expected; got an array of shape {x.shape}.")
        return x

    def _in_blocks(self, x: Array, sizes: Sequence[int]) -> Array:
        out = np.empty((len(x), *self._empty.shape[1:]), self._empty.dtype)
        blocks = _aligned((sizes[0], *self._shape))
        start = 0
        for size in _cuts(len(x), sizes):
            rows, block = x[start : start + size], blocks[:size]
            block[: len(rows)] = rows
            block[len(rows) :] = rows[0]
            out[start : start + size] = self._of_block(block)[: len(rows)]
            start += size
        if out.dtype.kind == "f":
            out[np.isnan(out)] = np.nan
        return out

    def _of_block(self, block: Array) -> Array:
        scores = np.asarray(self._score(block))
        expected = (len(block), *self._empty.shape[1:])
        if scores.shape != expected or scores.dtype != self._empty.dtype:
            raise InputError(
                f"A scoring function was expected to give {self._empty.dtype} scores of shape {expected} for "
                f"{len(block)} rows; it gave {scores.dtype} ones of shape {scores.shape}."
            )
        return scores

    def _exact_sizes(self, candidates: Sequence[int], rows: Array) -> tuple[int, ...]:
        """The largest exact size and those below it that give the same bits."""
        hostile = [value for value in HOSTILE if self._takes(np.full_like(rows[:1], value))]
        exact: list[int] = []
        bits = b""
        for size in candidates:
            scores = self._in_blocks(rows, [size])
            if (not exact or scores.tobytes() == bits) and self._is_exact(size, rows, scores, hostile):
                exact.append(size)
                bits = scores.tobytes()
        if not exact:
            raise InputError(
                "A model whose scores do not depend on how rows are cut into requests was expected; this one gives "
                "the same row, alone, other scores another time. Switch off whatever is random in it, such as dropout."
            )
        return tuple(exact)

    def _takes(self, x: Array) -> bool:
        try:
            self._score(x)
        except Exception:  # each library has its own error for a row that it does not take
            return False
        return True

    def _is_exact(self, size: int, rows: Array, scores: Array, hostile: Sequence[float]) -> bool:
        """Whether rows get these scores again in other orders, a quarter of them replaced by hostile neighbours."""
        rng = derive(0, "blocks", str(size))
        for _ in range(max(2, size // 4)):  # so that each position sees 64 rows, or 48 and 16 hostile ones
            order = rng.permutation(len(rows))
            x, kept = rows[order], np.ones(len(rows), bool)
            if hostile and size > 1:
                kept[rng.permutation(len(rows))[: len(rows) // 4]] = False
                x[~kept] = rng.choice(hostile, (len(rows) - kept.sum(), *[1] * len(self._shape)))
            if self._in_blocks(x, [size])[kept].tobytes() != scores[order[kept]].tobytes():
                return False
        return True


class BlockModel:
    """A model that scores in `Blocks`, with the same settings; `blocks.sizes` says which sizes are in use."""

    def __init__(self, model: Model, *, sizes: Sequence[int] = SIZES, like: Array | None = None) -> None:
        self.input_shape = model.input_shape
        self.n_classes = model.n_classes
        self.blocks = Blocks(model.scores, model.input_shape, sizes=sizes, like=like)

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> what the model gives, the same bits for a row in whatever request it comes."""
        return self.blocks(x)


def _random_rows(shape: tuple[int, ...]) -> Array:
    """(ROWS, *shape): at some scale most models give each row scores of its own."""
    scale = np.resize([0.01, 0.1, 1.0, 10.0, 100.0], (ROWS, *[1] * len(shape)))
    return scale * derive(0, "blocks").normal(size=(ROWS, *shape))


def _cuts(n: int, sizes: Sequence[int]) -> Iterator[int]:
    """Sizes of the blocks that take n rows one after the other; a block is padded where more than half of it is used,
    or there is no smaller one."""
    for size in sizes:
        least = 1 if size == sizes[-1] else size // 2 + 1
        while n >= least:
            yield size
            n -= size


def _aligned(shape: tuple[int, ...]) -> Array:
    """An array that begins at a multiple of 64 bytes, since MKL's results may depend on where its arguments begin."""
    room = np.empty(math.prod(shape) + 8)
    skip = -room.ctypes.data // 8 % 8
    return room[skip : skip + math.prod(shape)].reshape(shape)
