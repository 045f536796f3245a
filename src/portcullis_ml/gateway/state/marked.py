"""The questions of a client that stages of the guard have marked, as the fold has them in memory."""

from __future__ import annotations

from dataclasses import dataclass

from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Array
from portcullis_ml.gateway.state.fold import Stream

__all__ = ["Mark", "marking", "marks_of", "share_marked"]

MARKS = "dawn"  # the unit that marks answers


@dataclass(frozen=True)
class Mark:
    """One marked question: by which stage, when it was first asked, the class that was served, and its inputs (d,)."""

    stage: str
    at: float
    label: int
    x: Array


def marking(guard: Guard) -> list[str]:
    """The names of the stages that mark answers."""
    return [name for name, stage in zip(guard.names, guard.stages, strict=True) if stage.name == MARKS]


def marks_of(guard: Guard, stream: Stream) -> list[Mark]:
    """A client's marked questions, in the order in which they were first asked."""
    states = [(name, stream.states.get(name)) for name in marking(guard)]
    return [
        Mark(name, at, int(label), x)
        for name, state in states
        if state is not None
        for at, label, x in zip(state.at, state.labels, state.x, strict=True)
    ]


def share_marked(guard: Guard, stream: Stream) -> float:
    """The share of a client's answered rows that carried a mark, repeated questions included."""
    marked = sum(stream.decided.get(name, {}).get("changed", 0) for name in marking(guard))
    return marked / stream.tally["rows"] if stream.tally["rows"] else 0.0
