""" "If it is stolen anyway": what a mark would prove, of what, and after how many questions, from the records alone."""

from __future__ import annotations

from typing import Any

import pytest
from tests.report.fakes import META, audit, estimate, record

from portcullis_ml.report import render
from portcullis_ml.report.aftermath import proofs, sentences, then_of, used
from portcullis_ml.report.results import read


def examined(name: str, about: int | None = None, most: int | None = None, **notes: Any) -> dict[str, Any]:
    found = {"p_value": 1e-6, "verdict": "derived", "level": 1e-3, **notes}
    if "lacking" not in notes:
        found |= {"queries_to_convict": about, "queries_to_convict_at_most": most}
    measures = {"matches": estimate(0.4, n=100, unit="marked questions")}
    return {"name": name, "kind": "ownership", "outcome": "done", "reason": "", "measures": measures, "notes": found}


def theft(attack: str, *then: dict[str, Any], seed: int = 0, mark: str = "backdoor") -> dict[str, Any]:
    made = record(attack, mark, seed=seed, then=list(then))
    made["cell"]["mark"] = {"unit": mark}
    return made


ITSELF = examined("backdoor on the marked victim", 4, 6)


def test_a_mark_says_what_it_proves_after_how_many_questions() -> None:
    found = [
        theft("knockoff", examined("backdoor", 9, 14), ITSELF),
        theft("jb_top3", examined("backdoor", 300, None), ITSELF),
    ]
    (sentence,) = proofs(read(found))
    assert sentence == (
        "backdoor would prove the theft of 1 of 2 stolen copies, after about 9 questions (14 at most); of the model "
        "itself, taken as it is, after about 4 questions (6 at most)."
    )
    page = render([*audit(), *found], META)
    assert "<h2>If it is stolen anyway</h2>" in page
    assert sentence in page
    assert "about 9, 14 at most" in page
    assert "no number is shown to suffice" in page
    assert "convicted (p &lt; 0.001)" in page
    assert f"If it is stolen anyway: {sentence}" in sentences(read(found))


def test_of_several_seeds_the_worst_counts() -> None:
    found = read([theft("knockoff", examined("backdoor", 9 + s, 14 + s), ITSELF, seed=s) for s in range(3)])
    assert "after about 11 questions (16 at most)" in proofs(found)[0]
    assert then_of(found.marked["knockoff", "backdoor"], found)[0]["questions_to_convict"] == (11, 16)
    found = read([theft("knockoff", examined("backdoor", 9, (14, None)[s]), ITSELF, seed=s) for s in range(2)])
    assert proofs(found)[0].startswith("backdoor would prove the theft of 0 of 1 stolen copy;")


def test_a_mark_that_did_not_take_is_said_to() -> None:
    weak = examined("backdoor on the marked victim", None, None)
    (sentence,) = proofs(read([theft("knockoff", examined("backdoor"), weak)]))
    assert sentence.endswith("it is not shown to prove even the model itself, taken as it is.")


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ({"lacking": "known_errors needs 20 innocent models."}, "needs 20 innocent models"),
        ({"lacking": ""}, "not recorded"),
    ],
)
def test_no_figure_is_made_up_where_none_was_recorded(notes: dict[str, Any], said: str) -> None:
    found = [theft("knockoff", examined("known_errors", **notes), mark="known_errors")]
    page = render([*audit(), *found], META)
    assert said in page
    assert "would prove" not in page.partition('id="marks"')[2].partition("</section>")[0]


def test_where_nothing_can_be_said_of_any_copy_the_sentence_says_why() -> None:
    few = examined("dawn", lacking="6 answers are too few.", verdict="inconclusive")
    few["notes"] |= {"queries_to_convict": None, "queries_to_convict_at_most": None}
    assert proofs(read([theft("knockoff", few, mark="dawn")])) == [
        "dawn would prove the theft of 0 of 1 stolen copy (6 answers are too few)."
    ]


def test_the_table_tells_the_copy_from_the_model_itself_and_counts_both_kinds_of_models() -> None:
    itself = examined("known_errors on the victim itself", 4, 6)
    itself["measures"]["false_claims"] = estimate(0.0, n=20, unit="innocent models")
    page = render([*audit(), theft("knockoff", examined("known_errors"), itself, mark="known_errors")], META)
    table = page.partition('id="marks"')[2].partition("</section>")[0]
    assert "of 100</td>" in table
    assert "of 20</td>" in table
    assert table.count('<td data-head="Copy agrees"></td>') == 1  # the model itself is no copy


def test_more_questions_than_were_asked_are_said_to_be() -> None:
    page = render([*audit(), theft("knockoff", examined("backdoor", 90, 140))], META)
    assert "about 90, 140 at most; 100 were asked here" in page


def test_an_audit_without_marks_has_no_such_section() -> None:
    assert "If it is stolen anyway" not in render(audit(), META)


def test_the_terminal_compares_the_same_figure_on_the_copy_and_on_the_api() -> None:
    """Too few candidates on the API for a false positive rate of 1%: there both sides show the area."""
    unit = {"unit": "loss_threshold"}
    link = {"name": "loss_threshold", "kind": "privacy", "outcome": "done", "reason": "", "notes": {}}
    measures = {"tpr_at_1_percent": estimate(0.02), "auc": estimate(0.6)}
    stolen = record("knockoff", "none", then=[{**link, "measures": measures}])
    stolen["cell"]["then"] = [unit]
    asked = record("loss_threshold", "none", role="privacy", measures={"auc": estimate(0.7)})
    asked["cell"]["attack"] = unit
    rows, said = used(read([stolen, asked]))
    assert [row[:3] for row in rows] == [["knockoff", "none", "loss_threshold"]]
    assert [cell.split()[0] for cell in rows[0][3:]] == ["60%", "70%"]
    assert said == ["loss_threshold: area under the curve"]
    (alone,), said = used(read([stolen]))
    assert (alone[3].split()[0], alone[4]) == ("2%", "")
    assert said == ["loss_threshold: members found at 1% false accusations"]
