"""Each way of choosing rows beside its plain twin, and what it must do on a plane that can be looked at."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from portcullis_ml.core.types import Array
from portcullis_ml.extraction._selection import deepfool_distance, entropy, k_centre, margin

from .toys import ToySoftmax

PLANE = ToySoftmax(np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 2.0]]), np.array([0.0, 0.0, -1.0]), (2,))
LOW, HIGH = np.zeros(2), np.ones(2)


def plane(n: int = 300, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((n, 2))


def k_centre_slowly(points: Array, centres: Array, k: int) -> list[int]:
    picked: list[int] = []
    for _ in range(k):
        far = [
            -1.0 if i in picked else min(np.linalg.norm(p - c) for c in [*centres, *points[picked]])
            for i, p in enumerate(points)
        ]
        picked.append(int(np.argmax(far)))
    return picked


def test_k_centre_is_its_plain_twin_and_never_picks_twice() -> None:
    points, centres = plane(60), plane(5, seed=1)
    picked = k_centre(points, centres, 20)
    assert picked.tolist() == k_centre_slowly(points, centres, 20)
    assert len(set(k_centre(np.zeros((7, 2)), np.zeros((1, 2)), 7).tolist())) == 7  # all tie


def test_the_covering_radius_never_grows() -> None:
    points, centres = plane(), plane(3, seed=1)
    picked = k_centre(points, centres, 40)
    radii = []
    for n in range(len(picked) + 1):
        all_centres = np.concatenate([centres, points[picked[:n]]])
        radii.append(np.linalg.norm(points[:, None] - all_centres, axis=2).min(axis=1).max())
    assert np.all(np.diff(radii) <= 1e-12)


def test_entropy_knows_certain_rows() -> None:
    np.testing.assert_allclose(entropy(np.array([[1.0, 0.0], [0.5, 0.5]])), [0, np.log(2)])


def test_margin_is_the_lead_of_the_first_class() -> None:
    np.testing.assert_allclose(margin(np.array([[0.2, 0.7, 0.1], [0.4, 0.3, 0.3]])), [0.5, 0.1])


def deepfool_slowly(model: ToySoftmax, x: Array, steps: int, overshoot: float) -> float:
    """One row by the published loop, on logits."""
    own, moved = int(model.scores(x[None]).argmax()), x.copy()
    for _ in range(steps):
        logits = model.w @ moved + model.b
        if int(logits.argmax()) != own:
            break
        others = [j for j in range(model.n_classes) if j != own]
        away = {j: abs(logits[j] - logits[own]) / np.linalg.norm(model.w[j] - model.w[own]) for j in others}
        rival = min(away, key=lambda j: away[j])
        w = model.w[rival] - model.w[own]
        moved = np.clip(moved + (1 + overshoot) * abs(logits[rival] - logits[own]) / (w @ w) * w, 0, 1)
    return float(((moved - x) ** 2).sum())


def test_deepfool_is_its_plain_twin() -> None:
    x = plane(40)
    expected = [deepfool_slowly(PLANE, row, 20, 0.01) for row in x]
    np.testing.assert_allclose(deepfool_distance(PLANE, x, LOW, HIGH), expected, rtol=1e-6, atol=1e-9)


class Together(ToySoftmax):
    """The same model where it also gives several gradients of a row at once."""

    def input_gradients(self, x: Array, weights: Array, *, of: Literal["log_probs"]) -> Array:
        return np.stack([self.input_gradient(x, each, of=of) for each in weights.swapaxes(0, 1)], axis=1)


def test_deepfool_asks_for_the_gradients_of_a_row_together_where_the_model_can(monkeypatch: pytest.MonkeyPatch) -> None:
    x = plane(300)  # in several parts
    apart = deepfool_distance(PLANE, x, LOW, HIGH)
    asked = []
    real = Together.input_gradients
    monkeypatch.setattr(Together, "input_gradients", lambda *a, **k: (asked.append(len(a[1])), real(*a, **k))[1])
    np.testing.assert_array_equal(deepfool_distance(Together(PLANE.w, PLANE.b, (2,)), x, LOW, HIGH), apart)
    assert asked[0] == 128
    assert deepfool_distance(PLANE, x[:0], LOW, HIGH).shape == (0,)


def test_deepfool_distances_are_the_same_in_any_units() -> None:
    x = plane(40)
    wide = ToySoftmax(PLANE.w / 10, PLANE.b - PLANE.w.sum(axis=1) / 10 * 5, (2,))  # of 5 + 10 x
    found = deepfool_distance(wide, 5 + 10 * x, LOW + 5, HIGH + 14)
    np.testing.assert_allclose(found, deepfool_distance(PLANE, x, LOW, HIGH), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("judge", ["uncertainty", "dfal"])
def test_the_nearest_to_the_boundary_come_first(judge: str) -> None:
    x = plane()
    score = -entropy(PLANE.scores(x)) if judge == "uncertainty" else deepfool_distance(PLANE, x, LOW, HIGH)
    lead = margin(PLANE.scores(x))
    assert lead[np.argsort(score)[:20]].mean() < 0.5 * lead.mean()
