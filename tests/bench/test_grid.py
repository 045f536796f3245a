"""The grid: what is asked for, and the rows that no audit may go without."""

from __future__ import annotations

from dataclasses import replace

import pytest

from portcullis_ml.bench.grid import Plan
from portcullis_ml.bench.named import KEEP_LABELS, attack_named, by_name, guard_named
from portcullis_ml.catalog import split_outside
from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.settings import describe
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction import CATALOG

PLAN = Plan(
    victim={"name": "v"},
    data={"name": "d"},
    interface={"reveals": "probs"},
    attacks=by_name(["knockoff", "jb_top3"], attack_named),
    defenses=by_name(["rounding(decimals=2)"], guard_named),
    budgets=[10, 40],
    seeds=[0, 1],
    learner={"unit": "portcullis_ml.models.sklearn:SklearnLearner"},
    own_labels=True,
)


def pairs(plan: Plan, role: str) -> set[tuple[str, str]]:
    return {(c.attack_name, c.defense_name) for c in plan.cells() if c.role == role}


def test_controls_are_added_by_themselves():
    guards = ["none", "label_only", "rounding(decimals=2)"]
    assert pairs(PLAN, "attack") == {(a, d) for a in ("knockoff", "jb_top3") for d in guards}
    blind = ("random_queries", "shuffled", "own_labels", "no_api")
    assert pairs(PLAN, "control") == {(c, "none") for c in blind}
    assert pairs(PLAN, "honest") == {("honest", d) for d in guards}


def test_every_budget_without_a_defense_and_the_largest_behind_one():
    budgets = {(c.defense_name, c.budget) for c in PLAN.cells() if c.role == "attack"}
    assert budgets == {("none", 10), ("none", 40), ("label_only", 40), ("rounding(decimals=2)", 40)}


def test_a_label_api_needs_no_label_only_row_and_a_thief_without_a_learner_no_trained_control():
    plan = replace(PLAN, interface={"reveals": "labels"}, learner=None, own_labels=False)
    assert {d for _, d in pairs(plan, "attack")} == {"none", "rounding(decimals=2)"}
    assert pairs(plan, "control") == {("no_api", "none")}


def test_ids_are_unique_and_seeds_come_one_after_the_other():
    cells = PLAN.cells()
    assert len({c.id for c in cells}) == len(cells)
    assert [c.seed for c in cells] == sorted(c.seed for c in cells)


def test_shuffled_takes_the_transfer_set_of_the_first_attack_that_trains():
    plan = replace(PLAN, attacks=by_name(["equation_solving", "copycat"], attack_named))
    (donor,) = {c.attack["of"]["unit"] for c in plan.cells() if c.attack_name == "shuffled"}
    assert donor == "copycat"
    plan = replace(PLAN, attacks=by_name(["equation_solving"], attack_named))
    (donor,) = {c.attack["of"]["unit"] for c in plan.cells() if c.attack_name == "shuffled"}
    assert donor == "portcullis_ml.bench.controls:RandomQueries"


def test_units_are_named_as_people_write_them():
    assert attack_named("jb_top3") == describe(CATALOG.build("jb_top3"))
    assert attack_named("jacobian(k=7)")["k"] == 7
    assert guard_named("none").stages == ()
    assert [d["unit"] for d in guard_named("top_k(k=1) + label_only").stages] == ["top_k", "label_only"]
    (watch,) = guard_named("watch(detector=prada(window=30), then=label_only)").stages
    assert (watch["detector"]["window"], watch["then"]["unit"]) == (30, "label_only")


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ParameterError, match=r"got 'knockof'. Did you mean knockoff"):
        attack_named("knockof")
    with pytest.raises(ParameterError, match="Did you mean jb_top7 or jb_top3"):
        attack_named("jb_top")
    with pytest.raises(ParameterError, match=r"got 'roundin'. Did you mean rounding"):
        guard_named("roundin")
    with pytest.raises(ParameterError, match="an attack must be an ExtractionAttack; got 'Rounding'"):
        attack_named("portcullis_ml.defenses.rounding:Rounding")


def test_lists_split_outside_brackets_only():
    assert split_outside("a(x=(1, 2)), b + c ,", ",") == ["a(x=(1, 2))", "b + c"]
    assert split_outside("watch(detector=prada(delta=5), then=block) + top_k", "+") == [
        "watch(detector=prada(delta=5), then=block)",
        "top_k",
    ]


@pytest.mark.parametrize("changes", [{"attacks": []}, {"budgets": []}, {"seeds": []}, {"budgets": [0, 10]}])
def test_an_empty_plan_is_refused(changes):
    with pytest.raises(ParameterError, match="must be"):
        replace(PLAN, **changes)


def test_a_plain_stranger_stands_behind_every_defense() -> None:
    plan = replace(PLAN, stranger=True)
    strangers = [c for c in plan.cells() if c.attack_name == "plain_stranger"]
    guards = ("none", "label_only", "rounding(decimals=2)")
    assert {(c.role, c.defense_name, c.budget) for c in strangers} == {("control", d, 40) for d in guards}
    assert len(strangers) == 3 * len(PLAN.seeds)
    others = [c.id for c in plan.cells() if c.attack_name != "plain_stranger"]
    assert others == [c.id for c in PLAN.cells()]


def test_random_queries_stand_behind_every_defense_of_a_table() -> None:
    guards = {"none", "label_only", "rounding(decimals=2)"}
    assert {d for a, d in pairs(replace(PLAN, noise=True), "control") if a == "random_queries"} == guards
    assert {d for a, d in pairs(PLAN, "control") if a == "random_queries"} == {"none"}
    assert {c.id for c in PLAN.cells()} < {c.id for c in replace(PLAN, noise=True).cells()}


def test_labels_alone_are_tried_where_the_row_of_label_only_does_not_say_it_all() -> None:
    watch, changed = "watch(detector=prada, then=block)", "rounding(decimals=2) + other_class"
    guards = by_name(["rounding(decimals=2)", "top_k(k=1)", "log", watch, changed], guard_named)
    attacks = by_name(["knockoff", "equation_solving"], attack_named)
    cells = replace(PLAN, attacks=attacks, defenses=guards, stranger=True, then=[{"unit": "x"}]).cells()
    found = {(c.role, c.attack_name, c.defense_name, c.budget, c.then) for c in cells if c.uses}
    tried = (("attack", "knockoff (labels only)"), ("control", "plain_stranger (labels only)"))
    assert found == {(role, name, guard, 40, ()) for role, name in tried for guard in (watch, changed)}
    assert not any(c.uses for c in replace(PLAN, interface={"reveals": "labels"}, defenses=guards).cells())
    assert any(
        c.uses for c in replace(PLAN, interface={"reveals": "labels", "explains": True}, defenses=guards).cells()
    )


def test_defenses_that_keep_labels_are_those_that_say_so_and_remember_nothing() -> None:
    """A hardened victim has other labels than the one that label only was tried before."""
    built = {name: cls for name in DEFENSES if isinstance((cls := DEFENSES.load(name)).keeps_labels, bool)}
    assert set(KEEP_LABELS) == {n for n, c in built.items() if c.keeps_labels and c.start is Defense.start}
    assert guard_named("log + rounding").keeps_labels
    assert not guard_named("outlier_exposure + rounding").keeps_labels


def test_attacks_that_follow_gradients_train_what_has_them() -> None:
    network = {"unit": "portcullis_ml.models.torch:TorchLearner"}
    learners = {c.attack_name: c.learner for c in replace(PLAN, gradients=network).cells() if c.role != "honest"}
    assert learners["jb_top3"] == network
    assert learners["knockoff"] == learners["random_queries"] == learners["shuffled"] == PLAN.learner
    shuffled = replace(PLAN, gradients=network, attacks=by_name(["jb_top3"], attack_named)).cells()
    assert {c.learner["unit"] for c in shuffled if c.attack_name == "shuffled"} == {network["unit"]}
