"""What the report shows, from the records: attacks, defenses, controls and honest clients, combined over seeds.

The format of a record stands in `bench/records.py`; this file is the only one that knows it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

from portcullis_ml.core.types import Estimate
from portcullis_ml.report.numbers import across, clearly_below

__all__ = ["GRADES", "NONE", "Audit", "Pair", "estimate", "read"]

NONE = "none"  # the defense of an undefended cell
GRADES = ("agreement", "r2", "agreement_uniform", "macro_f_agreement", "accuracy")  # more is a better copy
MATCHED, HELD_OUT = " [matched]", " [held out]"  # behind a defense's name: see `threat_model` of its records
BLIND = ("no_api", "shuffled")  # controls that learn nothing from the API
STRANGER = "plain_stranger"  # the control that asks like an attack and fits a stock model
ENDED_BY_ITSELF = ("done", "budget")
WORTH = 0.01  # a smaller loss of agreement is not called a help, even where it is certain


@dataclass(frozen=True)
class Pair:
    """One attack (or control, or honest client) against one defense: all its seeds at the largest budget."""

    attack: str
    defense: str
    records: Sequence[Mapping[str, Any]]
    curves: Sequence[Sequence[tuple[int, Mapping[str, Estimate]]]] = ()

    @cached_property
    def done(self) -> list[Mapping[str, Any]]:
        return [r for r in self.records if r["outcome"] == "done"]

    @property
    def outcome(self) -> str:
        """ "done" when at least one seed is."""
        return "done" if self.done else Counter(r["outcome"] for r in self.records).most_common(1)[0][0]

    @property
    def reason(self) -> str:
        return next((r["reason"] for r in self.records if r.get("reason")), "")

    @property
    def marked(self) -> bool:
        """Whether the victim, or its answers, carried an ownership mark."""
        return bool(self.records[0]["cell"].get("mark"))

    @property
    def seeds(self) -> list[int]:
        return sorted({int(r["cell"].get("seed", 0)) for r in self.done or self.records})

    @property
    def budget(self) -> int:
        return max(int(r["cell"].get("budget", 0)) for r in self.records)

    @property
    def queries(self) -> int:
        """Rows paid for, the median over seeds."""
        return round(median(int(r.get("queries", 0)) for r in self.done or self.records))

    @property
    def ended_by_guard(self) -> str:
        """The guard's reason, where it ended at least one seed's run."""
        return next((r["stopped"] for r in self.records if r.get("stopped", "done") not in ENDED_BY_ITSELF), "")

    @cached_property
    def measures(self) -> dict[str, Estimate]:
        names = dict.fromkeys(name for r in self.done for name in r.get("measures", {}))
        found = {n: [estimate(r["measures"][n]) for r in self.done if r["measures"].get(n)] for n in names}
        return {n: across([e for e in es if e is not None]) for n, es in found.items() if any(es)}

    @cached_property
    def classes(self) -> list[Estimate | None]:
        """Recovery of every class; None where a class is not in the test set."""
        lists = [[estimate(e) for e in r["classes"]] for r in self.done if r.get("classes")]
        columns = zip(*lists, strict=False)
        return [across(known) if (known := [e for e in column if e]) else None for column in columns]

    def curve(self, measure: str) -> list[tuple[int, Estimate]]:
        """(queries, estimate) over the seeds. A copy stays what it is until the next round, so a seed
        without a point at some number of queries is read at its last point before it."""
        seeds = [[(q, m[measure]) for q, m in c if measure in m] for c in self.curves]
        seeds = [c for c in seeds if c]
        ticks = sorted({q for c in seeds for q, _ in c if all(other[0][0] <= q for other in seeds)})
        return [(q, across([[e for at, e in c if at <= q][-1] for c in seeds])) for q in _thin(ticks, 24)]

    @property
    def alarms(self) -> list[int | None]:
        """For every seed, the row of the first alarm of any stage, or None."""
        ran = [r for r in self.records if r["outcome"] in ("done", "refused", "failed")]
        return [min((int(a["row"]) for a in r.get("alarms") or ()), default=None) for r in ran]


@dataclass(frozen=True)
class Audit:
    """Everything that the page says, as data."""

    pairs: Mapping[tuple[str, str], Pair] = field(default_factory=dict)
    controls: Sequence[Pair] = ()
    honest: Mapping[str, Pair] = field(default_factory=dict)
    privacy: Mapping[tuple[str, str], Pair] = field(default_factory=dict)  # (privacy attack, defense)
    marked: Mapping[tuple[str, str], Pair] = field(default_factory=dict)  # (attack, ownership mark)
    records: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def measure(self) -> str:
        """What theft is measured by: agreement, unless the records have only something else."""
        found = {n for p in self.pairs.values() for n in p.measures}
        return next((n for n in GRADES if n in found), GRADES[0])

    @cached_property
    def attacks(self) -> list[str]:
        """The most successful first."""
        names = dict.fromkeys(a for a, _ in self.pairs)
        return sorted(
            names, key=lambda a: -self._value((a, NONE), max((self._value(k) for k in self.of(a)), default=-1))
        )

    @cached_property
    def defenses(self) -> list[str]:
        """No defense first, then from the weakest to the strongest."""
        names = dict.fromkeys(d for _, d in self.pairs)
        return sorted(names, key=lambda d: (d != NONE, -_value(self.worst_copy(d), -1.0)))

    @property
    def budget(self) -> int:
        return max((p.budget for p in self.pairs.values()), default=0)

    @property
    def seeds(self) -> list[int]:
        return sorted({s for p in self.pairs.values() for s in p.seeds})

    def of(self, attack: str) -> list[tuple[str, str]]:
        return [key for key in self.pairs if key[0] == attack]

    def stolen(self, attack: str, defense: str) -> Estimate | None:
        """How good the copy is that this attack makes behind this defense; None where it makes none."""
        pair = self.control(STRANGER) if (attack, defense) == (STRANGER, NONE) else self.pairs.get((attack, defense))
        return pair.measures.get(self.measure) if pair else None

    def worst(self, defense: str) -> Pair | None:
        """The attacker who fares best behind this defense."""
        able = [p for (_, d), p in self.pairs.items() if d == defense and self.measure in p.measures]
        return max(able, key=lambda p: p.measures[self.measure].value, default=None)

    @cached_property
    def strongest(self) -> Pair | None:
        """Who fares best undefended: an attack, or the plain stranger where no attack is as good.

        Defenses are judged by `worst` all the same: a stranger was not tried behind them, so an attack that is weaker
        than a stranger would look held back.
        """
        found = [p for p in (self.worst(NONE), self.control(STRANGER)) if p is not None]
        return max(found, key=lambda p: p.measures[self.measure].value, default=None)

    def worst_copy(self, defense: str) -> Estimate | None:
        """How good a copy the attacker makes who fares best behind this defense."""
        worst = self.worst(defense)
        return worst.measures[self.measure] if worst else None

    @cached_property
    def thieves(self) -> list[str]:
        """The attacks that left a copy behind some defense, the most successful first."""
        return [a for a in self.attacks if any(self.pairs[key].done for key in self.of(a))]

    @cached_property
    def baseline(self) -> Pair | None:
        """The control that does best among those who learn nothing from the API."""
        blind = [p for p in self.controls if p.attack in BLIND and self.measure in p.measures]
        return max(blind, key=lambda p: p.measures[self.measure].value, default=None)

    def steals(self, attack: str) -> bool | None:
        """Whether the undefended attack, or the plain stranger, clearly beats a thief who learns nothing from the API.

        None where it did not run undefended. Without such a control any copy counts.
        """
        copy = self.stolen(attack, NONE)
        if copy is None:
            return None
        blind = [p.measures[self.measure] for p in self.controls if p.attack in BLIND and self.measure in p.measures]
        return all(clearly_below(e, copy) for e in blind)

    def control(self, name: str) -> Pair | None:
        return next((p for p in self.controls if p.attack == name and self.measure in p.measures), None)

    @property
    def free(self) -> Pair | None:
        """The control own_labels, where the best undefended attacker is not clearly above it; otherwise None."""
        own, strongest = self.control("own_labels"), self.strongest
        if own is None or strongest is None:
            return None
        return None if clearly_below(own.measures[self.measure], strongest.measures[self.measure]) else own

    def cost(self, defense: str) -> Estimate | None:
        """Accuracy that an honest client loses behind this defense, as a fraction.

        Where the records hold the two accuracies and not their difference: they were measured on the same
        rows, so the loss is never more than the labels changed.
        """
        pair = self.honest.get(defense)
        if defense == NONE and pair is not None and pair.measures:
            return Estimate(0.0, 0.0, 0.0, max(p.n for p in pair.measures.values()), unit="rows")
        if pair is not None and "accuracy_drop" in pair.measures:
            return pair.measures["accuracy_drop"]
        if pair is None or not {"utility", "accuracy"} <= set(pair.measures):
            return None
        kept, full, moved = pair.measures["utility"], pair.measures["accuracy"], pair.measures.get("labels_changed")
        cap = moved.high if moved else 1.0
        loss = full.value - kept.value
        low, high = max(full.value - kept.high, -cap), min(full.value - kept.low, cap)
        return Estimate(loss, min(low, loss), max(high, loss), kept.n, level=kept.level, unit=kept.unit)

    @cached_property
    def twins(self) -> set[str]:
        """Defenses trained on the thief's own source that also stand here trained on another: those are judged."""
        matched = [d for d in self.defenses if d.endswith(MATCHED)]
        return {d for d in matched if self.worst(d.removesuffix(MATCHED) + HELD_OUT)}

    @cached_property
    def best(self) -> str | None:
        """The defense to recommend, of those that clearly hold their worst attacker back if there are any.

        It has the lowest worst case, or is the cheapest of those within the interval of the lowest.
        """
        held = {d: e for d in self.defenses if d != NONE and d not in self.twins and (e := self.worst_copy(d))}
        held = {d: e for d, e in held.items() if self._helps(e)} or held
        if not held:
            return None
        lowest = min(held.values(), key=lambda e: e.value)
        equal = [d for d in held if held[d].value <= lowest.high]
        return min(equal, key=lambda d: (round(_value(self.cost(d), 1.0), 3), held[d].value))

    @property
    def helps(self) -> bool:
        """Whether the best defense clearly holds its worst attacker below what the worst attacker gets undefended."""
        held = self.worst_copy(self.best) if self.best else None
        return held is not None and self._helps(held)

    def _helps(self, held: Estimate) -> bool:
        free = self.worst_copy(NONE)
        return free is not None and clearly_below(held, free) and free.value - held.value >= WORTH

    def _value(self, key: tuple[str, str], default: float = -1.0) -> float:
        e = self.stolen(*key)
        return default if e is None else e.value


def read(records: Iterable[Mapping[str, Any]]) -> Audit:
    """Sort the records into pairs of attack and defense, controls and honest clients."""
    records = list(records)
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for r in records:
        groups.setdefault((r.get("role", "attack"), str(r["attack"]), str(r["defense"])), []).append(r)
    pairs = {key: _pair(key[1], key[2], group) for key, group in groups.items()}
    thefts = {(a, d): p for (role, a, d), p in pairs.items() if role == "attack"}
    return Audit(
        pairs={key: p for key, p in thefts.items() if not p.marked},
        privacy={(a, d): p for (role, a, d), p in pairs.items() if role == "privacy"},
        marked={key: p for key, p in thefts.items() if p.marked},
        controls=[p for (role, _, _), p in pairs.items() if role == "control"],
        honest={d: p for (role, _, d), p in pairs.items() if role == "honest"},
        records=records,
    )


def _pair(attack: str, defense: str, records: Sequence[Mapping[str, Any]]) -> Pair:
    top = max(int(r["cell"].get("budget", 0)) for r in records)
    largest = [r for r in records if int(r["cell"].get("budget", 0)) == top]
    done = [r for r in records if r["outcome"] == "done"]
    several = len({r["cell"].get("budget", 0) for r in done}) > 1
    seeds: dict[int, dict[int, Mapping[str, Estimate]]] = {}
    for r in sorted(done, key=lambda r: int(r["cell"].get("budget", 0))):
        seeds.setdefault(int(r["cell"].get("seed", 0)), {}).update(_points(r, rounds=not several))
    return Pair(attack, defense, largest, [sorted(points.items()) for points in seeds.values()])


def _points(record: Mapping[str, Any], rounds: bool) -> dict[int, dict[str, Estimate]]:
    """Queries -> measures at the end of the run, and along it where `rounds` is true.

    Where an attack was run with several budgets, each run's end is a point and its rounds are not: a
    thief plans for what they can pay, so half of a long run is not the same as a run of half the length.
    """
    points = [(p["queries"], p["measures"]) for p in (record.get("curve") or () if rounds else ())]
    points.append((record.get("queries", 0), record.get("measures", {})))
    merged: dict[int, dict[str, Estimate]] = {}
    for queries, measures in points:
        known = {name: e for name, m in measures.items() if (e := estimate(m))}
        merged.setdefault(int(queries), {}).update(known)
    return merged


def estimate(data: Mapping[str, Any] | None) -> Estimate | None:
    """None also for a value that is not a number: it was not measured."""
    if data is None or data["value"] is None or math.isnan(data["value"]):
        return None
    low, high = (data.get("low"), data.get("high"))  # null is no bound
    bounds = {"low": -math.inf if low is None else low, "high": math.inf if high is None else high}
    return Estimate(**{**data, **bounds})


def _value(e: Estimate | None, default: float) -> float:
    return default if e is None else e.value


def _thin(ticks: list[int], most: int) -> list[int]:
    if len(ticks) <= most:
        return ticks
    return sorted({ticks[round(i * (len(ticks) - 1) / (most - 1))] for i in range(most)})
