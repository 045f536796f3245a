from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import AttackFailed, NotApplicable, ParameterError
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Feature, Interface, Reveals
from portcullis_ml.extraction.kernel import Kernel
from portcullis_ml.models.encoding import Encoded
from portcullis_ml.models.kernel import KernelRegression, fit_kernel, match_representers, rbf
from portcullis_ml.models.lbfgs import minimise


def victim_of(points: Array, labels: Array, gamma: float, steps: int = 500) -> KernelRegression:
    """Kernel regression with the given training points as representers, fitted to their labels."""
    kernel, targets = rbf(points, points, gamma), np.eye(labels.max() + 1)[labels]
    shape = (len(points), targets.shape[1])

    def objective(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(shape)
        p = softmax(kernel @ weights, axis=1)
        loss = -np.log(p[np.arange(len(p)), labels]).mean() + 1e-5 * (weights**2).sum()
        return float(loss), (kernel.T @ (p - targets) / len(p) + 2e-5 * weights).ravel()

    weights = minimise(objective, np.zeros(shape[0] * shape[1]), iterations=steps)[0].reshape(shape)
    return KernelRegression(points, weights, np.zeros(shape[1]), gamma)


def thieve(victim: Any, interface: Interface, budget: int, seed: int = 0, **settings: Any) -> Extraction:
    oracle = LocalOracle(victim, interface, budget=budget)
    result = Kernel(**settings)(oracle, Knowledge(), rng=np.random.default_rng(seed))
    assert result.queries == oracle.queries == budget
    return result


def small_victim(seed: int = 0) -> KernelRegression:
    rng = np.random.default_rng(seed)
    return victim_of(rng.uniform(-1, 1, (4, 4)), np.arange(4) % 2, gamma=0.5)


DOOR = Interface(input_shape=(4,), n_classes=2, bounds=(-1, 1))


def leak(result: Extraction, victim: KernelRegression) -> tuple[float, float]:
    """Median matched distance per coordinate: of what was found, and of random points."""
    assert isinstance(result.model, KernelRegression)
    true = victim.representers
    random = np.random.default_rng(7).uniform(-1, 1, (50, *true.shape))
    baseline = np.median([match_representers(r, true)[1] for r in random])
    return float(np.median(match_representers(result.model.representers, true)[1])), float(baseline)


def test_the_representers_are_the_training_points() -> None:
    victim = small_victim()
    found, random = leak(thieve(victim, DOOR, 300, representers=4, gamma=0.5), victim)
    assert found < 1e-6
    assert random > 0.2


def test_gamma_is_found_too() -> None:
    victim = small_victim(2)
    result = thieve(victim, DOOR, 300, representers=4, iterations=2000, restarts=10)
    assert result.notes["gamma"] == pytest.approx(0.5, rel=1e-3)
    x = DOOR.uniform(1000, np.random.default_rng(1))
    assert np.abs(result.model.scores(x) - victim.scores(x)).sum(axis=1).mean() / 2 < 1e-2


def test_too_many_representers_do_no_harm() -> None:
    victim = small_victim()
    result = thieve(victim, DOOR, 400, representers=6, gamma=0.5, iterations=1000)
    x = DOOR.uniform(1000, np.random.default_rng(1))
    assert np.abs(result.model.scores(x) - victim.scores(x)).sum(axis=1).mean() / 2 < 1e-2


@pytest.mark.slow
def test_digits_leak_at_5000_queries() -> None:
    data = load_digits()
    x, rng = data.data / 8 - 1, np.random.default_rng(0)
    rows = np.concatenate([rng.choice(np.flatnonzero(data.target == c), 2, replace=False) for c in range(10)])
    victim = victim_of(x[rows], data.target[rows], gamma=0.03)
    door = Interface(input_shape=(64,), n_classes=10, bounds=(-1, 1))
    found, random = leak(thieve(victim, door, 5000, representers=20, gamma=0.03, iterations=2000), victim)
    assert found < random / 2


def test_images_give_a_model_of_images() -> None:
    flat = small_victim()

    class Images:
        input_shape, n_classes = (2, 2), 2

        def scores(self, x: Array) -> Array:
            return flat.scores(x.reshape(len(x), -1))

    door = Interface(input_shape=(2, 2), n_classes=2, bounds=(-1, 1))
    result = thieve(Images(), door, 200, representers=4, gamma=0.5)
    assert isinstance(result.model, Encoded)
    x = door.uniform(500, np.random.default_rng(1))
    assert np.abs(result.model.scores(x) - Images().scores(x)).max() < 1e-3


def test_notes_count_unknowns_equations_and_classes() -> None:
    notes = thieve(small_victim(), DOOR, 100, representers=6, gamma=0.5, iterations=5).notes
    assert notes["unknowns"] == 6 * 4 + 6 * 2 + 2
    assert notes["equations"] == (100 - 20) * 2  # 20 rows are set aside
    assert notes["classes_seen"] == 1.0


def test_rbf_against_loops() -> None:
    rng = np.random.default_rng(0)
    x, centres = rng.normal(size=(5, 4)), rng.normal(size=(3, 4))
    slow = [[np.exp(-0.7 * sum((a - b) ** 2)) for b in centres] for a in x]
    np.testing.assert_allclose(rbf(x, centres, 0.7), slow)


@pytest.mark.parametrize("learn_gamma", [False, True])
def test_the_gradient_by_hand(learn_gamma: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import portcullis_ml.models.kernel as module

    rng = np.random.default_rng(0)
    x, targets = rng.normal(size=(7, 2)), rng.dirichlet(np.ones(3), size=7)
    start = KernelRegression(rng.normal(size=(4, 2)), rng.normal(size=(4, 3)), rng.normal(size=3), 0.5)
    seen: dict[str, Any] = {}

    def look(objective: Any, flat: Array, *, iterations: int) -> tuple[Array, float]:
        seen.update(objective=objective, flat=flat)
        return flat, 0.0

    monkeypatch.setattr(module, "minimise", look)
    fit_kernel(x, targets, start, learn_gamma=learn_gamma)
    objective, flat = seen["objective"], seen["flat"]
    numeric = [(objective(flat + e)[0] - objective(flat - e)[0]) / 2e-6 for e in 1e-6 * np.eye(len(flat))]
    np.testing.assert_allclose(objective(flat)[1], numeric, atol=1e-7)
    assert (objective(flat)[1][-1] != 0) == learn_gamma


def test_matching_is_one_to_one_at_the_least_total() -> None:
    rng = np.random.default_rng(0)
    found, true = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    cost = np.abs(found[:, None] - true).mean(axis=2)
    best = min(permutations(range(4)), key=lambda p: sum(cost[i, j] for i, j in enumerate(p)))
    matched, difference = match_representers(found, true)
    assert matched.tolist() == list(best)
    np.testing.assert_allclose(difference, [cost[i, j] for i, j in enumerate(best)])
    assert len(match_representers(found, true[:2])[1]) == 2


class TestSentences:
    def test_labels_are_not_enough(self) -> None:
        with pytest.raises(NotApplicable, match="kernel needs probs; this API gives labels"):
            thieve(small_victim(), DOOR.revealing(reveals=Reveals.LABELS), 10)

    def test_a_category(self) -> None:
        features = (Feature("a"), Feature("b"), Feature("colour", values=("red", "green")))
        with pytest.raises(AttackFailed, match="column 'colour' is a category"):
            thieve(small_victim(), Interface(input_shape=(3,), n_classes=3, features=features), 10)

    @pytest.mark.parametrize("settings", [{"representers": 0}, {"gamma": 0.0}, {"iterations": 0}, {"restarts": 0}])
    def test_settings(self, settings: dict[str, Any]) -> None:
        with pytest.raises(ParameterError, match=rf"Kernel\.{next(iter(settings))} must be"):
            Kernel(**settings)
