"""Plain loops, compiled by numba: the search for the nearest row, which `_sketches.Compiled` calls, and a row's steps.

Some functions may sum in whatever order fills the processor's vectors ("reassoc", the only liberty taken: a NaN and an
infinity stay what they are); the slack of what they give holds for any order. What decides is summed by numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import boolean, float32, float64, int32, intp, types, uint8, void

from portcullis.detectors._forms import FORMS
from portcullis.detectors._sketches import TINY

__all__ = ["BLOCK", "nearest", "put", "steps"]

BLOCK = 64  # rows whose coarse numbers lie together, one number of all of them after the other
FADED = TINY**2  # more than the squares can add that fade below float32's normal numbers
ROW = types.Array(float64, 1, "C", readonly=True)  # read only: rows may lie in the bytes that came
LINE, FLAT, BLOCKS = float64[::1], float32[:, ::1], float32[:, :, ::1]
UNIT, UNIT32 = FORMS.index("unit"), FORMS.index("unit32")


def _jit(*signatures: Any, reassoc: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiled for these types at once, or read from numba's cache; without a cache where none can be written."""

    liberty = {"reassoc"} if reassoc else False

    def compile_it(plain: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(list(signatures), nogil=True, fastmath=liberty, cache=True)(plain)
        except (OSError, RuntimeError):
            return numba.njit(list(signatures), nogil=True, fastmath=liberty)(plain)

    return compile_it


@_jit(boolean(ROW, float64, int32[::1]), reassoc=True)
def steps(x, quantum, out):  # type: ignore[no-untyped-def]
    """Write x (d,) in whole steps of a quantum; whether all of them are small enough for certain."""
    total = 0.0
    for j in range(len(x)):
        step = np.rint(x[j] / quantum)
        total += step * step
        out[j] = np.int32(step)
    return total < 2.0**60  # and a NaN is not


@numba.njit(fastmath={"reassoc"})
def _dot(rows, i, x):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for j in range(len(x)):
        total += rows[i, j] * x[j]
    return total


@numba.njit(fastmath={"reassoc"})
def _away(rows, i, x):  # type: ignore[no-untyped-def]
    """The squared distance from row i to x (d,) in float32."""
    total = np.float32(0)
    for j in range(len(x)):
        away = np.float32(rows[i, j]) - x[j]
        total += away * away
    return total


@numba.njit
def _terms(rows, i, form, x, squares):  # type: ignore[no-untyped-def]
    """Write what the squared distance from row i to x is a sum of, as numpy computes it, to squares (d,)."""
    for j in range(len(x)):
        if form == UNIT:
            value = np.float64(rows[i, j]) / 255.0
        elif form == UNIT32:
            value = np.float64(np.float32(rows[i, j]) / np.float32(255))
        else:
            value = np.float64(rows[i, j])
        away = value - x[j]
        squares[j] = away * away


@numba.njit(fastmath={"reassoc"})
def _exact(rows, i, form, x, squares):  # type: ignore[no-untyped-def]
    """The squared distance from row i to x in float64, but for the rounding of a sum of d numbers."""
    _terms(rows, i, form, x, squares)
    total = 0.0
    for j in range(len(x)):
        total += squares[j]
    return total


@numba.njit
def _beyond(square, limit):  # type: ignore[no-untyped-def]
    """Whether a square is above the limit for certain: what overflowed or is no number rules nothing out."""
    return square > limit and square < np.inf


@numba.njit
def _sketch(x, centre, directions, out):  # type: ignore[no-untyped-def]
    """Write the projections of x (d,) and the length of what they leave into out (k + 1,); give |x - centre|."""
    k, d = directions.shape
    left = np.empty((1, d), np.float32)
    square = 0.0
    for j in range(d):
        away = x[j] - centre[j]
        square += away * away
        left[0, j] = np.float32(away)
    for i in range(k):
        out[i] = _dot(directions, i, left[0])
    for i in range(k):
        for j in range(d):
            left[0, j] -= directions[i, j] * out[i]
    out[k] = np.sqrt(_dot(left, 0, left[0]))
    return np.sqrt(square)


@_jit(void(ROW, LINE, FLAT, intp, BLOCKS, FLAT))
def put(x, centre, directions, slot, coarse, fine):  # type: ignore[no-untyped-def]
    """Write the sketch of x (d,): the first c numbers of coarse (blocks, c + 1, BLOCK) with the length of the rest of
    the sketch after them, and that rest in fine (rows, k + 1 - c)."""
    c = coarse.shape[1] - 1
    out = np.empty((1, len(directions) + 1), np.float32)
    _sketch(x, centre, directions, out[0])
    for k in range(c):
        coarse[slot // BLOCK, k, slot % BLOCK] = out[0, k]
    rest = out[:, c:]
    coarse[slot // BLOCK, c, slot % BLOCK] = np.sqrt(_dot(rest, 0, rest[0]))
    fine[slot] = rest[0]


@numba.njit
def _bound_all(coarse, sketch, across, along, bound):  # type: ignore[no-untyped-def]
    """Of every row: the squared distance over the coarse numbers, and a lower bound, that with `across`."""
    blocks, c, size = coarse.shape[0], coarse.shape[1] - 1, coarse.shape[2]
    for b in range(blocks):
        at = b * size
        for i in range(size):
            along[at + i] = 0
        for k in range(c):
            for i in range(size):
                away = coarse[b, k, i] - sketch[k]
                along[at + i] += away * away
        for i in range(size):
            away = coarse[b, c, i] - across
            bound[at + i] = along[at + i] + away * away


@numba.njit(fastmath={"reassoc"})
def _bound_some(fine, rest, found, along, bound):  # type: ignore[no-untyped-def]
    """A better bound of the rows found, from all numbers of their sketches."""
    for s in range(len(found)):
        i = np.uintp(found[s])
        total = along[i]
        for j in range(len(rest)):
            away = fine[i, j] - rest[j]
            total += away * away
        bound[s] = total


@_jit(
    *(
        intp(kept[:, ::1], intp, float64, intp, BLOCKS, FLAT, ROW, LINE, FLAT, float64, intp[::1], LINE)
        for kept in (uint8, float32, float64)
    )
)
def nearest(values, form, scale, n, coarse, fine, x, centre, directions, slack, found, squares):  # type: ignore[no-untyped-def]
    """How many of the first n rows of values (room, d) may be the nearest to x (d,), and which, in found (n,).

    If it is one, squares (d,) are the terms of its squared distance. Every other is farther off, whatever the order of
    a sum: what is ruled out in float32 by more than all rounding, `slack` of a length, and the rest by float64.
    """
    blocks, c, f, d = len(coarse), coarse.shape[1] - 1, fine.shape[1], len(x)
    out = np.empty((1, c + f), np.float32)
    reach = 2 * slack * _sketch(x, centre, directions, out[0])
    rest = out[:, c:]
    across = np.sqrt(_dot(rest, 0, rest[0]))
    # 1. A lower bound from the coarse numbers of every row.
    along, bound = np.empty(blocks * BLOCK, np.float32), np.empty(blocks * BLOCK, np.float32)
    _bound_all(coarse, out[0], across, along, bound)
    first = 0
    for i in range(n):
        if bound[i] < bound[first]:
            first = i
    best = _exact(values, first, form, x, squares)
    # 2. A better one, from all of the sketch, of those that may yet win.
    limit = ((1 + 2 * slack) * np.sqrt(best) + reach) ** 2 + FADED
    left = 0
    for i in range(n):
        found[left] = i
        left += not _beyond(bound[i], limit)
    _bound_some(fine, rest[0], found[:left], along, bound)
    second = 0
    for s in range(left):
        if bound[s] < bound[second]:
            second = s
    # 3. Distances in float32, and of what is still not beyond in float64; the best by its bound comes first.
    found[0], found[second], bound[0], bound[second] = found[second], found[0], bound[second], bound[0]
    scaled = np.empty(d, np.float32)
    length = 0.0
    for j in range(d):
        scaled[j] = np.float32(x[j] * scale)
        length += x[j] * x[j]
    length = 2.0**-21 * np.sqrt(length)
    exact = np.empty(left)
    tie = 1 + d * 2.0**-50  # sums of the same d squares in two orders differ by less
    m = 0
    for s in range(left):
        i = found[s]
        if _beyond(bound[s], ((1 + 2 * slack) * np.sqrt(best) + reach) ** 2 + FADED):
            continue
        limit = ((1 + 2 * slack) * scale * (np.sqrt(best) + length)) ** 2 + FADED
        if _beyond(_away(values, i, scaled), limit):
            continue
        found[m], exact[m] = i, _exact(values, i, form, x, squares)
        best = min(best, exact[m])
        m += not exact[m] > best * tie
    left, m = m, 0
    for s in range(left):
        found[m] = found[s]
        m += not exact[s] > best * tie
    _terms(values, found[0], form, x, squares)
    return m
