"""Misdirection: sensitivities worked out on paper, and victims that it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.types import Rows
from portcullis_ml.models.artifacts import read_about
from portcullis_ml.models.misdirection import chosen_layers
from portcullis_ml.models.networks import build_network
from portcullis_ml.models.torch import TorchModel
from portcullis_ml.recipes.misdirection import Misdirection

from .toys import VICTIM, deep, own


def test_the_sensitivities_of_a_network_that_hands_its_inputs_on() -> None:
    """z_c = W h2, h2 = h1 = x. By the last layer: the units' values and 1 for the bias, so sum(x) + 1. By one before:
    (sum(x) + 1) sum |w_c|, over the units that are not 0."""
    w, x = np.array([[1.0, -2.0], [3.0, 0.5]]), np.array([[1.0, 2.0], [3.0, 1.0]])
    made = Misdirection()(deep(w, np.zeros(2)), Rows(x, np.array([0, 1])), None, rng=np.random.default_rng(0))
    found = read_about(made.files["victim.safetensors"])["sensitivity"]
    before = np.mean([(1 + 2 + 1) * 3.0, (3 + 1 + 1) * 3.5])
    assert found == pytest.approx({"2": before, "5": before, "8": np.mean([4, 5])}, rel=1e-5)


def test_the_fewest_layers_that_have_so_much_are_chosen() -> None:
    shares = {"a": 5.0, "b": 60.0, "c": 30.0, "d": 5.0}
    assert [chosen_layers(shares, p) for p in (1, 60, 61, 90, 91)] == [
        ["b"], ["b"], ["b", "c"], ["b", "c"], ["b", "c", "a"],
    ]  # fmt: skip


def test_victims_without_gradients_or_depth_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(NotApplicable, match=r"needs a victim with gradients, a PyTorch network .* SoftmaxRegression"):
        Misdirection()(VICTIM, own(), None, rng=rng)
    with torch.random.fork_rng():
        linear = TorchModel(build_network("prada_1_layer", (4,), 3), (4,), 3, network="prada_1_layer")
    with pytest.raises(NotApplicable, match="needs a victim of two layers at least; this one has 1"):
        Misdirection()(linear, own(), None, rng=rng)
