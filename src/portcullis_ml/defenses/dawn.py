"""DAWN: answer a small share of each client's questions wrongly and write them down, so that copies can be recognised.

Szyller, Atli, Marchal, Asokan. "DAWN: Dynamic Adversarial Watermarking of Neural Networks", ACM Multimedia 2021, the
section on watermark generation. Scheme `dawn` of `portcullis list ownership` makes evidence of what is written down.

Costs the honest client   a wrong label for `rate` of their questions, with the confidence of a right one; explanations
                          are not shown, since they would speak for the true class.
Does not stop             the theft: it only shows later whose answers a copy was trained on. Two accounts that ask the
                          same questions are answered differently where one of them is marked, at twice the price.

Which questions are marked depends on the guard's key, the client, and a code of the question that small changes mostly
leave alone: the model's class, which of its scores are above their geometric mean, and on which side of some secret
planes the question lies. So neither repeats nor neighbours give the right answer away. Fewer planes mean a code that
survives more noise and fewer codes, so that marks come in clusters and their share varies more from key to key.

The wrong class is one of the second to fourth most likely (of all others where nothing is known of them), chosen so
that each class is a wrong answer about as often as it is a right one to the same client: else the label alone would
tell. A question with the code of an earlier marked one gets the same wrong class where that is plausible. What no
choice can hide: the answer is wrong, and whoever has a model nearly as good as this one has reason to doubt it.

Its scores are those of an earlier answer of that class to the same client, a little changed; the true class's,
exchanged, would tell: eight of ten scores would still be those of an answer of the true class. They are exchanged all
the same where no earlier answer is known or an earlier stage has changed the scores, so put this stage behind those
that change labels and before those that round or withhold scores.

What is written down is in the gate's journal before the answer leaves. It is forgotten when the stage's settings or its
place change, or an operator clears the client: commit to the marks first.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import WITHHELD, Answer, Array, Floats, Interface, Labels, Request
from portcullis_ml.defenses._lookalikes import as_given, lookalike

__all__ = ["Dawn", "Marked"]

FLOOR = 1e-12  # smaller scores count as this
STEPS = 4096  # of an input's range and of a logarithm, so that sums are exact and do not depend on the batch
PLAUSIBLE = 4  # a wrong answer is one of so many most likely classes
KEPT = 128  # answers whose scores are kept for each client, for marked ones to look like


@dataclass
class Marked:
    """The marked questions of one client: rows x (n, d), the labels that were served, and when each was first asked."""

    x: Array = field(default_factory=lambda: np.empty((0, 0)))
    labels: Labels = field(default_factory=lambda: np.empty(0, np.int64))
    at: list[float] = field(default_factory=list)
    known: list[int] = field(default_factory=list)  # how many of `honest` there were when each was first asked
    draws: list[float] = field(default_factory=list)  # of each question's code: equal for equal codes
    answered: dict[int, int] = field(default_factory=dict)  # class -> unmarked answers
    honest: Array = field(default_factory=lambda: np.empty((0, 0)))  # (m, c) the scores of the first unmarked answers

    def place(self, row: Array, draw: float) -> int | None:
        """Where the question `row` (d,) stands among the marked ones, if it does; `draw` is that of its code."""
        for i, earlier in enumerate(self.draws):
            if earlier == draw and np.array_equal(self.x[i], row, equal_nan=True):  # NaN: an input that was left out
                return i
        return None

    def mark(self, row: Array, label: int, draw: float, at: float) -> int:
        """Write down the marked question `row` (d,); its place among them."""
        self.x = np.concatenate([self.x, row[None]]) if len(self.x) else row[None].copy()
        self.labels = np.append(self.labels, label)
        self.at.append(at)
        self.known.append(len(self.honest))
        self.draws.append(draw)
        return len(self.at) - 1

    def missing(self, n_classes: int) -> Array:
        """(classes,) how many more marks of each class would make it as common among them as among right answers."""
        answered = np.array([self.answered.get(c, 0) for c in range(n_classes)], np.float64)
        share = answered / answered.sum() if answered.any() else np.full(n_classes, 1 / n_classes)
        return np.asarray(share * (len(self.labels) + 1) - np.bincount(self.labels, minlength=n_classes))

    def keep(self, scores: Array) -> None:
        """Keep the scores (c,) of an answer that is not marked."""
        self.honest = np.concatenate([self.honest, scores[None]]) if len(self.honest) else scores[None].copy()


@dataclass(frozen=True, kw_only=True)
class Dawn(Defense[Marked]):
    rate: float = 0.005  # share of a client's questions that is marked; more marks prove sooner and cost more
    planes: int = 6  # that divide the questions; more make more codes, which survive less noise
    _interface: Interface | None = field(default=None, init=False, compare=False, repr=False)  # once bound
    _low: Array | None = field(default=None, init=False, compare=False, repr=False)  # least values, (inputs,)
    _scale: Array | None = field(default=None, init=False, compare=False, repr=False)  # steps in one unit, (inputs,)

    name: ClassVar[str] = "dawn"

    def __post_init__(self) -> None:
        check(self, "rate", "in (0, 0.5]", lambda v: 0 < v <= 0.5)
        check(self, "planes", "an int in [0, 64]", lambda v: isinstance(v, int) and 0 <= v <= 64)

    def bind(self, interface: Interface) -> Self:
        if interface.task != "classification":
            raise NotApplicable("dawn needs an API that predicts classes; this one does regression.")
        low, span = interface.low, interface.high - interface.low
        return bound(self, _interface=interface, _low=low, _scale=STEPS / np.where(span > 0, span, 1.0))

    def shown(self, interface: Interface) -> Interface:
        return interface.revealing(explains=False)

    def start(self) -> Marked:
        return Marked()

    def kept(self, state: Marked) -> int:
        return len(state.labels)

    def release(self, request: Request, answer: Answer, clean: Answer, state: Marked, noise: Noise) -> Answer:
        if answer.labels is None or clean.labels is None:
            raise NotApplicable("dawn needs an API that predicts classes; this one does regression.")
        hits, draws = self._drawn(request, clean, noise)
        whole = as_given(answer, clean) if hits.any() or len(state.honest) < KEPT else None
        labels, scores = answer.labels, answer.scores
        for i, was in enumerate(answer.labels.tolist()):
            if was == WITHHELD:
                continue
            if not hits[i]:
                state.answered[was] = state.answered.get(was, 0) + 1
                if answer.scores is not None and len(state.honest) < KEPT and whole is not None and whole[i]:
                    state.keep(answer.scores[i])
                continue
            if labels is answer.labels:
                labels, scores = labels.copy(), None if scores is None else scores.copy()
            place = self._marked(request, clean, i, float(draws[i]), state)
            labels[i] = label = int(state.labels[place])
            if scores is not None and whole is not None:
                honest = state.honest[: state.known[place]] if whole[i] else scores[:0]
                scores[i] = lookalike(label, was, scores[i], honest, noise, request.x[i : i + 1])
        if labels is answer.labels and answer.explanation is None:
            return answer
        explanation = None if answer.explanation is None else np.full_like(answer.explanation, np.nan)
        return Answer(labels, scores, explanation)

    def codes(self, x: Floats, clean: Answer, noise: Noise) -> NDArray[np.int64]:
        """(n, 1 + classes + planes) what decides about each question: its class, its scores' bits, its sides."""
        assert clean.labels is not None
        classes = 0 if clean.scores is None else clean.scores.shape[1]
        codes = np.empty((len(x), 1 + self.planes + classes), np.int64)
        codes[:, 0] = clean.labels
        codes[:, 1 : 1 + self.planes] = self._sides(x, noise)
        if clean.scores is not None:
            logs = np.rint(STEPS * np.log(np.maximum(clean.scores, FLOOR)))
            codes[:, 1 + self.planes :] = logs * classes > logs.sum(axis=1, keepdims=True)
        return codes

    def _sides(self, x: Floats, noise: Noise) -> NDArray[np.bool_]:
        """(n, planes) on which side of each plane the rows lie; a left-out input lies below all others."""
        assert self._low is not None  # the guard binds its stages
        assert self._scale is not None
        steps = np.asarray(x, np.float64).reshape(len(x), len(self._low)) - self._low
        steps *= self._scale
        np.rint(steps, steps)
        np.fmax(steps, -STEPS, steps)  # the greater, or the number that is not NaN
        np.fmin(steps, 2 * STEPS, steps)
        return np.asarray(steps @ _normals(noise, self.planes, len(self._low)) > 0)

    def _drawn(self, request: Request, clean: Answer, noise: Noise) -> tuple[NDArray[np.bool_], Array]:
        """((n,) which questions are marked, (n,) a number in [0, 1) that is equal for equal codes)."""
        begun = _keyed(noise).copy()
        name = request.client.encode()
        begun.update(len(name).to_bytes(8, "little") + name)
        digests = []
        for code in self.codes(request.x, clean, noise):
            digest = begun.copy()
            digest.update(code)
            digests.append(digest.digest())
        numbers = np.asarray((np.frombuffer(b"".join(digests), "<u8") >> 11) * 2.0**-53, np.float64)
        return numbers[::2] < self.rate, numbers[1::2]

    def _marked(self, request: Request, clean: Answer, i: int, draw: float, state: Marked) -> int:
        """The place of question i among the client's marked ones, written down if it is new."""
        row = np.asarray(request.x[i], np.float64).reshape(-1)
        place = state.place(row, draw)
        if place is not None:
            return place
        return state.mark(row, self._wrong(clean, i, draw, state), draw, request.at)

    def _wrong(self, clean: Answer, i: int, draw: float, state: Marked) -> int:
        """A wrong class for row i that looks plausible: that of its code, or one that marks have too seldom so far."""
        assert self._interface is not None
        assert clean.labels is not None
        scores = np.zeros(self._interface.n_classes) if clean.scores is None else clean.scores[i]
        least = np.sort(scores)[-min(PLAUSIBLE, len(scores))]
        among = np.flatnonzero(~(scores < least))
        among = among[among != clean.labels[i]]
        if draw in state.draws and (label := int(state.labels[state.draws.index(draw)])) in among:
            return label
        chances = np.maximum(state.missing(len(scores))[among], FLOOR).cumsum()
        return int(among[np.searchsorted(chances, draw * chances[-1], side="right")])


@lru_cache(maxsize=16)
def _keyed(noise: Noise) -> hashlib.blake2b:
    """The beginning of every hash: BLAKE2b with the guard's key, for this stage."""
    stage = hashlib.blake2b(noise.stage.encode(), digest_size=16).digest()
    return hashlib.blake2b(digest_size=16, key=noise.key[:64], person=stage, salt=b"dawn's codes")


@lru_cache(maxsize=16)
def _normals(noise: Noise, planes: int, inputs: int) -> Array:
    """(inputs, planes) as many 1 as -1 in each column, drawn by the key: planes through all questions of one value."""
    words = noise.quantum * np.arange(planes, dtype=np.float64)[:, None]  # one number each, where codes have more
    order = np.argsort(noise.uniform(words, inputs), axis=1)
    signs = np.zeros(inputs)
    signs[: inputs // 2], signs[inputs - inputs // 2 :] = 1.0, -1.0
    return np.ascontiguousarray(signs[order].T)
