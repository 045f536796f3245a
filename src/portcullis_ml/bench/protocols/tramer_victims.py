"""The victims of the Tramèr protocols: data sets by name, models trained on them, and the API in front.

A victim is trained on seven rows in ten (or on the source's own training part) and judged on the rest. With
access = "encoded" the API takes what the paper's thief was given: one flat row in [-1, 1], an indicator for every
category. With "table" it takes the columns themselves. The models of the paper that cannot be had (BigML's trees) are
replaced by models of the published size, trained here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from portcullis_ml.bench.protocols import ensembles
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Feature, Interface, Labels, Model
from portcullis_ml.data.dataset import Dataset
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.models.encoding import Encoding
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.softmax import SoftmaxRegression

__all__ = ["Victim", "api_of", "dataset_of", "private_logistic", "victim_of"]

Spec = Mapping[str, Any]
TEST_SHARE = 0.3


@dataclass(frozen=True)
class Victim:
    """A model, what its API takes, and held-out rows (n, *input_shape) with their labels or values."""

    model: Model
    interface: Interface
    x: Array
    y: Labels | Array
    trained_on: int


def dataset_of(spec: Spec, folder: str | None) -> Dataset:
    """Synthetic sets as scikit-learn makes them, its own real ones, or a table in the data folder."""
    name = spec["data"]
    if name in _SETS:
        x, y = _SETS[name](spec)
        return _split(name, x, y, spec)
    found = load_dataset(name, folder, target=spec.get("target"))
    if found.features is None:
        raise InputError(f"The protocol wants a table; {name} holds arrays of {found.input_shape}.")
    return found


def victim_of(spec: Spec, folder: str | None) -> Victim:
    """Train the victim of that description; the same description gives the same victim."""
    data = dataset_of(spec, folder)
    interface = api_of(spec, data)
    x, x_test = data.x, data.x_test
    if interface.features is None:
        encoding = Encoding.of(data.interface)
        x, x_test = encoding(x), encoding(x_test)
    keep = slice(spec.get("rows"))
    rng = derive(0, "tramer", spec["model"], spec["data"])
    model = _MODELS[spec["model"]](x[keep], data.y[keep], interface, spec, rng)
    return Victim(model, interface, x_test, data.y_test, len(x[keep]))


def api_of(spec: Spec, data: Dataset) -> Interface:
    """What the victim's API takes: one encoded row in [-1, 1], or the table's columns."""
    if spec.get("access", "encoded") == "table":
        return data.interface
    width = Encoding.of(data.interface).width
    return replace(data.interface, input_shape=(width,), bounds=(-1.0, 1.0), features=None)


# Data sets


def _split(name: str, x: Array, y: Any, spec: Spec) -> Dataset:
    order = derive(0, "data", name).permutation(len(x))
    cut = round(TEST_SHARE * len(x))
    test, train = order[:cut], order[cut:]
    regression = np.asarray(y).dtype.kind == "f"
    spans = zip(x.min(axis=0), x.max(axis=0), strict=True)
    return Dataset(
        name=name,
        x=x[train],
        y=y[train],
        x_test=x[test],
        y_test=y[test],
        classes=() if regression else tuple(map(str, range(int(y.max()) + 1))),
        features=tuple(Feature(f"x{j}", float(low), float(high)) for j, (low, high) in enumerate(spans)),
    )


def _seed(spec: Spec) -> int:
    return int(derive(0, "data", spec["data"]).integers(2**31))


def _circles(spec: Spec) -> tuple[Array, Labels]:
    from sklearn.datasets import make_circles

    return make_circles(5000, factor=0.5, noise=0.05, random_state=_seed(spec))  # type: ignore[no-any-return]


def _moons(spec: Spec) -> tuple[Array, Labels]:
    from sklearn.datasets import make_moons

    return make_moons(5000, noise=0.25, random_state=_seed(spec))  # type: ignore[no-any-return]


def _blobs(spec: Spec) -> tuple[Array, Labels]:
    from sklearn.datasets import make_blobs

    return make_blobs(5000, centers=3, cluster_std=0.5, random_state=_seed(spec))  # type: ignore[no-any-return]


def _classes(spec: Spec) -> tuple[Array, Labels]:
    """The 5-Class set of the paper by default; of the size of a BigML model where `rows_made` and the rest say so."""
    from sklearn.datasets import make_classification

    c, d = spec.get("classes", 5), spec.get("features", 20)
    informative = spec.get("informative", 4)
    return make_classification(  # type: ignore[no-any-return]
        spec.get("rows_made", 1000),
        d,
        n_informative=informative,
        n_redundant=min(2, d - informative),
        n_classes=c,
        n_clusters_per_class=1 if c > 16 else 2,
        random_state=_seed(spec),
    )


def _values(spec: Spec) -> tuple[Array, Array]:
    from sklearn.datasets import make_regression

    d = spec["features"]
    x, y = make_regression(spec["rows_made"], d, n_informative=d // 2 + 1, random_state=_seed(spec))
    return x, y.astype(np.float64)


def _shipped(loader: str) -> Callable[[Spec], tuple[Array, Labels]]:
    """A set that scikit-learn ships; its diabetes progression becomes two classes at the median, or stays a value."""

    def load(spec: Spec) -> tuple[Array, Labels]:
        from sklearn import datasets

        x, y = getattr(datasets, loader)(return_X_y=True)
        if loader == "load_diabetes" and spec.get("target") != "value":
            y = (y > np.median(y)).astype(np.int64)
        return x, y

    return load


_SETS: dict[str, Callable[[Spec], tuple[Array, Any]]] = {
    "blobs": _blobs,
    "breast_cancer": _shipped("load_breast_cancer"),
    "circles": _circles,
    "diabetes": _shipped("load_diabetes"),
    "digits": _shipped("load_digits"),
    "iris": _shipped("load_iris"),
    "moons": _moons,
    "synthetic": _classes,
    "values": _values,
}


# Models: (x, y, interface, spec, rng) -> a model of the interface's rows


def _regression(x: Array, y: Any, interface: Interface, spec: Spec, rng: np.random.Generator) -> Model:
    from sklearn.linear_model import LogisticRegression

    return SklearnModel(LogisticRegression(C=spec.get("c", 1.0), max_iter=500).fit(x, y), n_classes=interface.n_classes)


def _one_vs_rest(x: Array, y: Any, interface: Interface, spec: Spec, rng: np.random.Generator) -> Model:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    fitted = OneVsRestClassifier(LogisticRegression(C=spec.get("c", 1.0), max_iter=500)).fit(x, y)
    return SklearnModel(fitted, input_shape=interface.input_shape, n_classes=interface.n_classes)


def _private(x: Array, y: Any, interface: Interface, spec: Spec, rng: np.random.Generator) -> Model:
    return private_logistic(x, y, epsilon=spec["epsilon"], rng=rng)


def private_logistic(
    x: Array, y: Labels, *, epsilon: float, rng: np.random.Generator, penalty: float = 1e-3
) -> SoftmaxRegression:
    """An epsilon-differentially private logistic regression of labels 0 and 1, by objective perturbation.

    Chaudhuri, Monteleoni, Sarwate. "Differentially Private Empirical Risk Minimization", JMLR 2011, section 3.2. Rows
    are scaled into the unit ball, a random linear term with a Gamma-distributed norm is added to the loss, and the
    minimum is released: noise is in the weights, once, and not in the answers.
    """
    n, curvature = len(x), 0.25
    rows = np.column_stack([x, np.ones(n)])
    radius = float(np.linalg.norm(rows, axis=1).max())
    rows, signs = rows / radius, 2.0 * y - 1.0
    left = epsilon - np.log(1 + 2 * curvature / (n * penalty) + (curvature / (n * penalty)) ** 2)
    extra = 0.0
    if left <= 0:
        extra, left = curvature / (n * np.expm1(epsilon / 4)) - penalty, epsilon / 2
    direction = rng.normal(size=rows.shape[1])
    noise = direction / np.linalg.norm(direction) * rng.gamma(rows.shape[1], 2 / left)

    def objective(w: Array) -> tuple[float, Array]:
        margin = signs * (rows @ w)
        slope = rows.T @ (-signs * expit(-margin)) / n + (penalty + extra) * w + noise / n
        loss = np.logaddexp(0, -margin).mean() + (penalty + extra) / 2 * (w @ w) + noise @ w / n
        return float(loss), slope

    w = minimize(objective, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B").x / radius
    return SoftmaxRegression(np.vstack([0 * w[:-1], w[:-1]]), np.array([0.0, w[-1]]))


def _mlp(x: Array, y: Any, interface: Interface, spec: Spec, rng: np.random.Generator) -> Model:
    """One hidden layer of 20 tanh units, as in the paper."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier(
        (20,), activation="tanh", alpha=1e-4, max_iter=spec.get("epochs", 200), random_state=int(rng.integers(2**31)),
        learning_rate_init=spec.get("lr", 1e-3),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # epochs are a setting
        return SklearnModel(network.fit(x, y), n_classes=interface.n_classes)


def _svm(x: Array, y: Any, interface: Interface, spec: Spec, rng: np.random.Generator) -> Model:
    from sklearn.svm import SVC

    return SklearnModel(SVC(gamma=spec.get("gamma", "scale"), random_state=0).fit(x, y), n_classes=interface.n_classes)


def _tree(x: Array, y: Any, interface: Interface, spec: Spec, rng: np.random.Generator) -> Model:
    from portcullis_ml.models.tree import grow_tree

    settings = {k: spec[k] for k in ("max_leaf_nodes", "max_depth") if k in spec}
    return grow_tree(
        x,
        y,
        interface.features,
        rng=rng,
        regression=interface.task == "regression",
        shows="shares" if interface.task == "regression" else "confidence",
        **settings,
    )


def _binned(x: Array, y: Any, interface: Interface, spec: Spec, rng: np.random.Generator) -> Model:
    """Amazon's recipe of 2016: indicators of quantile bins and of categories under a regression; NaN is omitted."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder

    from portcullis_ml.models.incomplete import IncompleteTable

    features = interface.features or ()
    words = [j for j, f in enumerate(features) if f.categorical]
    numbers = [j for j, f in enumerate(features) if not f.categorical]
    codes = [np.arange(features[j].categories, dtype=float) for j in words]
    parts: list[tuple[str, Any, list[int]]] = []
    if words:
        parts.append(("words", OneHotEncoder(categories=codes, sparse_output=False), words))
    if numbers:
        parts.append(("numbers", _quantiles(x[:, numbers], spec["bins"], KBinsDiscretizer), numbers))
    pipeline = make_pipeline(ColumnTransformer(parts), LogisticRegression(max_iter=500))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="sklearn.preprocessing._discretization")  # equal edges are one edge
        return IncompleteTable(pipeline.fit(x, y), features)


def _quantiles(x: Array, bins: int, discretizer: Any) -> Any:
    """Quantile bins for numbers; equal edges (a column that is mostly one value) are one edge, without a warning."""
    distinct = [len(np.unique(np.quantile(column, np.linspace(0, 1, bins + 1)))) - 1 for column in x.T]
    return discretizer(
        [max(2, k) for k in distinct], encode="onehot-dense", strategy="quantile",
        quantile_method="averaged_inverted_cdf", subsample=None,
    )  # fmt: skip


Train = Callable[[Array, Any, Interface, Spec, np.random.Generator], Model]
_MODELS: dict[str, Train] = {
    "binned": _binned,
    "boosting": ensembles.boosting,
    "forest": ensembles.forest,
    "histogram": ensembles.histogram,
    "mlp": _mlp,
    "one_vs_rest": _one_vs_rest,
    "private": _private,
    "softmax": _regression,
    "svm": _svm,
    "tree": _tree,
}
