"""Every unit of a guard has an attacker who knows it, or a reason why not; an audit runs each beside its defenses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from portcullis_ml.bench.knowing import ATTACKERS, NONE_NEEDED, attackers_of
from portcullis_ml.bench.named import attack_named, by_name, guard_named
from portcullis_ml.bench.prepare import prepare_cells, prepared_cell
from portcullis_ml.bench.run_audit import AuditOptions, plan_of
from portcullis_ml.core.settings import describe
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.detectors import CATALOG as DETECTORS
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.hardening import CATALOG as HARDENING
from portcullis_ml.models.sklearn import SklearnLearner

from .experiments import spec, truth, workspace
from .test_grid import PLAN

UNITS = sorted({*DEFENSES, *DETECTORS, *HARDENING})


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_of_a_guard_has_an_attacker_or_a_reason(unit: str) -> None:
    assert (unit in ATTACKERS) != (unit in NONE_NEEDED), (
        f"Say in bench/knowing.py which attack knows {unit}, or why it needs none"
    )
    assert NONE_NEEDED.get(unit, "x.").endswith(".")


def test_the_tables_name_nothing_else() -> None:
    assert {*ATTACKERS, *NONE_NEEDED} <= set(UNITS)


@pytest.mark.parametrize("unit", sorted(ATTACKERS))
def test_the_attacks_named_are_told_of_that_unit(unit: str) -> None:
    for word in ATTACKERS[unit]:
        needs = ATTACKS.load(attack_named(word)["unit"]).needs
        holder = {"unit": "watch", "detector": {"unit": unit}} if unit in DETECTORS else {"unit": unit}
        assert needs.defense, f"{word} cannot be told of a guard"
        assert needs.knows([holder]), f"{word} is not made for {unit}"


def test_no_attack_that_is_made_for_a_defense_is_forgotten() -> None:
    for name in ATTACKS:
        for unit in set(ATTACKS.load(name).needs.defense) - {"any"}:
            assert name in {attack_named(word)["unit"] for word in ATTACKERS[unit]}, f"{name} knows {unit}"


def told(*guards: str, **changes: object) -> set[tuple[str, str]]:
    plan = replace(PLAN, defenses=by_name(guards, guard_named), **changes)
    return {(c.attack_name, c.defense_name) for c in plan.cells() if c.knows_defense}


def test_an_audit_runs_them_beside_the_defenses_that_they_know_and_no_others() -> None:
    poisoned, noise = "prediction_poisoning(surrogate=random_surrogate)", "rounding + noise"
    hard = "diverse_ensemble + rounding"
    assert told(poisoned, noise, hard, "rounding") == {
        ("d_dae (told the guard)", poisoned),
        ("d_dae (told the guard)", noise),
        ("averaging (told the guard)", noise),
        ("averaging (told the guard)", hard),
    }


def test_units_within_units_are_known_too() -> None:
    watch = "watch(detector=prada, then=noise)"
    assert {"averaging", "d_dae"} <= set(attackers_of(guard_named(watch)))
    assert attackers_of(guard_named("none")) == []


def test_one_that_was_asked_for_with_other_settings_runs_so_and_not_twice() -> None:
    attacks = by_name(["knockoff", "d_dae(way=subtract)"], attack_named)
    found = told("random_vertex", attacks=attacks)
    assert ("d_dae(way=subtract) (told the guard)", "random_vertex") in found
    assert not any(name.startswith("d_dae (") for name, _ in found)


GUARDS = (
    "prediction_poisoning(surrogate=random_surrogate, eps=0.9)",
    "adaptive_misinformation(network=misinformation, tau=0.9)",
    "watch(detector=hardness(steps=training_steps(window=20, epochs=20)), then=block)",
)


@pytest.mark.parametrize("guard", GUARDS)
def test_in_an_audit_they_run_with_what_they_are_told(tmp_path, guard: str) -> None:
    x = np.random.default_rng(3).uniform(size=(300, 4))
    here = spec(tmp_path, train_x=x, train_y=truth(x))
    options = AuditOptions(spec=here, attacks=("knockoff",), defenses=(guard,), budgets=(80,), seeds=1)
    cells = [cell for cell in plan_of(options, here.load()).cells() if cell.knows_defense]
    made = prepare_cells(cells, here, regimes=("matched",), out=tmp_path / "out", watch=lambda *_: None)
    (cell,) = made.cells
    pairs = {"pairs": 1000} if "pairs" in cell.attack else {}
    cell = replace(cell, attack={**cell.attack, **pairs}, learner=describe(SklearnLearner()))
    record = prepared_cell(cell, workspace(tmp_path / "cell"), spec=here, lacking=made.lacking)
    notes = record.notes
    said = {
        "d_dae": lambda: notes["ways"][0] == "subtract" and notes["distance_left"][0] < 0.2,
        "least_likely": lambda: notes["certainly_misinformed"] > 0,
        "in_distribution": lambda: notes["rehearsed"],
    }
    assert said[cell.attack["unit"]](), notes
    assert record.threat_model["knows_defense"]
