"""PRADA, EuroS&P version: distances between natural queries look normal, those between synthetic ones do not.

Juuti, Szyller, Marchal, Asokan. "PRADA: Protecting Against DNN Model Stealing Attacks", IEEE EuroS&P
2019, section 5.2.

Costs the honest client   false alarms where natural data are themselves not normal, as tables of few values.
Defaults hold for         small pictures: on three sets 0 to 1.7% of 60 honest clients called on a day (worst 95%
                          interval 0.0% to 8.9%, `benchmarks/calibration.py`). Not for tables, where 76% to 100% of
                          clients were: calibrate.
Does not see              uniform noise (W about .99), natural pools (Knockoff), 40 accounts of 80 queries,
                          a thief who mixes in natural dummies until W recovers, distances without any spread.

Every query's distance to the growing set of its class is kept, whether it joins the set or not; the
first of a class has none. Every `every` queries the distances of classes with at least `per_class`
are put together, those `outlier` standard deviations or more from the mean are dropped, and if more
than `at_least` remain, the suspicion is 1 - W of the Shapiro-Wilk test: the statistic, not its
p-value. It holds until the next test, and comes down again when W recovers; latching is `Watch`'s.

The test is defined up to 5,000 values, so only the `latest` most recent distances are used.
A question asked again by the same client is not counted: distances of 0 from a benign retry loop
would wreck normality, and repeats teach a thief nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.guard import Detector
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Array, Interface, Request
from portcullis_ml.detectors._compiled import warm
from portcullis_ml.detectors._growing_sets import GrowingSets, Seen, rows_by_class
from portcullis_ml.detectors._nearest import Nearest
from portcullis_ml.detectors._rows import needing_distances

__all__ = ["Distances", "PradaNormality", "normality"]


@dataclass
class Distances:
    """One client's sets, the latest distances with their classes, queries counted, and the latest suspicion."""

    sets: GrowingSets
    seen: Seen
    values: Array = field(default_factory=lambda: np.empty(0))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    recent: list[tuple[int, float]] = field(default_factory=list)  # (class, distance) since the last test
    queries: int = 0
    suspicion: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class PradaNormality(Detector[Distances]):
    threshold: float = 0.1  # 1 - delta of the paper (delta .9); .05 sees more and alarms more honest clients
    every: int = 10  # queries from one test to the next
    per_class: int = 10  # distances before a class takes part
    outlier: float = 3.0  # standard deviations from the mean at which a distance is dropped
    at_least: int = 100  # a test needs more values than this
    latest: int = 5_000  # most recent distances that are kept; Shapiro-Wilk is defined up to 5,000
    cap: int = 2_000  # rows kept of each class; bounds memory and time
    remember: int = 16_384  # latest distinct questions that are recognised when asked again

    name: ClassVar[str] = "prada_normality"
    code: ClassVar[str] = "PRADA_NORMALITY"
    means: ClassVar[str] = "The distances between the questions are not spread as those of natural questions are."

    def __post_init__(self) -> None:
        check(self, "threshold", "in (0, 1)", lambda v: 0 < v < 1)
        check(self, "outlier", "greater than 0", lambda v: v > 0)
        check(self, "at_least", "an int in [3, 4999]", lambda v: isinstance(v, int) and 3 <= v < 5000)
        check(self, "latest", "an int in (at_least, 5000]", lambda v: isinstance(v, int) and self.at_least < v <= 5000)
        for name in ("every", "per_class", "cap", "remember"):
            check(self, name, "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def bind(self, interface: Interface) -> Self:
        return needing_distances(self, interface)

    def start(self) -> Distances:
        return Distances(GrowingSets(Nearest(self.cap)), Seen(self.remember))

    def warm(self) -> None:
        """Load what is compiled, if numba is there, before the first request would wait for it."""
        warm()

    def suspicion(self, state: Distances) -> float:
        return state.suspicion

    def kept(self, state: Distances) -> int:
        return state.sets.size

    def update(self, state: Distances, request: Request, answer: Answer) -> Array:
        suspicion = np.empty(len(request))
        for i, (x, label, question) in enumerate(rows_by_class(request, answer)):
            if not state.seen.again(question):
                distance = state.sets.place(label, x)
                if distance is not None:
                    state.recent.append((label, distance))
                state.queries += 1
                if state.queries % self.every == 0:
                    self._test(state)
            suspicion[i] = state.suspicion
        return suspicion

    def _test(self, state: Distances) -> None:
        state.labels = np.append(state.labels, np.array([c for c, _ in state.recent], np.int64))[-self.latest :]
        state.values = np.append(state.values, [d for _, d in state.recent])[-self.latest :]
        state.recent.clear()
        classes, count = np.unique(state.labels, return_counts=True)
        values = state.values[np.isin(state.labels, classes[count >= self.per_class])]
        statistic = normality(values, outlier=self.outlier, at_least=self.at_least)
        if statistic is not None:
            state.suspicion = 1.0 - statistic


def normality(values: Array, *, outlier: float, at_least: int) -> float | None:
    """Shapiro-Wilk's W of the values (n,) that are no outliers; None unless more than `at_least` remain."""
    if len(values) <= at_least:
        return None
    kept = values[abs(values - values.mean()) < outlier * values.std()]
    if len(kept) <= at_least or np.ptp(kept) == 0:
        return None
    from scipy.stats import shapiro  # half a second to import

    return float(shapiro(kept).statistic)
