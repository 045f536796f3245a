"""What every privacy attack of the catalog must do. A new one joins with a line in toys.py."""

from __future__ import annotations

import inspect
import random
import sys

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.privacy import Leakage, PrivacyAttack
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Reveals, Rows
from portcullis_ml.defenses.quota import Quota
from portcullis_ml.measures.membership import membership_measures
from portcullis_ml.privacy import CATALOG

from .toys import MEMBER, SETUPS, candidates

NAMES = sorted(CATALOG)


def run(name: str, *, budget: int = 1_000, seed: int = 0, **changes) -> tuple[Leakage, LocalOracle]:
    setup = SETUPS[name]
    oracle = LocalOracle(
        setup.model, setup.interface.revealing(**changes.pop("interface", {})), budget=budget, **changes
    )
    attack: PrivacyAttack = CATALOG.build(setup.words)
    return attack(oracle, setup.knowledge, setup.rows or candidates(), rng=np.random.default_rng(seed)), oracle


def test_every_attack_has_a_setup() -> None:
    assert sorted(SETUPS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_same_generator_gives_the_same_leakage(name: str) -> None:
    (one, _), (two, _) = run(name), run(name)
    for field in ("membership", "recovered"):
        a, b = getattr(one, field), getattr(two, field)
        assert (a is None and b is None) or np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_bill_is_the_oracles_and_within_the_budget(name: str) -> None:
    for budget in (1, 20, 1_000):
        leakage, oracle = run(name, budget=budget)
        assert leakage.queries == oracle.queries <= min(budget, SETUPS[name].queries)


@pytest.mark.parametrize("name", NAMES)
def test_every_candidate_gets_a_suspicion_and_members_are_found(name: str) -> None:
    leakage, _ = run(name)
    if leakage.membership is None:
        assert leakage.recovered is not None
        assert leakage.recovered.shape[1:] == SETUPS[name].interface.input_shape
        return
    assert leakage.membership.shape == MEMBER.shape
    assert membership_measures(leakage.membership, MEMBER)["auc"].low > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_guard_that_refuses_leaves_what_was_learnt(name: str) -> None:
    leakage, oracle = run(name, guard=Guard(Quota(rows=10, per=None), key=bytes(16)))
    assert leakage.queries == oracle.queries <= 10
    if leakage.membership is not None:
        assert (~np.isnan(leakage.membership)).sum() <= 10


@pytest.mark.parametrize("name", NAMES)
def test_an_interface_that_shows_too_little_is_refused_before_the_first_query(name: str) -> None:
    attack: PrivacyAttack = CATALOG.build(SETUPS[name].words)
    needs = attack.needs
    oracle = LocalOracle(SETUPS[name].model, SETUPS[name].interface.revealing(reveals=Reveals.LABELS), budget=10)
    lacking = needs.lacking(oracle.interface, Knowledge(), attack.name)
    if lacking is None:
        attack(oracle, Knowledge(), candidates(), rng=np.random.default_rng(0))
        return
    with pytest.raises(NotApplicable, match="needs"):
        attack(oracle, Knowledge(), candidates(), rng=np.random.default_rng(0))
    assert oracle.queries == 0


@pytest.mark.parametrize("name", NAMES)
def test_no_candidates_are_no_error(name: str) -> None:
    attack: PrivacyAttack = CATALOG.build(SETUPS[name].words)
    nobody = Rows(candidates().x[:0], candidates().y[:0])
    oracle = LocalOracle(SETUPS[name].model, SETUPS[name].interface, budget=10)
    leakage = attack(oracle, SETUPS[name].knowledge, nobody, rng=np.random.default_rng(0))
    assert leakage.membership is None or len(leakage.membership) == 0


@pytest.mark.parametrize("name", NAMES)
def test_global_generators_and_candidates_stay_untouched(name: str) -> None:
    before = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002 (to see that nobody used it)
    given = candidates()
    setup = SETUPS[name]
    attack: PrivacyAttack = CATALOG.build(setup.words)
    attack(LocalOracle(setup.model, setup.interface, budget=100), setup.knowledge, given, rng=np.random.default_rng(0))
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before  # noqa: NPY002
    assert np.array_equal(given.x, candidates().x)


@pytest.mark.parametrize("name", NAMES)
def test_settings_survive_being_written_down(name: str) -> None:
    attack = CATALOG.build(SETUPS[name].words)
    assert CATALOG.build(describe(attack)) == attack


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_says_what_a_reader_needs(name: str) -> None:
    text = inspect.getdoc(sys.modules[CATALOG.load(name).__module__]) or ""
    assert "Threat model" in text
    assert "Query cost" in text
    assert any(f"{year}" in text for year in range(1990, 2030)), "cite the source with its year"
