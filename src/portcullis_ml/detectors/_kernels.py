"""Plain loops, compiled by numba: the search for the nearest row, which `_sketches.Compiled` calls, and a row's steps.

Some functions may sum in whatever order fills the processor's vectors ("reassoc", the only liberty taken: a NaN and an
infinity stay what they are); the slack of what they give holds for any order of STEP numbers, which is as many as they
sum in float32. What decides is summed by numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import boolean, float32, float64, int32, intp, types, uint8, void

from portcullis_ml.detectors._forms import FORMS
from portcullis_ml.detectors._rounding import LOOSE, STEP, TINY

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
def _dots(first, second, third, fourth, x):  # type: ignore[no-untyped-def]
    """Four dot products with x in float32; x is looked at once for all of them."""
    a = b = c = d = np.float32(0)
    for j in range(len(x)):
        a += first[j] * x[j]
        b += second[j] * x[j]
        c += third[j] * x[j]
        d += fourth[j] * x[j]
    return a, b, c, d


@numba.njit
def _project(directions, x, out):  # type: ignore[no-untyped-def]
    """Write the dot products of directions (k, d) with x (d,) into out: in float32 over STEP inputs, in float64 over
    such pieces, so that what rounding does is the same for rows of any length."""
    k = len(directions)
    for i in range(0, k, 4):
        i1, i2, i3 = min(i + 1, k - 1), min(i + 2, k - 1), min(i + 3, k - 1)
        a = b = c = d = 0.0
        for j in range(0, len(x), STEP):
            end = j + STEP
            part = _dots(
                directions[i, j:end], directions[i1, j:end], directions[i2, j:end], directions[i3, j:end], x[j:end]
            )
            a += np.float64(part[0])
            b += np.float64(part[1])
            c += np.float64(part[2])
            d += np.float64(part[3])
        out[i], out[i1], out[i2], out[i3] = a, b, c, d


@numba.njit(fastmath={"reassoc"})
def _square(x):  # type: ignore[no-untyped-def]
    """The squared length of x in float64."""
    total = 0.0
    for j in range(len(x)):
        total += np.float64(x[j]) * np.float64(x[j])
    return total


@numba.njit(fastmath={"reassoc"})
def _apart(row, x):  # type: ignore[no-untyped-def]
    """The squared distance from a row to x in float32."""
    total = np.float32(0)
    for j in range(len(x)):
        away = np.float32(row[j]) - x[j]
        total += away * away
    return total


@numba.njit
def _away(rows, i, x):  # type: ignore[no-untyped-def]
    """The squared distance from row i to x (d,), as `_project` adds up."""
    total = 0.0
    for j in range(0, len(x), STEP):
        total += np.float64(_apart(rows[i, j : j + STEP], x[j : j + STEP]))
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


@numba.njit(fastmath={"reassoc"})
def _centred(x, centre, out):  # type: ignore[no-untyped-def]
    """Write x - centre (d,) in float32; its squared length."""
    square = 0.0
    for j in range(len(x)):
        away = x[j] - centre[j]
        square += away * away
        out[j] = np.float32(away)
    return square


@numba.njit
def _sketch(x, centre, directions, out):  # type: ignore[no-untyped-def]
    """Write the projections of x (d,) and the length of what they leave into out (k + 1,); give |x - centre|."""
    k, d = directions.shape
    left = np.empty(d, np.float32)
    square = _centred(x, centre, left)
    _project(directions, left, out)
    rest = square - _square(out[:k])
    if not rest > square / 16:  # a small difference of large squares has lost its digits
        for i in range(k):
            for j in range(d):
                left[j] -= directions[i, j] * out[i]
        rest = _square(left)
    out[k] = np.sqrt(rest)
    return np.sqrt(square)


@_jit(void(ROW, LINE, FLAT, intp, BLOCKS, FLAT))
def put(x, centre, directions, slot, coarse, fine):  # type: ignore[no-untyped-def]
    """Write the sketch of x (d,): the first c numbers of coarse (blocks, c + 1, BLOCK) with the length of the rest of
    the sketch after them, and that rest in fine (rows, k + 1 - c)."""
    c = coarse.shape[1] - 1
    out = np.empty(len(directions) + 1, np.float32)
    _sketch(x, centre, directions, out)
    for k in range(c):
        coarse[slot // BLOCK, k, slot % BLOCK] = out[k]
    coarse[slot // BLOCK, c, slot % BLOCK] = np.sqrt(_square(out[c:]))
    fine[slot] = out[c:]


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
        intp(kept[:, ::1], intp, float64, intp, BLOCKS, FLAT, ROW, LINE, FLAT, intp[::1], LINE)
        for kept in (uint8, float32, float64)
    )
)
def nearest(values, form, scale, n, coarse, fine, x, centre, directions, found, squares):  # type: ignore[no-untyped-def]
    """How many of the first n rows of values (room, d) may be the nearest to x (d,), and which, in found (n,).

    If it is one, squares (d,) are the terms of its squared distance. Every other is farther off, whatever the order of
    a sum: what is ruled out in float32 by more than all rounding, LOOSE of a length, and the rest by float64.
    """
    blocks, c, f, d = len(coarse), coarse.shape[1] - 1, fine.shape[1], len(x)
    out = np.empty(c + f, np.float32)
    reach = 2 * LOOSE * _sketch(x, centre, directions, out)
    across = np.float32(np.sqrt(_square(out[c:])))
    # 1. A lower bound from the coarse numbers of every row.
    along, bound = np.empty(blocks * BLOCK, np.float32), np.empty(blocks * BLOCK, np.float32)
    _bound_all(coarse, out, across, along, bound)
    first = 0
    for i in range(n):
        if bound[i] < bound[first]:
            first = i
    best = _exact(values, first, form, x, squares)
    # 2. A better one, from all of the sketch, of those that may yet win.
    limit = ((1 + 2 * LOOSE) * np.sqrt(best) + reach) ** 2 + FADED
    left = 0
    for i in range(n):
        found[left] = i
        left += not _beyond(bound[i], limit)
    _bound_some(fine, out[c:], found[:left], along, bound)
    second = 0
    for s in range(left):
        if bound[s] < bound[second]:
            second = s
    # 3. Distances in float32, and of what is still not beyond in float64; the best by its bound comes first.
    found[0], found[second], bound[0], bound[second] = found[second], found[0], bound[second], bound[0]
    scaled = np.empty(d, np.float32)
    for j in range(d):
        scaled[j] = np.float32(x[j] * scale)
    length = 2.0**-21 * np.sqrt(_square(x))
    exact = np.empty(left)
    tie = 1 + d * 2.0**-50  # sums of the same d squares in two orders differ by less
    m = 0
    for s in range(left):
        i = found[s]
        if _beyond(bound[s], ((1 + 2 * LOOSE) * np.sqrt(best) + reach) ** 2 + FADED):
            continue
        limit = ((1 + 2 * LOOSE) * scale * (np.sqrt(best) + length)) ** 2 + FADED
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
