"""What a thief without any picture gets: MNIST's victim, 100,000 questions, and a small copy.

    export PORTCULLIS_DATA=... OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
    python benchmarks/data_free.py          about 10 minutes of one core, 3 GB of memory

Each repetition has a victim of its own: PRADA's network, trained on 20,000 rows of MNIST. Copies are judged on 10,000
other rows. A cell that has run is kept in benchmarks/results/data_free.jsonl and not run again.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.randomness import derive
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.extraction.dfme import Dfme
from portcullis_ml.extraction.knockoff import Knockoff
from portcullis_ml.extraction.maze import Maze
from portcullis_ml.measures.statistics import mean_over_seeds
from portcullis_ml.models.torch import TorchLearner

RESULTS = Path(__file__).parent / "results" / "data_free.jsonl"
SEEDS, BUDGET, ROWS, TEST = 3, 100_000, 20_000, 10_000
UNTRAINED = "control: `dfme(generator_steps=0)`"
NOISE_LEARNER = TorchLearner(network="picture_flat", epochs=2, schedule="one_cycle", lr=1e-2)
THIEVES: dict[str, Any] = {
    "`dfme`": Dfme(),
    "`maze`": Maze(),
    UNTRAINED: Dfme(generator_steps=0),
    "control: uniform pixels": Knockoff(),
}


def cell(thief: str, seed: int) -> dict[str, Any]:
    """One theft, graded on rows that neither victim nor thief has seen."""
    dataset = load_dataset("mnist", os.environ.get("PORTCULLIS_DATA"))
    order = derive(seed, "rows").permutation(len(dataset.x))
    own, test = order[:ROWS], order[-TEST:]
    learner = TorchLearner(network="prada_mnist", epochs=5)
    victim = learner.fit(dataset.x[own], np.eye(10)[dataset.y[own].astype(int)], rng=derive(seed, "victim"))
    x, truth = dataset.x[test], dataset.y[test].astype(int)
    right = victim.scores(x).argmax(axis=1)
    oracle = LocalOracle(victim, dataset.interface, budget=BUDGET)
    pool = dataset.interface.uniform(BUDGET, derive(seed, "noise")) if thief.endswith("pixels") else None
    clock = time.process_time()
    found = THIEVES[thief](oracle, Knowledge(pool=pool, learner=NOISE_LEARNER), rng=derive(seed, thief))
    seconds = time.process_time() - clock
    on_the_way = [[paid, float((copy.scores(x).argmax(axis=1) == right).mean())] for paid, copy in found.history]
    labels = found.model.scores(x).argmax(axis=1)
    shares = np.bincount(found.answer.labels, minlength=10) / len(found.answer)
    return {
        "thief": thief, "seed": seed, "victim": float((right == truth).mean()), "copy": float((labels == truth).mean()),
        "agreement": float((labels == right).mean()), "queries": found.queries, "bill": found.notes.get("bill"),
        "curve": on_the_way, "most_frequent_answer": float(shares.max()), "seconds": round(seconds, 1),
    }  # fmt: skip


def table(records: list[dict[str, Any]]) -> str:
    """Means with 95% intervals over the repetitions."""
    lines = [
        "| thief | agreement with the victim, % | worst | accuracy, x the victim's | most frequent answer, % | CPU s |"
    ]
    lines.append("| --- " * 6 + "|")
    for thief in THIEVES:
        own = [r for r in records if r["thief"] == thief]
        if own:
            agreement = mean_over_seeds([100 * r["agreement"] for r in own], within=(0, 100))
            ratio = mean_over_seeds([r["copy"] / r["victim"] for r in own])
            lines.append(
                f"| {thief} | {agreement.value:.1f} [{agreement.low:.1f}, {agreement.high:.1f}] n={len(own)} | "
                f"{min(100 * r['agreement'] for r in own):.1f} | {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] "
                f"| {100 * np.mean([r['most_frequent_answer'] for r in own]):.0f} | "
                f"{np.mean([r['seconds'] for r in own]):.0f} |"
            )
    drawn = {r["seed"]: r["agreement"] for r in records if r["thief"] == UNTRAINED}
    for thief in ("`dfme`", "`maze`"):
        own = [100 * (r["agreement"] - drawn[r["seed"]]) for r in records if r["thief"] == thief and r["seed"] in drawn]
        e = mean_over_seeds(own)
        lines.append(
            f"\n{thief} less the generator as it was drawn: {e.value:+.1f} points [{e.low:+.1f}, {e.high:+.1f}]"
        )
    return "\n".join(lines)


def main() -> None:
    RESULTS.touch()
    records = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    known = {(r["thief"], r["seed"]) for r in records}
    for seed in range(SEEDS):
        for thief in THIEVES:
            if (thief, seed) not in known:
                records.append(cell(thief, seed))
                with RESULTS.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
