"""Diverse ensemble: the loss, who answers, and that members agree on own rows and differ on foreign ones."""

from __future__ import annotations

from itertools import combinations
from math import exp, log
from typing import Any

import numpy as np
import pytest
import torch

from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.types import Array
from portcullis_ml.hardening.diverse_ensemble import DiverseEnsemble, diversity_loss
from portcullis_ml.measures.coherence import coherence
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.models.torch import TorchLearner
from recipes.toys import LEARNER, foreign, own


def trained(seed: int = 0, **settings: Any) -> Any:
    return DiverseEnsemble(**settings)(LEARNER, own(400), foreign(200), rng=np.random.default_rng(seed))


def members_of(model: Any, x: Array) -> Array:
    """(n, members, classes) probabilities of every member."""
    with torch.no_grad():
        rows = torch.tensor(x, dtype=torch.float32)
        return torch.stack([torch.softmax(m(rows), 1) for m in model.module], 1).double().numpy()


def chosen(model: Any, x: Array) -> Array:
    return model.module.chosen(torch.tensor(x, dtype=torch.float32)).numpy()


def cosine(a: Array, b: Array) -> float:
    return float(sum(a * b) / sum(a * a) ** 0.5 / sum(b * b) ** 0.5)


@pytest.fixture(scope="module")
def five() -> Any:
    return trained(members=5)


def test_the_loss_is_that_of_the_paper_and_stays_within_its_bounds() -> None:
    p = np.random.default_rng(0).dirichlet(np.full(4, 0.3), (30, 5))
    found = diversity_loss(torch.from_numpy(p)).numpy()
    by_hand = [log(sum(exp(cosine(a, b)) for a, b in combinations(row, 2))) for row in p]
    np.testing.assert_allclose(found, by_hand, atol=1e-9)
    assert (found >= log(10)).all()
    assert (found <= log(10) + 1).all()
    alike, apart = np.repeat(p[:, :1], 5, axis=1), np.eye(5)[None]
    np.testing.assert_allclose(diversity_loss(torch.from_numpy(alike)), log(10) + 1, atol=1e-9)
    np.testing.assert_allclose(diversity_loss(torch.from_numpy(apart)), log(10), atol=1e-9)
    np.testing.assert_allclose(coherence(p), [max(cosine(a, b) for a, b in combinations(row, 2)) for row in p])


def test_members_agree_on_own_rows_and_differ_on_foreign_ones(five: Any) -> None:
    fresh, strange = own(500, 9), foreign(500, 9)
    inside, outside = members_of(five, fresh.x), members_of(five, strange)
    assert np.median(coherence(inside)) > 0.95
    plain = members_of(trained(members=5, weight=0.0), strange)
    apart = [float(diversity_loss(torch.from_numpy(p)).mean()) for p in (outside, plain)]
    assert apart[0] < apart[1] - 0.2
    right = (inside.argmax(axis=2) == fresh.y[:, None]).mean(axis=0)
    assert right.min() > 0.9


def test_each_row_is_answered_by_one_member(five: Any) -> None:
    x = np.concatenate([own(100, 4).x, foreign(100, 4)])
    which = chosen(five, x)
    np.testing.assert_allclose(five.scores(x), members_of(five, x)[np.arange(200), which], atol=1e-6)
    np.testing.assert_array_equal(which, [chosen(five, row[None])[0] for row in x])


def test_members_get_equal_shares_of_own_and_of_foreign_rows(five: Any) -> None:
    for x in (own(4000, 6).x, foreign(4000, 6)):
        shares = np.bincount(chosen(five, x), minlength=5) / 4000
        assert shares.min() > 0.1
        assert shares.max() < 0.3


def test_small_noise_seldom_changes_the_member_or_an_honest_answer(five: Any) -> None:
    x = own(2000, 7).x
    moved = x + np.random.default_rng(0).uniform(-1, 1, x.shape) / 255
    assert (chosen(five, x) == chosen(five, moved)).mean() > 0.9
    assert (five.scores(x).argmax(axis=1) == five.scores(moved).argmax(axis=1)).mean() > 0.95


def test_the_hash_is_secret_to_who_does_not_have_the_weights(five: Any) -> None:
    x = own(1000, 8).x
    assert (chosen(five, x) == chosen(trained(1, members=5), x)).mean() < 0.4


def test_one_member_is_a_plain_training() -> None:
    model = trained(members=1)
    x = own(200, 9)
    assert (model.scores(x.x).argmax(axis=1) == x.y).mean() > 0.9
    assert len(model.module) == 1


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    for learner in (SklearnLearner(), TorchLearner(network="my_package.module:factory")):
        with pytest.raises(NotApplicable, match="needs a learner that trains one of `portcullis list networks`"):
            DiverseEnsemble()(learner, own(), foreign(), rng=np.random.default_rng(0))
    with pytest.raises(ParameterError, match=r"DiverseEnsemble\.members must be an int in \[1, 20\]; got 0"):
        DiverseEnsemble(members=0)
