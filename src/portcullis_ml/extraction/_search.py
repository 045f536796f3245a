"""Line searches between labels, all advancing together: one batch a level, however many lines there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.types import Array, Labels

__all__ = ["Asker", "Segments", "bisect", "label_asker", "seek_classes"]

Asker = Callable[
    [Array], Labels
]  # (n, d) -> (m,) labels of the first m <= n rows, m < n when the budget or the guard ended the attack


def label_asker(harvest: Harvest) -> Asker:
    """Labels out of an oracle. A row whose label is withheld ends the attack, as a refusal does."""

    def ask(x: Array) -> Labels:
        labels = harvest.ask(x).labels
        assert labels is not None  # `Needs` asks for classification
        withheld = np.flatnonzero(labels < 0)
        return labels[: withheld[0]] if len(withheld) else labels

    return ask


@dataclass(frozen=True)
class Segments:
    """near, far (m, d): m ways from a row to another. `turn` (m, d), where given, has for every category the
    position at which it changes over, and NaN for every number, which moves evenly."""

    near: Array
    far: Array
    turn: Array | None = None

    def at(self, position: Array, rows: Labels | slice = slice(None)) -> Array:
        """(k, d) the points of these k segments at these positions, 0 near and 1 far."""
        near, far = self.near[rows], self.far[rows]
        x = near + position[:, None] * (far - near)
        if self.turn is None:
            return x
        turn = self.turn[rows]
        return np.where(np.isnan(turn), x, np.where(position[:, None] > turn, far, near))

    def __len__(self) -> int:
        return len(self.near)


def bisect(ask: Asker, segments: Segments, labels: Labels, levels: NDArray[np.int64]) -> tuple[Array, Array]:
    """Halve every segment, whose near end has its label of `labels` (m,) and whose far end has another.

    levels (m,) says how often to halve each: levels.sum() queries, max(levels) batches. Returns the positions (m,) of
    the two ends of what is left, `near` still with its label; as far as it came if the game ended on the way.
    """
    near, far = np.zeros(len(segments)), np.ones(len(segments))
    for level in range(int(levels.max(initial=0))):
        active = np.flatnonzero(levels > level)
        middle = (near[active] + far[active]) / 2
        answered = ask(segments.at(middle, active))
        over = len(answered) < len(active)
        active, middle = active[: len(answered)], middle[: len(answered)]
        same = answered == labels[active]
        near[active[same]] = middle[same]
        far[active[~same]] = middle[~same]
        if over:
            break
    return near, far


def seek_classes(
    ask: Asker, draw: Callable[[int], Array], *, probes: int, enough: Callable[[Labels], bool]
) -> tuple[Array, Labels]:
    """Ask random rows, in batches that double, until `enough(labels so far)` or `probes` rows are spent.

    A rare class is found at a bounded price: a batch is never larger than what has been paid already.
    """
    x, labels = draw(0), np.empty(0, np.int64)
    while len(labels) < probes and not enough(labels):
        batch = draw(min(max(len(labels), 4), probes - len(labels)))
        answered = ask(batch)
        x, labels = np.concatenate([x, batch[: len(answered)]]), np.concatenate([labels, answered])
        if len(answered) < len(batch):
            break
    return x, labels
