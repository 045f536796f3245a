"""PRADA beside the plain loop, in one run: time, growth of the time, memory, and the calibration of the defaults.

    python benchmarks/prada.py [--data FOLDER] [--part speed cold structureless growth memory calibrate]

FOLDER holds mnist.npz, usps.npz and gtsrb32.npz (default: the environment variable PORTCULLIS_DATA).
Times are processor time, the least median of seven rounds in which the two take turns; compare the ratios. The update
is the compiled one (numba), by numpy where that is not installed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from portcullis_ml.core.state import pack
from portcullis_ml.core.types import Answer, Request
from portcullis_ml.detectors import _compiled
from portcullis_ml.detectors._growing_sets import GrowingSets, Joining
from portcullis_ml.detectors._nearest import Nearest
from portcullis_ml.detectors.prada import Prada
from portcullis_ml.detectors.prada_normality import PradaNormality

WINDOWS, KAPPAS, DELTAS = (20, 25, 30), (0.01, 0.02, 0.05), (4.0, 5.0, 6.0, 8.0)
CLIENTS = 15
Stream = tuple[np.ndarray, np.ndarray]  # rows (n, d) and predicted classes (n,)


def images(folder: Path, name: str, split: str = "train") -> Stream:
    with np.load(folder / f"{name}.npz") as held:
        x, y = held[f"x_{split}"], held[f"y_{split}"]
    return x.reshape(len(x), -1) / 255.0, y.astype(int)


def plain(members: list[np.ndarray], x: np.ndarray) -> float:
    """The loop over the set that Algorithm 1 spells out."""
    return min(math.sqrt(((z - x) ** 2).sum()) for z in members)


def median_time(ask: Callable[[np.ndarray], object], rows: np.ndarray) -> float:
    took = []
    for x in rows:
        begun = time.process_time_ns()
        ask(x)
        took.append((time.process_time_ns() - begun) / 1e9)
    return float(np.median(took))


def race(members: np.ndarray, rows: np.ndarray, rounds: int = 7) -> tuple[float, float]:
    """(plain, fast): seconds that a query takes."""
    update, kept = updater(members), list(members)
    update(rows[0])  # fits the basis
    times = []
    for part in np.array_split(rows[1:], rounds):
        times.append((median_time(lambda x: plain(kept, x), part[:8]), median_time(update, part)))
    loop, fast = np.min(times, axis=0)
    return float(loop), float(fast)


def updater(members: np.ndarray) -> Callable[[np.ndarray], object]:
    """A whole `Prada.update` of one row with these members stored in one class: digest, search, ratio."""
    detector = Prada(cap=100_000)
    state = detector.start()
    for x in members:  # stored one and all, whatever their distance
        state.sets.place(0, x)
    state.sets.near = Nearest(detector.cap)
    for x in members:
        state.sets.near.add(0, x)
    state.sets.joining[0].threshold = math.inf  # nothing joins: the set keeps its size
    answer = Answer(np.zeros(1, np.int64))
    return lambda x: detector.update(state, Request("a", x[None]), answer)


def speed(folder: Path) -> None:
    x, y = images(folder, "mnist")
    natural, (rng, n) = x[y == 3][:2301], (np.random.default_rng(0), 2000)
    synthetic = np.clip(natural[:300] + 0.1 * rng.choice([-1, 1], (300, 784)), 0, 1)
    print("Update at 2,000 stored 784-d samples of one class (MNIST, class 3)")
    print("  queries                 plain loop      update   ratio")
    for name, rows in (("natural", natural[n:]), ("synthetic neighbours", synthetic)):
        loop, fast = race(natural[:n], rows)
        print(f"  {name:22} {loop * 1e6:8.0f} us {fast * 1e6:8.0f} us  {loop / fast:5.0f}x")


def filled(rows: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray, int], object]:
    """A whole update of one row and its class, by a client with all of these rows on record and no room for more."""
    detector = Prada()
    state = detector.start()
    for x, label in zip(rows, labels.tolist(), strict=True):
        state.sets.near.add(label, x.astype(float))
        state.sets.joining[label] = Joining(threshold=math.inf)
    for label, x in zip(labels.tolist(), rows, strict=True):
        if label not in state.sets.near._sketches:
            state.sets.near.distance(label, x.astype(float))
    return lambda x, label: detector.update(state, Request("a", x[None]), Answer(np.array([label])))


def cold(folder: Path, rounds: int = 12, each: int = 100) -> None:
    """Two clients with the same 63 MB on record, one for each way to search, take turns: nothing stays in a cache."""
    rng, (x, y) = np.random.default_rng(0), images(folder, "mnist")
    noisy = lambda rows: np.clip(x[rows] + rng.normal(0, 0.01, (len(rows), 784)) * (x[rows] > 0), 0, 1)  # noqa: E731
    stored = np.concatenate([rng.choice(np.flatnonzero(y == c), 2000, replace=False) for c in range(10)])
    rows, asked = noisy(stored).astype(np.float32), rng.choice(len(x), rounds * each)
    kernels, clients = _compiled.kernels, {}
    for way, using in {"numpy": None, "compiled": kernels}.items():
        _compiled.kernels = using
        clients[way] = filled(rows, y[stored])
    _compiled.kernels = kernels
    took: dict[str, list[float]] = {way: [] for way in clients}
    queries = list(zip(noisy(asked).astype(np.float32).astype(float), y[asked].tolist(), strict=True))
    for start in range(0, len(asked), each):
        for way, update in clients.items():
            spent = []
            for q, label in queries[start : start + each]:
                begun = time.process_time_ns()
                update(q, label)
                spent.append((time.process_time_ns() - begun) / 1e3)
            took[way].append(float(np.median(spent)))
    ratios = np.array(took["numpy"]) / np.array(took["compiled"])
    least, (low, middle, high) = {way: min(t) for way, t in took.items()}, np.percentile(ratios, (25, 50, 75))
    print("Update at 2,000 stored rows in each of 10 classes, 32-bit numbers with noise, in no cache (MNIST)")
    print(
        f"  numpy {least['numpy']:.0f} us, compiled {least['compiled']:.0f} us, the least of {rounds} medians of {each}"
    )
    print(f"  by turns {middle:.1f} x as fast [{low:.1f}, {high:.1f}] (median and quartiles)")


def structureless(folder: Path, rounds: int = 12, each: int = 20) -> None:
    """Uniform rows, between which no sketch tells: both ways to search beside one product with all stored rows."""
    rng, kernels = np.random.default_rng(0), _compiled.kernels
    print("Update at 2,000 stored rows of 784 uniform numbers in one class")
    for kind in (np.float32, np.float64):
        rows = rng.random((2000 + rounds * each, 784)).astype(kind)
        stored, asked = rows[:2000], rows[2000:].astype(float)
        clients = {}
        for way, using in {"numpy": None, "compiled": kernels}.items():
            _compiled.kernels = using
            clients[way] = updater(stored.astype(float))
            clients[way](asked[0])
        _compiled.kernels = kernels
        ways = {**clients, "one product": lambda x, s=stored: s @ x.astype(s.dtype)}
        took = {w: [median_time(ask, part) for part in np.split(asked, rounds)] for w, ask in ways.items()}
        for way, found in took.items():
            low, middle, high = np.percentile(found, (25, 50, 75)) * 1e6
            spread = f"[{low:.0f}, {high:.0f}] (quartiles of {rounds} medians of {each})"
            print(f"  {kind.__name__}, {way:12} {middle:6.0f} us {spread}")


def growth(folder: Path) -> None:
    x, y = images(folder, "mnist")
    natural = x[y == 3][:5301]
    print("Update by stored samples of one class (the loop grows with the set)")
    first: tuple[float, float] | None = None
    for n in (250, 500, 1000, 2000, 5000):
        loop, fast = race(natural[:n], natural[-301:])
        first = first or (loop, fast)
        print(
            f"  {n:5} stored  update {fast * 1e6:6.0f} us ({fast / first[1]:4.1f} x the first)"
            f"  loop {loop * 1e6:7.0f} us ({loop / first[0]:4.1f} x)  ratio {loop / fast:4.0f}x"
        )


def growing(rows: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, float | None]]:
    """(|G|, distance) after every query, by brute force."""
    members: dict[int, list[np.ndarray]] = {}
    joined: dict[int, list[float]] = {}
    threshold: dict[int, float] = {}
    size = 0
    for x, c in zip(rows, labels.tolist(), strict=True):
        distance = None
        if c not in members:
            members[c], joined[c], threshold[c] = [x], [0.0], 0.0
            size += 1
        else:
            distance = math.sqrt(((np.array(members[c]) - x) ** 2).sum(axis=1).min())
            if distance > threshold[c]:
                members[c].append(x)
                joined[c].append(distance)
                threshold[c] = max(threshold[c], float(np.mean(joined[c]) - np.std(joined[c])))
                size += 1
        yield size, distance


def memory(folder: Path) -> None:
    x, y = images(folder, "mnist")
    rows = np.random.default_rng(1).permutation(len(x))[:3000]
    x, y = x[rows], y[rows]
    request, answer = Request("a", x), Answer(y)
    slow = list(growing(x, y))
    print("A benign MNIST client after 3,000 queries (true classes as predictions)")
    for detector in (Prada(), PradaNormality()):
        state = detector.start()
        suspicion = detector.update(state, request, answer)
        held = state.sets.near.nbytes + state.seen.nbytes
        twin = GrowingSets(Nearest(detector.cap))
        same = [(twin.place(c, z), twin.size)[::-1] for z, c in zip(x, y.tolist(), strict=True)] == slow
        print(
            f"  {detector.name:16} |G| = {state.sets.size}; {held / 1e6:.2f} MB in memory, "
            f"{len(pack(state)) / 1e6:.2f} MB stored; every size and distance equal to brute force: {same}; "
            f"greatest suspicion {np.nanmax(suspicion):.3f}"
        )


def predictions(train: Stream, test: Stream, name: str) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.neural_network import MLPClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        model = MLPClassifier((128,), max_iter=12, random_state=0).fit(*train)
    print(f"  {name} model: one hidden layer of 128, test accuracy {model.score(*test):.3f}")
    return lambda x: model.predict(x).astype(np.int64)


def neighbours(x: np.ndarray, predict: Callable, seeds: int, rng: np.random.Generator, n: int = 400) -> Stream:
    """A made-up attack, none of the published ones: natural seeds, then small steps along a linear copy's weights."""
    from sklearn.linear_model import RidgeClassifier

    rows = x[rng.choice(len(x), seeds, replace=False)]
    while len(rows) < n:
        labels = predict(rows)
        weights = RidgeClassifier().fit(rows, labels)
        place = np.searchsorted(weights.classes_, labels)
        rows = np.concatenate([rows, np.clip(rows + 0.1 * np.sign(weights.coef_[place]), 0, 1)])
    return rows[:n], predict(rows[:n])


def ratios(sizes: np.ndarray, w: int, kappa: float) -> tuple[np.ndarray, np.ndarray]:
    i = np.arange(2 * w, len(sizes))
    now, before = (sizes[i] - sizes[i - w]) / w, (sizes[i - w] - sizes[i - 2 * w]) / w
    return i, (before + kappa) / (now + kappa)


def sizes_of(stream: Stream) -> np.ndarray:
    sets = GrowingSets(Nearest(10_000))
    sizes = [0]
    for x, c in zip(stream[0], stream[1].tolist(), strict=True):
        sets.place(c, x)
        sizes.append(sets.size)
    return np.array(sizes)


def calibrate(folder: Path) -> None:
    """Benign streams alone choose (window, kappa, delta); the made-up attack only says what the choice costs."""
    from scipy.ndimage import zoom

    print(
        f"Calibration: {CLIENTS} benign streams of 5,000 from each of MNIST (training rows 20,000 on), USPS and GTSRB"
    )
    rng, (mx, my), (ux, _) = np.random.default_rng(2024), images(folder, "mnist"), images(folder, "usps")
    small = zoom(ux.reshape(-1, 16, 16) * 255, (1, 20 / 16, 20 / 16), order=1)  # as large as MNIST's digits are
    ux = np.pad(np.rint(np.clip(small, 0, 255)), ((0, 0), (4, 4), (4, 4))).reshape(-1, 784) / 255.0
    digit = predictions((mx[:20_000], my[:20_000]), images(folder, "mnist", "test"), "MNIST")
    gx, gy = images(folder, "gtsrb32")
    sign = predictions((gx[::2], gy[::2]), images(folder, "gtsrb32", "test"), "GTSRB")
    sources = {"mnist": (mx[20_000:], digit), "usps": (ux, digit), "gtsrb": (gx, sign)}
    benign: dict[tuple[str, int], np.ndarray] = {}
    least: list[tuple[str, float]] = []
    for name, (x, predict) in sources.items():
        for k in range(CLIENTS):
            rows = x[rng.choice(len(x), 5000, replace=False)]
            stream = rows, predict(rows)
            benign[name, k] = sizes_of(stream)
            detector = PradaNormality()
            suspicion = detector.update(detector.start(), Request("a", rows), Answer(stream[1]))
            least.append((name, float(1 - np.nanmax(suspicion))))
    attacks = [sizes_of(neighbours(mx[20_000:], digit, 50, rng)) for _ in range(CLIENTS)]
    print(
        f"  chunks of 50 with an alarm, of {100 * CLIENTS}; attacks detected, of {CLIENTS}; median alarm (switch at 50)"
    )
    print("  window kappa delta  mnist  usps gtsrb  detected  median")
    for w, kappa, delta in itertools.product(WINDOWS, KAPPAS, DELTAS):
        chunks = dict.fromkeys(sources, 0)
        for (name, _), sizes in benign.items():
            i, r = ratios(sizes, w, kappa)
            chunks[name] += len({(n - 1) // 50 for n in i[r > delta]})
        first = np.concatenate([i[r > delta][:1] for i, r in (ratios(s, w, kappa) for s in attacks)])
        counts = " ".join(f"{n:5}" for n in chunks.values())
        median = np.median(first) if len(first) else math.nan
        print(f"  {w:6} {kappa:5} {delta:5}  {counts}  {len(first):8}  {median:6.0f}")
    for name in sources:
        values = np.array([w for n, w in least if n == name])
        low = ", ".join(f"{(values < delta).sum()} below {delta}" for delta in (0.95, 0.93, 0.90))
        print(f"  least W of each {name} client: median {np.median(values):.3f}, least {values.min():.3f}; {low}")


def main() -> None:
    parts = {
        "speed": speed,
        "cold": cold,
        "structureless": structureless,
        "growth": growth,
        "memory": memory,
        "calibrate": calibrate,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("PORTCULLIS_DATA"))
    parser.add_argument("--part", nargs="+", choices=parts, default=list(parts))
    chosen = parser.parse_args()
    if not chosen.data or not (Path(chosen.data) / "mnist.npz").exists():
        sys.exit("A folder with mnist.npz was expected: give --data FOLDER or set PORTCULLIS_DATA.")
    print(f"Compiled search: {_compiled.warm()}")
    for part in chosen.part:
        parts[part](Path(chosen.data))


if __name__ == "__main__":
    main()
