"""PRADA, first version: a thief's queries stop being new, and the set of differing queries stops growing.

Juuti, Szyller, Dmitrenko, Marchal, Asokan. "PRADA: Protecting against DNN Model Stealing Attacks",
arXiv 1805.02628 version 1 (2018), section 5.1, Algorithm 1 and Eq. (7).

Costs the honest client   a false alarm when their stream dries up suddenly (near-identical frames after varied ones).
Defaults hold for         pictures: on three sets that they were not chosen on, 0 of 60 honest clients called on a day
                          (at 95% under 6.0%, `benchmarks/calibration.py`). Not for tables, where 3.3% to 6.7% of
                          clients were (worst 95% interval 2.9% to 12.7%): calibrate.
Does not see              uniform noise (every point is far, so growth is perfectly steady), natural pools
                          (Knockoff), 40 accounts of 80 queries, an attack from the first row on,
                          a thief who opens every class with far outliers, after which nothing is too near.

Natural queries differ from one another at a steady rate. Synthetic ones lie at a small distance from
their seeds, so the growing sets meet an elbow: the ratio of the growth in the window before to the
growth in the last window rises above `threshold`.

Reconstructed, because the published text elides it: the list of distances begins with 0 and the
class threshold never falls (after the authors' later release; it gives the published memory), the
first verdict comes with the 2 `window`-th query, and the values of `window`, `threshold` and `kappa`.
Of 36 triples with window 20 to 30, threshold 4 to 8 and kappa .01 to .05, the defaults are those without
a false alarm on 45 benign streams of MNIST, USPS and GTSRB that detect most and first of a made-up attack,
none of the published ones (`benchmarks/prada.py --part calibrate`); what they do on those streams says
nothing of others. The authors' own pair cannot be confirmed.

A question asked again by the same client is not counted: it teaches a thief nothing, and a benign
retry loop would otherwise look like an elbow. Rows beyond `cap` of a class make the oldest go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np

from portcullis_ml.core.guard import Detector
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Array, Interface, Request
from portcullis_ml.detectors._compiled import warm
from portcullis_ml.detectors._growing_sets import GrowingSets, Seen, rows_by_class
from portcullis_ml.detectors._nearest import Nearest
from portcullis_ml.detectors._rows import needing_distances

__all__ = ["Growth", "Prada"]


@dataclass
class Growth:
    """One client's sets, their total size after each of the latest queries, and the latest ratio."""

    sets: GrowingSets
    seen: Seen
    sizes: list[int] = field(default_factory=lambda: [0])
    suspicion: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class Prada(Detector[Growth]):
    threshold: float = 4.0  # delta: the ratio of growth that is an alarm; lower alarms sooner and more often falsely
    window: int = 30  # w: queries in each of the two windows compared; larger alarms later and more reliably
    kappa: float = 0.05  # keeps the ratio finite where growth nears 0; in accepted rows per query
    symmetric: bool = False  # also alarm when growth restarts as suddenly as it may stop
    cap: int = 2_000  # rows kept of each class; bounds memory and time
    remember: int = 16_384  # latest distinct questions that are recognised when asked again

    name: ClassVar[str] = "prada"
    code: ClassVar[str] = "GROWTH_OF_SETS"
    means: ClassVar[str] = "The questions stopped being new: they lie close to earlier ones, as steps from seeds do."

    def __post_init__(self) -> None:
        check(self, "threshold", "greater than 1", lambda v: v > 1)
        check(self, "window", "an int of at least 2", lambda v: isinstance(v, int) and v >= 2)
        check(self, "kappa", "in (0, 1]", lambda v: 0 < v <= 1)
        check(self, "symmetric", "True or False", lambda v: isinstance(v, bool))
        check(self, "cap", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "remember", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def bind(self, interface: Interface) -> Self:
        return needing_distances(self, interface)

    def start(self) -> Growth:
        return Growth(GrowingSets(Nearest(self.cap)), Seen(self.remember))

    def warm(self) -> None:
        """Load what is compiled, if numba is there, before the first request would wait for it."""
        warm()

    def suspicion(self, state: Growth) -> float:
        return state.suspicion

    def kept(self, state: Growth) -> int:
        return state.sets.size

    def update(self, state: Growth, request: Request, answer: Answer) -> Array:
        suspicion = np.empty(len(request))
        for i, (x, label, question) in enumerate(rows_by_class(request, answer)):
            if not state.seen.again(question):
                state.sets.place(label, x)
                self._measure(state)
            suspicion[i] = state.suspicion
        return suspicion

    def _measure(self, state: Growth) -> None:
        """Note the size after this query; from the 2w-th on, compare the growth of the two latest windows."""
        w, sizes = self.window, state.sizes
        sizes.append(state.sets.size)
        if len(sizes) <= 2 * w:
            return
        del sizes[: -2 * w - 1]
        before, now = (sizes[w] - sizes[0]) / w, (sizes[2 * w] - sizes[w]) / w
        ratio = (before + self.kappa) / (now + self.kappa)
        state.suspicion = max(ratio, 1 / ratio) if self.symmetric else ratio
