"""A soak: minutes at 70% of measured capacity, with memory, lost log lines and latency at the end.

    python benchmarks/gateway/soak.py --minutes 10

Ten clients of 784 numbers fill their detectors to the cap of 100 samples a class, so that memory has reached what it
comes to; capacity is measured with 16 connections that ask by turns; then requests come by the clock. From the
second time round, a question differs from an earlier one in its first number.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from host import machine, stolen
from scipy import stats
from throughput import KEY, Process, cpu, load, resident, start, stop

D = 784


def sampled(gate: Process, folder: Path, found: list[tuple[float, float, float]], over: threading.Event) -> None:
    """(seconds, megabytes in memory, megabytes on disk), every five seconds."""
    begin = time.monotonic()
    while not over.wait(5.0):
        disk = sum(f.stat().st_size for f in folder.rglob("state*")) / 1e6
        found.append((time.monotonic() - begin, resident(gate), disk))


def busy() -> float:
    """Seconds of processor time that the whole machine has worked."""
    user, nice, system, _, _, irq, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--share", type=float, default=0.7, help="of capacity")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--cap", type=int, default=100)
    a = parser.parse_args()
    print("$ python benchmarks/gateway/soak.py", *sys.argv[1:])
    print(machine(), flush=True)
    folder = Path(tempfile.mkdtemp())
    stub, upstream = start("stub.py")
    gate, url = start("gates.py", "soak", upstream, str(D), str(a.clients), str(a.cap), str(folder))
    keys = [f"{KEY}{i}" for i in range(a.clients)]
    common: dict[str, Any] = {"d": D, "binary": False, "keys": keys, "prepared": 2_000 * a.clients}
    asked: list[dict[str, Any]] = []
    samples: list[tuple[float, float, float]] = []
    over = threading.Event()
    try:
        asked.append(load(url, gate, n=2_000 * a.clients, seed=1, connections=16, **common))
        asked.append(load(url, gate, n=20_000, seed=2, connections=16, **{**common, "prepared": 4_000}))
        rate = a.share * asked[-1]["rps"]
        print(f"capacity {asked[-1]['rps']:.0f} requests/s; {a.minutes:g} minutes at {rate:.0f}", flush=True)
        watch = threading.Thread(target=sampled, args=(gate, folder, samples, over))
        watch.start()
        before, lost = busy(), stolen()
        ours = cpu(gate) + cpu(stub) + os.times().children_user + os.times().children_system
        run = load(url, gate, n=round(60 * a.minutes * rate), seed=3, rate=rate, connections=64,
                   **{**common, "prepared": 4_000})  # fmt: skip
        asked.append(run)
        ours = cpu(gate) + cpu(stub) + os.times().children_user + os.times().children_system - ours
        others = (busy() - before - ours) / run["seconds"]
        print(f"meanwhile other work on this machine took {others:.2f} of {os.cpu_count()} cores, and its host "
              f"{(stolen() - lost) / run['seconds']:.2f} of them")  # fmt: skip
    finally:
        over.set()
        told = stop(gate)
        stop(stub)
    report(run, asked, samples, json.loads(told), folder)


def report(
    run: dict[str, Any], asked: list[dict[str, Any]], samples: list[tuple[float, float, float]],
    told: dict[str, Any], folder: Path,
) -> None:  # fmt: skip
    print(f"{run['n']} requests in {run['seconds']:.0f} s ({run['rps']:.0f} a second), {run['bad']} not 200")
    by_turns, by_clock = asked[-2]["cpu_us"], run["cpu_us"]
    print(f"a request took {by_turns:.0f} us of the gate's processor time by turns, {by_clock:.0f} by the clock: "
          f"{by_clock * run['rps'] / 1e6:.0%} of one core")  # fmt: skip
    print(f"latency from when a request was due: p50 {run['p50']:.2f}  p99 {run['p99']:.2f}  p99.9 {run['p999']:.2f}  "
          f"worst {run['worst']:.1f} ms")  # fmt: skip
    parts = np.array(run["p99 by parts"])
    print(f"p99 of each of {len(parts)} parts of the run: median {np.median(parts):.2f}, quartiles "
          f"{np.percentile(parts, 25):.2f} and {np.percentile(parts, 75):.2f}, worst {parts.max():.1f} ms; "
          f"{(parts <= 50).sum()} of them at most 50 ms")  # fmt: skip
    by_second(told["seconds"], run)
    lines = 0
    for file in (folder / "log").iterdir():
        with file.open("rb") as held:
            lines += sum(1 for _ in held)
    sent = sum(r["n"] for r in asked)
    print(f"query log: {lines} lines of {sent} requests, {sent - lines} lost, {told['dropped']} dropped; "
          f"{told['state failures']} failures of the state")  # fmt: skip
    t, memory, disk = np.array(samples).T
    late = t > 60.0 if t[-1] > 120.0 else t > 0.0
    slope = stats.linregress(t[late], memory[late])
    half = stats.t.ppf(0.975, late.sum() - 2) * slope.stderr
    low, high = 60 * (slope.slope - half), 60 * (slope.slope + half)
    print(f"memory: {memory[late][0]:.1f} MB after a minute, {memory[-1]:.1f} MB at the end, "
          f"{memory[late].min():.1f} to {memory[late].max():.1f} between; "
          f"slope {60 * slope.slope:+.3f} [{low:+.3f}, {high:+.3f}] MB a minute (n={late.sum()})")  # fmt: skip
    print(f"state on disk: {disk[0]:.0f} MB at the beginning, {disk[-1]:.0f} MB at the end, most {disk.max():.0f}")
    print(f"detectors hold {told['rows']} rows in {told['megabytes']:.1f} MB")


def by_second(seconds: list[list[float]], run: dict[str, Any]) -> None:
    """What differs in the seconds in which a request costs most: the core, or what the gate does besides."""
    found = np.array([second for second in seconds if second[0] > 0.3 * run["rps"]])  # no load before and after
    cost, piece, saving, collecting, shut, taken = found[-int(run["seconds"]) :].T[1:]
    slow = cost >= np.percentile(cost, 90)
    print(
        f"by the second (n={len(cost)}), the dearest tenth beside the rest, and Spearman's correlation with the cost:"
    )
    for name, values in (("us of processor time a request", cost), ("us for a fixed piece of work", piece),
                         ("share of the time a snapshot is written", saving), ("ms of garbage collection", collecting),
                         ("ms in which requests wait for the state file", shut),
                         ("ms that the host took from the cores", taken)):  # fmt: skip
        together = stats.spearmanr(cost, values).statistic if values.any() else float("nan")
        print(f"  {values[slow].mean():8.2f} {values[~slow].mean():8.2f} {together:6.2f}  {name}")
    parts = run["p99 by parts"]
    meanwhile = [part.sum() for part in np.array_split(taken, len(parts))]
    print(f"  the p99 of a part and what the host took meanwhile: Spearman's correlation "
          f"{stats.spearmanr(parts, meanwhile).statistic:.2f} (n={len(parts)})")  # fmt: skip
    queued = 1e6 / cost < run["rps"]
    slow = f" {piece[queued].mean():.1f} us in these," if queued.any() else ""
    print(f"  in {queued.sum()} seconds a request cost more than there was time for; the fixed piece took{slow} "
          f"{piece[~queued].mean():.1f} us in the others")  # fmt: skip


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    main()
