"""Throughput and latency of the whole guard as a share of the same stack's bare pass-through, in one run.

    python benchmarks/gateway/throughput.py --d 784

Bare and full are measured in turns of half a second, so that all meet the same machine, which is not the same for
long; every round gives one ratio, and what is printed is their median and their mean, with 95% intervals. Two bare
gates are measured: one on the gate's own HTTP client, one on aiohttp. The load comes from processes of their own, which
on two cores share them with the gate: processor time of the gate is the figure that does not depend on that.

Two whole guards are compared in the same way, and nothing else is measured, with

    --against REVISION   the gate of another revision, or of a checkout in another folder
    --front uvicorn      the same gate as an application of uvicorn's, without its own port
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from host import machine, stolen
from scipy import stats

HERE = Path(__file__).parent
KEY = "benchmark"
CLOCKED = 3_000  # requests of which it is said where their time goes
Process = subprocess.Popen[str]


def start(script: str, *words: str, python: str = sys.executable, root: Path | None = None) -> tuple[Process, str]:
    """A process, and its address: the first line that it prints. With a `root`, script and package of that checkout."""
    here = root / "benchmarks" / "gateway" if root else HERE
    environment = os.environ | ({"PYTHONPATH": str(root / "src")} if root else {})
    process = subprocess.Popen([python, str(here / script), *words], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def stop(process: Process) -> str:
    """End a process; the last line that it printed."""
    process.terminate()
    text = process.communicate(timeout=60)[0]
    return (text or "").strip().rpartition("\n")[2]


def cpu(process: Process) -> float:
    """Seconds of processor time that a process's threads have used."""
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def resident(process: Process) -> float:
    """Megabytes of memory that a process holds."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1e3


class Load:
    """A process that asks a gate, every time that it is told to."""

    def __init__(self, url: str, gate: Process | None, script: str = "load.py", **settings: Any) -> None:
        command = [sys.executable, str(HERE / script), json.dumps({"url": url, "key": KEY, **settings})]
        self._gate = gate
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def run(self) -> dict[str, Any]:
        """What came of one run; processor time of the gate in microseconds a request."""
        before, lost = cpu(self._gate) if self._gate else 0.0, stolen()
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._read())
        found["cpu_us"] = 1e6 * ((cpu(self._gate) if self._gate else 0.0) - before) / found["n"]
        found["stolen"] = (stolen() - lost) / (found["seconds"] * (os.cpu_count() or 1))
        return found

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def load(url: str, gate: Process | None, **settings: Any) -> dict[str, Any]:
    """One run of load."""
    asking = Load(url, gate, **settings)
    found = asking.run()
    asking.end()
    return found


def middle(values: list[float]) -> str:
    """Median and an interval for it of at least 95%, from the order of the values alone: a few wild ones, which a mean
    and its interval are made of, do not move it."""
    ordered, n = np.sort(values), len(values)
    low = int(stats.binom.ppf(0.025, n, 0.5))
    if low < 1:
        return f"{np.median(ordered):.2f} (n={n}, too few for an interval)"
    return f"{np.median(ordered):.2f} [{ordered[low - 1]:.2f}, {ordered[n - low]:.2f}] (n={n})"


def interval(values: list[float]) -> str:
    """Mean and 95% t interval."""
    mean, n = float(np.mean(values)), len(values)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return f"{mean:.2f} [{mean - half:.2f}, {mean + half:.2f}] (n={n})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d", type=int, default=784)
    parser.add_argument("--requests", type=int, default=600, help="in a round, to each gate")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--calm", type=int, default=12, help="rounds at 200 requests/s")
    parser.add_argument("--stored", type=int, default=2_000, help="samples of each class on record")
    parser.add_argument("--binary", action="store_true", help="the client sends raw bytes")
    parser.add_argument("--binary-upstream", action="store_true", help="the gate sends raw bytes to the model")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--against", help="a revision, or the folder of a checkout: the two gates alone, by turns")
    parser.add_argument("--front", choices=["uvicorn"], help="the gate behind it and by itself alone, by turns")
    return parser.parse_args()


def main() -> None:
    a = arguments()
    print("$ python benchmarks/gateway/throughput.py", *sys.argv[1:])
    print(machine())
    stub, upstream = start("stub.py")
    to = "binary+" + upstream if a.binary_upstream else upstream
    if a.against or a.front:
        compare(to, a)
        stop(stub)
        return
    gates = {
        "bare": start("gates.py", "bare", upstream, "own"),
        "bare, aiohttp": start("gates.py", "bare", upstream, "aiohttp"),
        "full": start("gates.py", "full", to, str(a.d), str(a.stored)),
    }
    try:
        found = in_turns(gates, a)
        calm = at_200(gates, a)
    finally:
        about = json.loads([stop(process) for process, _ in gates.values()][-1])["about"]
    for name, runs in found.items():
        m = {k: float(np.median([r[k] for r in runs])) for k in ("rps", "p50", "p99", "cpu_us")}
        print(f"{name:14} {m['rps']:7.0f} requests/s  p50 {m['p50']:6.2f} ms  p99 {m['p99']:6.2f} ms  "
              f"{m['cpu_us']:5.0f} us of processor time  {sum(r['bad'] for r in runs)} not 200")  # fmt: skip
    for name in ("bare", "bare, aiohttp"):
        pairs = list(zip(found["full"], found[name], strict=True))
        shares = [f["rps"] / b["rps"] for f, b in pairs]
        print(f"full / {name}: median {middle(shares)} of throughput, mean {interval(shares)}; by processor time "
              f"{middle([b['cpu_us'] / f['cpu_us'] for f, b in pairs])}")  # fmt: skip
    added = [f["p99"] - b["p99"] for f, b in zip(calm["full"], calm["bare"], strict=True)]
    for name, values in (*((n, [r["p99"] for r in runs]) for n, runs in calm.items()), ("added", added)):
        print(f"at 200 requests/s, p99 in ms, {name:5} median {middle(values)}, mean {interval(values)}")
    shares = [100 * r["stolen"] for runs in calm.values() for r in runs]
    more = [f["stolen"] - b["stolen"] for f, b in zip(calm["full"], calm["bare"], strict=True)]
    print(f"meanwhile the host took {min(shares):.1f}% to {max(shares):.1f}% of the cores' time, in the middle "
          f"{np.median(shares):.1f}%; what it took more beside the whole guard and the p99 added: Spearman's "
          f"correlation {stats.spearmanr(more, added).statistic:.2f}")  # fmt: skip
    print(f"on record: {about}")
    where(to, a)
    stop(stub)


def compare(upstream: str, a: argparse.Namespace) -> None:
    """The gate and another one, nothing else."""
    words = ("full", upstream, str(a.d), str(a.stored))
    gates = {"this gate": start("gates.py", *words)}
    with tempfile.TemporaryDirectory() as folder:
        if a.front:
            gates[a.front] = start("gates.py", *words, f"front={a.front}")
        if a.against:
            gates[a.against] = start("gates.py", *words, root=checkout(a.against, Path(folder)))
        try:
            found = in_turns(gates, a)
        finally:
            for process, _ in gates.values():
                stop(process)
    for name, runs in found.items():
        m = {k: float(np.median([r[k] for r in runs])) for k in ("rps", "p50", "p99", "cpu_us")}
        print(f"{name:14} {m['rps']:7.0f} requests/s  p50 {m['p50']:6.2f} ms  p99 {m['p99']:6.2f} ms  "
              f"{m['cpu_us']:5.0f} us of processor time  {sum(r['bad'] for r in runs)} not 200")  # fmt: skip
    for name in list(gates)[1:]:
        pairs = list(zip(found["this gate"], found[name], strict=True))
        print(f"this gate / {name}: throughput {middle([t['rps'] / o['rps'] for t, o in pairs])}, "
              f"processor time {middle([t['cpu_us'] / o['cpu_us'] for t, o in pairs])}")  # fmt: skip


def checkout(what: str, folder: Path) -> Path:
    """A folder with this revision's files, or the folder that `what` is."""
    if Path(what).is_dir():
        return Path(what).resolve()
    files = subprocess.run(["git", "archive", what], cwd=HERE.parents[1], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=files, check=True)
    return folder


def common(a: argparse.Namespace) -> dict[str, Any]:
    return {"d": a.d, "binary": a.binary}


def in_turns(gates: dict[str, tuple[Process, str]], a: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Every gate in every round, in an order that moves on by one."""
    loads = {
        name: Load(url, gate, n=a.requests, prepared=3_000, seed=1, connections=a.connections, **common(a))
        for name, (gate, url) in gates.items()
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in gates}
    for turn in range(-2, a.rounds):  # the first two warm up: connections, caches, the detector's sketches
        names = list(gates)[turn % len(gates) :] + list(gates)[: turn % len(gates)]
        for name in names:
            run = loads[name].run()
            if turn >= 0:
                found[name].append(run)
    for asking in loads.values():
        asking.end()
    return found


def at_200(gates: dict[str, tuple[Process, str]], a: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """1,000 requests by the clock, five seconds each, by turns."""
    found: dict[str, list[dict[str, Any]]] = {"bare": [], "full": []}
    for turn in range(a.calm):
        for name, runs in found.items():
            gate, url = gates[name]
            runs.append(load(url, gate, rate=200.0, n=1_000, seed=99 + turn, connections=32, **common(a)))
    return found


def where(upstream: str, a: argparse.Namespace) -> None:
    """Processor time of every part, in a gate of its own whose clocks cost some time themselves."""
    gate, url = start("gates.py", "full", upstream, str(a.d), str(a.stored), "clocked")
    load(url, gate, n=600, seed=78, connections=4, **common(a))
    gate.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    load(url, gate, n=CLOCKED, seed=79, connections=a.connections, **common(a))
    spent = json.loads(stop(gate))["us"]
    print(f"where the microseconds go (processor time of the event loop's thread, {CLOCKED} requests):")
    for name, us in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  {us:6.1f}  {name}")
    print(f"  {sum(spent.values()):6.1f}  together")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    main()
