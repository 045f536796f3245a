"""Replay: a recorded log through a guard, the same one or another, with the decisions side by side.

The log must hold queries (`[log] queries = true`). Requests of one process are replayed in the order in
which it admitted and released them, so the same policy gives the same decisions bit for bit; a log that
begins in the middle of a client's life is replayed as if he began there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from portcullis.core.errors import InputError, Refused
from portcullis.core.guard import Released
from portcullis.gateway.events import Event
from portcullis.gateway.fold import Fold, Outcome, Stream
from portcullis.gateway.policy import Policy
from portcullis.gateway.querylog import Line

__all__ = ["Fate", "Replayed", "replay"]


@dataclass
class Fate:
    """What became of one client: as logged, and under the policy of the replay."""

    client: str
    rows: int = 0
    requests: int = 0
    was_refused: int = 0  # requests, as logged
    was_altered: int = 0  # rows, as logged
    refused: int = 0
    altered: int = 0
    stopped_row: int | None = None  # the row of the first alarm
    stopped_at: float | None = None  # and its time
    stage: str = ""

    @property
    def hurt(self) -> bool:
        return bool(self.refused or self.stopped_row is not None)


@dataclass
class Replayed:
    """A replay's result."""

    fates: dict[str, Fate] = field(default_factory=dict)
    requests: int = 0
    different: list[str] = field(default_factory=list)  # ids of requests decided in another way than logged


def replay(lines: Iterable[Line], policy: Policy) -> Replayed:
    """Run the policy's guard over a log."""
    moments: list[tuple[str, int, str, Line]] = []
    for line in lines:
        if not line.admitted:
            continue  # turned away before the guard was asked
        if line.x is None:
            raise InputError("This log holds decisions only; a replay needs [log] queries = true.")
        moments.append((line.run, line.admitted, "admit", line))
        if line.undone:
            moments.append((line.run, line.undone, "undo", line))
        elif line.released:
            moments.append((line.run, line.released, "release", line))
    moments.sort(key=lambda m: m[:2])
    found, streams = Replayed(), dict[str, Stream]()
    fold, refused = Fold(policy.guard(), streams), set[int]()
    for _, _, kind, line in moments:
        stream = streams.setdefault(line.client, Stream(line.client))
        fate = found.fates.setdefault(line.client, Fate(line.client))
        seq = id(line)
        if kind == "admit":
            outcome, _ = fold.apply(stream, seq, Event("admit", line.at, x=line.x))
            if isinstance(outcome, Refused):
                refused.add(seq)
            _note_request(found, fate, line, outcome)
        elif seq not in refused:
            outcome, _ = fold.apply(stream, seq, Event(kind, of=seq, answer=line.clean))
            if isinstance(outcome, Released):
                _note_release(found, fate, line, outcome)
    return found


def _note_request(found: Replayed, fate: Fate, line: Line, outcome: Outcome) -> None:
    found.requests += 1
    fate.requests += 1
    was, now = line.decision == "refused", isinstance(outcome, Refused)
    fate.was_refused += was
    fate.refused += now
    if was != now:
        found.different.append(line.id)


def _note_release(found: Replayed, fate: Fate, line: Line, released: Released) -> None:
    altered = int(released.altered.sum())
    if (altered, len(released.alarms)) != (line.altered, line.alarms) and line.id not in found.different[-1:]:
        found.different.append(line.id)
    for alarm in released.alarms:
        if fate.stopped_row is None:
            fate.stopped_row, fate.stopped_at, fate.stage = alarm.row, alarm.at, alarm.stage
    fate.rows += line.rows
    fate.altered += altered
    fate.was_altered += line.altered
