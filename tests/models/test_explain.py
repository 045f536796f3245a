"""Explanations: golden values on paper, slow plain twins, and the same bits for a row in whatever request it comes."""

from __future__ import annotations

import copy
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import nn

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Explaining
from portcullis_ml.models.explain import EXPLAINERS, ExplainedModel, Explainer, explainer_named
from portcullis_ml.models.layers import Channels
from portcullis_ml.models.networks import build_network
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.models.torch import TorchModel

RNG = np.random.default_rng(0)
LINEAR = SoftmaxRegression(RNG.normal(size=(3, 6)), RNG.normal(size=3), input_shape=(2, 3))


def seeded(make):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return make()


def network(name="digits_cnn", shape=(8, 8), classes=4):
    return seeded(lambda: TorchModel(build_network(name, shape, classes), shape, classes))


def asked(model, n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *model.input_shape)), rng.integers(model.n_classes, size=n)


def in_pieces(explain, x, classes, cuts):
    cuts = sorted(cuts)
    return np.concatenate([explain(*part) for part in zip(np.split(x, cuts), np.split(classes, cuts), strict=True)])


@dataclass(frozen=True, kw_only=True)
class MeanRow(Explainer):
    """The mean row of whatever is explained together, on which an explanation must not depend."""

    def prepare(self, model):
        return lambda x, classes: x.mean(axis=0, keepdims=True) + np.zeros_like(x)


# golden values


def one_convolution():
    """(2, 2) -> maps A1 = x and A2 = -2 x -> two logits, each a weighted sum of the maps."""
    module = nn.Sequential(Channels(), nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(8, 2, bias=False))
    module[1].weight.data = torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1)
    module[3].weight.data = torch.tensor([[1.0, 2, 3, 2, 0, 1, 0, 1], [-1, -1, -2, 0, 1, 1, 1, 1]])
    return TorchModel(module, (2, 2), 2)


def test_grad_cam_of_one_convolution():
    """Class 0: weights 2 and 1/2, so ReLU(2 x - x) = ReLU(x). Class 1: weights -1 and 1, so ReLU(-x - 2 x)."""
    image = np.array([[1.0, 2.0], [3.0, -1.0]])
    found = explainer_named("grad_cam")(one_convolution()).explain(np.stack([image, image]), np.array([0, 1]))
    np.testing.assert_array_equal(found, [[[1, 2], [3, 0]], [[0, 0], [0, 3]]])


def test_relevance_cam_of_one_convolution():
    """Class 0 of two: relevance 1 at it, -1/2 at the other, handed down by the positive weights w+ as A w+ / (A . w+).

    A = (1, 2, 3, 0 | -2, -4, -6, 0), whose scores are 10 and -21. A . w+ is 14 - 4 = 10 for class 0, so that the R of
    map 1 sums to 14/10 and that of map 2 to -4/10; for class 1 it is -12, and they sum to 0 and 12/12, times -1/2.
    The map is ReLU(1.4/4 A1 - 0.9/4 A2), A2 being -2 A1.
    """
    image = np.array([[[1.0, 2.0], [3.0, 0.0]]])
    found = explainer_named("relevance_cam(layer='1')").prepare(one_convolution())(image, np.array([0]))
    np.testing.assert_allclose(found, (1.4 / 4 + 2 * 0.9 / 4) * image, rtol=1e-5)


def relevance_down(module, x, relevance):
    """The z+ rule through a linear layer, an input and an output at a time."""
    weight, handed = module.weight.detach().clamp(min=0), torch.zeros_like(x)
    for j in range(len(weight)):
        total = sum(float(x[i] * weight[j, i]) for i in range(len(x)))
        for i in range(len(x)):
            handed[i] += relevance[j] * x[i] * weight[j, i] / total
    return handed


def test_relevance_goes_down_layer_by_layer_by_the_plain_rule():
    model, x = network(), np.random.default_rng(3).random((2, 8, 8))
    found = explainer_named("relevance_cam").prepare(model)(x, np.array([1, 2]))
    for row, c, shown in zip(torch.tensor(x, dtype=torch.float32), (1, 2), found, strict=True):
        maps = model.module[1](model.module[0](row[None]))
        hidden = torch.relu(model.module[4](model.module[2](maps)))[0].detach()
        start = torch.full((4,), -1 / 4)
        start[c] = 1.0
        below = relevance_down(model.module[4], maps.flatten(), relevance_down(model.module[7], hidden, start))
        weights = below.reshape(maps.shape[1:]).mean((1, 2))
        plain = torch.relu(sum(w * m for w, m in zip(weights, maps[0], strict=True)))
        np.testing.assert_allclose(shown, plain.detach().numpy(), rtol=1e-3, atol=1e-5)


def test_relevance_cam_says_what_it_cannot_explain():
    with pytest.raises(InputError, match="relevance_cam explains a convolutional network in PyTorch"):
        explainer_named("relevance_cam").prepare(LINEAR)
    with pytest.raises(InputError, match="relevance_cam explains a network with convolutions; this one runs none"):
        explainer_named("relevance_cam").prepare(network("table_mlp", (4,)))


def test_upsampling_is_bilinear_to_the_size_of_the_image():
    """A pair (a, b) becomes a, 3/4 a + 1/4 b, 1/4 a + 3/4 b, b, along either axis."""
    module = nn.Sequential(Channels(), nn.Conv2d(1, 1, 2, stride=2, bias=False), nn.Flatten(), nn.Linear(4, 2))
    module[1].weight.data.fill_(0.25)  # the mean of each quarter
    module[3].weight.data = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0]])
    model = TorchModel(module, (4, 4), 2)
    image = np.kron([[0.0, 4.0], [8.0, 4.0]], np.ones((2, 2)))[None]
    small = explainer_named("grad_cam")(model).explain(image, np.array([0]))
    np.testing.assert_array_equal(small, [[[0, 4], [8, 4]]])
    large = explainer_named("grad_cam(upsample=True)")(model).explain(image, np.array([0]))
    np.testing.assert_allclose(large, [[[0, 1, 3, 4], [2, 2.5, 3.5, 4], [6, 5.5, 4.5, 4], [8, 7, 5, 4]]], atol=1e-12)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_gradient_x_input_of_a_linear_model_is_weight_times_input(kind):
    model = LINEAR
    if kind == "torch":
        module = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
        module[1].weight.data = torch.tensor(LINEAR.w, dtype=torch.float32)
        model = TorchModel(module, (2, 3), 3)
    x, classes = asked(LINEAR, 20)
    found = explainer_named("gradient_x_input")(model).explain(x, classes)
    np.testing.assert_allclose(found, LINEAR.w[classes].reshape(20, 2, 3) * x, rtol=1e-6)


# slow plain twins: finite differences in float64

STEP = 1e-6


def differences(logit, at):
    """The gradient of a function of one array, one number at a time."""
    slope = np.empty(at.shape)
    for i in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[i] += STEP
        down[i] -= STEP
        slope[i] = (logit(up) - logit(down)) / (2 * STEP)
    return slope


def in_double(layers):
    layers = copy.deepcopy(layers).double()

    def run(rows):
        with torch.inference_mode():
            return layers(torch.tensor(rows[None])).numpy()[0]

    return run


def test_grad_cam_equals_finite_differences():
    model = network()
    x, classes = asked(model, 3)
    below, above = in_double(model.module[:2]), in_double(model.module[2:])
    for row, c, found in zip(x, classes, explainer_named("grad_cam")(model).explain(x, classes), strict=True):
        maps = below(row)
        weights = differences(lambda a, c=c: above(a)[c], maps).mean(axis=(1, 2))
        np.testing.assert_allclose(found, np.maximum(np.tensordot(weights, maps, 1), 0), rtol=1e-4, atol=1e-6)
        assert found.shape == (3, 3)


def test_gradient_x_input_equals_finite_differences():
    model = network("mlp", (5,), 3)
    x, classes = asked(model, 5)
    whole = in_double(model.module)
    for row, c, found in zip(x, classes, explainer_named("gradient_x_input")(model).explain(x, classes), strict=True):
        np.testing.assert_allclose(found, row * differences(lambda a, c=c: whole(a)[c], row), rtol=1e-3, atol=1e-6)


# which layer


class OutOfOrder(nn.Module):
    """The convolution that is registered first runs last, into an activation that writes into what it is given."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(2, 2, 2)
        self.first = nn.Conv2d(1, 2, 3)
        self.active = nn.ReLU(inplace=True)
        self.head = nn.Linear(18, 2)

    def forward(self, x):
        return self.head(self.active(self.last(self.first(x.unsqueeze(1)))).flatten(1))


def test_the_convolution_that_runs_last_is_taken_and_any_layer_with_maps_by_its_name():
    model = seeded(lambda: TorchModel(OutOfOrder(), (6, 6), 2))
    x, classes = asked(model, 30)
    explained = {word: explainer_named(word)(model) for word in ("grad_cam", "grad_cam(layer=first)")}
    last, named = (e.explain(x, classes) for e in explained.values())
    assert (last.shape, named.shape) == ((30, 3, 3), (30, 4, 4))
    np.testing.assert_array_equal(last, explainer_named("grad_cam(layer=last)")(model).explain(x, classes))
    model.module.active = nn.ReLU()
    np.testing.assert_array_equal(last, explained["grad_cam"].explain(x, classes))
    assert not any(layer._forward_hooks for layer in model.module.modules())


@pytest.mark.parametrize(
    ("word", "model", "sentence"),
    [
        ("grad_cam", LINEAR, "explains a convolutional network in PyTorch; this victim is a SoftmaxRegression"),
        ("grad_cam", network("mlp", (8, 8)), "explains a network with convolutions; this one runs none"),
        ("grad_cam(layer=head)", network(), "GradCam.layer must be one of 0, 1, 2, 3"),
        ("grad_cam(layer='4')", network(), r"takes a layer that gives maps \(n, k, h, w\); name another"),
        ("gradient_x_input", SklearnModel(LogisticRegression().fit([[0.0], [1]], [0, 1])), "is a SklearnModel"),
        ("tree_contributions", LINEAR, "explains trees of XGBoost, LightGBM or scikit-learn; this victim is a Soft"),
        (
            "tree_contributions",
            SklearnModel(LogisticRegression().fit([[0.0], [1]], [0, 1])),
            "explains trees .*; this victim is a LogisticRegression. Choose another: portcullis list explainers",
        ),
        ("gradient_x_input", SimpleNamespace(input_shape=(2,), n_classes=0), "this victim does regression"),
    ],
)
def test_what_cannot_be_explained_gets_a_sentence(word, model, sentence):
    with pytest.raises((InputError, ParameterError), match=sentence) as error:
        explainer_named(word)(model)
    assert "\n" not in str(error.value)


def test_words_are_explainers():
    assert describe(explainer_named("grad_cam(upsample=True)")) == {"unit": "grad_cam", "layer": None, "upsample": True}
    for name in EXPLAINERS:
        assert EXPLAINERS.build(describe(explainer_named(name))) == explainer_named(name)
        assert EXPLAINERS.load(name).name == name
    with pytest.raises(ParameterError, match="Did you mean grad_cam"):
        explainer_named("gradcam")
    with pytest.raises(ParameterError, match="an explainer must be an Explainer; got 'Rounding'"):
        explainer_named("portcullis_ml.defenses.rounding:Rounding")
    with pytest.raises(ParameterError, match=r"GradCam.upsample must be True or False; got 3"):
        explainer_named("grad_cam(upsample=3)")


# whoever explains, one by one or all at once


class Booster:
    """Sums of steps, one in each column, as xgboost.Booster: what they contribute is known exactly.

    A step of height h over a share s of the training rows contributes h (above - s), and h s belongs to the bias.
    """

    feature_names = None

    def __init__(self, margins):
        rng = np.random.default_rng(1)
        self.heights = rng.normal(size=(margins, 4))
        self.share = rng.uniform(size=4)

    def attr(self, name):
        return None

    def margins(self, rows):
        return (rows > 0) @ self.heights.T

    def predict(self, matrix, *, pred_contribs, strict_shape, iteration_range):
        assert pred_contribs
        assert strict_shape
        assert iteration_range == (0, 0)
        columns = self.heights * ((matrix.rows > 0) - self.share)[:, None]
        bias = np.broadcast_to(self.heights @ self.share, columns.shape[:2])
        return np.concatenate([columns, bias[:, :, None]], axis=2)


class Boosted:
    """An estimator of scikit-learn's kind around a `Booster`."""

    n_features_in_, missing = 4, np.nan

    def __init__(self, classes):
        self.classes_ = np.arange(classes)
        self.booster = Booster(1 if classes == 2 else classes)

    def predict_proba(self, rows, pred_contrib=False):
        if pred_contrib:
            matrix = SimpleNamespace(rows=rows)
            found = self.booster.predict(matrix, pred_contribs=True, strict_shape=True, iteration_range=(0, 0))
            return found.reshape(len(rows), -1)
        margins = self.booster.margins(rows)
        margins = np.hstack([np.zeros((len(rows), 1)), margins]) if margins.shape[1] == 1 else margins
        odds = np.exp(margins)
        return odds / odds.sum(axis=1, keepdims=True)

    def predict(self, rows):
        return self.classes_[self.predict_proba(rows).argmax(axis=1)]


class LikeXgboost(Boosted):
    def get_booster(self):
        return self.booster


class LikeLightgbm(Boosted):
    booster_ = None


class TreeExplainer:
    """As shap's, for a tree with a single split: the column of the split contributes all."""

    def __init__(self, tree):
        self.tree = tree
        self.expected_value = tree.tree_.value[0, 0]

    def shap_values(self, rows, check_additivity):
        found = np.zeros((*rows.shape, len(self.expected_value)))
        found[:, self.tree.tree_.feature[0]] = self.tree.predict_proba(rows) - self.expected_value
        return found


def grown(library, classes, monkeypatch):
    """A fitted estimator of that library, or of a stand-in where it is not installed."""
    x = np.random.default_rng(2).normal(size=(300, 4))
    y = np.clip(1.5 * (x[:, 0] + (x[:, 1] > 0)) + 0.5, 0, classes - 1).astype(int)
    if library == "shap":
        from sklearn.tree import DecisionTreeClassifier

        if not installed(library):
            monkeypatch.setitem(sys.modules, library, SimpleNamespace(TreeExplainer=TreeExplainer))
        return DecisionTreeClassifier(max_depth=3 if installed(library) else 1, min_samples_leaf=20).fit(x, y)
    if not installed(library) and library == "xgboost":
        matrix = lambda rows, missing, feature_names: SimpleNamespace(rows=rows)  # noqa: E731
        monkeypatch.setitem(sys.modules, library, SimpleNamespace(DMatrix=matrix))
    if not installed(library):
        return {"xgboost": LikeXgboost, "lightgbm": LikeLightgbm}[library](classes)
    if library == "xgboost":
        import xgboost

        return xgboost.XGBClassifier(n_estimators=10, max_depth=3).fit(x, y)
    import lightgbm

    return lightgbm.LGBMClassifier(n_estimators=10, verbose=-1).fit(x, y)


def installed(library):
    try:
        __import__(library)
    except ModuleNotFoundError:
        return False
    return hasattr(sys.modules[library], "__version__")  # the stand-ins have none


@pytest.mark.filterwarnings("ignore")  # of the libraries themselves, where they are installed
@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "shap"])
@pytest.mark.parametrize("classes", [2, 3])
class TestTrees:
    def test_contributions_and_bias_add_up_to_the_margin(self, library, classes, monkeypatch):
        model = SklearnModel(grown(library, classes, monkeypatch))
        explained = explainer_named("tree_contributions(bias=True)")(model)
        x, _ = asked(model, 50)
        of = [explained.explain(x, np.full(50, c)) for c in range(classes)]
        assert of[0].shape == (50, 5)
        sums = np.stack(of).sum(axis=2).T
        scores = model.scores(x)
        if library == "shap":
            np.testing.assert_allclose(sums, scores, atol=1e-9)
        else:
            margins = sums / (2 if classes == 2 else 1)  # of class 1 the margin, of class 0 its opposite
            odds = np.exp(margins)
            np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), scores, atol=1e-5)

    def test_without_the_bias_a_row_has_one_number_for_each_column(self, library, classes, monkeypatch):
        model = SklearnModel(grown(library, classes, monkeypatch))
        x, which = asked(model, 50)
        shown = explainer_named("tree_contributions")(model).explain(x, which)
        whole = explainer_named("tree_contributions(bias=True)")(model).explain(x, which)
        np.testing.assert_array_equal(shown, whole[:, :-1])

    def test_a_pipeline_explains_the_columns_of_its_last_step(self, library, classes, monkeypatch):
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import FunctionTransformer

        estimator = grown(library, classes, monkeypatch)
        turned = Pipeline([("turn", FunctionTransformer(lambda rows: rows[:, ::-1])), ("predict", estimator)])
        plain, piped = SklearnModel(estimator), SklearnModel(turned, input_shape=(4,))
        x, which = asked(plain, 20)
        words = explainer_named("tree_contributions")
        np.testing.assert_array_equal(
            words(piped).explain(x, which), words(plain).explain(np.ascontiguousarray(x[:, ::-1]), which)
        )


def test_scikit_learn_trees_without_shap_get_a_sentence(monkeypatch):
    estimator = grown("shap", 2, monkeypatch)
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(
        InputError, match=r"of a DecisionTreeClassifier needs the package shap, which is not installed\."
    ):
        explainer_named("tree_contributions")(SklearnModel(estimator))


CASES = {
    "grad_cam": network,
    "grad_cam(upsample=True)": lambda: network("prada_gtsrb", (12, 12, 3)),
    "gradient_x_input": network,
    "tree_contributions": lambda: SklearnModel(LikeLightgbm(3)),
}


@pytest.fixture(scope="module", params=CASES)
def explained(request):
    return explainer_named(request.param)(CASES[request.param]())


class TestContract:
    @settings(max_examples=20, deadline=None)
    @given(cuts=st.lists(st.integers(0, 90), max_size=8), n=st.integers(1, 90), seed=st.integers(0, 9))
    def test_a_batch_equals_its_pieces(self, explained, cuts, n, seed):
        x, classes = asked(explained, n, seed)
        whole = explained.explain(x, classes)
        assert in_pieces(explained.explain, x, classes, [c for c in cuts if c <= n]).tobytes() == whole.tobytes()
        assert in_pieces(explained.explain, x, classes, range(1, n)).tobytes() == whole.tobytes()

    def test_it_explains_the_class_it_is_asked_about_in_finite_numbers(self, explained):
        assert isinstance(explained, Explaining)
        x, classes = asked(explained, 40)
        found = explained.explain(x, classes)
        assert found.shape == (40, *explained.explanation_shape)
        assert found.dtype == np.float64
        assert np.isfinite(found).all()
        assert not np.array_equal(found, explained.explain(x, (classes + 1) % explained.n_classes))

    def test_scores_are_the_victims_own(self, explained, request):
        x, _ = asked(explained, 40)
        victim = CASES[request.node.callspec.params["explained"]]()
        np.testing.assert_array_equal(explained.scores(x), victim.scores(x))

    def test_no_rows_have_no_explanations(self, explained):
        x, classes = asked(explained, 0)
        assert explained.explain(x, classes).shape == (0, *explained.explanation_shape)

    def test_classes_that_do_not_fit_get_a_sentence(self, explained):
        x, classes = asked(explained, 2)
        for wrong in (classes[:1], classes - 9, classes + 9):
            with pytest.raises(InputError, match="An explanation of 2 rows needs a class in 0"):
                explained.explain(x, wrong)

    def test_threads_explain_and_score_at_the_same_time(self, explained):
        x, classes = asked(explained, 60)
        whole, scores = explained.explain(x, classes), explained.scores(x)
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(explained.explain, x, classes) for _ in range(12)]
            beside = [pool.submit(explained.scores, x) for _ in range(12)]
            assert all(f.result().tobytes() == whole.tobytes() for f in found)
            assert all(f.result().tobytes() == scores.tobytes() for f in beside)


def test_an_explanation_that_looks_at_its_request_is_given_row_by_row():
    model = ExplainedModel(LINEAR, MeanRow().prepare(LINEAR))
    x, classes = asked(LINEAR, 9)
    np.testing.assert_array_equal(model.explain(x, classes), x)
