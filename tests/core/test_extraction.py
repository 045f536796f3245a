from dataclasses import dataclass

import numpy as np
import pytest
from tests.core.test_oracle import API, CloseAt, Sigmoid, points

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import AttackFailed, NotApplicable
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Feature, Interface, Reveals
from portcullis_ml.defenses.quota import Quota


def harvest(budget: int = 10, guard: Guard | None = None) -> Harvest:
    return Harvest(LocalOracle(Sigmoid(), API, budget=budget, guard=guard))


@dataclass(frozen=True, kw_only=True)
class Parrot(ExtractionAttack):
    """Asks twice and returns the victim's stand-in."""

    name = "parrot"
    needs = Needs(answers=Reveals.PROBS)

    def steal(self, harvest, interface, knowledge, rng):
        harvest.ask(points(4))
        harvest.keep(Sigmoid())
        harvest.ask(points(40))
        return Sigmoid()


def test_a_harvest_cuts_to_what_is_left_and_then_stays_shut() -> None:
    book = harvest(5)
    assert len(book.ask(points(4))) == 4
    assert len(book.ask(points(4))) == 1
    assert len(book.ask(points(4))) == 0
    assert not book.open
    assert (len(book), len(book.x), book.paid) == (5, 5, 5)


def test_a_harvest_keeps_what_a_closing_guard_answered() -> None:
    book = harvest(9, Guard(CloseAt(), key=b"k" * 16))
    answer = book.ask(np.array([[0.1, 0], [0.9, 0], [0.2, 0]]))
    assert (len(answer), len(book), book.paid, book.open) == (1, 1, 3, False)
    assert "blocked" in book.stopped


def test_a_harvest_asks_for_less_where_a_quota_has_room_for_less() -> None:
    book = harvest(50, Guard(Quota(rows=6), key=b"k" * 16))
    assert len(book.ask(points(4))) == 4
    assert len(book.ask(points(9))) == 2
    assert (len(book), book.paid, book.open) == (6, 6, False)
    assert "quota" in book.stopped


@pytest.mark.parametrize(
    ("interface", "labels", "scores"),
    [
        (API, (0,), (0, 2)),
        (API.revealing(reveals=Reveals.LABELS), (0,), None),
        (Interface(input_shape=(2,), task="regression"), None, (0, 1)),
    ],
)
def test_an_answer_to_nothing_has_the_parts_that_the_api_shows(interface, labels, scores) -> None:
    told = Harvest(LocalOracle(Sigmoid(), interface, budget=1)).ask(points(0))
    shapes = [None if part is None else part.shape for part in (told.labels, told.scores)]
    assert shapes == [labels, scores]


def test_an_empty_harvest_teaches_nothing() -> None:
    with pytest.raises(AttackFailed, match="Not one row"):
        _ = harvest().answer


def test_an_extraction_carries_its_bill_and_its_history() -> None:
    oracle = LocalOracle(Sigmoid(), API, budget=10)
    seen = []
    loot = Parrot()(oracle, Knowledge(), rng=np.random.default_rng(0), watch=lambda *a: seen.append(a))
    assert [q for q, _ in loot.history] == [4, 10]
    assert (loot.queries, oracle.queries, len(loot.x), loot.stopped) == (10, 10, 10, "budget")
    assert seen == [(4, 10), (10, 10)]
    assert loot.history[-1][1] is loot.model


def test_needs_are_checked_before_the_first_query() -> None:
    oracle = LocalOracle(Sigmoid(), API.revealing(reveals=Reveals.LABELS), budget=10)
    with pytest.raises(NotApplicable, match="parrot needs probs; this API gives labels"):
        Parrot()(oracle, Knowledge(), rng=np.random.default_rng(0))
    assert oracle.queries == 0


@pytest.mark.parametrize(
    ("needs", "sentence"),
    [
        (Needs(task="regression"), "a regression API"),
        (Needs(missing=True), "incomplete queries"),
        (Needs(features=True), "named features"),
        (Needs(pool=True), "a pool of natural inputs"),
        (Needs(seeds=True), "seed inputs"),
        (Needs(learner=True), "a surrogate learner"),
    ],
)
def test_every_need_has_its_sentence(needs: Needs, sentence: str) -> None:
    assert sentence in str(needs.lacking(API, Knowledge(), "it"))


def test_what_is_there_is_enough() -> None:
    table = Interface(input_shape=(1,), features=(Feature("a"),), task="regression", missing=True)
    full = Knowledge(pool=points(2), seeds=points(1), learner=object())  # type: ignore[arg-type]
    needs = Needs(task="any", missing=True, features=True, pool=True, seeds=True, learner=True)
    assert needs.lacking(table, full, "it") is None
    assert "natural inputs" in str(Needs(pool=True).lacking(API, Knowledge(pool=points(0)), "it"))
