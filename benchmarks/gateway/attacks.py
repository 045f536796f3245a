"""Published attacks over HTTP against the gate in front of MLServer, and what the offline audit says of the same guard.

    PORTCULLIS_DATA=FOLDER python benchmarks/gateway/attacks.py --environments FOLDER      # FOLDER/mlserver

The victim is scikit-learn's network of 100 units, trained on 10,000 rows of MNIST. The guard blocks on either version
of PRADA; a threshold lies a tenth above the loudest of ten honest streams (MNIST and USPS rows that are used for
nothing else), and is fixed before anything is attacked. Each attack runs once through `LocalOracle`, which is the
offline audit, and once over HTTP, with the same seeds and generator; by a thief who trains the network of the PRADA
paper, and by one with a small dense network. The honest clients then send 5,000 rows each.
"""

from __future__ import annotations

import argparse
import signal
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from portcullis_ml.bench.protocols.prada import fitted
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import Refused
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.oracle import LocalOracle, MeteredOracle
from portcullis_ml.core.types import Answer, Array, Interface, Request
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.detectors import CATALOG as DETECTORS
from portcullis_ml.extraction import CATALOG
from portcullis_ml.gateway.demo import MlpLearner
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.clients import hashed
from portcullis_ml.gateway.policy.policy import Policy, read_policy
from portcullis_ml.measures.statistics import clopper_pearson
from portcullis_ml.models.networks import build_network
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.torch import TorchLearner

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
ATTACKS = {"jb_top3": "Jb-top3", "papernot": "JbDA", "jb_self": "Jb-self"}
THIEVES = {
    "PRADA's network": TorchLearner(network="attacks:prada_mnist_flat", epochs=100),
    "32 dense units": MlpLearner(hidden=32, iterations=60),
}
WATCHES = ("prada", "prada_normality")
MARGIN = 1.1  # a threshold, over the loudest honest stream
ROWS = 5_000  # of one honest client
INTERFACE = Interface(input_shape=(784,), n_classes=10)
POLICY = """
key_file = "guard.key"
quantum = 0.00392
[upstream]
url = "{url}"
scores = "predict_proba"
input = "predict"
[model]
name = "digits"
input_shape = [784]
classes = 10
[listen]
port = {port}
[admin]
port = 0
[state]
url = "sqlite:///{folder}/state.db"
[clients]
key = [{keys}]
{watches}
[[guard]]
unit = "rounding"
decimals = 3
"""
WATCH = """
[[guard]]
unit = "watch"
detector = {{ unit = "{name}", threshold = {threshold} }}
then = {{ unit = "block" }}
"""


def prada_mnist_flat(input_shape: tuple[int, ...], n_classes: int, *, dropout: float = 0.0) -> Any:
    """The paper's MNIST network for rows of 784."""
    from torch import nn

    images = build_network("prada_mnist", (28, 28), n_classes, dropout=dropout)
    return nn.Sequential(nn.Unflatten(1, (28, 28)), images)


@dataclass(frozen=True)
class Rows:
    """Who owns which rows. No row of MNIST has two owners; USPS has 9,298, of which honest clients share 5,000."""

    victim: tuple[Array, np.ndarray]  # MNIST training rows 0 to 10,000
    calibration: list[tuple[str, Array]]  # 10,000 to 35,000: five streams; the other USPS rows in five orders
    honest: list[tuple[str, Array]]  # 35,000 to 60,000, and the 5,000 USPS rows in five orders
    thief: tuple[Array, np.ndarray]  # MNIST test rows


def rows() -> Rows:
    mnist, usps = load_dataset("mnist"), load_dataset("usps")
    x = mnist.x.reshape(-1, 784)
    other = fitted(np.concatenate([usps.x, usps.x_test]), (28, 28)).reshape(-1, 784)
    other = other[np.random.default_rng(0).permutation(len(other))]

    def streams(first: int, usps_rows: Array, seed: int) -> list[tuple[str, Array]]:
        rngs = [np.random.default_rng([seed, i]) for i in range(5)]
        own = [x[first + i * ROWS : first + (i + 1) * ROWS] for i in range(5)]
        found = [(f"MNIST {i + 1}", part[rngs[i].permutation(ROWS)]) for i, part in enumerate(own)]
        return found + [(f"USPS {i + 1}", usps_rows[rngs[i].permutation(len(usps_rows))]) for i in range(5)]

    return Rows((x[:10_000], mnist.y[:10_000]), streams(10_000, other[ROWS:], 1), streams(35_000, other[:ROWS], 2),
                (mnist.x_test.reshape(-1, 784), mnist.y_test))  # fmt: skip


def trained(x: Array, y: np.ndarray) -> MLPClassifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MLPClassifier((100,), max_iter=20, random_state=0).fit(x, y)


def thresholds(victim: SklearnModel, streams: list[tuple[str, Array]]) -> dict[str, float]:
    """For each detector, its loudest suspicion on honest streams, with a margin."""
    found = {}
    for name in WATCHES:
        detector = DETECTORS.build({"unit": name})
        loudest = [
            float(np.nanmax(detector.update(detector.start(), Request("c", x), Answer.of(victim.scores(x), INTERFACE))))
            for _, x in streams
        ]
        found[name] = round(MARGIN * max(loudest), 4)
    return found


def policy(folder: Path, url: str, port: int, clients: list[str], limits: dict[str, float]) -> Policy:
    (folder / "guard.key").write_text("00" * 32)
    keys = ", ".join(f'{{ client = "{n}", sha256 = "{hashed(n)}" }}' for n in clients)
    watches = "".join(WATCH.format(name=name, threshold=t) for name, t in limits.items())
    path = folder / "p.toml"
    path.write_text(POLICY.format(url=url, port=port, folder=folder, keys=keys, watches=watches))
    return read_policy(path)


@dataclass(frozen=True)
class Both:
    """Offline and over HTTP."""

    victim: SklearnModel
    policy: Policy
    url: str
    folder: Path

    def offline(self, budget: int) -> LocalOracle:
        return LocalOracle(self.victim, INTERFACE, budget=budget, guard=self.policy.guard())

    @contextmanager
    def online(self, client: str, budget: int) -> Iterator[HttpOracle]:
        headers = {"x-api-key": client}
        with closing(HttpOracle(self.url, interface=INTERFACE, budget=budget, model="digits", headers=headers,
                                rows_per_request=64)) as oracle:  # fmt: skip
            yield oracle

    def alarm(self, client: str) -> tuple[str, int] | None:
        """(stage, row) of the first alarm that the gate wrote down."""
        with closing(sqlite3.connect(self.folder / "state.db")) as db:
            sql = "SELECT stage, row FROM alarms WHERE client = ? ORDER BY row LIMIT 1"
            found = db.execute(sql, (client,)).fetchone()
        return found and (found[0], found[1])


def first(oracle: LocalOracle) -> tuple[str, int] | None:
    return min(((a.stage, a.row) for a in oracle.alarms), key=lambda alarm: alarm[1], default=None)


def stolen(name: str, oracle: MeteredOracle, here: Rows, seed: int, thief: str) -> Extraction:
    """The attack with ten digits of each class of its own choice to begin with."""
    x, y = here.thief
    rng = np.random.default_rng(seed)
    own = np.concatenate([rng.choice(np.flatnonzero(y == c), 10, replace=False) for c in range(10)])
    found: Extraction = CATALOG.build(name)(oracle, Knowledge(seeds=x[own], learner=THIEVES[thief]), rng=rng)
    return found


def attacks(both: Both, here: Rows, a: argparse.Namespace, thief: str) -> None:
    print(f"\nA thief with {thief}\n"
          f"{'attack':8} {'seed':>4}  {'offline audit: first alarm':>32}  {'over HTTP: first alarm':>32}  "
          "rows answered, offline and HTTP   copy agrees")  # fmt: skip
    x = here.thief[0]
    truth = both.victim.scores(x).argmax(axis=1)
    same = 0
    for name, word in ATTACKS.items():
        found = []
        for seed in range(a.seeds):
            audit = both.offline(a.budget)
            predicted = stolen(name, audit, here, seed, thief)
            with both.online(client := f"{name}, {thief}, {seed}", a.budget) as oracle:
                came = stolen(name, oracle, here, seed, thief)
            alarms = first(audit), both.alarm(client)
            same += alarms[0] == alarms[1] and np.array_equal(predicted.x, came.x)
            found.append([alarm[1] if alarm else np.nan for alarm in alarms])
            agrees = float((came.model.scores(x).argmax(axis=1) == truth).mean())
            print(f"{word:8} {seed:4}  {told(alarms[0]):>32}  {told(alarms[1]):>32}  "
                  f"{len(predicted.x):>14} {len(came.x):>6}   {agrees:>25.1%}", flush=True)  # fmt: skip
        offline, online = np.array(found).T
        within = int((online <= offline).sum())
        print(f"{word}: stopped {clopper_pearson((~np.isnan(online)).sum(), len(online), unit='thefts')}; first alarm "
              f"offline at row {interval(offline)}, over HTTP {interval(online)}; within the audit's {within} of "
              f"{len(online)}")  # fmt: skip
    print(f"the same queries and the same alarm offline and over HTTP: {same} of {len(ATTACKS) * a.seeds}")


def honest(both: Both, here: Rows) -> None:
    hurt = {"offline": 0, "HTTP": 0}
    for client, x in here.honest:
        audit = both.offline(len(x))
        with both.online(client, len(x)) as oracle:
            for way, asked in (("offline", audit), ("HTTP", oracle)):
                try:
                    asked.query(x)
                except Refused:
                    hurt[way] += 1
            answered = oracle.queries
        print(f"honest client {client}: {len(x)} rows; offline {told(first(audit))}, over HTTP "
              f"{told(both.alarm(client))}, {answered} answered", flush=True)  # fmt: skip
    n = len(here.honest)
    for way, count in hurt.items():
        print(f"honest clients stopped, {way}: {clopper_pearson(count, n, unit='clients')}")


def told(alarm: tuple[str, int] | None) -> str:
    return f"{alarm[0]} at row {alarm[1]}" if alarm else "none"


def interval(values: Array) -> str:
    """Mean and 95% t interval over the seeds that were stopped."""
    from throughput import interval

    known = values[~np.isnan(values)]
    return interval(known.tolist()) if len(known) else "none"


def main() -> None:
    from host import machine
    from matrix import free, gate, model_server

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=3_200)
    a = parser.parse_args()
    print(f"$ python benchmarks/gateway/attacks.py --environments FOLDER --seeds {a.seeds} --budget {a.budget}")
    print(machine())
    python, here, folder = a.environments / "mlserver" / "bin" / "python", rows(), Path(tempfile.mkdtemp())
    code = "import sklearn; print(sklearn.__version__)"
    theirs = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()
    if theirs != sklearn.__version__:
        raise SystemExit(f"MLServer's environment must have scikit-learn {sklearn.__version__}; it has {theirs}.")
    classifier = trained(*here.victim)
    joblib.dump(classifier, folder / "model.joblib")
    victim = SklearnModel(classifier)
    print(f"victim: {classifier.score(*here.thief):.1%} of 10,000 test rows right")
    limits = thresholds(victim, here.calibration)
    print(f"thresholds, a tenth above the loudest of {len(here.calibration)} honest streams: {limits}", flush=True)
    clients = [f"{name}, {thief}, {seed}" for name in ATTACKS for thief in THIEVES for seed in range(a.seeds)]
    clients += [client for client, _ in here.honest]
    with model_server("mlserver", python, folder) as url:
        under = policy(folder, url, port := free(), clients, limits)
        with gate(folder / "p.toml", port) as address:
            both = Both(victim, under, address, folder)
            for thief in THIEVES:
                attacks(both, here, a, thief)
            print()
            honest(both, here)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    main()
