"""What every extraction attack keeps, over the whole catalog."""

from __future__ import annotations

import contextlib
import json
import random
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import portcullis_ml.extraction
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import AttackFailed, NotApplicable
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Array, Interface, Model, Reveals
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction import CATALOG

from .toys import SETUPS, Closes, Flaky, MemoryLedger, Setup, WatchedOracle

NAMES = list(CATALOG)
CASES = sorted({*NAMES, *SETUPS})  # "name" or "name-variant"


@pytest.fixture
def toy(name: str) -> Setup:
    return toy_of(name)


def toy_of(name: str) -> Setup:
    assert name in SETUPS, f"{name} has no toy: add a line for it to SETUPS in tests/extraction/toys.py"
    return SETUPS[name]()


def oracle_of(toy: Setup, **changes: Any) -> LocalOracle:
    settings: dict[str, Any] = {"interface": toy.door, "budget": toy.budget, **changes}
    if toy.told and "guard" not in changes:
        stages = [DEFENSES.build(stage) for stage in toy.told]
        settings["guard"] = Guard(*stages, key=bytes(16), interface=settings["interface"])
        settings["interface"] = settings["guard"].shown(settings["interface"])
    return LocalOracle(settings.pop("model", toy.victim), **settings)


def run(toy: Setup, oracle: Any = None, seed: int = 0, **knowledge: Any) -> Extraction:
    oracle = oracle_of(toy) if oracle is None else oracle
    held = replace(toy.knowledge, **{"defense": toy.told, **knowledge})
    return toy.attack(oracle, held, rng=np.random.default_rng(seed))


def fresh(toy: Setup, n: int = 2000) -> Array:
    return toy.door.uniform(n, np.random.default_rng(99))


def same(a: Model, b: Model, x: Array) -> bool:
    return np.array_equal(a.scores(x), b.scores(x))


def test_every_toy_stands_for_an_attack() -> None:
    assert {case.partition("-")[0] for case in SETUPS} == set(NAMES)
    assert all(toy_of(case).attack.name == case.partition("-")[0] for case in CASES)


def test_the_catalog_names_are_the_files_and_the_classes() -> None:
    folder = Path(portcullis_ml.extraction.__file__).parent
    assert sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")) == NAMES
    assert [CATALOG.load(name).name for name in NAMES] == NAMES


@pytest.mark.parametrize("name", CASES)
class TestContract:
    def test_one_rng_one_theft(self, toy: Setup) -> None:
        first, second, other = run(toy), run(toy), run(toy, seed=1)
        np.testing.assert_array_equal(first.x, second.x)
        assert same(first.model, second.model, fresh(toy))
        assert not np.array_equal(first.x, other.x)

    def test_touches_the_oracle_and_never_asks_past_what_is_left(self, toy: Setup) -> None:
        inner = oracle_of(toy)
        watched = WatchedOracle(inner)
        result = run(toy, watched)
        assert watched.touched == set()
        assert result.queries == inner.queries == sum(map(len, watched.batches)) <= toy.budget
        np.testing.assert_array_equal(result.x, np.concatenate(watched.batches))
        assert len(result.answer) == result.queries

    def test_history_counts_up_to_the_copy(self, toy: Setup) -> None:
        result = run(toy)
        paid = [queries for queries, _ in result.history]
        assert paid == sorted(paid)
        assert paid[-1] == result.queries
        assert result.history[-1][1] is result.model
        json.dumps(result.notes)

    def test_works_with_the_least_budget_and_says_what_is_missing_below(self, toy: Setup) -> None:
        result = run(toy, WatchedOracle(oracle_of(toy, budget=toy.least)))
        assert result.queries == toy.least
        assert result.stopped == "budget"
        if toy.least > 1:
            poor = oracle_of(toy, budget=toy.least - 1)
            with pytest.raises(AttackFailed, match=f"needs {toy.least} queries"):
                run(toy, poor)
            assert poor.queries == 0

    @pytest.mark.parametrize("spent", [1, 2])
    def test_works_on_what_others_left_of_a_budget(self, toy: Setup, spent: int) -> None:
        oracle = oracle_of(toy, budget=toy.least + spent)
        oracle.query(fresh(toy, spent))
        assert run(toy, WatchedOracle(oracle)).queries == toy.least

    def test_runs_with_exactly_what_it_needs(self, toy: Setup) -> None:
        needs = toy.attack.needs
        held = {t: getattr(toy.knowledge, t) for t in ("pool", "seeds", "learner") if getattr(needs, t)}
        door = toy.door.revealing(reveals=needs.answers, explains=needs.explains)
        knowledge = Knowledge(**held, defense=toy.told)
        result = toy.attack(oracle_of(toy, interface=door), knowledge, rng=np.random.default_rng(0))
        assert result.queries > 0

    def test_one_that_knows_a_defense_also_runs_where_it_knows_that_there_is_none(self, toy: Setup) -> None:
        if toy.attack.needs.defense:
            undefended = LocalOracle(toy.victim, toy.door, budget=toy.budget)
            assert run(toy, undefended, defense=[]).queries > 0

    def test_is_not_applicable_without_what_it_needs(self, toy: Setup) -> None:
        needs, cases = toy.attack.needs, []
        for thing in ("pool", "seeds", "learner"):
            if getattr(needs, thing):
                cases.append((toy.door, {thing: None}))
                if thing != "learner":
                    cases.append((toy.door, {thing: getattr(toy.knowledge, thing)[:0]}))
        cases += [(toy.door.revealing(reveals=weaker), {}) for weaker in Reveals if weaker < needs.answers]
        if needs.defense:
            cases.append((toy.door, {"defense": None}))
        if needs.explains:
            cases.append((toy.door.revealing(explains=False), {}))
        if needs.task == "classification":
            cases.append((Interface(task="regression", input_shape=toy.door.input_shape), {}))
        for door, without in cases:
            oracle = oracle_of(toy, interface=door, guard=None)  # a guard may refuse such an API itself
            with pytest.raises(NotApplicable, match=f"{toy.attack.name} needs"):
                run(toy, oracle, **without)
            assert oracle.queries == 0

    def test_leaves_global_generators_alone(self, toy: Setup) -> None:
        before = (random.getstate(), repr(np.random.get_state(legacy=False)), torch.get_rng_state())  # noqa: NPY002
        run(toy)
        assert random.getstate() == before[0]
        assert repr(np.random.get_state(legacy=False)) == before[1]  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[2])

    def test_leaves_what_the_thief_knows_alone(self, toy: Setup) -> None:
        held = [a for a in (toy.knowledge.pool, toy.knowledge.seeds) if a is not None]
        before = [a.copy() for a in held]
        run(toy)
        for now, was in zip(held, before, strict=True):
            np.testing.assert_array_equal(now, was)

    def test_settings_survive_a_description(self, toy: Setup) -> None:
        for attack in (toy.attack, CATALOG.build(toy.attack.name)):
            description = describe(attack)
            assert description["unit"] == toy.attack.name
            assert CATALOG.build(json.loads(json.dumps(description))) == attack

    def test_says_whose_it_is_what_it_needs_and_what_it_costs(self, toy: Setup) -> None:
        text = sys.modules[type(toy.attack).__module__].__doc__
        assert text
        assert re.search(r"\b(19|20)\d\d\b", text), "cite the publication, with its year"
        assert re.search(r"section|appendix|algorithm|table", text, re.IGNORECASE), "say where in it"
        assert "\nThreat model" in text
        assert "\nQuery cost" in text

    def test_beats_the_most_frequent_class(self, toy: Setup) -> None:
        x = fresh(toy)
        truth = toy.victim.scores(x).argmax(axis=1)
        prior = np.bincount(truth).max() / len(truth)
        agreement = (run(toy).model.scores(x).argmax(axis=1) == truth).mean()
        assert agreement > prior + 0.15

    def test_survives_a_guard_that_closes_midway(self, toy: Setup) -> None:
        after = toy.blocked_after or toy.budget // 2
        oracle = oracle_of(toy, guard=Guard(Closes(after=after), key=b"0" * 16))
        if toy.all_or_nothing:
            with pytest.raises(AttackFailed):
                run(toy, oracle)
            return
        result = run(toy, oracle)
        assert result.stopped == "this client was blocked"
        assert len(result.x) == len(result.answer) == after
        assert result.answer.answered.all()
        assert result.queries == oracle.queries >= after
        assert np.isfinite(result.model.scores(fresh(toy, 5))).all()

    def test_a_door_that_never_opens_leaves_no_copy(self, toy: Setup) -> None:
        with pytest.raises(AttackFailed, match=r"\w+ .*\."):
            run(toy, oracle_of(toy, guard=Guard(Closes(after=0), key=b"0" * 16)))

    @pytest.mark.parametrize("off_at", [2, 3])
    def test_a_killed_run_resumes_and_pays_nothing_twice(self, toy: Setup, off_at: int) -> None:
        whole = run(toy)
        ledger, first = MemoryLedger(), Flaky(toy.victim, off_at)
        with contextlib.suppress(KeyboardInterrupt):
            run(toy, oracle_of(toy, model=first, ledger=ledger))
        assert len(ledger) == first.rows > 0
        ledger.rewind()
        second = Flaky(toy.victim, off_at=-1)
        resumed = run(toy, oracle_of(toy, model=second, ledger=ledger))
        relived = first.rows if toy.told else 0  # behind a guard, whose state they bring up to date
        assert first.rows + second.rows - relived == whole.queries == len(ledger)
        np.testing.assert_array_equal(resumed.x, whole.x)
        assert same(resumed.model, whole.model, fresh(toy))


def test_an_attack_without_a_toy_is_told_what_to_add() -> None:
    with pytest.raises(AssertionError, match=r"no_such has no toy: add a line for it to SETUPS in tests/extraction"):
        toy_of("no_such")
