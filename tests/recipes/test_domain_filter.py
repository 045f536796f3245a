"""The domain filter tells two boxes apart, and counts on which side the rows fall that it has not seen."""

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Rows
from portcullis_ml.models.artifacts import unpack_arrays
from portcullis_ml.models.dense import DenseModel, dense_arrays
from portcullis_ml.models.torch import TorchLearner
from portcullis_ml.recipes.domain_filter import DomainFilter

from .toys import VICTIM, foreign, own


def test_it_tells_rows_of_the_domain_from_others():
    contents = DomainFilter()(VICTIM, own(300), foreign(60), rng=np.random.default_rng(0))
    model = DenseModel(unpack_arrays(contents.files["filter.safetensors"]))
    assert (model.scores(own(200, 9).x)[:, 1] < 0.5).mean() > 0.97
    assert (model.scores(foreign(200, 9))[:, 1] > 0.5).mean() > 0.97
    assert contents.about == {"set_aside": {"own rows": {"right": 30, "of": 30}, "outside rows": {"right": 6, "of": 6}}}


def test_numpy_scores_what_torch_has_trained():
    x = np.random.default_rng(0).normal(size=(50, 2, 3))
    learner = TorchLearner(network="table_mlp", epochs=3)
    model = learner.fit(x, np.eye(3)[np.arange(50) % 3], rng=np.random.default_rng(1))
    twin = DenseModel(dense_arrays(model))
    assert twin.input_shape == (2, 3)
    assert twin.n_classes == 3
    np.testing.assert_allclose(twin.scores(x), model.scores(x), atol=1e-6)


@pytest.mark.parametrize("arrays", [{}, {"mean": np.zeros(3), "deviation": np.ones(3), "w0": np.zeros((2, 4)),
                                         "b0": np.zeros(2)}])  # fmt: skip
def test_arrays_that_are_no_network_are_refused(arrays):
    with pytest.raises(InputError, match="arrays of a fully connected network were expected"):
        DenseModel(arrays)


def test_wrong_input_is_a_sentence():
    with pytest.raises(ParameterError, match=r"DomainFilter\.epochs must be an int of at least 1; got 0"):
        DomainFilter(epochs=0)
    with pytest.raises(InputError, match="2 rows of either side at least; got 1"):
        DomainFilter()(VICTIM, Rows(own(1).x), foreign(), rng=np.random.default_rng(0))
