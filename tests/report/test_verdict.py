"""The answer in words, for the ordinary audit and for every way in which there is little to say."""

from __future__ import annotations

import tomllib
from typing import Any

import numpy as np
import pytest
from tests.report.fakes import audit, control, estimate, honest, record, without_copy

from portcullis_ml.catalog import Catalog, resolve
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Estimate
from portcullis_ml.repetitions import paired
from portcullis_ml.report.numbers import clearly_below
from portcullis_ml.report.recommend import settings, toml
from portcullis_ml.report.results import NONE, read
from portcullis_ml.report.saved import Prices
from portcullis_ml.report.verdict import Verdict, threat, verdict_of


def judged(records: list[dict[str, Any]]) -> Verdict:
    return verdict_of(read(records))


def whole(s: Verdict) -> str:
    return " ".join([s.headline, s.lead, *s.detail, *s.caveats]).replace("\N{NO-BREAK SPACE}", " ")


def exact(attack: str, defense: str, value: float, half: float = 0.02, **changes: Any) -> dict[str, Any]:
    """A record whose agreement is `value` and nothing else."""
    measures = {"agreement": estimate(value, half)}
    return record(attack, defense, **changes) | {"measures": measures, "curve": []}


def test_the_answer_names_queries_theft_best_defense_and_its_price() -> None:
    records = [
        exact("knockoff", NONE, 0.84, 0.03),
        exact("knockoff", "label_only", 0.41, 0.03),
        exact("copycat", "label_only", 0.30),
        exact("knockoff", "top_k", 0.80),
        control("no_api", 0.1),
        honest("label_only", 0.003),
    ]
    s = judged(records)
    assert s.kind == "stolen"
    assert whole(s).startswith(
        "With 1,600 queries a stranger reaches 84% agreement with your model [81, 87]. The best defense here, "
        "label_only, costs honest clients 0.3 points of accuracy [0.1, 0.5] and holds thieves at 41% [38, 44]."
    )
    assert "Behind label_only the worst attacker is knockoff." in s.detail


def in_regime(made: dict[str, Any], regime: str, **cell: Any) -> dict[str, Any]:
    return made | {"cell": {**made["cell"], "regime": regime, **cell}}


BOTH = [
    exact("knockoff", NONE, 0.84),
    in_regime(exact("knockoff", "filter [matched]", 0.2), "matched"),
    in_regime(exact("knockoff", "filter [held out]", 0.5), "held_out"),
    exact("knockoff", "top_k", 0.8),
    control("no_api", 0.1),
]


def test_where_both_regimes_were_run_the_one_from_elsewhere_is_judged() -> None:
    audit_ = read(BOTH)
    assert audit_.defenses[-1] == "filter [matched]"
    assert audit_.best == "filter [held out]"
    assert "which an owner seldom has" not in whole(judged(BOTH))
    assert "# filter [held out]" in (settings(audit_) or "")


def test_a_defense_trained_on_the_thiefs_own_source_only_has_its_caveat() -> None:
    records = [r for r in BOTH if r["defense"] != "filter [held out]"]
    assert "filter [matched] was trained with rows from the source of the thief's pool" in whole(judged(records))
    assert read(records).best == "filter [matched]"


def test_a_hardened_victim_is_recommended_with_or_without_a_guard() -> None:
    hardening = {"unit": "outlier_exposure", "artifact": "there/it@sha256:00"}
    for stages in ([], [{"unit": "top_k", "k": 1}]):
        hard = in_regime(exact("knockoff", "hard", 0.3), "held_out", hardening=hardening, defense=stages)
        text = settings(read([exact("knockoff", NONE, 0.84), hard, control("no_api", 0.1)])) or ""
        assert "# the model to serve is the hardened one, in there/it@sha256:00" in text
        assert len(tomllib.loads(text).get("guard", [])) == len(stages)


def test_no_theft_is_claimed_where_the_thief_s_own_labels_are_as_good() -> None:
    records = [exact("knockoff", NONE, 0.95), exact("knockoff", "label_only", 0.6), control("no_api", 0.1)]
    s = judged([*records, control("own_labels", 0.96)])
    assert s.kind == "no gain"
    assert whole(s).startswith(
        "With 1,600 queries a stranger reaches 95% agreement with your model [93, 97]; labels written by hand would "
        "give 96% [93, 99]. That the copy is better than one from labels by hand is not shown by agreement."
    )
    assert "For a thief who cannot label the data: the best defense here, label_only," in whole(s)


def on_rows(made: dict[str, Any], seed: int, right: Any, **notes: Any) -> dict[str, Any]:
    """The record of one seed, with the test rows on which its copy agrees."""
    value = float(np.mean(right))
    e = {"value": value, "low": max(0.0, value - 0.05), "high": min(1.0, value + 0.05), "n": len(right)}
    bits = np.packbits(np.asarray(right, bool)).tobytes().hex()
    cell = {**made["cell"], "seed": seed}
    return made | {"cell": cell, "measures": {"agreement": e}, "notes": {"right": bits, **notes}}


def ahead_by(rows: int, seeds: int = 3) -> list[dict[str, Any]]:
    """A thief who agrees on `rows` of 400 test rows more than their labels by hand, and on no row less."""
    rng = np.random.default_rng(0)
    records = [control("no_api", 0.1)]
    for seed in range(seeds):
        own = np.ones(400, bool)
        own[rng.permutation(400)[:40]] = False
        thief = own.copy()
        thief[np.flatnonzero(~own)[:rows]] = True
        records += [on_rows(exact("knockoff", NONE, 0.9), seed, thief)]
        records += [on_rows(control("own_labels", 0.9), seed, own, labelled=600)]
    return records


def test_a_theft_is_told_from_labels_by_hand_row_by_row_and_seed_by_seed() -> None:
    """The intervals of the two copies overlap by far; on the same rows the thief is ahead for certain."""
    audit = read(ahead_by(8))
    strongest = audit.strongest
    assert strongest is not None
    assert audit.own is not None
    assert not clearly_below(audit.own.measures["agreement"], strongest.copy)
    assert audit.gain is not None
    assert audit.gain.value == pytest.approx(0.02)
    said = judged(ahead_by(8))
    assert said.kind == "stolen"
    assert "The queries save 600 labels. On the same rows the thief's copy agrees 2.0 points more often" in whole(said)
    assert judged(ahead_by(0)).kind == "no gain"


def test_the_headline_says_what_the_queries_saved_and_at_what_price() -> None:
    audit = read(ahead_by(0), prices=Prices(query=0.01, label=0.5))
    said = verdict_of(audit)
    assert "600 labels written by hand would give 90%" in said.headline
    assert said.lead.startswith("The queries cost 16.00, and save 600 labels that would cost 300.00.")
    assert "On the same rows the thief's copy agrees 0.0 points more often" in said.lead


def test_a_paired_interval_is_that_of_rows_and_seeds() -> None:
    """Beside the formula, written out; seeds that share their rows are not as many rows."""
    d = np.random.default_rng(1).integers(-1, 2, (3, 50)).astype(float)
    e = paired(d)
    rows = 1.959964 * d.mean(axis=0).std(ddof=1) / 50**0.5
    seeds = 4.302653 * d.mean(axis=1).std(ddof=1) / 3**0.5
    assert e.value == pytest.approx(d.mean())
    assert e.high - e.value == pytest.approx((rows**2 + seeds**2) ** 0.5, rel=1e-5)
    same = paired(np.repeat(d[:1], 3, axis=0))
    assert same.high - same.low == pytest.approx(paired(d[:1]).high - paired(d[:1]).low)


@pytest.mark.parametrize(("own", "verdict"), [(0.90, "stolen"), (0.93, "no gain"), (1.0, "no gain")])
def test_own_labels_count_as_soon_as_the_intervals_touch(own: float, verdict: str) -> None:
    records = [exact("a", NONE, 0.96), control("no_api", 0.1), control("own_labels", own)]
    assert judged(records).kind == verdict


def test_an_exact_theft_stands_beside_good_labels() -> None:
    records = [exact("equation_solving", NONE, 1.0, 0.0), control("no_api", 0.1), control("own_labels", 0.95)]
    assert judged(records).kind == "stolen"


def test_a_defense_is_as_good_as_its_worst_attacker() -> None:
    records = [exact("a", NONE, 0.9), exact("a", "x", 0.2), exact("b", "x", 0.8), exact("a", "y", 0.5)]
    found = read(records)
    assert found.best == "y"
    assert found.worst("x").attack == "b"  # type: ignore[union-attr]
    assert found.defenses == [NONE, "x", "y"]


def test_of_defenses_that_cannot_be_told_apart_the_cheaper_one_is_best() -> None:
    records = [exact("a", NONE, 0.9), exact("a", "x", 0.40), exact("a", "y", 0.42), honest("x", 0.1), honest("y", 0.0)]
    assert read(records).best == "y"


def test_a_rough_but_low_figure_does_not_lose_to_a_high_one_that_helps_nobody() -> None:
    rough, high = exact("a", "rough", 0.49, 0.22), exact("a", "high", 0.80, 0.1)
    found = read([exact("a", NONE, 0.93), rough, high, honest("rough", 0.003), honest("high", 0.0)])
    assert found.best == "rough"
    assert found.helps


def test_no_defense_was_tried() -> None:
    s = judged([exact("knockoff", NONE, 0.84), control("no_api", 0.1)])
    assert s.lead == "No defense was tried."
    assert settings(read([exact("knockoff", NONE, 0.84)])) is None


def test_a_defense_within_the_error_holds_nobody_back() -> None:
    s = judged([exact("knockoff", NONE, 0.84), exact("knockoff", "rounding", 0.82), exact("knockoff", "top_k", 0.83)])
    assert "None of the 2 defenses tried holds thieves back: the best, rounding, leaves them at 82%" in whole(s)
    s = judged([exact("knockoff", NONE, 0.84), exact("knockoff", "rounding", 0.82)])
    assert "The one defense tried, rounding, does not hold thieves back" in whole(s)


def test_a_sure_difference_that_is_worth_nothing_holds_nobody_back() -> None:
    found = read([exact("a", NONE, 1.0, 0.0), exact("a", "rounding", 0.996, 0.001)])
    assert found.best == "rounding"
    assert not found.helps


@pytest.mark.parametrize("blind", ["no_api", "shuffled"])
def test_the_verdict_is_withheld_where_nothing_is_stolen(blind: str) -> None:
    records = [exact("knockoff", NONE, 0.2), exact("knockoff", "label_only", 0.1), control(blind, 0.19)]
    s = judged(records)
    assert s.kind == "withheld"
    assert whole(s).startswith(
        "Verdict withheld: undefended, the attacks do not steal. With 1,600 queries the best of them, knockoff, "
        "reaches 20% agreement [18, 22], and a thief who learns nothing from the API 19% [16, 22]."
    )
    assert settings(read(records)) is None


def test_an_attack_that_steals_nothing_undefended_is_named_beside_those_that_do() -> None:
    s = judged([exact("a", NONE, 0.9), exact("b", NONE, 0.1), exact("a", "x", 0.5), control("no_api", 0.1)])
    assert s.kind == "stolen"
    assert any(c.startswith("b does not steal even undefended") for c in s.caveats)


@pytest.mark.parametrize("outcome", ["not applicable", "refused", "failed"])
def test_no_attack_left_a_copy(outcome: str) -> None:
    records = [without_copy(record("a", d), outcome, "It wanted more.") for d in (NONE, "label_only")]
    s = judged(records)
    assert s.kind == "nothing"
    assert s.headline == f"No attack left a copy of this model: {outcome}."
    assert s.lead == "That is no proof that it cannot be stolen."
    assert s.detail == [f"a: {outcome}. It wanted more."]


def test_nothing_was_run() -> None:
    assert judged([]).headline == "No attack was run, so there is nothing to say."


def test_copies_of_defended_models_alone_are_not_compared_with_nothing() -> None:
    s = judged([without_copy(record("a", NONE), "failed", "A crash."), exact("a", "x", 0.5)])
    assert s.kind == "withheld"
    assert "no attack left a copy of the undefended model" in s.headline


def test_behind_the_only_defense_nobody_left_a_copy() -> None:
    s = judged([exact("a", NONE, 0.9), without_copy(record("a", "x"), "refused", "Quota.")])
    assert s.lead == "Behind x no attack left a copy to measure."


def test_copies_without_a_grade_are_said_to_be_without() -> None:
    made = record("equation_solving", NONE) | {"measures": {"worst_error": estimate(0.1)}, "curve": []}
    s = judged([made])
    assert s.headline == "The copies that were made could not be graded."
    assert "agreement, r2" in s.lead


def test_a_regression_is_told_in_its_own_measure() -> None:
    made = record("equation_solving", NONE) | {"measures": {"r2": estimate(0.93)}, "curve": []}
    said = "With 1,600 queries a stranger explains 93% of the variance of your model's answers [90,\xa096]"
    assert judged([made]).headline == f"{said}."
    made["measures"]["mae"] = estimate(2.1, 1.9, 2.3) | {"low": 1.9, "high": 2.3}
    off = "its answers are off by 2.1 [1.9,\xa02.3] on average, in the units of your target."
    assert judged([made]).headline == f"{said}; {off}"


def test_few_seeds_are_owned_up_to() -> None:
    assert any("One seed was run" in c for c in judged(audit(seeds=1)).caveats)
    assert any(c.startswith("3 seeds were run") for c in judged(audit(seeds=3)).caveats)
    assert not any("seeds were run" in c for c in judged(audit(seeds=5)).caveats)


def test_an_attacker_who_does_not_know_the_defense_is_owned_up_to() -> None:
    records = [exact("a", NONE, 0.9), exact("a", "x", 0.5)]
    assert "No attacker here knew the defense; one who does may fare better." in judged(records).caveats
    records[1]["threat_model"] = {"knows_defense": True}
    assert not any("knew the defense" in c for c in judged(records).caveats)


def test_a_failed_cell_is_no_success_of_the_defense() -> None:
    records = [exact("a", NONE, 0.9), exact("a", "x", 0.5), without_copy(record("b", "x"), "failed", "A crash.")]
    assert any(c.startswith("1 cell failed (b against x)") for c in judged(records).caveats)


def test_settings_are_toml_that_holds_every_stage() -> None:
    text = settings(read(audit()))
    assert text is not None
    (stage,) = tomllib.loads(text)["guard"]
    assert stage == {
        "unit": "watch",
        "detector": {"unit": "prada_normality", "threshold": 0.95},
        "then": {"unit": "other_class"},
    }


def test_toml_holds_every_kind_of_setting_and_no_name_breaks_out() -> None:
    stage = {"unit": 'a"b\n[x]', "list": [1, 2.5], "on": True, "odd key\n": 0, "none": None, "far": float("inf")}
    (back,) = tomllib.loads(toml(stage))["guard"]
    assert back == {k: v for k, v in stage.items() if v is not None}
    records = [exact("a", NONE, 0.9), exact("a", 'x\nevil = "1"', 0.3)]
    assert set(tomllib.loads(settings(read(records)) or "")) == {"guard"}


def test_threat_models_in_words() -> None:
    tag = {"answers": "probs", "data": "pool of 600", "accounts": 1, "knows_defense": False}
    assert threat(tag) == "sees probs · has pool of 600 · 1 account · does not know the defense"
    assert threat(None) == "not stated"


def test_a_loss_is_never_more_than_the_labels_changed() -> None:
    made = honest("x", 0.003)
    del made["measures"]["accuracy_drop"]
    loss = read([made]).cost("x")
    assert isinstance(loss, Estimate)
    changed = made["measures"]["labels_changed"]
    assert loss.value == pytest.approx(0.003)
    assert -changed["high"] <= loss.low <= loss.value <= loss.high <= changed["high"]


def test_the_recommended_settings_are_a_guard() -> None:
    """What the page tells people to copy builds the very stages that were attacked."""
    defenses: Catalog = resolve("portcullis_ml.defenses:CATALOG")
    guard = Guard(
        defenses.build({"unit": "watch", "detector": {"unit": "prada"}, "then": {"unit": "label_only"}}),
        defenses.build({"unit": "rounding", "decimals": 1}),
        key=bytes(32),
    )
    defended = exact("a", "x", 0.3)
    defended["cell"]["defense"] = guard.describe()
    text = settings(read([exact("a", NONE, 0.9), defended]))
    again = Guard(*(defenses.build(stage) for stage in tomllib.loads(text or "")["guard"]), key=bytes(32))
    assert again.describe() == guard.describe()


def test_nothing_is_withheld_where_a_plain_stranger_steals() -> None:
    records = [exact("a", NONE, 0.12), control("no_api", 0.1), control("plain_stranger", 0.9) | {"queries": 1600}]
    s = judged(records)
    assert s.kind == "stolen"
    assert s.headline.startswith("With 1,600 queries a stranger reaches 90% agreement")
    assert "The strongest is a plain stranger" in whole(s)
    assert "the best attack here, a, reaches 12% [10, 14]." in whole(s)
    failing = [*records[:2], control("plain_stranger", 0.11)]
    assert judged(failing).kind == "withheld"
    assert "A plain stranger" not in whole(judged(failing))


def test_a_plain_stranger_alone_is_a_theft_too() -> None:
    records = [
        without_copy(record("a", NONE), "failed", "It failed."),
        control("no_api", 0.1),
        control("plain_stranger", 0.9),
    ]
    s = judged(records)
    assert s.kind == "stolen"
    assert "no attack of this audit left a copy" in whole(s)


def test_no_defense_is_credited_with_what_only_the_stranger_gets() -> None:
    records = [exact("a", NONE, 0.5), exact("a", "x", 0.5), control("no_api", 0.1), control("plain_stranger", 0.9)]
    s = judged(records)
    assert s.headline.startswith("With 1,600 queries a stranger reaches 90% agreement")
    assert "does not hold thieves back" in s.lead


def test_a_stranger_who_labels_as_well_by_hand_makes_no_theft() -> None:
    records = [exact("a", NONE, 0.8), control("no_api", 0.1), control("own_labels", 0.85)]
    assert judged(records).kind == "no gain"
    assert judged([*records, control("plain_stranger", 0.95)]).kind == "stolen"
