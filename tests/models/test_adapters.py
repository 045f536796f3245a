"""scikit-learn, ONNX, functions and softmax regression behind one face: arrays in, probabilities out."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Differentiable, Feature, Model
from portcullis_ml.models.function import FunctionModel
from portcullis_ml.models.onnx import OnnxModel
from portcullis_ml.models.sklearn import SklearnLearner, SklearnModel, table_pipeline
from portcullis_ml.models.softmax import SoftmaxRegression

IRIS = load_iris()
X, Y = IRIS.data.astype(np.float32).astype(np.float64), IRIS.target


@pytest.fixture(scope="module")
def logistic():
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)


def exported(estimator, width=4, **options):
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    last = estimator[-1] if hasattr(estimator, "steps") else estimator
    return convert_sklearn(
        estimator, initial_types=[("x", FloatTensorType([None, width]))], options={id(last): options}
    ).SerializeToString()


# softmax regression


def test_softmax_regression_is_softmax_of_a_line():
    rng = np.random.default_rng(0)
    w, b, x = rng.normal(size=(3, 4)), rng.normal(size=3), rng.normal(size=(5, 4))
    model = SoftmaxRegression(w, b)
    for row, scores in zip(x, model.scores(x), strict=True):
        e = [np.exp(w[j] @ row + b[j]) for j in range(3)]
        np.testing.assert_allclose(scores, np.array(e) / sum(e))
    assert (model.input_shape, model.n_classes) == ((4,), 3)
    assert isinstance(model, Model)
    assert isinstance(model, Differentiable)


@pytest.mark.parametrize("of", ["logits", "log_probs"])
def test_softmax_gradient_agrees_with_finite_differences(of):
    rng = np.random.default_rng(0)
    model = SoftmaxRegression(rng.normal(size=(3, 6)), rng.normal(size=3), input_shape=(2, 3))
    x, weights = rng.normal(size=(4, 2, 3)), rng.normal(size=(4, 3))
    out = {"logits": model.logits, "log_probs": lambda a: np.log(model.scores(a))}[of]
    gradient = model.input_gradient(x, weights, of=of)
    for index in np.ndindex(2, 3):
        step = np.zeros((2, 3))
        step[index] = 1e-6
        slope = ((out(x + step) - out(x - step)) * weights).sum(axis=1) / 2e-6
        np.testing.assert_allclose(gradient[(slice(None), *index)], slope, atol=1e-6)


def test_softmax_refuses_what_does_not_fit():
    with pytest.raises(InputError, match=r"needs w \(c, d\) and b \(c,\) with c of at least 2; got \(1, 3\)"):
        SoftmaxRegression(np.ones((1, 3)), np.ones(1))
    with pytest.raises(InputError, match="must be finite"):
        SoftmaxRegression(np.full((2, 3), np.nan), np.ones(2))
    with pytest.raises(InputError, match="w takes 3 inputs"):
        SoftmaxRegression(np.ones((2, 3)), np.ones(2), input_shape=(2, 2))
    with pytest.raises(ParameterError, match="of must be"):
        SoftmaxRegression(np.ones((2, 3)), np.ones(2)).input_gradient(np.ones((1, 3)), np.ones((1, 2)), of="scores")


# functions


def test_a_function_is_a_model_and_its_shape_is_checked():
    model = FunctionModel(lambda x: np.full((len(x), 2), 0.5), (3,), 2)
    assert model.scores(np.zeros((4, 3))).tolist() == [[0.5, 0.5]] * 4
    regression = FunctionModel(lambda x: x.sum(axis=1), (3,), 0)
    assert regression.scores(np.ones((2, 3))).tolist() == [[3.0], [3.0]]
    with pytest.raises(InputError, match=r"expected to give scores of shape \(4, 5\); it gave \(4, 2\)"):
        FunctionModel(model.scores, (3,), 5).scores(np.zeros((4, 3)))


# scikit-learn


def test_a_pipeline_gives_its_probabilities(logistic):
    model = SklearnModel(logistic)
    assert (model.input_shape, model.n_classes) == ((4,), 3)
    np.testing.assert_array_equal(model.scores(X), logistic.predict_proba(X))
    assert model.scores(X[:0]).shape == (0, 3)


def test_images_are_flattened(logistic):
    model = SklearnModel(logistic, input_shape=(2, 2))
    np.testing.assert_array_equal(model.scores(X.reshape(-1, 2, 2)), logistic.predict_proba(X))


def test_a_regressor_gives_one_column():
    model = SklearnModel(Ridge().fit(X, X[:, 0] * 2))
    assert model.n_classes == 0
    assert model.scores(X).shape == (150, 1)


def test_a_classifier_without_probabilities_gives_labels():
    svm = LinearSVC().fit(X, np.array(["a", "b", "c"])[Y])
    scores = SklearnModel(svm).scores(X)
    assert set(scores.ravel()) == {0.0, 1.0}
    np.testing.assert_array_equal(np.array(["a", "b", "c"])[scores.argmax(axis=1)], svm.predict(X))


def test_classes_not_seen_score_zero():
    some = LogisticRegression().fit(X[Y != 1], Y[Y != 1])
    scores = SklearnModel(some, n_classes=4).scores(X)
    np.testing.assert_array_equal(scores[:, [0, 2]], some.predict_proba(X))
    assert not scores[:, [1, 3]].any()


def test_what_is_no_estimator_gets_a_sentence():
    with pytest.raises(InputError, match=r"needs predict\(\); int has none"):
        SklearnModel(3)
    with pytest.raises(InputError, match="does not say how many inputs it takes; give input_shape"):
        SklearnModel(LinearRegression())
    with pytest.raises(InputError, match=r"takes 4 inputs; an input_shape of \(5,\) does not fit"):
        SklearnModel(LinearRegression().fit(X, Y), input_shape=(5,))
    with pytest.raises(InputError, match="4 classes were expected; the estimator knows 2"):
        SklearnModel(LogisticRegression().fit(X[:100], np.array(["a", "b"])[Y[:100]]), n_classes=4)


@pytest.mark.parametrize("family", ["logistic", "mlp", "forest", "tree"])
def test_learners_copy_a_model_and_repeat_themselves(logistic, family):
    targets = logistic.predict_proba(X)
    learner = SklearnLearner(estimator=family)
    seen = []
    one = learner.fit(X, targets, rng=np.random.default_rng(0), progress=lambda *a: seen.append(a))
    two = learner.fit(X, targets, rng=np.random.default_rng(0))
    assert (one.scores(X).argmax(axis=1) == targets.argmax(axis=1)).mean() > 0.95
    np.testing.assert_array_equal(one.scores(X), two.scores(X))
    assert seen == [(1, 1)]


def test_soft_targets_teach_more_than_labels(logistic):
    targets = logistic.predict_proba(X)
    error = {
        kind: np.abs(
            SklearnLearner(targets=kind, c=1e6).fit(X, targets, rng=np.random.default_rng(0)).scores(X) - targets
        ).max()
        for kind in ("soft", "labels")
    }
    assert error["soft"] < 0.01 < error["labels"]


def test_a_learner_without_sample_weights_sees_ten_copies_shared_out():
    from portcullis_ml.models.sklearn import _copies

    rows, labels, weights = _copies(np.array([[0.75, 0.25, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (rows, labels), 1)
    assert counts.tolist() in ([[8, 2, 0], [0, 0, 10], [0, 0, 0]], [[7, 3, 0], [0, 0, 10], [0, 0, 0]])
    assert weights is None
    rows, labels, _ = _copies(np.eye(3))
    assert (rows.tolist(), labels.tolist()) == ([0, 1, 2], [0, 1, 2])


def test_a_learner_of_one_class_predicts_it():
    model = SklearnLearner().fit(X, np.eye(3)[np.ones(150, int)], rng=np.random.default_rng(0))
    assert model.scores(X[:2]).tolist() == [[0, 1, 0]] * 2


def test_learner_settings_and_targets_are_checked():
    with pytest.raises(ParameterError, match=r"SklearnLearner\.estimator must be one of logistic, mlp, forest, tree"):
        SklearnLearner(estimator="svm")
    with pytest.raises(InputError, match=r"expected to be \(150, n_classes\), at least one of them known"):
        SklearnLearner().fit(X, np.zeros((150, 3)), rng=np.random.default_rng(0))


def test_a_table_is_encoded_by_its_features():
    features = (Feature("colour", values=("blue", "green", "red")), Feature("weight", 0.0, 10.0))
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.integers(3, size=200), rng.uniform(0, 10, 200)]).astype(float)
    y = (x[:, 0] == 1).astype(int)  # no line through the codes 0, 1, 2 can say this
    assert table_pipeline(features, LogisticRegression()).fit(x, y).score(x, y) == 1.0
    assert LogisticRegression().fit(x, y).score(x, y) < 0.8


# ONNX


@pytest.mark.parametrize("zipmap", [True, False])
def test_onnx_exports_of_scikit_learn_agree_with_it(logistic, zipmap):
    model = OnnxModel(exported(logistic, zipmap=zipmap))
    assert (model.input_shape, model.n_classes) == ((4,), 3)
    np.testing.assert_allclose(model.scores(X), logistic.predict_proba(X), atol=1e-5)
    assert model.scores(X[:0]).shape == (0, 3)


def test_onnx_regression_has_one_column():
    linear = LinearRegression().fit(X, X[:, 0] * 2)
    model = OnnxModel(exported(linear))
    assert model.n_classes == 0
    np.testing.assert_allclose(model.scores(X)[:, 0], linear.predict(X), rtol=1e-4)


def test_onnx_logits_are_refused_unless_said(logistic):
    raw = exported(logistic, zipmap=False, raw_scores=True)
    with pytest.raises(
        InputError, match=r"probabilities that sum to 1; it gives other numbers\. If they are logits, say --softmax"
    ):
        OnnxModel(raw).scores(X)
    np.testing.assert_allclose(OnnxModel(raw, softmax=True).scores(X).sum(axis=1), 1.0)


def graph(shape_in, shape_out, nodes, initializers=()):
    from onnx import TensorProto, helper

    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape_out)],
        list(initializers),
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_onnx_of_a_fixed_batch_is_fed_by_that_batch():
    from onnx import helper

    model = OnnxModel(graph([4, 3], [4, 3], [helper.make_node("Softmax", ["x"], ["y"], axis=1)]))
    x = np.random.default_rng(0).normal(size=(10, 3))
    e = np.exp(x)
    np.testing.assert_allclose(model.scores(x), e / e.sum(axis=1, keepdims=True), atol=1e-6)


def test_onnx_one_column_of_two_classes_is_the_probability_of_the_second():
    from onnx import helper

    nodes = [helper.make_node("Sigmoid", ["x"], ["y"])]
    model = OnnxModel(graph(["n", 1], ["n", 1], nodes), n_classes=2)
    np.testing.assert_allclose(model.scores(np.zeros((2, 1))), [[0.5, 0.5]] * 2)


def test_onnx_that_hides_its_shape_must_be_told():
    from onnx import helper

    free = graph(["n", "d"], ["n", "d"], [helper.make_node("Softmax", ["x"], ["y"], axis=1)])
    with pytest.raises(InputError, match=r"does not say the shape of a row .* give input_shape"):
        OnnxModel(free)
    assert OnnxModel(free, input_shape=(3,)).n_classes == 3


def test_onnx_of_another_width_gets_a_sentence(logistic):
    with pytest.raises(InputError, match=r"was given rows of shape \(7,\) and refused them"):
        OnnxModel(exported(logistic, zipmap=False), input_shape=(7,))


def test_two_classes_of_breast_cancer():
    x, y = load_breast_cancer(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lbfgs says that it would like the columns scaled
        clf = LogisticRegression(max_iter=50).fit(x, y)
    model = OnnxModel(exported(clf, width=30, zipmap=False))
    np.testing.assert_allclose(model.scores(x), SklearnModel(clf).scores(x), atol=1e-3)
