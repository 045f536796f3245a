"""Pictures, or some texts, of what a thief asked, as a record's note, for who reads the report.

{"shape", "rounds": [{"first", "last", "counts": asked rows by answered class, "pictures": {class: row}}, ...],
"surest": [{"row", "class", "score"}, ...]}; first and last count rows from 1, a row is 8-bit pixels in base64.
Of texts: {"texts": [{"class", "n": how many were answered so, "texts": the first of them}, ...]}.
"""

from __future__ import annotations

import base64
from itertools import pairwise
from typing import Any

import numpy as np

from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.types import Array, Interface, Labels
from portcullis_ml.models.networks import channels_first
from portcullis_ml.models.texts import TextInterface

__all__ = ["asked_note"]

ROUNDS, CLASSES, SUREST = 4, 12, 12  # at most
EACH, LETTERS = 3, 160  # texts of a class, and letters of a text, at most
SIDE = 32  # pixels of a side at most; of larger pictures every second, third, ... pixel is kept


def asked_note(extraction: Extraction, interface: Interface) -> dict[str, Any] | None:
    """The first picture of every round and answered class, and those that the victim was surest about.

    Rounds are quarters of the questions. None where rows are no pictures, or where no label was answered.
    """
    labels = extraction.answer.labels
    if isinstance(interface, TextInterface) and labels is not None:
        return {"texts": _texts(extraction, labels, interface)}
    if len(interface.input_shape) not in (2, 3) or labels is None or not (labels >= 0).any():
        return None
    drawn = _Pixels(extraction.x, interface)
    counts = np.bincount(labels[labels >= 0], minlength=interface.n_classes)
    classes = np.sort(np.argsort(-counts, kind="stable")[:CLASSES])
    edges = np.linspace(0, len(labels), min(ROUNDS, len(labels)) + 1).astype(int)
    rounds = []
    for start, end in pairwise(edges):
        part = labels[start:end]
        first = {int(c): start + int(np.flatnonzero(part == c)[0]) for c in classes if (part == c).any()}
        rounds.append({
            "first": int(start) + 1,
            "last": int(end),
            "counts": {int(c): int((part == c).sum()) for c in classes},
            "pictures": {c: drawn[i] for c, i in first.items()},
        })  # fmt: skip
    return {"shape": list(drawn.shape), "rounds": rounds, "surest": _surest(extraction, labels, drawn)}


def _texts(extraction: Extraction, labels: Labels, interface: TextInterface) -> list[dict[str, Any]]:
    """The first texts asked of every answered class, cut short."""
    found = []
    for c in np.unique(labels[labels >= 0])[:CLASSES].tolist():
        rows = np.flatnonzero(labels == c)
        first = interface.texts.of(extraction.x[rows[:EACH]])
        found.append({"class": c, "n": len(rows), "texts": [t[:LETTERS] + "…" * (len(t) > LETTERS) for t in first]})
    return found


class _Pixels:
    """Rows as 8-bit pixels in base64, channels last and thinned."""

    def __init__(self, x: Array, interface: Interface) -> None:
        self._x, self._interface = x, interface
        self._first = channels_first(interface.input_shape)
        self.shape = self._thinned(x[0]).shape

    def __getitem__(self, i: int) -> str:
        low, high = (edge.reshape(self._interface.input_shape) for edge in (self._interface.low, self._interface.high))
        bright = np.clip(np.nan_to_num((self._x[i] - low) / (high - low)), 0, 1)
        return base64.b64encode((255 * self._thinned(bright)).round().astype(np.uint8).tobytes()).decode()

    def _thinned(self, row: Array) -> Array:
        row = np.moveaxis(row, 0, -1) if self._first else row
        step = -(-max(row.shape[:2]) // SIDE)
        return row[::step, ::step]


def _surest(extraction: Extraction, labels: Labels, drawn: _Pixels) -> list[dict[str, Any]]:
    """The row with the greatest score of every answered class, the surest classes first."""
    scores = extraction.answer.scores
    if scores is None:
        return []
    top = np.nan_to_num(scores[np.arange(len(labels)), np.maximum(labels, 0)])
    top[labels < 0] = 0
    best = [int(np.where(labels == c, top, -1.0).argmax()) for c in np.unique(labels[labels >= 0])]
    best = sorted((i for i in best if top[i] > 0), key=lambda i: -top[i])[:SUREST]
    return [{"row": drawn[i], "class": int(labels[i]), "score": round(float(top[i]), 4)} for i in best]
