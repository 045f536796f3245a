"""The answer of `portcullis privacy` in words: what counts as clear, and what is said where nothing does."""

from __future__ import annotations

import pytest

from portcullis_ml.report.privacy_page import _exposed, findings


def record(attack: str, on: str = "api", **measures: tuple[float, float, float]) -> dict:
    found = {n: {"value": v, "low": lo, "high": hi, "n": 1000} for n, (v, lo, hi) in measures.items()}
    return {
        "attack": attack, "defense": "none", "cell": {"extra": {"on": on}}, "measures": found, "queries": 2000,
        "outcome": "done" if found else "not applicable", "reason": "" if found else f"{attack} needs more.",
        "notes": {},
    }  # fmt: skip


AUC = (0.55, 0.53, 0.57)
THOUSANDTH, HUNDREDTH = "tpr_at_0.1_percent", "tpr_at_1_percent"
META = {"non_members": 1000}


def said(*records: dict) -> str:
    return findings(records, META).headline


def test_the_least_rate_at_which_somebody_is_clearly_named_is_told():
    both = record(
        "lira", auc=AUC, **{"tpr_at_0.1_percent": (0.031, 0.02, 0.045), "tpr_at_1_percent": (0.1, 0.08, 0.12)}
    )
    assert said(both) == (
        "Of 1,000 people in the training data a stranger can name 31 [20, 45] as members, where 1 in 1,000 of the "
        "others is accused wrongly."
    )
    weak = record(
        "lira", auc=AUC, **{"tpr_at_0.1_percent": (0.003, 0.0005, 0.01), "tpr_at_1_percent": (0.1, 0.08, 0.12)}
    )
    assert "can name 100 [80, 120] as members, where 1 in 100 of" in said(weak)


def test_what_is_found_on_a_model_without_the_candidates_is_no_finding():
    api = record("lira", auc=AUC, tpr_at_1_percent=(0.05, 0.03, 0.07))
    same = record("lira", "innocent", auc=AUC, tpr_at_1_percent=(0.04, 0.02, 0.06))
    assert "can name 50" in said(api)
    assert said(api, same) == "No attack here clearly tells members from others."
    other = record("rmia", auc=AUC, tpr_at_1_percent=(0.03, 0.02, 0.04))
    assert "can name 30" in said(api, same, other)  # whose own control found nothing


@pytest.mark.parametrize("measures", [{"tpr_at_1_percent": (0.012, 0.006, 0.02)}, {}])
def test_nothing_found_is_said_so(measures):
    found = findings([record("gap", **({"auc": AUC} if measures else {}), **measures)], META)
    if measures:
        assert found.headline == "No attack here clearly tells members from others."
        assert "guessing names 1%" in found.lead
    else:
        assert found.headline == "No attack could be measured on the API with 1,000 non-members."
        assert found.lead == "gap needs more."


def exposed(*p_values: float) -> str:
    found = record("gap", auc=AUC, tpr_at_1_percent=(0.0, 0.0, 0.01))
    rows = [{"row": i, "suspicion": 1.0, "p_value": p} for i, p in enumerate(p_values)]
    found["notes"] = {"exposed": rows, "named_at_1_percent": sum(p <= 0.01 for p in p_values)}
    return str(_exposed(findings([found], META)))


def test_rows_that_are_suspected_no_more_than_others_are_not_called_exposed():
    assert exposed(0.97, 0.98) == "<p>Nobody stands out: gap suspects 97% of the non-members as much as any member.</p>"
    page = exposed(0.001, 0.05, 0.5)
    assert "member 0" in page
    assert "member 1" in page
    assert "member 2" not in page
    assert "1 member has 1% or less" in page
