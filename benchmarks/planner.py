"""Does a plan's pilots predict how many queries a copy takes? Held-out attack runs say.

    export PORTCULLIS_DATA=... OMP_NUM_THREADS=1
    python benchmarks/planner.py [--scenes NAME ...] [--minutes 5] [--work FOLDER]
    python benchmarks/planner.py --table > benchmarks/results/planner.txt
    python benchmarks/planner.py --forms                 # which form of the curve predicts held-out runs better

For every victim: pilots until the answer is sharp, then runs of the worst attack with other seeds around the answer
(half to twice as many queries). Where their isotonic curve crosses the target is what the prediction is compared with.
Records are in benchmarks/results/planner/; what is there is not run again. The form of the curve was chosen on the two
victims marked as tuning, which are not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from planner_victims import SCENES
from portcullis_ml.bench.audit_cell import audit_cell
from portcullis_ml.bench.pilots import EXACT, PilotOptions, Reach, run_pilots
from portcullis_ml.bench.records import read_records
from portcullis_ml.bench.run import run_cells
from portcullis_ml.bench.run_audit import AuditOptions, plan_of
from portcullis_ml.core.types import Estimate
from portcullis_ml.measures.curves import FORMS, Runs, fidelity_at, queries_to
from portcullis_ml.repetitions import row_weights, unpacked

RESULTS = Path(__file__).parent / "results" / "planner"
TARGET, SEEDS = 0.8, range(1_000, 1_016)
AROUND = (0.5, 0.7, 1.0, 1.4, 2.0)
NEAR = 0.25
MEASURES = ("agreement", "balanced_agreement")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), choices=list(SCENES))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--work", type=Path, default=Path("planner-work"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--forms", action="store_true")
    options = parser.parse_args()
    if options.table or options.forms:
        print(table() if options.table else form_errors())
        return
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.scenes:
        if not (RESULTS / f"{slug(name)}.json").exists():
            measured(name, options.work, options.minutes)


def measured(name: str, work: Path, minutes: float) -> None:
    """One victim: pilots, then held-out runs; written to a file when both are done."""
    audit, out = SCENES[name].options(work), RESULTS / slug(name)
    audit.spec.load()
    cpu, wall = time.process_time(), time.monotonic()
    piloted = run_pilots(PilotOptions(audit=audit, target=TARGET, minutes=minutes), out=out / "pilots", progress=said)
    spent = {"cpu": round(time.process_time() - cpu, 1), "wall": round(time.monotonic() - wall, 1)}
    if (kept := out / "spent.json").exists():  # of the run that made the pilots
        spent = json.loads(kept.read_text())
    kept.write_text(json.dumps(spent))
    worst = piloted.worst
    print(name, worst, spent, flush=True)
    predicted = forms(worst, piloted.measure, out / "pilots")
    truth = held_out(audit, worst, piloted.measure, out)
    content = {
        "victim": name, "tuning": SCENES[name].tuning, "measure": piloted.measure, "rows": piloted.rows,
        "why": piloted.why, "reaches": [asdict(r) for r in piloted.reaches], "predicted": predicted, "held_out": truth,
        **spent,
    }  # fmt: skip
    (RESULTS / f"{slug(name)}.json").write_text(json.dumps(content, indent=1) + "\n")
    for part in ("pilots", "held-out"):
        thinned(out / part / "records.jsonl")


def thinned(path: Path) -> None:
    """Leave of every record what this program reads: a run that is taken up finds its cells all the same."""
    lines = []
    for r in read_records(path):
        measures = {k: v for k, v in r["measures"].items() if k in (*MEASURES, "constant")}
        notes = {k: v for k, v in r["notes"].items() if k in ("right", "victim", "chosen")}
        empty = {"classes": [], "curve": [], "alarms": [], "threat_model": {}}
        lines.append(json.dumps(r | empty | {"measures": measures, "notes": notes}, separators=(",", ":")))
    path.write_text("\n".join(lines) + "\n")


def said(progress: Any) -> None:
    if progress.kind == "ended":
        print(
            f"  {progress.cell.attack_name} {progress.cell.budget} seed {progress.cell.seed} {progress.outcome}",
            flush=True,
        )


def forms(worst: Reach, measure: str, folder: Path) -> dict[str, Any]:
    """What each form of the curve says of the same pilots."""
    if worst.exact or worst.queries is None:
        return {form: worst.queries and asdict(worst.queries) for form in FORMS}
    return {
        form: asdict(crossing(read_records(folder / "records.jsonl"), worst.attack, measure, form)) for form in FORMS
    }


def form_errors() -> str:
    """By how much each form is off at the budgets of the held-out runs, on the victims that are there for tuning."""
    lines = [
        "| victim | form | root mean square error of fidelity | budgets | runs |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in (n for n, scene in SCENES.items() if scene.tuning):
        found = json.loads((RESULTS / f"{slug(name)}.json").read_text())
        attack, measure = found["reaches"][0]["attack"], found["measure"]
        parts = (read_records(RESULTS / slug(name) / part / "records.jsonl") for part in ("pilots", "held-out"))
        pilots, held = (runs_of(records, attack, measure) for records in parts)
        at = np.unique(held.queries)
        truth = np.array([held.fidelity()[held.queries == q].mean() for q in at])
        for form in FORMS:
            error = float(np.sqrt(((fidelity_at(at, pilots, form) - truth) ** 2).mean()))
            lines.append(f"| {name} | {form} | {error:.3f} | {len(at)} | {len(held.queries)} |")
    return "\n".join(lines)


def crossing(records: list[dict[str, Any]], attack: str, measure: str, form: Any) -> Estimate:
    return queries_to(TARGET, runs_of(records, attack, measure), form=form, rng=np.random.default_rng(0))


def runs_of(records: list[dict[str, Any]], attack: str, measure: str) -> Runs:
    made = [r for r in records if r["attack"] == attack and r["outcome"] == "done"]
    weights = row_weights([r for r in records if r["attack"] == "no_api"], measure)
    assert weights is not None
    right = np.stack([unpacked(r["notes"]["right"], len(weights)) for r in made])
    return Runs(np.array([r["queries"] for r in made], float), right, weights)


def held_out(audit: AuditOptions, worst: Reach, measure: str, out: Path) -> dict[str, Any]:
    """Where runs with other seeds cross the target."""
    assert worst.queries is not None
    middle, factors = worst.queries.value, (1.0,) if worst.exact else AROUND
    budgets = sorted({max(round(middle * f), 1) for f in factors} | ({round(middle) - 1} if worst.exact else set()))
    attacks = (EXACT,) if worst.exact else audit.attacks
    cells = []
    for seed in SEEDS:
        for budget in budgets:
            plan = plan_of(replace(audit, attacks=attacks, budgets=(budget,), seeds=1, seed=seed), audit.spec.load())
            cells += [
                c for c in plan.cells()
                if c.defense_name == "none" and not c.uses
                and ((c.budget == budget and c.attack_name == worst.attack) or c.attack_name == "no_api")
            ]  # fmt: skip
    records = run_cells(cells, partial(audit_cell, spec=audit.spec), out=out / "held-out", jobs=0, progress=said)
    if worst.exact:
        made = [r for r in records if r["attack"] == EXACT and r["outcome"] == "done"]
        n = min(r["queries"] for r in made)
        least = min(r["measures"]["agreement"]["value"] for r in made)
        return asdict(Estimate(float(n), float(n), float(n), len(made), unit="runs")) | {"least_agreement": least}
    return asdict(crossing(records, worst.attack, measure, "monotone"))


def slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def table() -> str:
    """One row for every victim that was measured."""
    heads = [
        *("victim", "worst attack", "predicted", "by the other form", "held-out runs", "off by", "within 25%"),
        *("pilots ended", "pilot runs", "CPU s", "clock s"),
    ]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    near = counted = 0
    for name in SCENES:
        path = RESULTS / f"{slug(name)}.json"
        if not path.exists():
            lines.append(f"| {name} | not run |" + " |" * (len(heads) - 2))
            continue
        found = json.loads(path.read_text())
        first, other = (found["predicted"][form] for form in FORMS)
        truth, worst = found["held_out"], found["reaches"][0]
        off = first["value"] / truth["value"] - 1
        hit = abs(off) <= NEAR
        if not found["tuning"]:
            near, counted = near + hit, counted + 1
        marked = f"{name} (tuning)" if found["tuning"] else name
        runs = sum(reach["runs"] for reach in found["reaches"])
        lines.append(
            f"| {marked} | {worst['attack']} | {cell(first)} | {cell(other)} | {cell(truth)} | {off:+.0%} | "
            f"{'yes' if hit else '**missed**'} | {found['why']} | {runs} | {found['cpu']:.0f} | {found['wall']:.0f} |"
        )
    return "\n".join([*lines, "", f"Within {NEAR:.0%}: {near} of {counted} victims that were not used for tuning."])


def cell(estimate: dict[str, Any]) -> str:
    low, value, high = (estimate[k] for k in ("low", "value", "high"))
    return (
        f"{value:.0f} [{low:.0f}, {high:.0f}], n={estimate['n']}"
        if math.isfinite(high)
        else f"{value:.0f} [{low:.0f}, never]"
    )


if __name__ == "__main__":
    main()
