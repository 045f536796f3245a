"""What one client's bodies do to another: latency beside the worst bodies that a fuzzer finds, and without them.

    python benchmarks/gateway/stalls.py

The fuzzer (bodies.py) draws bodies of each kind and keeps the one that takes longest to read. It is sent by one client
over and over on several connections, by turns with nothing, while another client asks 50 questions a second by the
clock. Latencies count from the moment at which a question was due. Behind the gate (`portcullis serve`, the default
limits, a quota, PRADA, rounding, journal, query log) a model server answers at once.
"""

from __future__ import annotations

import argparse
import json
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bodies import KINDS, PATHS, Sent, slowest
from gates import policy_text
from host import machine
from matrix import free, gate
from throughput import HERE, Load, middle, start, stop

from portcullis_ml.core.types import Interface
from portcullis_ml.gateway.protocols.wire import ModelSpec

KEYS = {"honest": "key-of-the-honest", "other": "key-of-the-other"}


def policy(folder: Path, upstream: str, d: int, port: int, limits: str) -> Path:
    """The whole guard, every protocol."""
    text = policy_text(upstream, d, folder, KEYS).replace(
        "[listen]\nport = 0", f"[listen]\nport = {port}\nprotocols = {json.dumps(list(PATHS))}"
    )
    path = folder / "policy.toml"
    path.write_text(f"{text}\n[limits]\n{limits}\n")
    return path


def attacked(url: str, sent: Sent, connections: int, folder: Path, honest: Load) -> tuple[list[float], dict[str, int]]:
    """The honest client's latencies while these bodies come, and what these were told."""
    (folder / "sent").write_bytes(pickle.dumps(sent._replace(headers=dict(sent.headers))))
    command = [sys.executable, str(HERE / "attacker.py"), url, KEYS["other"], str(connections), str(folder / "sent")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        time.sleep(0.2)
        times = honest.run()["times"]
    finally:
        told = stop(process)
    return times, json.loads(told)


def tail(times: np.ndarray, rng: np.random.Generator) -> str:
    """99th percentile in ms with a bootstrapped 95% interval over the rounds, times (rounds, n)."""
    drawn = rng.integers(len(times), size=(2_000, len(times)))
    least, most = np.percentile([np.percentile(times[rounds], 99) for rounds in drawn], (2.5, 97.5))
    return f"{1e3 * np.percentile(times, 99):.0f} [{1e3 * least:.0f}, {1e3 * most:.0f}]"


def measured(url: str, kind: str, sent: Sent, a: argparse.Namespace, folder: Path, honest: Load) -> str:
    """One kind of bodies: rounds of nothing and of these bodies by turns."""
    calm, beside, told = [], [], dict[str, int]()
    for _ in range(a.rounds):
        calm.append(honest.run()["times"])
        times, said = attacked(url, sent, a.attackers, folder, honest)
        beside.append(times)
        for status, count in said.items():
            told[status] = told.get(status, 0) + count
    quiet, loud, rng = np.array(calm), np.array(beside), np.random.default_rng(0)
    ratios = np.median(loud, axis=1) / np.median(quiet, axis=1)
    medians = f"{1e3 * np.median(quiet):6.1f} {1e3 * np.median(loud):6.1f}  {middle(ratios.tolist()):26}"
    words = ", ".join(f"{count} x {status}" for status, count in sorted(told.items()))
    return f"{kind:28} {medians} {tail(quiet, rng):16} {tail(loud, rng):16} {words}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=784)
    parser.add_argument("--draws", type=int, default=10, help="bodies of each kind, of which the slowest is sent")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=50, help="of the honest client in a round")
    parser.add_argument("--attackers", type=int, default=8, help="connections of the other client")
    parser.add_argument("--limits", default="", help="lines for the policy's table of limits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    return parser.parse_args()


def main() -> None:
    a = arguments()
    print("$ python benchmarks/gateway/stalls.py", *sys.argv[1:])
    print(machine())
    interface = Interface(input_shape=(a.d,), n_classes=10)
    served, folder = ModelSpec(name="m", interface=interface, datatype="FP32"), Path(tempfile.mkdtemp())
    found = {}
    for kind in a.kinds:
        sent, took, told = found[kind] = slowest(KINDS[kind], served, a.draws, a.seed)
        print(f"{kind:28} {sent.protocol:12} {len(sent.body):8} bytes, read in {took:6.1f} ms: {told}", flush=True)
    print(f"\nlatency of the honest client in ms, without these bodies and beside them: n={a.rounds} x {a.requests}\n"
          f"{'':28} {'medians':>13}  {'ratios of a round: median':26} {'p99 without':16} {'p99 beside':16} "
          "what they were told")  # fmt: skip
    stub, upstream = start("stub.py", "rows")
    try:
        with gate(policy(folder, upstream, a.d, port := free(), a.limits), port) as url:
            honest = Load(url, None, key=KEYS["honest"], d=a.d, binary=False, seed=1, n=a.requests, connections=8,
                          rate=50, prepared=2_000, each=True)  # fmt: skip
            honest.run()
            for kind, (sent, _, _) in found.items():
                print(measured(url, kind, sent, a, folder, honest), flush=True)
            honest.end()
    finally:
        stop(stub)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    main()
