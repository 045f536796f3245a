"""Shadow models: who is trained on what, together as one by one, kept and used again, refused where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Feature
from portcullis_ml.models.shadows import load_shadows, paired_halves, save_shadows, train_shadows
from portcullis_ml.models.sklearn import EstimatorLearner, SklearnLearner, SklearnModel
from portcullis_ml.models.table import TableModel

DIGITS = load_digits()
X, Y = DIGITS.data[:200] / 16, DIGITS.target[:200]


@pytest.mark.parametrize("n", [2, 7, 100])
def test_every_row_is_in_exactly_half_of_the_models(n):
    held = paired_halves(6, n, np.random.default_rng(0))
    assert (held.sum(axis=0) == 3).all()
    assert set(held.sum(axis=1)) <= {n // 2, n - n // 2}


def test_networks_trained_together_are_those_trained_one_by_one():
    """The same weights to start with, rows and orders, a step at a time with plain torch."""
    torch = pytest.importorskip("torch")
    from portcullis_ml.models.networks import build_network
    from portcullis_ml.models.together import fit_together
    from portcullis_ml.models.torch import TorchLearner
    from portcullis_ml.models.training import measure, seeded

    learner = TorchLearner(network="table_mlp", epochs=2, batch=16)
    held = paired_halves(4, 41, np.random.default_rng(1))
    x, y = X[:41], Y[:41]
    fast = fit_together(learner, x, y, 10, held, rng=np.random.default_rng(2))
    rng = np.random.default_rng(2)
    with seeded(rng, "cpu"):
        modules = [build_network("table_mlp", (64,), 10) for _ in held]
        rows, goals = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
        for module, mine in zip(modules, held, strict=True):
            measure(module, rows[torch.from_numpy(mine)])
        optimizers = [torch.optim.Adam(m.parameters(), learner.lr) for m in modules]
        for _ in range(learner.epochs):
            orders = [rng.permutation(np.flatnonzero(mine))[: held.sum(axis=1).min()] for mine in held]
            for module, optimizer, order in zip(modules, optimizers, orders, strict=True):
                for start in range(0, len(order), 16):
                    part = torch.from_numpy(order[start : start + 16])
                    optimizer.zero_grad()
                    torch.nn.functional.cross_entropy(module(rows[part]), goals[part]).backward()
                    optimizer.step()
    for model, module in zip(fast, modules, strict=True):
        with torch.no_grad():
            assert np.allclose(model.scores(x), torch.softmax(module(rows), 1).numpy(), atol=1e-4)


def test_what_cannot_be_stacked_is_trained_one_by_one():
    pytest.importorskip("torch")
    from portcullis_ml.models.together import stackable
    from portcullis_ml.models.torch import TorchLearner

    assert stackable(TorchLearner(network="mlp"), (64,), 10)
    assert not stackable(TorchLearner(network="mlp", patience=2), (64,), 10)
    assert not stackable(TorchLearner(network="one_of_3_mlp"), (64,), 10)
    assert stackable(TorchLearner(network="digits_cnn"), (8, 8), 10)
    assert not stackable(TorchLearner(network="prada_mnist"), (28, 28), 10)  # slower as a stack on a CPU
    learner = TorchLearner(network="mlp", epochs=1, patience=1)
    assert len(train_shadows(learner, X, Y, 10, models=2, rng=np.random.default_rng(0)).models) == 2


def test_a_model_knows_its_own_rows_better():
    shadows = train_shadows(SklearnLearner(estimator="tree"), X, Y, 10, models=4, rng=np.random.default_rng(0))
    for model, mine in zip(shadows.models, shadows.held, strict=True):
        right = model.scores(X).argmax(axis=1) == Y
        assert right[mine].mean() > right[~mine].mean() + 0.1


def test_the_victims_own_estimator_is_fitted_anew():
    fitted = RandomForestClassifier(5, max_depth=3, random_state=0).fit(X, Y)
    learner = EstimatorLearner(SklearnModel(fitted))
    one, two = (learner.fit(X[:99], np.eye(10)[Y[:99]], rng=np.random.default_rng(s)) for s in (0, 1))
    assert one.estimator.max_depth == 3
    assert one.estimator is not fitted
    assert not np.array_equal(one.scores(X), two.scores(X))  # the seed is drawn, not copied
    few = learner.fit(X[Y < 5], np.eye(10)[Y[Y < 5]], rng=np.random.default_rng(0))
    assert few.scores(X).shape == (200, 10)
    assert (few.scores(X)[:, 5:] == 0).all()


def test_a_pipeline_over_words_is_fitted_anew_on_words():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    codes = np.column_stack([rng.integers(0, 3, 90), rng.normal(size=90)]).astype(float)
    frame = pd.DataFrame({"colour": np.array(["blue", "green", "red"])[codes[:, 0].astype(int)], "size": codes[:, 1]})
    y = np.where(codes[:, 0] == 2, "yes", "no")
    encode = make_column_transformer((OneHotEncoder(), ["colour"]), remainder="passthrough")
    victim = TableModel(make_pipeline(encode, LogisticRegression()).fit(frame, y), [
        Feature("colour", values=("blue", "green", "red")), Feature("size", -4.0, 4.0),
    ])  # fmt: skip
    again = EstimatorLearner(victim).fit(codes, np.eye(2)[(codes[:, 0] == 2).astype(int)], rng=rng)
    assert again.estimator.classes_.tolist() == ["no", "yes"]
    assert again.estimator.predict(frame).tolist() == y.tolist()
    np.testing.assert_allclose(again.scores(codes), victim.scores(codes), atol=1e-6)


@pytest.mark.parametrize("kind", ["torch", "sklearn"])
def test_shadows_are_kept_and_refused_where_they_do_not_fit(kind, tmp_path):
    learner = SklearnLearner(estimator="tree")
    if kind == "torch":
        pytest.importorskip("torch")
        from portcullis_ml.models.torch import TorchLearner

        learner = TorchLearner(network="mlp", epochs=1)
    made = train_shadows(learner, X, Y, 10, models=2, rng=np.random.default_rng(0))
    kept = save_shadows(made, tmp_path / "shadows", learner, X, Y)
    again = load_shadows(kept, learner, X, Y)
    assert np.array_equal(again.held, made.held)
    for one, two in zip(made.models, again.models, strict=True):
        assert np.array_equal(one.scores(X), two.scores(X))
    with pytest.raises(InputError, match="other rows than are audited"):
        load_shadows(kept, learner, X[:-1], Y[:-1])
    with pytest.raises(InputError, match="another learner"):
        load_shadows(kept, SklearnLearner(estimator="forest"), X, Y)
