"""A self-test of a policy's limits: each is reached once, on a guard and a gate of their own that nobody else asks.

Nothing is asked of the model server and nothing is written: states are in memory, time is made up, and an alarm is set
by hand in place of an attack. What is tried is the object that will serve: the policy's own stages and settings.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from portcullis_ml.core.errors import Refused
from portcullis_ml.core.guard import Guard, changed
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.types import Answer, Interface, Request, Reveals
from portcullis_ml.gateway.policy.model_table import undefended
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.policy.unit_words import named_limit
from portcullis_ml.gateway.rates import AHEAD_S
from portcullis_ml.gateway.selftest_limits import NOW, Tried, at_once, of_whom, pair, rates, sizes
from portcullis_ml.gateway.state.events import JournalEvent
from portcullis_ml.gateway.state.fold import Fold, Stream

__all__ = ["Tried", "tried", "written_down"]

ROWS = 8  # of the answer that a consequence is tried on
log = logging.getLogger("portcullis.gate")
OBSERVED = 'mode = "observe" lets every answer out as it is'


def tried(policy: Policy) -> list[Tried]:
    """Every limit of the policy, each tried once. What a stage of somebody else's raises is told, not raised."""
    stages = enumerate(policy.guard().stages, 1)
    trials = [
        *((f"stage {i}", _stage(policy, stage, f"stage {i}")) for i, stage in stages),
        ("an operator's block", _operators_block(policy)),
        ("rates", rates(policy.limits)),
        ("requests at once", at_once(policy)),
        ("sizes", sizes(policy)),
    ]
    return [found for name, trial in trials for found in _safely(name, trial)]


def written_down(policy: Policy) -> None:
    """Try the limits and write one record: those that bite, those that never do, and those that were not tried."""
    found, names = tried(policy), {True: "bite", False: "never", None: "not_tried"}
    about = {name: [str(t) for t in found if t.bites is bites] for bites, name in names.items()}
    log.log(logging.WARNING if about["never"] else logging.INFO, "the limits were tried", extra=about)


def _safely(name: str, trial: Iterator[Tried]) -> Iterator[Tried]:
    try:
        yield from trial
    except Exception as error:
        yield Tried(name, f"not tried, as it raised {type(error).__name__}: {error}", None)


def _stage(policy: Policy, stage: Any, where: str) -> Iterator[Tried]:
    """A quota, a watch whose alarm is set, or a charge; other stages limit nobody."""
    if stage.name == "quota":
        yield _observed(policy, _quota(policy, stage, f"{where}, {named_limit(stage)}"))
    elif stage.name == "watch":
        names = [unit.name or type(unit).__name__ for unit in (stage.detector, stage.then)]
        yield _observed(policy, _watch(policy, stage, f"{where}, watch ({names[0]}) and then {names[1]}"))

    elif stage.name in ("priced", "proof_of_work"):
        yield _observed(policy, _charge(policy, stage, f"{where}, {stage.name}"))


def _charge(policy: Policy, stage: Any, what: str) -> Tried:
    """Set the suspicion by hand, and see that a request which does not pay is refused and one that does is taken."""
    state = stage.start()
    state.suspicion = math.inf
    one, other = pair(policy)
    guard = Guard(stage, key=policy.key)
    guard.store.save((one, guard.names[0]), state)
    paid = stage.credit / (stage.price * stage.times(math.inf)) if stage.name == "priced" else 0.0
    if not _refused(guard, _rows(policy, math.floor(paid) + 1, other, NOW)):
        return Tried(what, "a request that does not pay was let through", False)
    if stage.name == "priced":
        return Tried(what, f"at the highest price row {math.floor(paid) + 1:,} is refused{of_whom(policy)}", True)
    bits = stage.asked(math.inf, 1)
    worked = replace(_rows(policy, 1, one, NOW), work=bits)
    if _refused(guard, worked):
        return Tried(what, f"{bits} bits of work were refused", False)
    return Tried(what, f"at the highest price a row needs {bits} bits of work{of_whom(policy)}", True)


def _observed(policy: Policy, found: Tried) -> Tried:
    return found if policy.enforced or not found.bites else Tried(found.what, OBSERVED, False)


def _quota(policy: Policy, stage: Any, what: str) -> Tried:
    """Ask for all rows of a window, then for one more by another account of the same principal."""
    if why := _out_of_reach(policy, stage):
        return Tried(what, why, False)
    one, other = pair(policy)
    guard = Guard(stage, key=policy.key)
    guard.admit(_rows(policy, stage.rows, one, NOW))
    if not _refused(guard, _rows(policy, 1, other, NOW)):
        return Tried(what, f"row {stage.rows + 1:,} was let through", False)
    again = ""
    if stage.per is not None and not _refused(guard, _rows(policy, 1, one, NOW + stage.per)):
        again = ", and the next window's first is taken"
    return Tried(what, f"row {stage.rows + 1:,} is refused{of_whom(policy)}{again}", True)


def _out_of_reach(policy: Policy, stage: Any) -> str:
    """Why nobody ever comes to this quota's last row; nothing where somebody may."""
    if stage.per is None:
        return ""
    limits = policy.limits
    most = limits.requests_per_minute / 60 * (stage.per + AHEAD_S) * limits.rows
    if stage.rows >= most:
        return f"limits.requests_per_minute and limits.rows let through {most:,.0f} rows in that time at most"
    others: list[Any] = [other for other in policy.stages if other.name == "quota" and other != stage]
    for other in others:
        windows = 1 if other.per is None else math.floor(stage.per / other.per) + 2  # that it touches
        most = other.rows * windows
        if stage.rows >= most:
            return f"another quota ({named_limit(other)}) lets through {most:,} rows in that time at most"
    return ""


def _watch(policy: Policy, stage: Any, what: str) -> Tried:
    """Set the alarm by hand, and see that what follows refuses the next request or changes its answer."""
    then = stage.then
    if then.name == "quota":
        return _quota(policy, then, f"{what} of {named_limit(then)}")
    if then.name == "watch":
        return Tried(what, "not tried: it waits for an alarm of its own", None)
    state = stage.start()
    state.row, state.suspicion = 1, math.inf
    one, other = pair(policy)
    guard = Guard(stage, key=policy.key)
    guard.store.save((one, guard.names[0]), state)
    if _refused(guard, _rows(policy, 1, other, NOW)):
        return Tried(what, f"once its alarm is set, the next request is refused{of_whom(policy)}", True)
    if then.blocks:
        return Tried(what, "the next request was let through", False)
    if then.heavy:
        return Tried(what, "not tried: it runs a model", None)
    clean, shown = _made_up(undefended(policy.asked)), policy.shown
    noise, request = Noise(policy.key, "self-test", policy.quantum), _rows(policy, ROWS, one, NOW)
    after = then.release(request, clean, clean, then.start(), noise)
    if not changed(clean.only(shown), after.only(shown)).any():
        if getattr(then, "rate", 1.0) < 1.0:
            return Tried(what, "not tried: it changes a share of the answers only", None)
        return Tried(what, "it changes nothing of what everybody is shown", False)
    return Tried(what, f"once its alarm is set, answers change{of_whom(policy)}", True)


def _operators_block(policy: Policy) -> Iterator[Tried]:
    one, other = pair(policy)
    streams = {one: Stream(one)}
    fold = Fold(Guard(key=policy.key), streams)
    fold.apply(streams[one], 1, JournalEvent("block", NOW, by="self-test"))
    stream = streams.setdefault(other, Stream(other))
    found, _ = fold.apply(stream, 2, JournalEvent("admit", NOW, x=_rows(policy, 1, other, NOW).x))
    refused = isinstance(found, Refused)
    yield _observed(policy, Tried("an operator's block", f"the next request is refused{of_whom(policy)}", refused))


def _refused(guard: Guard, request: Request) -> bool:
    try:
        guard.admit(request)
    except Refused:
        return True
    return False


def _rows(policy: Policy, n: int, client: str, at: float) -> Request:
    """A request of n rows, which take the memory of one."""
    return Request(client, np.broadcast_to(0.0, (n, *policy.served.interface.input_shape)), at)


def _made_up(interface: Interface) -> Answer:
    """The answer to ROWS rows as a model might give it, with unequal scores."""
    rng = np.random.default_rng(0)
    if interface.n_classes == 0:
        return Answer(None, rng.normal(size=(ROWS, 1)))
    scores = rng.dirichlet(np.full(interface.n_classes, 0.7), size=ROWS)
    return Answer(scores.argmax(axis=1), None if interface.reveals == Reveals.LABELS else scores)
