"""Victims that take strings: a scikit-learn pipeline that begins with a vectoriser, an ONNX graph with one string
input, or a function of a list of strings.

A function may answer probabilities (n, classes), the probability of the second of two classes (n,), a label for each
text, or what a Hugging Face pipeline gives: {"label", "score"} for each text, or a list of all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Model
from portcullis_ml.models.files import PICKLED
from portcullis_ml.models.load import load_model, peek
from portcullis_ml.models.onnx import OnnxModel
from portcullis_ml.models.outputs import one_output
from portcullis_ml.models.texts import SHAPE, TextModel, Texts, rows_of_texts
from portcullis_ml.models.words import word_of

__all__ = ["load_text_model", "takes_texts"]

TRIED = 8  # texts with which a victim is tried
TAKES = (
    "A victim of texts was expected: a scikit-learn pipeline that begins with a vectoriser (.skops or module:object), "
    "an ONNX graph with one string input, or a function of a list of strings as module:object"
)
VECTORISERS = ("CountVectorizer", "HashingVectorizer", "TfidfVectorizer")

Ask = Callable[[list[str]], Any]


def takes_texts(found: Any) -> bool:
    """Whether this estimator begins with one of scikit-learn's vectorisers of texts."""
    found = getattr(found, "best_estimator_", found)
    if hasattr(found, "steps") and found.steps:
        return takes_texts(found.steps[0][1])
    if hasattr(found, "transformer_list"):
        return all(takes_texts(step) for _, step in found.transformer_list)
    return any(kind.__name__ in VECTORISERS for kind in type(found).__mro__)


def load_text_model(
    spec: str,
    texts: Texts,
    tried: Sequence[str],
    *,
    found: Any = None,
    classes: Sequence[str] | None = None,
    softmax: bool = False,
    output: str | None = None,
) -> Model:
    """The victim that `spec` names, as a model of rows that stand for `texts`. `tried` are texts with which its answers
    are looked at, all of them where it answers labels; `classes` are the labels of the rows, which a victim may know
    that answers labels and does not name its classes."""
    suffix = Path(spec.partition("@")[0]).suffix.lower()
    if suffix in PICKLED:
        load_model(spec)  # says why it is not read
    if suffix == ".onnx":
        return TextOnnx(spec, texts, tried, softmax=softmax, output=output)
    held = peek(spec) if found is None else found
    if held is None:
        raise InputError(f"{TAKES}; {spec} is none of these.")
    return _of_object(spec, held, texts, list(tried), classes, output)


def _of_object(
    spec: str, held: Any, texts: Texts, tried: list[str], classes: Sequence[str] | None, output: str | None
) -> Model:
    if hasattr(held, "predict") and not isinstance(held, type):
        return _of_estimator(spec, held, texts)
    if not callable(held) or isinstance(held, type):
        raise InputError(f"{TAKES}; {spec} is a {type(held).__name__}.")
    ask = _taking(spec, held, tried)
    answer = ask(tried[:TRIED])
    if _labels(answer) is None:
        scores = _scores(spec, answer, len(tried[:TRIED]), output)
        columns = scores.shape[1]
        return TextModel(_remembered(lambda rows: _scores(spec, ask(rows), len(rows), output, columns)), texts, columns)
    answer = ask(tried)
    names, read = _label_reader(answer, _labels(answer) or [], classes)
    return TextModel(_remembered(lambda rows: read(spec, ask(rows))), texts, len(names), classes=names)


def _remembered(ask: Callable[[list[str]], Array]) -> Callable[[list[str]], Array]:
    """The same, no text being asked twice: a function may be slow, and every attack asks about the same texts."""
    held: dict[str, Array] = {}

    def asked(rows: list[str]) -> Array:
        if new := list(dict.fromkeys(text for text in rows if text not in held)):
            held.update(zip(new, ask(new), strict=True))
        return np.stack([held[text] for text in rows])

    return asked


def _of_estimator(spec: str, held: Any, texts: Texts) -> Model:
    known = getattr(held, "classes_", None)
    if known is None:
        ask = _guarded(spec, lambda rows: np.asarray(held.predict(rows), np.float64).reshape(len(rows), -1))
        return TextModel(ask, texts, 0, estimator=held)
    if not isinstance(known, np.ndarray) or known.ndim != 1:
        raise InputError(
            f"{spec} was expected to give one class a text; it gives several. Audit one of them at a time."
        )
    names = getattr(held, "feature_names_in_", None)

    def given(rows: list[str]) -> Any:
        if names is None:
            return rows
        import pandas  # type: ignore[import-untyped, import-not-found, unused-ignore]  # it was fitted on a frame

        return pandas.DataFrame({str(name): rows for name in names})

    def scores(rows: list[str]) -> Array:
        if hasattr(held, "predict_proba"):
            return np.asarray(held.predict_proba(given(rows)), np.float64)
        return np.asarray(np.asarray(held.predict(given(rows)))[:, None] == known, np.float64)

    words = [word_of(v) for v in known.tolist()]
    return TextModel(_guarded(spec, scores), texts, len(words), classes=words, estimator=held)


def _taking(spec: str, function: Callable[..., Any], tried: list[str]) -> Ask:
    """The function as one of a list of strings; one that fails on a list is given an array."""
    try:
        required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        if not [p for p in required if p.kind is not p.VAR_KEYWORD]:
            raise InputError(f"{spec} was expected to take a list of strings; it takes nothing. Name what it makes.")
    except (TypeError, ValueError):
        pass  # written in C: it is tried
    tried = tried[:TRIED]
    as_list, as_array = _guarded(spec, function), _guarded(spec, lambda rows: function(np.array(rows, object)))
    try:
        as_list(tried)
    except InputError as first:
        try:
            as_array(tried)
        except InputError:
            raise first from None
        return as_array
    return as_list


def _guarded(spec: str, ask: Ask) -> Ask:
    """The same, what the victim raises being one sentence."""

    def asked(rows: list[str]) -> Any:
        try:
            return ask(rows)
        except Exception as error:
            lines = str(error).strip().splitlines() or ["no message"]
            raise InputError(
                f"{spec} was given a list of {len(rows)} texts and raised {type(error).__name__}: {lines[-1][:160]}. "
                "It must take a list of strings and answer each of them."
            ) from error

    return asked


def _scores(spec: str, answer: Any, n: int, output: str | None, columns: int | None = None) -> Array:
    """(n, columns) of what a function answered."""
    try:
        scores = np.asarray(one_output(answer, n, columns, output), np.float64)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{spec} was expected to answer numbers or labels, one row a text; {error}.") from error
    if scores.shape in ((n,), (n, 1)):
        second = scores.reshape(n)
        scores = np.column_stack([1 - second, second])
    if scores.ndim != 2 or len(scores) != n or (columns and scores.shape[1] != columns):
        wanted = f"({n}, {columns or 'classes'})"
        raise InputError(f"{spec} was expected to answer {wanted} for {n} texts; it answered {scores.shape}.")
    return scores


def _labels(answer: Any) -> list[str] | None:
    """The labels of an answer that holds labels; None for an answer of numbers."""
    if isinstance(answer, list | tuple) and answer and all(map(_pairs, answer)):
        return [max(_pairs(row), key=lambda pair: pair[1])[0] for row in answer]
    if isinstance(answer, list | tuple | np.ndarray):
        array = np.asarray(answer, None if not isinstance(answer, np.ndarray) else answer.dtype)
        if array.ndim == 1 and (array.dtype.kind in "USib" or (array.dtype.kind == "O" and isinstance(array[0], str))):
            return [word_of(v) for v in array.tolist()]
    return None


def _pairs(row: Any) -> list[tuple[str, float]]:
    """[(label, score), ...] of one text in the manner of Hugging Face's pipelines; [] for anything else."""
    held = row if isinstance(row, list) else [row]
    if not all(isinstance(one, dict) and {"label", "score"} <= one.keys() for one in held):
        return []
    return [(str(one["label"]), float(one["score"])) for one in held]


def _label_reader(
    answer: Any, labels: list[str], classes: Sequence[str] | None
) -> tuple[list[str], Callable[[str, Any], Array]]:
    """The names of the classes, and what makes (n, classes) of an answer of labels."""
    pairs = [_pairs(row) for row in answer] if isinstance(answer, list) else []
    whole = bool(pairs) and all(len(row) > 1 for row in pairs)  # every class has a score
    names = sorted({name for row in pairs for name, _ in row}) if whole else list(classes or ())
    names += sorted({*labels} - {*names})
    place = {name: j for j, name in enumerate(names)}

    def read(spec: str, found: Any) -> Array:
        rows = [_pairs(row) for row in found] if whole else [[(name, 1.0)] for name in _labels(found) or ()]
        scores = np.zeros((len(rows), len(names)))
        for i, row in enumerate(rows):
            for name, score in row:
                if name not in place:
                    raise InputError(
                        f"{spec} answered {name!r}; its classes were taken for {', '.join(names[:6])}. Name all of "
                        "them with --classes."
                    )
                scores[i, place[name]] = score
        return np.asarray(scores / scores.sum(axis=1, keepdims=True))

    return names, read


class TextOnnx(OnnxModel):
    """An ONNX graph that takes strings, (n,) or (n, 1)."""

    def __init__(
        self, source: str, texts: Texts, tried: Sequence[str], *, softmax: bool = False, output: str | None = None
    ) -> None:
        self._texts, self._tried = texts, rows_of_texts(tried[:TRIED])
        super().__init__(source, input_shape=SHAPE, softmax=softmax, output=output)

    def _accept(self, inputs: list[Any]) -> None:
        if len(inputs) != 1 or inputs[0].type != "tensor(string)":
            given = ", ".join(f"{i.name} {i.type}" for i in inputs)
            raise InputError(
                f"The ONNX model was expected to take one string tensor, as texts are asked; it takes {given}."
            )
        self._input = inputs[0]

    def _feeds(self, x: Array) -> dict[str, Any]:
        rows = np.array(self._texts.of(x), object)
        return {self._input.name: rows if len(self._input.shape) < 2 else rows.reshape(-1, 1)}

    def _probes(self) -> Array:
        return self._tried

    def _count(self) -> int:
        width = self._run(self._tried).shape[1]
        return 0 if width == 1 else width
