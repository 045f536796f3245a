"""A theft that agreement does not show: rare classes, the order of scores, and what is compared beside them."""

from typing import Any

import numpy as np
import pytest
from tests.report.fakes import control, estimate, record

from portcullis_ml.core.types import Estimate
from portcullis_ml.repetitions import packed, paired, row_weights
from portcullis_ml.report.by_measure import ahead_by, by_measure, compared, said
from portcullis_ml.report.results import NONE, Audit, read
from portcullis_ml.report.verdict import Verdict, verdict_of

ROWS = 400
RARE = 80  # rows of the class that the bank's model gives seldom
VICTIM = [0] * (ROWS - RARE) + [1] * RARE
BALANCED = {"name": "balanced_agreement", "why": "Your model gives 80% of the test rows the class 'repaid'."}


def bits(common: int, rare: int) -> np.ndarray:
    """(ROWS,) agreement on so many rows of the frequent class, and on so many of the rare one."""
    right = np.zeros(ROWS, bool)
    right[:common] = True
    right[ROWS - rare :] = True
    return right


def graded(made: dict[str, Any], seed: int, right: np.ndarray, **others: float) -> dict[str, Any]:
    """The record of one seed, with what follows from the rows on which its copy agrees."""
    shares = right[:-RARE].mean(), right[-RARE:].mean()
    figures = {"agreement": right.mean(), "balanced_agreement": sum(shares) / 2} | others
    measures = {name: estimate(float(value), 0.02, ROWS) for name, value in figures.items()}
    cell = {**made["cell"], "seed": seed}
    return made | {"cell": cell, "measures": measures, "curve": [], "notes": {"right": packed(right), "labelled": 300}}


def bank(thief: tuple[int, int], own: tuple[int, int], seeds: int = 3) -> list[dict[str, Any]]:
    """An imbalanced scoring model: whoever always says "repaid" agrees on 80% of the rows.

    thief, own   on how many rows of the frequent and of the rare class the copies agree
    """
    records = []
    for seed in range(seeds):
        nobody = graded(control("no_api", 0.8), seed, bits(ROWS - RARE, 0), rank_correlation=0.0, minority_f=0.0)
        nobody["notes"]["victim"] = VICTIM
        ranks = {"rank_correlation": 0.98, "minority_f": 0.71, "tv_natural": 0.03}
        labels = {"rank_correlation": 0.89, "minority_f": 0.58, "tv_natural": 0.12}
        records += [
            nobody,
            graded(record("knockoff", NONE, seed=seed), seed, bits(thief[0], thief[1] + seed), **ranks),
            graded(record("own_labels", NONE, seed=seed, role="control"), seed, bits(own[0], own[1] + seed), **labels),
        ]
    return records


def whole(verdict: Verdict) -> str:
    return " ".join([verdict.headline, verdict.lead, *verdict.detail]).replace("\N{NO-BREAK SPACE}", " ")


def test_a_copy_that_agrees_as_often_as_the_most_frequent_class_is_a_theft() -> None:
    """Both agree on 320 of 400 rows, and so does whoever never asks; on the rare class only the thief is any good."""
    records = bank(thief=(262, 56), own=(296, 22))
    for r in records:
        assert r["measures"]["agreement"]["value"] == pytest.approx(0.8, abs=0.01)
    plain = verdict_of(read(records))
    assert plain.kind == "withheld"  # by plain agreement nothing is stolen
    told = verdict_of(read(records, chosen=BALANCED))
    assert told.kind == "stolen"
    assert told.headline.startswith("With 1,600 queries a stranger reaches 77% balanced agreement with your model")
    assert "Measured by balanced agreement. Your model gives 80% of the test rows the class 'repaid'." in whole(told)
    assert (
        "The copy is also closer than labels by hand would be in these: rank correlation 0.98 against 0.89;"
        in whole(told)
    )
    assert "F score of the rarest true class 71.0% against 58.0%" in whole(told)


def test_what_labels_by_hand_do_not_give_is_said_where_the_verdict_s_own_measure_does_not_show_it() -> None:
    told = verdict_of(read(bank(thief=(300, 50), own=(300, 50)), chosen=BALANCED))
    assert told.kind == "no gain"
    assert "That the copy is better than one from labels by hand is not shown by balanced agreement." in whole(told)
    assert "labels by hand would be in these: rank correlation 0.98 against 0.89" in told.lead


def test_a_ranking_that_was_asked_for_is_what_the_verdict_goes_by() -> None:
    chosen = {"name": "rank_correlation", "why": "It was asked for with --measure."}
    audit = read(bank(thief=(300, 50), own=(300, 50)), chosen=chosen)
    assert audit.measure == "rank_correlation"
    assert audit.weights is None
    told = verdict_of(audit)
    assert told.kind == "stolen"
    assert "a stranger reaches 98% rank correlation" in told.headline


def test_in_balanced_agreement_every_class_counts_alike_row_by_row() -> None:
    """The paired difference is the difference of the two means over classes, slowly."""
    audit = read(bank(thief=(262, 56), own=(296, 22)), chosen=BALANCED)
    weights = audit.weights
    assert weights is not None
    assert weights.mean() == pytest.approx(1.0)
    thief, own = bits(262, 56), bits(296, 22)
    slow = [(x[:-RARE].mean() + x[-RARE:].mean()) / 2 for x in (thief, own)]
    assert paired(((thief * 1.0 - own) * weights)[None]).value == pytest.approx(slow[0] - slow[1])
    assert audit.gain is not None
    assert audit.gain.low > 0


def test_rows_have_no_weights_where_the_measure_is_no_mean_over_rows_or_nobody_noted_the_rows() -> None:
    records = bank(thief=(300, 50), own=(300, 50))
    assert row_weights(records, "rank_correlation") is None
    assert row_weights([control("no_api", 0.8)], "balanced_agreement") is None
    ones = row_weights(records, "agreement")
    assert ones is not None
    assert (ones == 1).all()


def test_a_copy_is_ahead_seed_by_seed_and_closer_is_better() -> None:
    audit = read(bank(thief=(300, 50), own=(300, 50)))
    thief, own = audit.strongest, audit.own
    assert thief is not None
    assert own is not None
    e = ahead_by(thief.pair, own, "tv_natural")
    assert e is not None
    assert e.value == pytest.approx(0.09)  # less distance is better
    assert e.high - e.value == pytest.approx(np.hypot(0.02, 0.02))  # rows alone: the seeds are the same
    one = read(bank(thief=(300, 50), own=(300, 50), seeds=1))
    assert one.strongest is not None
    single = ahead_by(one.strongest.pair, own, "tv_natural")
    assert single is not None
    assert single.n == ROWS


def test_seeds_that_differ_widen_the_lead() -> None:
    records = bank(thief=(300, 50), own=(300, 50))
    lucky = [r for r in records if r["attack"] == "knockoff"]
    for r, value in zip(lucky, (0.90, 0.95, 1.0), strict=True):
        r["measures"]["rank_correlation"] = estimate(value, 0.0)
    for r in records:
        if r["attack"] == "own_labels":
            r["measures"]["rank_correlation"] = estimate(0.9, 0.0)
    audit = read(records)
    assert audit.strongest is not None
    assert audit.own is not None
    e = ahead_by(audit.strongest.pair, audit.own, "rank_correlation")
    assert e is not None
    assert e.value == pytest.approx(0.05)
    assert e.high - e.value == pytest.approx(4.302653 * 0.05 / 3**0.5, rel=1e-4)
    assert "rank correlation" not in said(audit)


def test_the_section_holds_every_measure_beside_both_controls() -> None:
    audit = read(bank(thief=(262, 56), own=(296, 22)), chosen=BALANCED)
    lines = {line.name: line for line in compared(audit)}
    assert list(lines) == ["agreement", "balanced_agreement", "rank_correlation", "tv_natural", "minority_f"]
    assert lines["rank_correlation"].unasked == Estimate(0.0, 0.0, 0.02, 3, unit="seeds")
    text = str(by_measure(audit)).replace("\N{NO-BREAK SPACE}", " ")
    assert "The verdict goes by balanced agreement. Your model gives 80%" in text
    assert "0.09 [0.06, 0.12] ✓" in text


def test_without_a_copy_or_labels_there_is_less_to_compare() -> None:
    assert by_measure(Audit()) is None
    records = [r for r in bank(thief=(300, 50), own=(300, 50)) if r["attack"] != "own_labels"]
    audit = read(records)
    assert said(audit) == ""
    assert all(line.own is None and line.gain is None for line in compared(audit))
    assert "not measured" in str(by_measure(audit))
