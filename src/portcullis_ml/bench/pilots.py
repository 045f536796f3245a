"""Pilot runs of a plan: short thefts that say how many queries a copy of a target fidelity takes.

Pilots are cells of an audit without a defense, kept in the same kind of folder, so that a plan goes on where it was
stopped. First comes the exact attack on linear models, since d + 1 answers may settle everything. Then every attack
climbs a ladder of budgets, each three times the last, until one of them reaches the target; an attack that is far
behind on two rungs climbs no further. After that, runs with new seeds are added near the crossing, to the rival whose
interval is widest, until all intervals are sharp or the time is spent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.audit_cell import audit_cell
from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.experiment import Experiment
from portcullis_ml.bench.grid import STRANGER
from portcullis_ml.bench.measure import measure_of
from portcullis_ml.bench.named import NONE
from portcullis_ml.bench.run import Progress, run_cells
from portcullis_ml.bench.run_audit import AuditOptions, plan_of
from portcullis_ml.core.errors import AttackFailed, InputError, ParameterError
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Estimate
from portcullis_ml.measures.curves import LEAST, Form, Runs, queries_to
from portcullis_ml.models.encoding import Encoding
from portcullis_ml.repetitions import row_weights, unpacked

__all__ = ["EXACT", "PilotOptions", "Piloted", "Reach", "run_pilots"]

EXACT = "equation_solving"
FIRST, STEP = 25, 3  # the lowest rung of the ladder, and how far apart rungs are
BEHIND = 0.2  # an attack whose fidelity is this much below the best on two rungs climbs no further
AROUND = (1.0, 0.7, 1.4)  # where further runs are made, as multiples of the crossing
ALIKE = 0.999  # fidelity from which a copy counts as the victim itself
ENOUGH = 6  # runs of an attack without which its interval is not taken for sharp

JSON = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PilotOptions:
    """What is to be found out, and how much it may cost."""

    audit: AuditOptions  # the victim, its API, the attacks; its first seed and the most queries of one run
    target: float  # fidelity of the copy, in the measure of the verdict
    minutes: float = 5.0  # of pilot runs, added up
    sharp: float = 1.25  # the interval may reach from the value divided by this to the value times this
    form: Form = "power_law"

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise ParameterError("--target", "a fidelity above 0 and below 1, such as 0.8", self.target)
        if not self.minutes > 0:
            raise ParameterError("--minutes", "a number above 0", self.minutes)
        if self.audit.spec.endpoint is not None and not self.audit.budgets:
            raise InputError(
                "A plan for an API at an address pays for every pilot. Say with --budget N how many queries one run "
                "may ask."
            )


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far one attack gets.

    queries   after how many the target is expected, or None where there was too little to fit a curve to
    best      the highest fidelity of its runs, after `at` queries
    least     the fewest queries with which one of its runs had the target; the interval is of the mean
    exact     whether the copy is the victim itself from that number of queries on, and nothing below it
    """

    attack: str
    queries: Estimate | None
    best: float
    at: int
    runs: int
    least: int | None = None
    exact: bool = False

    @property
    def place(self) -> tuple[float, float]:
        """The worst attacker first."""
        return (math.inf if self.queries is None else self.queries.value, -self.best)


@dataclass(frozen=True, kw_only=True)
class Piloted:
    """What the pilots say: attacks, the worst first."""

    reaches: tuple[Reach, ...]
    target: float
    measure: str
    constant: float  # fidelity of whoever asks nothing and always answers the most frequent class
    most: int  # queries of the largest budget that pilots might take
    rows: int  # test rows that judged
    seconds: float
    why: str  # pilots ended: "sharp", "time spent", "most runs made", "exact" or "never reached"
    failed: tuple[str, ...] = ()  # attacks that made no copy

    @property
    def worst(self) -> Reach:
        return self.reaches[0]


def run_pilots(
    options: PilotOptions,
    *,
    out: Path,
    jobs: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> Piloted:
    """Run pilots until the answer is sharp or the time is spent. AttackFailed where no attack made a copy."""
    experiment = options.audit.spec.load()
    if experiment.numbers or experiment.interface.text:
        raise InputError("A plan needs a victim that answers classes for rows of numbers or pictures; this is another.")
    return _Pilots(options, experiment, out, jobs, progress).run()


class _Pilots:
    """The records so far, and what is run next."""

    def __init__(
        self,
        options: PilotOptions,
        experiment: Experiment,
        out: Path,
        jobs: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._options, self._experiment = options, experiment
        self._out, self._jobs, self._progress = out, jobs, progress
        self._records: dict[str, JSON] = {}
        self._names = self._attacks()
        self._most = max(options.audit.budgets or (max(plan_of(options.audit, experiment).budgets),))
        (nothing,) = self._do([c for c in self._grid(FIRST, options.audit.seed) if c.attack_name == "no_api"])
        self._measure = self._chosen(nothing)
        weights = row_weights([nothing], self._measure)
        assert weights is not None  # both measures that are chosen from are means over rows
        self._weights = weights
        self._constant = float(nothing["measures"][self._measure]["value"])

    def run(self) -> Piloted:
        if self._constant >= self._options.target:
            raise InputError(
                f"Whoever asks nothing already has {self._constant:.0%} {self._measure.replace('_', ' ')}, by always "
                f"answering the most frequent class. Ask for a --target above that; got {self._options.target}."
            )
        why = "exact" if self._linear() else self._climb() or self._refine()
        return self._said(why)

    def _attacks(self) -> list[str]:
        """Those asked for, or those that apply; and the stranger, who always does."""
        plan = plan_of(self._options.audit, self._experiment)
        return [*plan.attacks, STRANGER]

    def _grid(self, budget: int, seed: int) -> list[Cell]:
        """An audit's cells at one budget and seed, without a defense."""
        audit = replace(self._options.audit, budgets=(budget,), seeds=1, seed=seed, defenses=())
        cells = plan_of(audit, self._experiment).cells()
        return [c for c in cells if c.defense_name == NONE and c.budget in (budget, 0)]

    def _cells(self, names: Sequence[str], budget: int, seed: int) -> list[Cell]:
        return [c for c in self._grid(budget, seed) if c.attack_name in names and c.budget == budget]

    def _do(self, cells: Sequence[Cell]) -> list[JSON]:
        """Run these; those for which no time is left are left out."""
        work, step = partial(audit_cell, spec=self._options.audit.spec), max(self._jobs, 1)
        done: list[JSON] = []
        for start in range(0, len(cells), step):
            if self._spent():
                break
            part = cells[start : start + step]
            done += run_cells(part, work, out=self._out, jobs=self._jobs, progress=self._progress)
            self._records |= {r["id"]: r for r in done}
        return done

    @property
    def _seconds(self) -> float:
        """Of all pilots; where they run beside each other, as if they had shared the time evenly."""
        return float(sum(r["seconds"] for r in self._records.values())) / max(self._jobs, 1)

    def _spent(self) -> bool:
        return self._seconds >= 60 * self._options.minutes

    def _chosen(self, nothing: JSON) -> str:
        asked = self._options.audit.measure
        found = measure_of([nothing], asked, self._experiment.interface.n_classes)
        name = found["name"] if found else "agreement"
        if asked and name not in ("agreement", "balanced_agreement"):
            raise ParameterError("--measure", "agreement or balanced_agreement, for a plan", name)
        return name if name == "agreement" else "balanced_agreement"

    def _linear(self) -> bool:
        """Whether d + 1 answers are the model: tried with three seeds where probabilities are shown in full."""
        if self._options.audit.answers != "probs":
            return False
        needed = Encoding.of(self._experiment.interface, drop_first=True).width + 1
        if needed > self._most or (self._options.audit.attacks and EXACT not in self._names):
            return False
        for seed in range(3):
            audit = replace(self._options.audit, attacks=(EXACT,), budgets=(needed,), seeds=1, defenses=())
            plan = plan_of(replace(audit, seed=self._options.audit.seed + seed), self._experiment)
            made = self._do([c for c in plan.cells() if c.attack_name == EXACT and c.defense_name == NONE
                             and c.budget == needed and not c.uses])  # fmt: skip
            if not made or made[0]["outcome"] != "done" or self._fidelity(made[0]) < ALIKE:
                return False
        return True

    def _fidelity(self, record: JSON) -> float:
        return float(record["measures"][self._measure]["value"]) if record["outcome"] == "done" else 0.0

    def _climb(self) -> str:
        """Every attack up the ladder until one reaches the target; why there is nothing to refine, or ""."""
        climbing, behind = list(self._names), dict.fromkeys(self._names, 0)
        rung = min(FIRST, self._most)
        while not self._spent():
            made = self._do(self._cells(climbing, rung, self._options.audit.seed))
            found = {r["attack"]: self._fidelity(r) for r in made if r["outcome"] == "done"}
            best = max(found.values(), default=0.0)
            if best >= self._options.target or rung == self._most:
                return ""
            for name, fidelity in found.items():
                behind[name] += fidelity < best - BEHIND
            climbing = [name for name in climbing if behind[name] < 2]
            rung = min(rung * STEP, self._most)
        return "time spent"

    def _refine(self) -> str:
        """Further runs near the crossing, of the rival whose interval is widest; why they ended."""
        while True:
            reaches = self._reaches()
            bound = math.inf if not reaches or reaches[0].queries is None else reaches[0].queries.value
            rivals = [r for r in reaches if self._rival(r, bound)]
            blunt = [r for r in rivals if not self._sharp(r)]
            able = [r for r in blunt if self._next(r) is not None]
            if self._spent() and able:
                return "time spent"
            if not able:
                return "never reached" if math.isinf(bound) else "sharp" if not blunt else "most runs made"
            widest = max(able, key=_width)
            budget = self._next(widest)
            assert budget is not None
            self._do(self._cells([widest.attack], budget, self._unused(widest.attack)))

    def _rival(self, reach: Reach, bound: float) -> bool:
        """Whether this attack may need fewer queries than `bound`, the fewest that any needs by the value."""
        if reach.queries is None:
            return reach.best >= self._options.target
        return math.isfinite(reach.queries.low) and reach.queries.low <= bound

    def _sharp(self, reach: Reach) -> bool:
        return reach.queries is not None and reach.runs >= ENOUGH and _width(reach) <= 2 * math.log(self._options.sharp)

    def _next(self, reach: Reach) -> int | None:
        """The budget of an attack's next run; None where another would say nothing new."""
        budgets = sorted({r["cell"]["budget"] for r in self._of(reach.attack)})
        if len(budgets) < LEAST:
            return budgets[0] // 2 if reach.best >= self._options.target and budgets[0] > 1 else None
        if reach.runs >= 10 * ENOUGH:
            return None
        middle = self._most if reach.queries is None else min(reach.queries.value, self._most)
        wanted = middle * AROUND[reach.runs % len(AROUND)]
        return int(min(max(_round(wanted), 1), self._most))

    def _unused(self, attack: str) -> int:
        """A seed that no run of this attack has had."""
        return int(max(r["cell"]["seed"] for r in self._of(attack))) + 1

    def _of(self, attack: str) -> list[JSON]:
        return [r for r in self._records.values() if r["attack"] == attack and r["outcome"] == "done"]

    def _reaches(self) -> list[Reach]:
        found = [self._reach(name) for name in dict.fromkeys([EXACT, *self._names]) if self._of(name)]
        return sorted(found, key=lambda r: r.place)

    def _reach(self, attack: str) -> Reach:
        """Its runs, and the curve through them where they are enough."""
        made = self._of(attack)
        top = max(made, key=self._fidelity)
        there = [r["queries"] for r in made if self._fidelity(r) >= self._options.target]
        about: JSON = {
            "least": min(there, default=None),
            "attack": attack,
            "best": self._fidelity(top),
            "at": top["queries"],
            "runs": len(made),
        }
        paid = np.array([r["queries"] for r in made], float)
        if len(np.unique(paid)) < LEAST:
            return Reach(queries=None, **about)
        right = np.stack([unpacked(r["notes"]["right"], len(self._weights)) for r in made])
        rng = derive(0, "interval", attack)
        runs = Runs(paid, right, self._weights)
        return Reach(queries=queries_to(self._options.target, runs, form=self._options.form, rng=rng), **about)

    def _said(self, why: str) -> Piloted:
        if why == "exact":
            made = self._of(EXACT)
            n = float(made[0]["queries"])
            exact = Estimate(n, n, n, len(made), unit="runs")
            reaches = [Reach(attack=EXACT, queries=exact, best=1.0, at=int(n), runs=len(made), exact=True)]
        else:
            reaches = self._reaches()
        if not reaches:
            reasons = [r["reason"] for r in self._records.values() if r["reason"]]
            raise AttackFailed(f"No pilot made a copy. {reasons[0] if reasons else 'Allow more --minutes.'}")
        return Piloted(
            reaches=tuple(reaches),
            target=self._options.target,
            measure=self._measure,
            constant=self._constant,
            most=self._most,
            rows=len(self._weights),
            seconds=self._seconds,
            why=why,
            failed=tuple(
                sorted({r["attack"] for r in self._records.values()} - {r.attack for r in reaches} - {"no_api"})
            ),
        )


def _width(reach: Reach) -> float:
    """Of the interval on the logarithmic scale; infinite where there is none."""
    q = reach.queries
    return math.inf if q is None or not math.isfinite(q.high) else math.log(q.high / max(q.low, 1.0))


def _round(budget: float) -> int:
    """To two digits, so that a plan that is run again finds the same cells."""
    unit = 10 ** max(math.floor(math.log10(max(budget, 1))) - 1, 0)
    return int(round(budget / unit) * unit)
