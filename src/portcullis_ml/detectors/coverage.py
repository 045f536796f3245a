"""Coverage: how much of the model's input space a client has asked about, leaf by leaf.

Kesarwani, Mukhoty, Arya, Mehta. "Model Extraction Warning in MLaaS Paradigm", ACSAC 2018, the section on the strategy
by coverage of the input space. The formula is our reading of it: the published one was not at hand.

Costs the honest client   an alarm if their questions range as widely as the owner's rows: who uses the model for all of
                          its domain looks like a thief (measure it on benign streams of your own). A question costs a
                          walk down a tree.
Defaults hold for         nothing that was measured: 50 is no rate of false alarms, and the status grows as long as a
                          client asks. Calibrate on clients of your own who have asked for long.
Does not see              whoever copies what axis-parallel boxes do not show, as of networks on images; small steps
                          around few seeds, which cover less than honest questions do; a thief with many accounts,
                          unless their states are put together.

Every leaf of a tree is a box: of the victim's own tree where it is one, else of a tree fitted to the owner's rows and
the victim's labels (recipe `evaluation_set` keeps either). Of every client and leaf the least and the greatest value
asked in each column that the leaf's path tests are kept, and of a column of categories which ones. A leaf is covered by
the product of the shares of its widths that lie between; the suspicion is the mean over leaves, weighed by how many of
the owner's rows are in each, from 0 to 100, and never falls. `colluding` gives the status of clients together, from
their states in a guard's store (`store.load((client, "0-watch")).detector`): offline, since a guard sees one client at
a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.guard import Detector
from portcullis_ml.core.recipes import PREPARED, Recipe, prepared
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import Answer, Array, Interface, Request
from portcullis_ml.detectors._evaluation import evaluation_rows
from portcullis_ml.models.leaves import Leaf, leaves_of, read_tree
from portcullis_ml.models.tree import TreeModel

__all__ = ["Coverage", "Hulls"]


@dataclass
class Hulls:
    """What one client has asked in each leaf, the leaves' columns one after the other, and the status.

    low, high (numbers,), NaN where nothing was asked yet; seen (codes,), 1 for every category asked; covered (leaves,)
    """

    low: Array = field(default_factory=lambda: np.empty(0))
    high: Array = field(default_factory=lambda: np.empty(0))
    seen: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    covered: Array = field(default_factory=lambda: np.empty(0))
    suspicion: float = float("nan")


@dataclass(frozen=True)
class _Place:
    """Where a leaf's columns lie in the arrays of `Hulls`."""

    leaf: Leaf
    numbers: slice
    codes: tuple[tuple[int, dict[int, int]], ...]  # (column, {code: where it lies in `seen`})
    at: int  # in `covered`


@dataclass(frozen=True, kw_only=True)
class Coverage(Detector[Hulls]):
    evaluation: Artifact | Recipe = field(metadata={"recipe": "evaluation_set"})  # what `evaluation_set` has drawn
    threshold: float = 50.0  # the status that is an alarm, from 0 to 100; lower alarms sooner
    _tree: TreeModel | None = field(default=None, init=False, compare=False, repr=False)  # once bound
    _places: Mapping[int, _Place] = field(default_factory=dict, init=False, compare=False, repr=False)  # by its node

    name: ClassVar[str] = "coverage"
    code: ClassVar[str] = "DOMAIN_COVERED"
    means: ClassVar[str] = "The questions have covered an unusual share of the model's input space."

    def __post_init__(self) -> None:
        check(self, "evaluation", 'what evaluation_set has drawn: "FOLDER"', lambda v: isinstance(v, PREPARED))
        check(self, "threshold", "in (0, 100)", lambda v: 0 < v < 100)

    def bind(self, interface: Interface) -> Self:
        rows, _ = evaluation_rows(self, interface)
        tree = read_tree(prepared(self, "evaluation").files, interface, f"{self.name}.evaluation")
        return bound(self, _tree=tree, _places=_places(leaves_of(tree, rows, interface)))

    def start(self) -> Hulls:
        numbers = sum(len(p.leaf.columns) for p in self._places.values())
        codes = sum(len(where) for p in self._places.values() for _, where in p.codes)
        blank = np.full(numbers, np.nan)
        return Hulls(blank, blank.copy(), np.zeros(codes, np.uint8), np.zeros(len(self._places)))

    def suspicion(self, state: Hulls) -> float:
        return state.suspicion

    def update(self, state: Hulls, request: Request, answer: Answer) -> Array:
        if answer.labels is None:
            raise NotApplicable(
                f"{self.name} needs an API that predicts classes; this one does regression. Leave it out."
            )
        assert self._tree is not None  # the guard binds its stages
        x = np.nan_to_num(request.x.reshape(len(request), math.prod(request.x.shape[1:])))
        suspicion = np.empty(len(request))
        for i, node in enumerate(self._tree.apply(np.clip(x, -1e30, 1e30)).tolist()):
            if node in self._places and self._widens(state, self._places[node], x[i]):
                self._settle(state, self._places[node])
            elif math.isnan(state.suspicion):
                state.suspicion = 0.0
            suspicion[i] = state.suspicion
        return suspicion

    def colluding(self, states: Mapping[str, Hulls], k: int) -> tuple[tuple[str, ...], float]:
        """The k clients who cover most together, each chosen so that the union grows most, and what they cover."""
        chosen: list[str] = []
        together = self.start()
        for _ in range(min(k, len(states))):
            unions = {c: self._union(together, states[c]) for c in sorted(states) if c not in chosen}
            best = max(unions, key=lambda c: unions[c].suspicion)
            chosen.append(best)
            together = unions[best]
        return tuple(chosen), together.suspicion

    def _union(self, a: Hulls, b: Hulls) -> Hulls:
        both = Hulls(
            np.fmin(a.low, b.low), np.fmax(a.high, b.high), np.maximum(a.seen, b.seen), np.zeros(len(a.covered)), 0.0
        )
        for place in self._places.values():
            self._settle(both, place)
        return both

    def _widens(self, state: Hulls, place: _Place, x: Array) -> bool:
        """Take one row into its leaf. Returns whether anything was outside of what was asked there before."""
        values = np.clip(x[place.leaf.columns], place.leaf.low, place.leaf.high)
        low, high = state.low[place.numbers], state.high[place.numbers]
        new = bool((~(values >= low) | ~(values <= high)).any())
        np.fmin(low, values, out=low)
        np.fmax(high, values, out=high)
        for column, where in place.codes:
            at = where.get(int(x[column]))
            if at is not None and not state.seen[at]:
                state.seen[at] = 1
                new = True
        return new

    def _settle(self, state: Hulls, place: _Place) -> None:
        """How much of one leaf is covered, and the status that follows."""
        leaf = place.leaf
        wide = leaf.high > leaf.low
        between = np.nan_to_num(state.high[place.numbers] - state.low[place.numbers])
        shares = np.clip(between[wide] / (leaf.high - leaf.low)[wide], 0, 1).tolist()
        shares += [sum(state.seen[at] for at in where.values()) / len(where) for _, where in place.codes if where]
        state.covered[place.at] = math.prod(shares)
        masses = (p.leaf.mass for p in self._places.values())
        state.suspicion = 100 * math.fsum(m * c for m, c in zip(masses, state.covered.tolist(), strict=True))


def _places(leaves: Mapping[int, Leaf]) -> dict[int, _Place]:
    places: dict[int, _Place] = {}
    numbers = codes = 0
    for i, (node, leaf) in enumerate(leaves.items()):
        where = []
        for column, allowed in leaf.codes.items():
            where.append((column, {code: codes + n for n, code in enumerate(sorted(allowed))}))
            codes += len(allowed)
        places[node] = _Place(leaf, slice(numbers, numbers + len(leaf.columns)), tuple(where), i)
        numbers += len(leaf.columns)
    return places
