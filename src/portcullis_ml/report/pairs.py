"""All records of one attack against one defense, combined over seeds.

The format of a record stands in `bench/records.py`; this file and `results.py` are the ones that know it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Estimate
from portcullis_ml.repetitions import across, unpacked

__all__ = ["IN_UNITS", "Pair", "estimate", "pair_of", "right_of"]

ENDED_BY_ITSELF = ("done", "budget")
IN_UNITS = ("mae", "mae_truth", "mae_uniform", "moved", "rmse", "rmse_truth", "victim_mae", "victim_rmse")  # no shares


@dataclass(frozen=True)
class Pair:
    """One attack (or control, or honest client) against one defense: all its seeds at the largest budget."""

    attack: str
    defense: str
    records: Sequence[Mapping[str, Any]]
    curves: Sequence[Sequence[tuple[int, Mapping[str, Estimate]]]] = ()
    smaller: Sequence[Mapping[str, Any]] = ()  # the records of smaller budgets

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
        whole = {n: [e for e in es if e is not None] for n, es in found.items() if any(es)}
        return {n: across(es, share=n not in IN_UNITS) for n, es in whole.items()}

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


def pair_of(attack: str, defense: str, records: Sequence[Mapping[str, Any]]) -> Pair:
    """All records of an attack against a defense, whatever their budgets and seeds."""
    top = max(int(r["cell"].get("budget", 0)) for r in records)
    largest = [r for r in records if int(r["cell"].get("budget", 0)) == top]
    done = [r for r in records if r["outcome"] == "done"]
    several = len({r["cell"].get("budget", 0) for r in done}) > 1
    seeds: dict[int, dict[int, Mapping[str, Estimate]]] = {}
    for r in sorted(done, key=lambda r: int(r["cell"].get("budget", 0))):
        seeds.setdefault(int(r["cell"].get("seed", 0)), {}).update(_points(r, rounds=not several))
    smaller = [r for r in records if r not in largest]
    return Pair(attack, defense, largest, [sorted(points.items()) for points in seeds.values()], smaller)


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


def right_of(record: Mapping[str, Any]) -> NDArray[np.bool_] | None:
    """(n,) on which test rows the copy of this record agrees; None where it does not say."""
    bits, e = (record.get("notes") or {}).get("right"), estimate(record["measures"].get("agreement"))
    return None if bits is None or e is None else unpacked(bits, e.n)


def _thin(ticks: list[int], most: int) -> list[int]:
    if len(ticks) <= most:
        return ticks
    return sorted({ticks[round(i * (len(ticks) - 1) / (most - 1))] for i in range(most)})
