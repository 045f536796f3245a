"""Flags: raised exactly when an audit would flatter, each with its three sentences."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.bench.flagged import of_run
from portcullis_ml.bench.flags import FLAGS, raised


def row(
    attack: str, defense: str, value: float, *, half: float = 0.02, role: str = "attack", seed: int = 0, **more: object
) -> dict:
    estimate = {"value": value, "low": value - half, "high": value + half, "n": 100}
    cell = {"seed": seed, "budget": more.pop("budget", 100)}
    base = {"role": role, "attack": attack, "defense": defense, "outcome": "done", "cell": cell, "flags": []}
    return base | {"measures": {"agreement": estimate}} | more


def ids(*rows: dict) -> set[tuple[str, str]]:
    return {(f["id"], f["where"]) for f in of_run(rows)} - {("few_seeds", "audit")}


CONTROL = row("no_api", "none", 0.1, role="control")


def test_every_flag_has_its_sentences_and_they_are_sorted():
    assert list(FLAGS) == sorted(FLAGS)
    for flag in FLAGS.values():
        assert flag.title
        for sentence in (flag.why, flag.what_to_do):
            assert sentence[0].isupper() or sentence[0] == "'"
            assert sentence.endswith(".")
        assert flag.raised_if[0].islower()
        assert not flag.raised_if.endswith(".")


def test_a_flag_without_an_explanation_cannot_be_raised():
    with pytest.raises(KeyError):
        raised("no_such_flag")


def test_a_sound_audit_raises_none():
    assert ids(row("a", "none", 0.9), row("a", "d", 0.4), row("a", "label_only", 0.3), CONTROL) == set()


def test_an_attack_that_does_not_steal():
    assert ids(row("a", "none", 0.13), CONTROL) == {("attack_does_not_steal", "a | none")}
    assert ids(row("a", "none", 0.9), row("b", "none", 0.12), CONTROL) == {("attack_does_not_steal", "b | none")}


def test_a_difference_within_the_error():
    assert ids(row("a", "none", 0.9), row("a", "d", 0.88), CONTROL) == {("difference_within_error", "d")}


def test_the_worst_attacker_decides_not_the_one_who_is_stopped():
    rows = [row("a", "none", 0.9), row("b", "none", 0.8), row("a", "d", 0.2), row("b", "d", 0.89), CONTROL]
    assert ids(*rows) == {("difference_within_error", "d")}


def test_labels_that_beat_scores():
    rows = [row("a", "none", 0.95), row("a", "label_only", 0.8), row("a", "noise", 0.5), CONTROL]
    assert ids(*rows) == {("labels_beat_scores", "a | noise")}


def test_a_defense_that_does_otherwise_where_it_knew_the_thiefs_source():
    def both(matched: float, held_out: float) -> list[dict]:
        return [row("a", "none", 0.95), row("a", "d [matched]", matched), row("a", "d [held out]", held_out), CONTROL]

    assert ids(*both(0.3, 0.45)) == ids(*both(0.45, 0.3)) == {("regimes_differ", "d")}
    assert ids(*both(0.3, 0.39)) == ids(row("a", "none", 0.95), row("a", "d [matched]", 0.3), CONTROL) == set()
    (flag,) = (f for f in of_run([*both(0.3, 0.45), row("b", "d [matched]", 0.2)]) if f["id"] == "regimes_differ")
    assert flag["detail"] == "a: 30.0% matched, 45.0% held out"


def test_own_labels_as_good_as_the_api():
    rows = [row("a", "none", 0.9), row("own_labels", "none", 0.89, role="control"), CONTROL]
    assert ids(*rows) == {("own_labels_as_good", "audit")}


def test_own_labels_that_fall_short_are_no_flag():
    rows = [row("a", "none", 0.9), row("own_labels", "none", 0.7, role="control"), CONTROL]
    assert ids(*rows) == set()


def test_seeds_are_counted_and_averaged():
    rows = [row("a", "none", v, seed=s) for s, v in enumerate((0.85, 0.90, 0.80))]
    flags = of_run([*rows, CONTROL])
    assert [(f["id"], f["detail"]) for f in flags] == [("few_seeds", "3 seeds")]
    apart = [row("a", "none", v, seed=s) for s, v in enumerate((0.10, 0.90, 0.80))]  # the interval is over the seeds
    assert ids(*apart, CONTROL) == {("attack_does_not_steal", "a | none")}
    five = [row("a", "none", 0.9, seed=s) for s in range(5)]
    assert of_run([*five, CONTROL]) == []


def test_the_largest_budget_is_what_counts():
    rows = [row("a", "none", 0.11, budget=10), row("a", "none", 0.9, budget=100), CONTROL]
    assert ids(*rows) == set()


def test_flags_of_cells_are_gathered_once_with_their_place():
    flagged = [row("a", "d", 0.3, seed=s, flags=[raised("budget_not_spent", "5 of 10")]) for s in range(2)]
    assert ids(row("a", "none", 0.9), CONTROL, *flagged) == {("budget_not_spent", "a | d")}


def test_cells_that_did_not_run_are_left_out():
    assert ids(row("a", "none", 0.9), row("a", "d", 0.9, outcome="failed"), CONTROL) == set()
    assert of_run([]) == []


def test_labels_alone_that_beat_scores_behind_the_same_defense():
    rows = [row("a", "none", 0.95), row("a", "watch", 0.5), row("a (labels only)", "watch", 0.7), CONTROL]
    assert ids(*rows) == {("labels_beat_scores", "a | watch")}
    blocked = [row("a", "label_only", 0.9), row("a", "watch", 0.5), row("a (labels only)", "watch", 0.5)]
    assert ids(row("a", "none", 0.95), *blocked, CONTROL) == set()


def test_an_attack_that_ends_below_someone_who_never_asks():
    control = row("no_api", "none", 0.8, role="control")
    assert ids(row("a", "none", 0.95), row("a", "x", 0.59), control) == {("attack_failed", "a | x")}
    assert ids(row("a", "none", 0.95), row("a", "x", 0.81), control) == set()
    assert ids(row("a", "none", 0.95), row("a", "x", 0.59, stopped="this client was blocked"), control) == set()


def test_who_is_shown_scores_sees_labels_too():
    """The difference is judged between those who may look at labels only on both sides."""
    rounding = row("b", "rounding", 0.5)
    rounding["cell"]["defense"] = [{"unit": "rounding", "decimals": 1}]
    rows = [row("a", "none", 0.9), row("b", "none", 0.8), row("a", "label_only", 0.89), rounding, CONTROL]
    assert ("difference_within_error", "rounding") in ids(*rows)
    rounding["cell"]["defense"] = [{"unit": "quota"}]
    assert ("difference_within_error", "rounding") not in ids(*rows)


def test_the_stranger_is_an_attacker_behind_defenses_too():
    stranger = [row("plain_stranger", d, 0.9, role="control") for d in ("none", "d")]
    rows = [row("a", "none", 0.9), row("a", "d", 0.4), *stranger, CONTROL]
    assert ids(*rows) == {("difference_within_error", "d")}


def test_random_queries_that_were_tried_behind_defenses_are_attackers():
    rows = [row("a", "none", 0.9), row("a", "d", 0.4), row("random_queries", "none", 0.9, role="control"), CONTROL]
    assert ids(*rows) == set()
    assert ids(*rows, row("random_queries", "d", 0.9, role="control")) == {("difference_within_error", "d")}


def test_a_stranger_who_beats_the_attacks_behind_a_defense():
    right = np.random.default_rng(0).random(500) < 0.8
    more = right | (np.arange(500) % 20 == 0)
    stranger = bits(more, "plain_stranger", role="control", defense="d")
    even = [bits(right, "a"), bits(right, "plain_stranger", role="control")]
    assert ("stranger_is_better", "d") in ids(*even, bits(right, "a", defense="d"), stranger)
    labels = bits(more, "a (labels only)", defense="d")
    assert ("stranger_is_better", "d") not in ids(*even, bits(right, "a", defense="d"), labels, stranger)


def bits(right: np.ndarray, attack: str, seed: int = 0, **more: object) -> dict:
    made = row(attack, str(more.pop("defense", "none")), float(right.mean()), seed=seed, **more)
    made["measures"]["agreement"]["n"] = len(right)
    return made | {"notes": {"right": np.packbits(right).tobytes().hex()}}


def test_a_stranger_who_beats_the_best_attack_on_the_same_rows() -> None:
    right = np.random.default_rng(0).random(500) < 0.8
    more = right | (np.arange(500) % 20 == 0)  # a twentieth of the rows, wherever the attack is wrong there
    stranger = bits(more, "plain_stranger", role="control")
    found = [f for f in of_run([bits(right, "a"), bits(right & False, "weak"), stranger]) if f["where"] == "audit"]
    assert {f["id"] for f in found} == {"few_seeds", "stranger_is_better"}
    gain = (more.mean() - right.mean()) * 100
    assert found[1]["detail"] == f"{gain:.1f}% of the test rows more than a"


def test_a_stranger_who_is_ahead_on_some_rows_and_behind_on_others_is_not_sure() -> None:
    right = np.arange(500) >= 100
    ahead = right ^ (np.arange(500) < 11)  # right on 11 rows more ...
    stranger = ahead ^ (np.arange(500) >= 490)  # ... and wrong on 10 more
    found = ids(bits(right, "a"), bits(stranger, "plain_stranger", role="control"))
    assert stranger.mean() > right.mean()
    assert ("stranger_is_better", "audit") not in found


def test_a_stranger_who_is_even_or_was_tried_with_another_seed_is_no_flag() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(500) < 0.8, rng.random(500) < 0.81  # within the interval
    assert ("stranger_is_better", "audit") not in ids(bits(a, "a"), bits(b, "plain_stranger", role="control"))
    sure = bits(b | True, "plain_stranger", seed=1, role="control")
    assert ("stranger_is_better", "audit") not in ids(bits(a, "a"), sure)
    assert ("stranger_is_better", "audit") in ids(bits(a, "a", seed=1), sure)


def on_rows(attack: str, wrong: int, seed: int, role: str = "attack", budget: int = 100) -> dict:
    """A copy that disagrees on the first `wrong` of 100 test rows."""
    bits = np.packbits(np.arange(100) >= wrong).tobytes().hex()
    return row(attack, "none", 1 - wrong / 100, role=role, seed=seed, budget=budget, notes={"right": bits})


@pytest.mark.parametrize(("wrong", "flagged"), [(2, False), (10, True)])
def test_own_labels_are_compared_on_the_same_rows_where_they_are_known(wrong: int, flagged: bool) -> None:
    """The intervals of the two overlap; on the same rows the attack is ahead in every seed, or is the same."""
    rows = [on_rows("a", wrong, seed) for seed in range(5)]
    own = [on_rows("own_labels", 10, seed, role="control", budget=0) for seed in range(5)]
    found = ids(*rows, *own, *(row("no_api", "none", 0.1, role="control", seed=s) for s in range(5)))
    assert (("own_labels_as_good", "audit") in found) == flagged


def eighths(attack: str, defense: str, value: float, **more: object) -> dict:
    """A row whose interval is an eighth wide on either side, so that two ends can meet exactly."""
    return row(attack, defense, value, half=0.125, **more)


def test_the_shuffled_control_is_among_those_that_learn_nothing_from_the_api():
    shuffled = row("shuffled", "none", 0.5, role="control")
    assert ids(row("a", "none", 0.53), CONTROL, shuffled) == {("attack_does_not_steal", "a | none")}
    assert ids(row("a", "none", 0.55), CONTROL, shuffled) == set()
    learns = row("random_queries", "none", 0.5, role="control")  # from answers that it paid for
    assert ids(row("a", "none", 0.53), CONTROL, learns) == set()


@pytest.mark.parametrize(("seeds", "few"), [(1, True), (4, True), (5, False)])
def test_fewer_than_five_seeds_are_few(seeds: int, few: bool):
    rows = [row("a", "none", 0.9, seed=s) for s in range(seeds)]
    assert [f["id"] for f in of_run([*rows, CONTROL])] == ["few_seeds"] * few


def test_intervals_that_just_meet_are_not_clearly_apart():
    control = eighths("no_api", "none", 0.25, role="control")
    assert ids(eighths("a", "none", 0.5), control) == {("attack_does_not_steal", "a | none")}
    own = eighths("own_labels", "none", 0.25, role="control")
    assert ids(eighths("a", "none", 0.5), own) == {("own_labels_as_good", "audit")}
    assert ids(eighths("a", "none", 0.75), eighths("a", "d", 0.5)) == {("difference_within_error", "d")}
    assert ids(eighths("a", "none", 0.5), eighths("a", "d", 0.75)) == {("difference_within_error", "d")}


def test_a_defense_that_clearly_helps_the_thief_makes_a_difference():
    assert ids(row("a", "none", 0.5), row("a", "d", 0.9), CONTROL) == set()


def test_an_attack_that_is_as_good_as_asking_nothing_did_not_fail():
    control = row("no_api", "none", 0.8, role="control")
    assert ids(row("a", "none", 0.95), row("a", "x", 0.8), control) == set()


def test_labels_beat_scores_only_where_their_intervals_are_apart():
    for labels, beaten in ((0.375, False), (0.5, False), (0.625, True)):  # overlapping, meeting, apart
        rows = [eighths("a", "none", 0.95), eighths("a", "label_only", labels), eighths("a", "noise", 0.25)]
        assert (("labels_beat_scores", "a | noise") in ids(*rows)) == beaten


@pytest.mark.parametrize(("half", "sure"), [(0.01, True), (0.04, False)])
def test_of_numbers_a_stranger_must_be_ahead_by_both_intervals(half: float, sure: bool) -> None:
    def numbers(attack: str, value: float, half: float, role: str = "attack") -> dict:
        made = row(attack, "none", value, half=half, role=role)
        return made | {"measures": {"r2": made["measures"]["agreement"]}}

    rows = [
        numbers("a", 0.90, 0.02),
        numbers("plain_stranger", 0.95, half, "control"),
        numbers("no_api", 0.0, 0.0, "control"),
    ]
    assert ("stranger_is_better" in {f["id"] for f in of_run(rows, "r2")}) is sure
