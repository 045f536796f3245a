"""The section with pictures of what was asked, and accuracy in the victim's terms."""

from __future__ import annotations

import base64
from typing import Any

from tests.report.fakes import META, audit, estimate, record
from tests.report.test_page import walk

from portcullis_ml.report import render

ROW = base64.b64encode(bytes(range(0, 256, 4))).decode()
NOTE: dict[str, Any] = {
    "shape": [8, 8],
    "rounds": [
        {"first": 1, "last": 40, "counts": {"0": 30, "3": 10}, "pictures": {"0": ROW, "3": ROW}},
        {"first": 41, "last": 80, "counts": {"0": 40, "3": 0}, "pictures": {"0": ROW}},
    ],
    "surest": [{"row": ROW, "class": 3, "score": 0.987}],
}


def test_questions_stand_by_part_of_the_run_and_answered_class() -> None:
    meta = META | {"interface": META["interface"] | {"classes": ["zero", "one", "two", "three"]}}
    walked = walk(render([record("knockoff", "none", notes={"asked": NOTE})], meta))
    images = [a["alt"] for a in walked.all("img")]
    assert images.count("A question that was answered zero") == 2
    assert images.count("A question that was answered three") == 1
    assert "1 to 40" in walked.text
    assert "three, 99%" in walked.text


def test_the_bandit_s_choices_are_drawn_and_stand_in_a_table() -> None:
    bandit = {"groups": ["cats", "dogs", "<b>"], "chances": [[1 / 3] * 3, [0.2, 0.5, 0.3], [0.1, 0.7, 0.2]]}
    page = render([record("knockoff", "none", notes={"bandit": bandit})], META)
    walked = walk(page)
    labels = [a.get("aria-label") or "" for a in walked.all("svg")]
    assert "The bandit's chances at the end: dogs 70%, <b> 20%, cats 10%." in labels
    assert "70.0%" in walked.text
    assert "<b></b>" not in page


def test_nothing_is_said_where_nothing_was_kept() -> None:
    assert "What was asked" not in render(audit(), META)


def of_the_victim(attack: str, defense: str, ratio: float, **changes: Any) -> dict[str, Any]:
    made = record(attack, defense, **changes)
    more = {"normalised_accuracy": estimate(ratio), "victim_accuracy": estimate(0.97)}
    return made | {"measures": made["measures"] | more}


def test_accuracy_is_drawn_beside_the_victim_s_and_said_in_its_terms() -> None:
    records = [
        of_the_victim("knockoff", "none", 0.94),
        of_the_victim("copycat", "none", 0.80),
        of_the_victim("copycat", "label_only", 0.77),
    ]
    walked = walk(render(records, META))
    expected = (
        "Of the victim's accuracy a copy reaches 0.94x [0.91, 0.97] after 1,600 queries (knockoff), "
        "one from labels alone reaches 0.77x [0.74, 0.80] after 1,600 queries (copycat)."
    )
    assert expected in walked.text
    (drawn,) = [a for a in walked.all("svg") if (a.get("aria-label") or "").startswith("Accuracy against queries")]
    assert "the victim has 97%" in (drawn["aria-label"] or "")
    assert "no defense, accuracy" in walked.text
