"""What an ensemble's answers say about the sum over its trees: shares, log-ratios or values, and how noisy they are."""

from __future__ import annotations

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.types import Array, Interface
from portcullis_ml.extraction._grid import GameOver, Grid, Identities, Ints
from portcullis_ml.extraction._lines import Changes, Known, search
from portcullis_ml.models.steps import Link, linked

__all__ = ["Sums", "choose_link", "lines", "lines_of_each"]

FLOAT = 1e-9  # sums of floats that differ by less, as a share of the answers' spread, are equal
SLACK = 4  # how many roundings of an answer may add up before a difference counts


class Sums:
    """The harvest's oracle as a function from grid points to sums."""

    def __init__(self, harvest: Harvest, grid: Grid, interface: Interface, link: Link, spread: float) -> None:
        self.harvest, self.grid, self.link = harvest, grid, link
        self.unit = 1e-16 if link == "logit" else FLOAT * spread
        if interface.precision == "float32":
            self.unit = max(self.unit, 1e-7 * spread)
        if interface.decimals is not None:
            self.unit = max(self.unit, 10.0**-interface.decimals)

    def ask(self, points: Ints) -> tuple[Array, Array]:
        """(n, d) -> sums (n, k) and (n,) the differences that mean nothing. Raises GameOver unless all are answered."""
        answer = self.harvest.ask(self.grid.values(points))
        if len(answer) < len(points) or not answer.answered.all() or answer.scores is None:
            raise GameOver
        scores = completed(answer.scores)
        if np.isnan(scores).any():
            raise GameOver
        noise = np.full(len(points), SLACK * self.unit)
        if self.link == "logit":
            noise = FLOAT + SLACK * self.unit / np.maximum(scores.min(axis=1), 1e-300)
        return linked(scores, self.link), noise


def completed(scores: Array) -> Array:
    """(n, c) shown scores; where one class is hidden it has what is left."""
    hidden = np.isnan(scores)
    one = hidden.sum(axis=1, keepdims=True) == 1
    rest = np.maximum(0, 1 - np.nansum(scores, axis=1, keepdims=True))
    return np.where(hidden & one, rest, scores)


def lines(identities: Identities, bases: Ints, known: Known) -> tuple[Ints, Changes]:
    """All changes along all axis-parallel lines through bases (m, d): the line's (base, feature) as (n, 2), and the
    changes. The codes of a category are a line too, all of them asked."""
    grid = identities.grid
    varying = np.flatnonzero(grid.last > 0)
    line = np.array([(b, j) for b in range(len(bases)) for j in varying], np.int64).reshape(-1, 2)
    points, feature = bases[line[:, 0]], line[:, 1]
    which, at = [np.arange(len(line))] * 3, [0 * feature, points[np.arange(len(line)), feature], grid.last[feature]]
    for n in np.flatnonzero(~grid.numeric[feature]):
        which.append(np.full(grid.last[feature[n]] + 1, n))
        at.append(np.arange(grid.last[feature[n]] + 1))
    places = np.unique(np.column_stack([np.concatenate(which), np.concatenate(at)]), axis=0)
    rows, position = places.T
    asked = points[rows]
    asked[np.arange(len(rows)), feature[rows]] = position
    seen = identities.ask(asked)
    same = rows[1:] == rows[:-1]
    stretches = (rows[1:], position[:-1], position[1:], seen[:-1], seen[1:])
    return line, search(identities.ask, points, feature, tuple(s[same] for s in stretches), known)


def lines_of_each(identities: Identities, bases: Ints, known: Known) -> tuple[Ints, Changes, int]:
    """The lines through one base after the other, and through how many of them: fewer where the game ends early."""
    parts: list[tuple[Ints, Changes]] = []
    for n in range(len(bases)):
        try:
            line, found = lines(identities, bases[n : n + 1], known)
        except GameOver:
            break
        parts.append((line + np.array([n, 0]), found))
    if not parts:
        nothing = np.empty(0, np.int64)
        return np.empty((0, 2), np.int64), Changes(*[nothing] * 7), 0
    line = np.concatenate([line for line, _ in parts])
    return line, Changes.joined([c for _, c in parts], [len(line) for line, _ in parts]), len(parts)


def choose_link(identities: Identities, line: Ints, changes: Changes) -> Link:
    """Whether shares or log-ratios add up: under the right one a threshold that is crossed in several places makes
    the same jump in many of them, under the wrong one hardly ever."""
    if not len(changes.line):
        return "share"
    before, after = identities.scores(changes.before), identities.scores(changes.after)
    feature, base = line[changes.line, 1], line[changes.line, 0]
    where = np.column_stack([feature, changes.at])
    votes: dict[Link, int] = {}
    links: tuple[Link, ...] = ("share", "logit")
    for link in links:
        jump = linked(after, link) - linked(before, link)
        keys = np.column_stack([where, np.round(jump, 7)])
        _, number = np.unique(keys + 0.0, axis=0, return_inverse=True)
        pairs = np.unique(np.column_stack([number.ravel(), base]), axis=0)
        count = np.bincount(pairs[:, 0])
        votes[link] = int((count * (count - 1)).sum())
    return "logit" if votes["logit"] > votes["share"] else "share"
