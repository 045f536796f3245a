"""Where a piecewise linear function bends along a line, and the hidden unit that bends it there.

Everything is asked through `ask`, which takes points (n, d) and gives values (n, k) with how far each may be off (n,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from portcullis_ml.core.types import Array
from portcullis_ml.models.relu import hidden

__all__ = ["Ask", "Kink", "NotPiecewiseLinear", "Units", "find_kinks", "measure_units"]

Ask = Callable[[Array], tuple[Array, Array]]

STEP = 1e-3  # of a piece: how far apart two points are that give a slope
SHORTEST = 1e-7  # of the line: pieces below this are given up
SAME = 1e-7  # slopes nearer than this, relative to the greatest of the line, are one slope
NOISE = 8.0  # errors of a value that a slope or a prediction may be off by
TRIES = (1.0, 0.1, 0.01)  # of the distance to the next kink: how far from a kink gradients are taken
CHECKED = 1e-5  # a gradient that is further off than this along a direction of its own is not one
RANK_ONE = 1e-4  # a second singular value above this share of the first tells of two units at one place


class NotPiecewiseLinear(Exception):
    """The function bends everywhere."""


@dataclass(frozen=True)
class Kink:
    """At start + t (end - start), 0 < t < 1, the derivative along the line changes by `change` (k,). `room` is how far
    in t the nearest other kink is."""

    start: Array
    end: Array
    t: float
    change: Array
    room: float


@dataclass(frozen=True)
class Units:
    """w (h, d) of norm 1, b (h,), v (k, h): what is known so far of sum_i v_i relu(w_i x + b_i)."""

    w: Array
    b: Array
    v: Array

    @classmethod
    def none(cls, d: int, k: int) -> Units:
        return cls(np.empty((0, d)), np.empty(0), np.empty((k, 0)))

    def __len__(self) -> int:
        return len(self.b)

    def __add__(self, other: Units) -> Units:
        return Units(
            np.concatenate([self.w, other.w]),
            np.concatenate([self.b, other.b]),
            np.concatenate([self.v, other.v], axis=1),
        )

    def values(self, x: Array) -> Array:
        return np.asarray(hidden(x, self.w, self.b) @ self.v.T)


@dataclass(frozen=True)
class _Piece:
    """A part [low, high] of a line: values and one-sided slopes (k,) at both ends, and how far values may be off."""

    low: float
    high: float
    at_low: Array
    at_high: Array
    slope_low: Array
    slope_high: Array
    noise: float

    @property
    def length(self) -> float:
        return self.high - self.low

    def predicted(self) -> float | None:
        """Where the tangents of both ends meet, if that is well inside; None else."""
        bend = self.slope_low - self.slope_high
        j = int(np.abs(bend).argmax())
        met = (self.at_high - self.at_low - self.slope_high * self.length)[j] / bend[j]
        inside = 2 * STEP * self.length < met < (1 - 2 * STEP) * self.length
        return float(self.low + met) if inside else None


def find_kinks(ask: Ask, start: Array, end: Array, *, most: int) -> list[Kink]:
    """The kinks between two points (d,), in order. Raises NotPiecewiseLinear where more than `most` pieces are bent
    and none of them in one place.

    Jagielski, Carlini, Berthelot, Kurakin, Papernot (USENIX Security 2020): the tangents at the ends of a piece with
    one kink meet in it. A place where they meet is believed only if the value there is as predicted *and* the slopes
    beside it are those of the ends: with several kinks, the outer tangents can meet by chance on the graph.
    """
    line = _Line(ask, start, end)
    pieces, found = [line.whole()], list[tuple[float, Array]]()
    while pieces := [piece for piece in pieces if line.bent(piece)]:
        if not found and len(pieces) > most:
            raise NotPiecewiseLinear
        pieces, kinks = line.split(pieces)
        found += kinks
    found.sort(key=lambda kink: kink[0])
    places = np.array([0.0, *(t for t, _ in found), 1.0])
    room = np.minimum(np.diff(places)[:-1], np.diff(places)[1:])
    return [Kink(start, end, t, change, float(r)) for (t, change), r in zip(found, room, strict=True)]


class _Line:
    def __init__(self, ask: Ask, start: Array, end: Array) -> None:
        self._ask, self._start, self._end = ask, start, end
        self._steepest = 0.0

    def whole(self) -> _Piece:
        (first, near, far, last), noise = self._at(0.0, STEP, 1 - STEP, 1.0)
        return self._piece(0.0, 1.0, first, last, (near - first) / STEP, (last - far) / STEP, float(noise.max()))

    def bent(self, piece: _Piece) -> bool:
        if not piece.length > SHORTEST or not np.isfinite(piece.noise):
            return False
        return not self._same(piece.slope_low, piece.slope_high, piece)

    def split(self, pieces: list[_Piece]) -> tuple[list[_Piece], list[tuple[float, Array]]]:
        """Three questions about every bent piece: where its tangents meet, or in the middle, and a step to each side.
        What is left of the pieces, and the kinks found: (where, change of the slope)."""
        meeting = [piece.predicted() for piece in pieces]
        where = [piece.low + piece.length / 2 if t is None else t for piece, t in zip(pieces, meeting, strict=True)]
        steps = [STEP * piece.length for piece in pieces]
        asked = [place for t, e in zip(where, steps, strict=True) for place in (t - e, t, t + e)]
        values, noise = self._at(*asked)
        rest, kinks = list[_Piece](), list[tuple[float, Array]]()
        for i, (piece, t, e) in enumerate(zip(pieces, where, steps, strict=True)):
            before, here, after = values[3 * i : 3 * i + 3]
            off = max(piece.noise, float(noise[3 * i : 3 * i + 3].max()))
            left, right = (here - before) / e, (after - here) / e
            one = self._piece(piece.low, t, piece.at_low, here, piece.slope_low, left, off)
            two = self._piece(t, piece.high, here, piece.at_high, right, piece.slope_high, off)
            if meeting[i] is not None and self._on_tangent(one) and self._same(right, piece.slope_high, two):
                kinks.append((t, piece.slope_high - piece.slope_low))
            else:
                rest += [one, two]
        return rest, kinks

    def _on_tangent(self, piece: _Piece) -> bool:
        """Whether nothing bends between the ends: value and slope at the high end are those that the low end says."""
        rise = piece.at_low + piece.slope_low * piece.length - piece.at_high
        allowed = self._allowed(piece) * piece.length + NOISE * piece.noise
        return self._same(piece.slope_low, piece.slope_high, piece) and bool((np.abs(rise) <= allowed).all())

    def _same(self, one: Array, other: Array, piece: _Piece) -> bool:
        return bool((np.abs(one - other) <= self._allowed(piece)).all())

    def _allowed(self, piece: _Piece) -> float:
        return NOISE * piece.noise / (STEP * piece.length) + SAME * self._steepest

    def _piece(self, low: float, high: float, *rest: Array | float) -> _Piece:
        piece = _Piece(low, high, *rest)  # type: ignore[arg-type]
        self._steepest = max(
            self._steepest, float(np.abs(piece.slope_low).max()), float(np.abs(piece.slope_high).max())
        )
        return piece

    def _at(self, *t: float) -> tuple[Array, Array]:
        places = np.array(t)[:, None]
        return self._ask((1 - places) * self._start + places * self._end)


def measure_units(ask: Ask, kinks: list[Kink], low: Array, high: Array, rng: np.random.Generator) -> Units:
    """The units behind kinks: 2 (d + 2) questions each, asked together, and again nearer to the kinks that fail.

    Beside a kink the function is linear on either side, and its gradients there differ by v_i w_i, a matrix of rank 1:
    both, with their signs, at the price of second differences, which leave the signs open. A direction of its own
    checks each gradient, the change of the slope along the line their difference. Units that fail are left out: some
    other line meets them elsewhere.
    """
    units = Units.none(len(low), len(kinks[0].change) if kinks else 0)
    for share in TRIES:
        failed = []
        if kinks:
            stencils = [_Stencil(kink, share, low, high, rng) for kink in kinks]
            values, _ = ask(np.concatenate([stencil.points for stencil in stencils]))
            for kink, stencil, part in zip(kinks, stencils, np.split(values, len(kinks)), strict=True):
                unit = stencil.unit(part)
                failed += [kink] if unit is None else []
                units = units if unit is None else units + unit
        kinks = failed
    return units


class _Stencil:
    """The points around one kink from which both gradients are read: (2 (d + 2), d)."""

    def __init__(self, kink: Kink, share: float, low: Array, high: Array, rng: np.random.Generator) -> None:
        self._kink = kink
        along = kink.end - kink.start
        self._norm = float(np.linalg.norm(along))
        self._direction = along / self._norm
        self._place = kink.start + kink.t * along
        d = len(low)
        away = share * kink.room * self._norm / 2
        self._step = away / (4 * np.sqrt(d))
        sides = [self._place + side * away * self._direction for side in (-1, 1)]
        self._inward = [np.where(point + self._step > high, -1.0, 1.0) for point in sides]
        self._checks = [self._towards_middle(rng, point, low, high) for point in sides]
        self.points = np.concatenate(
            [
                np.vstack([point, point + self._step * np.diag(inward), point + self._step * check])
                for point, inward, check in zip(sides, self._inward, self._checks, strict=True)
            ]
        )

    @staticmethod
    def _towards_middle(rng: np.random.Generator, point: Array, low: Array, high: Array) -> Array:
        """A random direction of norm 1 that leads away from the nearest wall of the box in every input."""
        drawn = np.abs(rng.normal(size=len(point)))
        return np.asarray(np.where(point > (low + high) / 2, -1.0, 1.0) * drawn / np.linalg.norm(drawn))

    def unit(self, values: Array) -> Units | None:
        """values (2 (d + 2), k) -> the one unit that changes sign here, or None where the checks do not hold."""
        gradients = []
        for part, inward, check in zip(np.split(values, 2), self._inward, self._checks, strict=True):
            slopes = (part[1:] - part[0]) / self._step
            gradient = (slopes[:-1] * inward[:, None]).T
            if not _near(gradient @ check, slopes[-1]):
                return None
            gradients.append(gradient)
        jump = gradients[1] - gradients[0]
        if not np.isfinite(jump).all() or not _near(jump @ self._direction * self._norm, self._kink.change):
            return None
        _, sizes, right = np.linalg.svd(jump, full_matrices=False)
        if len(sizes) > 1 and sizes[1] > RANK_ONE * sizes[0]:
            return None
        w = right[0] * (1.0 if right[0] @ self._direction > 0 else -1.0)
        return Units(w[None], np.array([-w @ self._place]), (jump @ w)[:, None])


def _near(one: Array, other: Array) -> bool:
    scale = max(float(np.abs(one).max()), float(np.abs(other).max()))
    return bool(scale > 0 and (np.abs(one - other) <= CHECKED * scale).all())
