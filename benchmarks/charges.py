"""What honest clients and thieves pay: a price that rises with suspicion, in money and in seconds of work.

    export PORTCULLIS_DATA=...
    python benchmarks/charges.py [--sets NAME ...] [--clients 120] [--rate 0.05] [--seeds 3]

Clients, thieves, victims and thresholds are those of `benchmarks/calibration.py`: a half of the honest clients sets the
threshold and says what suspicion is ordinary (the median over them of their greatest); the other half and the thieves
are charged. A row costs 1, ten times that at the threshold and as much again as far beyond; work is 0.1 s at first, by
the same factors. Requests hold one row, and are priced by what was known before it. Cells are means over clients or
thieves with 95% bootstrapped intervals, and the greatest. The last lines say how fast this machine hashes.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

import numpy as np

from calibration import DETECTORS, PICTURES, TABLES, THIEVES, client, scene_of, thief
from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.guard import Detector
from portcullis_ml.core.types import Array
from portcullis_ml.defenses.priced import Priced
from portcullis_ml.defenses.proof_of_work import ProofOfWork
from portcullis_ml.gateway.work import solved
from portcullis_ml.measures.calibration import ClientStream, greatest_by_day, threshold_for
from portcullis_ml.measures.detection import run_detector
from portcullis_ml.measures.statistics import bootstrap

FACTOR = 10.0


def bill(detector: Detector[object], normal: float, suspicion: Array) -> tuple[float, float]:
    """(the price of a row on average, seconds of work for a row on average) of one stream, row by row."""
    priced = Priced(detector, normal=normal, factor=FACTOR)
    work = ProofOfWork(detector, normal=normal, factor=FACTOR)
    known = np.concatenate([[np.nan], suspicion[:-1]]).tolist()
    hashes = [2.0**bits if (bits := work.asked(s, 1)) else 0.0 for s in known]
    return float(np.mean([priced.times(s) for s in known])), float(np.mean(hashes)) / work.hashes_per_s


def cell(values: list[float]) -> str:
    held = np.array(values)
    found = bootstrap(lambda rows: float(held[rows].mean()), len(held), rng=np.random.default_rng(0), unit="clients")
    return f"{found.value:.2g} [{found.low:.2g}, {found.high:.2g}], at most {max(values):.2g}"


def row(
    detector: Detector[object], streams: list[ClientStream], asked: dict[str, list[Array]], rate: float
) -> list[str]:
    """A detector's cells: the honest clients who were held out, then each kind of thief."""
    order = np.random.default_rng(4).permutation(len(streams))
    chosen, held_out = [streams[i] for i in order[::2]], [streams[i] for i in order[1::2]]
    threshold = threshold_for([greatest_by_day(detector, s) for s in chosen], rate, 0.95)
    try:
        known = replace(detector, threshold=threshold)
    except ParameterError:  # beyond what the detector takes
        if threshold > detector.threshold:
            return [f"none: honest clients reach {threshold:.4g}", *["-"] * 5]
        known, threshold = detector, detector.threshold
    normal = float(np.median([np.nanmax(run_detector(known, s.x, s.answer)) for s in chosen]))
    if not normal < threshold:
        normal = np.nextafter(threshold, -np.inf)
    honest = [bill(known, normal, run_detector(known, s.x, s.answer)) for s in held_out]
    thieves = [[bill(known, normal, loud) for loud in asked[who]] for who in THIEVES]
    return [
        f"{normal:.4g}, {threshold:.4g}",
        cell([price for price, _ in honest]),
        cell([seconds for _, seconds in honest]),
        *(f"{cell([p for p, _ in paid])}; {cell([s for _, s in paid])} s" for paid in thieves),
    ]


def report(name: str, options: argparse.Namespace) -> None:
    scene = scene_of(name)
    print(f"\n{scene.said}")
    streams = [client(scene, i) for i in range(options.clients)]
    held = {who: [thief(scene, word, s) for s in range(options.seeds)] for who, word in THIEVES.items()}
    for detector in DETECTORS:
        asked = {who: [run_detector(detector, x, answer) for x, answer in each] for who, each in held.items()}
        print(f"| {name} | {detector.name} | {' | '.join(row(detector, streams, asked, options.rate))} |", flush=True)


def speed() -> None:
    """How many hashes a second plain Python computes here."""
    begun, hashes = time.perf_counter(), 0
    for i in range(8):
        hashes += solved(f"bits=17; expires=1; challenge={i:064x}")[1]
    print(
        f"\nplain Python, one core: {hashes / (time.perf_counter() - begun):,.0f} hashes a second (n={hashes:,} hashes)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=[*TABLES, *PICTURES], choices=[*TABLES, *PICTURES])
    parser.add_argument("--clients", type=int, default=120)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print(f"$ python {' '.join(sys.argv)}")
    print(f"honest clients charged: {options.clients // 2}; thieves of each kind: {options.seeds}")
    print("| set | detector | ordinary, threshold | honest: times the price | honest: s of work a row | "
          f"{' | '.join(f'{who}: times the price; work' for who in THIEVES)} |")  # fmt: skip
    for name in options.sets:
        report(name, options)
    speed()


if __name__ == "__main__":
    main()
