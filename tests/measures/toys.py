"""Models small enough to be worked out by hand."""

import numpy as np


class Softmax:
    """softmax(W x + b), with its gradient; `asked` counts the rows that it was asked about."""

    def __init__(self, w, b=None, input_shape=None):
        self.w = np.asarray(w, float)  # (classes, inputs)
        self.b = np.zeros(len(self.w)) if b is None else np.asarray(b, float)
        self.input_shape = input_shape or (self.w.shape[1],)
        self.n_classes = len(self.w)
        self.asked = 0

    def scores(self, x):
        self.asked += len(x)
        z = x.reshape(len(x), -1) @ self.w.T + self.b
        p = np.exp(z - z.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    def input_gradient(self, x, weights, *, of):
        if of == "log_probs":
            weights = weights - weights.sum(axis=1, keepdims=True) * self.scores(x)
        return (weights @ self.w).reshape(x.shape)


class Locked:
    """A victim: answers, and has nothing to differentiate."""

    def __init__(self, model):
        self._model = model
        self.input_shape = model.input_shape
        self.n_classes = model.n_classes
        self.rows = []

    def scores(self, x):
        self.rows.append(np.array(x))
        return self._model.scores(x)


def a_softmax(seed, classes=3, inputs=6, scale=4.0):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(classes, inputs)) * scale
    return Softmax(w, -w.sum(axis=1) / 2)  # every class is somewhere in the unit box
