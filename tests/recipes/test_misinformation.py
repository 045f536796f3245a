"""The misinformation network avoids the right class, and its notes say what a tau costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.types import Rows
from portcullis_ml.models.artifacts import unpack_arrays
from portcullis_ml.models.dense import DenseModel
from portcullis_ml.recipes.misinformation import Misinformation, avoidance

from .toys import VICTIM, own


def trained(rows: Rows, **settings: int) -> tuple[DenseModel, dict]:
    contents = Misinformation(**settings)(VICTIM, rows, None, rng=np.random.default_rng(0))
    return DenseModel(unpack_arrays(contents.files["misinformation.safetensors"])), dict(contents.about)


def test_the_loss_is_that_of_the_paper() -> None:
    logits, right = torch.tensor([[1.0, 2.0, -1.0], [0.0, 50.0, 0.0]], dtype=torch.float64), torch.tensor([0, 1])
    by_hand = -torch.log(1 - torch.softmax(logits, 1)[0, 0])
    far = 50 - np.log(2)  # -log of 2 exp(-50), which 1 - p would round to nothing
    assert avoidance(logits, right).item() == pytest.approx((by_hand.item() + far) / 2, abs=1e-9)


def test_it_names_the_right_class_less_often_than_chance_would() -> None:
    model, about = trained(own(400), epochs=20)
    fresh = own(500, 9)
    right = (model.scores(fresh.x).argmax(axis=1) == fresh.y).mean()
    assert right < 0.1 < 1 / 3
    noted = about["right_class_named"]
    assert noted["of"] == 40
    assert noted["times"] <= 8


def test_without_true_classes_it_avoids_the_victims_own_answers() -> None:
    first, _ = trained(own(200), epochs=3)
    same, _ = trained(replace(own(200), y=None), epochs=3)  # the toy's true classes are the victim's answers
    np.testing.assert_array_equal(first.scores(own().x), same.scores(own().x))


def test_the_notes_say_which_tau_reaches_which_share_of_rows() -> None:
    _, about = trained(own(2000), epochs=1)
    tau = about["tau_by_share_of_rows_below"]
    assert list(tau) == ["0.5%", "1.0%", "5.0%"]
    sure = VICTIM.scores(own(5000, 9).x).max(axis=1)
    assert 0.01 < (sure < tau["5.0%"]).mean() < 0.12


def test_what_it_cannot_train_on_is_said() -> None:
    with pytest.raises(InputError, match=r"2 rows at least; got 1\. Give more"):
        trained(own(1))

    class Regression:
        input_shape, n_classes = (4,), 0

    with pytest.raises(NotApplicable, match="needs a victim that predicts classes"):
        Misinformation()(Regression(), own(), None, rng=np.random.default_rng(0))  # type: ignore[arg-type]
