"""Throughput and latency of the whole guard as a share of the same stack's bare pass-through, in one run.

    python benchmarks/gateway/throughput.py --d 784 --requests 3000 --stored 2000

Each round measures bare and full one after the other, so that both meet the same machine; the ratio is that of
the rounds' medians. Processor time per request is the steadier figure on a machine that is shared.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
KEY = "benchmark"


def start(script: str, *words: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, str(HERE / script), *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def cpu(process: subprocess.Popen[str]) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(url: str, gate: subprocess.Popen[str], **settings: object) -> dict[str, float]:
    """One run of load; processor time of the gate in microseconds a request."""
    command = [sys.executable, str(HERE / "load.py"), json.dumps({"url": url, "key": KEY, **settings})]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    before = cpu(gate)
    process.stdin.write("go\n")
    process.stdin.flush()
    found: dict[str, float] = json.loads(process.stdout.readline())
    process.wait()
    found["cpu_us"] = 1e6 * (cpu(gate) - before) / found["n"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d", type=int, default=784)
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stored", type=int, default=2_000, help="samples of each class on record")
    parser.add_argument("--binary", action="store_true")
    a = parser.parse_args()
    stub, upstream = start("stub.py")
    bare, bare_url = start("gates.py", "bare", upstream)
    full, full_url = start("gates.py", "full", upstream, str(a.d), "binary" if a.binary else "json", str(a.stored))
    gates = {"bare": (bare, bare_url), "full": (full, full_url)}
    found: dict[str, list[dict[str, float]]] = {"bare": [], "full": []}
    calm: dict[str, dict[str, float]] = {}
    try:
        for gate, url in gates.values():  # connections, caches, the detector's sketches
            load(url, gate, n=300, d=a.d, binary=a.binary, seed=77, connections=4)
        for seed in range(a.rounds):
            for name, (gate, url) in gates.items():
                common = {"n": a.requests, "d": a.d, "binary": a.binary, "seed": seed + 1, "connections": 16}
                found[name].append(load(url, gate, **common))
        for name, (gate, url) in gates.items():
            common = {"n": 1_000, "d": a.d, "binary": a.binary, "seed": 99, "connections": 8}
            calm[name] = load(url, gate, rate=200.0, **common)
    finally:
        for process in (full, bare, stub):
            process.terminate()
            process.wait()
    median = {n: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for n, runs in found.items()}
    for name, m in median.items():
        print(f"{name}  {m['rps']:7.0f} requests/s  p50 {m['p50']:6.2f} ms  p99 {m['p99']:6.2f} ms  "
              f"{m['cpu_us']:5.0f} us of processor time  {m['bad']:.0f} not 200")  # fmt: skip
    print(f"ratio {median['full']['rps'] / median['bare']['rps']:.2f} of throughput, "
          f"{median['bare']['cpu_us'] / median['full']['cpu_us']:.2f} of processor time")  # fmt: skip
    print(f"at 200 requests/s: p99 {calm['bare']['p99']:.2f} ms bare, {calm['full']['p99']:.2f} ms full")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    main()
