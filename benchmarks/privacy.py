"""What the privacy attacks spend their time on, beside a plain way to do the same: ratios in one run, by turns.

    OMP_NUM_THREADS=1 python benchmarks/privacy.py [--only shadows,lira,label_only] [--turns 5]

shadows      16 networks on halves of the same rows: one after another, as one stack, and half of them in each of two
             processes. A ratio of 2 says that half of the time is needed on two idle cores.
lira         likelihood ratios of 10,000 candidates from 16 shadow models, beside a loop over candidates
label_only   the search for the boundary of 300 candidates at once, beside one question at a time

Seconds are those of the processor, which other processes on the machine disturb less than a clock; of two processes
those of the slower one, without its start, which is said apart. Medians with quartiles of the paired ratios.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from sklearn.datasets import load_digits

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Interface, Labels, Rows
from portcullis_ml.measures.statistics import quantile
from portcullis_ml.models.shadows import paired_halves
from portcullis_ml.models.together import fit_together
from portcullis_ml.models.torch import TorchLearner
from portcullis_ml.privacy import CATALOG
from portcullis_ml.privacy.lira import LEAST, likelihood_ratio

CLASSES, MODELS, EPOCHS = 10, 16, 3


def seconds(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def ratios(turns: Array) -> str:
    """turns (n, 2) seconds of the plain way and of ours."""
    ratio = turns[:, 0] / turns[:, 1]
    low, middle, high = (quantile(ratio, q) for q in (0.25, 0.5, 0.75))
    return f"{middle:7.2f}  [{low:.2f}, {high:.2f}]"


def workloads(rng: np.random.Generator) -> Iterator[tuple[str, Array, Labels]]:
    """Network, rows and labels; speed does not depend on what they show."""
    for network, n, shape in (
        ("table_mlp", 2000, (30,)),
        ("mlp", 2000, (64,)),
        ("digits_cnn", 1000, (8, 8)),
        ("prada_mnist", 300, (28, 28)),
        ("small_cnn", 300, (32, 32, 3)),
    ):
        yield network, rng.random((n, *shape)), rng.integers(CLASSES, size=n)


def one_by_one(network: str, x: Array, y: Labels, held: Array) -> float:
    """Processor seconds; also what each of two processes does with its half of the models."""
    learner, targets = TorchLearner(network=network, epochs=EPOCHS), np.eye(CLASSES)[y]

    def work() -> None:
        for mine in held:
            learner.fit(x[mine], targets[mine], rng=np.random.default_rng(2))

    return seconds(work)


def started(_: int) -> float:
    """A process's seconds for its start and imports."""
    time.sleep(0.5)  # so that each process is asked once
    return time.process_time()


def shadows(turns: int) -> None:
    print(f"shadows: {MODELS} models, {EPOCHS} epochs in batches of 64; seconds, and the ratio of one by one to each")
    print("network            rows  one by one   together  ratio  quartiles         two processes  ratio  quartiles")
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        start = max(pool.map(started, range(2)))
        for network, x, y in workloads(np.random.default_rng(0)):
            held = paired_halves(MODELS, len(x), np.random.default_rng(1))
            learner = TorchLearner(network=network, epochs=EPOCHS)

            def together(learner=learner, x=x, y=y, held=held) -> None:
                fit_together(learner, x, y, CLASSES, held, rng=np.random.default_rng(2))

            together()  # what torch prepares once
            found = []
            for _ in range(turns):
                both = [pool.submit(one_by_one, network, x, y, half) for half in (held[::2], held[1::2])]
                two = max(future.result() for future in both)
                found.append((one_by_one(network, x, y, held), seconds(together), two))
            t = np.array(found)
            alone, stack, two = np.median(t, axis=0)
            said = f"{network:14}{len(x):9,}{alone:10.2f} s{stack:9.2f} s{ratios(t[:, :2])}"
            print(f"{said:72}{two:9.2f} s{ratios(t[:, ::2])}", flush=True)
    print(f"the start of a process, with its imports: {start:.2f} s\n")


def plain_ratio(phi: Array, theirs: Array, held: Array, fixed: bool) -> Array:
    """LiRA's ratio of each candidate by itself: medians, deviations and two normal densities."""
    spread = {}
    for side in (True, False):
        left = [t[h == side] - t[h == side].mean() for t, h in zip(theirs.T, held.T, strict=True)]
        spread[side] = np.sqrt(sum((v**2).sum() for v in left) / (sum(map(len, left)) - len(left)))
    found = []
    for j, value in enumerate(phi):
        density = {}
        for side in (True, False):
            own = theirs[held[:, j] == side, j]
            sd = max(spread[side] if fixed else own.std(ddof=1), LEAST)
            density[side] = -(((value - np.median(own)) / sd) ** 2) / 2 - math.log(sd)
        found.append(density[True] - density[False])
    return np.array(found)


def lira(turns: int) -> None:
    rng, n = np.random.default_rng(0), 10_000
    held = paired_halves(MODELS, n, rng)
    theirs, phi = rng.normal(size=(MODELS, n)) + held, rng.normal(size=n)
    print(f"lira: {n:,} candidates, {MODELS} shadow models; greatest difference of a score, seconds, ratio")
    for variance in ("fixed", "each"):

        def ours(variance=variance) -> Array:
            return likelihood_ratio(phi[None], theirs[:, None], held, mode="online", variance=variance)[0]

        def plain(variance=variance) -> Array:
            return plain_ratio(phi, theirs, held, variance == "fixed")

        off = np.abs(ours() - plain()).max()
        t = np.array([(seconds(plain), seconds(ours)) for _ in range(turns)])
        slow, fast = np.median(t, axis=0)
        print(f"variance={variance:8}{off:9.1e}{slow:9.3f} s{fast:9.4f} s{ratios(t)}", flush=True)
    print()


def one_at_a_time(model: object, x: Array, y: Labels, attack) -> tuple[Array, int]:
    """The same search, one question at a time: every line of every candidate by itself."""
    paid = 0

    def label(row: Array) -> int:
        nonlocal paid
        paid += 1
        return int(model.scores(row[None])[0].argmax())

    labels, flat, found = np.array([label(row) for row in x]), x.reshape(len(x), -1), np.zeros(len(x))
    for i in np.flatnonzero(labels == y):
        length = np.sqrt(((flat - flat[i]) ** 2).sum(1))
        length[labels == labels[i]] = np.inf
        near = np.argsort(length, kind="stable")[: attack.anchors]
        low, high = np.zeros(len(near)), np.ones(len(near))
        for _ in range(attack.steps):
            best = (high * length[near]).min()
            for j in np.flatnonzero(low * length[near] < best):
                middle = (low[j] + high[j]) / 2
                stays = label(x[i] + middle * (x[near[j]] - x[i])) == labels[i]
                low[j], high[j] = (middle, high[j]) if stays else (low[j], middle)
        found[i] = (high * length[near]).min()
    return found, paid


def label_only(turns: int) -> None:
    digits = load_digits()
    x, y = digits.images[:300] / 16, digits.target[:300].astype(np.int64)
    model = TorchLearner(network="mlp", epochs=20).fit(x[:150], np.eye(10)[y[:150]], rng=np.random.default_rng(0))
    attack, interface = CATALOG.build("label_only"), Interface(input_shape=(8, 8), n_classes=10)

    def ours():
        oracle = LocalOracle(model, interface, budget=10**6)
        return attack(oracle, Knowledge(), Rows(x, y), rng=np.random.default_rng(0))

    leakage, (distances, paid) = ours(), one_at_a_time(model, x, y, attack)
    off = np.abs(leakage.membership - distances).max()
    t = np.array([(seconds(lambda: one_at_a_time(model, x, y, attack)), seconds(ours)) for _ in range(turns)])
    slow, fast = np.median(t, axis=0)
    print("label_only: 300 candidates; greatest difference of a distance, questions of both, seconds, ratio")
    print(f"{off:9.1e}{paid:9,}{leakage.queries:9,}{slow:9.3f} s{fast:9.4f} s{ratios(t)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="shadows,lira,label_only")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    for part in given.only.split(","):
        {"shadows": shadows, "lira": lira, "label_only": label_only}[part](given.turns)


if __name__ == "__main__":
    main()
