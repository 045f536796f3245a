"""ONNX models through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax as softmax_of

from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.core.types import Array

__all__ = ["OnnxModel", "takes_columns"]

DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


class OnnxModel:
    """An ONNX file or its bytes: one input, and an output of probabilities or of one regression value.

    Of several outputs the last that is not a label is read, so what skl2onnx writes works with and without a zipmap.
    Logits are refused unless `softmax` says that they are. One column with n_classes=2 is the probability of class 1.
    """

    def __init__(
        self,
        source: str | Path | bytes,
        *,
        input_shape: tuple[int, ...] | None = None,
        n_classes: int | None = None,
        softmax: bool = False,
        threads: int = 1,
        batch: int = 1024,
    ) -> None:
        self._session = _session(source, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._accept(inputs)
        self._output = _scores_output(outputs)
        single = next(o.type for o in outputs if o.name == self._output) != "tensor(double)"
        self.precision = "float32" if single else "float64"  # of the answers
        self._softmax = softmax
        declared = inputs[0].shape
        fixed = declared[0] if declared else None
        self._batch = fixed if isinstance(fixed, int) and fixed > 0 else batch
        self._exact = self._batch == fixed
        self.input_shape = _input_shape(declared, input_shape)
        self.n_classes = 0
        self.n_classes = self._count() if n_classes is None else n_classes

    def _accept(self, inputs: list[Any]) -> None:
        """Note the inputs of the graph, or say why they are not what was expected."""
        if len(inputs) != 1 or inputs[0].type not in DTYPES:
            given = ", ".join(f"{i.name} {i.type}" for i in inputs)
            raise InputError(
                f"An ONNX model was expected to take one float tensor; this one takes {given or 'nothing'}."
            )
        self._input = inputs[0]

    def _feeds(self, x: Array) -> dict[str, Any]:
        """The graph's inputs for rows x (n, *input_shape)."""
        return {self._input.name: x.astype(DTYPES[self._input.type])}

    def _count(self) -> int:
        """How many columns the model gives for a row of zeros; one column is a regression."""
        width = self._run(np.zeros((1, *self.input_shape))).shape[1]
        return 0 if width == 1 else width

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes) probabilities, or (n, 1) regression values."""
        parts = [self._run(x[start : start + self._batch]) for start in range(0, len(x), self._batch)]
        scores = np.concatenate(parts) if parts else np.empty((0, max(self.n_classes, 1)))
        if self.n_classes == 2 and scores.shape[1] == 1:
            scores = np.hstack([1 - scores, scores])
        if scores.shape[1] != max(self.n_classes, 1):
            raise InputError(f"{self.n_classes} classes were expected; the ONNX model gives {scores.shape[1]} columns.")
        if self.n_classes and self._softmax:
            scores = softmax_of(scores, axis=1)
        if self.n_classes and not _are_probabilities(scores):
            raise InputError(
                "The ONNX model was expected to give probabilities that sum to 1; it gives other numbers. "
                "If they are logits, say softmax=True (or end the graph with a Softmax)."
            )
        return scores

    def _run(self, x: Array) -> Array:
        rows = np.asarray(x, np.float64)
        n = len(rows)
        if self._exact and n < self._batch:  # the graph was exported for so many rows and no other number
            rows = np.concatenate([rows, np.zeros((self._batch - n, *rows.shape[1:]), rows.dtype)])
        try:
            (out,) = self._session.run([self._output], self._feeds(rows))
        except Exception as error:  # onnxruntime's errors share no class but Exception
            inputs = ", ".join(f"{i.name} {i.shape}" for i in self._session.get_inputs())
            raise InputError(
                f"The ONNX model was given rows of shape {rows.shape[1:]} and refused them: {_first_line(error)}. "
                f"Its input is {inputs}; give input_shape."
            ) from error
        if isinstance(out, list):  # a zipmap: one dict for every row, its keys in the order of the columns
            out = np.array([list(row.values()) for row in out])
        return np.asarray(out, np.float64).reshape(len(rows), -1)[:n]


def takes_columns(source: str | Path | bytes) -> bool:
    """Whether the graph has more than one input, or takes words: an export of a pipeline over a table."""
    inputs = _session(source, 1).get_inputs()
    return len(inputs) > 1 or any(i.type == "tensor(string)" for i in inputs)


def _session(source: str | Path | bytes, threads: int) -> Any:
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


def _scores_output(outputs: list[Any]) -> str:
    usable = [o for o in outputs if o.type in DTYPES or o.type.startswith("seq(map")]
    if not usable:
        raise InputError(
            f"An ONNX model was expected to give probabilities; it gives {', '.join(o.type for o in outputs)}. "
            "Export it with its probabilities."
        )
    return str(usable[-1].name)


def _input_shape(declared: list[Any], given: tuple[int, ...] | None) -> tuple[int, ...]:
    if given is not None:
        return tuple(given)
    if len(declared) < 2 or not all(isinstance(size, int) and size > 0 for size in declared[1:]):
        raise InputError(f"The ONNX model does not say the shape of a row ({declared}); give input_shape.")
    return tuple(declared[1:])


def _are_probabilities(scores: Array) -> bool:
    return bool((scores >= -1e-6).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
