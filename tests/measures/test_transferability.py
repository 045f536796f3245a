"""The transfer protocol against a plain twin, its controls, and what it must never do to a victim."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.measures import transferability as module
from portcullis_ml.measures.statistics import clustered
from portcullis_ml.measures.transferability import GTSRB_GROUPS, Transfer
from portcullis_ml.models.perturb import pgd

from .toys import Locked, a_softmax

BOX = (0.0, 1.0)


def rng():
    return np.random.default_rng(7)


def inputs(victim, n=120, seed=3):
    x = np.random.default_rng(seed).uniform(size=(n, *victim.input_shape))
    return x, victim.scores(x).argmax(axis=1)


def a_pair(seed=0, classes=4):
    """A victim and a copy that is somewhat like it."""
    victim, other = a_softmax(seed, classes, 8), a_softmax(seed + 1000, classes, 8)
    copy = a_softmax(seed, classes, 8)
    copy.w = victim.w + 0.4 * other.w
    return victim, copy


def slow_targeted(transfer, copy, victim, x, labels, groups):
    """One input and one target at a time; every input of every class is used."""
    successes, sizes = [], []
    for row, own in zip(x, labels.tolist(), strict=True):
        hits = tried = 0
        for target in range(copy.n_classes):
            if groups[target] == groups[own]:
                continue
            args = {"eps": transfer.eps, "steps": transfer.steps, "bounds": BOX, "targeted": True}
            crafted = pgd(copy, row[None], np.array([target]), **args)
            hits += groups[int(victim.scores(crafted).argmax())] == groups[target]
            tried += 1
        successes.append(hits)
        sizes.append(tried)
    return successes, sizes


@pytest.mark.parametrize("groups", [None, (0, 0, 1, 2)])
def test_the_rate_is_the_plain_count(groups):
    victim, copy = a_pair()
    x, labels = inputs(victim, 40)
    transfer = Transfer(eps=0.15, steps=5, per_class=1000, groups=groups)
    found = transfer(copy, victim, x, labels, bounds=BOX, rng=rng())
    successes, sizes = slow_targeted(transfer, copy, victim, x, labels, groups or range(4))
    assert found.rate.value == pytest.approx(sum(successes) / sum(sizes))
    assert 0.05 < found.rate.value < 0.95  # or the comparison would not mean much
    assert found.queries == found.control_queries == sum(sizes)
    expected = clustered(np.array(successes, float), np.array(sizes, float))
    assert (found.rate.low, found.rate.high, found.rate.n) == pytest.approx((expected.low, expected.high, 40))
    assert "Fewer than 1000 inputs for 4 of 4 classes" in found.notes[0]


def test_every_class_gives_as_many_inputs_and_every_other_class_is_a_target():
    victim, copy = a_pair()
    x, labels = inputs(victim, 400)
    locked = Locked(victim)
    assert not hasattr(locked, "input_gradient")
    found = Transfer(per_class=5, steps=2)(copy, locked, x, labels, bounds=BOX, rng=rng())
    assert found.queries == 5 * 4 * 3
    assert found.rate.n == found.noise.n == found.white_box.n == 20
    assert sum(len(rows) for rows in locked.rows) == found.queries + found.control_queries
    assert found.notes == ()


def test_the_victim_is_sent_everything_even_what_does_not_fool_the_copy():
    victim, copy = a_pair()
    x, labels = inputs(victim, 400)
    found = Transfer(per_class=5, eps=0.01)(copy, victim, x, labels, bounds=BOX, rng=rng())
    assert found.white_box.value < 0.2
    assert found.queries == 60


@given(st.integers(0, 30), st.sampled_from(["targeted", "untargeted"]), st.sampled_from(["pgd", "fgsm"]))
@settings(max_examples=15, deadline=None)
def test_without_a_change_nobody_is_fooled(seed, goal, method):
    victim, copy = a_pair(seed)
    x, labels = inputs(victim)
    transfer = Transfer(eps=0.0, steps=3, per_class=4, goal=goal, method=method)
    found = transfer(copy, victim, x, labels, bounds=BOX, rng=rng())
    assert found.rate.value == found.noise.value == 0.0
    assert found.rate.high > 0  # and the interval says how many inputs that rests on


@given(st.integers(0, 30), st.floats(0, 0.5), st.sampled_from(["targeted", "untargeted"]))
@settings(max_examples=20, deadline=None)
def test_what_the_victim_gets_is_in_the_box_and_in_the_ball(seed, eps, goal):
    victim, copy = a_pair(seed)
    x, labels = inputs(victim, 60)
    locked = Locked(victim)
    Transfer(eps=eps, steps=3, per_class=3, goal=goal)(copy, locked, x, labels, bounds=BOX, rng=rng())
    for row in np.concatenate(locked.rows):
        assert abs(x - row).max(axis=1).min() <= eps + 1e-12
        assert row.min() >= 0
        assert row.max() <= 1


def test_a_large_change_fools_the_copy_and_its_twin():
    victim, _ = a_pair()
    x, labels = inputs(victim, 200)
    for goal in ("targeted", "untargeted"):
        found = Transfer(eps=1.0, goal=goal)(victim, Locked(victim), x, labels, bounds=BOX, rng=rng())
        assert found.white_box.value > 0.95
        assert found.rate == found.white_box  # the copy is the victim
        assert found.rate.value > found.noise.high


def test_a_good_copy_transfers_better_than_a_stranger_and_than_noise():
    victim, copy = a_pair()
    stranger = a_softmax(77, 4, 8)
    x, labels = inputs(victim, 400)
    for goal in ("targeted", "untargeted"):
        transfer = Transfer(eps=0.15, per_class=15, goal=goal)
        good, bad = (transfer(g, victim, x, labels, bounds=BOX, rng=rng()) for g in (copy, stranger))
        assert good.rate.low > bad.rate.high
        assert good.rate.low > good.noise.high


def test_hitting_one_class_is_harder_than_leaving_one():
    victim, copy = a_pair()
    x, labels = inputs(victim, 400)
    for method in ("pgd", "fgsm"):
        targeted, untargeted = (
            Transfer(eps=0.15, per_class=15, goal=goal, method=method)(copy, victim, x, labels, bounds=BOX, rng=rng())
            for goal in ("targeted", "untargeted")
        )
        assert targeted.rate.value <= untargeted.rate.value
        assert untargeted.queries == 60


def test_pieces_do_not_change_the_result(monkeypatch):
    victim, copy = a_pair()
    x, labels = inputs(victim, 100)
    transfer = Transfer(eps=0.15, per_class=5, steps=4)
    whole = transfer(copy, victim, x, labels, bounds=BOX, rng=rng())
    monkeypatch.setattr(module, "PIECE", 7)
    assert transfer(copy, victim, x, labels, bounds=BOX, rng=rng()) == whole
    assert transfer(copy, victim, x, labels, bounds=BOX, rng=np.random.default_rng(8)) != whole


def test_withheld_labels_and_absent_classes_are_left_out():
    victim, copy = a_pair()
    x, labels = inputs(victim, 100)
    labels = np.where(labels == 2, -1, labels)
    found = Transfer(per_class=2, steps=2)(copy, victim, x, labels, bounds=BOX, rng=rng())
    assert found.queries == 2 * 3 * 3
    nothing = Transfer()(copy, victim, x[:0], labels[:0], bounds=BOX, rng=rng())
    assert nothing.queries == 0
    assert math.isnan(nothing.rate.value)


def test_groups_leave_out_targets_of_the_own_group():
    victim, copy = a_pair()
    x, labels = inputs(victim, 400)
    found = Transfer(per_class=3, groups=(0, 0, 0, 1))(copy, victim, x, labels, bounds=BOX, rng=rng())
    assert found.queries == 3 * (1 + 1 + 1 + 3)


def test_every_traffic_sign_has_one_of_eight_groups():
    assert len(GTSRB_GROUPS) == 43
    assert set(GTSRB_GROUPS) == set(range(8))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"eps": -1}, "Transfer.eps must be a finite number, at least 0; got -1"),
        ({"eps": math.inf}, "Transfer.eps must be a finite number, at least 0; got inf"),
        ({"steps": 0}, "Transfer.steps must be at least 1; got 0"),
        ({"per_class": 0}, "Transfer.per_class must be at least 1; got 0"),
        ({"goal": "any"}, "Transfer.goal must be targeted or untargeted; got 'any'"),
        ({"method": "cw"}, "Transfer.method must be pgd or fgsm; got 'cw'"),
    ],
)
def test_settings_are_checked(wrong, sentence):
    with pytest.raises(ParameterError, match=sentence):
        Transfer(**wrong)


def test_inputs_are_checked():
    victim, copy = a_pair()
    x, labels = inputs(victim, 10)
    with pytest.raises(InputError, match="10 inputs need 10 labels of the victim; got 9"):
        Transfer()(copy, victim, x, labels[:9], bounds=BOX, rng=rng())
    with pytest.raises(InputError, match="a group for each of 4 classes; got 43"):
        Transfer(groups=GTSRB_GROUPS)(copy, victim, x, labels, bounds=BOX, rng=rng())


def test_the_noise_control_moves_every_input_as_far_as_the_attack_may() -> None:
    victim, copy = a_pair()
    x = np.full((40, *victim.input_shape), 0.5)
    labels = np.arange(40) % 4
    seen = []

    class Noting(Locked):
        def scores(self, rows):
            seen.append(rows)
            return super().scores(rows)

    Transfer(eps=0.125, steps=2, per_class=3, goal="untargeted")(copy, Noting(victim), x, labels, bounds=BOX, rng=rng())
    crafted, noisy = seen
    np.testing.assert_allclose(abs(noisy - 0.5), 0.125)
    assert {-1.0, 1.0} == set(np.sign(noisy - 0.5).ravel().tolist())
    assert abs(crafted - 0.5).max() == pytest.approx(0.125)


def test_signs_of_one_kind_are_one_group():
    warning = {11, *range(18, 32)}
    assert {i for i, group in enumerate(GTSRB_GROUPS) if group == GTSRB_GROUPS[18]} == warning
    alone = [i for i in range(43) if GTSRB_GROUPS.count(GTSRB_GROUPS[i]) == 1]
    assert {12, 13, 14} <= set(alone)
