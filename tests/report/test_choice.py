"""The section "Which defense?": what honest clients lose, what thieves keep, and advice that does no harm."""

from __future__ import annotations

from typing import Any

import pytest
from tests.report.fakes import META, control, estimate, honest, record

from portcullis_ml.report import render
from portcullis_ml.report.choice import advice, answer, offered, which_defense
from portcullis_ml.report.recommend import settings
from portcullis_ml.report.results import NONE, read
from portcullis_ml.report.verdict import verdict_of


def copy(attack: str, guard: str, value: float, half: float = 0.02, **cell: Any) -> dict[str, Any]:
    made = record(attack, guard) | {"measures": {"agreement": estimate(value, half)}, "curve": []}
    return made | {"cell": {**made["cell"], **cell}}


def told(attack: str, defense: str, value: float) -> dict[str, Any]:
    return copy(f"{attack} (told the guard)", defense, value, knows_defense=True)


def cost(defense: str, value: float, high: float, refused: float = 0.0, **measures: Any) -> dict[str, Any]:
    """Honest clients who lose this much accuracy."""
    made = honest(defense, 0.0)
    lost = {"value": value, "low": 0.0, "high": high, "n": 450, "level": 0.95, "unit": "rows"}
    stopped = {**lost, "value": refused, "high": max(refused, 0.008)}
    return made | {"measures": {**made["measures"], "accuracy_drop": lost, "refused": stopped, **measures}}


STOLEN = [copy("knockoff", NONE, 0.9), control("no_api", 0.1), honest(NONE, 0.0)]


def page(records: list[dict[str, Any]]) -> str:
    return str(which_defense(read(records))).replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("value", "high", "refused", "recommended"),
    [(0.002, 0.009, 0.0, True), (0.002, 0.012, 0.0, False), (0.265, 0.3, 0.0, False), (0.0, 0.008, 0.05, False)],
)
def test_a_defense_that_may_cost_more_than_the_cap_is_never_best(
    value: float, high: float, refused: float, recommended: bool
) -> None:
    records = [*STOLEN, copy("knockoff", "poison", 0.3), cost("poison", value, high, refused)]
    audit = read(records)
    assert audit.recommended == ("poison" if recommended else None)
    assert (settings(audit) is not None) == recommended
    shown = render(records, META)
    assert ('class="tag best"' in shown) == recommended
    assert ("No defense here is worth its price: poison" in verdict_of(audit).lead) != recommended
    assert ("No settings are recommended" in shown) != recommended


def test_the_cap_is_said_and_can_be_another() -> None:
    records = [*STOLEN, copy("knockoff", "poison", 0.3), cost("poison", 0.02, 0.036)]
    assert advice(read(records), "poison").startswith(
        "Not recommended: it has a price for honest clients, which may be up to 3.6 points, where 1 point is the most "
        "that a recommendation may cost."
    )
    assert "which may be up to 3.6 points, where 1 point is" in verdict_of(read(records)).lead
    assert read(records, cap=0.04).recommended == "poison"
    assert "Take poison" in render(records, META | {"cap": 0.04})


def test_of_two_that_help_the_harmless_one_is_best_though_it_holds_less() -> None:
    harmful = [copy("knockoff", "harmful", 0.1), cost("harmful", 0.1, 0.15)]
    audit = read([*STOLEN, *harmful, copy("knockoff", "mild", 0.6), cost("mild", 0.0, 0.008)])
    assert audit.recommended == audit.best == "mild"
    assert offered(audit) == ["mild", "harmful"]


def test_stages_that_cannot_change_a_label_cost_no_accuracy_however_few_rows_there_are() -> None:
    made = copy("knockoff", "label_only", 0.4, defense=[{"unit": "label_only"}])
    assert read([*STOLEN, made, cost("label_only", 0.0, 0.05)]).recommended == "label_only"


def test_the_naive_and_the_knowing_attacker_stand_apart() -> None:
    records = [*STOLEN, copy("knockoff", "poison", 0.3), told("d_dae", "poison", 0.85), cost("poison", 0.0, 0.008)]
    shown = page(records)
    assert "<small>who does not know it: </small>30% [28, 32]" in shown
    assert "<small>who knows it: </small>85% [83, 87]" in shown
    assert advice(read(records), "poison") == "Recommended: thieves keep 85% instead of 90%."


def test_a_defense_that_holds_only_the_naive_is_said_to() -> None:
    records = [*STOLEN, copy("knockoff", "poison", 0.3), told("d_dae", "poison", 0.895), cost("poison", 0.0, 0.008)]
    assert advice(read(records), "poison") == "Not worth it: it holds back only those who do not know it."
    assert answer(read(records)) == "No defense is worth it here."


def test_where_nobody_knew_it_the_advice_says_so() -> None:
    records = [*STOLEN, copy("knockoff", "poison", 0.3), cost("poison", 0.0, 0.008)]
    assert (
        advice(read(records), "poison")
        == "Recommended: thieves keep 30% instead of 90%. Nobody who knows it was tried."
    )
    assert "<small>who knows it: </small>not tried" in page(records)


def test_matched_and_held_out_stand_in_one_row_and_a_gap_is_warned_of() -> None:
    records = [
        *STOLEN,
        copy("knockoff", "filter [matched]", 0.2, regime="matched"),
        copy("knockoff", "filter [held out]", 0.5, regime="held_out"),
        cost("filter [held out]", 0.0, 0.008),
    ]
    audit = read(records)
    assert offered(audit) == ["filter [held out]"]
    assert "depends on what it was trained with" in advice(audit, "filter [held out]")
    shown = page(records)
    assert "rows of the thief&#x27;s source: </small>20% [18, 22]" in shown
    assert "rows from elsewhere: </small>50% [48, 52]" in shown
    alone = [r for r in records if r["defense"] != "filter [held out]"]
    assert "which an owner seldom has" in advice(read(alone), "filter [matched]")


def test_what_honest_clients_lose_beside_accuracy() -> None:
    served = cost(
        "poison", 0.0, 0.008, clean_calibration=estimate(0.02, 0.01), served_calibration=estimate(0.3, 0.01),
        unexplained=estimate(0.25, 0.01),
    )  # fmt: skip
    served["notes"] = {"guard_seconds": estimate(0.0004, 0.0001, unit="questions")}
    shown = page([*STOLEN, copy("knockoff", "poison", 0.3), served])
    assert "<small>calibration error: </small>2.0% [1.0, 3.0] to 30.0% [29.0, 31.0]" in shown
    assert "<small>time a question: </small>0.4 ms more [0.3, 0.5]" in shown
    assert "<small>explanations withheld or changed: </small>25.0% [24.0, 26.0]" in shown


def test_nothing_can_be_recommended_where_nothing_is_stolen() -> None:
    records = [copy("a", NONE, 0.12), copy("a", "x", 0.1), control("no_api", 0.11), honest("x", 0.0)]
    assert answer(read(records)).startswith("No defense can be recommended: nothing was stolen")
    assert advice(read(records), "x").startswith("What it is worth cannot be told")


def test_no_section_without_a_defense() -> None:
    assert which_defense(read(STOLEN)) is None
