"""Questions narrowed to where the answers move, for a victim whose log-ratios are sums of functions of one column.

Questions are asked in rounds. A quarter of a round is drawn like anybody's (`_mixed.py`), and all of it where the copy
so far does not fit the answers that it was made from: such a victim is of another family, and its answers will feed a
surrogate. The other questions are those, of many candidates, from which the copy's weights would learn most. An answer
near 0 or 1 moves by less than its rounding, and one about a direction that is known says nothing; both are seen
beforehand from the copy (a D-optimal design: one after another, each makes the determinant of the information largest).
"""

from __future__ import annotations

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.types import Array, Interface, Model
from portcullis_ml.extraction._grid import Ints
from portcullis_ml.extraction._mixed import Questions, typical_rows, wrong_labels
from portcullis_ml.models.encoding import Encoded, Encoding
from portcullis_ml.models.intervals import fit_intervals
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.models.stepped import SteppedEncoding

__all__ = ["Narrowing", "least_decided", "near_rows"]

CANDIDATES = 3000
NARROWED = 0.75  # of a round, where the copy fits the answers so far
FITTED = 3000  # rows at most in a fit
SURE = 3  # rows for every column, from which on a misfit is final
EXACT = 1e-6  # a probability nearer than this is the same
FITS = 0.04  # the mean total variation up to which it does; one that does not has the wrong family
PICKED = 400  # of them at most in one round
SHARE = 0.75  # columns for every answer that the budget allows, at most
WORK = 3e7  # the most of rows times columns times classes that a fit may take
STEP, WEIGHT, LEVEL = 1.0, 1e-2, 1e-6  # penalties: of a step, of a weight, of the intercept
MISFIT = 0.05  # of a log-ratio: what no rounding explains, so that no answer counts for everything
HALVINGS = 8.0  # how much nearer than the range, in powers of two, a column of a row near another may be


class Narrowing:
    """`run` asks until the budget ends or the copy explains what it has not seen; `linear` and `stepped` are copies."""

    def __init__(
        self, harvest: Harvest, interface: Interface, pool: Array | None, unit: float, rng: np.random.Generator
    ) -> None:
        self._harvest = harvest
        self._interface = interface
        self._unit = unit
        self._rng = rng
        self._questions = Questions(interface, pool, CANDIDATES, rng)
        rows = len(harvest) + harvest.left
        columns = min(SHARE * rows, WORK / (min(rows, FITTED) * interface.n_classes))
        self.stepped_encoding = SteppedEncoding.of(interface, int(columns))
        self._encoding: Encoding | SteppedEncoding = self.stepped_encoding.linear
        self._theta = np.zeros((1 + self._encoding.width, interface.n_classes))

    def run(self, close: float, held: Ints) -> None:
        """Rounds of questions, until every new answer is within `close` of what the copy said before. Rows in `held`
        are not fitted to."""
        while self._harvest.open:
            copy = self.copy(held)
            plain, narrowed = self._shares(self._misfit(copy, held))
            x, ways = self._questions.draw(plain, copy)
            asked = np.concatenate([x, self._narrowed(narrowed, held)]) if narrowed else x
            labels = self._harvest.ask(asked).labels
            assert labels is not None  # a classifier's answer
            fresh = np.arange(len(self._harvest) - len(labels), len(self._harvest))
            if len(fresh) and self._worst(copy, fresh) <= close:
                return
            seen = min(len(x), len(labels))
            self._questions.credit(x[:seen], ways[:seen], wrong_labels(copy, x[:seen], labels[:seen]))

    def plain(self, n: int) -> Array:
        """(n, *input_shape) questions that anybody might ask."""
        return self._questions.draw(n, None)[0] if n else np.empty((0, *self._interface.input_shape))

    def copy(self, held: Ints) -> Model:
        """The regression on the columns as they are where it explains the answers so far, else the sum of functions."""
        linear, rows = self.linear(held), self._rows(held)
        if not len(rows) or self._worst(linear, rows) <= max(self._unit, EXACT):
            return linear
        return self.stepped(held)

    def linear(self, held: Ints) -> Model:
        """The regression on the columns as they are."""
        return self._fitted(self.stepped_encoding.linear, held)

    def stepped(self, held: Ints) -> Model:
        """The sum of functions of one column."""
        return self._fitted(self.stepped_encoding, held)

    def _fitted(self, encoding: Encoding | SteppedEncoding, held: Ints) -> Model:
        """The regression on that encoding, which is what the next questions are narrowed for."""
        rows = self._rows(held)
        if len(rows) > FITTED:
            rows = self._rng.choice(rows, FITTED, replace=False)
        z = _with_ones(encoding(self._harvest.x[rows]))
        penalty = self._penalty(z.shape[1])
        misfit = min(MISFIT / 2, max(self._unit, EXACT)) if isinstance(encoding, Encoding) else MISFIT / 2
        self._theta = fit_intervals(z, self._scores[rows], unit=self._unit, penalty=penalty, misfit=misfit)
        self._encoding = encoding
        return Encoded(encoding, SoftmaxRegression(self._theta[1:].T, self._theta[0]))

    def _shares(self, misfit: float) -> tuple[int, int]:
        """How many plain and how many narrowed questions the next round asks."""
        left, rows = self._harvest.left, len(self._harvest)
        if misfit > FITS:
            lost = rows > SURE * self.stepped_encoding.width
            return (left if lost else min(left, rows)), 0
        size = max((self.stepped_encoding.linear.width + 1) // 2, rows // 2)
        size = left if left < 1.5 * size else size
        narrowed = min(round(NARROWED * size), PICKED)
        return size - narrowed, narrowed

    def _penalty(self, columns: int) -> Array:
        penalty = np.full(columns, STEP)
        penalty[: 1 + self.stepped_encoding.linear.width] = WEIGHT
        penalty[0] = LEVEL
        return penalty

    @property
    def _scores(self) -> Array:
        scores = self._harvest.answer.scores
        assert scores is not None  # `needs` asks for probabilities
        return scores

    def _rows(self, held: Ints) -> Ints:
        known = np.asarray(~np.isnan(self._scores).any(axis=1))
        known[held] = False
        return np.flatnonzero(known)

    def _worst(self, copy: Model, rows: Ints) -> float:
        return float(np.nanmax(np.abs(copy.scores(self._harvest.x[rows]) - self._scores[rows])))

    def _misfit(self, copy: Model, held: Ints) -> float:
        """The mean total variation between the copy and the answers that it was fitted to."""
        rows = self._rows(held)
        off = np.abs(copy.scores(self._harvest.x[rows]) - self._scores[rows]).sum(axis=1) / 2
        return float(off.mean()) if len(rows) else 0.0

    def _narrowed(self, n: int, held: Ints) -> Array:
        """(n, *input_shape) of many candidates, those from whose answers the weights would learn most."""
        x = self._candidates()
        asked, z = (_with_ones(self._encoding(rows)) for rows in (self._harvest.x[self._rows(held)], x))
        weighed = asked * self._worth(asked)[:, None]
        spread = np.linalg.inv(weighed.T @ asked + np.diag(self._penalty(z.shape[1])))
        worth, chosen = self._worth(z), np.empty(0, np.int64)
        gain = worth * ((z @ spread) * z).sum(axis=1)
        for _ in range(n):
            best = int(gain.argmax())
            chosen = np.append(chosen, best)
            along = spread @ z[best]
            share = worth[best] / (1 + worth[best] * (z[best] @ along))
            gain -= worth * share * (z @ along) ** 2
            spread -= share * np.outer(along, along)
            gain[best] = -np.inf
        return x[chosen]

    def _worth(self, z: Array) -> Array:
        """(n,) the precision of the log-ratios that an answer to each row would show."""
        p = SoftmaxRegression(self._theta[1:].T, self._theta[0]).scores(z[:, 1:])
        squared = ((p * (1 - p)) ** 2).sum(axis=1) + (p**2).sum(axis=1) ** 2 - (p**4).sum(axis=1)
        moved = np.sqrt(np.maximum(squared, 0.0)) / 2
        return np.asarray(1 / (MISFIT**2 + (self._unit / np.maximum(moved, 1e-12)) ** 2))

    def _candidates(self) -> Array:
        """Rows from anywhere, typical ones, and those near the answered row that is least decided."""
        n = CANDIDATES // 3
        return np.concatenate([
            self._interface.uniform(n, self._rng),
            typical_rows(self._interface, n, self._rng),
            near_rows(self._interface, least_decided(self._harvest), n, self._rng),
        ])  # fmt: skip


def least_decided(harvest: Harvest) -> Array:
    """(*input_shape) the answered row whose likeliest class is least likely."""
    scores = harvest.answer.scores
    assert scores is not None  # whoever asks this needs probabilities
    return np.asarray(harvest.x[int(np.nan_to_num(scores.max(axis=1), nan=1.0).argmin())])


def near_rows(interface: Interface, row: Array, n: int, rng: np.random.Generator) -> Array:
    """(n, *input_shape) random rows that have a share of the numbers of `row`, or nearly: moved from them by a 256th of
    the range up to all of it. Where a few columns decide everything, the others can only be seen from near."""
    flat = interface.uniform(n, rng).reshape(n, interface.n_inputs)
    numeric = Encoding.of(interface).categories == 0
    near = rng.random(flat.shape) < rng.random((n, 1))
    scale = np.where(near, 2.0 ** -(HALVINGS * rng.random(flat.shape)), 1.0)
    nearer = row.ravel() + (flat - row.ravel()) * scale
    return np.where(numeric, nearer, flat).reshape(n, *interface.input_shape)


def _with_ones(z: Array) -> Array:
    return np.column_stack([np.ones(len(z)), z])
