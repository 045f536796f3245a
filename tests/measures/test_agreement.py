"""Closeness of a copy: figures by hand, plain twins, and what is withheld."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.types import Estimate, Feature, Interface
from portcullis_ml.measures import agreement as module
from portcullis_ml.measures.agreement import (
    Closeness,
    Exam,
    agreement,
    macro_f,
    never_predicted,
    per_class_recovery,
    recovery,
    total_variation,
)

from .toys import Softmax, a_softmax

label_pairs = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 3), min_size=n, max_size=n).map(np.array)] * 2)
)


def rng():
    return np.random.default_rng(5)


def slow_macro_f(f, g):
    scores = []
    for c in sorted(set(f.tolist())):
        hits = sum(1 for a, b in zip(f, g, strict=True) if a == b == c)
        wrong = sum(1 for a, b in zip(f, g, strict=True) if b == c and a != c)
        missed = sum(1 for a, b in zip(f, g, strict=True) if a == c and b != c)
        precision = hits / (hits + wrong) if hits + wrong else 0.0
        recall = hits / (hits + missed)
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return sum(scores) / len(scores)


@given(label_pairs)
@settings(max_examples=60, deadline=None)
def test_macro_f_is_the_definition_and_sklearns(pair):
    f, g = pair
    found = macro_f(f, g, 4, rng=rng(), draws=50)
    assert found.value == pytest.approx(slow_macro_f(f, g))
    assert found.value == pytest.approx(f1_score(f, g, labels=np.unique(f), average="macro", zero_division=0))
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_macro_f_by_hand():
    f, g = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    # Class 0: P = 1, R = 1/2, F = 2/3. Class 1: P = 2/3, R = 1, F = 4/5. Class 2 is never f's, and is left out.
    assert macro_f(f, g, 3, rng=rng()).value == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert never_predicted(f, 3) == (2,)
    assert macro_f(f, np.array([2, 2, 2, 2]), 3, rng=rng()).value == 0.0
    assert math.isnan(macro_f(f[:0], g[:0], 3, rng=rng()).value)


def test_the_interval_of_macro_f_is_that_of_resampled_rows():
    source = np.random.default_rng(0)
    f = source.integers(3, size=300)
    g = np.where(source.random(300) < 0.8, f, source.integers(3, size=300))
    by_table = macro_f(f, g, 3, rng=rng(), draws=2000)
    rows = [source.integers(300, size=300) for _ in range(1000)]
    by_rows = np.quantile([slow_macro_f(f[r], g[r]) for r in rows[:400]], [0.025, 0.975])
    assert (by_table.low, by_table.high) == pytest.approx(by_rows, abs=0.01)


@given(label_pairs)
@settings(max_examples=40, deadline=None)
def test_a_model_agrees_with_itself(pair):
    f, _ = pair
    assert agreement(f, f).value == agreement(f, f).high == 1.0
    assert agreement(f, f).low < 1.0
    assert macro_f(f, f, 4, rng=rng(), draws=50).value == 1.0
    assert recovery(f, f, f, rng=rng(), draws=50).value == 1.0


def test_agreement_counts_rows():
    found = agreement(np.array([0, 1, 2, 1]), np.array([0, 1, 1, 1]))
    assert (found.value, found.n, found.unit) == (0.75, 4, "rows")


def test_total_variation_by_hand():
    f, g = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]])
    found = total_variation(f, g)
    assert (found.value, found.n) == (0.5, 2)
    assert total_variation(f, f).value == 0.0


def test_recovery_by_hand():
    true, f, g = np.zeros(8, int), np.array([0, 0, 0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 1, 0, 1])
    found = recovery(true, f, g, rng=rng())  # 4/8 right against 6/8
    assert found.value == pytest.approx(4 / 6)
    assert found.low < 4 / 6 < found.high
    assert math.isnan(recovery(true, f + 1, g, rng=rng()).value)


def test_three_rows_that_both_get_right_are_no_certainty():
    right = np.zeros(3, int)
    few, many = (recovery(r, r, r, rng=rng()) for r in (right, np.zeros(3000, int)))
    assert few.value == many.value == 1.0
    assert few.high - few.low > 0.3
    assert many.high - many.low < 0.01


def test_recovery_of_each_class():
    true = np.array([0, 0, 1, 1, 2, 2])
    f = np.array([0, 0, 1, 0, 0, 0])
    g = np.array([0, 1, 1, 1, 2, 2])
    zero, one, two, three = per_class_recovery(true, f, g, 4, rng=rng())
    assert (zero.value, zero.n) == (0.5, 2)
    assert one.value == 2.0
    assert math.isnan(two.value)  # f is never right about class 2
    assert math.isnan(three.value)  # and there is no row of class 3
    assert (three.low, three.high, three.n) == (0.0, math.inf, 0)


def test_arrays_must_match():
    with pytest.raises(InputError, match="one row for each input; got 2 and 3"):
        agreement(np.zeros(2, int), np.zeros(3, int))


interface = Interface(input_shape=(6,), n_classes=3)


def exam(victim, n=200, points=2500, **changes):
    x = np.random.default_rng(1).uniform(size=(n, 6))
    true = Softmax(victim.w + 0.5, victim.b).scores(x).argmax(axis=1)
    return Exam.of(victim, x, true, interface=interface, rng=np.random.default_rng(2), points=points)


def test_an_exam_of_the_victim_itself():
    victim = a_softmax(0)
    closeness = exam(victim).grade(victim, rng=rng())
    for name in ("agreement", "agreement_uniform", "macro_f_agreement", "normalised_accuracy"):
        assert getattr(closeness, name).value == 1.0
    assert closeness.tv_natural.value == closeness.tv_uniform.value == 0.0
    assert closeness.accuracy == closeness.victim_accuracy
    assert closeness.notes == ()
    assert sum(closeness.histogram) == 200
    assert sum(closeness.histogram_uniform) == closeness.agreement_uniform.n == 2500
    assert len(closeness.per_class) == 3


def test_an_exam_of_a_copy_is_the_plain_computation():
    victim, copy = a_softmax(0), a_softmax(1)
    paper = exam(victim)
    closeness = paper.grade(copy, rng=rng())
    f, g = victim.scores(paper.x), copy.scores(paper.x)
    assert closeness.agreement == agreement(f.argmax(axis=1), g.argmax(axis=1))
    assert closeness.tv_natural == total_variation(f, g)
    assert closeness.accuracy == agreement(paper.true, g.argmax(axis=1))
    assert closeness.constant.value == np.bincount(f.argmax(axis=1)).max() / 200
    u = interface.uniform(2500, np.random.default_rng(paper.seed))  # all at once: the pieces are the same points
    f, g = victim.scores(u), copy.scores(u)
    assert closeness.agreement_uniform == agreement(f.argmax(axis=1), g.argmax(axis=1))
    assert closeness.tv_uniform.value == pytest.approx(total_variation(f, g).value)
    assert closeness.histogram_uniform == tuple(np.bincount(f.argmax(axis=1), minlength=3).tolist())


def test_a_victim_that_is_constant_on_uniform_points_has_no_uniform_agreement():
    victim = Softmax(np.zeros((3, 6)), [0.0, 5.0, 0.0])
    closeness = exam(victim).grade(a_softmax(1), rng=rng())
    assert math.isnan(closeness.agreement_uniform.value)
    assert (closeness.agreement_uniform.low, closeness.agreement_uniform.high) == (0.0, 1.0)
    assert closeness.histogram_uniform == (0, 2500, 0)
    assert closeness.never_predicted == (0, 2)
    assert closeness.remarks() == {"grading": list(closeness.notes), "never_predicted": [0, 2]}
    assert exam(a_softmax(0)).grade(a_softmax(1), rng=rng()).remarks() == {}
    assert closeness.constant_uniform.value == 1.0
    assert "The victim gives class 1 to all 2500 uniform points" in closeness.notes[0]


def test_measures_by_name_leave_out_what_was_not_measured():
    victim = a_softmax(0)
    paper = Exam.of(victim, np.zeros((3, 6)), interface=interface, rng=rng(), points=0)
    closeness = paper.grade(victim, rng=rng())
    assert isinstance(closeness, Closeness)
    named = closeness.measures()
    assert {"agreement", "macro_f_agreement", "tv_natural", "agreement_uniform", "tv_uniform"} <= set(named)
    assert "accuracy" not in named
    assert all(isinstance(e, Estimate) for e in named.values())
    assert math.isnan(named["agreement_uniform"].value)
    assert closeness.per_class == ()


def test_uniform_points_of_a_table_keep_its_categories(monkeypatch):
    table = Interface(
        input_shape=(2,), n_classes=2, features=(Feature("age", 18, 90), Feature("kind", values=("a", "b", "c")))
    )
    seen = []

    class Spy(Softmax):
        def scores(self, x):
            seen.append(x)
            return super().scores(x)

    monkeypatch.setattr(module, "PIECE", 7)
    Exam.of(Spy(np.eye(2)), np.zeros((1, 2)), interface=table, rng=rng(), points=20)
    points = np.concatenate(seen[1:])
    assert points.shape == (20, 2)
    assert set(points[:, 1]) <= {0.0, 1.0, 2.0}
    assert points[:, 0].min() >= 18


def test_exams_are_checked():
    with pytest.raises(InputError, match="at least one held-out row; got none"):
        Exam.of(a_softmax(0), np.empty((0, 6)), interface=interface, rng=rng())
    with pytest.raises(InputError, match="got 3 and 2"):
        Exam.of(a_softmax(0), np.zeros((3, 6)), np.zeros(2, int), interface=interface, rng=rng())
    with pytest.raises(NotApplicable, match="this API does regression"):
        Exam.of(a_softmax(0), np.zeros((3, 6)), interface=Interface(input_shape=(6,), task="regression"), rng=rng())


def test_arrays_of_different_lengths_are_not_compared():
    short, long = np.zeros(2, int), np.zeros(3, int)
    for compare in (
        lambda: agreement(short, long),
        lambda: total_variation(np.zeros((2, 2)), np.zeros((3, 2))),
        lambda: macro_f(short, long, 2, rng=rng()),
        lambda: recovery(short, long, long, rng=rng()),
        lambda: recovery(long, long, short, rng=rng()),
    ):
        with pytest.raises(InputError, match=r"must have one row for each input; got [23] and [23]"):
            compare()
