"""How far targeted transfer depends on what PRADA's text leaves open: eps, and the function that is climbed.

    python benchmarks/transfer.py [--data FOLDER] [--budget 3200] [--epochs 100]

One label-only Jb-top3 copy of prada-mnist's victim (strategy plain), judged on targeted examples from ten images of
each class. One copy and no interval: this says which choices matter, not what the attack is worth. It takes some
minutes of one core, and the victim's training once.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import tomllib
from importlib import resources
from pathlib import Path

import numpy as np

from portcullis_ml.bench.protocols import prada
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Model, Reveals
from portcullis_ml.extraction import CATALOG
from portcullis_ml.models.perturb import pgd
from portcullis_ml.models.torch import TorchLearner

EPS, CLIMBED, PER_CLASS = (0.15, 0.25, 0.35), ("log_probs", "logits"), 10


def steal(loaded: prada.VictimAndData, plan: dict, budget: int, epochs: int) -> Model:
    """The copy: the seeds of a balanced draw, labels alone."""
    x, classes = loaded.adversary
    drawn = [derive(0, "try", "seeds", str(c)).permutation(np.flatnonzero(classes == c)) for c in range(10)]
    seeds = x[np.concatenate([rows[: plan["seeds_per_class"]] for rows in drawn])]
    learner = TorchLearner(**plan["learner"] | {"epochs": epochs}, targets="labels")
    oracle = LocalOracle(loaded.victim, loaded.interface.revealing(reveals=Reveals.LABELS), budget=budget)
    attack = CATALOG.build("jacobian(direction='top_k', k=3)")
    knowledge = Knowledge(pool=seeds, seeds=seeds, learner=learner)
    return attack(oracle, knowledge, rng=derive(0, "try", "attack")).model


def transfer(loaded: prada.VictimAndData, copy: Model, eps: float, of: str) -> tuple[float, float]:
    """Shares of the targeted examples that the victim, and the copy itself, take for the target."""
    x, _ = loaded.adversary
    labels, rng = loaded.victim.scores(x).argmax(axis=1), np.random.default_rng(0)
    chosen = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:PER_CLASS] for c in range(10)])
    source, target = np.nonzero(labels[chosen][:, None] != np.arange(10)[None])
    crafted = pgd(copy, x[chosen[source]], target, eps=eps, bounds=loaded.interface.bounds, targeted=True, of=of)
    victim, own = (float((m.scores(crafted).argmax(axis=1) == target).mean()) for m in (loaded.victim, copy))
    return victim, own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("PORTCULLIS_DATA"))
    parser.add_argument("--victim", help="a folder that holds, or will hold, the trained victim")
    parser.add_argument("--budget", type=int, default=3200)
    parser.add_argument("--epochs", type=int, default=100)
    args = parser.parse_args()
    plan = tomllib.loads((resources.files("portcullis_ml.bench.protocols") / "prada_mnist.toml").read_text())
    with tempfile.TemporaryDirectory() as spare:
        folder = Path(args.victim or spare)
        loaded = prada.load(prada.Setting(plan, args.data, folder, "cpu"))
    copy = steal(loaded, plan, args.budget, args.epochs)
    x, given = loaded.exam
    agreed = (copy.scores(x).argmax(axis=1) == given).mean()
    print(
        f"Jb-top3 plain, {args.budget} queries, {args.epochs} epochs a round: agreement {agreed:.1%} of {len(x)} rows"
    )
    print("climbed       eps   victim     copy    (share of 900 targeted examples taken for the target)")
    for of in CLIMBED:
        for eps in EPS:
            victim, own = transfer(loaded, copy, eps, of)
            print(f"{of:<12} {eps:>4} {victim:>8.1%} {own:>8.1%}", flush=True)


if __name__ == "__main__":
    main()
