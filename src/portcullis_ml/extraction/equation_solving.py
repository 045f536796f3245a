"""Equation solving: read a logistic, softmax or one-vs-rest regression off its own confidences.

Tramèr, Zhang, Juels, Reiter, Ristenpart. "Stealing Machine Learning Models via Prediction APIs",
USENIX Security 2016, section 4.1 (the log-ratio route for more than two classes is not in the paper).

Threat model   answers: full probabilities.  data: none.  victim: one of the three, on numbers and categories, or one
               whose log-ratios are sums of functions of one column; of any other, the copy is a surrogate. Of an API
               that answers numbers: a linear regression (d + 1 queries, whatever the settings; see `_values.py`).
Query cost     log_ratio: d + 1 for d inputs (an input for every category but its first), whatever the number of
               classes, one more for each saturated answer. cross_entropy and one_vs_rest: c (d + 1) for c classes,
               d + 1 for two. Then `held_out` points that check the result, where the budget has room for them.
               auto: the first, and only where the check fails, or answers are rounded, on to the price of the others;
               where those fail too, or answers are too coarse to tell, the rest of the budget.

log p_j(x) - log p_0(x) = (w_j - w_0).x + (b_j - b_0) is linear in the unknowns, so d + 1 points in general position
determine them; a logistic regression is the case of two classes. Adding one vector to every w_j changes no
probability: the solution with w_0 = 0, b_0 = 0 is as good as the victim's own, and is what we return.

The points are ours to choose. Uniform ones (the paper's) make a square system that can be badly conditioned, and add
up all the weights until a probability saturates at 0, which has no logarithm. One point near the middle and one step
from it along every axis ask for each weight alone: the same number of queries, a condition that stays small, and
rounding that solving does not amplify. A saturated answer is asked again halfway to the first point, and paid again.

Rounded answers spoil logarithms of small probabilities. A fit by cross-entropy weighs an answer by what it is worth,
needs no logarithm of a zero, and takes more points. One-vs-rest (one sigmoid a class, divided by their sum) is not
linear in the logarithms: its log-ratios fail on held-out points, which is how `auto` tells it. All hypotheses are
tried on the same answers, so that none is paid for twice, and a victim that none explains is said to be not linear.

What the rest of the budget then buys: a tenth is set aside, and the other questions are narrowed to where answers move
(`_narrowing.py`). What was rounded is fitted as the interval that it is known to lie in (`models/intervals.py`), once
on the columns as they are and once with steps along every number: any binning, logarithm or spline of a column.
If the best of them does not explain the answers set aside to their last digit, a surrogate is fitted to the same
answers (`_fallback.py`), and what does better on those set aside is the copy: `notes["copy"]` says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Model, Reveals
from portcullis_ml.extraction._equations import COARSE, Points, decimals_of, enough, solve_log_ratios, usable
from portcullis_ml.extraction._fallback import best_copy, better_copy, share_aside, surrogate_of
from portcullis_ml.extraction._mixed import typical_rows
from portcullis_ml.extraction._narrowing import Narrowing, least_decided, near_rows
from portcullis_ml.extraction._values import solve_values
from portcullis_ml.models.encoding import Encoding
from portcullis_ml.models.surrogates import fit_surrogate, of_inputs, unknowns

__all__ = ["EquationSolving"]

ROUTES = ("auto", "log_ratio", "cross_entropy", "one_vs_rest")
LINEAR = 1e-6  # a held-out log-ratio further off than this, relative to the largest, is no softmax regression
SINGLE = 1e-3  # the same for answers in single precision
EXPLAINED = 1e-6  # a fit whose probabilities are nearer than this on held-out points is the victim
SLACK = 10.0  # the same for rounded answers, in units of their last decimal
TRIES = 20  # saturated answers in a row, after which logarithms are given up
NEARER = 3  # further batches of held-out points where most were saturated
COARSEST = 0.01  # the coarsest rounding at which a copy can be told to be exact
SHORT, LONG = 1e-7, 1e-15  # the last digit of single and of double precision
OTHER = "not linear"
FAMILIES = {"softmax": "softmax", "one_vs_rest": "one-vs-rest"}


@dataclass(frozen=True, kw_only=True)
class EquationSolving(ExtractionAttack):
    route: Literal["auto", "log_ratio", "cross_entropy", "one_vs_rest"] = "auto"  # which hypothesis; auto tests them
    design: Literal["axes", "uniform"] = "axes"  # where the points of the log-ratio route lie, see above
    oversample: float = 1.0  # points for every unknown; more average out rounding
    held_out: int = 5  # further points, if the budget has them, to see whether the victim is what we think

    name: ClassVar[str] = "equation_solving"
    needs: ClassVar[Needs] = Needs(answers=Reveals.PROBS, task="any")

    def __post_init__(self) -> None:
        check(self, "route", f"one of {', '.join(ROUTES)}", lambda v: v in ROUTES)
        check(self, "design", "'axes' or 'uniform'", lambda v: v in ("axes", "uniform"))
        check(self, "oversample", "a number from 1 to 1000", lambda v: 1 <= v <= 1000)
        check(self, "held_out", "an int, at least 0", lambda v: isinstance(v, int) and v >= 0)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        encoding = Encoding.of(interface, drop_first=True)
        if harvest.left < encoding.width + 1:
            raise AttackFailed(
                f"equation_solving needs {encoding.width + 1} queries for {encoding.width} inputs; the budget is "
                f"{harvest.left}. Raise it, or take an attack that learns from fewer answers."
            )
        if interface.task == "regression":
            return solve_values(harvest, interface, knowledge.pool, self.held_out, rng)
        solver = _EquationSolver(self, harvest, interface, encoding, rng)
        if self.route == "auto":
            return solver.auto(knowledge.pool)
        if self.route == "log_ratio":
            model = solver.log_ratio()
            solver.hold_out()
            solver.explains_held_out(model)
        else:
            solver.top_up()
            solver.hold_out()
            model = solver.best({"cross_entropy": "softmax"}.get(self.route, self.route))
        return of_inputs(encoding, model)


class _EquationSolver:
    """One run: every answer is kept, the held-out ones are never fitted to, and all hypotheses share them."""

    def __init__(
        self,
        settings: EquationSolving,
        harvest: Harvest,
        interface: Interface,
        encoding: Encoding,
        rng: np.random.Generator,
    ) -> None:
        self._settings = settings
        self._harvest = harvest
        self._interface = interface
        self._encoding = encoding
        self._rng = rng
        self._held = np.empty(0, np.int64)  # rows of the harvest
        self._points = Points(harvest, interface, encoding, rng)
        self._bill: dict[str, int] = harvest.notes.setdefault("bill", {})

    def auto(self, pool: Array | None) -> Model:
        """The log-ratios, then the other hypotheses, and what the rest of the budget makes of what none explains."""
        model, several = None, self._interface.n_classes > 2
        started = self._rounded() or self._points.start(TRIES)
        if not started and not self._harvest.open:  # nothing to solve, but something to learn from
            self._note(linear=False, family=OTHER)
            return surrogate_of(self._harvest, self._interface, self._rng)
        if started and not self._rounded():
            model = self.log_ratio()
            if not self._rounded():
                self.hold_out()
                if self.explains_held_out(model):
                    return of_inputs(self._encoding, model)
        if model is None or several or self._rounded():
            self.top_up()
            self.hold_out()
            model = self.best(*(FAMILIES if several else ("softmax",)))
        copy = of_inputs(self._encoding, model)
        if not self._settings.held_out or self._close(copy):
            return copy
        return self.beyond(copy, pool)

    def beyond(self, copy: Model, pool: Array | None) -> Model:
        """For a victim that is no regression on the columns as they are, or whose answers are too coarse to tell: the
        best, on answers set aside, of that regression, a sum of functions of one column and a surrogate."""
        narrowing = Narrowing(self._harvest, self._interface, pool, self._unit, self._rng)
        self._hold(narrowing.plain(share_aside(self._harvest.left)))
        self._pay("set_aside")
        narrowing.run(self._tolerance, self._held)
        self._pay("narrowed")
        copies = {
            "equations": copy,
            "intervals": narrowing.linear(self._held),
            "stepped": narrowing.stepped(self._held),
        }
        name, copy = best_copy(copies, self._harvest, self._interface, self._held)
        explained = self._close(copy)
        self._note(linear=explained and name != "stepped", copy=name)
        self._note(
            family=("sum of functions of one column" if name == "stepped" else "softmax") if explained else OTHER
        )
        if explained:
            return copy
        return better_copy(name, copy, self._harvest, self._interface, self._held, self._rng)

    def log_ratio(self) -> Model:
        wanted = round(self._settings.oversample * (self._encoding.width + 1))
        self._points.collect(min(wanted, self._harvest.left + len(self._harvest)), self._settings.design)
        self._pay("log_ratio")
        z, scores = self._rows(held=False)
        good = enough(z, scores)
        model, rank, condition = solve_log_ratios(z[good], scores[good], rounded=self._rounded())
        self._note(rank=rank, unknowns=self._encoding.width + 1, condition=condition)
        return model

    def top_up(self) -> None:
        """Points until there are as many as the fits want: uniform ones; half of them typical where answers are coarse
        and `auto` chooses, since most uniform rows of a table with long tails are saturated."""
        fitted = len(self._harvest) - len(self._held)
        k = unknowns("softmax", self._encoding.width, self._interface.n_classes)
        wanted = max(self._encoding.width + 1, round(self._settings.oversample * k)) - fitted
        spare = 0 if len(self._held) else self._settings.held_out
        if self._settings.route == "auto":
            spare = max(spare, share_aside(self._harvest.left))
        wanted = min(wanted, max(self._harvest.left - spare, self._encoding.width + 1 - fitted))
        if wanted > 0:
            typical = wanted // 2 if self._settings.route == "auto" and self._rounded() else 0
            points = [self._interface.uniform(wanted - typical, self._rng)]
            points += [typical_rows(self._interface, typical, self._rng)] if typical else []
            self._harvest.ask(np.concatenate(points))
            self._pay("top_up")

    def hold_out(self) -> None:
        """Ask about the points that check every hypothesis, once; where most are saturated, about some nearer ones."""
        wanted = self._settings.held_out
        if len(self._held) or not wanted or not self._harvest.open:
            return
        self._hold(self._interface.uniform(wanted, self._rng))
        for _ in range(NEARER if self._settings.route == "auto" else 0):
            if not len(self._held) or 2 * usable(self._rows(held=True)[1]).sum() >= wanted:
                break
            self._hold(near_rows(self._interface, least_decided(self._harvest), wanted, self._rng))
        self._pay("held_out")

    def _hold(self, x: Array) -> None:
        """Ask about x, and fit nothing to what is answered."""
        before = len(self._harvest)
        self._harvest.ask(x[: self._harvest.left])
        self._held = np.append(self._held, np.arange(before, len(self._harvest)))

    def explains_held_out(self, model: Model) -> bool:
        """Whether the log-ratios of the held-out answers are the model's own; true where saturation leaves none."""
        z, scores = self._rows(held=True)
        good = usable(scores)
        if not good.any():
            return True
        truth, ours = np.log(scores[good]), np.log(np.maximum(model.scores(z[good]), np.finfo(float).tiny))
        truth, ours = truth - truth[:, :1], ours - ours[:, :1]
        residual = float(np.abs(truth - ours).max())
        tolerance = SINGLE if self._interface.precision == "float32" else LINEAR
        linear = residual <= tolerance * max(1.0, float(np.abs(truth).max()))
        self._note(residual=residual, saturated=int((~good).sum()))
        if linear and 2 * good.sum() < self._settings.held_out:
            return True  # nothing speaks against it, and too little for it: no family is claimed
        self._note(linear=linear)
        if linear:
            self._note(family="softmax")
        return linear

    def best(self, *kinds: str) -> Model:
        """The hypothesis nearest to the held-out answers, or the first without any; named if it explains them."""
        z, scores = self._rows(held=False)
        known = ~np.isnan(scores).any(axis=1)
        targets = np.clip(scores[known], 0, None)
        targets /= np.maximum(targets.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        models = {kind: fit_surrogate(kind, z[known], targets, rng=self._rng) for kind in kinds}
        z, scores = self._rows(held=True)
        if not len(z):
            return models[kinds[0]]
        errors = {kind: float(np.nanmax(np.abs(model.scores(z) - scores))) for kind, model in models.items()}
        winner = min(errors, key=errors.__getitem__)
        decimals = decimals_of(scores)
        explained = errors[winner] <= (EXPLAINED if decimals is None else SLACK * 10.0**-decimals)
        self._note(errors=errors, linear=explained, family=FAMILIES[winner] if explained else OTHER)
        return models[winner]

    def _close(self, copy: Model) -> bool:
        """Whether every held-out answer is what the copy says, as far as its digits show."""
        x, scores = self._harvest.x[self._held], self._harvest.answer.scores
        assert scores is not None  # `needs` asks for probabilities
        scores = scores[self._held]
        return len(x) > 0 and float(np.nanmax(np.abs(copy.scores(x) - scores))) <= self._tolerance

    @property
    def _unit(self) -> float:
        """How far two shown probabilities that differ are apart at least."""
        decimals = self._interface.decimals
        if decimals is None and len(self._harvest):
            decimals = decimals_of(self._rows(held=False)[1])
        if decimals is None:
            return SHORT if self._interface.precision == "float32" else LONG
        return float(10.0**-decimals)

    @property
    def _tolerance(self) -> float:
        """How far off a copy may be that explains an answer; answers of fewer than two decimals explain nothing."""
        return 0.0 if self._unit > COARSEST else max(self._unit, EXPLAINED)

    def _rounded(self) -> bool:
        """Whether logarithms of small probabilities are noise, by the interface or by the answers so far."""
        if self._interface.decimals is not None and self._interface.decimals <= COARSE:
            return True
        return len(self._harvest) > 0 and decimals_of(self._rows(held=False)[1]) is not None

    def _rows(self, *, held: bool) -> tuple[Array, Array]:
        """(m, width) encoded rows and their (m, c) scores: the held-out ones, or all others."""
        scores = self._harvest.answer.scores
        assert scores is not None  # `needs` asks for probabilities
        rows: NDArray[np.bool_] = np.isin(np.arange(len(scores)), self._held) == held
        return self._encoding(self._harvest.x[rows]), scores[rows]

    def _pay(self, item: str) -> None:
        self._bill[item] = self._harvest.paid - sum(self._bill.values())

    def _note(self, **notes: Any) -> None:
        self._harvest.notes |= notes
