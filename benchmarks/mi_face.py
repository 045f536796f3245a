"""MI-Face beside the Adversarial Robustness Toolbox and a bare loop: ten classes, a thousand steps each.

    python -m venv art && art/bin/pip install adversarial-robustness-toolbox torch packaging
    python benchmarks/mi_face.py --art-python art/bin/python

All sides invert the same small convolutional network (digits enlarged to 28x28) from zero by the same step along the
gradient of the class's probability. ART's stop rule is turned round, so a threshold of 1 makes it go on to the end;
ours is asked for a confidence of 1 and looks back over all steps, so that it goes on as well. The bare loop descends
all classes at once in plain PyTorch and keeps nothing. ART is timed as it comes, one class at a time, and with all
in one batch. Times are processor seconds of one thread for the inversion alone, each in a process of its own, by
turns; ratios are paired, means with 95% t intervals over the repeats.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from peers import channel, interval, read_victim, scene

STEP = 0.1
SIDES = ("ART", "ART, one batch", "bare loop", "ours")


def with_art(folder: Path, steps: int, batch: int) -> tuple[float, np.ndarray, int]:
    import torch
    from art.attacks.inference.model_inversion.mi_face import MIFace
    from art.estimators.classification import PyTorchClassifier
    from torch import nn

    module = nn.Sequential(read_victim(folder), nn.Softmax(1))
    victim = PyTorchClassifier(
        module, nn.CrossEntropyLoss(), (1, 28, 28), 10, torch.optim.Adam(module.parameters()), clip_values=(0.0, 1.0),
        device_type="cpu",
    )  # fmt: skip
    attack = MIFace(victim, max_iter=steps, threshold=1.0, learning_rate=STEP, batch_size=batch, verbose=False)
    start = time.process_time()
    found = attack.infer(None, np.arange(10))
    return time.process_time() - start, found[:, 0], steps


def with_a_bare_loop(folder: Path, steps: int) -> tuple[float, np.ndarray, int]:
    import torch

    victim, classes = read_victim(folder), torch.arange(10)
    start = time.process_time()
    x = torch.zeros(10, 1, 28, 28, requires_grad=True)
    for _ in range(steps):
        p = victim(x).softmax(1)[classes, classes]
        (gradient,) = torch.autograd.grad(p.sum(), x)
        with torch.no_grad():
            x.add_(STEP * gradient).clamp_(0, 1)
    return time.process_time() - start, x.detach().numpy()[:, 0], steps


def with_portcullis(folder: Path, steps: int) -> tuple[float, np.ndarray, int]:
    from portcullis_ml.core.attack import Knowledge
    from portcullis_ml.core.oracle import LocalOracle
    from portcullis_ml.core.types import Interface, Rows
    from portcullis_ml.models.torch import TorchModel
    from portcullis_ml.privacy import CATALOG

    module = read_victim(folder)
    module.insert(0, channel())
    model = TorchModel(module, (28, 28), 10)
    attack = CATALOG.build(f"mi_face(iterations={steps}, patience={steps + 1}, confidence=1.0, step={STEP})")
    oracle = LocalOracle(model, Interface(input_shape=(28, 28), n_classes=10), budget=1)
    nobody, rng = Rows(np.empty((0, 28, 28))), np.random.default_rng(0)
    start = time.process_time()
    leakage = attack(oracle, Knowledge(model=model), nobody, rng=rng)
    return time.process_time() - start, leakage.recovered, leakage.notes["steps"]


def one_run(side: str, folder: Path, steps: int) -> None:
    """Prints seconds, the mean probability that the victim gives the classes, and the steps taken."""
    import torch

    torch.set_num_threads(1)
    run = {
        "ART": lambda: with_art(folder, steps, 1),
        "ART, one batch": lambda: with_art(folder, steps, 10),
        "bare loop": lambda: with_a_bare_loop(folder, steps),
        "ours": lambda: with_portcullis(folder, steps),
    }[side]
    seconds, found, taken = run()
    with torch.inference_mode():
        p = read_victim(folder)(torch.tensor(np.asarray(found)[:, None], dtype=torch.float32)).softmax(1)
    print(json.dumps([seconds, float(p.diagonal().mean()), taken]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--art-python", help="the Python of an environment with ART and torch")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5, help="at least 2")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one_run(args.one[0], Path(args.one[1]), args.steps)
        return
    art = args.art_python
    if not art or subprocess.run([art, "-c", "import art, torch"], capture_output=True).returncode:
        sys.exit(
            "ART was not found. Make an environment for it (python -m venv art && art/bin/pip install "
            "adversarial-robustness-toolbox torch packaging) and give --art-python art/bin/python."
        )
    results: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        scene(Path(folder), 10)
        for turn in range(args.repeats):
            for side in SIDES if turn % 2 else SIDES[::-1]:
                python = art if side.startswith("ART") else sys.executable
                words = ["--steps", str(args.steps), "--one", side, folder]
                done = subprocess.run([python, __file__, *words], check=True, capture_output=True, text=True)
                results[side].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"$ python benchmarks/mi_face.py --art-python PATH --steps {args.steps} --repeats {args.repeats}")
    print("10 classes, one thread; processor seconds, and the victim's mean probability for the classes at the end")
    print(f"{'side':<16} {'seconds':>8} {'probability':>12} {'steps':>6}   seconds / ours")
    ours = np.array(results["ours"])[:, 0]
    for side in SIDES:
        seconds, p, taken = np.array(results[side]).T
        ratio = "" if side == "ours" else interval(seconds / ours)
        print(f"{side:<16} {seconds.mean():>8.2f} {p.mean():>12.4f} {taken.mean():>6.0f}   {ratio}")


if __name__ == "__main__":
    main()
