from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Array, Feature, Interface, Reveals
from portcullis_ml.extraction import CATALOG
from portcullis_ml.extraction.jacobian import Jacobian, likeliest_others, repeated

from .toys import ToyLearner, ToySoftmax, WatchedOracle, inputs, toy_victim

SHAPE = (2, 3)
VICTIM = toy_victim(SHAPE, n_classes=5)
LABELS = Interface(input_shape=SHAPE, n_classes=5, reveals=Reveals.LABELS)

PRESETS = sorted(name for name, words in CATALOG.presets.items() if words.startswith("jacobian"))


def thieve(attack: Jacobian, *, seeds: Array, budget: int = 10_000, door: Interface = LABELS, **how: Any) -> Extraction:
    """The theft, with the batches of each round in notes["batches"] and the learner's fits in notes["fits"]."""
    learner = how.pop("learner", None) or ToyLearner(steps=20)
    oracle = WatchedOracle(LocalOracle(how.pop("victim", VICTIM), door, budget=budget))
    result = attack(oracle, Knowledge(seeds=seeds, learner=learner), rng=np.random.default_rng(how.pop("seed", 0)))
    result.notes["batches"], result.notes["fits"] = oracle.batches, learner.fits
    return result


def middling(n: int, seed: int = 3) -> Array:
    """Seeds so far from the edge of the box that two small steps are never clipped."""
    return 0.4 + 0.2 * inputs(n, seed)


class TestSizes:
    @pytest.mark.parametrize(("k", "rounds"), [(1, 3), (3, 2), (2, 0)])
    def test_top_k_multiplies_by_k_plus_one(self, k: int, rounds: int) -> None:
        result = thieve(Jacobian(k=k, steps=2, rounds=rounds), seeds=inputs(7, 0))
        assert result.queries == 7 * (k + 1) ** rounds
        assert [queries for queries, _ in result.history] == [7 * (k + 1) ** r for r in range(rounds + 1)]

    def test_fifty_seeds_reach_3200_with_three_and_with_seven_targets(self) -> None:
        for k, rounds in ((3, 3), (7, 2)):
            victim = toy_victim(SHAPE, n_classes=10)
            door = Interface(input_shape=SHAPE, n_classes=10, reveals=Reveals.LABELS)
            attack = Jacobian(k=k, steps=1)
            result = thieve(attack, seeds=inputs(50, 0), budget=3200, door=door, victim=victim)
            assert result.queries == 3200
            assert result.notes["rounds"] == rounds

    @pytest.mark.parametrize("direction", ["away", "own_class"])
    @pytest.mark.parametrize(("sigma", "kappa", "rounds"), [(None, 9, 3), (2, 9, 5), (0, 4, 3), (4, 3, 2)])
    def test_doubles_until_sigma_then_adds_kappa(
        self, direction: Any, sigma: int | None, kappa: int, rounds: int
    ) -> None:
        attack = Jacobian(direction=direction, steps=1, sigma=sigma, kappa=kappa, rounds=rounds)
        full = rounds if sigma is None else min(sigma, rounds)
        assert thieve(attack, seeds=inputs(6, 0)).queries == 6 * 2**full + kappa * (rounds - full)

    def test_the_reservoir_and_the_last_round_are_drawn_from_all_points(self) -> None:
        seeds = middling(60)
        for attack, budget, asked in (
            (Jacobian(direction="away", sigma=0, kappa=6, rounds=1, eps=0.001), 10_000, 6),
            (Jacobian(direction="away", eps=0.001), 66, 6),
        ):
            moved = [self._moved(thieve(attack, seeds=seeds, budget=budget, seed=s), seeds) for s in range(3)]
            assert [len(m) for m in moved] == [asked] * 3
            assert len(set(moved)) == 3
            assert max(max(m) for m in moved) >= 30

    @staticmethod
    def _moved(result: Extraction, seeds: Array) -> tuple[int, ...]:
        """Which of the seeds the rows of the last batch are near to."""
        last = result.notes["batches"][-1].reshape(-1, 1, seeds[0].size)
        return tuple(abs(last - seeds.reshape(1, len(seeds), -1)).max(axis=2).argmin(axis=1).tolist())

    def test_a_reservoir_larger_than_the_set_takes_all_of_it(self) -> None:
        assert thieve(Jacobian(direction="away", sigma=0, kappa=100, rounds=1), seeds=inputs(6, 0)).queries == 12

    def test_more_targets_than_classes_means_all_other_classes(self) -> None:
        assert thieve(Jacobian(k=50, steps=1, rounds=1), seeds=inputs(6, 0)).queries == 6 * 5

    def test_a_purse_smaller_than_the_seeds_buys_a_fair_draw_of_them(self) -> None:
        seeds = np.sort(inputs(40, 0), axis=0)  # a sorted file: its head would be one corner of the domain
        rows = {tuple(row.ravel()): i for i, row in enumerate(seeds)}
        thefts = [thieve(Jacobian(), seeds=seeds, budget=10, seed=s) for s in range(40)]
        drawn = np.array([rows[tuple(row.ravel())] for theft in thefts for row in theft.x])
        assert abs(drawn.mean() - 19.5) < 2.5
        assert all(len(theft.history) == 1 for theft in thefts)

    def test_the_last_round_is_a_fair_draw_of_pairs_and_spends_the_purse(self) -> None:
        parents = []
        for seed in range(30):
            result = thieve(Jacobian(k=4, eps=0.01, steps=1), seeds=middling(20), budget=30, seed=seed)
            assert result.queries == 30
            children = result.x[20:]
            distance = np.abs(children[:, None] - result.x[None, :20]).max(axis=(2, 3))
            parents.append(distance.argmin(axis=1))
        counts = np.bincount(np.concatenate(parents), minlength=20)  # 300 children among 20 points: 15 each
        assert counts.min() > 4
        assert counts.max() < 32
        assert any(len(np.unique(p)) < len(p) for p in parents)  # pairs are drawn, not points


class TestWhereThePointsLie:
    @pytest.mark.parametrize("preset", sorted(PRESETS))
    def test_within_eps_of_a_parent_and_in_the_box_with_the_originals_intact(self, preset: str) -> None:
        attack = dataclasses.replace(CATALOG.build(preset), rounds=2, steps=3 if preset.startswith("jb") else 1)
        seeds = inputs(9, 1)
        kept = seeds.copy()
        result = thieve(attack, seeds=seeds)
        np.testing.assert_array_equal(seeds, kept)
        batches = result.notes["batches"]
        np.testing.assert_array_equal(batches[0], kept)
        assert attack.eps is not None
        known = kept
        for children in batches[1:]:
            nearest = np.abs(children[:, None] - known[None]).max(axis=(2, 3)).min(axis=1)
            assert (nearest <= attack.eps + 1e-12).all()
            assert children.min() >= 0
            assert children.max() <= 1
            known = np.concatenate([known, children])
        np.testing.assert_array_equal(result.x, known)
        np.testing.assert_array_equal(result.notes["fits"][-1][0], known)

    @pytest.mark.parametrize("direction", ["away", "own_class"])
    def test_one_step_differs_by_exactly_eps_in_every_input(self, direction: Any) -> None:
        result = thieve(Jacobian(direction=direction, eps=0.125, steps=1, rounds=1), seeds=middling(9))
        np.testing.assert_allclose(np.abs(result.x[9:] - result.x[:9]), 0.125, rtol=0, atol=1e-15)

    def test_eps_is_a_share_of_each_range_and_categories_stay(self) -> None:
        door = Interface(
            input_shape=(4,),
            n_classes=3,
            features=(
                Feature("height", 0.0, 100.0),
                Feature("colour", values=("red", "green", "blue")),
                Feature("always", 7.0, 7.0),
                Feature("ratio", -1.0, 1.0),
            ),
            reveals=Reveals.LABELS,
        )
        seeds = np.array([[50.0, 2.0, 7.0, 0.1], [40.0, 1.0, 7.0, -0.1], [60.0, 0.0, 7.0, 0.0]])
        victim = ToySoftmax(np.random.default_rng(0).normal(size=(3, 4)), np.zeros(3), (4,))
        learner = ToyLearner(rate=1e-3)
        result = thieve(
            Jacobian(direction="away", eps=0.1, rounds=1), seeds=seeds, door=door, victim=victim, learner=learner
        )
        moved = np.abs(result.x[3:] - seeds)
        np.testing.assert_allclose(moved, np.tile([10.0, 0.0, 0.0, 0.2], (3, 1)), atol=1e-12)

    def test_agrees_with_one_point_at_a_time(self) -> None:
        """The whole of round one, by a loop that a reader can check against the papers."""
        k, eps, steps = 2, 0.2, 6
        attack = Jacobian(k=k, eps=eps, steps=steps, rounds=1)
        seeds = inputs(8, 4)
        result = thieve(attack, seeds=seeds)
        copy = result.history[0][1]
        assert isinstance(copy, ToySoftmax)
        expected = []
        for x, label in zip(seeds, result.answer.labels[:8], strict=True):
            p = copy.scores(x[None])[0]
            ranked = sorted((j for j in range(5) if j != label), key=lambda j: (-p[j], j))
            for target in ranked[:k]:
                moved = x.copy()
                for _ in range(steps):
                    q = copy.scores(moved[None])[0]
                    gradient = copy.w[target] - sum(q[j] * copy.w[j] for j in range(5))
                    moved = moved + 2.5 * eps / steps * np.sign(gradient.reshape(SHAPE))
                    moved = np.minimum(np.maximum(moved, x - eps), x + eps)
                    moved = np.minimum(np.maximum(moved, 0.0), 1.0)
                expected.append(moved)
        np.testing.assert_allclose(result.x[8:], expected, atol=1e-12)

    def test_points_that_meet_in_a_corner_are_paid_for_and_counted(self) -> None:
        result = thieve(Jacobian(direction="own_class", eps=1.0, steps=3, rounds=2), seeds=inputs(8, 1))
        distinct = len(np.unique(result.x.reshape(len(result.x), -1), axis=0))
        assert result.queries == len(result.x) == 32
        assert result.notes["repeated_rows"] == 32 - distinct > 0


class TestDirections:
    def moved_towards_own(self, result: Extraction, n: int, round_: int) -> np.ndarray:
        """Whether the copy sees more of the parent's class in each child of a round in which the whole set moved."""
        copy = result.history[round_][1]
        parents, children = result.x[: n * 2**round_], result.x[n * 2**round_ : n * 2 ** (round_ + 1)]
        rows, labels = np.arange(len(parents)), result.answer.labels[: len(parents)]
        return copy.scores(children)[rows, labels] > copy.scores(parents)[rows, labels]

    def test_away_leaves_the_oracle_s_class_and_own_class_seeks_it(self) -> None:
        away = thieve(Jacobian(direction="away", eps=0.02, rounds=1), seeds=middling(10))
        assert not self.moved_towards_own(away, 10, 0).any()
        own = thieve(Jacobian(direction="own_class", eps=0.02, steps=1, rounds=1), seeds=middling(10))
        assert self.moved_towards_own(own, 10, 0).all()

    @pytest.mark.parametrize(("tau", "towards"), [(0, [0, 0, 0, 0]), (1, [0, 1, 0, 1]), (2, [0, 0, 1, 1])])
    def test_the_sign_flips_every_tau_rounds(self, tau: int, towards: list[int]) -> None:
        result = thieve(Jacobian(direction="away", eps=0.01, tau=tau, rounds=4), seeds=middling(6))
        for round_, flipped in enumerate(towards):
            assert (self.moved_towards_own(result, 6, round_) == bool(flipped)).all()

    def test_targets_are_never_the_oracle_s_class_even_where_the_copy_is_wrong(self) -> None:
        rng = np.random.default_rng(0)
        scores, labels = rng.dirichlet(np.ones(6), size=200), rng.integers(6, size=200)
        scores[::3] = 1 / 6  # ties
        for k in (1, 3, 5, 9):
            found = likeliest_others(scores, labels, k)
            for p, label, targets in zip(scores, labels, found, strict=True):
                slow = sorted((j for j in range(6) if j != label), key=lambda j: (-p[j], j))[:k]
                assert targets.tolist() == slow

    def test_logits_give_another_direction_than_log_probs(self) -> None:
        one, other = (
            thieve(Jacobian(of=of, steps=2, eps=0.1, rounds=1), seeds=middling(9)).x for of in ("logits", "log_probs")
        )
        assert not np.array_equal(one, other)


class TestLearning:
    def test_seeds_carry_the_oracle_s_labels(self) -> None:
        result = thieve(Jacobian(steps=1, rounds=1), seeds=inputs(9, 0))
        x, targets, _ = result.notes["fits"][0]
        np.testing.assert_array_equal(targets.argmax(axis=1), VICTIM.scores(x).argmax(axis=1))
        assert set(np.unique(targets)) == {0.0, 1.0}

    def test_probabilities_are_learned_where_they_are_shown(self) -> None:
        result = thieve(Jacobian(steps=1, rounds=1), seeds=inputs(9, 0), door=LABELS.revealing(reveals=Reveals.PROBS))
        x, targets, _ = result.notes["fits"][-1]
        np.testing.assert_allclose(targets, VICTIM.scores(x), atol=1e-12)

    @pytest.mark.parametrize("warm", [False, True])
    def test_a_warm_start_goes_on_from_the_last_copy(self, warm: bool) -> None:
        result = thieve(Jacobian(steps=1, k=1, rounds=2, warm_start=warm), seeds=inputs(5, 0))
        starts = [start for _, _, start in result.notes["fits"]]
        copies = [copy for _, copy in result.history]
        assert starts == ([None, *copies[:-1]] if warm else [None] * 3)
        assert len({id(copy) for copy in copies}) == 3

    def test_a_copy_without_gradients_is_named(self) -> None:
        class Opaque:
            input_shape, n_classes = SHAPE, 5

            def scores(self, x: Array) -> Array:
                return np.full((len(x), 5), 0.2)

        class Learner:
            fits = ()

            def fit(self, *args: Any, **kwargs: Any) -> Opaque:
                return Opaque()

        with pytest.raises(NotApplicable, match="learner made a Opaque, which has no input_gradient"):
            thieve(Jacobian(), seeds=inputs(5, 0), learner=Learner())


class TestSettings:
    def test_what_is_left_open_is_filled_in_as_published(self) -> None:
        assert Jacobian(direction="away") == Jacobian(direction="away", eps=0.1, steps=1, tau=3)
        assert Jacobian() == Jacobian(direction="top_k", k=3, eps=0.25, steps=40, tau=0) == CATALOG.build("jb_top3")

    def test_a_preset_means_what_it_meant_in_older_records(self) -> None:
        """Cells are known by these descriptions, so any difference would make every recorded cell another."""
        away = {"direction": "away", "k": 3, "eps": 0.1, "steps": 1, "tau": 3}
        towards = {"direction": "top_k", "k": 3, "eps": 0.25, "steps": 40, "tau": 0}
        expected: dict[str, dict[str, Any]] = {
            "papernot": {**away, "sigma": None},
            "papernot_reservoir": {**away, "sigma": 3},
            "jb_top3": {**towards, "sigma": None},
            "jb_top7": {**towards, "k": 7, "sigma": None},
            "jb_self": {**towards, "direction": "own_class", "sigma": None},
        }
        common = {"step": None, "of": "log_probs", "kappa": 400, "rounds": None, "warm_start": False}
        assert {name: describe(CATALOG.build(name)) for name in PRESETS} == {
            name: {"unit": "jacobian", **settings, **common} for name, settings in expected.items()
        }

    @pytest.mark.parametrize(
        "settings",
        [
            {"direction": "sideways"},
            {"k": 0},
            {"eps": 0.0},
            {"eps": 64},
            {"steps": 0},
            {"step": -1.0},
            {"of": "scores"},
            {"tau": -1},
            {"sigma": 1.5},
            {"kappa": True},
            {"rounds": -1},
            {"warm_start": 1},
        ],
    )
    def test_out_of_range(self, settings: dict[str, Any]) -> None:
        with pytest.raises(ParameterError, match=rf"Jacobian\.{next(iter(settings))} must be"):
            Jacobian(**settings)

    def test_a_sign_needs_a_direction_that_has_one(self) -> None:
        with pytest.raises(ParameterError, match="Targets have no sign"):
            Jacobian(direction="top_k", tau=3)


def test_repeated_counts_all_but_the_first() -> None:
    x = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert repeated(x) == 2
    assert repeated(x[:2]) == 0
