"""Replay: a recorded log through a guard, the same one or another, with the decisions side by side.

The log must hold queries (`[log] queries = true`). A client's requests are replayed in the order of their places
in its journal, whichever replica wrote them down, so the same policy gives the same decisions bit for bit; a log
that begins in the middle of a client's life is replayed as if it began there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

from portcullis_ml.core.errors import InputError, Refused
from portcullis_ml.core.guard import Released
from portcullis_ml.gateway.flow import Admit, Release, Undo
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.querylog import Line
from portcullis_ml.gateway.state.events import JournalEvent
from portcullis_ml.gateway.state.evidence import codes_of
from portcullis_ml.gateway.state.fold import Fold, Outcome, Stream
from portcullis_ml.gateway.state.latest import singled_out
from portcullis_ml.gateway.state.marked import Mark, marking, marks_of, share_marked

__all__ = ["Fate", "Replayed", "replay"]

Moment = tuple[Admit | Release | Undo, Line]  # a step of the flow, and the request's line
KINDS = {Release: "release", Undo: "undo"}  # of the journal's events


@dataclass
class Fate:
    """What became of one client (a principal, as logged): as logged, and under the policy of the replay."""

    client: str
    accounts: list[str] = field(default_factory=list)  # its own, whose rows were answered
    rows: int = 0
    requests: int = 0
    was_refused: int = 0  # requests, as logged
    was_altered: int = 0  # rows, as logged
    refused: int = 0
    altered: int = 0
    stopped_row: int | None = None  # the row of the first alarm
    stopped_at: float | None = None  # and its time
    stage: str = ""
    code: str = ""  # why: the reason code of that alarm ...
    evidence: dict[str, Any] = field(default_factory=dict)  # ... and what it rests on
    marks: int = 0  # questions that the policy's stages have marked ...
    share_marked: float = 0.0  # ... and the share of the rows that were answered with a mark

    @property
    def hurt(self) -> bool:
        return bool(self.refused or self.stopped_row is not None)


@dataclass
class Replayed:
    """A replay's result."""

    fates: dict[str, Fate] = field(default_factory=dict)
    requests: int = 0
    different: list[str] = field(default_factory=list)  # ids of requests decided in another way than logged
    logged_under: list[str] = field(default_factory=list)  # digests of other policies than the one that is replayed
    marking: list[str] = field(default_factory=list)  # stages that mark answers
    marks: dict[str, list[Mark]] = field(default_factory=dict)  # client -> marked questions, as first asked


def replay(lines: Iterable[Line], policy: Policy, *, regroup: bool = False) -> Replayed:
    """Run the policy's guard over a log. With `regroup`, accounts are principals as this policy links them by its keys
    and their names, whatever the log says: what its links would have done. What was logged of a token's or a proxy's
    attributes, or of addresses, nobody knows any more."""
    of_client: dict[str, list[Line]] = defaultdict(list)
    policies = set[str]()
    for line in lines:
        if not line.admitted:
            continue  # turned away before the guard was asked
        if line.x is None:
            raise InputError("This log holds decisions only; a replay needs [log] queries = true.")
        if regroup:  # places in the journals of several principals say nothing of one another
            line = replace(line, principal=policy.clients.principal_of(line.client) or line.client, seq=0, ended=0)
        policies.add(line.policy)
        of_client[line.counts_for].append(line)
    found, streams = Replayed(logged_under=sorted(policies - {"", policy.digest})), dict[str, Stream]()
    fold, refused = Fold(policy.guard(), streams), set[int]()
    for step, line in (moment for held in of_client.values() for moment in _in_order(held)):
        stream = streams.setdefault(line.counts_for, Stream(line.counts_for))
        fate = found.fates.setdefault(line.counts_for, Fate(line.counts_for))
        seq = id(line)
        if isinstance(step, Admit):
            outcome, _ = fold.apply(stream, seq, JournalEvent("admit", step.at, step.work, step.x, by=step.account))
            if isinstance(outcome, Refused):
                refused.add(seq)
            _note_request(found, fate, line, outcome)
        elif seq not in refused:
            clean = step.clean if isinstance(step, Release) else None
            outcome, _ = fold.apply(stream, seq, JournalEvent(KINDS[type(step)], of=seq, answer=clean))
            if isinstance(outcome, Released):
                _note_release(found, fate, line, outcome)
    for client, fate in found.fates.items():
        fate.accounts = list(streams[client].accounts)
    _note_marks(found, fold, streams)
    return found


def _in_order(lines: list[Line]) -> list[Moment]:
    """What happened to one client, in order.

    Replicas that ran at the same time share a journal, and a moment's place there says when it was. A process that
    began after all others had ended may have begun a new journal: its moments come after theirs.
    """
    runs: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        runs[line.run].append(line)
    spans = [(min(x.at for x in held), max(x.at + x.seconds for x in held), held) for held in runs.values()]
    found: list[Moment] = []
    together: list[list[Line]] = []
    end = float("-inf")
    for begin, last, held in sorted(spans, key=itemgetter(0)):
        if begin > end:
            found += _merged(together)
            together = []
        together.append(held)
        end = max(end, last)
    return found + _merged(together)


def _merged(runs: list[list[Line]]) -> list[Moment]:
    """The moments of replicas that ran at the same time, by their places in the journal. One without a place (the
    journal could not be written) comes after what its own process did before it."""
    keyed: list[tuple[int, int, Moment]] = []
    for lines in runs:
        place = 0
        for order, at, moment in sorted((m for held in lines for m in _moments(held)), key=itemgetter(0)):
            place = at if at > 0 else place
            keyed.append((place, order, moment))
    keyed.sort(key=itemgetter(0, 1))
    return [moment for _, _, moment in keyed]


def _moments(line: Line) -> Iterable[tuple[int, int, Moment]]:
    """(the process's count, place in the journal, step, line) of a request's admission and its end."""
    if line.x is not None:  # as `replay` has seen to
        account = line.client if line.client != line.counts_for else ""
        yield line.admitted, line.seq, (Admit(line.counts_for, line.x, line.at, account, line.work), line)
    if line.undone:
        yield line.undone, line.ended, (Undo(line.counts_for, line.seq), line)
    elif line.released and line.clean is not None:
        yield line.released, line.ended, (Release(line.counts_for, line.seq, line.clean), line)


def _note_request(found: Replayed, fate: Fate, line: Line, outcome: Outcome) -> None:
    found.requests += 1
    fate.requests += 1
    was, now = line.decision == "refused", isinstance(outcome, Refused)
    fate.was_refused += was
    fate.refused += now
    if was != now:
        found.different.append(line.id)


def _note_release(found: Replayed, fate: Fate, line: Line, released: Released) -> None:
    altered, alarms = singled_out(released), len(released.alarms)
    before = int(released.altered.sum())  # as earlier versions counted: with what everybody gets
    if (line.altered not in (altered, before) or alarms != line.alarms) and line.id not in found.different[-1:]:
        found.different.append(line.id)
    for alarm in released.alarms:
        if fate.stopped_row is None:
            fate.stopped_row, fate.stopped_at, fate.stage = alarm.row, alarm.at, alarm.stage
            fate.code, fate.evidence = codes_of([alarm]), dict(getattr(alarm, "evidence", {}))
    fate.rows += line.rows
    fate.altered += altered
    fate.was_altered += line.altered


def _note_marks(found: Replayed, fold: Fold, streams: dict[str, Stream]) -> None:
    found.marking = marking(fold.guard)
    for client, fate in found.fates.items():
        found.marks[client] = marks_of(fold.guard, streams[client])
        fate.marks, fate.share_marked = len(found.marks[client]), share_marked(fold.guard, streams[client])
