"""What each defense and detector of the catalog costs in the gate at 784 numbers, beside the same gate with an empty
guard and the bare pass-through.

    python benchmarks/gateway/defenses.py [--rounds 20] [--only NAME,NAME]

For every unit three gates take turns of a fraction of a second each: bare, with an empty guard, with this one stage.
Every round gives one ratio; what is printed is their median and a 95% interval, as the lines of a Markdown table. The
model server answers at once; the load's own processes share the cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from host import machine
from throughput import in_turns, middle, start, stop
from units import guards

from portcullis_ml.core.settings import describe
from portcullis_ml.report.recommend import toml

HEAD = ["stage", "requests/s", "us of processor time more", "share of the empty guard's throughput", "of bare"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=784)
    parser.add_argument("--requests", type=int, default=300, help="in a round, to each gate")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--binary", action="store_true", help="the client sends raw bytes")
    parser.add_argument("--only", help="names of units, separated by commas")
    return parser.parse_args()


def main() -> None:
    a = arguments()
    only = a.only.split(",") if a.only else None
    print("$ python benchmarks/gateway/defenses.py", *sys.argv[1:])
    print(machine())
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty = folder / "empty.toml"
        empty.touch()
        for unit, stage in guards(a.d, 10, folder):
            if only is None or unit in only:
                file = folder / f"{unit}.toml"
                file.write_text(toml(describe(stage)))
                print(f"| {' | '.join([f'`{unit}`', *measured(file, empty, a)])} |", flush=True)


def measured(stages: Path, empty: Path, a: argparse.Namespace) -> list[str]:
    """Requests a second, processor time more than with an empty guard, and the shares of throughput, as they are
    written."""
    stub, upstream = start("stub.py")
    gates = {
        "bare": start("gates.py", "bare", upstream, "own"),
        "empty": start("gates.py", "guard", upstream, str(a.d), str(empty)),
        "stage": start("gates.py", "guard", upstream, str(a.d), str(stages)),
    }
    try:
        found = in_turns(gates, a)
    finally:
        for process, _ in gates.values():
            stop(process)
        stop(stub)
    assert not any(run["bad"] for runs in found.values() for run in runs)
    rps = np.median([run["rps"] for run in found["stage"]])
    more = [s["cpu_us"] - e["cpu_us"] for s, e in zip(found["stage"], found["empty"], strict=True)]
    shares = [middle(ratios(found["stage"], found[other])) for other in ("empty", "bare")]
    return [f"{rps:,.0f}", middle(more), *shares]


def ratios(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[float]:
    return [a["rps"] / b["rps"] for a, b in zip(one, other, strict=True)]


if __name__ == "__main__":
    main()
