"""What marks prove of copies, what they cost, and how long a verification takes: a look in minutes, not a protocol.

    export PORTCULLIS_DATA=... OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python benchmarks/fingerprints.py [seeds] > benchmarks/results/fingerprints.txt

Fashion-MNIST; the victim is a small dense network on 2,000 rows, the owner has 2,000 others to read mistakes off, the
thief has 4,000 further ones, and 20 innocent models are trained on 2,000 rows each of a part that nobody else has. So
are 20 fresh ones, which no null is made of: 8 of the victim's network, 6 convolutional networks and 6 forests.
Means over seeds with the least and the greatest; "convicted" is of how many seeds, at p < 0.001.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from portcullis_ml.bench.removal import REMOVALS, Thief
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.ownership import Evidence
from portcullis_ml.core.types import Array, Interface, Labels, Model, Rows
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.models.torch import TorchLearner, TorchModel
from portcullis_ml.ownership.backdoor import Backdoor
from portcullis_ml.ownership.conferrable import Conferrable
from portcullis_ml.ownership.known_errors import KnownErrors

API = Interface(input_shape=(28, 28), n_classes=10)
LEARNER = TorchLearner(network="mlp", epochs=15)
FINE = replace(LEARNER, epochs=10)
CONVOLUTIONS = TorchLearner(network="digits_cnn", epochs=5)
FOREST = SklearnLearner(estimator="forest", trees=50)
TITLES = {
    "none": "the model itself",
    "FTAL": "trained on, all layers (FTAL)",
    "RTAL": "last layer anew, all layers (RTAL)",
    "pruning 50%": "50% of weights pruned",
    "pruning 80%": "80% of weights pruned",
    "quantised, 4 bits": "weights rounded to 15 levels",
    "Knockoff, scores": "copy from 4,000 scores",
    "Knockoff, labels": "copy from 4,000 labels",
}
MARK, READ = Backdoor(n=100), (KnownErrors(n=100), Conferrable(n=100), KnownErrors(n=300), Conferrable(n=300))


def fitted(x: Array, y: Labels, seed: int, start: Model | None = None, learner: Any = LEARNER) -> Any:
    targets = np.eye(10)[y] if y.ndim == 1 else y
    return learner.fit(x, targets, rng=np.random.default_rng(seed), start=start)


def suspects(model: TorchModel, thief: Rows, seed: int) -> dict[str, Model]:
    """What a thief makes of a model: of its file, and of its answers to 4,000 of their own rows."""
    half = Rows(thief.x[:2000], thief.y[:2000])
    means = Thief(API, half, thief.x, LEARNER, FINE)
    made = {title: REMOVALS[name](model, means, np.random.default_rng(seed)) for name, title in TITLES.items()}
    return made | {"independent model": fitted(half.x, half.y, seed + 90)}


def judged(scheme: Any, key: Any, suspect: Model, innocent: list[Model]) -> Evidence:
    oracle = LocalOracle(suspect, API, budget=1_000)
    return scheme(key, oracle, innocent, commitment=key.commit(), rng=np.random.default_rng(0))


def accuracy(model: Model, rows: Rows) -> float:
    return 100 * float((model.scores(rows.x).argmax(axis=1) == rows.y).mean())


def fresh_innocents(others: Rows) -> dict[str, list[Model]]:
    """Independent models by kind, of which no null is made."""
    kinds: dict[str, list[Model]] = {}
    for s, learner in enumerate([LEARNER] * 8 + [CONVOLUTIONS] * 6 + [FOREST] * 6):
        rows = np.random.default_rng(500 + s).permutation(len(others))[:2000]
        kind = {LEARNER: "its network", CONVOLUTIONS: "convolutions", FOREST: "forest"}[learner]
        kinds.setdefault(kind, []).append(fitted(others.x[rows], others.y[rows], 2000 + s, learner=learner))
    return kinds


def verification(model: Model) -> float:
    """Seconds that an examination with 1,000 questions takes beyond the suspect's own answers."""
    scheme = Backdoor(n=1000)
    key = scheme.mint(bytes(32), API)
    begun = time.process_time()
    model.scores(key.x)
    own, begun = time.process_time() - begun, time.process_time()
    judged(scheme, key, model, [])
    return time.process_time() - begun - own


def main(seeds: int) -> None:
    data = load_dataset("fashion_mnist", os.environ["PORTCULLIS_DATA"])
    x, y = data.x[:30_000].reshape(-1, 28, 28), data.y[:30_000].astype(np.int64)
    ends = (0, 2000, 4000, 8000, 28_000, 30_000)
    own, unseen, thief, others, test = (Rows(x[a:b], y[a:b]) for a, b in pairwise(ends))
    draws = [np.random.default_rng(s).permutation(len(others))[:2000] for s in range(20)]
    innocent: list[Model] = [fitted(others.x[d], others.y[d], 1000 + s) for s, d in enumerate(draws)]
    fresh = fresh_innocents(others)
    found: dict[tuple[str, str], list[tuple[float, float, bool]]] = {}
    nulls: dict[str, list[float]] = {}
    costs, minting = [], []
    for seed in range(seeds):
        secret = bytes([seed + 1]) * 32
        begun = time.process_time()
        clean = fitted(own.x, own.y, seed)
        plain, begun = time.process_time() - begun, time.process_time()
        key = MARK.mint(secret, API)
        marked = MARK.embed(key, LEARNER, own, rng=np.random.default_rng(seed))
        costs.append((accuracy(clean, test) - accuracy(marked, test), (time.process_time() - begun) / plain))
        tried = [(MARK, key, suspects(marked, thief, seed))]
        of_clean = suspects(clean, thief, seed)
        for scheme in READ:
            begun = time.process_time()
            tried.append((scheme, scheme.mint(secret, API, clean, (own, unseen)), of_clean))
            minting.append((scheme.name, time.process_time() - begun))
        for scheme, k, all_suspects in tried:
            name = f"{scheme.name}, {len(k)}"
            named = list(all_suspects.items())
            named += [(f"fresh innocent, {kind}", s) for kind, models in fresh.items() for s in models]
            for who, suspect in named:
                e = judged(scheme, k, suspect, innocent)
                row = (100 * e.matches / e.n, accuracy(suspect, test), e.verdict == "derived")
                found.setdefault((name, who), []).append(row)
            nulls.setdefault(name, []).append(100 * e.notes["null_chance"])
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    print(f"python benchmarks/fingerprints.py {seeds}\n{seeds} seeds\n")
    tell(found, nulls)
    lost, times = [c[0] for c in costs], [c[1] for c in costs]
    print(f"\nthe mark costs {np.mean(lost):.2f} points of accuracy ({min(lost):.2f} to {max(lost):.2f})")
    spread = f"({min(times):.2f} to {max(times):.2f})"
    print(f"and {np.mean(times):.2f} times the training, with 1,000 marked rows beside 2,000 {spread}")
    longest = max(seconds for name, seconds in minting if name == "conferrable")
    print(f"a key of conferrable takes {longest:.0f} CPU seconds at most, with 18 networks trained for it")
    print(f"an examination of 1,000 questions takes {verification(innocent[0]):.2f} CPU seconds beyond the suspect's")


def owes_nothing(who: str) -> bool:
    return who == "independent model" or who.startswith("fresh innocent")


def tell(found: dict[tuple[str, str], list[tuple[float, float, bool]]], nulls: dict[str, list[float]]) -> None:
    """The table, the nulls, and each scheme's worst copies and worst innocent."""
    print(f"{'scheme, questions':20}{'suspect':38}{'matches, %':>18}{'accuracy, %':>14}{'convicted':>12}")
    for (scheme, name), rows in found.items():
        m = [r[0] for r in rows]
        share = f"{np.mean(m):.0f} ({min(m):.0f} to {max(m):.0f})"
        right = f"{np.mean([r[1] for r in rows]):.1f}"
        print(f"{scheme:20}{name:38}{share:>18}{right:>14}{sum(r[2] for r in rows):>8} of {len(rows)}")
    print()
    for scheme, q in nulls.items():
        print(f"{scheme}: an innocent model is taken to match {np.mean(q):.0f}% ({min(q):.0f} to {max(q):.0f})")
        cells = {who: rows for (name, who), rows in found.items() if name == scheme}
        stolen = {who: rows for who, rows in cells.items() if not owes_nothing(who)}
        missed = [f"{who} ({sum(r[2] for r in rows)})" for who, rows in stolen.items() if not all(r[2] for r in rows)]
        spared = [r for who, rows in cells.items() if owes_nothing(who) for r in rows]
        print(
            f"  convicts {sum(r[2] for rows in stolen.values() for r in rows)} of {sum(map(len, stolen.values()))} "
            f"stolen models; not always: {', '.join(missed) or 'none'}"
        )
        print(
            f"  accuses {sum(r[2] for r in spared)} of {len(spared)} innocent ones; "
            f"the one that matches most: {max(r[0] for r in spared):.0f}%"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
