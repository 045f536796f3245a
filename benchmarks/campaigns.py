"""Thieves with 1 to 64 accounts beside ten honest clients: who is called, after how many rows, and what is copied then.

    export PORTCULLIS_DATA=... OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python benchmarks/campaigns.py [--quick] [--seeds 3] [--populations 60] [--minutes 60]
    python benchmarks/campaigns.py --table

Every cell is one line of benchmarks/results/campaigns/cells.jsonl; one that is there is not made again, so that a run
may be stopped and taken up. `--quick` makes the cells of one thief at one seed, into no file.

A thief's rows come from the attack against an undefended victim, in the order in which it asks; each defender then
reads them, one row a request, 5 s apart on average, among the honest clients' requests. A blocked account's later
rows are not answered; the thief goes on with the other accounts, and does not adapt. The defenders:

    account   either version of PRADA on each account by itself
    principal the same on all accounts as one stream: what a policy can do that knows who belongs together
    seen      the linkage test every 10 rows; a linked group is blocked once either version of PRADA calls its stream,
              or once it asked more than `ROWS` rows
    rate      `call_rate` (500 calls in 60 minutes) on each account
    rate, principal  the same on all accounts as one stream
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from campaigns_made import (
    ATTACKS,
    BUDGET,
    GAP,
    VARIANTS,
    Asked,
    Scene,
    asked_by,
    campaign,
    honest,
    scene,
)
from portcullis_ml.core.guard import Detector
from portcullis_ml.core.types import Array, Request
from portcullis_ml.detectors.call_rate import CallRate
from portcullis_ml.detectors.linkage.calibration import calibrated
from portcullis_ml.detectors.linkage.linkage import Linkage
from portcullis_ml.detectors.prada import Prada
from portcullis_ml.detectors.prada_normality import PradaNormality

RECORDS = Path(__file__).parent / "results" / "campaigns" / "cells.jsonl"
FIRST = (
    (64, "by lot"),
    (64, "in turn"),
)  # accounts and order: what every thief does, then what plain ones do, and others
PLAIN = ((1, "in turn"), (12, "in turn"), (64, "blocks"), (4, "in turn"), (40, "in turn"), (12, "by lot"))
MASKED = ((1, "in turn"), (12, "by lot"))  # of thieves who jitter or send decoys
DEFENDERS = ("account", "principal", "seen", "rate", "rate, principal")
ROWS, EVERY, MARGIN = 100, 10, 1.1  # rows of a linked group; rows between two tests; a threshold over the loudest
PER_POPULATION, LONG = 200, 600  # rows of an honest client where no thief is, and of one who sets thresholds
CALIBRATION, REPORTED, SPAN = (10_000, 34_000), (34_000, 60_000), GAP * BUDGET
CURVE = (10, 20, 30, 50, 75, 100, 200, 400, 800, 1_600)


@cache
def defense() -> tuple[Linkage, tuple[Detector[Any], ...]]:
    """The linkage test and the detectors, set by five populations of honest clients that nothing else is done with; the
    first of them gives `near` and `flat`."""
    here, loudest = scene(), defaultdict(list)
    groups = [by_account(honest(here, seed, *CALIBRATION, SPAN, LONG)) for seed in range(3_000, 3_005)]
    for rows in (rows for accounts in groups for rows in accounts.values()):
        for detector in (Prada(), PradaNormality()):
            loudest[detector.name].append(suspicions(here, detector, rows))
    clients = {account: np.concatenate([one.x for one in rows]) for account, rows in groups[0].items()}
    found = calibrated(Linkage(), clients)
    top = {name: max(float(np.nanmax(np.append(s, -9.0))) for s in each) for name, each in loudest.items()}
    units = (Prada(), PradaNormality())
    return found, tuple(replace(unit, threshold=max(unit.threshold, MARGIN * top[unit.name])) for unit in units)


def by_account(asked: list[Asked]) -> dict[str, list[Asked]]:
    found: dict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        found[one.account].append(one)
    return found


def suspicions(here: Scene, detector: Detector[Any], asked: list[Asked]) -> Array:
    """(n,) one for each row of a stream."""
    state, answer = detector.start(), here.answer(np.concatenate([one.x for one in asked]))
    found, start = [], 0
    for one in asked:
        part = answer.take(slice(start, start + len(one.x)))
        found.append(detector.update(state, Request("c", one.x, one.at), part))
        start += len(one.x)
    return np.concatenate(found)


def called_at(here: Scene, detectors: tuple[Detector[Any], ...], asked: list[Asked]) -> int | None:
    """The row of a stream at which the first of the detectors alarms, counted from 1."""
    first = [np.flatnonzero(d.alarms(suspicions(here, d, asked))) for d in detectors]
    return min((int(rows[0]) + 1 for rows in first if len(rows)), default=None)


def alone(here: Scene, detectors: tuple[Detector[Any], ...], asked: list[Asked]) -> list[Asked]:
    """What is answered where each account is read by itself: its rows up to the alarm."""
    answered = []
    for rows in by_account(asked).values():
        answered += rows[: called_at(here, detectors, rows)]
    return sorted(answered, key=lambda one: one.at)


def together(here: Scene, detectors: tuple[Detector[Any], ...], asked: list[Asked]) -> list[Asked]:
    return asked[: called_at(here, detectors, asked)]


class Watch:
    """The linkage test over everybody's requests, and who is blocked by it."""

    def __init__(self, here: Scene) -> None:
        self.here, (self.linkage, self.detectors) = here, defense()
        self.state = self.linkage.start()
        self.blocked: set[str] = set()
        self.linked: set[str] = set()
        self.signals: set[str] = set()
        self.asked: dict[str, list[Asked]] = defaultdict(list)

    def see(self, one: Asked) -> None:
        self.linkage.add(self.state, one.account, one.x, one.at)
        self.asked[one.account].append(one)

    def test(self) -> None:
        """Link, and block the groups that are called."""
        found = self.linkage.links(self.state)
        for group in found.groups:
            self.linked |= set(group)
            if set(group) <= self.blocked:
                continue
            rows = sorted((one for account in group for one in self.asked[account]), key=lambda one: one.at)
            if set(group) & self.blocked or len(rows) > ROWS or called_at(self.here, self.detectors, rows):
                self.blocked |= set(group)
                self.signals |= {link.signal for link in found.within(group)}


def seen(here: Scene, asked: list[Asked], others: list[Asked]) -> tuple[list[Asked], Watch]:
    """What is answered of a campaign beside the linkage test, and the test's end."""
    watch, answered, since = Watch(here), list[Asked](), 0
    for one in sorted(asked + others, key=lambda one: one.at):
        if one.account in watch.blocked:
            continue
        watch.see(one)
        if one.account.startswith("thief"):
            answered.append(one)
            since += 1
        if since == EVERY:
            watch.test()
            since = 0
    watch.test()
    return answered, watch


def cells(seeds: int) -> Iterator[dict[str, Any]]:
    """What matters most first, each seed by seed, so that what is there is complete for the first seeds. Seeds 0 to 9
    were looked at while this was made."""
    kinds = [(attack, variant) for attack in ATTACKS for variant in VARIANTS] + [("natural rows", "plain")]
    plain = [kind for kind in kinds if kind[1] == "plain"]
    masked = [kind for kind in kinds if kind[1] != "plain"]
    for who, where in ((kinds, FIRST), (plain, PLAIN[:3]), (plain, PLAIN[3:]), (masked, MASKED)):
        for seed in range(10, 10 + seeds):
            for attack, variant in who:
                for accounts, order in where:
                    yield {"attack": attack, "variant": variant, "accounts": accounts, "order": order, "seed": seed}


@cache
def stolen(attack: str, variant: str, seed: int) -> Array:
    return asked_by(scene(), attack, variant, seed)


@cache
def curve(attack: str, variant: str, seed: int) -> dict[int, float]:
    """Rows -> what a copy that is trained on so many undefended answers agrees on."""
    return {n: first_rows(attack, variant, seed, n) for n in CURVE}


@cache
def one_stream(attack: str, variant: str, seed: int) -> int | None:
    """Where either version of PRADA calls all that a thief asks, as one stream; the times do not matter to it."""
    return called_at(scene(), defense()[1], campaign(stolen(attack, variant, seed), 1, "in turn", seed))


@cache
def first_rows(attack: str, variant: str, seed: int, n: int) -> float:
    """What a copy agrees on that is trained on the first n rows."""
    return scene().agreement(stolen(attack, variant, seed)[:n], seed)


def measured(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell's figures: for each defender the rows answered, whether it called, and the copy's agreement."""
    here, seed = scene(), cell["seed"]
    thief = cell["attack"], cell["variant"], seed
    asked = campaign(stolen(*thief), cell["accounts"], cell["order"], seed)
    _, detectors = defense()
    rate = (CallRate(),)
    answered = {
        "account": alone(here, detectors, asked),
        "principal": asked[: one_stream(*thief)],
        "rate": alone(here, rate, asked),
        "rate, principal": together(here, rate, asked),
    }
    answered["seen"], watch = seen(here, asked, honest(here, seed, *REPORTED, SPAN))
    known = curve(*thief)
    linked, called = ({a for a in who if a.startswith("honest")} for who in (watch.linked, watch.blocked))
    found: dict[str, Any] = {"curve": known, "honest": sorted(linked), "called": sorted(called)}
    found |= {"signals": sorted(watch.signals), "by": {}}
    for name, rows in answered.items():
        first = all(one is other for one, other in zip(rows, asked, strict=False))
        own = np.concatenate([one.x for one in rows])
        agrees = first_rows(*thief, len(rows)) if first else here.agreement(own, seed)
        found["by"][name] = {"rows": len(rows), "agrees": agrees}
    return {**cell, **found}


def population(seed: int) -> dict[str, Any]:
    """Ten honest clients without a thief: who is linked, and who is called by each defender."""
    here, (_, detectors) = scene(), defense()
    asked = honest(here, 400 + seed, *REPORTED, SPAN, PER_POPULATION)
    watch = Watch(here)
    for i, one in enumerate(asked):
        watch.see(one)
        if i % 100 == 99:
            watch.test()
    watch.test()
    accounts = by_account(asked)
    return {
        "population": seed,
        "pairs": len(list(combinations(accounts, 2))),
        "linked": sorted(watch.linked),
        "seen": sorted(watch.blocked),
        "account": sorted(a for a, rows in accounts.items() if called_at(here, detectors, rows)),
        "rate": sorted(a for a, rows in accounts.items() if called_at(here, (CallRate(),), rows)),
    }


def alike(seed: int) -> dict[str, Any]:
    """Honest clients who do belong together in some way: how often each pair is linked, and called."""
    here, rng = scene(), np.random.default_rng([5, seed])
    found: dict[str, Any] = {"alike": seed}
    for kind in ("one clock", "one camera", "one pipeline"):
        asked = honest(here, 500 + seed, *REPORTED, SPAN)
        x = here.x[rng.choice(np.arange(*REPORTED), 200, replace=False)]
        at = np.sort(rng.uniform(0, SPAN, 100))
        times = (np.arange(100) * 60.0, np.arange(100) * 60.0 + 3) if kind == "one clock" else (at, at + 3)
        if kind == "one camera":
            x[100:] = np.clip(x[:100] + rng.normal(0, 0.02, (100, 784)), 0, 1)
            times = (at, np.sort(rng.uniform(0, SPAN, 100)))
        for name, rows, when in (("a", x[:100], times[0]), ("b", x[100:], times[1])):
            asked += [Asked(f"pair {name}", rows[i : i + 1], float(when[i])) for i in range(100)]
        watch = Watch(here)
        for one in sorted(asked, key=lambda one: one.at):
            watch.see(one)
        watch.test()
        found[kind] = {"linked": {"pair a", "pair b"} <= watch.linked, "called": {"pair a", "pair b"} <= watch.blocked}
    return found


def key(record: dict[str, Any]) -> str:
    names = ("attack", "variant", "accounts", "order", "seed", "population", "alike")
    return json.dumps([record.get(name) for name in names])


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Make what is not there yet, and return all."""
    held = read()
    there, until = {key(r) for r in held}, time.monotonic() + 60 * options.minutes
    todo: list[tuple[Any, dict[str, Any]]] = [(population, {"population": i}) for i in range(options.populations)]
    todo += [(alike, {"alike": i}) for i in range(options.populations // 3)]
    todo += [(measured, cell) for cell in cells(options.seeds)]
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    with RECORDS.open("a") as file:
        if not held:
            linkage, detectors = defense()
            settings = {d.name: d.threshold for d in detectors}
            held.append({"linkage": asdict(linkage), "thresholds": settings, "rows": ROWS})
            file.write(json.dumps(held[0]) + "\n")
        for make, cell in todo:
            if key(cell) in there or time.monotonic() > until:
                continue
            held.append(make(cell) if make is measured else make(next(iter(cell.values()))))
            file.write(json.dumps(held[-1]) + "\n")
            file.flush()
    return held


def read() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one thief at one seed, into no file")
    parser.add_argument("--table", action="store_true", help="print the tables of what is there")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--populations", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    if options.quick:
        for cell in list(cells(1))[:3]:
            print(json.dumps(measured(cell)))
        print(json.dumps(population(0)), json.dumps(alike(0)), sep="\n")
        return
    if not options.table:
        run(options)
    from campaigns_report import tables

    print("\n".join(tables(read())))


if __name__ == "__main__":
    main()
