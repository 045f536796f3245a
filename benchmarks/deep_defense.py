"""What a question costs behind `deep_defense`: one by one, sixteen together, and asked before.

    OMP_NUM_THREADS=1 nice python benchmarks/deep_defense.py [--turns 9] [--questions 16]

Each turn seeks the misdirection models of the same questions twice, one question after another and all at once, in
changing order and with one thread; times are of the processor, since the machine may have other work. A ratio above
1 says how much cheaper a question is among sixteen. Then the defense is asked about questions that it has answered.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Answer, Interface, Request, Rows
from portcullis_ml.defenses.deep_defense import DeepDefense
from portcullis_ml.measures.statistics import mean_of
from portcullis_ml.models.artifacts import write_artifact
from portcullis_ml.models.explain import explainer_named
from portcullis_ml.models.misdirection import Descent, misdirected
from portcullis_ml.models.networks import build_network
from portcullis_ml.models.row_network import RowNetwork
from portcullis_ml.models.torch import TorchModel
from portcullis_ml.recipes.misdirection import Misdirection

VICTIMS = [  # network, shape, classes, explanation, layer
    ("digits_cnn", (8, 8), 10, "grad_cam", None),
    ("table_mlp", (30,), 2, "gradient_x_input", None),
    ("picture_residual", (48, 48, 3), 17, "relevance_cam", "6"),
]


def spent(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def by_turns(network: RowNetwork, x: torch.Tensor, turns: int) -> tuple[list[float], list[float]]:
    """Processor seconds of each turn: one question after another, and all together. Nothing stops early."""
    how, layers = Descent(steps=5, map_weight=100.0), list(network.layers)
    work = [
        lambda: [misdirected(network, layers, row[None], how) for row in x],
        lambda: misdirected(network, layers, x, how),
    ]
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for which in (0, 1) if turn % 2 else (1, 0):
            seconds = spent(work[which])
            if turn:  # the first one warms up
                found[which].append(seconds)
    return found


def asked_before(model: TorchModel, kind: str, layer: str | None, x: np.ndarray) -> tuple[float, float]:
    """Milliseconds a question of a first release of x, and of one after it."""
    explain = explainer_named(kind if layer is None else f"{kind}(layer='{layer}')").prepare(model)
    made = Misdirection()(model, Rows(x), None, rng=np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        artifact = write_artifact(made, Path(folder) / "network")
        interface = Interface(input_shape=model.input_shape, n_classes=model.n_classes, explains=True)
        stage = DeepDefense(network=artifact, explanation=kind, layer=layer)  # type: ignore[arg-type]
        guard = Guard(stage, key=b"k" * 32, interface=interface)
    scores = model.scores(x)
    clean = Answer(scores.argmax(axis=1), scores, explain(x, scores.argmax(axis=1)))
    times = [spent(lambda: guard.release(Request("a", x), clean)) for _ in range(6)]
    return 1e3 * times[0] / len(x), 1e3 * float(np.median(times[1:])) / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--questions", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{args.questions} questions, {args.turns} turns, one thread, processor time; ratios: mean [95% interval]")
    for name, shape, classes, kind, layer in VICTIMS:
        torch.manual_seed(0)
        model = TorchModel(build_network(name, shape, classes), shape, classes, network=name)
        x = np.random.default_rng(0).random((args.questions, *shape))
        network = RowNetwork(model.module, shape, kind, layer)  # type: ignore[arg-type]
        single, together = by_turns(network, torch.tensor(x, dtype=torch.float32), args.turns)
        ratio = mean_of(np.array(single) / np.array(together), unit="turns")
        steps = 1e3 / args.questions / 6
        print(f"\n{name} {shape}, {kind}, {sum(p.numel() for p in model.module.parameters()):,} weights")
        print(
            f"  a step of a question: one by one {steps * np.median(single):.2f} ms, "
            f"together {steps * np.median(together):.2f} ms"
        )
        print(f"  together is {ratio} times as fast")
        first, again = asked_before(model, kind, layer, x)
        print(f"  a new question {first:.1f} ms (20 steps at most), one asked before {again:.3f} ms")


if __name__ == "__main__":
    main()
