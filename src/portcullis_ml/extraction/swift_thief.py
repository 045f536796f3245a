"""SwiftThief: learn from the pool's rows that nobody answered, and ask about classes that rarely came back.

Lee, Han, Lee. "SwiftThief: Enhancing Query Efficiency of Model Stealing by Contrastive Learning", IJCAI 2024. Read
off the authors' code: the paper's text was not at hand, so no section of it can be named.

Threat model   answers: any; probabilities make the soft weights.  data: a pool of natural inputs from anywhere.
Query cost     the whole budget, `validation` of it for rows that are never trained on.

The budget is asked in rounds of equal size, the first at random. Before every copy the features of its network are
trained on rows without answers (two views of a row are to be alike), on rows with answers (rows are to be as alike as
their answers are certain and alike), and on adversarial views, in which rare classes weigh more. Then the copy is
trained on the answers from there, and goes into the next round. A round asks the rows of the greatest entropy; once
what is left would only just bring the rare classes up to the mean, it asks the rows whose features lie densest around
those of the rarest class that came back, a fifth of the round at a time.

Views of pictures are crops, mirror images and changed colours; in views of a table's rows a share of the columns comes
from other rows. A frozen backbone's features count as a row of a table. The network is that of the learner where it is
one network (`network`, `resnet9`, `pretrained`), else a small one of ours, and the notes say which. The authors go
through 40 passes of up to 50,000 rows with a projector of 2,048, and match answers by SGD for 50 more; our defaults
suit a processor, and the learner's own training matches the answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Labels, Model
from portcullis_ml.extraction._rounds import Rounds, largest
from portcullis_ml.extraction._selection import entropy

if TYPE_CHECKING:
    from portcullis_ml.models.contrastive import Contrast
    from portcullis_ml.models.students import Student

__all__ = ["SwiftThief", "density", "rare_now"]

LAST = 2.5  # times as many contrastive passes before the last copy (the authors' 100 of 40)
SUBSTEPS = 5  # of a round that asks for rare classes
PART = 1024  # rows whose distances are held at once


@dataclass(frozen=True, kw_only=True)
class SwiftThief(ExtractionAttack):
    rounds: int = 10  # equal shares of the budget; the first is random
    contrast: int = 5  # passes over rows without answers before each copy; 0 leaves contrastive learning out
    unasked: int = 5000  # rows without answers that these passes see at most (the authors' 50,000)
    projector: int = 256  # width of the projections that are compared (theirs: 2,048)
    rate: float = 0.06  # the learning rate of the contrastive passes at first, by SGD
    crop: float = 0.2  # share of a picture's area that a view shows at least
    mirror: bool = True  # whether views of pictures may be turned left to right
    corrupted: float = 0.6  # share of a row's columns that a view takes from other rows
    rare: bool = True  # whether later rounds may ask for the classes that rarely came back; False: entropy alone
    bandwidth: float = 0.5  # of the Gaussian kernel around the features of a rare class
    validation: float = 0.0  # share of the budget for rows that only compare the copies of the rounds

    name: ClassVar[str] = "swift_thief"
    needs: ClassVar[Needs] = Needs(pool=True, learner=True)

    def __post_init__(self) -> None:
        check(self, "rounds", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "contrast", "an int, at least 0", lambda v: isinstance(v, int) and v >= 0)
        check(self, "unasked", "an int, at least 2", lambda v: isinstance(v, int) and v >= 2)
        check(self, "projector", "an int, at least 4", lambda v: isinstance(v, int) and v >= 4)
        check(self, "rate", "above 0", lambda v: v > 0)
        check(self, "crop", "in (0, 1]", lambda v: 0 < v <= 1)
        check(self, "mirror", "True or False", lambda v: isinstance(v, bool))
        check(self, "corrupted", "in (0, 1)", lambda v: 0 < v < 1)
        check(self, "rare", "True or False", lambda v: isinstance(v, bool))
        check(self, "bandwidth", "above 0", lambda v: v > 0)
        check(self, "validation", "in [0, 1)", lambda v: 0 <= v < 1)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        from portcullis_ml.models.students import student_of

        assert knowledge.pool is not None
        assert knowledge.learner is not None  # `needs` says so
        student = student_of(knowledge.learner, interface)
        harvest.notes["student"] = student.about
        thief = _Thief(self, harvest, interface, knowledge.pool, student, rng)
        rounds, budget = thief.rounds, min(harvest.left, len(knowledge.pool))
        rounds.ask_aside(round(self.validation * budget))
        ends = np.linspace(0, budget - rounds.aside, self.rounds + 1)[1:].round().astype(int)
        rounds.ask(rounds.waiting[: max(ends[0], 1)])
        for end in ends[1:]:
            if harvest.open and len(rounds.waiting) and end > rounds.trained_on:
                copy = thief.copy(self.contrast)
                thief.ask(copy, min(end - rounds.trained_on, len(rounds.waiting)))
        return thief.best()


class _Thief:
    """The rounds, the network that goes through them, and the copies made on the way."""

    def __init__(
        self,
        plan: SwiftThief,
        harvest: Harvest,
        interface: Interface,
        pool: Array,
        student: Student,
        rng: np.random.Generator,
    ) -> None:
        self._plan, self._harvest, self._rng = plan, harvest, rng
        self._classes, self._student = interface.n_classes, student
        self._contrast: Contrast = student.contrast(
            width=plan.projector, rate=plan.rate, epochs=plan.contrast * (plan.rounds - 1) + self._last,
            crop=plan.crop, mirror=plan.mirror, corrupted=plan.corrupted,
        )  # fmt: skip
        self._model: Any = None
        self._copies: list[Model] = []
        self.rounds = Rounds(harvest, pool, rng)
        harvest.notes["sampling"] = []

    @property
    def _last(self) -> int:
        return round(LAST * self._plan.contrast)

    def copy(self, passes: int) -> Model:
        """The network after so many contrastive passes, trained on all answers but those for validation."""
        from portcullis_ml.models.contrastive import Lessons

        x, targets = self.rounds.answered()
        known = targets.sum(axis=1) > 0
        z = self._student.encoded(x)
        if passes:
            lessons = Lessons(self._unasked(z), z[known], targets[known], self._counts())
            self._model = self._contrast(self._begun(z, targets), lessons, epochs=passes, rng=self._rng)
        self._model = self._student.learner.fit(z, targets, rng=self._rng, start=self._model)
        copy = self._student.model(self._model)
        self._copies.append(copy)
        return self._harvest.keep(copy)

    def _begun(self, z: Array, targets: Array) -> Any:
        """The network of the round before; at first, one that has gone once over the answers."""
        if self._model is not None:
            return self._model
        return self._student.learner.online().fit(z, targets, rng=self._rng)

    def _unasked(self, asked: Array) -> Array:
        """Some of the rows without answers; where the pool is used up, those with answers."""
        waiting = self.rounds.waiting
        some = np.sort(self._rng.permutation(len(waiting))[: self._plan.unasked])
        return self._student.encoded(self.rounds.pool[waiting[some]]) if len(some) > 1 else asked

    def best(self) -> Model:
        """The copy of all rows, or that of an earlier round where it does better on the rows for validation."""
        self.copy(self._last)
        self._harvest.notes["class_counts"] = self._counts().tolist()
        return self.rounds.best(self._copies)

    def _counts(self) -> NDArray[np.int64]:
        """(c,) how many answers were of each class."""
        labels = self._labels()
        return np.bincount(labels[labels >= 0], minlength=self._classes)

    def _labels(self) -> Labels:
        labels = self._harvest.answer.labels
        assert labels is not None  # classes are predicted
        return labels[self.rounds.aside :]

    def ask(self, copy: Model, k: int) -> None:
        """Ask about k of the waiting rows."""
        left = min(self._harvest.left, len(self.rounds.waiting))
        rare = self._plan.rare and rare_now(self._counts(), left)
        self._harvest.notes["sampling"].append("rare" if rare else "entropy")
        if rare:
            self._ask_around_the_rarest(k)
        else:
            self.rounds.ask(self.rounds.waiting[largest(entropy(self.rounds.scores(copy)), k)])

    def _ask_around_the_rarest(self, k: int) -> None:
        """Ask k rows in five parts, each near the features of the class that has come back least by then."""
        asked, rows = self._features(self.rounds.answered()[0]), self.rounds.waiting
        features = np.concatenate([self._features(self.rounds.pool[part]) for part in self.rounds.parts()])
        for part in np.array_split(np.arange(k), SUBSTEPS):
            if not (len(part) and self._harvest.open):
                continue
            labels, counts = self._labels(), self._counts()
            rarest = int(np.where(counts > 0, counts, counts.max() + 1).argmin())
            free = np.flatnonzero(np.isin(rows, self.rounds.waiting))
            densities = density(features[free], asked[labels == rarest], self._plan.bandwidth)
            near = free[largest(densities, len(part))]
            self.rounds.ask(rows[near])
            asked = np.concatenate([asked, features[near]])

    def _features(self, x: Array) -> Array:
        from portcullis_ml.models.contrastive import features

        return features(self._model, self._student.encoded(x))


def rare_now(counts: NDArray[np.int64], left: int) -> bool:
    """Whether what is left would at most bring every class below the mean up to it."""
    mean = counts.mean()
    rare = counts[counts < mean]
    return bool(len(rare) and left <= len(rare) * (mean - rare.mean()))


def density(points: Array, centres: Array, bandwidth: float) -> Array:
    """(n,) the logarithm of how dense points (n, d) lie around centres (m, d): a sum of Gaussian kernels."""
    squares = (centres**2).sum(axis=1)
    found = []
    for start in range(0, len(points), PART):
        part = points[start : start + PART]
        distances = (part**2).sum(axis=1)[:, None] + squares - 2 * part @ centres.T
        found.append(logsumexp(-np.maximum(distances, 0) / (2 * bandwidth**2), axis=1))
    return np.concatenate(found) if found else np.empty(0)
