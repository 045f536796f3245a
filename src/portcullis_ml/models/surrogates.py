"""What a thief fits on encoded rows without torch: softmax, one-vs-rest, a small network, an RBF SVM, a tree.

Each takes z (n, width) in about [-1, 1] and targets (n, c), and returns a new model. Where the answers so far hold one
class only there is nothing to fit, and the surrogate is the constant that they suggest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from portcullis_ml.core.types import Array, Labels, Model
from portcullis_ml.models.constant import ConstantModel
from portcullis_ml.models.encoding import Encoded, Encoding
from portcullis_ml.models.lbfgs import fit_softmax
from portcullis_ml.models.mlp import Mlp, fit_mlp
from portcullis_ml.models.ovr import OneVsRest, fit_one_vs_rest
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.softmax import SoftmaxRegression

__all__ = ["SURROGATES", "fit_surrogate", "of_inputs", "unknowns"]

HIDDEN = 20  # tanh units of the network, as in the victims of Tramèr et al.
FLAT = 1e-6  # the penalty of a regression on labels: separable classes have no finite best weights without one
HARD = 1e5  # C of the SVM: the labels are noiseless, so every error is penalised hard
GAMMAS = 2.0 ** np.arange(-15, 4, 2)
FOLDS = 5  # splits into 80% and 20% that choose gamma
FOLD_ROWS = 1000  # rows at most for choosing gamma; libsvm takes time quadratic in the rows


def fit_surrogate(kind: str, z: Array, targets: Array, *, rng: np.random.Generator, effort: float = 1.0) -> Model:
    """A model of that kind; `effort` scales the iterations, for rounds whose copy only chooses the next queries."""
    labels = targets.argmax(axis=1)
    if (targets[:, labels[:1]] == 1.0).all():
        return ConstantModel((z.shape[1],), targets[0].copy())
    return SURROGATES[kind](z, targets, labels, rng, effort)


def of_inputs(encoding: Encoding, model: Model) -> Model:
    """A model of encoded rows as a model of inputs: with its weights rescaled where it can be, wrapped otherwise."""
    if (encoding.categories > 0).any():
        return Encoded(encoding, model)
    if isinstance(model, SoftmaxRegression):
        return SoftmaxRegression(*encoding.unscale(model.w, model.b), input_shape=encoding.input_shape)
    if len(encoding.input_shape) == 1 and isinstance(model, OneVsRest):
        return OneVsRest(*encoding.unscale(model.w, model.b))
    if len(encoding.input_shape) == 1 and isinstance(model, Mlp):
        return Mlp(*encoding.unscale(model.w, model.b), model.v, model.a)
    return Encoded(encoding, model)


def unknowns(kind: str, d: int, c: int) -> int:
    """Parameters of a victim of that kind with d inputs and c classes: what budgets are multiples of."""
    linear = d + 1 if c == 2 else c * (d + 1)
    return {"softmax": linear, "one_vs_rest": linear, "mlp": HIDDEN * (d + 1) + c * (HIDDEN + 1)}.get(kind, d + 1)


def _softmax(z: Array, targets: Array, labels: Labels, rng: np.random.Generator, effort: float) -> Model:
    penalty = FLAT if _hard(targets) else 0.0
    return SoftmaxRegression(*fit_softmax(z, targets, penalty=penalty, iterations=round(3000 * effort)))


def _one_vs_rest(z: Array, targets: Array, labels: Labels, rng: np.random.Generator, effort: float) -> Model:
    return fit_one_vs_rest(z, targets, iterations=round(10_000 * effort))


def _mlp(z: Array, targets: Array, labels: Labels, rng: np.random.Generator, effort: float) -> Model:
    return fit_mlp(z, targets, rng=rng, hidden=HIDDEN, iterations=round(3000 * effort))


def _svm(z: Array, targets: Array, labels: Labels, rng: np.random.Generator, effort: float) -> Model:
    right = np.zeros(len(GAMMAS))
    for _ in range(max(1, round(FOLDS * effort))):
        rows = rng.permutation(len(z))[:FOLD_ROWS]
        train, test = rows[: len(rows) * 4 // 5], rows[len(rows) * 4 // 5 :]
        if len(np.unique(labels[train])) > 1 and len(test):  # a class with one member may be missing from either
            right += [_fitted_svm(g, z[train], labels[train]).score(z[test], labels[test]) for g in GAMMAS]
    gamma = float(GAMMAS[right.argmax()]) if right.any() else "scale"
    return SklearnModel(_fitted_svm(gamma, z, labels), n_classes=targets.shape[1])


def _fitted_svm(gamma: float | str, z: Array, labels: Labels) -> SVC:
    return SVC(C=HARD, gamma=gamma, random_state=0).fit(z, labels)  # None is numpy's global generator


def _tree(z: Array, targets: Array, labels: Labels, rng: np.random.Generator, effort: float) -> Model:
    tree = DecisionTreeClassifier(random_state=int(rng.integers(2**31)))
    return SklearnModel(tree.fit(z, labels), n_classes=targets.shape[1])


def _hard(targets: Array) -> bool:
    return bool(((targets == 0) | (targets == 1)).all())


Fit = Callable[[Array, Array, Labels, np.random.Generator, float], Model]
SURROGATES: dict[str, Fit] = {
    "mlp": _mlp,
    "one_vs_rest": _one_vs_rest,
    "softmax": _softmax,
    "svm": _svm,
    "tree": _tree,
}
