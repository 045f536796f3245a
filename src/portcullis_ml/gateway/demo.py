"""The demonstration: handwritten digits behind a guard, and a thief who asks for them over HTTP.

Nothing is downloaded: the digits come with scikit-learn, victim and copies are small networks in numpy.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from portcullis_ml.catalog import resolve
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.oracle import LocalOracle, MeteredOracle
from portcullis_ml.core.types import Array, Interface, Model
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.clients import new_key
from portcullis_ml.gateway.policy.policy import read_policy
from portcullis_ml.gateway.protocols.wire import ModelSpec
from portcullis_ml.gateway.state.private import make_private
from portcullis_ml.models.mlp import fit_mlp

__all__ = ["MlpLearner", "Theft", "behind_gate", "behind_policy", "digits_model", "digits_rows", "start_model_server",
           "unguarded", "without_asking", "write_demo"]  # fmt: skip

INTERFACE = Interface(input_shape=(64,), n_classes=10)
SERVED = ModelSpec(name="digits", interface=INTERFACE)
TRAINED_ON = 1_200  # of 1,797 rows; the rest belong to honest clients and to the thief

POLICY = """\
# The demonstration's policy. Explain it with: portcullis check {path}
mode = "enforce"
key_file = "guard.key"
quantum = 0.0625            # digits have 17 grey levels

[upstream]
url = "{upstream}"

[model]
name = "digits"
input_shape = [64]
classes = 10

[clients]
anonymous = "shared"        # everyone without a key is one client
key = [
    {{ client = "alice", sha256 = "{alice}" }},
    {{ client = "thief", sha256 = "{thief}" }},
]

# A quota and classes alone hold back the thief of `portcullis demo attack`; the watch is for those who ask otherwise.
[[guard]]
unit = "quota"
rows = 400
per = 86400

[[guard]]
unit = "watch"
detector = {{ unit = "prada", threshold = 3.0 }}   # calibrated on shuffled digits: no honest alarm
then = {{ unit = "block" }}

[[guard]]
unit = "label_only"

[state]
url = "sqlite:///{folder}/state.db"

[log]
path = "{folder}/log"
queries = true
"""


def digits_rows() -> tuple[Array, np.ndarray]:
    """(1797, 64) in [0, 1] and their digits."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.data / 16.0, found.target


@cache
def digits_model() -> tuple[Model, ModelSpec]:
    """The victim, the same on every start, and how it is served."""
    x, y = digits_rows()
    targets = np.eye(10)[y[:TRAINED_ON]]
    rng = np.random.default_rng(7)
    return fit_mlp(x[:TRAINED_ON], targets, rng=rng, hidden=24, restarts=1, penalty=1e-3, iterations=200), SERVED


@dataclass(frozen=True, kw_only=True)
class MlpLearner:
    """The thief's training: a small network, fitted anew each time."""

    hidden: int = 24  # units
    iterations: int = 80  # of L-BFGS

    def fit(self, x: Array, targets: Array, *, rng: np.random.Generator, start: Model | None = None) -> Model:
        flat = x.reshape(len(x), -1)
        return fit_mlp(flat, targets, rng=rng, hidden=self.hidden, restarts=1, penalty=1e-3, iterations=self.iterations)


def start_model_server() -> tuple[subprocess.Popen[str], str]:
    """The digits model in a process of its own: (process, address)."""
    command = [sys.executable, "-m", "portcullis_ml.gateway.modelserver"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def write_demo(upstream: str, folder: str | None = None) -> tuple[Path, dict[str, str]]:
    """A fresh policy in a folder of its own: (its path, the clients' keys)."""
    place = Path(folder or tempfile.mkdtemp(prefix="portcullis-demo-"))
    keys = {name: new_key() for name in ("alice", "thief")}
    secret, path = place / "guard.key", place / "portcullis.toml"
    for file in (secret, path):
        make_private(file)
    secret.write_text(secrets.token_bytes(32).hex())
    digests = {name: digest for name, (_, digest) in keys.items()}
    path.write_text(POLICY.format(path=path, folder=place, upstream=upstream, **digests))
    return path, {name: key for name, (key, _) in keys.items()}


@dataclass(frozen=True)
class Theft:
    """What one thief came to."""

    answered: int  # rows
    agreed: int  # of the digits that the thief did not begin with, those on which copy and model agree ...
    of: int  # ... and how many there are
    stopped: str  # why it ended


def without_asking(*, rng: np.random.Generator) -> Theft:
    """What the thief's own hundred digits are worth, labelled by hand."""
    own = _own_digits()
    copy = MlpLearner().fit(own.seeds, np.eye(10)[own.labels], rng=rng)
    return _judged(0, copy, own, "")


def unguarded(*, budget: int, rng: np.random.Generator, watch: Any = None) -> Theft:
    """The thief asks the model itself."""
    return _theft(LocalOracle(digits_model()[0], INTERFACE, budget=budget), rng, watch)


def behind_policy(path: Path | None = None, *, budget: int, rng: np.random.Generator, watch: Any = None) -> Theft:
    """The thief asks the model in this process, behind the guard of a policy's file or of the demonstration's own."""
    with tempfile.TemporaryDirectory() as folder:
        policy = read_policy(path or write_demo("http://127.0.0.1:1", folder)[0])
    seen = policy.shown
    if (seen.input_shape, seen.n_classes) != (INTERFACE.input_shape, INTERFACE.n_classes):
        raise InputError(
            f"The policy in {path} must be for the demonstration's model, 64 inputs and 10 classes; it is for inputs "
            f"of shape {list(seen.input_shape)} and {seen.n_classes} classes."
        )
    return _theft(LocalOracle(digits_model()[0], seen, budget=budget, guard=policy.guard()), rng, watch)


def behind_gate(url: str, key: str | None, *, budget: int, rng: np.random.Generator, watch: Any = None) -> Theft:
    """The thief asks a gate. Raises Unreachable where there is none, AttackFailed where it answers not one row."""
    headers = {"x-api-key": key} if key else {}
    oracle = HttpOracle(
        url, interface=INTERFACE, budget=budget, model="digits", headers=headers, rows_per_request=16,
        per_second=None, attempts=3,
    )  # fmt: skip
    try:
        return _theft(oracle, rng, watch)
    finally:
        oracle.close()


class _Own(NamedTuple):
    """The thief's ten digits of each class, what they show, and the digits that its copy is judged by."""

    seeds: Array
    labels: np.ndarray
    judged_by: Array


def _own_digits() -> _Own:
    x, y = digits_rows()
    rest = np.arange(TRAINED_ON, len(x))
    seeds = np.concatenate([rest[y[rest] == digit][:10] for digit in range(10)])
    return _Own(x[seeds], y[seeds], x[np.setdiff1d(rest, seeds)])


def _theft(oracle: MeteredOracle, rng: np.random.Generator, watch: Any) -> Theft:
    """Jb-top3, which begins with the thief's own digits."""
    own = _own_digits()
    jacobian = resolve("portcullis_ml.extraction:CATALOG").load("jacobian")(direction="top_k", k=3)
    found = jacobian(oracle, Knowledge(seeds=own.seeds, learner=MlpLearner()), rng=rng, watch=watch)
    return _judged(len(found.x), found.model, own, found.stopped)


def _judged(answered: int, copy: Model, own: _Own, stopped: str) -> Theft:
    same = digits_model()[0].scores(own.judged_by).argmax(1) == copy.scores(own.judged_by).argmax(1)
    return Theft(answered, int(same.sum()), len(same), stopped)
