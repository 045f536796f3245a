"""Label-only membership: rows that were trained on lie further from the boundary, or stay in class when they are moved.

Choquette-Choo, Tramèr, Carlini, Papernot. "Label-Only Membership Inference Attacks", ICML 2021; Li, Zhang. "Membership
Leakage in Label-Only Exposures", ACM CCS 2021.

Threat model   answers: labels. data: the candidates' true classes.
Query cost     one query for each candidate, then at most `anchors` times `steps` more (distance), or one for each
               further view (views).

*distance*: a candidate that is answered right is joined with the nearest candidates that are answered otherwise, and
the boundary on each line is found by halving; the shortest way is the suspicion. All candidates are searched at once,
and a line that cannot be the shortest any more is not asked about. *views*: how many of the pictures moved by a pixel
are answered right. Whoever is answered wrong is the least suspected, so both include the attack `gap`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.privacy import Leakage, PrivacyAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Labels, Rows
from portcullis_ml.privacy._shared import asked, classes_of, shares, views_of

__all__ = ["LabelOnly"]

BLOCK = 256  # rows whose neighbours are found at a time


@dataclass(frozen=True, kw_only=True)
class LabelOnly(PrivacyAttack):
    by: Literal["distance", "views"] = "distance"  # how far another label is, or small moves that keep it
    anchors: int = 3  # distance: lines a candidate
    steps: int = 8  # distance: halvings of a line
    views: int = 9  # views: questions a candidate, the row itself included
    mirror: bool = False  # views: pictures are mirrored as well
    batch: int = 256  # rows sent at a time

    name: ClassVar[str] = "label_only"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        check(self, "by", "'distance' or 'views'", lambda v: v in ("distance", "views"))
        for name in ("anchors", "steps", "views", "batch"):
            check(self, name, "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def infer(
        self,
        harvest: Harvest,
        interface: Interface,
        knowledge: Knowledge,
        candidates: Rows,
        rng: np.random.Generator,
    ) -> Leakage:
        y, n = classes_of(candidates, self.name), len(candidates)
        further = views_of(candidates.x, self.views, self.mirror)[1:] if self.by == "views" else []
        labels = self._labels(harvest, candidates.x, interface)
        membership = np.where(labels < 0, np.nan, 0.0)
        right = labels == y
        if self.by == "views":
            membership[right] += 1
            for view in further:
                membership[right] += self._labels(harvest, view[right], interface) == y[right]
            return Leakage(membership=membership)
        searched = np.flatnonzero(right)
        membership[searched] = self._distances(harvest, candidates.x, labels, searched, interface)
        return Leakage(membership=membership, notes={"queries_a_candidate": harvest.paid / max(n, 1)})

    def _labels(self, harvest: Harvest, x: Array, interface: Interface) -> Labels:
        """(n,) the label of each row, -1 where it was not answered."""
        labels = np.full(len(x), -1)
        for part, answer in asked(harvest, x, self.batch) if harvest.open else ():
            labels[part] = shares(answer, interface.n_classes).argmax(axis=1)
        return labels

    def _distances(self, harvest: Harvest, x: Array, labels: Labels, searched: Labels, interface: Interface) -> Array:
        """How far each searched row is from another label: inputs as shares of their ranges, Euclidean."""
        near, length = _nearest_others(x, labels, searched, self.anchors, interface)
        there = np.isfinite(length)
        length[~there] = 0
        low, high = np.zeros(length.shape), np.ones(length.shape)
        for _ in range(self.steps):
            best = np.min(high * length, axis=1, initial=np.inf, where=there)
            i, j = np.nonzero((low * length < best[:, None]) & there)
            if len(i) == 0 or not harvest.open:
                break
            middle = (low + high)[i, j] / 2
            found = self._labels(harvest, _between(x[searched[i]], x[near[i, j]], middle, interface), interface)
            stays, known = found == labels[searched[i]], found >= 0
            low[i[known & stays], j[known & stays]] = middle[known & stays]
            high[i[known & ~stays], j[known & ~stays]] = middle[known & ~stays]
        distance = np.min(high * length, axis=1, initial=np.inf, where=there)
        return np.where(np.isfinite(distance), distance, 0.0)


def _scaled(x: Array, interface: Interface) -> Array:
    """(n, d) inputs as shares of their ranges."""
    width = interface.high - interface.low
    return np.asarray((x.reshape(len(x), interface.n_inputs) - interface.low) / np.where(width > 0, width, np.inf))


def _nearest_others(
    x: Array, labels: Labels, searched: Labels, anchors: int, interface: Interface
) -> tuple[Labels, Array]:
    """(searched, anchors) indices of the nearest rows with another label, and how far they are; infinite for none."""
    flat, count = _scaled(x, interface), min(anchors, len(x))
    square = (flat * flat).sum(axis=1)
    near = np.zeros((len(searched), anchors), np.int64)
    length = np.full(near.shape, np.inf)
    for start in range(0, len(searched), BLOCK):
        part = searched[start : start + BLOCK]
        distance = square[part, None] + square - 2 * flat[part] @ flat.T
        distance[(labels < 0) | (labels == labels[part, None])] = np.inf
        found = np.argpartition(distance, count - 1, axis=1)[:, :count]
        exact = np.sqrt(((flat[part, None] - flat[found]) ** 2).sum(axis=2))
        exact[np.isinf(np.take_along_axis(distance, found, axis=1))] = np.inf
        order = np.lexsort((found, exact), axis=1)
        near[start : start + BLOCK, :count] = np.take_along_axis(found, order, axis=1)
        length[start : start + BLOCK, :count] = np.take_along_axis(exact, order, axis=1)
    return near, length


def _between(x: Array, anchor: Array, share: Array, interface: Interface) -> Array:
    """The point so far from x to its anchor; a category is the nearer end's."""
    shape = (-1, *([1] * (x.ndim - 1)))
    point = x + share.reshape(shape) * (anchor - x)
    categories = [j for j, feature in enumerate(interface.features or ()) if feature.categorical]
    if categories:
        point[:, categories] = np.where(share[:, None] < 0.5, x[:, categories], anchor[:, categories])
    return np.asarray(point)
