"""Defenses that change probabilities: against plain slow twins, and what their papers say of them."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from portcullis_ml.core.artifacts import Artifact, Contents
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Answer, Array, Interface, Request
from portcullis_ml.defenses import CATALOG
from portcullis_ml.defenses._extremes import best_sets, best_vertices
from portcullis_ml.defenses.noise import onto_l1
from portcullis_ml.defenses.prediction_poisoning import PredictionPoisoning
from portcullis_ml.models.artifacts import pack_arrays, write_artifact

from .toys import API, answer_to, noise, rows, toy_surrogate

X = rows(300)
Y = answer_to(X).scores
assert Y is not None


def shown(word: str, x: Array = X, **settings: Any) -> Answer:
    defense = CATALOG.load(word)(**settings).bind(API)
    return defense.release(Request("a", x), answer_to(x), answer_to(x), defense.start(), noise())


def distributions(n: int, width: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).dirichlet(np.full(width, 0.3), n)


def angle(t: Array, y: Array, p: Array) -> float:
    """The cosine that a plain reading of the paper gives, of the gradients of a last layer with features h."""
    h = np.random.default_rng(7).normal(size=6)
    a, b = np.outer(t - p, h).ravel(), np.outer(y - p, h).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


class TestPredictionPoisoning:
    def test_the_closed_form_is_what_backward_passes_give(self) -> None:
        """K gradients of the last layer, one for each class, as the published code takes them."""
        torch.manual_seed(0)
        features, last = torch.rand(1, 6, dtype=torch.float64), torch.nn.Linear(6, 5, bias=False, dtype=torch.float64)
        logs = torch.log_softmax(last(features), 1)[0]
        g = torch.stack([torch.autograd.grad(log, last.weight, retain_graph=True)[0].ravel() for log in logs]).numpy()
        p = logs.exp().detach().numpy()
        for t, y in zip(distributions(20, 5), distributions(20, 5, 1), strict=True):
            u, v = g.T @ t, g.T @ y
            by_backward = float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
            d, e = t - p, y - p
            assert by_backward == pytest.approx(float(d @ e / np.linalg.norm(d) / np.linalg.norm(e)), abs=1e-7)

    @pytest.mark.parametrize("width", [2, 3, 5, 43])
    def test_the_vertex_of_the_greatest_angle(self, width: int) -> None:
        y, p = distributions(40, width), distributions(40, width, 1)
        for row, (a, b) in enumerate(zip(y, p, strict=True)):
            cosines = [angle(e, a, b) for e in np.eye(width)]
            found = best_vertices(y, p)[row].argmax()
            assert cosines[found] == pytest.approx(min(cosines), abs=1e-9)

    @pytest.mark.parametrize("width", [2, 3, 6])
    def test_the_set_of_the_greatest_angle(self, width: int) -> None:
        y, p = distributions(25, width), distributions(25, width, 1)
        found = best_sets(y, p)
        assert (found.argmax(axis=1) == y.argmax(axis=1)).all()
        for row, (a, b) in enumerate(zip(y, p, strict=True)):
            top, others = a.argmax(), [k for k in range(width) if k != a.argmax()]
            sets = [(top, *more) for k in range(width) for more in combinations(others, k)]
            uniform = [np.isin(np.arange(width), s) / len(s) for s in sets]
            assert angle(found[row], a, b) == pytest.approx(min(angle(u, a, b) for u in uniform), abs=1e-3)

    def test_with_many_classes_sets_grow_as_a_plain_loop_grows_them(self) -> None:
        y, p = distributions(8, 14), distributions(8, 14, 1)
        found = best_sets(y, p) > 1e-3
        for row, (a, b) in enumerate(zip(y, p, strict=True)):
            inside, best, kept = [int(a.argmax())], np.inf, [int(a.argmax())]
            for _ in range(14):
                cosine = angle(np.isin(np.arange(14), inside) / len(inside), a, b)
                if cosine < best - 1e-12:
                    best, kept = cosine, list(inside)
                left = [k for k in range(14) if k not in inside]
                if not left:
                    break
                grown = {k: angle(np.isin(np.arange(14), [*inside, k]) / (len(inside) + 1), a, b) for k in left}
                inside.append(min(grown, key=lambda k: grown[k]))
            assert sorted(np.flatnonzero(found[row])) == sorted(kept)

    def test_a_thousand_classes_stay_within_the_cap(self) -> None:
        assert best_sets(distributions(3, 1000), distributions(3, 1000, 1)).shape == (3, 1000)

    @pytest.mark.parametrize("ball", ["l1", "l2", "kl"])
    @pytest.mark.parametrize("objective", ["mad", "argmax", "relaxed"])
    @pytest.mark.parametrize("eps", [0.0, 0.1, 0.95, 1.4])
    def test_answers_stay_distributions_within_the_ball(self, ball: str, objective: str, eps: float) -> None:
        z = shown("prediction_poisoning", surrogate=toy_surrogate(), eps=eps, ball=ball, objective=objective).scores
        assert z is not None
        np.testing.assert_allclose(z.sum(axis=1), 1, atol=1e-9)
        assert (z >= 0).all()
        gap = np.abs(z - Y)
        kl = (Y * np.log(np.maximum(Y, 1e-12) / np.maximum(z, 1e-12))).sum(axis=1)
        far = {"l1": gap.sum(axis=1), "l2": np.sqrt((gap**2).sum(axis=1)), "kl": kl}[ball]
        assert (far <= eps + 1e-4).all()
        assert (far.max() > 0.9 * min(eps, 0.5)) or eps == 0

    def test_the_label_cliff_is_at_one(self) -> None:
        """A sure answer keeps its label below eps = 1 and loses it above; with argmax it never does."""
        sure = np.eye(5)[np.arange(300) % 5] * 0.9999 + 0.00002
        for eps, kept in ((0.9, 1.0), (0.99, 1.0), (1.01, 0.0), (2.0, 0.0)):
            defense = PredictionPoisoning(surrogate=toy_surrogate(), eps=eps).bind(API)
            label = defense.poisoned(X, sure, noise()).argmax(axis=1)
            assert (label == sure.argmax(axis=1)).mean() == kept
        assert (shown("prediction_poisoning", surrogate=toy_surrogate(), eps=2.0, objective="argmax").labels
                == Y.argmax(axis=1)).all()  # fmt: skip

    def test_relaxed_moves_to_the_least_likely_class_whatever_the_surrogate(self) -> None:
        z = shown("prediction_poisoning", surrogate=toy_surrogate(), objective="relaxed", eps=0.4).scores
        assert z is not None
        assert ((z - Y).argmax(axis=1) == Y.argmin(axis=1)).all()

    @pytest.mark.parametrize("objective", ["mad", "argmax"])
    def test_where_the_surrogate_answers_as_the_model_does_it_knows_nothing(self, objective: str) -> None:
        """By chance both may be sure of one class: such a row is poisoned too, and its neighbours as without it."""
        defense = PredictionPoisoning(surrogate=toy_surrogate(), objective=objective, eps=0.5).bind(API)
        assert defense._model is not None
        y = Y[:3].copy()
        y[1] = defense._model.scores(X[1:2])[0]
        z = defense.poisoned(X[:3], y, noise())
        assert np.abs(z - y).sum(axis=1) == pytest.approx(0.5)
        assert np.allclose(z[[0, 2]], defense.poisoned(X[[0, 2]], y[[0, 2]], noise()))
        uniform = np.full((1, 5), 0.2)
        towards = (best_vertices if objective == "mad" else best_sets)(y[1:2], uniform)
        assert ((z[1] - y[1]) @ (towards[0] - y[1])) > 0

    def test_a_surrogate_of_another_shape_is_refused(self, tmp_path: Any) -> None:
        with pytest.raises(InputError, match=r"must take rows of \(6,\) and know 5 classes; this one takes \(4,\)"):
            PredictionPoisoning(surrogate=toy_surrogate()).bind(Interface(input_shape=(6,), n_classes=5))
        other = write_artifact(Contents({"filter.safetensors": pack_arrays({"mean": np.zeros(4)})}), tmp_path / "f")
        with pytest.raises(InputError, match=r"must hold surrogate\.safetensors"):
            PredictionPoisoning(surrogate=other).bind(API)
        with pytest.raises(NotApplicable, match="this one does regression"):
            PredictionPoisoning(surrogate=toy_surrogate()).bind(
                Interface(input_shape=(4,), n_classes=0, task="regression")
            )

    def test_the_same_question_gets_the_same_answer_after_a_restart(self) -> None:
        again = Artifact.at(str(toy_surrogate()))
        first, second = (shown("prediction_poisoning", surrogate=s).scores for s in (toy_surrogate(), again))
        np.testing.assert_array_equal(first, second)


class TestReverseSigmoid:
    def test_the_published_curve(self) -> None:
        z = shown("reverse_sigmoid", beta=0.7, gamma=0.3).scores
        expected = []
        for y in Y:
            bent = [v - 0.7 * (1 / (1 + np.exp(-0.3 * np.log(v / (1 - v)))) - 0.5) for v in np.clip(y, 1e-9, 1 - 1e-9)]
            expected.append(np.maximum(bent, 0) / sum(max(b, 0) for b in bent))
        np.testing.assert_allclose(z, expected, atol=1e-9)

    def test_beta_zero_changes_nothing_and_a_large_one_some_labels(self) -> None:
        np.testing.assert_allclose(shown("reverse_sigmoid", beta=0.0).scores, Y, atol=1e-9)
        kept = [
            (shown("reverse_sigmoid", beta=b, gamma=g).labels == Y.argmax(axis=1)).mean()
            for b, g in ((0.4, 0.2), (1.0, 0.4))
        ]
        assert kept[0] == 1.0
        assert kept[1] < 1.0


class TestTemperature:
    def test_logits_are_divided_and_labels_stay(self) -> None:
        answer = shown("temperature", t=4.0)
        assert answer.scores is not None
        expected = [[v**0.25 / sum(w**0.25 for w in y) for v in y] for y in Y]
        np.testing.assert_allclose(answer.scores, expected, rtol=1e-12)
        np.testing.assert_array_equal(answer.labels, Y.argmax(axis=1))

    def test_whoever_knows_the_temperature_gets_the_scores_back(self) -> None:
        flat = shown("temperature", t=10.0).scores
        assert flat is not None
        np.testing.assert_allclose(flat**10 / (flat**10).sum(axis=1, keepdims=True), Y, rtol=1e-9)

    def test_a_probability_of_zero_makes_no_nan(self) -> None:
        certain = Answer(np.array([1]), np.array([[0.0, 1.0, 0.0, 0.0, 0.0]]))
        defense = CATALOG.load("temperature")(t=2.0).bind(API)
        told = defense.release(Request("a", X[:1]), certain, certain, defense.start(), noise())
        assert told.scores is not None
        assert told.scores.argmax() == 1
        assert np.isfinite(told.scores).all()


class TestNoise:
    @pytest.mark.parametrize("ball", ["l1", "l2"])
    def test_no_noise_is_longer_than_eps(self, ball: str) -> None:
        z = shown("noise", eps=0.7, ball=ball).scores
        assert z is not None
        logits, before = (np.log(np.clip(v, 1e-9, 1 - 1e-9) / (1 - np.clip(v, 1e-9, 1 - 1e-9))) for v in (z, Y))
        assert np.abs(logits - before).max() < 0.7 + np.abs(np.log(z.sum(axis=1))).max() + 0.8
        assert not np.allclose(z, Y)

    def test_kept_labels_shrink_the_noise_of_those_rows_alone_that_would_change(self) -> None:
        free, kept = shown("noise", eps=6.0), shown("label_preserving_noise", eps=6.0)
        assert free.scores is not None
        assert kept.scores is not None
        changes = free.scores.argmax(axis=1) != Y.argmax(axis=1)
        assert 20 < changes.sum() < 280
        assert (kept.labels == Y.argmax(axis=1)).all()
        assert (kept.scores.argmax(axis=1) == Y.argmax(axis=1)).all()  # for whoever reads scores alone
        assert (-np.diff(np.sort(kept.scores, axis=1)[:, -2:]) < 0).all()  # no tie
        whole = (kept.scores == free.scores).all(axis=1)
        assert whole.sum() > 20
        assert not whole[changes].any()
        assert np.abs(kept.scores - Y).max(axis=1).min() > 0

    def test_the_projection_is_the_nearest_point_of_the_ball(self) -> None:
        v = np.random.default_rng(0).normal(size=(50, 6))
        found = onto_l1(v, 1.0)
        assert (np.abs(found).sum(axis=1) <= 1 + 1e-9).all()
        inside = np.random.default_rng(1).dirichlet(np.ones(6), 200) * np.random.default_rng(2).choice(
            [-1, 1], (200, 6)
        )
        for row, near in zip(v, found, strict=True):
            assert np.linalg.norm(row - near) <= np.linalg.norm(row - inside, axis=1).min() + 1e-9
        small = v / 100
        np.testing.assert_array_equal(onto_l1(small, 1.0), small)

    @pytest.mark.parametrize("word", ["noise", "label_preserving_noise", "random_vertex", "private_answers"])
    def test_it_is_keyed_by_the_question(self, word: str) -> None:
        defense = CATALOG.load(word)()
        one, two, other = (
            Guard(defense, key=key, interface=API).release(Request(who, X), answer_to(X)).answer.scores
            for key, who in ((b"a" * 32, "x"), (b"a" * 32, "y"), (b"b" * 32, "x"))
        )
        np.testing.assert_array_equal(one, two)
        assert not np.array_equal(one, other)


class TestRandomVertex:
    def test_every_answer_moves_by_eps_towards_one_class(self) -> None:
        z = shown("random_vertex", eps=0.3).scores
        assert z is not None
        at = (z - Y).argmax(axis=1)
        room = 2 * (1 - Y[np.arange(300), at])
        np.testing.assert_allclose(np.abs(z - Y).sum(axis=1), np.minimum(0.3, room), atol=1e-9)
        assert len(np.unique(at)) == 5
        assert ((shown("random_vertex", eps=0.3, vertex="least").scores - Y).argmax(axis=1) == Y.argmin(axis=1)).all()


class TestPrivateAnswers:
    def test_the_noise_is_laplace_of_the_scale_that_the_sensitivity_asks_for(self) -> None:
        """Before clipping, of one entry far from 0 and 1: the mean absolute value of Laplace noise is its scale."""
        x = rows(4000, 9)
        y = np.full((4000, 5), 0.5)
        defense = CATALOG.load("private_answers")(eps=200.0)
        drawn = np.clip(0.5 + (defense.poisoned(x, y, noise()) * 2.5 - 0.5), 0, 1) - 0.5
        assert np.abs(drawn).mean() == pytest.approx(0.01, rel=0.15)

    def test_less_privacy_loss_is_more_noise(self) -> None:
        far = [np.abs(shown("private_answers", eps=e).scores - Y).mean() for e in (2.0, 20.0, 200.0)]
        assert far[0] > far[1] > far[2]

    def test_private_training_does_not_keep_the_model_secret(self) -> None:
        """Tramèr et al., section 7: a model that was trained with privacy is solved from d + 1 exact answers."""
        rng = np.random.default_rng(0)
        private = rng.normal(size=5) + rng.laplace(scale=1.0, size=5)  # weights and bias, perturbed before release
        x = np.concatenate([rng.normal(size=(5, 4)), np.ones((5, 1))], axis=1)
        p = 1 / (1 + np.exp(-x @ private))
        np.testing.assert_allclose(np.linalg.solve(x, np.log(p / (1 - p))), private, atol=1e-8)
