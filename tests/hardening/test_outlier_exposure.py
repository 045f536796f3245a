"""Outlier exposure: sure of the victim's own rows, near to uniform on what is foreign."""

import numpy as np
import pytest
from scipy.special import logsumexp

from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.types import Array
from portcullis_ml.hardening.outlier_exposure import OutlierExposure
from portcullis_ml.models.constant import ConstantModel
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.models.torch import TorchLearner
from recipes.toys import LEARNER, foreign, own


class Keeps:
    """A learner that keeps what it is given."""

    def fit(self, x: Array, targets: Array, *, rng: np.random.Generator, start: object = None) -> ConstantModel:
        self.x, self.goals = x, targets
        return ConstantModel(x.shape[1:], np.full(targets.shape[1], 1 / targets.shape[1]))


def test_the_loss_is_that_of_the_paper():
    """Mean cross-entropy of all rows, times (1 + weight), is the loss on own rows plus weight times that to uniform."""
    learner, rows = Keeps(), own(120)
    OutlierExposure(weight=0.5)(learner, rows, foreign(100), rng=np.random.default_rng(0))
    assert len(learner.x) == 180
    logits = np.random.default_rng(1).normal(size=(180, 3))
    log_p = logits - logsumexp(logits, axis=1, keepdims=True)
    ours = 1.5 * -(learner.goals * log_p).sum(axis=1).mean()
    inside = -log_p[np.arange(120), rows.y].mean()
    outside = (logsumexp(logits[120:], axis=1) - logits[120:].mean(axis=1)).mean()
    assert ours == pytest.approx(inside + 0.5 * outside)


def test_few_outside_rows_are_repeated_and_many_are_not():
    learner = Keeps()
    for n, distinct in ((10, 10), (100, 60)):
        OutlierExposure()(learner, own(120), foreign(n), rng=np.random.default_rng(0))
        assert len(np.unique(learner.x[120:], axis=0)) == pytest.approx(distinct, abs=1)
        assert len(learner.x) == 180


@pytest.mark.parametrize("learner", [LEARNER, SklearnLearner(estimator="mlp")])
def test_it_is_unsure_about_what_is_foreign(learner):
    model = OutlierExposure()(learner, own(300), foreign(200), rng=np.random.default_rng(0))
    assert model.scores(foreign(200, 9)).max(axis=1).mean() < 0.5
    assert model.scores(own(200, 9).x).max(axis=1).mean() > 0.6


def test_wrong_input_is_a_sentence():
    with pytest.raises(ParameterError, match=r"OutlierExposure\.weight must be a number above 0"):
        OutlierExposure(weight=0)
    with pytest.raises(NotApplicable, match="needs a learner that takes soft targets"):
        OutlierExposure()(TorchLearner(targets="labels"), own(), foreign(), rng=np.random.default_rng(0))
