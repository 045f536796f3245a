"""From counted matches to evidence: golden values of the binomial null, and when nothing can be said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from scipy.stats import binom

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.ownership import Evidence
from portcullis_ml.core.types import Answer
from portcullis_ml.ownership._counted import Counted, at_least, at_most, chance_of, suffices, suffices_beside


@dataclass(frozen=True, kw_only=True)
class Theory(Counted):
    name: ClassVar[str] = "theory"
    assumed: ClassVar[tuple[str, ...]] = ("One thing.",)

    def chance(self, n_classes):
        return 1 / n_classes

    def mint(self, secret, interface, victim=None, rows=()):
        raise NotImplementedError

    def examine(self, key, suspect, interface, log, rng):
        raise NotImplementedError


class NoTheory(Theory):
    name = "no theory"
    least = 20

    def chance(self, n_classes):
        return 0.0


def evidence(matches: int, n: int, *, classes: int = 10, scheme: Counted | None = None) -> Evidence:
    labels = np.zeros(max(n, 1), np.int64)
    given = np.where(np.arange(n) < matches, 0, 1)
    return (scheme or Theory()).counted(labels, Answer(given), classes)


@pytest.mark.parametrize(
    ("n", "matches", "p"),
    [(100, 28, 1e-6), (20, 11, 1e-6), (50, 18, 1e-6), (100, 50, 2.0**-77), (100, 90, 2.0**-256)],
)
def test_p_values_of_ten_classes(n: int, matches: int, p: float) -> None:
    """Worked out from the binomial distribution: so many matches are below p, and one less is not below it much."""
    assert evidence(matches, n).p_value < p
    assert evidence(matches - 1, n).p_value > p / 30


def test_two_classes_need_many_matches() -> None:
    assert evidence(60, 100, classes=2).p_value == pytest.approx(0.0284, abs=1e-3)
    assert evidence(91, 100, classes=2).p_value < 2.0**-55


def test_few_answers_are_inconclusive_and_say_how_many_would_suffice() -> None:
    found = evidence(2, 2)
    assert found.verdict == "inconclusive"
    enough = found.notes["answers_that_suffice"]
    assert f"2 answers are too few for p < 0.001: {enough} would suffice" in found.lacking
    assert evidence(int(np.ceil(0.8 * enough)), enough).verdict == "derived"
    assert evidence(1, enough).verdict == "not shown"


def test_the_number_that_suffices_is_the_least() -> None:
    for chance, share in ((0.1, 0.8), (0.5, 0.8), (0.01, 0.3)):
        n = suffices(chance, share, 1e-3)
        assert binom.sf(np.ceil(share * n) - 1, n, chance) < 1e-3
        assert all(binom.sf(np.ceil(share * k) - 1, k, chance) >= 1e-3 for k in range(1, n))
    assert suffices(0.8, 0.8, 1e-3) is None


def test_it_is_said_after_how_many_questions_such_a_suspect_is_convicted() -> None:
    notes = evidence(40, 100).notes
    about, most = notes["queries_to_convict"], notes["queries_to_convict_at_most"]
    assert (
        binom.sf(np.ceil(0.4 * about) - 1, about, 0.1)
        < 1e-3
        <= binom.sf(np.ceil(0.4 * (about - 1)) - 1, about - 1, 0.1)
    )
    assert most == suffices(0.1, at_least(40, 100), 1e-3) > about
    assert binom.sf(39, 100, at_least(40, 100)) == pytest.approx(0.05)
    unclear = evidence(13, 100).notes  # more than one in ten, and not clearly
    assert unclear["queries_to_convict"] > 100
    assert unclear["queries_to_convict_at_most"] is None
    assert "queries_to_convict" not in evidence(0, 0).notes


def test_no_answers_prove_nothing() -> None:
    assert (evidence(0, 0).p_value, evidence(0, 0).verdict) == (1.0, "inconclusive")
    assert chance_of(0, 10, 0.1) == 1.0


def test_the_upper_bound_is_that_of_clopper_and_pearson() -> None:
    assert at_most(0, 20) == pytest.approx(1 - 0.05 ** (1 / 20))
    assert at_most(20, 20) == 1.0
    assert binom.cdf(7, 50, at_most(7, 50)) == pytest.approx(0.05)


def test_innocent_models_that_match_more_than_theory_raise_the_null() -> None:
    suspect, scheme = evidence(40, 100), Theory()
    weighed = scheme.weigh(suspect, [evidence(k, 100) for k in (10, 12, 30)])
    assert suspect.p_value < 1e-12
    assert weighed.notes["null_chance"] == at_most(30, 100)
    assert weighed.p_value == pytest.approx(binom.sf(39, 100, at_most(30, 100)))
    assert "matches most of 3 innocent models" in weighed.null
    assert weighed.assumed == ("One thing.", "The innocent models answer the marked questions as any other would.")


def test_innocent_models_that_match_less_leave_theory_alone() -> None:
    found = Theory().weigh(evidence(40, 100), [evidence(0, 100)] * 5)
    assert found.p_value == evidence(40, 100).p_value
    assert "by theory" in found.null
    assert found.notes["false_claims_at_most"] == pytest.approx(1 - 0.05 ** (1 / 5))


def test_an_innocent_model_is_judged_by_the_others() -> None:
    """One that would hide itself by raising the null is still counted as a false claim."""
    found = Theory().weigh(evidence(5, 100), [evidence(60, 100), evidence(9, 100), evidence(11, 100)])
    assert (found.accused, found.tried) == (1, 3)


def test_without_a_theory_nothing_is_claimed_before_there_are_enough_innocent_models() -> None:
    scheme = NoTheory()
    suspect = evidence(95, 100, scheme=scheme)
    assert (suspect.p_value, suspect.verdict) == (1.0, "inconclusive")
    few = scheme.weigh(suspect, [evidence(40, 100, scheme=scheme)] * 19)
    assert few.verdict == "inconclusive"
    assert "needs 20 innocent models to compare with, and 19 were given" in few.lacking
    enough = scheme.weigh(suspect, [evidence(40, 100, scheme=scheme)] * 20)
    assert (enough.verdict, enough.accused) == ("derived", 0)


def test_a_null_above_what_a_copy_keeps_is_said_to_tell_nothing() -> None:
    scheme = NoTheory()
    found = scheme.weigh(evidence(85, 100, scheme=scheme), [evidence(80, 100, scheme=scheme)] * 20)
    assert found.verdict == "inconclusive"
    assert "no number of such answers tells" in found.lacking


def test_few_answers_bound_innocent_models_loosely_and_it_is_said_how_many_would_suffice() -> None:
    """Two of four matched by an innocent model bound its share at 90%, which no number of answers would exceed."""
    scheme = NoTheory()
    found = scheme.weigh(evidence(2, 4, scheme=scheme), [evidence(2, 4, scheme=scheme)] * 20)
    assert found.verdict == "inconclusive"
    enough = suffices_beside(0.5, 0.8, scheme.level)
    assert enough is not None
    assert f"4 answers are too few for p < 0.001: {enough} would suffice for a copy that answers 80%" in found.lacking
    assert "if innocent models go on matching 50% at most" in found.lacking
    assert found.notes["answers_that_suffice"] == enough

    def convicted(n: int) -> bool:
        null = at_most(int(np.ceil(0.5 * n)), n)
        return bool(chance_of(int(np.ceil(0.8 * n)), n, null) < scheme.level)

    assert [convicted(enough - 1), convicted(enough)] == [False, True]
    assert suffices_beside(0.8, 0.8, scheme.level) is None
    all_match = scheme.weigh(evidence(2, 2, scheme=scheme), [evidence(2, 2, scheme=scheme)] * 20)
    assert "an innocent model matches 100% of them, and at least 9 are needed to tell" in all_match.lacking


def test_settings_are_checked() -> None:
    with pytest.raises(ParameterError, match="kept"):
        Theory(kept=0)
