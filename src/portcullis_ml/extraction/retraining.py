"""Retraining: ask about points, fit a model of the victim's kind to the answers, and choose the next points by it.

Tramèr, Zhang, Juels, Reiter, Ristenpart. "Stealing Machine Learning Models via Prediction APIs",
USENIX Security 2016, section 4.1.3 (networks, from confidences) and section 6 (labels only: uniform, line-search and
adaptive retraining, the last after Cohn, Atlas, Ladner, 1994).

Threat model   answers: labels, or more where it is shown.  data: none.  victim: anything that the surrogate can be.
Query cost     the whole budget, or alpha times the surrogate's unknowns: d + 1 for a logistic regression, an SVM or a
               tree, c (d + 1) for c classes, h (d + 1) + c (h + 1) for a network of h = 20 units.

`auto` is not the paper's: it fits several families and keeps what does best on answers set aside (`models/auto.py`).

A random point far from the boundary repeats what is known. The strategies differ in where they look instead:
`uniform` nowhere; `line_search` halves segments between points that the *victim* labels differently, paying for every
midpoint and training on it; `adaptive` halves them on its own copy, which is free, and asks about both ends of what is
left, in a few rounds, a quarter of each round staying random so that a region that the copy missed is found; `mixed`,
which is not the paper's either, shares its questions among five ways of drawing them (`_mixed.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import AttackFailed, NotApplicable
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Array, Interface, Labels, Model, Reveals
from portcullis_ml.extraction._fallback import surrogate_of
from portcullis_ml.extraction._mixed import Questions, wrong_labels
from portcullis_ml.extraction._search import Segments, bisect, label_asker
from portcullis_ml.extraction._shown import spread
from portcullis_ml.models.auto import AutoLearner, AutoModel
from portcullis_ml.models.encoding import Encoding
from portcullis_ml.models.surrogates import SURROGATES, fit_surrogate, of_inputs, unknowns

__all__ = ["Retraining"]

KINDS = (*SURROGATES, "auto", "learner")
STRATEGIES = ("uniform", "line_search", "adaptive", "mixed")
ROUGH = 0.2  # of the iterations, for a copy that only says where to ask next
STEERING = ("boosted",)  # the family of such a copy where the surrogate is `auto`
RANDOM = 0.25  # of every adaptive round


@dataclass(frozen=True, kw_only=True)
class Retraining(ExtractionAttack):
    strategy: Literal["uniform", "line_search", "adaptive", "mixed"] = "mixed"  # where to ask
    surrogate: str = "auto"  # what to fit: auto (chosen by answers set aside), softmax, ..., tree, or the own learner
    answers: Literal["shown", "labels", "probs"] = "shown"  # learn from all that is shown, from labels, or insist
    alpha: float | None = None  # queries for every unknown; None spends the budget
    rounds: int = 5  # fits of the adaptive and the mixed strategy
    eps: float = 0.1  # where a line search stops: the length of what is left, inputs scaled to [-1, 1]
    pool: int = 3000  # random points that such a round looks through

    name: ClassVar[str] = "retraining"
    needs: ClassVar[Needs] = Needs(task="any")

    def __post_init__(self) -> None:
        check(self, "strategy", "'uniform', 'line_search', 'adaptive' or 'mixed'", lambda v: v in STRATEGIES)
        check(self, "surrogate", f"one of {', '.join(KINDS)}", lambda v: v in KINDS)
        check(self, "answers", "'shown', 'labels' or 'probs'", lambda v: v in ("shown", "labels", "probs"))
        check(self, "alpha", "a number above 0, or None", lambda v: v is None or 0 < v < np.inf)
        check(self, "rounds", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "eps", "a number in [1e-9, 1]", lambda v: 1e-9 <= v <= 1)
        check(self, "pool", "an int, at least 2", lambda v: isinstance(v, int) and v >= 2)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        if self.answers == "probs" and interface.reveals < Reveals.PROBS:
            raise NotApplicable(
                f"retraining with answers='probs' needs probs; this API gives {interface.reveals.word}. "
                "Set answers='shown'."
            )
        if self.surrogate == "learner" and knowledge.learner is None:
            raise NotApplicable("retraining with surrogate='learner' needs a learner; this attacker has none.")
        if interface.task == "regression":
            return self._of_numbers(harvest, interface, rng)
        retrainer = _Retrainer(self, harvest, interface, knowledge, rng)
        budget = harvest.left
        if self.alpha is not None:
            kind = unknowns(self.surrogate, retrainer.encoding.width, interface.n_classes)
            budget = min(budget, max(1, round(self.alpha * kind)))
        getattr(retrainer, self.strategy)(harvest.paid + budget)
        harvest.notes["classes_seen"] = retrainer.classes_seen() / interface.n_classes
        return retrainer.fit(1.0)

    def _of_numbers(self, harvest: Harvest, interface: Interface, rng: np.random.Generator) -> Model:
        """Uniform points and a surrogate: where labels differ, which the other strategies go by, is nowhere here."""
        if self.strategy != "uniform" or self.surrogate != "auto":
            raise NotApplicable(
                "retraining of an API that answers numbers takes strategy='uniform' and surrogate='auto'; got "
                f"{self.strategy!r} and {self.surrogate!r}."
            )
        harvest.ask(interface.uniform(harvest.left, rng))
        return surrogate_of(harvest, interface, rng)


class _Retrainer:
    """One run: the answers so far (`harvest`), the settings, and the surrogate that is fitted."""

    def __init__(
        self,
        settings: Retraining,
        harvest: Harvest,
        interface: Interface,
        knowledge: Knowledge,
        rng: np.random.Generator,
    ) -> None:
        self.settings = settings
        self.harvest = harvest
        self.interface = interface
        self.knowledge = knowledge
        self.rng = rng
        self.encoding = Encoding.of(interface)

    def uniform(self, end: int) -> None:
        self.harvest.ask(self.interface.uniform(end - self.harvest.paid, self.rng))

    def line_search(self, end: int) -> None:
        """A quarter of what is left on random points, the rest on as many segments between them as it pays for."""
        while self.harvest.open and self.harvest.paid < end:
            left = end - self.harvest.paid
            first = len(self.harvest)
            self.harvest.ask(self.interface.uniform(max(1, left // 4), self.rng))
            segments, labels = self._first_of_each_class(first)
            levels = self._levels(segments)
            afford = np.cumsum(levels) <= end - self.harvest.paid
            if not afford.any():  # one class so far, or too little left for one search
                self.harvest.ask(self.interface.uniform(min(max(1, left // 4), end - self.harvest.paid), self.rng))
                continue
            near, far, turn = segments.near[afford], segments.far[afford], segments.turn
            chosen = Segments(near, far, None if turn is None else turn[afford])
            bisect(self._label, chosen, labels[afford], levels[afford])

    def adaptive(self, end: int) -> None:
        step = -(-(end - self.harvest.paid) // self.settings.rounds)
        self.harvest.ask(self.interface.uniform(step, self.rng))
        while self.harvest.open and self.harvest.paid < end:
            size = min(step, end - self.harvest.paid)
            near = self._near_boundary(self.harvest.keep(self.fit(ROUGH)), round((1 - RANDOM) * size))
            self.harvest.ask(np.concatenate([near, self.interface.uniform(size - len(near), self.rng)]))

    def mixed(self, end: int) -> None:
        """Rounds of the questions of `_mixed.py`; every answer is predicted before it is learned from."""
        questions = Questions(self.interface, self.knowledge.pool, self.settings.pool, self.rng)
        step = -(-(end - self.harvest.paid) // self.settings.rounds)
        copy = None
        while self.harvest.open and self.harvest.paid < end:
            x, ways = questions.draw(min(step, end - self.harvest.paid), copy)
            labels = self.harvest.ask(x).labels
            assert labels is not None  # a classifier's answer
            if self.harvest.open and self.harvest.paid < end:
                before, copy = copy, self.harvest.keep(self.fit(ROUGH))
                if before is not None:
                    questions.credit(x, ways, wrong_labels(before, x, labels))
        self.harvest.notes["shares"] = {way: round(float(share), 3) for way, share in questions.shares.items()}

    def fit(self, effort: float) -> Model:
        """A new copy from every answer so far."""
        answer = self.harvest.answer
        known = answer.answered
        if not known.any():
            raise AttackFailed("retraining got no answer to learn from: every row was withheld. Try another account.")
        targets = (spread if self.settings.surrogate == "auto" else Answer.soft)(answer, self.interface.n_classes)
        if self.settings.answers == "labels":
            assert answer.labels is not None  # a classifier's answer
            targets = np.eye(self.interface.n_classes)[answer.labels]
        x, targets = self.harvest.x[known], targets[known]
        if self.settings.surrogate == "auto":
            return self._fit_auto(x, targets, effort)
        if self.settings.surrogate == "learner":
            assert self.knowledge.learner is not None  # checked before the first query
            return self.knowledge.learner.fit(x, targets, rng=self.rng)
        model = fit_surrogate(self.settings.surrogate, self.encoding(x), targets, rng=self.rng, effort=effort)
        return of_inputs(self.encoding, model)

    def _fit_auto(self, x: Array, targets: Array, effort: float) -> Model:
        """Boosted trees where a copy only says where to ask next; at last, what the answers set aside choose."""
        learner = AutoLearner(families=() if effort == 1.0 else STEERING).knowing(self.interface)
        model = learner.fit(x, targets, rng=self.rng)
        if effort == 1.0 and isinstance(model, AutoModel):
            self.harvest.notes["chosen"] = model.chosen
        return model

    def classes_seen(self) -> int:
        labels = self.harvest.answer.labels
        return len(np.unique(labels[labels >= 0])) if labels is not None else 0

    def _label(self, flat: Array) -> Labels:
        return label_asker(self.harvest)(flat.reshape(len(flat), *self.interface.input_shape))

    def _near_boundary(self, copy: Model, size: int) -> Array:
        """(at most size, *input_shape) points on both sides of the copy's own boundary."""
        pool = self.interface.uniform(max(self.settings.pool, size), self.rng)
        scores = copy.scores(pool)
        labels = scores.argmax(axis=1)
        if len(np.unique(labels)) < 2:
            top = np.sort(scores, axis=1)
            return pool[np.argsort(top[:, -1] - top[:, -2], kind="stable")[:size]]
        first = self.rng.permutation(len(pool))[: size // 2]
        partner = np.empty_like(first)
        for c in np.unique(labels[first]):
            mine = labels[first] == c
            partner[mine] = self.rng.choice(np.flatnonzero(labels != c), size=mine.sum())
        segments = self._between(pool[first], pool[partner])

        def local(flat: Array) -> Labels:
            return np.asarray(copy.scores(flat.reshape(len(flat), *self.interface.input_shape)).argmax(axis=1))

        near, far = bisect(local, segments, labels[first], self._levels(segments))
        ends = np.stack([segments.at(near), segments.at(far)], axis=1)
        return ends.reshape(-1, *self.interface.input_shape)

    def _first_of_each_class(self, start: int) -> tuple[Segments, Labels]:
        """Segments from every answered row from `start` on to the first row of each other class, in random order."""
        x, labels = self.harvest.x, self.harvest.answer.labels
        assert labels is not None  # a classifier's answer
        first = {c: int(np.flatnonzero(labels == c)[0]) for c in np.unique(labels[labels >= 0])}
        pairs = np.array([(i, j) for i in range(start, len(x)) for c, j in first.items() if labels[i] not in (c, -1)])
        pairs = self.rng.permutation(np.asarray(pairs, np.int64).reshape(-1, 2))
        return self._between(x[pairs[:, 0]], x[pairs[:, 1]]), labels[pairs[:, 0]]

    def _between(self, near: Array, far: Array) -> Segments:
        near, far = (end.reshape(len(end), self.interface.n_inputs) for end in (near, far))
        if not (self.encoding.categories > 0).any():
            return Segments(near, far)
        turn = np.where(self.encoding.categories > 0, self.rng.uniform(size=near.shape), np.nan)
        return Segments(near, far, turn)

    def _levels(self, segments: Segments) -> NDArray[np.int64]:
        """(m,) halvings until what is left of a segment is at most eps long."""
        length = np.linalg.norm(self.encoding(segments.near) - self.encoding(segments.far), axis=1)
        levels = np.ceil(np.log2(np.maximum(length / self.settings.eps, 1.0)))
        return np.asarray(levels, np.int64)
