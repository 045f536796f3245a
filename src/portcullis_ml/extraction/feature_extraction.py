"""Feature extraction: find out how a service bins numbers and codes categories, and the linear model behind it.

Tramèr, Zhang, Juels, Reiter, Ristenpart. "Stealing Machine Learning Models via Prediction APIs",
USENIX Security 2016, section 4.3 and table 7 (the route without incomplete queries is not in the paper).

Threat model   answers: full probabilities; incomplete queries help and are not needed.  data: none.  victim: a
               logistic or softmax regression on indicators of categories and of bins, or on numbers as they are.
Query cost     one for the base, one for each category, `grid` for each number and log2(1 / (grid eps)) for each of its
               edges (5 for a number that is not binned), 2 or 3 for each edge to `snap` it, `held_out` to check;
               `Extraction.notes` has the bill in parts.

The logarithm of p_j / p_0 is a sum with one term for each input. Hold all inputs but one, let that one run over its
range, and the sum changes by that input's term alone: where it jumps is the edge of a bin, and the height of the jump
is the difference of the bins' weights. All inputs are searched at once. The base that the others are held at is the
empty query where the service takes one, which turns every block off, and else a point where no class is sure. Without
empty queries a block's weights are known up to a constant that the intercept takes up: another set of weights, the
same function.

A bracket as wide as `eps` is exact for points drawn at random and wrong for rows that lie on an edge, as many rows of
a table do, since quantiles are values of a table: with `snap` the shortest decimal in it is asked, and confirmed.

Two bins at the ends of the range that answer alike would hide what is between them, so a grid is asked first. Adjacent
bins of equal weight stay one, which changes nothing.

Not in the paper: where the answers are no such sum, have three decimals or fewer, or cost more than the budget, what is
left of it (a tenth is kept for that) goes to questions that teach a surrogate (`_fallback.py`), and what does better on
answers set aside is returned; `notes["copy"]` says which. A number whose answers on the grid all differ, and are no
line, has no bins, and nothing more is searched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Model, Reveals
from portcullis_ml.extraction._edges import edges_of, snap
from portcullis_ml.extraction._equations import decimals_of
from portcullis_ml.extraction._fallback import or_surrogate, share_aside
from portcullis_ml.extraction._grid import OMITTED, GameOver, Grid, Identities, Ints
from portcullis_ml.extraction._lines import Known, search
from portcullis_ml.models.binned import BinnedLinear, Block

__all__ = ["FeatureExtraction"]

FIRST = 5  # points on every line that tell a number from its bins
STARTS = 8  # points among which the base is chosen, where every input must be given
TINY = 1e-300  # stands for a probability of 0
COARSE = 3  # decimals up to which weights are too rough for the copy to be taken unseen
EXACT = 1e-6  # a log-ratio further off than this, relative to the largest, is not explained


@dataclass(frozen=True, kw_only=True)
class FeatureExtraction(ExtractionAttack):
    eps: float = 1e-6  # the error allowed in an edge, as a share of the input's range
    grid: int = 32  # stretches that every range is divided into before searching; no more bins than this are hidden
    snap: bool = True  # ask whether an edge is the shortest decimal in its bracket; exact on rows that lie on edges
    omit: bool = True  # use incomplete queries where the API takes them
    held_out: int = 5  # random points that check the result, if the budget has them

    name: ClassVar[str] = "feature_extraction"
    needs: ClassVar[Needs] = Needs(answers=Reveals.PROBS)

    def __post_init__(self) -> None:
        check(self, "eps", "a number in [1e-9, 0.01]", lambda v: 1e-9 <= v <= 0.01)
        check(self, "grid", "an int in [4, 4096]", lambda v: isinstance(v, int) and 4 <= v <= 4096)
        check(self, "snap", "true or false", lambda v: isinstance(v, bool))
        check(self, "omit", "true or false", lambda v: isinstance(v, bool))
        check(self, "held_out", "an int, at least 0", lambda v: isinstance(v, int) and v >= 0)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        prober = _FeatureProber(harvest, interface, self.eps, rng)
        spare, finished = min(self.held_out, max(harvest.left - 1, 0)), False
        try:
            prober.base(self.omit and interface.missing)
            prober.single_values()
            prober.numbers(self.grid)
            if self.snap:
                prober.snap()
            finished = True
        except GameOver:
            pass
        if not len(harvest):
            raise AttackFailed("feature_extraction had no answer to start from. Raise the budget, or see who refuses.")
        prober.pay("edges" if prober.bracketed else "bins")
        model = prober.model(interface.input_shape)
        bins = [len(block.edges) for j, block in enumerate(model.blocks) if prober.grid.numeric[j]]
        linear = [int(j) for j in np.flatnonzero(prober.linear)]
        harvest.notes |= {"edges": bins, "linear": linear, "copy": "bins"}
        if finished and spare and harvest.open:
            prober.verify(model, spare)
        decimals = decimals_of(harvest.answer.soft(interface.n_classes))
        if finished and harvest.notes.get("additive", True) and (decimals is None or decimals > COARSE):
            return model
        return or_surrogate("bins", model, harvest, interface, knowledge.pool, rng)


class _FeatureProber:
    """One run. Every probe is the base with one input changed, and is kept as (input, position, log-ratios)."""

    def __init__(self, harvest: Harvest, interface: Interface, eps: float, rng: np.random.Generator) -> None:
        self.grid = Grid.of(interface, eps)
        self.linear = np.zeros(self.grid.d, bool)
        self._harvest = harvest
        self._interface = interface
        keep = share_aside(harvest.left)
        most = harvest.paid + harvest.left - keep if keep else np.inf
        self._identities = Identities(harvest, self.grid, interface.n_classes, most)
        self._rng = rng
        self._starts = 0  # rows at the head of the harvest that are complete and random
        self._point = np.zeros(self.grid.d, np.int64)
        self._row = np.zeros(interface.n_classes)  # the log-probabilities at the base
        self._probes: list[tuple[Ints, Ints, Ints]] = []  # feature, position, identity
        self.bracketed: dict[tuple[int, int], int] = {}  # feature, last position of a bin -> place in _left, _right
        self._left, self._right = np.empty(0), np.empty(0)
        self._bill: dict[str, int] = harvest.notes.setdefault("bill", {})

    def base(self, omit: bool) -> None:
        """Where all inputs but one are held."""
        if omit:
            points = np.full((1, self.grid.d), OMITTED)
        else:
            points = self.grid.uniform(min(STARTS, max(1, self._harvest.left)), self._rng)
        try:
            numbers = self._identities.ask(points)
        except GameOver:
            if len(self._harvest):
                self._row = _logs(self._harvest.answer.scores)[0]
            raise
        self._starts = 0 if omit else len(numbers)
        rows = _logs(self._identities.scores(numbers))
        best = int(rows.min(axis=1).argmax())
        self._point, self._row = points[best], rows[best]
        here = np.flatnonzero(self._point != OMITTED)
        self._probes.append((here, self._point[here], np.full(len(here), numbers[best])))
        self.pay("solve")

    def single_values(self) -> None:
        """Every value of every category, and the one value of a number that has no other: left out it adds nothing,
        given it may."""
        number = self.grid.numeric & (self.grid.last == 0)
        values = np.where(number, 1, self.grid.categories)
        feature = np.repeat(np.arange(self.grid.d), values)
        position = np.concatenate([np.arange(k) for k in values])
        fresh = position != self._point[feature]
        self._ask(feature[fresh], position[fresh].astype(np.int64))
        self.pay("solve")

    def numbers(self, grid: int) -> None:
        """The bins of every number, or its slope where it has none."""
        feature = np.flatnonzero(self.grid.numeric & (self.grid.last > 0))
        first = np.array([0, *sorted(self._rng.choice(np.arange(1, grid), FIRST - 2, replace=False)), grid])
        self._on_grid(feature, first, grid)
        self.linear[feature] = [self._is_line(int(j)) for j in feature]
        feature = feature[~self.linear[feature]]
        self._on_grid(feature, np.setdiff1d(np.arange(grid + 1), first), grid)
        if any(len(np.unique(numbers)) == len(numbers) for _, numbers in map(self._line, feature.tolist())):
            self._harvest.notes["additive"] = False  # neither a line nor bins
            raise GameOver
        self._search(feature)
        self.pay("bins")

    def snap(self) -> None:
        """Every edge that the search has found, to the last bit if it is a short decimal."""
        lines = [(j, *self._line(j)) for j in np.flatnonzero(self.grid.numeric & ~self.linear).tolist()]
        found = [(j, at[i], number[i], number[i + 1])
                 for j, at, number in lines for i in np.flatnonzero(number[1:] != number[:-1])]  # fmt: skip
        if not found:
            return
        feature, at, before, after = np.array(found, np.int64).T
        left, right = (self._values(feature, at + k) for k in (0, 1))
        self.bracketed = {(int(j), int(a)): n for n, (j, a) in enumerate(zip(feature, at, strict=True))}
        self._left, self._right = left, right

        def ask(which: Ints, values: Array) -> Ints:
            x = self.grid.values(np.tile(self._point, (len(which), 1))).reshape(len(which), -1)
            x[np.arange(len(which)), feature[which]] = values
            return self._identities.of(x.reshape(len(which), *self._interface.input_shape))

        snap(ask, left, right, before, after)

    def _values(self, feature: Ints, position: Ints) -> Array:
        points = np.zeros((len(feature), self.grid.d), np.int64)
        points[np.arange(len(feature)), feature] = position
        return self.grid.values(points).reshape(len(feature), -1)[np.arange(len(feature)), feature]

    def _on_grid(self, feature: Ints, places: Ints, grid: int) -> None:
        position = np.round(np.outer(self.grid.last[feature] / grid, places)).astype(np.int64)
        self._ask(np.repeat(feature, len(places)), position.ravel())

    def _search(self, feature: Ints) -> None:
        """From one place on the grid to the next, wherever the answers differ."""
        parts = []
        for line, j in enumerate(feature):
            at, number = self._line(j)
            parts.append((np.full(len(at) - 1, line), at[:-1], at[1:], number[:-1], number[1:]))
        if parts:
            stretches = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
            points = np.tile(self._point, (len(feature), 1))
            search(self._ask_points, points, feature, stretches, Known())  # type: ignore[arg-type]

    def _ask(self, feature: Ints, position: Ints) -> None:
        points = np.tile(self._point, (len(feature), 1))
        points[np.arange(len(feature)), feature] = position
        self._ask_points(points, feature)

    def _ask_points(self, points: Ints, feature: Ints | None = None) -> Ints:
        if feature is None:
            feature = (points != self._point).argmax(axis=1)
        numbers = self._identities.ask(points)
        self._probes.append((feature, points[np.arange(len(points)), feature], numbers))
        return numbers

    def _line(self, j: int) -> tuple[Ints, Ints]:
        """The positions asked along input j, in order, and their identities."""
        feature, position, number = (np.concatenate(column) for column in zip(*self._probes, strict=True))
        mine = feature == j
        at, first = np.unique(position[mine], return_index=True)
        return at, number[mine][first]

    def _ratios(self, numbers: Ints) -> Array:
        """(n, c) what these identities add to the log-ratios of the base."""
        rows = _logs(self._identities.scores(numbers)) - self._row
        return np.asarray(rows - rows[:, [int(self._row.argmax())]])

    def _is_line(self, j: int) -> bool:
        """Whether the log-ratios along input j are a slope that never rests."""
        at, numbers = self._line(j)
        ratios, x = self._ratios(numbers), at / self.grid.last[j]
        if len(np.unique(numbers)) < len(numbers):
            return False
        design = np.column_stack([x, np.ones(len(x))])
        rest = ratios - design @ np.linalg.lstsq(design, ratios)[0]
        return bool(np.abs(rest).max() <= self._tolerance(np.abs(ratios).max(), self._identities.scores(numbers).min()))

    def _tolerance(self, largest: float, least: float) -> float:
        """How far off a log-ratio may be, where probabilities are at least so large: by noise, or by rounding."""
        decimals = self._interface.decimals
        noise = 1e-5 if self._interface.precision == "float32" else 1e-12
        return float(EXACT * max(1.0, largest) + (noise if decimals is None else 10.0**-decimals) / max(least, TINY))

    def model(self, shape: tuple[int, ...]) -> BinnedLinear:
        """What the probes so far say; a number whose search was cut short has its edges halfway."""
        blocks = [self._block(j) for j in range(self.grid.d)]
        return BinnedLinear(blocks, self._row, input_shape=shape)

    def _block(self, j: int) -> Block:
        nothing = np.zeros((1, len(self._row)))
        if not self._probes:
            return Block(nothing, np.empty(0))
        at, numbers = self._line(j)
        if not len(at):
            return Block(nothing, np.empty(0))
        ratios = self._ratios(numbers)
        if self.linear[j]:
            x = self.grid.low[j] + at / self.grid.last[j] * (self.grid.high[j] - self.grid.low[j])
            (slope, start), *_ = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), ratios)
            return Block(start[None], np.empty(0), slope)
        new = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))
        ends = (at[new[1:]] + at[new[1:] - 1]) / 2 - 0.5  # between the last place of a bin and the first of the next
        if not self.grid.numeric[j]:
            return Block(ratios[new], ends + 0.5)
        edges = self.grid.between(np.full(len(ends), j), ends)
        if self.bracketed and len(ends):
            places = [self.bracketed[j, int(a)] for a in at[new[1:] - 1]]
            edges = edges_of(self._left[places], self._right[places])
        return Block(ratios[new], edges)

    def verify(self, model: BinnedLinear, held_out: int) -> None:
        """Compare with random complete queries, and with those points the base was chosen among whose answers are as
        far from 0: is the victim what we think?"""
        before = len(self._harvest)
        self._harvest.ask(self._interface.uniform(min(held_out, self._harvest.left), self._rng))
        self.pay("held_out")
        answer, answered = self._harvest.answer, self._harvest.answer.answered
        fresh = np.arange(before, len(self._harvest))
        fresh = fresh[answered[fresh]]
        if answer.scores is None or not len(fresh):
            return
        starts = np.arange(self._starts)
        least = answer.scores.min(axis=1)
        rows = np.append(starts[least[starts] >= least[fresh].min()], fresh)
        truth, ours = _logs(answer.scores[rows]), _logs(model.scores(self._harvest.x[rows]))
        top = truth.argmax(axis=1)[:, None]
        truth, ours = (v - np.take_along_axis(v, top, axis=1) for v in (truth, ours))
        residual = float(np.abs(truth - ours).max())
        additive = residual <= self._tolerance(float(np.abs(truth).max()), float(least[rows].min()))
        self._harvest.notes |= {"residual": residual, "additive": additive}

    def pay(self, item: str) -> None:
        self._bill[item] = self._bill.get(item, 0) + self._harvest.paid - sum(self._bill.values())


def _logs(scores: Array | None) -> NDArray[np.float64]:
    assert scores is not None  # `needs` asks for probabilities
    return np.log(np.maximum(np.nan_to_num(scores), TINY))
