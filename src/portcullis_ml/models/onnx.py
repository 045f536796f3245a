"""ONNX models through ONNX Runtime."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax as softmax_of

from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.core.types import Array
from portcullis_ml.models.outputs import are_probabilities
from portcullis_ml.models.whole import whole_numbers
from portcullis_ml.models.words import word_of

__all__ = ["OnnxModel", "column_inputs", "takes_columns"]

DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    **{f"tensor({t.__name__})": t for t in (np.int64, np.int32, np.int16, np.int8, np.uint32, np.uint16, np.uint8)},
}
FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)")
ZIPMAP = "seq(map"
LABELS = ("tensor(int64)", "tensor(string)")
LIKELY = re.compile("prob|softmax|score", re.IGNORECASE)
POSSIBLE = re.compile("logit", re.IGNORECASE)
PROBED = 16  # rows with which outputs are compared


class OnnxModel:
    """An ONNX file or its bytes: one input, and an output of probabilities or of one regression value.

    `output` names the output to read. Otherwise, of several, the one whose rows are probabilities, or that is called
    so, or the last that is not a label: what skl2onnx writes works with a zipmap, without one and with one output for
    each class. Logits are refused unless `softmax` says that they are; rows that already sum to 1 are left as they are.
    One column with n_classes=2 is the probability of class 1.
    """

    def __init__(
        self,
        source: str | Path | bytes,
        *,
        input_shape: tuple[int, ...] | None = None,
        n_classes: int | None = None,
        softmax: bool = False,
        output: str | None = None,
        threads: int = 1,
        batch: int = 1024,
    ) -> None:
        self._session = open_session(source, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._accept(inputs)
        self.classes: tuple[str, ...] | None = None
        self._label = next((o.name for o in outputs if o.type in LABELS), None)
        self.softmax = softmax
        declared = inputs[0].shape
        fixed = declared[0] if declared else None
        self._batch = fixed if isinstance(fixed, int) and fixed > 0 else batch
        self._exact = self._batch == fixed
        self.input_shape = _input_shape(declared, input_shape)
        self.outputs = _candidates(outputs)  # {name: the graph's outputs that make it up}
        self.output = self._chosen(output)
        read = self.outputs[self.output]
        single = all(o.type != "tensor(double)" for o in outputs if o.name in read)
        self.precision = "float32" if single else "float64"  # of the answers
        self.n_classes = 0
        self.n_classes = self._count() if n_classes is None else n_classes

    def _accept(self, inputs: list[Any]) -> None:
        """Note the inputs of the graph, or say why they are not what was expected."""
        if len(inputs) != 1 or inputs[0].type not in DTYPES:
            given = ", ".join(f"{i.name} {i.type}" for i in inputs)
            raise InputError(
                f"An ONNX model was expected to take one tensor of numbers; this one takes {given or 'nothing'}."
            )
        self._input = inputs[0]

    def _feeds(self, x: Array) -> dict[str, Any]:
        """The graph's inputs for rows x (n, *input_shape)."""
        return {self._input.name: as_dtype(x, self._input.type)}

    def _probes(self) -> Array:
        """Rows with which outputs are compared."""
        return np.random.default_rng(0).uniform(size=(PROBED, *self.input_shape))

    def _chosen(self, asked: str | None) -> str:
        """The output to read: as asked for, or the likeliest."""
        names = list(self.outputs)
        if asked is not None:
            if asked not in names:
                raise InputError(f"The ONNX model has no output {asked!r} to read; it has {', '.join(names)}.")
            return asked
        if len(names) == 1:
            return names[0]
        rows = self._probes()
        found = {name: self._columns(rows, self.outputs[name]) for name in names}
        sure = [name for name, z in found.items() if z.shape[1] > 1 and are_probabilities(z)]
        for some in (sure, names):
            for word in (LIKELY, POSSIBLE):
                if called := [name for name in some if word.search(name)]:
                    return called[0]
        return sure[-1] if sure else names[-1]

    def _count(self) -> int:
        """How many columns the model gives for a row of zeros; one column is a regression."""
        width = self._run(np.zeros((1, *self.input_shape))).shape[1]
        return 0 if width == 1 else width

    def class_words(self, x: Array) -> tuple[str, ...] | None:
        """The words of the classes in the order of the columns, as far as rows x (n, *input_shape) tell; None if they
        do not. A class that no row has is "?3", after its column."""
        first = self._session.run([self.outputs[self.output][0]], self._feeds(self._filled(x[:1])))[0]
        if isinstance(first, list):
            return tuple(word_of(key) for key in first[0])
        if self._label is None:
            return None
        words = [f"?{j}" for j in range(max(self.n_classes, 1))]
        for start in range(0, len(x), self._batch):
            rows = x[start : start + self._batch]
            (labels,) = self._session.run([self._label], self._feeds(self._filled(rows)))
            for column, label in zip(self._run(rows).argmax(axis=1), np.ravel(labels).tolist(), strict=False):
                words[column] = word_of(label)
        return tuple(words) if len(set(words)) == len(words) else None

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes) probabilities, or (n, 1) regression values."""
        parts = [self._run(x[start : start + self._batch]) for start in range(0, len(x), self._batch)]
        scores = np.concatenate(parts) if parts else np.empty((0, max(self.n_classes, 1)))
        if self.n_classes == 2 and scores.shape[1] == 1:
            scores = np.hstack([1 - scores, scores])
        if scores.shape[1] != max(self.n_classes, 1):
            raise InputError(f"{self.n_classes} classes were expected; the ONNX model gives {scores.shape[1]} columns.")
        if self.n_classes and self.softmax and not are_probabilities(scores):
            scores = softmax_of(scores, axis=1)
        if self.n_classes and not are_probabilities(scores):
            raise InputError(
                "The ONNX model was expected to give probabilities that sum to 1; it gives other numbers. "
                "If they are logits, say --softmax (softmax=True in Python), or end the graph with a Softmax."
            )
        return np.maximum(scores, 0) if self.n_classes else scores  # sums of float32 may end a little below 0

    def raw(self, x: Array) -> Array:
        """(n, columns) the graph's own numbers."""
        return self._run(x)

    def needs_softmax(self, x: Array) -> bool:
        """Whether the graph's own answers to rows x are no probabilities."""
        return not are_probabilities(self._run(x))

    def _run(self, x: Array) -> Array:
        return self._columns(np.asarray(x, np.float64), self.outputs[self.output])

    def _filled(self, rows: Array) -> Array:
        """As many rows as the graph was exported for, where it takes no other number."""
        n = len(rows)
        if not self._exact or n == self._batch:
            return rows
        return np.concatenate([rows, np.zeros((self._batch - n, *rows.shape[1:]), rows.dtype)])

    def _columns(self, rows: Array, read: tuple[str, ...]) -> Array:
        """(n, columns) of these outputs for at most a batch of rows."""
        n = len(rows)
        if n > self._batch:
            return np.concatenate([self._columns(rows[i : i + self._batch], read) for i in range(0, n, self._batch)])
        rows = self._filled(rows)
        try:
            found = self._session.run(list(read), self._feeds(rows))
        except Exception as error:  # onnxruntime's errors share no class but Exception
            inputs = ", ".join(f"{i.name} {i.shape}" for i in self._session.get_inputs())
            raise InputError(
                f"The ONNX model was given rows of shape {rows.shape[1:]} and refused them: {_first_line(error)}. "
                f"Its input is {inputs}: give rows of that shape."
            ) from error
        columns = [_numbers(out).reshape(len(rows), -1)[:n] for out in found]
        return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)


def as_dtype(x: Array, kind: str) -> Any:
    """Rows in the type of a tensor; the nearest whole numbers of that type where it takes no others."""
    dtype = DTYPES.get(kind, np.int64)
    return x.astype(dtype) if kind in FLOATS else whole_numbers(x, dtype)


def _numbers(out: Any) -> Array:
    if isinstance(out, list):  # a zipmap: one dict for every row, its keys in the order of the columns
        out = np.array([list(row.values()) for row in out])
    return np.asarray(out, np.float64)


def column_inputs(source: str | Path | bytes) -> dict[str, bool]:
    """{name: whether it takes words} of a graph with one input for every column; empty for another graph."""
    inputs = open_session(source, 1).get_inputs()
    widths = [i.shape[1] if len(i.shape) > 1 and isinstance(i.shape[1], int) else 1 for i in inputs]
    single = all(width == 1 for width in widths) and (len(inputs) > 1 or inputs[0].type == "tensor(string)")
    return {i.name: i.type == "tensor(string)" for i in inputs} if single else {}


def takes_columns(source: str | Path | bytes) -> bool:
    """Whether the graph has more than one input, or takes words: an export of a pipeline over a table."""
    inputs = open_session(source, 1).get_inputs()
    return len(inputs) > 1 or any(i.type == "tensor(string)" for i in inputs)


def open_session(source: str | Path | bytes, threads: int = 1) -> Any:
    """ONNX Runtime's session of a file or of its bytes, on the CPU. InputError where it cannot be read."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtra("An ONNX model", "onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(
            source if isinstance(source, bytes) else str(source), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors share no class but Exception
        name = "The bytes given" if isinstance(source, bytes) else str(source)
        raise InputError(
            f"{name} was expected to hold an ONNX model; ONNX Runtime cannot read it ({_first_line(error)}). "
            "The file may be cut short: export or download it again."
        ) from error


def _candidates(outputs: list[Any]) -> dict[str, tuple[str, ...]]:
    """What may be read: every output of numbers by itself, or all of them together where each holds one class."""
    usable = [o for o in outputs if o.type in FLOATS or o.type.startswith(ZIPMAP)]
    if not usable:
        raise InputError(
            f"An ONNX model was expected to give probabilities; it gives {', '.join(o.type for o in outputs)}. "
            "Export it with its probabilities."
        )
    single = [o.name for o in usable if o.type in FLOATS and (len(o.shape) < 2 or o.shape[1:] == [1])]
    if len(usable) > 1 and len(single) == len(usable):
        return {" + ".join(single): tuple(single)}
    return {o.name: (o.name,) for o in usable}


def _input_shape(declared: list[Any], given: tuple[int, ...] | None) -> tuple[int, ...]:
    if given is not None:
        return tuple(given)
    if len(declared) < 2 or not all(isinstance(size, int) and size > 0 for size in declared[1:]):
        raise InputError(
            f"The ONNX model does not say the shape of a row ({declared}); give input_shape, or test rows."
        )
    return tuple(declared[1:])


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
