"""From what a model server sent to an Answer, and how the classes of an answer are written.

What the server says of the form of its answer is held against what the model's answer must be. A server that counts
the rows in another order than the gate, or names its classes in another way, is found out here and not believed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer, Array, Interface, Labels, Reveals
from portcullis_ml.gateway.protocols.wire import ModelSpec

__all__ = ["answer_from", "class_values", "label_type", "named_classes", "spread", "top_answer"]

ROUNDING = 1e-6  # by which a probability in 32 bits may lie outside of [0, 1]


def answer_from(served: ModelSpec, n: int, scores: Any, labels: Any, explanation: Any = None) -> Answer:
    """An Answer from the arrays or nested lists that a far side sent. Its labels win over the argmax, and one
    column of scores for two classes is the probability of the second. Raises Unreachable."""
    known = None if scores is None else _scores(served, n, _numbers(scores))
    found: Labels | None = None
    if labels is not None and served.interface.n_classes:
        found = _classes(served, n, labels)
    elif known is not None and served.interface.n_classes:
        withheld = np.isnan(known)
        found = known.argmax(axis=1)
        if withheld.any():
            found = np.where(withheld.all(axis=1), -1, np.where(withheld, -np.inf, known).argmax(axis=1))
    return Answer(found, known, None if explanation is None else _explained(served, n, _numbers(explanation)))


def top_answer(served: ModelSpec, n: int, found: Any, labels: Any, explanation: Any = None) -> Answer:
    """An Answer from the score of each row's named class. The other classes' are withheld, but of two classes the other
    one has what is missing to 1. Raises Unreachable."""
    if labels is None:
        raise Unreachable("The model server must answer the class of each score; it sent none.")
    named, classes = answer_from(served, n, None, labels, explanation), served.interface.n_classes
    if named.labels is None or not ((-1 <= named.labels) & (named.labels < classes)).all():
        raise Unreachable(f"The model server's classes must be 0 to {classes - 1}.")
    p = _numbers(found)
    if not _is(p.shape, n, ()):
        raise _misshapen("scores", n, (), p.shape)
    scores, known = np.full((n, classes), np.nan), np.flatnonzero(named.labels >= 0)
    p, at = p.reshape(n)[known], named.labels[known]
    if classes == 2:
        scores[known, 1 - at] = _two_columns(p)[:, 0]
    scores[known, at] = p
    return Answer(named.labels, scores, named.explanation)


def spread(answer: Answer, interface: Interface) -> Answer:
    """The answer of a model that tells its best scores alone, for a guard that reads all scores: what is missing to 1
    stands evenly over the other classes. Nobody is shown it. Other answers are as they are."""
    if interface.reveals is not Reveals.TOP_K or answer.scores is None or answer.labels is None:
        return answer
    missing = np.isnan(answer.scores) & ~np.isnan(answer.scores).all(axis=1, keepdims=True)
    rest = np.maximum(1 - np.nansum(answer.scores, axis=1), 0.0) / np.maximum(missing.sum(axis=1), 1)
    return Answer(answer.labels, np.where(missing, rest[:, None], answer.scores), answer.explanation)


def named_classes(served: ModelSpec, found: list[Any]) -> Labels:
    """The numbers of classes as a far side calls them; -1 for null. Raises Unreachable where one is not known."""
    return _classes(served, len(found), found)


def _numbers(found: Any) -> Array:
    try:
        return np.asarray(found, np.float64)
    except (TypeError, ValueError):
        raise Unreachable("The model server must answer lists of numbers; it sent something else.") from None


def _scores(served: ModelSpec, n: int, found: Array) -> Array:
    columns = served.interface.columns
    if served.interface.n_classes == 2 and _is(found.shape, n, ()):
        return _two_columns(found.reshape(n))
    if not _is(found.shape, n, (columns,)):
        raise _misshapen("scores", n, (columns,), found.shape)
    return found.reshape(n, columns)


def _two_columns(p: Array) -> Array:
    """(n, 2) the probabilities of both classes from those of the second."""
    if (p < -ROUNDING).any() or (p > 1 + ROUNDING).any():
        raise Unreachable(
            "One column of scores for two classes must be the probability of the second, from 0 to 1; "
            f"the model server sent {float(p[np.abs(p - 0.5).argmax()]):g}."
        )
    p = np.clip(p, 0.0, 1.0)
    return np.stack([1 - p, p], axis=1)


def _explained(served: ModelSpec, n: int, found: Array) -> Array:
    shape = served.explained
    if not _is(found.shape, n, shape) and not _is(found.shape, n, (math.prod(shape),)):
        raise _misshapen("explanations", n, shape, found.shape)
    return found.reshape(n, *shape)


def _is(shape: tuple[int, ...], n: int, row: tuple[int, ...]) -> bool:
    """Whether an array of this shape is n rows of the other one. Axes of length 1 may be more or fewer behind the
    first, which alone may be left out for a single row."""
    wanted = [s for s in row if s != 1]
    if shape[:1] == (n,) and [s for s in shape[1:] if s != 1] == wanted:
        return True
    return n == 1 and len(shape) <= len(row) and [s for s in shape if s != 1] == wanted


def _misshapen(what: str, n: int, row: tuple[int, ...], shape: tuple[int, ...]) -> Unreachable:
    wanted, sent = " x ".join(map(str, (n, *row))), " x ".join(map(str, shape)) or "a single value"
    return Unreachable(f"The model server must answer {what} of shape {wanted}; it sent {sent}.")


# Classes, which are counted from 0 inside the gate and may have names on the wire.


def _classes(served: ModelSpec, n: int, found: Any) -> Labels:
    """(n,) the classes' numbers; -1 where none was sent."""
    try:
        array = found if isinstance(found, np.ndarray) else np.array(found, object)
    except ValueError:
        raise Unreachable("The model server must answer one class for each row; it sent ragged lists.") from None
    if not _is(array.shape, n, ()):
        raise _misshapen("classes", n, (), array.shape)
    if array.dtype.kind != "O" and not served.class_names:
        return _whole(array.reshape(-1).astype(np.float64))
    values = array.reshape(-1).tolist()
    kinds = set(map(type, values))
    if kinds <= {str} | NUMBERS and served.class_names:
        return np.array([_number_of(served, value) for value in values], np.int64)
    if str in kinds:
        words = ", ".join(dict.fromkeys(repr(str(v)[:40]) for v in values[:3]))
        raise Unreachable(
            f"The model server answers classes as words ({words}); name all of them in the order of the model's "
            "scores: [model] classes = [...] in a policy, --classes A,B,... of an audit."
        )
    if not kinds <= NUMBERS:
        raise Unreachable("The model server must answer classes as whole numbers or words; it sent something else.")
    return _whole(np.array([np.nan if v is None else v for v in values], np.float64))


NUMBERS = {int, float, bool, type(None)}


def _whole(found: Array) -> Labels:
    """Whole numbers as they are, and NaN as -1."""
    withheld = np.isnan(found)
    if not (withheld | (found == np.floor(found))).all():
        raise Unreachable("The model server must answer classes as whole numbers or words; it sent fractions.")
    return np.where(withheld, -1, np.clip(found, -2, 2**53)).astype(np.int64)


def _number_of(served: ModelSpec, value: Any) -> int:
    """A class's number by what it is called, or by its number where all classes are called by words."""
    known: dict[Any, int] = served.made.get("classes") or served.made.setdefault("classes", _numbered(served))
    if value is None or value != value:
        return -1
    try:
        return known[value]
    except KeyError:
        shown = f"{value:g}" if isinstance(value, float) else repr(value[:40] if isinstance(value, str) else value)
        raise Unreachable(
            f"The model server answered the class {shown}; [model] classes in the policy does not name it."
        ) from None


def _numbered(served: ModelSpec) -> dict[Any, int]:
    numbers = {name: i for i, name in enumerate(served.class_names)}
    return numbers if label_type(served) != "BYTES" else {**{i: i for i in range(len(numbers))}, **numbers}


def label_type(served: ModelSpec) -> str:
    """The datatype of a tensor of classes."""
    kinds: dict[type, str] = {bool: "BOOL", str: "BYTES"}
    return kinds.get(type(served.class_names[0]), "INT64") if served.class_names else "INT64"


def class_values(served: ModelSpec, labels: Labels) -> Any:
    """The classes as they are called on the wire; those that have names are null where withheld, the others -1."""
    if not served.class_names:
        return np.ascontiguousarray(labels)
    return [served.class_names[k] if k >= 0 else None for k in labels.tolist()]
