"""What every scheme of one repetition of the court shares: rows, a clean victim, innocent models, and stolen ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Interface, Model, Rows
from portcullis_ml.data.datasets import load_dataset

__all__ = ["Room", "Where", "removals_of", "room_of", "victim_attacked"]

SPARE = 10_000  # rows that nobody has, at most
GROUPS = ("own", "unseen", "thief", "others", "test")


@dataclass(frozen=True)
class Where:
    """Which repetition it is: data, the plan's settings as JSON and a seed; and the data's folder, and the device."""

    data: str
    settings: str
    seed: int
    folder: str | None = None
    device: str = "cpu"

    @property
    def plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = json.loads(self.settings)
        return plan

    def rng(self, *words: str) -> np.random.Generator:
        return derive(self.seed, "court", str(self.plan["version"]), self.data, *words)


@dataclass(frozen=True)
class Room:
    """One repetition: rows for everybody, the clean victim, and innocent models.

    spare        rows that nobody has, for keys that need more unseen rows than others
    calibrating  for each null the models that give it; none of them is judged
    equivalents  (kind, model) of those that are judged
    """

    interface: Interface
    own: Rows
    unseen: Rows
    thief: Rows
    labelled: int  # of the thief's rows, the first, are those whose classes they know
    test: Rows
    spare: Rows
    learner: Any
    tuner: Any
    clean: Any
    calibrating: Mapping[str, Sequence[Model]]
    equivalents: Sequence[tuple[str, Model]]

    def unseen_rows(self, n: int) -> Rows:
        """n rows that the victim was not trained on, for a key: first those of every scheme, then spare ones."""
        assert self.spare.y is not None
        more = max(n - len(self.unseen), 0)
        return _together(self.unseen, Rows(self.spare.x[:more], self.spare.y[:more])) if more else self.unseen


@lru_cache(maxsize=1)
def room_of(where: Where) -> Room:
    """The room of a repetition, kept for the next scheme."""
    from portcullis_ml.models.torch import TorchLearner

    plan, dataset = where.plan, load_dataset(where.data, where.folder)
    order = where.rng("rows").permutation(len(dataset.x))
    ends = np.cumsum([0, *(plan["rows"][name] for name in GROUPS)])
    parts = [Rows(dataset.x[order[a:b]], dataset.y[order[a:b]].astype(np.int64)) for a, b in pairwise(ends)]
    own, unseen, thief, others, test = parts
    left = order[ends[-1] :][:SPARE]
    spare = Rows(dataset.x[left], dataset.y[left].astype(np.int64))
    learner = TorchLearner(**plan["learner"], device=where.device)
    interface = Interface(input_shape=tuple(dataset.x.shape[1:]), n_classes=len(dataset.classes))

    def innocent(purpose: str, name: str, kind: Mapping[str, Any]) -> list[Model]:
        rng = where.rng(purpose, name)
        found: list[Model] = []
        for i in range(kind["models"]):
            rows = _together(_drawn(own, kind["own"], rng), _drawn(others, kind["others"], rng))
            network = kind["networks"][i % len(kind["networks"])]
            found.append(_fitted(replace(learner, network=network), rows, interface, rng))
        return found

    return Room(
        interface, own, unseen, thief, plan["rows"]["labelled"], test, spare, learner,
        TorchLearner(**plan["tuner"], device=where.device), _fitted(learner, own, interface, where.rng("victim")),
        {name: innocent("calibrating", name, kind) for name, kind in plan["null"].items()},
        [(name, m) for name, kind in plan["equivalent"].items() for m in innocent("judged", name, kind)],
    )  # fmt: skip


def _drawn(rows: Rows, n: int, rng: np.random.Generator) -> Rows:
    assert rows.y is not None
    drawn = rng.permutation(len(rows))[:n]
    return Rows(rows.x[drawn], rows.y[drawn])


def _together(one: Rows, other: Rows) -> Rows:
    assert one.y is not None
    assert other.y is not None
    return Rows(np.concatenate([one.x, other.x]), np.concatenate([one.y, other.y]))


def _fitted(learner: Any, rows: Rows, interface: Interface, rng: np.random.Generator) -> Any:
    return learner.fit(rows.x, np.eye(interface.n_classes)[rows.y], rng=rng)


def removals_of(room: Room, stolen: Any, learner: Any, rng: np.random.Generator) -> list[tuple[str, Any]]:
    """(name, what the thief makes of the stolen model) for every removal; `learner` is how they train copies."""
    from portcullis_ml.bench.removal import REMOVALS, Thief, attacked

    assert room.thief.y is not None
    own = Rows(room.thief.x[: room.labelled], room.thief.y[: room.labelled])
    thief = Thief(room.interface, own, room.thief.x, learner, room.tuner)
    return list(attacked(stolen, thief, list(REMOVALS), rng))


@lru_cache(maxsize=1)
def victim_attacked(where: Where, epochs: int) -> list[tuple[str, Any]]:
    """What the thief makes of the clean victim: the same for every scheme that marks nothing."""
    room = room_of(where)
    return removals_of(room, room.clean, replace(room.learner, epochs=epochs), where.rng("thief", str(epochs)))
