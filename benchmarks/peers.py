"""Copycat and Knockoff beside the Adversarial Robustness Toolbox: equal victim, network, queries, batch and epochs.

    python -m venv art && art/bin/pip install adversarial-robustness-toolbox torch packaging
    python benchmarks/peers.py --art-python art/bin/python

Each side steals the same victim from the same pool in a process of its own, in turn, and is judged on the same test
rows. Times are CPU seconds of one thread for the theft alone (queries and training, no import). Every seed gives one
ratio; seconds and agreement are means over the seeds, ratios have 95% t intervals over them. The victim, the pool and
the test rows are the same for all seeds, so the intervals are about the thieves' luck alone. Read the ratios: a shared
machine makes the seconds a matter of who else was there.
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
from scipy import stats

ATTACKS = [("copycat", "labels"), ("copycat", "probs"), ("knockoff", "labels"), ("knockoff", "probs")]


def network():
    """The surrogate of both sides, and the victim: what `digits_cnn` is, in plain torch."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 13 * 13, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def scene(folder: Path, queries: int) -> None:
    """Digits enlarged to 28x28: a victim trained on one half, a pool of shifted and noisy images of the other."""
    import torch

    from portcullis_ml.data.datasets import load_dataset

    digits = load_dataset("digits")
    rng = np.random.default_rng(0)
    large = np.pad(np.kron(digits.x, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
    test = np.pad(np.kron(digits.x_test, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
    half = len(large) // 2
    pool = large[half:][rng.integers(len(large) - half, size=queries)]
    pool = np.clip(np.roll(pool, (1, -1), axis=(1, 2)) + rng.normal(0, 0.1, pool.shape), 0, 1)
    torch.manual_seed(0)
    victim = network()
    optimizer = torch.optim.Adam(victim.parameters(), lr=2e-3)
    x, y = torch.tensor(large[:half, None], dtype=torch.float32), torch.tensor(digits.y[:half])
    for _ in range(30):
        for rows in torch.randperm(half).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(victim(x[rows]), y[rows]).backward()
            optimizer.step()
    weights = {k: v.numpy() for k, v in victim.state_dict().items()}
    np.savez(folder / "victim.npz", **weights)
    np.savez(folder / "scene.npz", pool=pool.astype(np.float32), test=test.astype(np.float32), y=digits.y_test)


def read_victim(folder: Path):
    import torch

    victim = network()
    with np.load(folder / "victim.npz") as file:
        victim.load_state_dict({key: torch.tensor(file[key]) for key in file.files})
    return victim.eval()


def with_art(attack: str, answers: str, folder: Path, epochs: int, seed: int) -> tuple[float, np.ndarray]:
    import torch
    from art.attacks.extraction import CopycatCNN, KnockoffNets
    from art.estimators.classification import PyTorchClassifier
    from torch import nn

    with np.load(folder / "scene.npz") as file:
        pool, test = file["pool"][:, None], file["test"][:, None]
    np.random.seed(seed)  # noqa: NPY002 (ART draws from the global generator)
    torch.manual_seed(seed)

    def classifier(module, trained):
        module = nn.Sequential(module, nn.Softmax(1)) if trained else module
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
        return PyTorchClassifier(module, nn.CrossEntropyLoss(), (1, 28, 28), 10, optimizer, device_type="cpu")

    settings = {"nb_epochs": epochs, "nb_stolen": len(pool), "batch_size_fit": 64, "batch_size_query": 256}
    settings |= {"use_probability": answers == "probs"}
    victim, thief = classifier(read_victim(folder), True), classifier(network(), False)
    if attack == "copycat":
        unit = CopycatCNN(victim, **settings)
    else:
        unit = KnockoffNets(victim, sampling_strategy="random", verbose=False, **settings)
    start = time.process_time()
    copy = unit.extract(pool, thieved_classifier=thief)
    return time.process_time() - start, copy.predict(test).argmax(axis=1)


def with_portcullis(attack: str, answers: str, folder: Path, epochs: int, seed: int) -> tuple[float, np.ndarray]:
    from portcullis_ml.core.attack import Knowledge
    from portcullis_ml.core.oracle import LocalOracle
    from portcullis_ml.core.types import Interface, Reveals
    from portcullis_ml.extraction import CATALOG
    from portcullis_ml.models.torch import TorchLearner, TorchModel

    with np.load(folder / "scene.npz") as file:
        pool, test = file["pool"].astype(np.float64), file["test"].astype(np.float64)
    module = read_victim(folder)
    module.insert(0, channel())
    reveals = Reveals.PROBS if answers == "probs" else Reveals.LABELS
    interface = Interface(input_shape=(28, 28), n_classes=10, reveals=reveals)
    oracle = LocalOracle(TorchModel(module, (28, 28), 10), interface, budget=len(pool))
    # Copycat takes labels whatever the API shows; on probabilities its twin is Knockoff.
    unit = CATALOG.build("copycat" if (attack, answers) == ("copycat", "labels") else "knockoff")
    learner = TorchLearner(network="digits_cnn", epochs=epochs, batch=64, lr=1e-3)
    start = time.process_time()
    stolen = unit(oracle, Knowledge(pool=pool, learner=learner), rng=np.random.default_rng(seed))
    return time.process_time() - start, stolen.model.scores(test).argmax(axis=1)


def channel():
    from torch import nn

    return nn.Unflatten(1, (1, 28))  # (n, 28, 28) -> (n, 1, 28, 28)


def one_run(side: str, attack: str, answers: str, folder: Path, epochs: int, seed: int) -> None:
    import torch

    torch.set_num_threads(1)
    run = {"art": with_art, "ours": with_portcullis}[side]
    seconds, labels = run(attack, answers, folder, epochs, seed)
    with np.load(folder / "scene.npz") as file, torch.inference_mode():
        truth = read_victim(folder)(torch.tensor(file["test"][:, None])).argmax(1).numpy()
    print(json.dumps([seconds, float((labels == truth).mean())]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--art-python", help="the Python of an environment with ART and torch")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5, help="seeds, at least 2")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        side, attack, answers, folder, seed = args.one
        one_run(side, attack, answers, Path(folder), args.epochs, int(seed))
        return
    if (
        not args.art_python
        or subprocess.run([args.art_python, "-c", "import art, torch"], capture_output=True).returncode
    ):
        sys.exit(
            "ART was not found. Make an environment for it (python -m venv art && art/bin/pip install "
            "adversarial-robustness-toolbox torch packaging) and give --art-python art/bin/python."
        )
    print(f"$ python benchmarks/peers.py --art-python PATH --repeats {args.repeats}")
    print(f"{args.queries} queries, {args.epochs} epochs, batch 64, one thread, {args.repeats} seeds; 540 test rows")
    print("                   seconds                               agreement with the victim")
    print(f"{'attack':<18} {'ART':>6} {'ours':>6}  {'ART / ours':<20}   {'ART':>6} {'ours':>6}  ours / ART")
    with tempfile.TemporaryDirectory() as folder:
        scene(Path(folder), args.queries)
        for attack, answers in ATTACKS:
            compare(attack, answers, folder, args)


def compare(attack: str, answers: str, folder: str, args: argparse.Namespace) -> None:
    """One row of the table. The side that goes first changes with every seed."""
    results: dict[str, list[tuple[float, float]]] = {"art": [], "ours": []}
    sides = [("art", args.art_python), ("ours", sys.executable)]
    for seed in range(args.repeats):
        for side, python in sides if seed % 2 else sides[::-1]:
            words = ["--epochs", str(args.epochs), "--one", side, attack, answers, folder, str(seed)]
            done = subprocess.run([python, __file__, *words], check=True, capture_output=True, text=True)
            results[side].append(json.loads(done.stdout.splitlines()[-1]))
    art, ours = np.array(results["art"]).T, np.array(results["ours"]).T  # (2, seeds): seconds, agreement
    print(
        f"{attack + ', ' + answers:<18} {art[0].mean():>6.2f} {ours[0].mean():>6.2f}  {interval(art[0] / ours[0])}   "
        f"{art[1].mean():>6.3f} {ours[1].mean():>6.3f}  {interval(ours[1] / art[1])}",
        flush=True,
    )


def interval(ratios: np.ndarray) -> str:
    """Mean and 95% t interval over the seeds."""
    half = stats.t.ppf(0.975, len(ratios) - 1) * ratios.std(ddof=1) / np.sqrt(len(ratios))
    return f"{ratios.mean():.3f} [{ratios.mean() - half:.3f}, {ratios.mean() + half:.3f}]"


if __name__ == "__main__":
    main()
