"""What defenses cost: prediction poisoning beside its published procedure, and every unit's cost per question.

    OMP_NUM_THREADS=1 python benchmarks/defenses.py [--rounds 21]

1. MAD by its published procedure: for each question by itself a pass through the stand-in and one backward pass for
   every class, on the same network, in PyTorch; and in closed form for 64 questions at once. The answers are compared.
   The stand-in has 128 hidden units, as `random_surrogate` makes it, or 2,048.
2. The closed form beside a plain forward pass of the stand-in, 64 rows at once.
3. Every defense and detector of the catalog: the guard's time for a question, 64 at once and one by one, beside the
   victim's own forward pass of the same rows.

Everything is measured by turns; every round gives one ratio, and what is printed is their median and a 95% interval.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent / "gateway"))
from host import machine
from throughput import middle
from units import guards, network

from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Answer, Array, Interface, Request, Rows
from portcullis_ml.defenses.prediction_poisoning import PredictionPoisoning
from portcullis_ml.models.artifacts import unpack_arrays, write_artifact
from portcullis_ml.models.blocks import BlockModel
from portcullis_ml.models.dense import DenseModel
from portcullis_ml.recipes.random_surrogate import RandomSurrogate

D, AT_ONCE, SINGLE = 784, 64, 4  # inputs; rows of a batch; questions by the published procedure in a round


def published(stored: Mapping[str, Any], eps: float) -> Callable[[Array, Array], Array]:
    """MAD for one question (1, d) with the answer y (classes,), as gradients: the solver that tries every class."""
    arrays = {name: torch.tensor(value, dtype=torch.float64) for name, value in stored.items()}
    last = arrays["w1"].requires_grad_()

    def answer(x: Array, y: Array) -> Array:
        rows = (torch.from_numpy(x) - arrays["mean"]) / arrays["deviation"]
        logits = torch.relu(rows @ arrays["w0"].T + arrays["b0"]) @ last.T + arrays["b1"]
        losses = -torch.log_softmax(logits, dim=1)[0]
        g = torch.stack([torch.autograd.grad(loss, last, retain_graph=True)[0].ravel() for loss in losses])
        true = torch.from_numpy(y) @ g
        apart = ((g / g.norm(dim=1, keepdim=True) - true / true.norm()) ** 2).sum(dim=1)
        vertex = np.eye(len(y))[int(apart.argmax())]
        share = min(1.0, eps / np.abs(y - vertex).sum())
        return np.asarray((1 - share) * y + share * vertex)

    return answer


def seconds(work: Callable[..., Any], *given: Any) -> float:
    start = time.perf_counter()
    work(*given)
    return time.perf_counter() - start


def one_by_one(answer: Callable[[Array, Array], Array], x: Array, y: Array) -> Array:
    return np.stack([answer(x[i : i + 1], y[i]) for i in range(len(x))])


def poisoning(classes: int, hidden: int, rounds: int, folder: Path) -> None:
    rng, eps = np.random.default_rng(2), 0.5
    victim, x = network(D, classes), rng.random((AT_ONCE, D))
    y = victim.scores(x)
    contents = RandomSurrogate(hidden=hidden)(victim, Rows(x), None, rng=rng)
    artifact = write_artifact(contents, folder / f"surrogate-{classes}-{hidden}")
    stage = PredictionPoisoning(surrogate=artifact, eps=eps).bind(Interface(input_shape=(D,), n_classes=classes))
    arrays = unpack_arrays(contents.files["surrogate.safetensors"], "the surrogate")
    slow, plain = published(arrays, eps), BlockModel(DenseModel(arrays))
    noise: Any = None  # MAD draws nothing
    apart = np.abs(stage.poisoned(x, y, noise) - one_by_one(slow, x, y)).max()
    times = []
    for turn in range(-2, rounds):  # the first two warm up
        one = seconds(one_by_one, slow, x[:SINGLE], y[:SINGLE]) / SINGLE
        closed = seconds(stage.poisoned, x, y, noise) / AT_ONCE
        times += [(one, closed, seconds(plain.scores, x) / AT_ONCE)] * (turn >= 0)
    one_us, closed_us, plain_us = (1e6 * np.median(column) for column in zip(*times, strict=True))
    print(f"MAD, {D}-{hidden}-{classes}, us a question: published {one_us:,.0f}, closed form {closed_us:.1f}, a plain "
          f"pass {plain_us:.1f}; answers differ by {apart:.0e} at most")  # fmt: skip
    print(f"  published / closed form {middle([t[0] / t[1] for t in times])}")
    print(f"  closed form / plain pass {middle([t[1] / t[2] for t in times])}")


def asked(guard: Guard, x: Array, answer: Answer, rows: int) -> None:
    """Put an answer through a guard, so many rows at once."""
    for i in range(0, len(x), rows):
        guard.release(Request("client", x[i : i + rows]), answer.take(slice(i, i + rows)))


def every_unit(rounds: int, folder: Path) -> None:
    victim, interface = BlockModel(network(D, 10)), Interface(input_shape=(D,), n_classes=10)
    rng, times = np.random.default_rng(3), []
    found = {name: Guard(stage, key=bytes(32), interface=interface) for name, stage in guards(D, 10, folder)}
    for turn in range(-2, rounds):
        x = rng.random((AT_ONCE, D))
        few, answer = x[:SINGLE], Answer.of(victim.scores(x), interface)
        taken = {"": (seconds(victim.scores, x), seconds(victim.scores, few[:1]) * SINGLE)}
        for name, guard in found.items():
            taken[name] = (seconds(asked, guard, x, answer, AT_ONCE), seconds(asked, guard, few, answer, 1))
        times += [taken] * (turn >= 0)
    print("\nus a question, and as a multiple of a plain pass of 784-128-10 for the same rows:")
    print(f"{'unit':24}{'64 at once':>11}  {'multiple':29}{'alone':>9}  multiple")
    for name in found:
        line = f"{name:24}"
        for i, (rows, width) in enumerate(((AT_ONCE, 11), (SINGLE, 9))):
            each = f"{1e6 * np.median([t[name][i] for t in times]) / rows:{width}.1f}"
            line += f"{each}  {middle([t[name][i] / t[''][i] for t in times]):29}"
        print(line.rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("$ OMP_NUM_THREADS=1 python benchmarks/defenses.py", *sys.argv[1:])
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        for classes, hidden in ((10, 128), (43, 128), (10, 2048), (43, 2048)):
            poisoning(classes, hidden, rounds, Path(folder))
        every_unit(rounds, Path(folder))


if __name__ == "__main__":
    main()
