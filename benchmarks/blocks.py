"""What it costs to score rows so that the cut into requests does not matter, and what happens without.

    OMP_NUM_THREADS=1 python benchmarks/blocks.py [--threads 1] [--rows 1024] [--turns 21]

The same rows are scored in requests of 1, 8, 64 and 256 rows, plainly and in blocks (`models/blocks.py`), in turns. A
ratio of 1 says that blocks are as fast. `differ` counts the rows that get any other bit in these requests than in one
request of all rows.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier
from torch import nn

from portcullis_ml.core.types import Array, Model
from portcullis_ml.models.blocks import BlockModel
from portcullis_ml.models.networks import build_network
from portcullis_ml.models.onnx import OnnxModel
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.torch import TorchModel


def networks(rng: np.random.Generator) -> Iterator[tuple[str, Model]]:
    """Untrained or hardly trained: neither speed nor rounding depends on what a network has learnt."""
    layers = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    yield "MLP 784-128-10", TorchModel(layers, (784,), 10)
    for name, shape, classes in (("digits_cnn", (8, 8), 10), ("prada_mnist", (28, 28), 10)):
        yield f"{name} {shape[0]}x{shape[1]}", TorchModel(build_network(name, shape, classes), shape, classes)
    yield "prada_gtsrb 32x32x3", TorchModel(build_network("prada_gtsrb", (32, 32, 3), 43), (32, 32, 3), 43)
    x = rng.random((500, 784)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that two epochs are few
        fitted = MLPClassifier((128,), max_iter=2, random_state=0).fit(x, np.arange(500) % 10)
    yield "scikit-learn 784-128-10", SklearnModel(fitted)
    graph = to_onnx(fitted, x[:1], options={"zipmap": False})
    yield "ONNX 784-128-10", OnnxModel(graph.SerializeToString())


def in_requests(model: Model, x: Array, size: int) -> Array:
    return np.concatenate([model.scores(x[i : i + size]) for i in range(0, len(x), size)])


def rate(model: Model, x: Array, size: int) -> float:
    """Rows a second."""
    start = time.perf_counter()
    in_requests(model, x, size)
    return len(x) / (time.perf_counter() - start)


def differing(model: Model, x: Array, size: int) -> int:
    return int((in_requests(model, x, size) != model.scores(x)).any(axis=1).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=21)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    print(f"{args.rows} rows, {args.turns} turns, medians; ratio: blocks / plain of each turn, with its quartiles")
    for name, plain in networks(rng):
        start = time.perf_counter()
        blocks = BlockModel(plain)
        print(f"\n{name}: blocks of {blocks.blocks.sizes} rows; the probe took {time.perf_counter() - start:.2f} s")
        print(
            f"{'rows/request':>13}{'plain rows/s':>14}{'blocks rows/s':>15}{'ratio':>7}  {'quartiles':<14}"
            f"{'plain differ':>13}{'blocks differ':>15}"
        )
        x = rng.random((args.rows, *plain.input_shape))
        for size in (1, 8, 64, 256):
            rates = np.array([[rate(model, x, size) for model in (plain, blocks)] for _ in range(args.turns)])
            low, ratio, high = np.quantile(rates[:, 1] / rates[:, 0], (0.25, 0.5, 0.75))
            each = np.median(rates, axis=0)
            print(
                f"{size:>13}{each[0]:>14,.0f}{each[1]:>15,.0f}{ratio:>7.2f}  [{low:.2f}, {high:.2f}]  "
                f"{differing(plain, x, size):>13}{differing(blocks, x, size):>15}",
                flush=True,
            )


if __name__ == "__main__":
    main()
