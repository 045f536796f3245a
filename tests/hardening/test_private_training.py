"""Private training: what is spent is accounted for, and what it does and does not stop. Without Opacus, a sentence."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from portcullis_ml.bench.prepare import Training
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, MissingExtra, NotApplicable, ParameterError
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Interface, Rows
from portcullis_ml.extraction.equation_solving import EquationSolving
from portcullis_ml.hardening.private_training import PrivateTraining
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.models.torch import TorchLearner
from recipes.toys import LEARNER, own

X, Y = load_digits(return_X_y=True)
X = X / 16
LEARN = TorchLearner(network="mlp", epochs=5)


@pytest.fixture
def opacus() -> Any:
    return pytest.importorskip("opacus")


def private(seed: int = 0, learner: TorchLearner = LEARN, n: int = 600, **settings: Any) -> Any:
    return PrivateTraining(**settings)(learner, Rows(X[:n], Y[:n]), None, rng=np.random.default_rng(seed))


def right(model: Any) -> float:
    return float((model.scores(X[1000:]).argmax(axis=1) == Y[1000:]).mean())


@pytest.mark.usefixtures("opacus")
class TestTrained:
    def test_no_more_is_spent_than_was_allowed_and_less_means_more_noise(self) -> None:
        noise = []
        for epsilon in (1.0, 8.0):
            notes = private(epsilon=epsilon).notes
            assert 0.9 * epsilon < notes["epsilon"] <= epsilon
            assert notes["delta"] == 1e-5
            noise.append(notes["noise_multiplier"])
        assert noise[0] > 2 * noise[1]

    def test_the_accountant_agrees_with_another_library_s_formula(self) -> None:
        """All rows in every step: then the mechanism is a Gaussian one, T times, whose RDP is T a / (2 sigma^2)."""
        notes = private(n=64, learner=replace(LEARN, epochs=4)).notes  # batches of 64 of 64 rows
        sigma, steps, delta = notes["noise_multiplier"], 4, 1e-5
        orders = np.concatenate([1 + np.arange(1, 100) / 10, np.arange(12, 64)])
        rdp = steps * orders / (2 * sigma**2)
        plain = rdp + np.log1p(-1 / orders) - (np.log(delta) + np.log(orders)) / (orders - 1)
        assert notes["epsilon"] == pytest.approx(plain.min(), rel=1e-6)

    def test_one_row_moves_the_weights_no_further_than_its_cut_gradient(self) -> None:
        """Hardly any noise, one step: the weights move by the step times the cut sum, however large the rows are."""
        learner, rows = replace(LEARN, epochs=1), Rows(np.full((4, 64), 1e3), np.arange(4))
        start, moved = (
            PrivateTraining(epsilon=1e9, clip=clip, lr=1.0)(learner, rows, None, rng=np.random.default_rng(0))
            for clip in (1e-9, 0.5)
        )
        pairs = zip(start.module.parameters(), moved.module.parameters(), strict=True)
        distance = sum(float(((a - b) ** 2).sum()) for a, b in pairs) ** 0.5
        assert 0.01 < distance <= 0.5 + 1e-3  # the mean of four gradients of norm 0.5

    def test_exact_scores_give_it_away_all_the_same(self) -> None:
        """What it does not stop: d + 1 questions copy a private softmax regression, noise and all."""
        model = private(learner=replace(LEARN, network="prada_1_layer"), epsilon=1.0)
        weights = [p.detach().double().numpy() for p in model.module.parameters()]
        victim = SoftmaxRegression(*weights)
        oracle = LocalOracle(victim, Interface(input_shape=(64,), n_classes=10), budget=65)
        found = EquationSolving()(oracle, Knowledge(), rng=np.random.default_rng(0))
        assert found.queries == 65
        np.testing.assert_allclose(found.model.scores(X[:200]), victim.scores(X[:200]), atol=1e-8)

    def test_what_was_spent_stands_in_the_artifact(self, tmp_path: Path) -> None:
        rows = Rows(X[:300], Y[:300])
        training = Training(
            unit=PrivateTraining(epsilon=3.0),
            given=LEARN,
            victim={"name": "digits", "sha256": "0"},
            rows=rows,
            source="digits",
            outside=None,
        )
        about = training(tmp_path / "it", lambda done, steps: None, key="it").read().about
        assert about["settings"]["epsilon"] == 3.0
        assert 2.7 < about["notes"]["epsilon"] <= 3.0
        assert about["notes"]["delta"] == 1e-5

    def test_less_privacy_is_better_accuracy(self) -> None:
        assert right(private(epsilon=100.0, learner=replace(LEARN, epochs=10))) > 0.75
        assert right(private(epsilon=0.3, learner=replace(LEARN, epochs=10))) < 0.6

    def test_networks_that_pool_and_turn_pictures_can_be_trained(self) -> None:
        rows = Rows(X[:100].reshape(-1, 8, 8), Y[:100])
        learner = replace(LEARN, network="digits_cnn", epochs=1)
        model = PrivateTraining()(learner, rows, None, rng=np.random.default_rng(0))
        assert np.isfinite(model.scores(rows.x)).all()


@pytest.mark.usefixtures("opacus")
def test_what_cannot_be_trained_privately_is_a_sentence() -> None:
    with pytest.raises(InputError, match=r"cannot reach epsilon 0\.01 with these rows in 5 epochs .* Allow more, or"):
        private(epsilon=0.01)
    rows, learner = Rows(X[:64].reshape(-1, 8, 8), Y[:64]), replace(LEARN, network="picture_pooled")
    with pytest.raises(NotApplicable, match=r"^private_training needs a network whose rows do not meet in a batch: "):
        PrivateTraining()(learner, rows, None, rng=np.random.default_rng(0))


def test_without_opacus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    said = r"^private_training needs opacus, which is not installed\. Install Portcullis with its extra 'private'"
    with pytest.raises(MissingExtra, match=said):
        PrivateTraining()(LEARNER, own(), None, rng=np.random.default_rng(0))


def test_wrong_settings_are_a_sentence() -> None:
    with pytest.raises(ParameterError, match=r"PrivateTraining\.epsilon must be a number above 0; got 0"):
        PrivateTraining(epsilon=0)
    with pytest.raises(ParameterError, match=r"PrivateTraining\.delta must be in \(0, 0\.1\); got 1"):
        PrivateTraining(delta=1)
    with pytest.raises(NotApplicable, match="private_training needs a learner that trains one of"):
        PrivateTraining()(SklearnLearner(), own(), None, rng=np.random.default_rng(0))
