"""Pipelines that take a table as people have it: names, words, and numbers as they are.

On our side a row is numbers only, a category travelling as its code. A scikit-learn pipeline or its ONNX export was
trained on something else: a frame with named columns, or an array of words and numbers. The adapters here turn coded
rows back into that. What a code stands for is read from the pipeline's own encoders (OneHotEncoder, OrdinalEncoder,
TargetEncoder, wherever they stand in pipelines and column transformers), so that categories which it knows and the
table at hand does not hold are part of the interface; a category without an encoder goes through as its code.

A thief who sends a code between two others gets the nearest one: there is no such thing as half a category.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.core.types import Array, Feature, Interface
from portcullis_ml.models.booster import BoosterEstimator
from portcullis_ml.models.onnx import PROBED, OnnxModel, as_dtype
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.words import word_of

__all__ = ["Column", "TableModel", "TableOnnx", "encoders", "places"]


@dataclass(frozen=True)
class Column:
    """One input of a pipeline. values (k,) are what the codes stand for; None for numbers and bare codes."""

    feature: Feature
    values: NDArray[Any] | None = None

    def decoded(self, codes: Array) -> NDArray[Any]:
        """(n,) what the pipeline is given for these codes."""
        if self.values is None:
            return codes
        known = ~np.isnan(codes)
        found = self.values[np.clip(np.rint(np.where(known, codes, 0)), 0, len(self.values) - 1).astype(np.int64)]
        if known.all():
            return np.asarray(found)
        found = found.astype(object)
        found[~known] = np.nan
        return np.asarray(found)


class TableModel(SklearnModel):
    """A fitted pipeline over named or numbered columns. `features` are the inputs that it takes, in its order.

    classes  the words of its labels, where they are words
    """

    def __init__(self, estimator: Any, features: Sequence[Feature]) -> None:
        names = getattr(estimator, "feature_names_in_", None)
        width = getattr(estimator, "n_features_in_", None)
        chosen = _chosen(features, names, width)
        known = dict(encoders(estimator, list(range(len(chosen)))))
        self.columns = [_column(f, *known.get(j, (None, True))) for j, f in enumerate(chosen)]
        self.features = tuple(c.feature for c in self.columns)
        super().__init__(estimator, input_shape=(len(chosen),))
        self.classes: tuple[str, ...] | None = None
        if self._classes is not None:
            self.classes = tuple(map(word_of, np.asarray(self._classes).tolist()))
        self._names = names

    def scores(self, x: Array) -> Array:
        """(n, d) coded rows -> (n, n_classes) probabilities, or (n, 1) regression values."""
        try:
            return super().scores(x)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"The pipeline was given {len(self.features)} columns and refused them: {_first_line(error)}. "
                "Compare the schema with what it was trained on, and correct it with --schema."
            ) from error

    def _rows(self, x: Array) -> Any:
        columns = [c.decoded(x[:, j]) for j, c in enumerate(self.columns)]
        if self._names is not None:
            return _frame(self._names, columns)
        if all(c.dtype.kind in "fiub" for c in columns):
            return np.column_stack(columns).astype(np.float64)
        rows = np.empty((len(x), len(columns)), object)
        for j, column in enumerate(columns):
            rows[:, j] = column
        return rows


class TableOnnx(OnnxModel):
    """An ONNX export with an input for every column, or one for the words and one for the numbers."""

    def __init__(
        self, source: Any, features: Sequence[Feature], *, softmax: bool = False, output: str | None = None
    ) -> None:
        self._given = tuple(features)
        super().__init__(source, input_shape=(len(features),), softmax=softmax, output=output)

    def _accept(self, inputs: list[Any]) -> None:
        widths = [i.shape[1] if len(i.shape) > 1 and isinstance(i.shape[1], int) else 1 for i in inputs]
        if all(width == 1 for width in widths):
            self.features = _chosen(self._given, [i.name for i in inputs], len(inputs))
            self._groups = [(i, [j]) for j, i in enumerate(inputs)]
            return
        self.features = self._given
        kinds = {kind: [j for j, f in enumerate(self._given) if f.categorical == kind] for kind in (True, False)}
        self._groups = []
        for i, width in zip(inputs, widths, strict=True):
            rest = kinds[i.type == "tensor(string)"]
            self._groups.append((i, rest[:width]))
            del rest[:width]
        if any(kinds.values()) or any(len(g) != w for (_, g), w in zip(self._groups, widths, strict=True)):
            takes = ", ".join(f"{i.name} {i.type} of {w}" for i, w in zip(inputs, widths, strict=True))
            raise InputError(
                f"The ONNX model takes {takes}; the table's columns do not add up to that. Correct it with --schema."
            )

    def _feeds(self, x: Array) -> dict[str, Any]:
        return {i.name: np.column_stack([self._cells(i.type, j, x[:, j]) for j in own]) for i, own in self._groups}

    def _probes(self) -> Array:
        interface = Interface(input_shape=(len(self.features),), n_classes=2, features=self.features)
        return interface.uniform(PROBED, np.random.default_rng(0))

    def _cells(self, kind: str, j: int, codes: Array) -> NDArray[Any]:
        """(n,) one column in the type that the graph wants."""
        feature = self.features[j]
        if not feature.categorical:
            if kind == "tensor(string)":
                return np.array([np.format_float_positional(v, trim="-") for v in codes], object)
            return np.asarray(as_dtype(codes, kind))
        words = np.array(feature.values, object)
        places = np.clip(np.rint(codes), 0, len(words) - 1).astype(np.int64)
        if kind == "tensor(string)":
            return np.asarray(words[places])
        try:
            return np.asarray(as_dtype(words.astype(np.float64)[places], kind))
        except ValueError:  # words that are no numbers can only have been trained on as codes
            return np.asarray(as_dtype(codes, kind))


def _chosen(features: Sequence[Feature], names: Any, width: int | None) -> tuple[Feature, ...]:
    """The features that the pipeline takes, in its order."""
    if names is None:
        if width is not None and width != len(features):
            raise InputError(
                f"The victim takes {width} columns without names; the table has {len(features)}: "
                f"{', '.join(f.name for f in features)}. Drop the others with --schema, or fit it on named columns."
            )
        return tuple(features)
    held = {f.name: f for f in features}
    for name in map(str, names):
        if name not in held:
            near = difflib.get_close_matches(name, held, n=3, cutoff=0.4) or list(held)[:3]
            raise InputError(
                f"The victim takes a column {name!r}; the table has none. Did you mean {' or '.join(map(repr, near))}? "
                "Rename the column, or give the table that it was trained on."
            )
    return tuple(held[str(name)] for name in names)


def encoders(step: Any, columns: list[int]) -> Iterator[tuple[int, tuple[Any, bool]]]:
    """(input column, (its categories, whether others are refused)) of every encoder that sees inputs as they come; no
    categories where any word is one."""
    step = getattr(step, "best_estimator_", step)
    if getattr(step, "_preprocessor", None) is not None:  # histogram boosting's own, which puts categories first
        yield from encoders(step._preprocessor, columns)
    elif hasattr(step, "steps"):  # a pipeline: as far as columns stay what they are
        for _, inner in step.steps:
            found = list(encoders(inner, columns)) if inner not in (None, "passthrough") else []
            yield from found
            if found or not _keeps_columns(inner):
                return
    elif hasattr(step, "transformers_"):
        names = [str(n) for n in getattr(step, "feature_names_in_", ())]
        for _, inner, chosen in step.transformers_:
            if not isinstance(inner, str):
                yield from encoders(inner, [columns[j] for j in places(chosen, names, len(columns))])
    elif isinstance(step, BoosterEstimator):
        for j, known in step.categories.items():
            yield columns[j], (None if known is None else np.array([*known, np.nan], object), False)
    elif hasattr(step, "transformer_list"):
        for _, inner in step.transformer_list:
            if not isinstance(inner, str):
                yield from encoders(inner, columns)
    elif hasattr(step, "categories_") and hasattr(step, "transform"):
        refuses = getattr(step, "handle_unknown", "error") == "error"
        for j, categories in zip(columns, step.categories_, strict=False):
            yield j, (np.asarray(categories), refuses)


def _keeps_columns(step: Any) -> bool:
    """Whether a transformer gives back its columns, one for one (scalers, imputers)."""
    if step in (None, "passthrough"):
        return True
    from sklearn.base import OneToOneFeatureMixin
    from sklearn.impute import SimpleImputer

    return isinstance(step, OneToOneFeatureMixin | SimpleImputer)


def places(chosen: Any, names: list[str], width: int) -> list[int]:
    """Columns as scikit-learn writes them (names, numbers, a slice, a mask) as numbers."""
    if isinstance(chosen, slice):
        ends = [names.index(e) if isinstance(e, str) else e for e in (chosen.start, chosen.stop)]
        last = ends[1] + 1 if isinstance(chosen.stop, str) else ends[1]
        return list(range(width))[slice(ends[0], last, chosen.step)]
    chosen = np.atleast_1d(np.asarray(chosen))
    if chosen.dtype.kind == "b":
        return [int(j) for j in np.flatnonzero(chosen)]
    return [names.index(str(c)) if chosen.dtype.kind in "UO" else int(c) % width for c in chosen]


def _column(feature: Feature, categories: Any, refuses: bool) -> Column:
    """A feature as the pipeline knows it: the categories of its encoder, then those that only the table has."""
    if categories is None:
        any_word = not refuses and feature.categorical
        return Column(feature, np.array(feature.values, object) if any_word else None)
    words = tuple(word_of(v) for v in categories.tolist())
    numbers = categories.dtype.kind in "fiub"
    if feature.categorical and numbers and not set(feature.values) & set(words):
        return Column(feature)  # trained on codes like ours
    if not feature.categorical and not numbers and not all(map(_is_number, words)):
        raise InputError(
            f"The victim knows column {feature.name!r} as the categories {', '.join(words[:4])}; the table holds "
            "numbers there. Give a table as it was trained on."
        )
    extra = () if refuses else tuple(v for v in feature.values if v not in words)
    values = np.array([*categories.tolist(), *(map(float, extra) if numbers else extra)], object)
    return Column(Feature(feature.name, values=words + extra), values.astype(np.float64) if numbers else values)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _frame(names: Any, columns: list[NDArray[Any]]) -> Any:
    try:
        import pandas  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        raise MissingExtra("A pipeline that was fitted on named columns", "pandas") from error
    return pandas.DataFrame(dict(zip(names, columns, strict=True)))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__
