from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_moons
from sklearn.svm import SVC

from portcullis_ml.core.attack import Harvest, Knowledge
from portcullis_ml.core.errors import AttackFailed, NotApplicable, ParameterError
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Feature, Interface, Model, Reveals
from portcullis_ml.extraction._search import Segments
from portcullis_ml.extraction.retraining import Retraining, _Retrainer
from portcullis_ml.models.constant import ConstantModel
from portcullis_ml.models.encoding import Encoded, Encoding
from portcullis_ml.models.lbfgs import Divergence
from portcullis_ml.models.mlp import Mlp, _Objective
from portcullis_ml.models.ovr import OneVsRest
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.models.surrogates import fit_surrogate, unknowns

from .toys import ToyLearner, WatchedOracle, toy_victim


def door(d: int, c: int = 2, **changes: Any) -> Interface:
    settings: dict[str, Any] = {"bounds": (-1, 1), "reveals": Reveals.LABELS, "n_classes": c, **changes}
    return Interface(input_shape=(d,), **settings)


def logistic(d: int, seed: int) -> SoftmaxRegression:
    rng = np.random.default_rng(seed)
    w = rng.normal(size=d)
    return SoftmaxRegression(np.stack([0 * w, w]), np.array([0.0, 0.3 * rng.normal()]))


def thieve(victim: Model, interface: Interface, budget: int, seed: int = 0, **settings: Any) -> Extraction:
    oracle = WatchedOracle(LocalOracle(victim, interface, budget=budget))
    knowledge = settings.pop("knowledge", Knowledge())
    settings = {"strategy": "adaptive", "surrogate": "softmax"} | settings
    result = Retraining(**settings)(oracle, knowledge, rng=np.random.default_rng(seed))
    result.notes["batches"] = [len(b) for b in oracle.batches]
    return result


def error(copy: Model, victim: Model, interface: Interface) -> float:
    x = interface.uniform(10_000, np.random.default_rng(99))
    return float((copy.scores(x).argmax(axis=1) != victim.scores(x).argmax(axis=1)).mean())


def distance(copy: Model, victim: Model, interface: Interface) -> float:
    x = interface.uniform(10_000, np.random.default_rng(99))
    return float(np.abs(copy.scores(x) - victim.scores(x)).sum(axis=1).mean() / 2)


class TestStrategies:
    def test_adaptive_beats_uniform_five_times_at_alpha_20(self) -> None:
        d = 20
        errors = {
            strategy: np.mean(
                [error(thieve(v, door(d), 20 * (d + 1), strategy=strategy).model, v, door(d)) for v in victims(d)]
            )
            for strategy in ("uniform", "adaptive")
        }
        assert errors["uniform"] > 0.005
        assert errors["uniform"] >= 5 * errors["adaptive"]

    @pytest.mark.parametrize("strategy", ["uniform", "line_search", "adaptive"])
    @pytest.mark.parametrize("alpha", [0.5, 3, 20])
    def test_the_bill_is_alpha_times_the_unknowns_to_the_row(self, strategy: str, alpha: float) -> None:
        result = thieve(logistic(7, 0), door(7), 1000, strategy=strategy, alpha=alpha)
        assert result.queries == round(alpha * 8)

    @pytest.mark.parametrize("strategy", ["uniform", "line_search", "adaptive"])
    def test_a_budget_below_alpha_is_spent(self, strategy: str) -> None:
        assert thieve(logistic(7, 0), door(7), 33, strategy=strategy, alpha=20).queries == 33

    def test_every_midpoint_is_paid_and_learnt_from(self) -> None:
        """The searches end where the two ends are within eps, and every row asked is in the transfer set."""
        result = thieve(logistic(4, 1), door(4), 400, strategy="line_search", eps=0.05)
        assert result.queries == len(result.x) == 400
        first = result.notes["batches"][0]
        assert first == 100  # a quarter on random points
        margin = np.abs(result.x[first:] @ logistic(4, 1).w[1] + logistic(4, 1).b[1])
        assert np.median(margin) < np.median(np.abs(result.x[:first] @ logistic(4, 1).w[1])) / 4

    def test_adaptive_asks_a_round_in_one_batch_and_only_new_rows(self) -> None:
        result = thieve(logistic(4, 1), door(4), 100, rounds=4)
        assert result.notes["batches"] == [25, 25, 25, 25]
        assert len(np.unique(result.x, axis=0)) == 100
        assert [paid for paid, _ in result.history] == [25, 50, 75, 100]

    def test_images(self) -> None:
        victim = toy_victim((2, 3), 3)
        interface = Interface(input_shape=(2, 3), n_classes=3, reveals=Reveals.LABELS)
        for strategy in ("uniform", "line_search", "adaptive"):
            result = thieve(victim, interface, 400, strategy=strategy)
            assert result.model.input_shape == (2, 3)
            assert error(result.model, victim, interface) < 0.08


class TestSurrogates:
    def test_probabilities_give_the_softmax_itself_and_labels_do_not(self) -> None:
        victim = toy_victim((5,), 4, scale=1.5)
        shown = door(5, 4, reveals=Reveals.PROBS)
        probs = thieve(victim, shown, 60, strategy="uniform")
        labels = thieve(victim, shown, 60, strategy="uniform", answers="labels")
        assert distance(probs.model, victim, shown) < 1e-7
        assert distance(labels.model, victim, shown) > 1e-2

    def test_one_vs_rest(self) -> None:
        toy = toy_victim((5,), 4, scale=1.5)
        victim = OneVsRest(toy.w, toy.b)
        shown = door(5, 4, reveals=Reveals.PROBS)
        result = thieve(victim, shown, 60, strategy="uniform", surrogate="one_vs_rest")
        assert distance(result.model, victim, shown) < 1e-6

    def test_a_small_network_exactly(self) -> None:
        rng = np.random.default_rng(3)
        victim = Mlp(rng.normal(size=(20, 2)), rng.normal(size=20), rng.normal(size=(2, 20)) / 2, np.zeros(2))
        shown = door(2, 2, reveals=Reveals.PROBS)
        assert unknowns("mlp", 2, 2) == 102
        result = thieve(victim, shown, 1000, strategy="uniform", surrogate="mlp", alpha=5)
        assert result.queries == 510
        assert distance(result.model, victim, shown) < 1e-3
        assert error(result.model, victim, shown) < 1e-3

    def test_an_rbf_machine_from_labels(self) -> None:
        x, y = make_moons(300, noise=0.1, random_state=0)
        x = x / np.abs(x).max(axis=0)
        victim = SklearnModel(SVC(gamma=2.0, random_state=0).fit(x, y))
        result = thieve(victim, door(2), 300, surrogate="svm")
        assert error(result.model, victim, door(2)) < 0.02

    def test_a_tree_on_a_table(self) -> None:
        features = (Feature("age", 17, 90), Feature("job", values=("a", "b", "c")), Feature("hours", 0, 99))
        interface = door(3, features=features)

        class Rules:
            input_shape, n_classes = (3,), 2

            def scores(self, x: Array) -> Array:
                yes = ((x[:, 0] > 40) & (x[:, 1] == 2)) | ((x[:, 1] == 0) & (x[:, 2] > 60))
                return np.eye(2)[yes.astype(int)]

        for strategy in ("adaptive", "line_search"):
            result = thieve(Rules(), interface, 600, strategy=strategy, surrogate="tree")
            assert set(np.unique(result.x[:, 1])) == {0, 1, 2}  # categories stay codes on the way
            assert error(result.model, Rules(), interface) < 0.03

    def test_the_attackers_own_learner(self) -> None:
        victim = toy_victim((4,), 3)
        interface = Interface(input_shape=(4,), n_classes=3)
        learner = ToyLearner()
        result = thieve(victim, interface, 100, surrogate="learner", knowledge=Knowledge(learner=learner))
        assert len(learner.fits) == 5
        assert result.model.input_shape == (4,)

    def test_one_class_so_far_is_the_constant(self) -> None:
        targets = np.tile([0.0, 1.0, 0.0], (5, 1))
        model = fit_surrogate("softmax", np.zeros((5, 2)), targets, rng=np.random.default_rng(0))
        assert isinstance(model, ConstantModel)
        np.testing.assert_array_equal(model.scores(np.ones((2, 2))), targets[:2])

    @pytest.mark.parametrize("strategy", ["uniform", "line_search", "adaptive"])
    @pytest.mark.parametrize("surrogate", ["softmax", "svm", "tree"])
    def test_a_constant_victim_is_copied_and_said_to_be_constant(self, strategy: str, surrogate: str) -> None:
        class Same:
            input_shape, n_classes = (3,), 2

            def scores(self, x: Array) -> Array:
                return np.tile([0.0, 1.0], (len(x), 1))

        result = thieve(Same(), door(3), 50, strategy=strategy, surrogate=surrogate)
        assert result.queries == 50
        assert result.notes["classes_seen"] == 0.5
        assert error(result.model, Same(), door(3)) == 0

    def test_a_class_with_one_member_is_no_accident_for_the_svm(self) -> None:
        z = np.linspace(-1, 1, 20)[:, None]
        targets = np.eye(3)[[2] + [0] * 9 + [1] * 10]
        model = fit_surrogate("svm", z, targets, rng=np.random.default_rng(0))
        np.testing.assert_array_equal(model.scores(z).argmax(axis=1), targets.argmax(axis=1))

    @pytest.mark.parametrize(
        ("kind", "count"), [("softmax", 530), ("mlp", 2225), ("svm", 106), ("tree", 106), ("one_vs_rest", 530)]
    )
    def test_unknowns_of_adult_race(self, kind: str, count: int) -> None:
        assert unknowns(kind, 105, 5) == count


class TestEncoding:
    def test_numbers_first_then_indicators(self) -> None:
        features = (Feature("a", 0, 10), Feature("b", values=("x", "y", "z")), Feature("c", 5, 5))
        encoding = Encoding.of(door(3, features=features))
        assert encoding.width == 4
        np.testing.assert_array_equal(encoding(np.array([[0.0, 2, 5], [10, 0, 5]])), [[-1, 0, 0, 1], [1, 1, 0, 0]])
        dropped = Encoding.of(door(3, features=features), drop_first=True)
        assert dropped.width == 3
        np.testing.assert_array_equal(dropped(np.array([[5.0, 0, 5], [5, 2, 5]])), [[0, 0, 0], [0, 0, 1]])

    def test_decode_and_unscale_undo_it(self) -> None:
        interface = door(3, features=(Feature("a", 0, 10), Feature("b", 2, 2), Feature("c", -3, 1)))
        encoding, rng = Encoding.of(interface), np.random.default_rng(0)
        x = interface.uniform(9, rng)
        np.testing.assert_allclose(encoding.decode(encoding(x)), x)
        w, b = rng.normal(size=(2, 2)), rng.normal(size=2)
        raw = SoftmaxRegression(*encoding.unscale(w, b))
        wrapped = Encoded(encoding, SoftmaxRegression(w, b))
        np.testing.assert_allclose(raw.scores(x), wrapped.scores(x))


class TestGradients:
    """By hand, against finite differences."""

    def test_the_network_and_its_fit(self) -> None:
        rng = np.random.default_rng(0)
        x, targets = rng.normal(size=(9, 3)), rng.dirichlet(np.ones(4), size=9)
        objective = _Objective(x, Divergence(targets), (3, 5, 4), 0.1)
        flat = rng.normal(size=3 * 5 + 5 + 20 + 4)
        numeric = [(objective(flat + e)[0] - objective(flat - e)[0]) / 2e-6 for e in 1e-6 * np.eye(len(flat))]
        np.testing.assert_allclose(objective(flat)[1], numeric, atol=1e-7)

    @pytest.mark.parametrize("of", ["logits", "log_probs"])
    def test_input_gradient(self, of: Any) -> None:
        rng = np.random.default_rng(0)
        net = Mlp.random(3, 5, 4, rng)
        x, weights = rng.normal(size=(2, 3)), rng.normal(size=(2, 4))

        def value(x: Array) -> Array:
            logits = np.tanh(x @ net.w.T + net.b) @ net.v.T + net.a
            return (weights * (logits if of == "logits" else net.log_probs(x))).sum(axis=1)

        numeric = np.stack([(value(x + e) - value(x - e)) / 2e-6 for e in 1e-6 * np.eye(3)], axis=1)
        np.testing.assert_allclose(net.input_gradient(x, weights, of=of), numeric, atol=1e-8)


class TestSentences:
    def test_insisting_on_probabilities(self) -> None:
        with pytest.raises(NotApplicable, match=r"answers='probs' needs probs; this API gives labels\. Set answers="):
            thieve(logistic(3, 0), door(3), 10, answers="probs")

    def test_a_learner_that_is_not_there(self) -> None:
        with pytest.raises(NotApplicable, match="surrogate='learner' needs a learner"):
            thieve(logistic(3, 0), door(3), 10, surrogate="learner")

    def test_regression(self) -> None:
        interface = Interface(input_shape=(3,), task="regression")
        with pytest.raises(NotApplicable, match="retraining of an API that answers numbers takes strategy='uniform'"):
            thieve(logistic(3, 0), interface, 10)

    @pytest.mark.parametrize(
        "settings",
        [{"strategy": "random"}, {"surrogate": "forest"}, {"answers": "top"}, {"alpha": 0}, {"rounds": 0}, {"eps": 0}],
    )
    def test_settings(self, settings: dict[str, Any]) -> None:
        with pytest.raises(ParameterError, match=rf"Retraining\.{next(iter(settings))} must be"):
            Retraining(**settings)


def victims(d: int) -> list[SoftmaxRegression]:
    return [logistic(d, seed) for seed in range(5)]


def test_no_answer_is_a_sentence() -> None:
    from portcullis_ml.core.guard import Guard

    from .toys import Closes

    oracle = LocalOracle(logistic(3, 0), door(3), budget=10, guard=Guard(Closes(after=0), key=b"0" * 16))
    with pytest.raises(AttackFailed, match="Not one row was answered"):
        Retraining()(oracle, Knowledge(), rng=np.random.default_rng(0))


class TestRounds:
    """One round at a time, on a retrainer that has asked nothing yet."""

    @staticmethod
    def retrainer(**settings: Any) -> _Retrainer:
        harvest = Harvest(LocalOracle(logistic(1, 0), door(1), budget=100))
        return _Retrainer(Retraining(**settings), harvest, door(1), Knowledge(), np.random.default_rng(0))

    def test_a_copy_that_knows_one_class_looks_where_its_lead_is_least(self) -> None:
        copy = SoftmaxRegression(np.array([[0.0], [1.0]]), np.array([0.0, 5.0]))  # class 1, surer to the right
        chosen = self.retrainer(pool=400)._near_boundary(copy, 40)
        assert chosen.shape == (40, 1)
        assert chosen.max() < -0.75
        drawn = door(1).uniform(400, np.random.default_rng(0))
        np.testing.assert_array_equal(np.sort(chosen, axis=0), np.sort(drawn, axis=0)[:40])

    @pytest.mark.parametrize(("eps", "halvings"), [(0.1, [5, 4, 0, 0]), (0.5, [2, 1, 0, 0])])
    def test_a_line_is_halved_until_at_most_eps_is_left(self, eps: float, halvings: list[int]) -> None:
        near, far = np.full((4, 1), -1.0), np.array([[1.0], [0.0], [-0.95], [-1.0]])
        assert self.retrainer(eps=eps)._levels(Segments(near, far)).tolist() == halvings
