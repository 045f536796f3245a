"""Training steps: one training cut into eleven, and a greatest distance that honest users stay within."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError
from portcullis_ml.models.artifacts import unpack_arrays
from portcullis_ml.models.hardness import STEPS, SubModels, distances, histogram
from portcullis_ml.recipes.training_steps import TrainingSteps

from .toys import VICTIM, own


def trained(**settings: int) -> tuple[dict[str, np.ndarray], dict]:
    contents = TrainingSteps(**settings)(VICTIM, own(500), None, rng=np.random.default_rng(0))
    return unpack_arrays(contents.files["steps.safetensors"]), dict(contents.about)


def test_the_models_get_better_from_step_to_step() -> None:
    arrays, _ = trained(epochs=50)
    fresh = own(400, 9)
    labels = SubModels(arrays)._scores(fresh.x).argmax(axis=2)
    right = (labels == fresh.y[:, None]).mean(axis=0)
    assert len(right) == STEPS
    assert right[-1] > 0.93
    assert right[-1] > right[0]


def test_honest_users_stay_within_the_greatest_distance_and_rows_at_the_border_do_not() -> None:
    arrays, about = trained(window=50, epochs=30)
    models, benign, greatest = SubModels(arrays), arrays["benign"], arrays["greatest"][0]
    assert about["greatest_distance"] == greatest
    assert about["window"] == arrays["window"][0] == 50
    assert benign.sum() == pytest.approx(1)
    far = distances(np.array([histogram(models.hardness(own(50, seed).x)) for seed in range(100, 200)]), benign)
    assert (far > greatest).mean() <= 0.05
    x = own(2000, 3).x
    border = x[VICTIM.scores(x).max(axis=1) < 0.5][:50]
    assert len(border) == 50
    assert distances(histogram(models.hardness(border))[None], benign)[0] > greatest


def test_what_it_cannot_train_on_is_said() -> None:
    with pytest.raises(InputError, match=r"250 rows at least, two fifths of which fill a window of 100; got 120"):
        TrainingSteps(epochs=20)(VICTIM, own(120), None, rng=np.random.default_rng(0))
    with pytest.raises(ParameterError, match=r"TrainingSteps\.epochs must be a multiple of 10, at least 20; got 25"):
        TrainingSteps(epochs=25)

    class Regression:
        input_shape, n_classes = (4,), 0

    with pytest.raises(NotApplicable, match="needs a victim that predicts classes"):
        TrainingSteps()(Regression(), own(), None, rng=np.random.default_rng(0))  # type: ignore[arg-type]
