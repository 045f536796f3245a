"""What an exact attack returns where its family does not hold: the better of its copy and a surrogate.

Both are tried on answers that were set aside, which were paid for like the others. A surrogate costs no query: it is
fitted to what the attack has asked anyway. What an attack has no better use for, `ask_mixed` spends on questions that
teach a surrogate most.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.core.types import Array, Interface, Model
from portcullis_ml.extraction._grid import Ints
from portcullis_ml.extraction._mixed import Questions, wrong_labels
from portcullis_ml.extraction._shown import spread
from portcullis_ml.extraction._values import better_values, numbers_surrogate
from portcullis_ml.models.auto import AutoLearner, AutoModel
from portcullis_ml.models.auto_numbers import NumbersModel

__all__ = ["ask_aside", "ask_mixed", "best_copy", "better_copy", "or_surrogate", "share_aside", "surrogate_of"]

FEWEST = 10  # rows set aside below which nothing can be compared
ENOUGH = 50  # rows that compare well enough to be worth half of what is left
MOST = 200
SHARE = 0.1
LEARNED = 10_000  # rows at most that a surrogate is fitted to
AGAIN = 2000  # rows up to which a surrogate that won is fitted once more, to those set aside, too
ROUNDS = 5  # of mixed questions
CANDIDATES = 3000  # among which a round looks for the ones near the boundary
STEERING = ("boosted",)  # the family that says where the next round looks


def share_aside(n: int) -> int:
    """How many of n questions to set aside: a tenth, at most 200, and none where that leaves fewer than 10."""
    share = min(MOST, max(round(SHARE * n), 2 * FEWEST))
    return share if n >= 2 * share else 0


def best_copy(copies: Mapping[str, Model], harvest: Harvest, interface: Interface, aside: Ints) -> tuple[str, Model]:
    """The name and the copy that predicts the rows set aside best; the first where there are none."""
    targets = spread(harvest.answer, interface.n_classes)
    rows = aside[targets[aside].sum(axis=1) > 0]
    best = next(iter(copies))
    if len(rows):
        table = {name: _score(copy, harvest.x[rows], targets[rows]) for name, copy in copies.items()}
        for name in copies:
            best = name if _beats(table[name], table[best], len(rows)) else best
    return best, copies[best]


def or_surrogate(
    name: str,
    copy: Model,
    harvest: Harvest,
    interface: Interface,
    pool: Array | None,
    rng: np.random.Generator,
    *,
    drawn: int = 0,
) -> Model:
    """What an attack returns whose family does not hold: `better_copy`, after what is left of the budget (10,000 rows
    at most) has been spent on rows set aside and on mixed questions, which the bill calls "mixed". The first `drawn`
    rows of the harvest are set aside, too. Where that is too few, the copy is returned, and no more is asked."""
    paid, left = harvest.paid, harvest.left
    n = max(share_aside(left), min(left // 2, ENOUGH), min(left, 2 * FEWEST)) if left + drawn >= FEWEST else 0
    aside = np.append(np.arange(min(drawn, len(harvest))), ask_aside(harvest, interface, pool, rng, n))
    if len(aside) >= FEWEST:
        ask_mixed(harvest, interface, pool, aside, rng, most=LEARNED)
    harvest.notes.setdefault("bill", {})["mixed"] = harvest.paid - paid
    return better_copy(name, copy, harvest, interface, aside, rng)


def better_copy(
    name: str, copy: Model, harvest: Harvest, interface: Interface, aside: Ints, rng: np.random.Generator
) -> Model:
    """The copy, or a surrogate fitted to all rows of the harvest but those in `aside`, whichever predicts those better.

    `name` is what the copy is called in the notes, which say what was chosen and how both did.
    """
    if interface.task == "regression":
        return better_values(name, copy, harvest, interface, aside, rng)
    targets = _targets(harvest, interface)
    known = targets.sum(axis=1) > 0
    rest = known.copy()
    rest[aside] = False
    aside = aside[known[aside]]
    harvest.notes["copy"] = name
    if len(aside) < FEWEST or not rest.any():
        return copy
    x, rows = harvest.x, rng.permutation(np.flatnonzero(rest))[:LEARNED]
    surrogate = AutoLearner().knowing(interface).fit(x[rows], targets[rows], rng=rng)
    table = {name: _score(copy, x[aside], targets[aside]), "surrogate": _score(surrogate, x[aside], targets[aside])}
    harvest.notes["set_aside"] = {"rows": len(aside), **table}
    if not _beats(table["surrogate"], table[name], len(aside)):
        return copy
    harvest.notes["copy"] = "surrogate"
    if isinstance(surrogate, AutoModel):
        harvest.notes["chosen"] = surrogate.chosen
        if len(rows) <= AGAIN:  # what was set aside is a good part of so few rows
            families = tuple(dict.fromkeys(name.partition(" ")[0] for name in surrogate.chosen["fitted"]))
            surrogate = AutoLearner(families=families).knowing(interface).fit(x[known], targets[known], rng=rng)
    return surrogate


def surrogate_of(harvest: Harvest, interface: Interface, rng: np.random.Generator) -> Model:
    """A surrogate fitted to everything that was answered: the copy of an attack that has none of its own to compare."""
    model: Model
    if interface.task == "regression":
        model = numbers_surrogate(harvest, interface, rng)
    else:
        targets = _targets(harvest, interface)
        known = targets.sum(axis=1) > 0
        if not known.any():
            raise AttackFailed("Every row was withheld, so there is nothing to learn from. Try another account.")
        model = AutoLearner().knowing(interface).fit(harvest.x[known], targets[known], rng=rng)
    harvest.notes["copy"] = "surrogate"
    if isinstance(model, AutoModel | NumbersModel):
        harvest.notes["chosen"] = model.chosen
    return model


def ask_aside(
    harvest: Harvest, interface: Interface, pool: Array | None, rng: np.random.Generator, n: int | None = None
) -> Ints:
    """Ask about n rows, or a share of those that are left, drawn like anybody's questions; the rows of the harvest
    they are."""
    start, n = len(harvest), share_aside(harvest.left) if n is None else n
    if n:
        harvest.ask(Questions(interface, pool, CANDIDATES, rng).draw(n, None)[0])
    return np.arange(start, len(harvest))


def ask_mixed(
    harvest: Harvest,
    interface: Interface,
    pool: Array | None,
    aside: Ints,
    rng: np.random.Generator,
    *,
    most: int | None = None,
) -> Ints:
    """Spend what is left, or `most` of it, on rounds of mixed questions, each guided by a quick copy made from all rows
    but `aside`; the rows of the harvest that they are."""
    wanted = harvest.left if most is None else min(most, harvest.left)
    start, end, step, copy = len(harvest), harvest.paid + wanted, max(1, -(-wanted // ROUNDS)), None
    questions = Questions(interface, pool, CANDIDATES, rng)
    while harvest.open and harvest.paid < end:
        x, ways = questions.draw(min(step, end - harvest.paid), copy)
        labels = harvest.ask(x).labels
        if not harvest.open or labels is None or not (labels >= 0).any():
            continue
        before = copy
        targets = np.delete(_targets(harvest, interface), aside, axis=0)
        learner = AutoLearner(families=STEERING).knowing(interface)
        copy = learner.fit(np.delete(harvest.x, aside, axis=0), targets, rng=rng)
        if before is not None:
            questions.credit(x, ways, wrong_labels(before, x, labels))
    return np.arange(start, len(harvest))


def _targets(harvest: Harvest, interface: Interface) -> Array:
    """(n, n_classes) what a surrogate is fitted to; all zero where nothing was answered or an input was left out."""
    targets = spread(harvest.answer, interface.n_classes)
    complete = ~np.isnan(harvest.x.reshape(len(harvest), -1)).any(axis=1)
    return np.where((harvest.answer.answered & complete)[:, None], targets, 0.0)


def _score(model: Model, x: Array, targets: Array) -> tuple[float, float]:
    """Agreement of labels, and the mean total variation of probabilities."""
    scores = np.nan_to_num(model.scores(x))
    agreement = (scores.argmax(axis=1) == targets.argmax(axis=1)).mean()
    return round(float(agreement), 4), round(float(np.abs(scores - targets).sum(axis=1).mean() / 2), 6)


def _beats(one: tuple[float, float], other: tuple[float, float], n: int) -> bool:
    """Whether one score is better: by agreement, or by probabilities where agreements differ by no more than a standard
    error and a row, which is what a few dozen labels cannot tell apart."""
    best = max(one[0], other[0])
    error = np.sqrt(best * (1 - best) / n) + 1.5 / n
    if abs(one[0] - other[0]) > error:
        return one[0] > other[0]
    return one[1] < other[1]
