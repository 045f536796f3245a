"""What the dashboard shows of a gate and its clients, as plain values for the pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlencode

from portcullis_ml.core.guard import Defense, Guard
from portcullis_ml.core.settings import describe
from portcullis_ml.gateway.admin.metrics import Metrics
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.policy.unit_words import unit_in_words
from portcullis_ml.gateway.state.evidence import accounts_of
from portcullis_ml.gateway.state.fold import OPERATOR, Stream, alarmed
from portcullis_ml.gateway.state.latest import Latest, words
from portcullis_ml.gateway.state.marked import marking, marks_of, share_marked
from portcullis_ml.gateway.state.stores import StateStore
from portcullis_ml.gateway.state.streams import Streams

__all__ = ["Chart", "Shown", "counters", "one", "overview", "summaries"]

SHOWN = 200  # clients on the first page
ACCOUNTS_SHOWN = 20  # of a principal
ALARMS = 100  # that are looked through for the first page
WIDTH, HEIGHT = 600, 120


class Shown(Protocol):
    """The part of a gate that pages show."""

    streams: Streams
    metrics: Metrics

    @property
    def policy(self) -> Policy: ...

    @property
    def trouble(self) -> str: ...


class Chart(NamedTuple):
    """A line over a client's rows."""

    title: str
    points: str  # of an SVG polyline
    threshold: float | None = None  # where to draw it, from the top


async def overview(gate: Shown, store: StateStore) -> dict[str, Any]:
    """The first page: every client in memory, the latest seen first, with alarms and what operators did."""
    alarms = await store.alarms(limit=ALARMS)
    streams = sorted(gate.streams.open.values(), key=lambda s: -s.last)[:SHOWN]
    earlier = {a.client for _, a in alarms}
    return {
        "streams": [_row(gate, s, s.client in earlier) for s in streams],
        "alarms": [a for _, a in alarms[:20]],
        "alarm_count": len(alarms) if len(alarms) < ALARMS else f"{ALARMS} or more",
        "operations": await store.operator_log(20),
        "mode": gate.policy.mode,
        "trouble": gate.trouble,
        "model": gate.policy.served.name,
        "requests": gate.metrics.requests,
        "rows": gate.metrics.rows,
        "known": len(await store.clients()),
        "marking": marking(gate.streams.fold.guard),
    }


async def summaries(models: Sequence[tuple[Shown, StateStore]]) -> list[dict[str, Any]]:
    """A row for each of several models, in the main policy's order."""
    found = []
    for gate, store in models:
        model, alarms = gate.policy.served.id, len(await store.alarms(limit=ALARMS))
        found.append(
            {
                "model": model,
                "of": urlencode({"model": model}),
                "mode": gate.policy.mode,
                "trouble": gate.trouble,
                "requests": gate.metrics.requests,
                "rows": gate.metrics.rows,
                "known": len(await store.clients()),
                "alarm_count": alarms if alarms < ALARMS else f"{ALARMS} or more",
            }
        )
    return found


async def one(gate: Shown, store: StateStore, name: str) -> dict[str, Any]:
    """A client's own page."""
    stream, guard = await gate.streams.look(name), gate.streams.fold.guard
    alarms = [a for _, a in await store.alarms(limit=500) if a.client == name]
    return {
        **_row(gate, stream, bool(alarms)),
        "alarms": alarms,
        "contact": gate.policy.alarms.contact if gate.policy.alarms else "",
        "operations": [d for d in await store.operator_log() if d["client"] == name],
        "stages": [_stage(n, s, stream) for n, s in zip(guard.names, guard.stages, strict=True)],
        "by_operators": stream.decided.get(OPERATOR, {}).get("refused", 0),
        "marking": marking(guard),
        "enforced": gate.policy.enforced,
        "latest": [_latest(gate.policy, held) for held in reversed(stream.latest)],
        "charts": list(_charts(guard, stream)),
        "width": WIDTH,
        "height": HEIGHT,
    }


async def counters(gate: Shown, store: StateStore, *, after: str, limit: int) -> dict[str, Any]:
    """For programs: so many clients in the order of their names behind `after`, and under "next" where to go on."""
    names = sorted(name for name in {*await store.clients(), *gate.streams.open} if name > after)
    earlier = {a.client for _, a in await store.alarms(limit=ALARMS)}
    found = []
    for name in names[:limit]:
        row = _row(gate, await gate.streams.look(name), name in earlier)
        found.append({"client": row.pop("name"), **{k: v for k, v in row.items() if k not in ("query", "loud")}})
    return {"clients": found, "next": names[limit - 1] if len(names) > limit else None}


def _latest(policy: Policy, held: Latest) -> dict[str, Any]:
    """A row of one of the latest answers in words: the model's, and what the client was shown of it."""
    names = policy.served.class_names
    before, after = words(held.before, names), words(held.after.only(policy.shown), names)
    return {"at": held.at, "rows": held.rows, "before": before, "after": after, "differs": before != after}


def _row(gate: Shown, stream: Stream, earlier: bool) -> dict[str, Any]:
    """What every page shows of a client; `earlier` says that an alarm of theirs is on record."""
    guard = gate.streams.fold.guard
    acting = alarmed(guard, stream)
    blockers = [stream.blocked] if stream.blocked else [name for name, stage, _ in acting if stage.blocks]
    standing = ""
    if blockers:
        standing = f"{'blocked' if gate.policy.enforced else 'would be blocked'} by {blockers[0]}"
    elif acting:
        standing = f"alarm at {acting[0][0]}"
    accounts = [] if set(stream.accounts) <= {stream.client} else accounts_of(stream.accounts)
    return {
        "name": stream.client,
        "accounts": accounts[:ACCOUNTS_SHOWN],
        "account_count": len(accounts),
        "query": urlencode({"name": stream.client}),
        **stream.tally,
        "suspicion": _loudest(guard, stream),
        "samples": stream.curve[-1].kept if stream.curve else 0,
        "marks": len(marks_of(guard, stream)),
        "share_marked": f"{100 * share_marked(guard, stream):.2g}%",
        "last": stream.last,
        "standing": standing or ("earlier alarm" if earlier else ""),
        "loud": bool(standing),
    }


def _loudest(guard: Guard, stream: Stream) -> str:
    """The suspicion that is nearest to its threshold, or furthest beyond it: "2.9 of 3"."""
    found = stream.curve[-1].suspicions if stream.curve else {}
    known = [(found[n], t) for n, t in _thresholds(guard).items() if n in found]
    if not known:
        return ""
    suspicion, threshold = max(known, key=lambda pair: (pair[0] - pair[1]) / (abs(pair[1]) or 1.0))
    return f"{suspicion:.2g} of {threshold:.2g}"


def _thresholds(guard: Guard) -> dict[str, float]:
    """Stage -> the suspicion above which it sounds an alarm."""
    pairs = zip(guard.names, guard.stages, strict=True)
    return {name: found[0].threshold for name, stage in pairs if (found := stage.detectors())}


def _stage(name: str, stage: Defense[Any], stream: Stream) -> dict[str, Any]:
    """What one stage does, and what it has decided about this client."""
    state, detectors = stream.states.get(name), stage.detectors()
    alarm = None if state is None else stage.alarm(state)
    suspicion = stream.curve[-1].suspicions.get(name) if stream.curve else None
    verdict, decided = "-" if suspicion is None else f"{suspicion:.3g}", stream.decided.get(name, {})
    return {
        "name": name,
        "words": unit_in_words(describe(stage)),
        "for_all": stage.same_for_all,
        "changed": decided.get("changed", 0),
        "refused": decided.get("refused", 0),
        "suspicion": f"{verdict} of {detectors[0].threshold:.3g}" if detectors else "",
        "alarm": "" if alarm is None else f"row {alarm[0]}",
    }


def _charts(guard: Guard, stream: Stream) -> Iterable[Chart]:
    for name, threshold in _thresholds(guard).items():
        points = [(p.rows, max(p.suspicions[name], 0.0)) for p in stream.curve if name in p.suspicions]
        top = 1.1 * max([threshold, *(v for _, v in points)])
        now = f"{points[-1][1]:.3g} now, " if points else ""
        title = f"Suspicion of {name}: {now}alarm above {threshold:.3g}"
        yield Chart(title, _line(points, top), HEIGHT - HEIGHT * threshold / top if top > 0 else None)
    kept = [(0, 0.0), *((p.rows, float(p.kept)) for p in stream.curve)]
    most = max(k for _, k in kept)
    yield Chart(f"Growing set: {most:.0f} samples at most", _line(kept, 1.1 * most))


def _line(points: list[tuple[int, float]], top: float) -> str:
    """Points of an SVG polyline, scaled to the chart."""
    right = max(points[-1][0], 1) if points else 1
    return " ".join(f"{WIDTH * x / right:.1f},{HEIGHT - HEIGHT * v / (top or 1.0):.1f}" for x, v in points)
