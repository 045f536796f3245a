"""Knockoff: ask about natural images from anywhere, and train on whatever comes back.

Orekondy, Schiele, Fritz. "Knockoff Nets: Stealing Functionality of Black-Box Models", CVPR 2019, section 4.1
(the random strategy and the adaptive one).

Threat model   answers: probabilities (labels work, less well).  data: a pool of natural inputs; it need not
               resemble the victim's domain, and nobody has labelled it.
Query cost     one per pool row. When the pool is used up, rows repeat.

The victim's answers to unrelated pictures still say how it sees: a copy that agrees with it on thousands of them,
probabilities included, agrees with it on its own task. Nothing is chosen by what came back, so the stream looks like
any customer with many pictures, and a detector of synthetic queries has nothing to see. The copy is trained once, from
scratch, on the whole transfer set: no epoch is picked by looking at the victim's test set.

The adaptive strategy asks more of the kinds of pictures that pay: a gradient bandit over the pool's own groups, or over
clusters of its rows where it has none, learns from rewards (`_bandit.py`). The paper rewards every picture and trains
on it before the next; here that goes in batches, and `batch=1` is the paper's. A learner that can go on from where it
was is taken over every batch; another is fitted anew, in its roughest form, whenever the rows have doubled. Behind
labels alone every answer is equally certain, and only the other rewards say anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Labels, Model
from portcullis_ml.extraction._bandit import Bandit, Rewards

__all__ = ["Knockoff", "ask_pool"]

REWARDS = ("certainty", "diversity", "loss")
MOMENTS = 10  # at which the bandit's chances are noted
SEEN = 20_000  # rows of a pool without groups that make its clusters
MEANT = 1000  # rows of a group that its mean is taken of
PART = 4096  # rows of a large pool that are held at once


@dataclass(frozen=True, kw_only=True)
class Knockoff(ExtractionAttack):
    selection: Literal["random", "adaptive"] = "random"  # which pool row comes next: any, or of a group that pays
    batch: int = 256  # rows sent at a time; a guard that closes the door does so inside one
    rewards: tuple[str, ...] = REWARDS  # of the adaptive strategy, averaged: certainty, diversity, loss
    clusters: int = 30  # groups of a pool that has none of its own
    levels: Literal[1, 2] = 1  # 2: the groups hang below coarser ones, drawn first
    window: int = 100  # answers just before that diversity is measured against

    name: ClassVar[str] = "knockoff"
    needs: ClassVar[Needs] = Needs(task="any", pool=True, learner=True, numeric=False)

    def __post_init__(self) -> None:
        check(self, "selection", "'random' or 'adaptive'", lambda v: v in ("random", "adaptive"))
        check(self, "batch", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "rewards", f"some of {', '.join(REWARDS)}", lambda v: v and set(v) <= set(REWARDS))
        check(self, "clusters", "an int, at least 2", lambda v: isinstance(v, int) and v >= 2)
        check(self, "levels", "1 or 2", lambda v: v in (1, 2))
        check(self, "window", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        assert knowledge.pool is not None
        assert knowledge.learner is not None  # `needs` says so
        if self.selection == "adaptive":
            if interface.task == "regression":
                raise NotApplicable(f"{self.name} with selection='adaptive' is rewarded by classes. Take 'random'.")
            self._ask_by_rewards(harvest, interface, knowledge.pool, knowledge, rng)
        else:
            ask_pool(harvest, knowledge.pool, self.batch, rng)
        return knowledge.learner.fit(harvest.x, harvest.targets(), rng=rng)

    def _ask_by_rewards(
        self, harvest: Harvest, interface: Interface, pool: Array, knowledge: Knowledge, rng: np.random.Generator
    ) -> None:
        """Ask until the budget or the guard ends it; notes the groups' chances at ten moments."""
        names, groups = _groups(pool, knowledge.pool_groups, self.clusters, rng)
        above = _coarser(pool, groups, rng) if self.levels == 2 else None
        bandit, rewards = Bandit(groups, rng, above=above), Rewards(self.rewards, self.window)
        student, chances, budget = _Student(knowledge.learner), [bandit.probabilities()], harvest.left
        while harvest.open:
            rows = bandit.draw(min(self.batch, harvest.left))
            x = pool[rows]
            answer = harvest.ask(x)
            rows, x = rows[: len(answer)], x[: len(answer)]
            if len(rows) == 0:
                break
            given = answer.soft(interface.n_classes)
            bandit.learn(rows, rewards.of(given, student.scores(x, given)))
            student.learn(x, given, harvest, rng)
            if harvest.paid * MOMENTS >= budget * len(chances):
                chances.append(bandit.probabilities())
        harvest.notes["repeated_rows"] = max(0, len(harvest) - len(pool))
        harvest.notes["bandit"] = {"groups": names, "chances": [np.round(p, 4).tolist() for p in chances]}


class _Student:
    """The copy that rewards are measured by."""

    def __init__(self, learner: Any) -> None:
        self._learner = learner
        self._incremental = learner.incremental() if hasattr(learner, "incremental") else None
        self._model: Model | None = None
        self._rows = 0  # it was fitted to

    def scores(self, x: Array, given: Array) -> Array:
        """Its probabilities for x; before it has learned anything, the answers themselves."""
        return given if self._model is None else self._model.scores(x)

    def learn(self, x: Array, given: Array, harvest: Harvest, rng: np.random.Generator) -> None:
        """Learn the rows just answered, or everything anew where the rows have doubled."""
        if self._incremental is not None:
            self._incremental.partial_fit(x, given, rng=rng)
            self._model = self._incremental.model
        elif hasattr(self._learner, "online"):
            self._model = self._learner.online().fit(x, given, rng=rng, start=self._model)
        elif len(harvest) >= 2 * self._rows:
            rough = self._learner.rough() if hasattr(self._learner, "rough") else self._learner
            self._model, self._rows = rough.fit(harvest.x, harvest.targets(), rng=rng), len(harvest)


def _groups(
    pool: Array, groups: np.ndarray | None, clusters: int, rng: np.random.Generator
) -> tuple[list[str], Labels]:
    """The groups' names and (n,) the group of each pool row, from 0: the pool's own, or clusters of its rows."""
    if groups is not None:
        known, found = np.unique(groups, return_inverse=True)
        return [str(name) for name in known], found.astype(np.int64)
    known, found = np.unique(_clusters(pool, clusters, rng), return_inverse=True)
    return [f"cluster {i + 1}" for i in range(len(known))], found.astype(np.int64)


def _coarser(pool: Array, groups: Labels, rng: np.random.Generator) -> Labels:
    """(groups,) the coarse group above each: clusters of the groups' means, about the root of their number."""
    some = [np.flatnonzero(groups == g)[:MEANT] for g in range(groups.max() + 1)]
    means = np.stack([pool[rows].reshape(len(rows), -1).mean(axis=0) for rows in some])
    return np.unique(_clusters(means, max(2, round(len(means) ** 0.5)), rng), return_inverse=True)[1].astype(np.int64)


def _clusters(pool: Array, k: int, rng: np.random.Generator) -> Labels:
    """(n,) the cluster of each row; of a large pool some rows make the clusters, and the others join the nearest."""
    from sklearn.cluster import MiniBatchKMeans

    large = len(pool) > SEEN
    rows = pool[np.sort(rng.permutation(len(pool))[:SEEN])] if large else pool[:]
    rows = rows.reshape(len(rows), -1)
    spread = rows.std(axis=0)
    mean, spread = rows.mean(axis=0), np.where(spread > 0, spread, 1)
    kmeans = MiniBatchKMeans(min(k, len(rows)), random_state=int(rng.integers(2**31)), n_init=1)
    found = kmeans.fit_predict((rows - mean) / spread)
    if large:
        parts = np.split(np.arange(len(pool)), range(PART, len(pool), PART))
        found = np.concatenate([kmeans.predict((pool[p].reshape(len(p), -1) - mean) / spread) for p in parts])
    return np.asarray(found, np.int64)


def ask_pool(harvest: Harvest, pool: Array, batch: int, rng: np.random.Generator) -> None:
    """Ask about pool rows in random order until the budget or the guard ends it, and note how many were repeats."""
    order = without_replacement(len(pool), batch, rng)
    while harvest.open:
        harvest.ask(pool[next(order)])
    harvest.notes["repeated_rows"] = max(0, len(harvest) - len(pool))


def without_replacement(n: int, batch: int, rng: np.random.Generator) -> Iterator[Labels]:
    """Indices below n, `batch` at a time and for ever: all of them once in random order, then all of them again."""
    waiting = np.empty(0, np.int64)
    while True:
        while len(waiting) < batch:
            waiting = np.concatenate([waiting, rng.permutation(n)])
        yield waiting[:batch]
        waiting = waiting[batch:]
