"""Accounts are linked by what they ask, by every signal, and honest ones are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Array
from portcullis_ml.detectors.linkage import CATALOG
from portcullis_ml.detectors.linkage._sketches import Sketches, flatness
from portcullis_ml.detectors.linkage._timing import clockwork, following
from portcullis_ml.detectors.linkage.calibration import calibrated
from portcullis_ml.detectors.linkage.linkage import Linkage, Linked

from .toys import answer_to, attack, natural

Asked = list[tuple[str, Array, float]]  # account, rows, time


def judged(linkage: Linkage, asked: Asked) -> Linked:
    state = linkage.start()
    for account, x, at in asked:
        linkage.add(state, account, x, at)
    return linkage.links(state)


def one_by_one(x: Array, accounts: int, seed: int = 0, name: str = "thief") -> Asked:
    """Rows asked in turn through so many accounts, at times that say nothing."""
    at = np.random.default_rng(seed).uniform(0, 1e6, len(x))
    return [(f"{name}-{i % accounts}", x[i : i + 1], float(at[i])) for i in range(len(x))]


def honest(clients: int, rows: int, seed: int = 0) -> Asked:
    x = natural(clients * rows, seed).reshape(clients, rows, 64)
    at = np.random.default_rng(seed + 1).uniform(0, 1e6, (clients, rows))
    return [(f"honest-{i}", x[i, j : j + 1], float(at[i, j])) for j in range(rows) for i in range(clients)]


def campaign(n: int, seed: int) -> Array:
    """(n, 64) in the order asked: 55 natural rows, then rounds of steps along the signs of ever new gradients."""
    rng, rows = np.random.default_rng(seed), natural(55, seed)
    while len(rows) < n:
        gradients = rng.normal(size=(10, 64))
        rows = np.concatenate([rows, np.clip(rows + 0.1 * np.sign(gradients[answer_to(rows).labels]), 0, 1)])
    return rows[:n]


def lines() -> Linkage:
    """Of 1,600 digits no two lie nearer to one another than .47 or have a flatness below 3.1."""
    return Linkage(near=0.3, flat=2.5)


def members(found: Linked) -> set[str]:
    return {name for group in found.groups for name in group}


class TestSignals:
    def test_steps_along_the_sign_of_a_gradient_link_accounts(self) -> None:
        found = judged(lines(), [*honest(5, 60), *one_by_one(campaign(400, 3), 8)])
        assert members(found) == {f"thief-{i}" for i in range(8)}
        assert {link.signal for link in found.links} == {"line"}

    def test_honest_clients_are_not_linked(self) -> None:
        for seed in range(5):
            assert judged(lines(), honest(10, 100, seed)).groups == ()

    def test_near_duplicates_link_accounts(self) -> None:
        x = natural(20, 1)
        noise = np.random.default_rng(0).normal(0, 0.003, (2, *x.shape))
        asked = [("a", x + noise[0], 0.0), ("b", x + noise[1], 5e5), *honest(3, 40, 2)]
        found = judged(Linkage(near=0.1), asked)
        assert found.groups == (("a", "b"),)
        assert found.links[0].signal == "near"
        assert found.links[0].count == 40
        assert judged(Linkage(near=0.001), asked).groups == ()

    def test_questions_that_few_ask_link_accounts(self) -> None:
        x = natural(30, 1)
        found = judged(Linkage(), [("a", x[:20], 0.0), ("b", x[10:], 5e5)])
        assert found.groups == (("a", "b"),)
        assert found.links[0].signal == "same"

    def test_requests_in_turn_link_accounts(self) -> None:
        rng = np.random.default_rng(0)
        at = np.cumsum(rng.exponential(5.0, 300))
        x = rng.random((300, 4))
        found = judged(Linkage(), [(f"t{i % 12}", x[i : i + 1], float(at[i])) for i in range(300)])
        assert len(found.groups) == 1
        assert len(found.groups[0]) == 12
        assert {link.signal for link in found.links} == {"timing"}

    def test_requests_at_times_of_their_own_do_not(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(5):
            busy = [("ab"[i], rng.random((1, 4)), float(t)) for i in (0, 1) for t in rng.uniform(0, 3000, 200)]
            assert judged(Linkage(), busy).groups == ()

    def test_a_clock_is_no_link(self) -> None:
        x = np.random.default_rng(0).random((100, 4))
        asked = [("ab"[j], x[2 * i + j : 2 * i + j + 1], 60.0 * i + j) for i in range(50) for j in (0, 1)]
        assert judged(Linkage(), asked).groups == ()
        assert clockwork(np.arange(50) * 60.0)
        assert not clockwork(np.arange(50) * 61.0)

    @pytest.mark.parametrize(("jitter", "ends"), [(0.0, False), (0.02, False), (0.3, True)])
    def test_jitter_blurs_the_lines(self, jitter: float, ends: bool) -> None:
        x = campaign(400, 3)
        blurred = x + np.random.default_rng(0).normal(0, jitter, x.shape)
        assert (members(judged(replace(lines(), flat=2.0), one_by_one(blurred, 8))) == set()) is ends


class TestChains:
    def test_one_popular_question_links_nobody(self) -> None:
        popular = natural(1, 99)
        asked: Asked = [(f"honest-{i}", popular, 1e5 * i) for i in range(40)]
        assert judged(lines(), [*honest(40, 20), *asked]).groups == ()

    def test_a_handful_of_popular_questions_links_nobody(self) -> None:
        popular = natural(5, 99)
        asked: Asked = [(f"honest-{i}", popular, 1e5 * i) for i in range(10)]
        assert judged(lines(), [*honest(10, 40), *asked]).groups == ()

    def test_one_honest_question_near_a_campaigns_joins_nobody_to_it(self) -> None:
        x = campaign(400, 3)
        step = x[300] + 0.1 * np.sign(np.random.default_rng(0).normal(size=64))
        asked = [*honest(5, 60), *one_by_one(x, 8), ("honest-0", step[None], 0.0)]
        assert members(judged(lines(), asked)) == {f"thief-{i}" for i in range(8)}

    def test_an_account_that_is_left_out_is_linked_to_nobody(self) -> None:
        linkage = lines()
        state = linkage.start()
        for account, x, at in one_by_one(campaign(400, 3), 8):
            linkage.add(state, account, x, at)
        assert members(linkage.links(state, {"thief-3"})) == {f"thief-{i}" for i in range(8)} - {"thief-3"}

    def test_two_campaigns_stay_two_groups(self) -> None:
        asked = [*one_by_one(campaign(300, 1), 4), *one_by_one(campaign(300, 2), 4, name="other")]
        groups = judged(lines(), asked).groups
        assert all(len({name.partition("-")[0] for name in group}) == 1 for group in groups)
        assert len(groups) == 2


class TestTwins:
    def test_the_nearest_rows_are_those_of_the_plain_loop(self) -> None:
        asked = [*honest(4, 30), *one_by_one(attack(120, 0), 5)]
        state = Sketches(cap=50, total=500)
        for account, x, at in asked:
            state.add(account, x, at)
        rows = [(a, x[0].astype(np.float32).astype(float)) for a, x, _ in asked]
        assert sum(state.owner >= 0) == len({(a, x.tobytes()) for a, x in rows})
        for slot in np.flatnonzero(state.owner >= 0):
            me, x = state.accounts[state.owner[slot]].name, state.x[slot].astype(float)
            others = [(np.sqrt(((x - z) ** 2).sum()), z) for a, z in rows if a != me and (z != x).any()]
            distance, z = min(others, key=lambda other: other[0])
            assert state.distance[slot] == pytest.approx(distance, rel=1e-5)
            if sum(abs(d - distance) < 1e-4 for d, _ in others) == 1:
                d = x - z
                assert state.flat[slot] == pytest.approx((d**4).mean() / (d**2).mean() ** 2, rel=1e-5)

    def test_flatness_of_known_differences(self) -> None:
        half = np.where(np.arange(64) < 32, 0.1, 0.0)
        found = flatness(np.array([np.full(64, -0.1), half, np.eye(64)[0]]))
        np.testing.assert_allclose(found, [1, 2, 64])

    def test_following_counts_as_the_plain_loop_does(self) -> None:
        rng = np.random.default_rng(4)
        a = np.sort(rng.uniform(0, 4000, 40))
        a = a[np.diff(a, prepend=-99) > 10]  # runs of one request each
        b = np.sort(np.concatenate([a[::2] + 3, rng.uniform(0, 4000, 5)]))
        b = b[np.diff(b, prepend=-99) > 10]
        k, n, p = following([a, b], 10.0, 100.0)[0, 1]
        assert (k, n) == (sum(any(0 < t - s <= 10 for s in a) for t in b), len(b))
        chance = np.mean([min(sum(abs(t - s) <= 100 for s in a) * 10 / 200, 1) for t in b])
        assert p == pytest.approx(binom.sf(k - 1, n, chance), rel=0.2)

    @settings(max_examples=10, deadline=None)
    @given(cuts=st.sets(st.integers(1, 199), max_size=8), cap=st.sampled_from([20, 60, 300]))
    def test_a_batch_equals_its_pieces(self, cuts: set[int], cap: int) -> None:
        x, linkage = attack(200, 0), replace(lines(), cap=cap, total=150)
        pieces = [("b", part, 9.0) for part in np.split(x, sorted(cuts))]
        whole, cut = linkage.start(), linkage.start()
        for state, asked in ((whole, [("b", x, 9.0)]), (cut, pieces)):
            for account, rows, at in [("a", natural(90, 5), 1.0), *asked, ("c", attack(100, 1), 20.0)]:
                linkage.add(state, account, rows, at)
        np.testing.assert_array_equal(whole.x, cut.x)
        np.testing.assert_array_equal(whole.distance, cut.distance)
        assert linkage.links(whole).findings == linkage.links(cut).findings


class TestHostileRows:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308])
    def test_rows_that_cannot_be_measured_hide_nobody(self, value: float) -> None:
        odd = np.full((3, 64), value) * np.array([[1.0], [1.0], [-1.0]])
        asked = [("odd", odd, 0.0), *honest(5, 60), *one_by_one(campaign(400, 3), 8), ("thief-0", odd[:1], 0.0)]
        assert members(judged(lines(), asked)) == {f"thief-{i}" for i in range(8)}


class TestMemory:
    def test_rows_of_an_account_and_of_all_are_bounded(self) -> None:
        linkage = Linkage(near=0.05, flat=1.3, cap=10, total=35)
        state = linkage.start()
        for account, x, at in honest(6, 40):
            linkage.add(state, account, x, at)
        assert sum(state.owner >= 0) == 35
        assert max(len(account.slots) for account in state.accounts) <= 10
        assert max(len(account.times) for account in state.accounts) <= 10
        assert len(state.questions) <= 35
        assert [account.rows for account in state.accounts] == [40] * 6

    def test_accounts_without_rows_are_let_go_of(self) -> None:
        linkage = Linkage(near=0.3, flat=2.5, total=40)
        state = linkage.start()
        x = campaign(200, 3)
        for i in range(200):
            linkage.add(state, f"once-{i}", natural(200, 4)[i : i + 1], 0.0)
            assert len(state.accounts) <= 80
        for account, rows, at in one_by_one(x[:40], 4):
            linkage.add(state, account, rows, at)
        assert {account.name for account in state.accounts} >= {f"thief-{i}" for i in range(4)}
        assert all(state.accounts[state.owner[i]].name.startswith("thief") for i in state._order)
        found = linkage.links(state)
        assert found.findings["thief-0"]["line"].of == 10

    def test_a_question_that_an_account_repeats_is_held_once(self) -> None:
        linkage = Linkage()
        state = linkage.start()
        linkage.add(state, "a", np.repeat(natural(1, 0), 5, axis=0), 0.0)
        assert sum(state.owner >= 0) == 1
        assert state.accounts[0].rows == 5


class TestCalibration:
    def test_most_honest_rows_stay_above_the_limits(self) -> None:
        clients = {f"c{i}": natural(1600, 0)[i * 160 : (i + 1) * 160] for i in range(10)}
        linkage = calibrated(Linkage(rate=0.02), clients)
        state = linkage.start()
        for name, x in clients.items():
            linkage.add(state, name, x, 0.0)
        assert linkage.near is not None
        assert linkage.flat is not None
        assert np.mean(state.distance[state.owner >= 0] < linkage.near) < 0.02
        assert np.mean(state.flat[state.owner >= 0] < linkage.flat) < 0.02

    def test_too_few_clients_are_refused_in_a_sentence(self) -> None:
        with pytest.raises(InputError, match=r"two with 100 rows each were expected; got 1\. Give more"):
            calibrated(Linkage(), {"a": natural(200, 0), "b": natural(99, 1)})


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [("near", 0), ("flat", 0.5), ("rate", 0), ("alpha", 1), ("window", -1), ("around", 5), ("cap", 1), ("total", 1.5)],
)
def test_a_setting_out_of_range_is_named(setting: str, wrong: float) -> None:
    with pytest.raises(ParameterError, match=setting):
        CATALOG.build({"unit": "linkage", setting: wrong})


def test_an_empty_test_links_nobody() -> None:
    assert Linkage().links(Linkage().start()) == Linked()
