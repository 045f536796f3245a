"""In distribution: ask only what a detector of the thief's own lets pass, and mix the rest with cover.

Sadeghzadeh et al. "HODA: Hardness-Oriented Detection of Model Extraction Attacks", submitted to ICLR 2022, the section
on adversaries who mix benign samples in; Atli, Szyller, Juuti, Marchal, Asokan. "Extraction of Complex DNN Models: Real
Threat or Boogeyman?", EDSMLS 2020, the section on an adversary whose data is like the victim's.

Threat model   answers: labels or more, behind a filter or a detector whose settings the thief has been told (not its
               key, nor what it has trained).  data: a pool, and a few rows of the victim's domain.
Query cost     the budget. Rows of the domain that serve as cover are paid for like others, and more of the pool is
               looked at than is asked about.

The thief trains the known guard anew: its own rows are the seeds and those of the pool nearest to them, its foreign
rows those farthest away and uniform points; a copy trained on the answers so far stands for the victim. Questions go
out a hundred at a time. Of some draws from the pool, without rows that the thief's own filter flags, that one is asked
which makes the thief's own detectors least suspicious; where all are too suspicious, more and more of the hundred are
rows of the domain, asked again and again. A wrapped attack asks what it likes, and cover goes between its questions.
When four times as much is known, the guard is trained anew. The first questions go out unrehearsed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import Refused
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Array, Interface, Model
from portcullis_ml.extraction._rehearsed import LOOKED, Rehearsed, sorted_by_domain
from portcullis_ml.extraction._wrapped import collect

__all__ = ["InDistribution"]

UNITS = ("out_of_domain", "watch")
SHARES = (0.0, 0.5, 0.75, 0.9)  # of cover in what goes out
GROWTH = 4  # the guard is trained anew when so many times as much is known


@dataclass(frozen=True, kw_only=True)
class InDistribution(ExtractionAttack):
    of: ExtractionAttack | None = None  # the attack whose questions are covered; None asks about the pool
    first: int = 40  # questions before anything is rehearsed; more teach the first rehearsal more and may sound alarms
    batch: int = 100  # questions that go out together, cover included; detectors with windows want a whole window
    tries: int = 4  # draws from the pool that are compared for every batch
    margin: float = 0.8  # of a detector's threshold: what the thief's own may say at most

    name: ClassVar[str] = "in_distribution"
    needs: ClassVar[Needs] = Needs(pool=True, learner=True, defense=UNITS)

    def __post_init__(self) -> None:
        check(self, "of", "an extraction attack, or None", lambda v: v is None or isinstance(v, ExtractionAttack))
        for name in ("first", "tries"):
            check(self, name, "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "batch", "an int of at least 10", lambda v: isinstance(v, int) and v >= 10)
        check(self, "margin", "in (0, 1]", lambda v: 0 < v <= 1)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        assert knowledge.learner is not None  # `needs` says so
        assert knowledge.pool is not None
        asker = _Asker(self, harvest, interface, knowledge, rng)
        if self.of is not None:
            inner = Harvest(asker)
            made = collect(self.of, inner, interface, knowledge, rng)
            harvest.notes |= inner.notes | asker.notes()
            harvest.history += [(asker.billed(n), model) for n, model in inner.history if model is not made]
            assert made is not None  # there is a wrapped attack
            return made
        while harvest.open and len(asker.waiting):
            asker.ask_pool()
        harvest.notes |= asker.notes()
        first = np.unique(harvest.x.reshape(-1, interface.n_inputs), axis=0, return_index=True)[
            1
        ]  # cover was asked again
        return knowledge.learner.fit(harvest.x[np.sort(first)], harvest.targets()[np.sort(first)], rng=rng)


class _Asker:
    """Asks in batches that the rehearsed guard finds quiet. To a wrapped attack it is the API.

    waiting   rows of the pool that have not been asked
    """

    def __init__(
        self,
        settings: InDistribution,
        harvest: Harvest,
        interface: Interface,
        known: Knowledge,
        rng: np.random.Generator,
    ) -> None:
        assert known.pool is not None
        self.interface = interface
        self.waiting = rng.permutation(len(known.pool))
        self._settings, self._harvest, self._known, self._rng = settings, harvest, known, rng
        self._pool = known.pool
        self._cover = known.pool[self.waiting[:10]] if known.seeds is None or not len(known.seeds) else known.seeds
        self._own, self._foreign = sorted_by_domain(self._pool[self.waiting[:LOOKED]], self._cover, interface, rng)
        self._rehearsed: Rehearsed | None = None
        self._trained_at = self._looked = self._covered = 0
        self._share = 0  # the place in SHARES at which the latest batch went out
        self._bills = [(0, 0)]  # (rows of the wrapped attack, rows paid) after each of its batches

    def notes(self) -> dict[str, Any]:
        return {"looked_at": self._looked, "cover": self._covered, "rehearsed": self._rehearsed is not None}

    def ask_pool(self) -> None:
        """Choose a batch from the pool, and ask."""
        size = min(self._size(), self._harvest.left)
        best: tuple[float, NDArray[np.int64], Array, int] | None = None
        for place in range(max(self._share - 1, 0), len(SHARES) if self._rehearsed else 1):
            for _ in range(self._settings.tries):
                rows = self._drawn(max(1, round((1 - SHARES[place]) * size)))
                x = self._mixed(self._pool[rows], size - len(rows) if SHARES[place] else 0)[0]
                loud = self._loud(x)
                if best is None or loud < best[0]:
                    best = loud, rows, x, place
                if loud <= self._settings.margin:
                    break
            if best is not None and best[0] <= self._settings.margin:
                break
        assert best is not None  # one share is tried at least
        _, rows, x, self._share = best
        self.waiting = self.waiting[~np.isin(self.waiting, rows)]
        self._covered += len(x) - len(rows)
        self._send(x)

    @property
    def left(self) -> int:
        return self._harvest.left

    def query(self, x: Array) -> Answer:
        """The answers to a wrapped attack's rows, which go out between cover."""
        answers: list[Answer] = []
        start = 0
        while start < len(x):
            size = min(self._size(), self._harvest.left)
            asked, mine = self._covered_batch(x[start:], size)
            answer = self._send(asked)
            mine = mine[: len(answer)]
            self._covered += int((~mine).sum())
            answers.append(answer.take(np.flatnonzero(mine)))
            start += int(mine.sum())
            if start < len(x) and not self._harvest.open:
                answers = [part for part in answers if len(part)]
                raise Refused(self._harvest.ended, answered=Answer.concat(answers) if answers else None)
        self._bills.append((self._bills[-1][0] + len(x), self._harvest.paid))
        return Answer.concat(answers)

    def billed(self, rows: int) -> int:
        """What was paid when the wrapped attack had asked about so many rows."""
        return max((paid for asked, paid in self._bills if asked <= rows), default=0)

    def _covered_batch(self, x: Array, size: int) -> tuple[Array, NDArray[np.bool_]]:
        """The head of x with as little cover as is quiet, and which rows are of x."""
        tried = []
        for place in range(max(self._share - 1, 0), len(SHARES) if self._rehearsed else 1):
            mine = x[: max(1, round((1 - SHARES[place]) * size))]
            cover = round(len(mine) * SHARES[place] / (1 - SHARES[place]))
            asked, which = self._mixed(mine, min(cover, size - len(mine)))
            loud = self._loud(asked)
            tried.append((loud, place, asked, which))
            if loud <= self._settings.margin:
                break
        _, self._share, asked, which = min(tried, key=lambda t: t[0])
        return asked, which

    def _loud(self, x: Array) -> float:
        """What the thief's own detectors would say if these rows went out, and a batch like them after."""
        return 0.0 if self._rehearsed is None else self._rehearsed.suspicion(x, more=self._settings.batch)

    def _size(self) -> int:
        """How many questions go out next."""
        lead = self._settings.first - len(self._harvest)
        return lead if lead > 0 else self._settings.batch

    def _send(self, x: Array) -> Answer:
        answer = self._harvest.ask(x)
        if self._rehearsed is not None:
            self._rehearsed.heard(x[: len(answer)])
        self._rehearse()
        return answer

    def _rehearse(self) -> None:
        """Train the known guard, where enough is known that was not before."""
        n = len(self._harvest)
        if self._known.train is None or n < max(self._settings.first, GROWTH * self._trained_at) or not self.left:
            return
        assert self._known.learner is not None  # `needs` says so
        self._trained_at = n
        copy = self._known.learner.fit(self._harvest.x, self._harvest.targets(), rng=self._rng)
        guard = self._known.train(copy, self._own, self._foreign)
        self._rehearsed = Rehearsed.of(copy, guard, self._harvest.x)

    def _drawn(self, n: int) -> NDArray[np.int64]:
        """(<= n,) rows of the pool that have not been asked, those first that the rehearsed filter lets pass."""
        rows = self._rng.permutation(self.waiting)[: 2 * n if self._rehearsed else n]
        self._looked += len(rows)
        if self._rehearsed is not None:
            rows = rows[np.argsort(~self._rehearsed.passes(self._pool[rows]), kind="stable")]
        return np.asarray(rows[:n])

    def _mixed(self, x: Array, cover: int) -> tuple[Array, NDArray[np.bool_]]:
        """The rows x in order with so many rows of cover between them, and which are of x."""
        mine = np.zeros(len(x) + cover, bool)
        mine[self._rng.permutation(len(mine))[: len(x)]] = True
        asked = self._cover[self._rng.integers(len(self._cover), size=len(mine))]
        asked[mine] = x
        return asked, mine
