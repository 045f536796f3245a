"""What crosses the wire: the interface of a prediction API, a request, an answer, an estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.settings import check

__all__ = ["Answer", "Array", "Differentiable", "Estimate", "Explaining", "Feature", "Floats", "Interface", "Labels",
           "Learner", "Model", "Request", "Reveals", "Rows"]  # fmt: skip

Array = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]  # float64, or float32 where that holds every value
Labels = NDArray[np.int64]

WITHHELD = -1  # the label of a row that was not answered; its scores are NaN


class Reveals(IntEnum):
    """How much of an answer the API shows, from least to most. Comparable: LABELS < PROBS."""

    LABELS = 0
    TOP_K = 1
    PROBS = 2

    @classmethod
    def parse(cls, word: str) -> Reveals:
        try:
            return cls[word.strip().upper().replace("-", "_")]
        except KeyError:
            raise ParameterError("answers", "one of labels, top_k, probs", word) from None

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Feature:
    """One column of a table: numeric with a range, or categorical with codes 0..n-1, which travel as floats.

    `values` are the names that the codes stand for, for reports only.
    """

    name: str
    low: float = -1.0
    high: float = 1.0
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.values and not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ParameterError(f"Feature({self.name!r}).low, .high", "finite with low <= high", (self.low, self.high))

    @property
    def categorical(self) -> bool:
        return bool(self.values)

    @property
    def categories(self) -> int:
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class Interface:
    """All that a thief knows for free about an API, and all that the API shows in an answer.

    `n_classes` is 0 for regression, whose answers are scores without labels: one column of them, or
    as many as `outputs` says, which is what an embedding is.
    `bounds` are the least and greatest value of an input; a table gives `features` instead,
    and a NaN in a query means *omitted* where `missing` is true.
    """

    input_shape: tuple[int, ...]
    n_classes: int = 0
    outputs: int = 1  # columns of a regression's scores
    task: Literal["classification", "regression"] = "classification"
    bounds: tuple[float, float] = (0.0, 1.0)
    features: tuple[Feature, ...] | None = None
    reveals: Reveals = Reveals.PROBS
    k: int = 1  # how many scores a TOP_K answer shows
    decimals: int | None = None  # scores are rounded to this many decimals
    precision: Literal["float64", "float32"] = "float64"
    explains: bool = False
    missing: bool = False
    text: bool = False  # a row stands for a text: see `models/texts.py`

    def __post_init__(self) -> None:
        classified = self.task == "classification"
        check(self, "input_shape", "a tuple of positive ints", lambda v: len(v) > 0 and all(s >= 1 for s in v))
        check(self, "n_classes", "at least 2 for classification, else 0", lambda v: v >= 2 if classified else v == 0)
        check(self, "outputs", "at least 1, and 1 for classification", lambda v: v == 1 or (v > 1 and not classified))
        check(self, "bounds", "(low, high) with low < high", lambda v: v[0] < v[1])
        check(self, "decimals", "None or an int in [0, 12]", lambda v: v is None or 0 <= v <= 12)
        check(self, "k", "at least 1", lambda v: v >= 1)
        if self.features is not None:
            names = [f.name for f in self.features]
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise InputError(f"Column names must differ; {twice[0]!r} stands twice. Rename one of them.")
            if self.input_shape != (len(names),):
                raise ParameterError("Interface.features", f"{self.input_shape} columns", len(names))

    @property
    def columns(self) -> int:
        """How many scores an answer has for one row."""
        return self.n_classes or self.outputs

    @property
    def n_inputs(self) -> int:
        """How many numbers one query holds."""
        return math.prod(self.input_shape)

    @property
    def low(self) -> Array:
        """(n_inputs,) the least value of every input."""
        table = self.features or ()
        return np.array([0.0 if f.categorical else f.low for f in table] or [float(self.bounds[0])] * self.n_inputs)

    @property
    def high(self) -> Array:
        """(n_inputs,) the greatest value of every input."""
        top = [f.categories - 1.0 if f.categorical else f.high for f in self.features or ()]
        return np.array(top or [float(self.bounds[1])] * self.n_inputs)

    def uniform(self, n: int, rng: np.random.Generator) -> Array:
        """(n, *input_shape) points drawn uniformly from the input space (integer codes for categories)."""
        x = rng.uniform(self.low, self.high, size=(n, self.n_inputs))
        for j, feature in enumerate(self.features or ()):
            if feature.categorical:
                x[:, j] = rng.integers(feature.categories, size=n)
        return x.reshape(n, *self.input_shape)

    def revealing(self, **changes: Any) -> Interface:
        """The same API, showing something else: `interface.revealing(reveals=Reveals.LABELS)`."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Answer:
    """What comes back for n rows.

    labels       (n,) int64, -1 where withheld; None for regression
    scores       (n, c) float64 probabilities or regression values, NaN where withheld; None when not shown
    explanation  (n, ...) what an explaining API adds (say, a saliency map), or None
    """

    labels: Labels | None
    scores: Array | None = None
    explanation: Array | None = None

    def __post_init__(self) -> None:
        lengths = {len(a) for a in (self.labels, self.scores, self.explanation) if a is not None}
        if (self.labels is None and self.scores is None) or len(lengths) > 1:
            raise InputError("An answer needs labels or scores, with one row for every row of the query.")

    def __len__(self) -> int:
        return len(self.labels if self.labels is not None else self.scores)  # type: ignore[arg-type]

    @classmethod
    def of(cls, scores: Array, interface: Interface) -> Answer:
        """The full answer that goes with these scores: labels are the argmax, the lowest class on ties."""
        labels = None if interface.task == "regression" else scores.argmax(axis=1)
        return cls(labels, scores)

    def take(self, rows: Any) -> Answer:
        """The answer for some of the rows (a slice, a mask or indices)."""
        return Answer(*(None if a is None else a[rows] for a in (self.labels, self.scores, self.explanation)))

    @staticmethod
    def concat(answers: Sequence[Answer]) -> Answer:
        """One answer from several. Where only some show scores (a guard went over to labels), the others' are NaN."""
        columns = zip(*((a.labels, a.scores, a.explanation) for a in answers), strict=True)
        return Answer(*(_stack(column, [len(a) for a in answers]) for column in columns))

    @property
    def answered(self) -> NDArray[np.bool_]:
        """(n,) false where the row was withheld altogether."""
        known = np.zeros(len(self), bool) if self.labels is None else self.labels != WITHHELD
        if self.scores is not None and np.count_nonzero(known) < len(known):
            known |= ~np.isnan(self.scores).all(axis=1)
        return known

    def withhold(self, rows: NDArray[np.bool_]) -> Answer:
        """The same answer with nothing in these rows."""
        if not rows.any():
            return self
        labels = None if self.labels is None else np.where(rows, WITHHELD, self.labels)
        column = rows[:, None]
        scores = None if self.scores is None else np.where(column, np.nan, self.scores)
        return Answer(labels, scores, None if self.explanation is None else _blank(self.explanation, rows))

    def only(self, interface: Interface) -> Answer:
        """What the API shows of this answer: a pure function of the answer and the interface."""
        scores = self.scores
        if scores is not None and interface.precision == "float32":
            scores = scores.astype(np.float32).astype(np.float64)
        if scores is not None and interface.decimals is not None:
            scores = np.round(scores, interface.decimals)
        if self.labels is not None and scores is not None:
            if interface.reveals == Reveals.LABELS:
                scores = None
            elif interface.reveals == Reveals.TOP_K:
                scores = keep_top(scores, self.labels, interface.k)
        if scores is self.scores and (interface.explains or self.explanation is None):
            return self
        return Answer(self.labels, scores, self.explanation if interface.explains else None)

    def soft(self, n_classes: int) -> Array:
        """(n, n_classes) training targets: the best distribution that can be read off; of a regression its values.

        Shown scores are clipped at 0 and made to sum to 1 (the renormalised version of a rounded or truncated vector,
        so that a defense is never flattered by a clumsy thief); a row that shows a label only becomes one-hot.
        """
        if self.labels is None:
            return np.asarray(self.scores)  # (n, outputs), NaN where withheld
        onehot = np.zeros((len(self), n_classes))
        known = self.labels != WITHHELD
        onehot[known, self.labels[known]] = 1.0
        if self.scores is None:
            return onehot
        p = np.clip(np.nan_to_num(self.scores), 0.0, None)
        total = p.sum(axis=1, keepdims=True)
        return np.where(total > 0, p / np.where(total > 0, total, 1.0), onehot)


def _stack(column: Sequence[NDArray[Any] | None], lengths: Sequence[int]) -> NDArray[Any] | None:
    shown = next((part for part in column if part is not None), None)
    if shown is None:
        return None
    hidden = WITHHELD if shown.dtype.kind == "i" else np.nan
    blanks = (np.full((n, *shown.shape[1:]), hidden, shown.dtype) for n in lengths)
    return np.concatenate([b if part is None else part for part, b in zip(column, blanks, strict=True)])


def _blank(explanation: Array, rows: NDArray[np.bool_]) -> Array:
    blank = explanation.copy()
    blank[rows] = np.nan
    return blank


def keep_top(scores: Array, labels: Labels, k: int) -> Array:
    """(n, c) scores with all but k per row withheld (NaN). The served label is always among them;
    ties go to the lower class, so that the choice never depends on the sort."""
    ranked = np.where(np.isnan(scores), -np.inf, scores)
    known = np.flatnonzero(labels != WITHHELD)
    ranked[known, labels[known]] = np.inf
    order = np.argsort(-ranked, axis=1, kind="stable")[:, :k]
    kept = np.full_like(scores, np.nan)
    np.put_along_axis(kept, order, np.take_along_axis(scores, order, axis=1), axis=1)
    return kept


@dataclass(frozen=True)
class Rows:
    """Inputs x (n, *input_shape), and y (n,) their true classes where they are known."""

    x: Array
    y: Labels | None = None

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Request:
    """Rows that one client sends at one time. `at` is in seconds and is given, never read off a clock."""

    client: str
    x: Array  # (n, *input_shape)
    at: float = 0.0
    work: int = 0  # leading zero bits of the proof of work that came with it

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval: `low` and `high` bound it at `level`, from n observations."""

    value: float
    low: float
    high: float
    n: int
    level: float = field(default=0.95, kw_only=True)
    unit: str = field(default="", kw_only=True)  # what n counts: "rows", "seeds", "chunks"

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n={self.n})"

    def percent(self, digits: int = 1) -> str:
        return f"{100 * self.value:.{digits}f}% [{100 * self.low:.{digits}f}, {100 * self.high:.{digits}f}]"


@runtime_checkable
class Model(Protocol):
    """Anything that turns rows into scores. Arrays in, arrays out; deterministic."""

    input_shape: tuple[int, ...]
    n_classes: int  # 0 for regression

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes) probabilities, or (n, outputs) regression values; float64."""


@runtime_checkable
class Differentiable(Model, Protocol):
    """A model that the attacker holds and may therefore differentiate. Never the victim."""

    def input_gradient(self, x: Array, weights: Array, *, of: Literal["logits", "log_probs"]) -> Array:
        """(n, *input_shape): the gradient of sum_j weights[:, j] * of_j(x) with respect to x.

        weights (n, n_classes); `of="logits"` with a one-hot row is a row of the Jacobian,
        `of="log_probs"` with minus a one-hot row is the gradient of the cross-entropy.
        """


@runtime_checkable
class Explaining(Model, Protocol):
    """A model that says why: what an API shows beside its answer where `Interface.explains` holds."""

    def explain(self, x: Array, classes: Labels) -> Array:
        """(n, ...) finite float64: how much each part of a row speaks for the given class; deterministic."""


class Learner(Protocol):
    """Turns labelled rows into a model: the attacker's training procedure."""

    def fit(self, x: Array, targets: Array, *, rng: np.random.Generator, start: Model | None = None) -> Model:
        """x (n, *input_shape), targets (n, n_classes) distributions (one-hot for labels). Always a new
        model; `start` is a model whose weights to begin from and is never modified."""
