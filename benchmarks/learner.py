"""How fast the learner trains, beside a plain PyTorch loop: same network, rows, batch, optimizer and epochs.

    python benchmarks/learner.py                 the Table 1 network of PRADA on 10,000 images of 28x28
    python benchmarks/learner.py --rows 50       a thief's seeds: many small epochs

Each (loop, threads) runs in a process of its own, the two loops in turn, and the best pass of each counts: a shared
machine makes every other figure a matter of who else was there. A ratio above 1 says that ours is faster.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time


def plain(x, targets, epochs: int, batch: int) -> list[tuple[float, float]]:
    """What one writes in an afternoon: nn.Sequential, a shuffled DataLoader-free loop, Adam."""
    import torch
    from torch import nn

    images = torch.tensor(x, dtype=torch.float32)[:, None]
    goals = torch.tensor(targets, dtype=torch.float32)
    module = nn.Sequential(
        nn.Conv2d(1, 32, 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2304, 200),
        nn.ReLU(),
        nn.Linear(200, 10),
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    loss_of = nn.CrossEntropyLoss()
    marks = [(time.perf_counter(), time.process_time())]
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(batch):
            optimizer.zero_grad()
            loss_of(module(images[rows]), goals[rows]).backward()
            optimizer.step()
        marks.append((time.perf_counter(), time.process_time()))
    return marks


def ours(x, targets, epochs: int, batch: int) -> list[tuple[float, float]]:
    import numpy as np

    from portcullis_ml.models.torch import TorchLearner

    marks = []
    learner = TorchLearner(network="prada_mnist", epochs=epochs, batch=batch, lr=1e-3)
    marks.append((time.perf_counter(), time.process_time()))
    learner.fit(
        x,
        targets,
        rng=np.random.default_rng(0),
        progress=lambda *_: marks.append((time.perf_counter(), time.process_time())),
    )
    return marks


def one_run(loop: str, threads: int, rows: int, epochs: int, batch: int) -> None:
    """Best pass in wall and in CPU seconds, as JSON on the last line."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    x, targets = rng.random((rows, 28, 28)), rng.dirichlet(np.ones(10), rows)
    marks = np.array({"plain": plain, "ours": ours}[loop](x, targets, epochs, batch))
    print(json.dumps(np.diff(marks, axis=0)[1:].min(axis=0).tolist()))  # the first pass warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=0, help="passes in a run (default: 3, more for few rows)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--one", nargs=2, metavar=("LOOP", "THREADS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    epochs = args.epochs or max(3, min(200, 20_000 // args.rows))
    if args.one:
        one_run(args.one[0], int(args.one[1]), args.rows, epochs, args.batch)
        return
    print(
        f"one pass over {args.rows:,} images of 28x28, batch {args.batch}, best of {args.repeats} x {epochs - 1} passes"
    )
    print(
        f"{'threads':>8} {'plain s':>9} {'ours s':>9} {'ratio':>6}   "
        f"{'plain CPU s':>12} {'ours CPU s':>11} {'ratio':>6}"
    )
    for threads in args.threads:
        best = {"plain": [float("inf")] * 2, "ours": [float("inf")] * 2}
        for _ in range(args.repeats):
            for loop, sofar in best.items():
                command = [sys.executable, __file__, "--one", loop, str(threads), "--rows", str(args.rows)]
                command += ["--epochs", str(epochs), "--batch", str(args.batch)]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                best[loop] = [min(a, b) for a, b in zip(sofar, json.loads(out.splitlines()[-1]), strict=True)]
        (plain_wall, plain_cpu), (wall, cpu) = best["plain"], best["ours"]
        print(
            f"{threads:>8} {plain_wall:>9.3f} {wall:>9.3f} {plain_wall / wall:>6.2f}   "
            f"{plain_cpu:>12.3f} {cpu:>11.3f} {plain_cpu / cpu:>6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
