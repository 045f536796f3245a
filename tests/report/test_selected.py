"""What is said of a figure that is the best of several."""

from typing import Any

import numpy as np
from tests.report.fakes import control, record

from portcullis_ml.repetitions import packed
from portcullis_ml.report.results import NONE, Audit, read
from portcullis_ml.report.selected import how_selected, selection


def on_rows(attack: str, budget: int, **changes: Any) -> dict[str, Any]:
    """A record that says on which of 100 test rows its copy agrees."""
    made = record(attack, NONE, budget=budget, **changes)
    made["measures"]["agreement"] = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 100, "level": 0.95, "unit": "rows"}
    return made | {"curve": [], "notes": {"right": packed(np.arange(100) < 90)}}


def test_the_best_of_several_says_that_it_was_selected_and_how_luck_was_kept_out() -> None:
    audit = read([on_rows(attack, budget) for attack in ("a", "b", "c") for budget in (100, 300)])
    assert selection(audit, NONE) == {"attackers": 3, "ways": 6, "halves": True}
    assert how_selected(audit, NONE) == (
        "The worst attacker's figure is the greatest of 3 attackers' figures, which may be a little high by chance and "
        "is never corrected downwards. Each was tried in several ways (6 in all: fewer queries, labels only); a way "
        "was chosen on one half of the test rows and judged on the other, so that luck does not count as skill."
    )


def test_records_without_halves_are_owned_up_to() -> None:
    old = [record("a", NONE, budget=budget) for budget in (100, 300)]
    said = how_selected(read(old), NONE)
    assert said.startswith(
        "The worst attacker's figure is that of one attacker. Each was tried in several ways (2 in all)"
    )
    assert "the greatest figure was taken" in said


def test_nothing_is_said_where_there_was_nothing_to_select_from() -> None:
    assert how_selected(read([on_rows("a", 300)]), NONE) == ""
    assert selection(Audit(), NONE) is None
    assert how_selected(read([on_rows("a", 300), on_rows("b", 300), control("no_api", 0.1)]), NONE).endswith(
        "never corrected downwards."
    )
