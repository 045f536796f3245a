"""Whose copy is it? How often a leaked copy names its source, a wrong one or nobody: a look in minutes, not a protocol.

    export PORTCULLIS_DATA=... OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python benchmarks/tracing.py [seeds] > benchmarks/results/tracing.txt

Licensees: Fashion-MNIST, a dense network on 2,000 rows; ten licensees a seed get it trained on with a key of their own
(100 marked questions each), and one leaks theirs in each of the ways below. Every copy is traced with 30 and with 100
questions of each key, beside 20 innocent models and the ten models as they were given away.
Clients: scikit-learn's digits behind the stage `dawn` at a rate of 2% (a victim of 16 units on 500 rows); eight clients
a seed ask 1,000 questions each and train a network of 256 units on the answers, or a forest, or 16 units.
A name counts as wrong where anybody is named whose copy is not in the suspect. Intervals are those of Clopper and
Pearson at 95%; copies of one seed share a victim and its innocent models.
"""

from __future__ import annotations

import copy
import os
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier

from dawn import ASKED, OWN, X, Y
from dawn import fitted as digits_network
from ownership import FINE, changed, fitted, pruned, reset_last, rounded
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Interface, Model, Rows
from portcullis_ml.court.naming import Source
from portcullis_ml.court.tracing import Trace, trace
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.measures.statistics import clopper_pearson
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.torch import TorchModel
from portcullis_ml.ownership.backdoor import Backdoor
from portcullis_ml.ownership.dawn import Dawn, DawnKey

PICTURES = Interface(input_shape=(28, 28), n_classes=10)
DIGITS = Interface(input_shape=(64,), n_classes=10)
MARK, RATE = Backdoor(n=100), 0.02
LICENSEES, CLIENTS = 10, 8

Case = tuple[str, Model, set[str]]  # how the copy was made, the copy, whose it is


class Mean:
    """What several models answer together."""

    def __init__(self, *models: Model) -> None:
        self.models, self.input_shape, self.n_classes = models, models[0].input_shape, models[0].n_classes

    def scores(self, x: Array) -> Array:
        return np.asarray(np.mean([m.scores(x) for m in self.models], axis=0))


def mean_weights(one: TorchModel, other: TorchModel) -> TorchModel:
    module = copy.deepcopy(one.module)
    with torch.no_grad():
        for p, q in zip(module.parameters(), other.module.parameters(), strict=True):
            p.copy_((p + q) / 2)
    return TorchModel(module, (28, 28), 10, network=one.network)


def leaks(models: dict[str, TorchModel], base: Model, thief: Rows, seed: int) -> Iterator[Case]:
    """One copy of each licensee's model in every way; the last is put together with the next licensee's."""
    half, names = Rows(thief.x[:2000], thief.y[:2000]), list(models)
    for i, (name, model) in enumerate(models.items()):
        s, other = 100 * seed + i, names[(i + 1) % len(names)]
        yield "the file itself", model, {name}
        yield "trained on, all layers (FTAL)", fitted(half.x, half.y, s, model, FINE), {name}
        yield "last layer anew, all layers (RTAL)", fitted(half.x, half.y, s, reset_last(model), FINE), {name}
        yield "50% of weights pruned", changed(model, pruned(0.5)), {name}
        yield "weights rounded to 15 levels", changed(model, rounded(7)), {name}
        yield "copy from 4,000 labels", fitted(thief.x, model.scores(thief.x).argmax(axis=1), s + 50), {name}
        yield "mean of two licensees' weights", mean_weights(model, models[other]), {name, other}
        yield "mean of two licensees' answers", Mean(model, models[other]), {name, other}
    yield "the owner's model, unmarked", base, set()


def licensees(seed: int, parts: list[Rows], innocent: list[Model], fresh: list[Model], told: Counter[Any]) -> None:
    own, thief, _ = parts
    base = fitted(own.x, own.y, seed)
    keys = {f"licensee {i}": MARK.mint(bytes([seed + 1, i + 1] * 16), PICTURES) for i in range(LICENSEES)}
    models: dict[str, Any] = {
        name: MARK.embed(key, FINE, own, base, rng=np.random.default_rng([seed, i]))
        for i, (name, key) in enumerate(keys.items())
    }
    cases = [*leaks(models, base, thief, seed), *(("a fresh innocent model", m, set[str]()) for m in fresh)]
    for pairs in (30, 100):
        sources = [Source(name, MARK, k.x[:pairs], k.labels[:pairs], 10) for name, k in keys.items()]
        for how, suspect, whose in cases:
            oracle = LocalOracle(suspect, PICTURES, budget=10**6)
            found = trace(sources, lambda _, o=oracle: o, innocent=innocent, licensed=models)
            count(told, (f"backdoor, {pairs}", how), found, whose)
        told[f"backdoor, {pairs}", "innocents"] += np.array(found.innocents)
        told[f"backdoor, {pairs}", "cross pairs"] += np.array(found.cross_pairs)


def clients(seed: int, innocent: list[Model], told: Counter[Any]) -> None:
    scheme, rng = Dawn(rate=RATE), np.random.default_rng(seed)
    victim = digits_network(X[:OWN], Y[:OWN], seed)
    secret = bytes([seed + 1]) * 32
    guard = Guard(scheme.defense(DawnKey(secret)), key=secret)
    sources, asked = [], {}
    for i in range(CLIENTS):
        name, x = f"client {i}", ASKED[rng.permutation(len(ASKED))[:1000]]
        oracle = LocalOracle(victim, DIGITS, budget=1000, guard=guard, client=name)
        asked[name] = (x, oracle.query(x).labels)
        log = scheme.log(guard.store.load((name, guard.names[0])))
        key = scheme.registered(secret, log, DIGITS)
        sources.append(Source(name, scheme, key.x, key.labels, 10))
    told["dawn", "marks"] += np.array([sum(len(s.x) for s in sources), CLIENTS])
    for i, (name, (x, labels)) in enumerate(asked.items()):
        forest = SklearnModel(RandomForestClassifier(100, random_state=i).fit(x, labels))
        cases: list[Case] = [
            ("network of 256 units", digits_network(x, labels, 10 * seed + i, 256), {name}),
            ("forest", forest, {name}),
            ("network of 16 units", digits_network(x, labels, 10 * seed + i), {name}),
            ("a fresh innocent network", digits_network(*honest(rng), 5000 + 10 * seed + i, 256), set()),
        ]
        for how, suspect, whose in cases:
            oracle = LocalOracle(suspect, DIGITS, budget=10**6)
            count(told, ("dawn", how), trace(sources, lambda _, o=oracle: o, innocent=innocent), whose)


def honest(rng: np.random.Generator) -> tuple[Array, Any]:
    rows = rng.permutation(len(X))[:1000]
    return X[rows], Y[rows]


def count(told: Counter[Any], cell: tuple[str, str], found: Trace, whose: set[str]) -> None:
    """right: only those whose copy it is are named; all: every one of them; wrong: somebody else is named as well."""
    named = set(found.names)
    told[cell] += np.array([bool(named) and named <= whose, bool(named - whose), not named, named == whose, 1])


def main(seeds: int) -> None:
    data = load_dataset("fashion_mnist", os.environ["PORTCULLIS_DATA"])
    x, y = data.x[:30_000].reshape(-1, 28, 28), data.y[:30_000].astype(np.int64)
    parts = [Rows(x[a:b], y[a:b]) for a, b in pairwise((0, 2000, 6000, 30_000))]
    others = parts[2]
    draws = [np.random.default_rng(s).permutation(len(others))[:2000] for s in range(30)]
    models: list[Model] = [fitted(others.x[d], others.y[d], 1000 + s) for s, d in enumerate(draws)]
    plain: list[Model] = [digits_network(*honest(np.random.default_rng(700 + i)), 700 + i, 256) for i in range(20)]
    told: Counter[Any] = Counter()
    for seed in range(seeds):
        licensees(seed, parts, models[:20], models[20:], told)
        clients(seed, plain, told)
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    print(f"python benchmarks/tracing.py {seeds}\n{seeds} seeds, {LICENSEES} licensees and {CLIENTS} clients each\n")
    print(
        f"{'keys, questions':16}{'the leaked copy':36}{'n':>4}  {'right, %':22}{'wrong, %':22}{'nobody, %':22}all named"
    )
    for (keys, how), row in told.items():
        if len(row) == 5:
            right, wrong, nobody = (clopper_pearson(int(k), int(row[4])).percent(0) for k in row[:3])
            print(f"{keys:16}{how:36}{row[4]:>4}  {right:22}{wrong:22}{nobody:22}{row[3]}")
    print()
    for (keys, how), row in told.items():
        if how == "marks":
            print(f"{keys}: {row[0] / row[1]:.0f} marks a client in 1,000 answers")
        elif len(row) == 2:
            rate = clopper_pearson(int(row[0]), int(row[1])).percent(2)
            print(f"{keys}: of {how} named wrongly: {row[0]} of {row[1]}, {rate}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
