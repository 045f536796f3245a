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

The wrong class is the second or third most likely one (one of all others where nothing is known of them). Its scores
are those of an earlier answer of that class to the same client, a little changed; the true class's, exchanged, would
tell: eight of ten scores would still be those of an answer of the true class. They are exchanged all the same where no
earlier answer is known or an earlier stage has changed the scores, so put this stage behind those that change labels
and before those that round or withhold scores.

What is written down is in the gate's journal before the answer leaves. It is forgotten when the stage's settings or its
place change, or an operator clears the client: commit to the marks first.
"""

from __future__ import annotations

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
PLAUSIBLE = 3  # a wrong answer is one of so many most likely classes
KEPT = 128  # answers whose scores are kept for each client, for marked ones to look like


@dataclass
class Marked:
    """The marked questions of one client: rows x (n, d), the labels that were served, and when each was first asked."""

    x: Array = field(default_factory=lambda: np.empty((0, 0)))
    labels: Labels = field(default_factory=lambda: np.empty(0, np.int64))
    at: list[float] = field(default_factory=list)
    known: list[int] = field(default_factory=list)  # how many of `honest` there were when each was first asked
    honest: Array = field(default_factory=lambda: np.empty((0, 0)))  # (m, c) the scores of the first unmarked answers

    def mark(self, row: Array, label: int, at: float) -> int:
        """The place of the marked question `row` (d,), which is written down unless it is already."""
        if len(self.x):
            same = (self.x == row) | (np.isnan(self.x) & np.isnan(row))  # NaN: an input that was left out
            if (found := same.all(axis=1)).any():
                return int(found.argmax())
        self.x = np.concatenate([self.x, row[None]]) if len(self.x) else row[None].copy()
        self.labels = np.append(self.labels, label)
        self.at.append(at)
        self.known.append(len(self.honest))
        return len(self.at) - 1

    def keep(self, scores: Array) -> None:
        """Keep the scores (c,) of an answer that is not marked."""
        self.honest = np.concatenate([self.honest, scores[None]]) if len(self.honest) else scores[None].copy()


@dataclass(frozen=True, kw_only=True)
class Dawn(Defense[Marked]):
    rate: float = 0.005  # share of a client's questions that is marked; more marks prove sooner and cost more
    planes: int = 6  # that divide the questions; more make more codes, which survive less noise
    _interface: Interface | None = field(default=None, init=False, compare=False, repr=False)  # once bound

    name: ClassVar[str] = "dawn"

    def __post_init__(self) -> None:
        check(self, "rate", "in (0, 0.5]", lambda v: 0 < v <= 0.5)
        check(self, "planes", "an int in [0, 64]", lambda v: isinstance(v, int) and 0 <= v <= 64)

    def bind(self, interface: Interface) -> Self:
        if interface.task != "classification":
            raise NotApplicable("dawn needs an API that predicts classes; this one does regression.")
        return bound(self, _interface=interface)

    def shown(self, interface: Interface) -> Interface:
        return interface.revealing(explains=False)

    def start(self) -> Marked:
        return Marked()

    def kept(self, state: Marked) -> int:
        return len(state.labels)

    def release(self, request: Request, answer: Answer, clean: Answer, state: Marked, noise: Noise) -> Answer:
        if answer.labels is None or clean.labels is None:
            raise NotApplicable("dawn needs an API that predicts classes; this one does regression.")
        explanation = None if answer.explanation is None else np.full_like(answer.explanation, np.nan)
        drawn = noise.uniform(self._keyed(request, clean, noise), 2)
        hit = (drawn[:, 0] < self.rate) & (answer.labels != WITHHELD)
        whole = as_given(answer, clean)
        labels, scores = answer.labels.copy(), None if answer.scores is None else answer.scores.copy()
        for i in map(int, np.flatnonzero(hit | whole if len(state.honest) < KEPT else hit)):
            if not hit[i]:
                if scores is not None and len(state.honest) < KEPT:
                    state.keep(scores[i])
                continue
            row = np.asarray(request.x[i], np.float64).reshape(-1)
            place = state.mark(row, self._wrong(clean, i, drawn[i, 1]), request.at)
            labels[i] = label = int(state.labels[place])
            if scores is not None:
                honest = state.honest[: state.known[place]] if whole[i] else scores[:0]
                was, x = int(answer.labels[i]), request.x[i : i + 1]
                scores[i] = lookalike(label, was, scores[i], honest, noise, x)
        if not hit.any() and explanation is None:
            return answer
        return Answer(labels, scores, explanation)

    def codes(self, x: Floats, clean: Answer, noise: Noise) -> NDArray[np.int64]:
        """(n, 1 + classes + planes) what decides about each question: its class, its scores' bits, its sides."""
        assert self._interface is not None  # the guard binds its stages
        assert clean.labels is not None
        parts = [clean.labels[:, None], _sides(x, self._interface, self.planes, noise)]
        if clean.scores is not None:
            logs = np.rint(STEPS * np.log(np.maximum(clean.scores, FLOOR)))
            parts.append(logs * logs.shape[1] > logs.sum(axis=1, keepdims=True))
        return np.concatenate([np.asarray(part, np.int64) for part in parts], axis=1)

    def _keyed(self, request: Request, clean: Answer, noise: Noise) -> Array:
        """(n, ...) the client's name and the codes, as numbers of which the noise sees every one."""
        name = np.frombuffer(request.client.encode(), np.uint8)
        codes = self.codes(request.x, clean, noise)
        client = np.broadcast_to(np.concatenate([[len(name)], name]), (len(codes), 1 + len(name)))
        return np.asarray(noise.quantum * np.concatenate([client, codes], axis=1))

    def _wrong(self, clean: Answer, i: int, draw: float) -> int:
        """A wrong class for row i that looks plausible."""
        assert self._interface is not None
        assert clean.labels is not None
        scores = np.zeros(self._interface.n_classes) if clean.scores is None else clean.scores[i]
        least = np.sort(scores)[-min(PLAUSIBLE, len(scores))]
        among = np.flatnonzero(~(scores < least))
        among = among[among != clean.labels[i]]
        return int(among[int(draw * len(among))])


def _sides(x: Floats, interface: Interface, planes: int, noise: Noise) -> NDArray[np.bool_]:
    """(n, planes) on which side of each plane the rows lie; a left-out input lies at the least value."""
    low, span = interface.low, interface.high - interface.low
    rows = (np.asarray(x, np.float64).reshape(len(x), interface.n_inputs) - low) / np.where(span > 0, span, 1.0)
    steps = np.rint(STEPS * np.nan_to_num(np.clip(rows, -1.0, 2.0)))
    return np.asarray(steps @ _normals(noise, planes, interface.n_inputs) > 0)


@lru_cache(maxsize=16)
def _normals(noise: Noise, planes: int, inputs: int) -> Array:
    """(inputs, planes) as many 1 as -1 in each column, drawn by the key: planes through all questions of one value."""
    words = noise.quantum * np.arange(planes, dtype=np.float64)[:, None]  # one number each, where codes have more
    order = np.argsort(noise.uniform(words, inputs), axis=1)
    signs = np.zeros(inputs)
    signs[: inputs // 2], signs[inputs - inputs // 2 :] = 1.0, -1.0
    return np.ascontiguousarray(signs[order].T)
