"""The attacks that ask natural rows, under every interface, behind a guard, and on a table with categories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Feature, Interface, Reveals
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction.active_thief import ActiveThief
from portcullis_ml.extraction.copycat import Copycat
from portcullis_ml.extraction.knockoff import Knockoff
from portcullis_ml.extraction.swift_thief import SwiftThief

from .toys import ToyLearner, inputs, toy_victim

ATTACKS: dict[str, ExtractionAttack] = {
    "knockoff": Knockoff(batch=16),
    "adaptive": Knockoff(selection="adaptive", batch=16, clusters=4),
    "copycat": Copycat(batch=16),
    "uncertainty": ActiveThief(strategy="uncertainty", rounds=3),
    "k_centre": ActiveThief(rounds=3),
    "dfal": ActiveThief(strategy="dfal", rounds=3),
    "swift": SwiftThief(rounds=3, contrast=1, projector=16),
}
SHOWN: dict[str, dict[str, Any]] = {
    "probabilities": {"reveals": Reveals.PROBS},
    "rounded": {"reveals": Reveals.PROBS, "decimals": 1},
    "top 1": {"reveals": Reveals.TOP_K, "k": 1},
    "labels": {"reveals": Reveals.LABELS},
}
BUDGET = 90
TABLE = (*(Feature(f"n{j}", 0.0, 1.0) for j in range(5)), Feature("word", values=("a", "b", "c")))


@pytest.mark.parametrize("attack", ATTACKS)
class TestEverywhere:
    @pytest.mark.parametrize("shown", SHOWN)
    def test_a_copy_comes_of_whatever_is_shown(self, attack: str, shown: str) -> None:
        victim, pool = toy_victim(), inputs(120, 1)
        oracle = LocalOracle(
            victim, Interface(input_shape=(2, 3), n_classes=3).revealing(**SHOWN[shown]), budget=BUDGET
        )
        known = Knowledge(pool=pool, learner=ToyLearner())
        found = ATTACKS[attack](oracle, known, rng=np.random.default_rng(0))
        x = inputs(500, 9)
        truth = victim.scores(x).argmax(axis=1)
        assert found.queries == oracle.queries == BUDGET
        assert (found.model.scores(x).argmax(axis=1) == truth).mean() > np.bincount(truth).max() / len(truth)

    def test_a_guard_is_paid_as_any_other_door(self, attack: str) -> None:
        door = Interface(input_shape=(2, 3), n_classes=3)
        guard = Guard(
            DEFENSES.build("rounding(decimals=1)"), DEFENSES.build("label_only"), key=bytes(16), interface=door
        )
        oracle = LocalOracle(toy_victim(), door, budget=BUDGET, guard=guard)
        known = Knowledge(pool=inputs(120, 1), learner=ToyLearner())
        assert ATTACKS[attack](oracle, known, rng=np.random.default_rng(0)).queries == BUDGET

    def test_a_table_with_categories_is_asked_in_rows_of_the_pool(self, attack: str) -> None:
        victim = toy_victim((6,))
        pool = inputs(120, 1, (6,))
        pool[:, 5] = np.arange(120) % 3
        door = Interface(input_shape=(6,), n_classes=3, features=TABLE)
        known = Knowledge(pool=pool, learner=ToyLearner())
        found = ATTACKS[attack](LocalOracle(victim, door, budget=BUDGET), known, rng=np.random.default_rng(0))
        assert {row.tobytes() for row in found.x} <= {row.tobytes() for row in pool}
        assert found.model.scores(pool).shape == (120, 3)
