"""Does any stranger with ten lines of scikit-learn steal more than our attacks with their default settings?

    export PORTCULLIS_DATA=... OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python benchmarks/strangers.py [--quick] [--budgets 300 1000 5000] [--seeds 5] [--minutes 120] [--jobs 2]
    python benchmarks/strangers.py --table > docs/results/strangers.md

Every theft is one line of benchmarks/results/strangers.jsonl: agreement with the victim on rows that nobody
trained on. A theft that is there is not made again, so that a run may be stopped and taken up at any time; `--minutes`
stops it by itself, seed by seed, so that what is there is complete for the first seeds. `--quick` makes three
victims' thefts at one budget and seed, into no file.

A cell is a victim, a budget and what is shown. In each, the attack and the stranger with the highest mean over the
seeds are compared, seed by seed: both are chosen by the same test rows, so neither side is favoured.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import PortcullisError
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Interface, Labels, Reveals
from portcullis_ml.extraction import CATALOG
from portcullis_ml.measures.statistics import Estimate, mean_over_seeds
from portcullis_ml.models.auto import AutoLearner
from strangers_peers import PEERS
from strangers_scenes import SCENES, TABLES, Scene, scene, standardised

RECORDS = Path(__file__).parent / "results" / "strangers.jsonl"
SHOWN = {"probs": (Reveals.PROBS, None), "2 decimals": (Reveals.PROBS, 2), "labels": (Reveals.LABELS, None)}
BUDGETS = (300, 1000, 5000)
OURS = {"table": ("retraining", "retraining(strategy=uniform)", "equation_solving", "knockoff")}
STOCK: dict[str, tuple[Any, Any]] = {  # from scores, from labels
    "boosted": (
        lambda s: GradientBoostingRegressor(
            n_estimators=300, max_depth=3, learning_rate=0.08, subsample=0.7, random_state=s
        ),
        lambda s: GradientBoostingClassifier(random_state=s),
    ),
    "network": (
        lambda s: MLPRegressor(hidden_layer_sizes=(64,), max_iter=600, alpha=1e-3, random_state=s),
        lambda s: MLPClassifier((64,), max_iter=600, random_state=s),
    ),
    "forest": (
        lambda s: RandomForestRegressor(300, random_state=s),
        lambda s: RandomForestClassifier(300, random_state=s),
    ),
}
FROM_LABELS = tuple(f"stranger: {kind}, labels" for kind in STOCK)
STRANGERS = {"table": ("stranger: boosted", "stranger: network", FROM_LABELS[0])}  # where scores are shown
QUICK = ("german_credit, boosted trees", "wine, network", "adult, network, pool of 300")
CLOSE = 1.0  # point: a cell that is lost by more is named


class Theft(NamedTuple):
    scene: str
    budget: int
    shown: str
    seed: int
    thief: str


def steal(theft: Theft) -> dict[str, Any]:
    """The theft's record; without "agreement" where the thief cannot try this victim."""
    at = scene(theft.scene)
    reveals, decimals = SHOWN[theft.shown]
    door = at.interface.revealing(reveals=reveals, decimals=decimals)
    oracle = LocalOracle(at.victim, door, budget=theft.budget)
    rng = np.random.default_rng([theft.seed, theft.budget])
    clock = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            labels = _labels(theft, at, oracle, rng)
    except PortcullisError as error:
        return theft._asdict() | {"why": str(error)}
    agreement = float((labels == at.victim.scores(at.test).argmax(axis=1)).mean())
    return theft._asdict() | {
        "agreement": round(agreement, 5),
        "n": len(at.test),
        "queries": theft.budget - oracle.left,
        "seconds": round(time.perf_counter() - clock, 2),
    }


def _labels(theft: Theft, at: Scene, oracle: LocalOracle, rng: np.random.Generator) -> Labels:
    if theft.thief.startswith("stranger: "):
        return stranger(theft.thief.removeprefix("stranger: "), at, oracle, theft, rng)
    learner = AutoLearner().knowing(oracle.interface)
    copy = CATALOG.build(theft.thief)(oracle, Knowledge(pool=at.pool, learner=learner), rng=rng).model
    return copy.scores(at.test).argmax(axis=1)


def stranger(kind: str, at: Scene, oracle: LocalOracle, theft: Theft, rng: np.random.Generator) -> Labels:
    """Ten lines: questions, clipped log-odds against the first class, a stock regression for every other class."""
    x = questions(at.interface, at.pool, theft.budget, rng)
    answer = oracle.query(x)
    word, _, labels = kind.partition(", ")
    regressor, classifier = STOCK[word]
    features = at.interface.features or ()
    if labels:
        if len(np.unique(answer.labels)) < 2:
            return np.full(len(at.test), answer.labels[0])
        return standardised(features, classifier(theft.seed)).fit(x, answer.labels).predict(at.test)
    logs = np.log(np.clip(answer.soft(at.interface.n_classes), 1e-6, 1 - 1e-6))
    ratios = np.clip(logs - logs[:, :1], -8, 8)[:, 1:]
    found = [standardised(features, regressor(theft.seed)).fit(x, y).predict(at.test) for y in ratios.T]
    return np.column_stack([np.zeros(len(at.test)), *found]).argmax(axis=1)


def questions(interface: Interface, pool: Array | None, n: int, rng: np.random.Generator) -> Array:
    """Uniform, whole numbers where both ends are; with a pool, half are columns of it, each shuffled by itself."""
    x = interface.uniform(n, rng)
    whole = (interface.low % 1 == 0) & (interface.high % 1 == 0) & (interface.high - interface.low > 1)
    x = np.where(whole, np.round(x), x)
    if pool is not None:
        x[: n // 2] = np.take_along_axis(pool, rng.integers(len(pool), size=(n // 2, pool.shape[1])), axis=0)
    return x


def thefts(scenes: Iterable[str], budgets: Iterable[int], seeds: int) -> Iterator[Theft]:
    """All of the first seed first."""
    for seed in range(seeds):
        for name in scenes:
            for budget in budgets:
                for shown in SHOWN:
                    yield from (Theft(name, budget, shown, seed, thief) for thief in thieves_of(name, shown))


def thieves_of(name: str, shown: str) -> tuple[str, ...]:
    """Who tries that victim behind that API."""
    kind = "table" if name in TABLES else "picture"
    return *OURS[kind], *(FROM_LABELS if shown == "labels" and kind == "table" else STRANGERS[kind])


def known() -> list[dict[str, Any]]:
    """The records so far; a last line that was cut short is left out."""
    if not RECORDS.exists():
        return []
    return [json.loads(line) for line in RECORDS.read_text().splitlines() if line.endswith("}")]


def run(todo: Iterable[Theft], *, jobs: int, minutes: float, keep: bool) -> list[dict[str, Any]]:
    """The new records, each written as soon as it is there."""
    end, found = time.monotonic() + 60 * minutes, []
    todo = iter(list(todo))
    with ProcessPoolExecutor(jobs) as pool:
        running = {pool.submit(steal, theft) for theft, _ in zip(todo, range(2 * jobs), strict=False)}
        while running:
            done = next(as_completed(running))
            running.remove(done)
            found.append(done.result())
            if keep:
                RECORDS.parent.mkdir(parents=True, exist_ok=True)
                with RECORDS.open("a") as file:
                    file.write(json.dumps(found[-1]) + "\n")
            if time.monotonic() < end and (theft := next(todo, None)) is not None:
                running.add(pool.submit(steal, theft))
    return found


def table(records: list[dict[str, Any]]) -> str:
    """The page: a row for every cell, and what is lost by more than a point."""
    by_cell: dict[tuple[str, int, str], dict[str, dict[int, float]]] = {}
    tried = Counter((r["scene"], r["budget"], r["shown"], r["seed"]) for r in records if r["thief"] not in PEERS)
    for r in records:
        whole = tried[r["scene"], r["budget"], r["shown"], r["seed"]] == len(thieves_of(r["scene"], r["shown"]))
        if "agreement" in r and whole:
            cell = by_cell.setdefault((r["scene"], r["budget"], r["shown"]), {})
            cell.setdefault(r["thief"], {})[r["seed"]] = 100 * r["agreement"]
    lines = [
        f"| victim | queries | shown | n | our best | | best stranger | | ours - stranger | {' | '.join(PEERS)} |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    leads = {}
    for (name, budget, shown), thieves in sorted(by_cell.items()):
        peers = [thieves.pop(peer, {}) for peer in PEERS]
        sides = [{t: v for t, v in thieves.items() if t.startswith("stranger: ") == side} for side in (False, True)]
        seeds = sorted(set.intersection(*(set(v) for v in thieves.values()))) if all(sides) else []
        if not seeds:
            continue  # nobody of one side could try
        (ours, a), (theirs, b) = (_best(side, seeds) for side in sides)
        leads[name, budget, shown] = float(np.mean(np.subtract(a, b)))
        cells = (f"{np.mean(a):.1f}", ours, f"{np.mean(b):.1f}", theirs.removeprefix("stranger: "))
        lead = _interval(mean_over_seeds(np.subtract(a, b).tolist(), within=(-100, 100)))
        others = [_peer([p[s] for s in seeds if s in p], len(seeds)) for p in peers]
        lines.append(f"| {name} | {budget:,} | {shown} | {len(seeds)} | {' | '.join((*cells, lead, *others))} |")
    return "\n".join([_summary(leads), "", *lines])


def _peer(found: list[float], n: int) -> str:
    """A peer's mean, and its number of seeds where that is not the row's."""
    if not found:
        return ""
    return f"{np.mean(found):.1f}" + ("" if len(found) == n else f" (n={len(found)})")


def _best(side: dict[str, dict[int, float]], seeds: list[int]) -> tuple[str, list[float]]:
    thief = max(side, key=lambda t: np.mean([side[t][s] for s in seeds]))
    return thief, [side[thief][s] for s in seeds]


def _interval(e: Estimate) -> str:
    return f"{e.value:+.1f} [{e.low:.1f}, {e.high:.1f}]" if e.n > 1 else f"{e.value:+.1f}, no interval"


def _summary(leads: dict[tuple[str, int, str], float]) -> str:
    lost = {cell: lead for cell, lead in leads.items() if lead < -CLOSE}
    ahead = sum(lead > 0 for lead in leads.values())
    full = len(SCENES) * len(BUDGETS) * len(SHOWN)
    text = [
        f"{len(leads)} cells of the {full} of a full run: ours ahead in {ahead}, "
        f"lost by more than {CLOSE:g} point in {len(lost)}."
    ]
    for (name, budget, shown), lead in sorted(lost.items(), key=lambda item: item[1]):
        text.append(f"Lost: {name}, {budget:,} queries, {shown}: {lead:+.1f}.")
    return "\n".join(text)


HEAD = """# Strangers with ten lines of scikit-learn

`python benchmarks/strangers.py`, then `python benchmarks/strangers.py --table`. Records:
[strangers.jsonl](../../benchmarks/results/strangers.jsonl).

Agreement with the victim in percent on up to 2,000 rows that nobody trained on, the mean over n seeds. Ours are the
attacks of a default audit with their default settings; strangers ask uniform questions (half of them columns of the
pool where there is one) and fit stock scikit-learn models to clipped log-odds or to labels. On either side the thief
with the highest mean of the cell is shown. Then comes the mean difference seed by seed with its 95% interval
(Student's t); one seed has none. The last two columns are peers' means over the same seeds or the first of them, by
`python benchmarks/strangers_peers.py --art-python PATH` (which says what they are); empty where they were not run.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three victims, one budget, one seed; keeps no records")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), help="victims by name; all without it")
    parser.add_argument("--minutes", type=float, default=120, help="start no further theft after so many")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--table", action="store_true", help="print the page of the records so far, run nothing")
    options = parser.parse_args()
    if options.table:
        print(HEAD + "\n" + table(known()))
        return
    if options.quick:
        print(table(run(thefts(QUICK, [300], 1), jobs=options.jobs, minutes=options.minutes, keep=False)))
        return
    done = {tuple(r[field] for field in Theft._fields) for r in known()}
    todo = [t for t in thefts(options.scenes, options.budgets, options.seeds) if tuple(t) not in done]
    run(todo, jobs=options.jobs, minutes=options.minutes, keep=True)
    print(table(known()))


if __name__ == "__main__":
    main()
