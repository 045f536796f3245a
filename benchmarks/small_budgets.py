"""Is `tree_ensembles` at a small budget at least as good as `auto`, which is `retraining` with its default settings?

    export PORTCULLIS_DATA=...
    python benchmarks/small_budgets.py [--seeds 3] [--budgets 300 500 1000] [--scenes NAME ...]

Victims of `strangers.py` that are sums of trees, behind an API that shows probabilities. Agreement in percent on the
test rows; differences seed by seed with their 95% intervals (Student's t).
"""

from __future__ import annotations

import argparse

import numpy as np

from portcullis_ml.measures.statistics import Estimate, mean_over_seeds
from strangers import Theft, steal

VICTIMS = ("german_credit, boosted trees", "diabetes, boosted trees")
OURS, BESIDE = "tree_ensembles", "retraining"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="+", default=[300, 500, 1000])
    parser.add_argument("--scenes", nargs="+", default=VICTIMS)
    options = parser.parse_args()
    every = []
    print(f"| victim | queries | {OURS} | {BESIDE} | difference | n |\n| --- | --- | --- | --- | --- | --- |")
    for name in options.scenes:
        for budget in options.budgets:
            found = np.array(
                [
                    [100 * steal(Theft(name, budget, "probs", seed, thief))["agreement"] for thief in (OURS, BESIDE)]
                    for seed in range(options.seeds)
                ]
            )
            every += (gains := (found[:, 0] - found[:, 1]).tolist())
            ours, theirs = found.mean(axis=0)
            words = interval(mean_over_seeds(gains, within=(-100, 100)))
            print(f"| {name} | {budget:,} | {ours:.1f} | {theirs:.1f} | {words} | {len(gains)} |", flush=True)
    print(f"| all | | | | {interval(mean_over_seeds(every, within=(-100, 100)))} | {len(every)} |")


def interval(e: Estimate) -> str:
    return f"{e.value:+.1f} [{e.low:.1f}, {e.high:.1f}]"


if __name__ == "__main__":
    main()
