"""Functional equivalence: a network of one hidden layer of rectifiers, rebuilt from where its answers bend.

Jagielski, Carlini, Berthelot, Kurakin, Papernot. "High Accuracy and High Fidelity Extraction of Neural Networks",
USENIX Security 2020, section 5. Tramèr et al. (2016) ask for the same of linear models and trees.

Threat model   answers: full probabilities in double precision, or the value of a regression.  data: none; a pool helps
               to find units that random points do not reach.  victim: one hidden layer of ReLU units over numbers.
Query cost     about 10 a kink on the first lines, 2 (d + 2) a unit for d inputs, h + d + 1 for the last layer with h
               units, 4 a line that shows nothing new; the rest of the budget only where that does not explain answers.

The logits of such a network are linear but where a hidden unit changes sign. Log-ratios of the probabilities are
differences of logits, and bend in the same places. So a line through the input space is searched for kinks
(`_kinks.py`), the gradients on both sides of a kink differ by the unit's weights, and what is known is taken off all
later answers, so that a further line costs 4 questions where it meets no new unit. When `patience` lines have shown
nothing, the last layer is a least-squares fit on everything that was answered.

Not in the paper: gradients on both sides in the place of second differences give the signs of the weights at once, and
the fit has a linear path beside the hidden units. relu(-u) = relu(u) - u, so with it the sign of a whole unit, which
kinks do not tell, need not be known, and units that never change sign within the inputs' range are part of it.

Points that are not explained say where the search goes on. Answers of single precision or rounded ones hide kinks:
then, as for any other family, the copy is the better of this network and a surrogate fitted to the same answers
(`_fallback.py`); `notes["copy"]` says which, `notes["equivalent"]` whether every checked answer is explained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Array, Interface, Model, Reveals
from portcullis_ml.extraction._equations import decimals_of
from portcullis_ml.extraction._fallback import or_surrogate, share_aside
from portcullis_ml.extraction._kinks import NotPiecewiseLinear, Units, find_kinks, measure_units
from portcullis_ml.models.relu import ReluNetwork, fit_outputs

__all__ = ["FunctionalEquivalence"]

EXPLAINED = 1e-6  # an answer nearer than this to the copy's is explained
DIGIT = {"float64": 1e-15, "float32": 1e-7}  # relative error of an answer
COMPLEMENT = 2.0**-53  # error of 1 - p
BENT = 40  # with the budget divided by this many bent pieces on a line and no kink found, the victim is no such network


class _Spent(Exception):
    """The budget or the guard ended the search; what is known so far stands."""


@dataclass(frozen=True, kw_only=True)
class FunctionalEquivalence(ExtractionAttack):
    patience: int = 8  # lines in a row without a new unit, after which all are taken to be known
    held_out: int = 50  # further points that check the copy and, where they fail, say where to look on

    name: ClassVar[str] = "functional_equivalence"
    needs: ClassVar[Needs] = Needs(answers=Reveals.PROBS, task="any")

    def __post_init__(self) -> None:
        check(self, "patience", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "held_out", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        for feature in interface.features or ():
            if feature.categorical:
                raise AttackFailed(
                    f"functional_equivalence follows lines through numbers; column {feature.name!r} is a category. "
                    "Offer the API's encoded columns, or try retraining."
                )
        if harvest.left < interface.n_inputs + 2:
            raise AttackFailed(
                f"functional_equivalence needs {interface.n_inputs + 2} queries for {interface.n_inputs} inputs; "
                f"the budget is {harvest.left}. Raise it, or take an attack that learns from fewer answers."
            )
        search = _Search(self, harvest, interface, knowledge.pool, rng)
        copy, explained = search.run()
        harvest.notes |= {"units": len(search.units), "lines": search.lines, "equivalent": explained}
        harvest.notes["copy"] = self.name
        shaped = replace(copy, input_shape=interface.input_shape)
        if explained or interface.task == "regression":
            return shaped
        return or_surrogate(self.name, shaped, harvest, interface, knowledge.pool, rng)


class _Search:
    """One run: the units found so far, and the answers without what those explain."""

    def __init__(
        self,
        settings: FunctionalEquivalence,
        harvest: Harvest,
        interface: Interface,
        pool: Array | None,
        rng: np.random.Generator,
    ) -> None:
        self._settings, self._harvest, self._interface, self._rng = settings, harvest, interface, rng
        self._pool = None if pool is None else pool.reshape(len(pool), -1)
        self._outputs = max(interface.n_classes - 1, 1)
        self._reserve = share_aside(harvest.left)  # for the fall-back
        self.units = Units.none(interface.n_inputs, self._outputs)
        self.lines = 0

    def run(self) -> tuple[ReluNetwork, bool]:
        """The copy, and whether it explains every held-out answer."""
        towards = np.empty((0, self._interface.n_inputs))
        while True:
            try:
                found = self._look(towards)
                self._ask(self._points(self._interface.n_inputs + len(self.units) + 1))
                self._ask(self._points(self._settings.held_out))
            except NotPiecewiseLinear:
                return self._fit(), False
            except _Spent:  # a few more equations for the last layer
                rest = min(self._harvest.left, self._interface.n_inputs + len(self.units) + 1)
                if rest:
                    self._harvest.ask(self._points(rest).reshape(rest, *self._interface.input_shape))
                return self._fit(), False
            copy = self._fit(all_but=self._settings.held_out)
            errors = self._errors(copy)
            if (errors[-self._settings.held_out :] <= EXPLAINED).all():
                return copy, True
            if not found:
                return copy, False
            towards = self._harvest.x.reshape(len(errors), -1)[np.argsort(-errors)]

    def _look(self, towards: Array) -> bool:
        """Lines, the first ones to the points in `towards`, until `patience` of them in a row have shown no new unit;
        whether there was any."""
        idle, known = 0, len(self.units)
        while idle < self._settings.patience:
            start, end = self._points(2)
            if idle < len(towards):
                end = towards[idle]
            before = len(self.units)
            kinks = find_kinks(self._unexplained, start, end, most=max(8, self._harvest.left // BENT))
            low, high = self._interface.low, self._interface.high
            self.units += measure_units(self._unexplained, kinks, low, high, self._rng) if kinks else self._none()
            self.lines += 1
            idle = 0 if len(self.units) > before else idle + 1
        return len(self.units) > known

    def _none(self) -> Units:
        return Units.none(self._interface.n_inputs, self._outputs)

    def _points(self, n: int) -> Array:
        """(n, d): half of them in corners of the input space and half anywhere, or half of them rows of the pool."""
        low, high = self._interface.low, self._interface.high
        corners = np.where(self._rng.random((n, len(low))) < 0.5, low, high)
        if self._pool is not None and len(self._pool):
            others = self._pool[self._rng.integers(len(self._pool), size=n)]
        else:
            others = self._interface.uniform(n, self._rng).reshape(n, -1)
        return np.asarray(np.where((np.arange(n) % 2 == 0)[:, None], corners, others))

    def _unexplained(self, x: Array) -> tuple[Array, Array]:
        """The outputs at x without what the known units explain, and how far they may be off."""
        outputs, off = self._ask(x)
        return outputs - self.units.values(x), off

    def _ask(self, x: Array) -> tuple[Array, Array]:
        if len(x) > self._harvest.left - self._reserve:
            raise _Spent
        answer = self._harvest.ask(x.reshape(len(x), *self._interface.input_shape))
        if len(answer) < len(x):
            raise _Spent
        if self._interface.n_classes and decimals_of(_scores(answer)) is not None and len(answer) > 1:
            raise NotPiecewiseLinear  # rounded answers move in steps
        return self._read(answer)

    def _read(self, answer: Answer) -> tuple[Array, Array]:
        """(n, k) logits of all classes but the first, less the first's, or values; (n,) how far they may be off."""
        scores, digit = _scores(answer), DIGIT[self._interface.precision]
        if self._interface.n_classes == 0:
            return scores, digit * (1 + np.abs(scores).max(axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(scores)
            outputs = logs[:, 1:] - logs[:, :1]
            off = digit * (1 + np.abs(outputs).max(axis=1))
            complement = (scores * 2.0**53 == np.round(scores * 2.0**53)).all(axis=1)
            off = np.where(complement, off + COMPLEMENT / scores.min(axis=1), off)
        return outputs, np.where(np.isfinite(outputs).all(axis=1), off, np.inf)

    def _fit(self, all_but: int = 0) -> ReluNetwork:
        """The last layer, from every answer but the last few."""
        n = len(self._harvest) - all_but
        outputs, off = self._read(self._harvest.answer.take(np.arange(n)))
        x, good = self._harvest.x[:n].reshape(n, -1), np.isfinite(off)
        if not good.any():
            raise AttackFailed(
                "Each answer had a probability of exactly 0 or was withheld, and 0 has no logarithm. "
                "Take another attack."
            )
        return fit_outputs(x[good], outputs[good], self.units.w, self.units.b, self._interface.n_classes)

    def _errors(self, copy: ReluNetwork) -> Array:
        """(n,) how far the copy is off every answer: the greatest difference of a probability, or of a value relative
        to the greatest."""
        scores = _scores(self._harvest.answer)
        scale = 1.0 if self._interface.n_classes else max(1.0, float(np.abs(scores).max()))
        x = self._harvest.x.reshape(len(scores), -1)
        return np.asarray(np.nan_to_num(np.abs(copy.scores(x) - scores).max(axis=1) / scale, nan=np.inf))


def _scores(answer: Answer) -> Array:
    assert answer.scores is not None  # `needs` asks for probabilities
    return answer.scores
