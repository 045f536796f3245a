"""Are LightGBM or XGBoost worth having for the learner `auto`? In pairs, on the questions of `strangers.py`.

    pip install lightgbm xgboost
    python benchmarks/boosters.py [--whole] [--seeds 3]

Five victims, 300 and 1,000 questions, probabilities and labels: agreement on the test rows with each package's trees
alone in the place of scikit-learn's histogram boosting, or (`--whole`) with `auto`'s five families and one package's
as the sixth. Printed are the mean differences in points with their 95% intervals (Student's t over all pairs).
"""

from __future__ import annotations

import argparse
import time
import warnings
from itertools import product

import numpy as np

from portcullis_ml.measures.statistics import mean_over_seeds
from portcullis_ml.models.auto import AutoLearner
from portcullis_ml.models.boosters import installed
from strangers import questions
from strangers_scenes import scene

VICTIMS = (
    "german_credit, boosted trees", "breast_cancer, forest", "wine, network", "diabetes, SVM",
    "adult, histogram boosting, pool of 300",
)  # fmt: skip
USUAL = ("linear", "boosted", "network", "kernel", "forest")
BUDGETS = (300, 1000)
SHOWN = ("probs", "labels")


def steal(name: str, budget: int, seed: int, shown: str, families: tuple[str, ...]) -> tuple[float, float]:
    """Agreement in percent, and the seconds that fitting took."""
    at = scene(name)
    x = questions(at.interface, at.pool, budget, np.random.default_rng([seed, budget]))
    p = at.victim.scores(x)
    targets = p if shown == "probs" else np.eye(p.shape[1])[p.argmax(axis=1)]
    learner = AutoLearner(families=families).knowing(at.interface)
    clock = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copy = learner.fit(x, targets, rng=np.random.default_rng(seed))
        seconds = time.perf_counter() - clock
        same = copy.scores(at.test).argmax(axis=1) == at.victim.scores(at.test).argmax(axis=1)
    return 100 * float(same.mean()), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="beside all families of auto, not in the place of one")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    ways = {"scikit-learn": USUAL if options.whole else ("boosted",)}
    ways |= {name: (*USUAL, name) if options.whole else (name,) for name in installed()}
    print("| shown | trees | minus scikit-learn's | n | time |\n| --- | --- | --- | --- | --- |")
    for shown in SHOWN:
        cells = list(product(VICTIMS, BUDGETS, range(options.seeds)))
        found = {way: np.array([steal(*cell, shown, of) for cell in cells]) for way, of in ways.items()}
        for way in installed():
            gain = (found[way] - found["scikit-learn"])[:, 0]
            e = mean_over_seeds(gain.tolist(), within=(-100, 100))
            slower = found[way][:, 1].sum() / found["scikit-learn"][:, 1].sum()
            print(f"| {shown} | {way} | {e.value:+.2f} [{e.low:.2f}, {e.high:.2f}] | {e.n} | x {slower:.2f} |")


if __name__ == "__main__":
    main()
