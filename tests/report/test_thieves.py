"""Who is the worst attacker: whoever gets more can use less, and nobody is chosen by the figure that is reported."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.report.fakes import control, estimate, honest, record

from portcullis_ml.bench import named
from portcullis_ml.report import render
from portcullis_ml.report.recommend import settings
from portcullis_ml.report.results import KEEP_LABELS, NONE, Audit, read
from portcullis_ml.report.thieves import LABELS_ONLY
from portcullis_ml.report.verdict import verdict_of

N = 400
ROUNDING, WATCH = "rounding(decimals=2)", "watch(prada, block)"


def hexed(right: np.ndarray) -> str:
    return np.packbits(right).tobytes().hex()


def rows(share: float, seed: int = 0) -> np.ndarray:
    """(N,) exactly this share of the rows, spread out so that even and odd rows have the same share."""
    right = np.zeros(N, bool)
    for half in (0, 1):
        own = np.arange(half, N, 2)
        right[np.random.default_rng([seed, half]).permutation(own)[: round(share * len(own))]] = True
    return right


def copy(attack: str, defense: str, right: np.ndarray | float, *way: np.ndarray, **changes: Any) -> dict[str, Any]:
    """A copy that agrees on these rows at the end, and on those of `way` after each of its rounds before that."""
    right = rows(right) if isinstance(right, float) else right
    labels = changes.pop("labels", False)
    made = record(attack + LABELS_ONLY * labels, defense, **changes)
    made["cell"] |= {"uses": "labels"} if labels else {}
    made["measures"] = {"agreement": estimate(float(right.mean()), 0.02, N)}
    found = [*way, right]
    made["curve"] = [
        {"queries": 100 * (i + 1), "measures": {"agreement": estimate(float(r.mean()), 0.02, N)}}
        for i, r in enumerate(found)
    ]
    return made | {"notes": {"right": hexed(right), "right_on_the_way": [hexed(r) for r in way]}}


def stranger(defense: str, right: float, **changes: Any) -> dict[str, Any]:
    return copy("plain_stranger", defense, right, role="control", **changes)


def unasked(share: float) -> dict[str, Any]:
    return control("no_api", share)


def whole(audit: Audit) -> str:
    s = verdict_of(audit)
    return " ".join([s.headline, s.lead, *s.detail, *s.caveats]).replace("\N{NO-BREAK SPACE}", " ")


def test_the_bench_and_the_report_use_the_same_words() -> None:
    assert named.LABELS_ONLY == LABELS_ONLY
    assert set(named.KEEP_LABELS) == set(KEEP_LABELS)


def test_the_best_of_many_equal_ways_is_not_called_better_than_they_are() -> None:
    """The greatest of forty figures is luck; what half of the rows chose is no better than the others on the rest."""
    values, lucky = [], []
    for trial in range(30):
        rng = np.random.default_rng(trial)
        *way, end = (rng.random(N) < 0.5 for _ in range(40))
        values.append(read([copy("a", NONE, end, *way)]).worst(NONE).copy.value)  # type: ignore[union-attr]
        lucky.append(max(r.mean() for r in way))
    assert np.mean(lucky) > 0.55
    assert np.mean(values) < 0.52


def test_another_way_must_be_better_by_more_than_chance() -> None:
    end = rows(0.8)
    luck = end.copy()
    luck[np.flatnonzero(~end)[:1]] = True  # one row more
    worst = read([copy("a", NONE, end, luck)]).worst(NONE)
    assert worst is not None
    assert (worst.how, worst.copy.value) == ("", pytest.approx(0.8))


def test_an_attacker_whom_both_halves_choose_keeps_their_own_figure() -> None:
    found = read([copy("a", NONE, 0.9, seed=s) for s in range(3)] + [copy("b", NONE, 0.7, seed=s) for s in range(3)])
    worst = found.worst(NONE)
    assert worst is not None
    assert (worst.attack, worst.how) == ("a", "")
    assert worst.copy == found.pairs["a", NONE].measures["agreement"]


def test_ways_that_differ_by_half_are_judged_on_the_rows_that_did_not_choose_them() -> None:
    """Each is right only where it was chosen, and the plain way is never given up for less."""
    even, odd, plain = np.arange(N) % 2 == 0, np.arange(N) % 2 == 1, rows(0.3)
    worst = read([copy("a", NONE, plain, even, odd)]).worst(NONE)
    assert worst is not None
    assert (worst.how, worst.copy.value) == ("", pytest.approx(0.3))


def test_records_that_do_not_say_on_which_rows_they_agree_are_compared_as_they_are() -> None:
    silent = copy("b", NONE, 0.8) | {"notes": {}}
    assert read([copy("a", NONE, 0.7), silent]).worst(NONE).copy.value == 0.8  # type: ignore[union-attr]


@pytest.mark.parametrize("guard", [ROUNDING, NONE])
def test_whoever_sees_scores_sees_labels_too(guard: str) -> None:
    records = [copy("a", guard, 0.6), copy("b", guard, 0.5), copy("b", "label_only", 0.85), copy("a", NONE, 0.6)]
    worst = read(records).worst(guard)
    assert worst is not None
    assert (worst.attack, worst.how, worst.copy.value) == ("b", "looking at labels only", pytest.approx(0.85))
    assert worst.pair.defense == "label_only"


@pytest.mark.parametrize(
    "cell", [{}, {"hardening": {"unit": "x", "artifact": "y"}}, {"defense": [{"unit": "rounding"}, {"unit": "quota"}]}]
)
def test_label_only_says_nothing_of_other_labels(cell: dict[str, Any]) -> None:
    """Behind a defense that counts, blocks or lies, or before another victim, labels have to be tried themselves."""
    guard = ROUNDING if cell else WATCH
    made = copy("a", guard, 0.6)
    made["cell"] |= cell
    records = [copy("a", NONE, 0.9), made, copy("a", "label_only", 0.85)]
    assert read(records).worst(guard).copy.value == pytest.approx(0.6)  # type: ignore[union-attr]
    tried = read([*records, copy("a", guard, 0.7, labels=True)])
    assert tried.worst(guard).copy.value == pytest.approx(0.7)  # type: ignore[union-attr]
    assert tried.worst(guard).words == "a, looking at labels only"  # type: ignore[union-attr]
    assert tried.attacks == ["a"]
    assert ("a", guard) in tried.labels


def test_nobody_gets_less_for_being_shown_more() -> None:
    """Whatever the halves of the test rows choose."""
    for trial in range(200):
        rng = np.random.default_rng(trial)
        guards = (NONE, ROUNDING, "label_only")
        found = read([copy(f"a{i}", d, rng.random(N) < 0.8, seed=s) for i in range(3) for d in guards for s in (0, 1)])
        values = {d: found.worst(d).copy.value for d in guards}  # type: ignore[union-attr]
        assert min(values[NONE], values[ROUNDING]) >= values["label_only"]
        for (_, defense), pair in found.pairs.items():
            assert values[defense] >= pair.measures["agreement"].value


def test_a_thief_stops_where_the_copy_is_best() -> None:
    records = [copy("a", "x", 0.5, rows(0.4), rows(0.8, 1)), copy("b", "x", 0.6)]
    worst = read(records).worst("x")
    assert worst is not None
    assert (worst.words, worst.queries) == ("a, stopping after 200 queries", 200)
    assert worst.copy.value == pytest.approx(0.8)
    assert "80% [78, 82] stopping after 200 queries" in render(records).replace("\N{NO-BREAK SPACE}", " ")


def test_a_smaller_budget_counts_where_it_gives_more() -> None:
    records = [copy("a", NONE, 0.5, budget=800), copy("a", NONE, 0.8, budget=100, queries=90)]
    worst = read(records).worst(NONE)
    assert worst is not None
    assert (worst.how, worst.queries, worst.copy.value) == ("stopping after 100 queries", 90, pytest.approx(0.8))


def test_the_plain_stranger_is_the_worst_attacker_where_nobody_is_as_good() -> None:
    records = [copy("a", NONE, 0.9), copy("a", "x", 0.5), stranger(NONE, 0.88), stranger("x", 0.8), unasked(0.3)]
    found = read(records)
    assert found.worst("x").attack == "plain_stranger"  # type: ignore[union-attr]
    assert found.strongest.attack == "a"  # type: ignore[union-attr]
    assert "holds thieves at 80% [78, 82]. The strongest attack is a." in whole(found)
    assert "Behind x the worst attacker is plain_stranger." in whole(found)
    assert found.columns == ["a", "plain_stranger"]
    page = render(records)
    assert page.count("▲</b>") == 2
    assert "# plain_stranger, its worst attacker" in (settings(found) or "")


def test_the_stranger_may_look_at_labels_only_too() -> None:
    labels = stranger(WATCH, 0.7, labels=True)
    records = [copy("a", NONE, 0.9), copy("a", WATCH, 0.5), stranger(NONE, 0.9), stranger(WATCH, 0.5), labels]
    assert read(records).worst(WATCH).words == "plain_stranger, looking at labels only"  # type: ignore[union-attr]
    assert [p.attack for p in read(records).controls] == ["plain_stranger"] * 2


def test_random_queries_are_an_attack_where_they_were_tried_behind_defenses() -> None:
    """A defense is not credited with what was not tried behind it."""
    noise = copy("random_queries", NONE, 0.97, role="control")
    records = [copy("a", NONE, 0.9), copy("a", "x", 0.5), noise, unasked(0.3)]
    assert read(records).strongest.attack == "a"  # type: ignore[union-attr]
    found = read([*records, copy("random_queries", "x", 0.96, role="control")])
    assert found.strongest.attack == "random_queries"  # type: ignore[union-attr]
    assert not found.helps
    assert "The strongest attack is random_queries, which asks uniform noise." in whole(found)
    assert found.columns == ["a", "random_queries"]


TUTORIAL = [
    copy("equation_solving", NONE, 0.95),
    copy("equation_solving", ROUNDING, 0.59),
    unasked(0.8),
    honest(NONE, 0.0),
    honest(ROUNDING, 0.0),
]


def test_no_defense_holds_anybody_below_what_they_have_without_asking() -> None:
    found = read(TUTORIAL)
    worst = found.worst(ROUNDING)
    assert worst is not None
    assert worst.failed
    assert (worst.copy.value, worst.own.value) == (0.8, pytest.approx(0.59))
    said = whole(found)
    assert "59%" not in said.split("Behind")[0]
    assert "holds thieves at 80% [77, 83], no more than someone has who never asks" in said
    assert (
        f"Behind {ROUNDING} equation_solving (59%) failed, below the 80% of someone who never asks, and the defense "
        "is not credited with that." in said
    )
    assert f"Behind {ROUNDING} no attack got past the 80% of someone who never asks" in said
    assert "# nobody gets further behind it than someone who never asks: 80%" in (settings(found) or "")
    assert "failed: below someone who never asks" in render(TUTORIAL)
    assert "59%" not in (settings(found) or "")


def test_whoever_is_shut_out_did_not_fail() -> None:
    blocked = copy("a", WATCH, 0.3) | {"stopped": "this client was blocked"}
    records = [copy("a", NONE, 0.95), blocked, unasked(0.8)]
    said = whole(read(records))
    assert "holds thieves at 80%" in said
    assert "failed" not in said
    assert "shut out: below someone who never asks" in render(records)


def test_a_defense_that_costs_more_than_it_takes_is_not_recommended() -> None:
    dear = [copy("a", NONE, 0.9), copy("a", "dear", 0.7), honest("dear", 0.27), unasked(0.3)]
    found = read(dear)
    assert whole(found).split(". ")[1].startswith("No defense here is worth its price: dear costs honest clients 27.0")
    assert settings(found) is None
    assert "costs honest clients more than it takes from the thief" in render(dear)
    assert read([*dear, copy("a", "cheap", 0.8), honest("cheap", 0.0)]).best == "cheap"


def test_a_failed_attack_does_not_hide_the_others() -> None:
    found = read([*TUTORIAL, stranger(NONE, 0.93), stranger(ROUNDING, 0.92)])
    assert found.worst(ROUNDING).attack == "plain_stranger"  # type: ignore[union-attr]
    assert not found.helps
    assert "does not hold thieves back: it leaves them at 92%" in whole(found)
    assert settings(found) is None


def test_a_defense_is_not_credited_with_those_who_fail_without_it() -> None:
    """The one attack that steals does not apply there, and the other would not have stolen anyway."""
    absent = record("a", "x") | {"outcome": "not applicable", "reason": "a needs probs.", "measures": {}, "curve": []}
    records = [copy("a", NONE, 0.95), absent, copy("b", NONE, 0.3), copy("b", "x", 0.3), unasked(0.8)]
    found = read(records)
    assert not found.judged("x")
    assert not found.helps
    assert settings(found) is None
    assert "Behind x only attacks left a copy that fail without it, too: what it holds back cannot be told." in whole(
        found
    )
    assert "b fails even undefended, below the 80% of someone who never asks" in whole(found)
    able = read([*records, copy("c", NONE, 0.9), copy("c", "x", 0.5)])
    assert able.helps
    assert able.worst_copy("x").value == 0.8  # type: ignore[union-attr]


def test_all_who_fail_undefended_steal_nothing() -> None:
    found = read([copy("a", NONE, 0.59), copy("a", "x", 0.4), unasked(0.8)])
    assert verdict_of(found).kind == "withheld"
    assert "the best of them, a, reaches 59% agreement" in whole(found)
    assert settings(found) is None
