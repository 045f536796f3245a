"""What the membership attacks share: how surely an answer names the true class, views of a row, shadow models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Protocol

import numpy as np

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.attack import Harvest, Knowledge
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.types import WITHHELD, Answer, Array, Interface, Labels, Model, Rows
from portcullis_ml.models.shadows import Shadows, load_shadows, rows_to_train_on, train_shadows

__all__ = [
    "FLOOR",
    "asked",
    "classes_of",
    "least_shown",
    "logits",
    "shadows_for",
    "shares",
    "shown",
    "truth_and_rest",
    "views_of",
]

FLOOR = 1e-12  # of a probability that no rounding explains
SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))  # pixels, in this order


class WithShadows(Protocol):
    """The settings of an attack that trains shadow models."""

    name: ClassVar[str]

    @property
    def models(self) -> int: ...
    @property
    def shadows(self) -> Artifact | None: ...
    @property
    def most(self) -> int: ...


def classes_of(candidates: Rows, name: str) -> Labels:
    """The candidates' true classes. Raises NotApplicable where they are not known."""
    if candidates.y is None:
        raise NotApplicable(f"{name} needs the candidates' true classes; they are not known here.")
    return candidates.y


def shares(answer: Answer, n_classes: int) -> Array:
    """(n, n_classes) the probabilities that are shown, as they are shown; what is hidden shares the rest equally.

    A row that shows its label only is certain of it, and a row that was withheld says nothing.
    """
    labels = np.full(len(answer), WITHHELD) if answer.labels is None else answer.labels
    known = labels != WITHHELD
    p = np.full((len(answer), n_classes), np.nan) if answer.scores is None else answer.scores.copy()
    bare = np.isnan(p).all(axis=1) & known
    p[bare] = np.eye(n_classes)[labels[bare]]
    hidden = np.isnan(p)
    rest = np.maximum(1 - np.nansum(p, axis=1), 0) / np.maximum(hidden.sum(axis=1), 1)
    return np.where(hidden, rest[:, None], p)


def truth_and_rest(answer: Answer, y: Labels, n_classes: int) -> Array:
    """(2, n) the true class's probability, and the sum of the others, which 1 - p would give with fewer digits."""
    p = shares(answer, n_classes)
    row = np.arange(len(y))
    true = p[row, y]
    p[row, y] = 0
    return np.stack([true, p.sum(axis=1)])


def logits(pairs: Array, floor: float) -> Array:
    """(...) log p - log of the rest, from (2, ...) pairs; what is below the floor counts as the floor."""
    true, rest = np.maximum(pairs, floor)
    return np.asarray(np.log(true) - np.log(rest))


def least_shown(pairs: Array, interface: Interface) -> float:
    """What a probability of 0 stands for: half a step of the API's rounding, or half of the least that is ever shown.

    A forest of 30 trees shows nothing between 0 and 1/30, and a logit of 0 itself would lie far beyond all others.
    """
    if interface.decimals is not None:
        return 0.5 * 10.0**-interface.decimals
    seen = pairs[pairs > 0]
    return float(seen.min()) / 2 if (pairs == 0).any() and len(seen) else FLOOR


def asked(harvest: Harvest, x: Array, batch: int) -> Iterator[tuple[slice, Answer]]:
    """Ask about x a batch at a time; (rows, answer) of those that were answered, until all are or the door closes."""
    for start in range(0, len(x), batch):
        answer = harvest.ask(x[start : start + batch])
        yield slice(start, start + len(answer)), answer
        if not harvest.open:
            return


def views_of(x: Array, views: int, mirror: bool = False) -> list[Array]:
    """The rows themselves, then pictures of them moved by a pixel in each direction, each mirrored too if so wished."""
    pictures = x.ndim in (3, 4)
    first = x.ndim == 4 and x.shape[1] <= 4 < min(x.shape[2:])
    down, across = (2, 3) if first else (1, 2)
    found = []
    for dy, dx in SHIFTS if pictures else SHIFTS[:1]:
        moved = _moved(_moved(x, dy, down), dx, across) if pictures else x
        found += [moved, np.flip(moved, across)] if mirror and pictures else [moved]
    if views > len(found):
        raise InputError(
            f"At most {len(found)} views can be asked of rows of {x.shape[1:]}; got views={views}. Tables have one."
        )
    return found[:views]


def _moved(x: Array, by: int, axis: int) -> Array:
    """Moved by a pixel, its edge repeated."""
    if by == 0:
        return x
    index = np.clip(np.arange(x.shape[axis]) - by, 0, x.shape[axis] - 1)
    return np.take(x, index, axis=axis)


def shadows_for(
    attack: WithShadows, candidates: Rows, knowledge: Knowledge, interface: Interface, rng: np.random.Generator
) -> tuple[Shadows, Rows]:
    """Shadow models, trained or read, and the rows that they were trained on, the candidates first."""
    rows = rows_to_train_on(candidates, knowledge, attack.most)
    assert rows.y is not None
    assert knowledge.learner is not None
    if attack.shadows is not None:
        return load_shadows(attack.shadows, knowledge.learner, rows.x, rows.y, interface.features), rows
    if len(rows) < 2 or len(np.unique(rows.y)) < 2:
        raise NotApplicable(f"{attack.name} needs rows of at least two classes to train shadow models on.")
    made = train_shadows(knowledge.learner, rows.x, rows.y, interface.n_classes, models=attack.models, rng=rng)
    return made, rows


def shown(model: Model, x: Array, interface: Interface, knowledge: Knowledge) -> Answer:
    """What an API over this model would show, behind the guard where the attacker knows it."""
    scores = model.scores(x)
    known = knowledge.rehearse
    answer = Answer.of(scores, interface) if known is None else known(x, scores)
    return answer.only(interface)
