"""The thefts of `strangers.py` by two peers: ART's Knockoff and a thief in the manner of PrivacyRaven.

    python -m venv art && art/bin/pip install torch adversarial-robustness-toolbox packaging
    export PORTCULLIS_DATA=... OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python benchmarks/strangers_peers.py --art-python art/bin/python [--budgets 300 1000 5000] [--seeds 3]

Both ask the strangers' questions, and train the same network: one hidden layer of 64, Adam, 50 epochs, batches of 32,
on columns that are one-hot or standardised, which is what their manuals leave to the user. ART's `KnockoffNets`
(random sampling) gets probabilities where they are shown. PrivacyRaven works from labels alone: its Copycat labels
public rows and trains on them; it does not install on Python 3.11, so the loop is ours. The thefts join the records of
`strangers.py`, whose table shows them as columns of their own; a theft that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

PEERS = ("ART, Knockoff", "like PrivacyRaven")  # columns of the table
HIDDEN, EPOCHS, BATCH, RATE = 64, 50, 32, 1e-3
KEPT = ("z", "z_test", "given", "labels")  # what the worker reads of a theft


def network(inputs: int, classes: int) -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))


def worker() -> None:
    """Runs in ART's environment: reads a file's name from each line, writes the labels that its copy gives."""
    import torch
    from art.attacks.extraction import KnockoffNets
    from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier
    from torch import nn

    torch.set_num_threads(1)
    for line in sys.stdin:
        with np.load(line.strip()) as file:
            z, z_test, given = (file[name].astype(np.float32) for name in KEPT[:3])
            seed = int(file["seed"])
        known = {row.tobytes(): answer for row, answer in zip(z, given, strict=True)}
        np.random.seed(seed)  # noqa: NPY002 (ART draws from the global generator)
        torch.manual_seed(seed)
        module = network(z.shape[1], given.shape[1])
        adam = torch.optim.Adam(module.parameters(), lr=RATE)
        thief = PyTorchClassifier(module, nn.CrossEntropyLoss(), z.shape[1:], given.shape[1], adam, device_type="cpu")
        victim = BlackBoxClassifier(
            lambda rows, known=known: np.stack([known[np.float32(row).tobytes()] for row in rows]),
            z.shape[1:],
            given.shape[1],
        )
        attack = KnockoffNets(
            victim,
            batch_size_fit=BATCH,
            batch_size_query=256,
            nb_epochs=EPOCHS,
            nb_stolen=len(z),
            sampling_strategy="random",
            verbose=False,
            use_probability=True,
        )
        copy = attack.extract(z, thieved_classifier=thief)
        print(json.dumps(copy.predict(z_test).argmax(axis=1).tolist()), flush=True)


def raven(theft: dict[str, Any]) -> np.ndarray:
    """A network trained on labels alone."""
    import torch
    from torch.nn import functional as F

    torch.manual_seed(theft["seed"])
    module = network(theft["z"].shape[1], theft["given"].shape[1])
    adam = torch.optim.Adam(module.parameters(), lr=RATE)
    x, y = torch.tensor(theft["z"], dtype=torch.float32), torch.tensor(theft["labels"])
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            adam.zero_grad()
            F.cross_entropy(module(x[rows]), y[rows]).backward()
            adam.step()
    with torch.inference_mode():
        return module(torch.tensor(theft["z_test"], dtype=torch.float32)).argmax(dim=1).numpy()


def asked(scene: str, budget: int, shown: str, seed: int) -> dict[str, Any]:
    """The strangers' questions as numbers, the answers, and the judging rows with the victim's labels."""
    from sklearn.preprocessing import FunctionTransformer

    from portcullis_ml.core.oracle import LocalOracle
    from strangers import SHOWN, questions
    from strangers_scenes import scene as made
    from strangers_scenes import standardised

    at = made(scene)
    reveals, decimals = SHOWN[shown]
    oracle = LocalOracle(at.victim, at.interface.revealing(reveals=reveals, decimals=decimals), budget=budget)
    x = questions(at.interface, at.pool, budget, np.random.default_rng([seed, budget]))
    answer = oracle.query(x)
    encoder = standardised(at.interface.features or (), FunctionTransformer()).fit(x)
    return {
        "z": encoder.transform(x),
        "z_test": encoder.transform(at.test),
        "given": answer.soft(at.interface.n_classes),
        "labels": answer.labels,
        "truth": at.victim.scores(at.test).argmax(axis=1),
        "seed": seed,
    }


def records(art: subprocess.Popen[str], todo: list[tuple[str, int, str, int]]) -> Iterator[dict[str, Any]]:
    assert art.stdin is not None  # both are pipes of ours
    assert art.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        for cell in todo:
            theft = asked(*cell)
            np.savez(f"{folder}/theft.npz", seed=theft["seed"], **{name: theft[name] for name in KEPT})
            for thief in PEERS:
                clock = time.perf_counter()
                if thief == PEERS[0]:
                    art.stdin.write(f"{folder}/theft.npz\n")
                    art.stdin.flush()
                    given = np.array(json.loads(art.stdout.readline()))
                else:
                    given = raven(theft)
                yield {
                    **dict(zip(("scene", "budget", "shown", "seed"), cell, strict=True)),
                    "thief": thief,
                    "agreement": round(float((given == theft["truth"]).mean()), 5),
                    "n": len(given),
                    "queries": cell[1],
                    "seconds": round(time.perf_counter() - clock, 2),
                }


def main() -> None:
    from strangers import BUDGETS, RECORDS, SHOWN, known
    from strangers_scenes import TABLES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--art-python", required=True, help="the Python of an environment with ART and torch")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if subprocess.run([options.art_python, "-c", "import art, torch"], capture_output=True).returncode:
        sys.exit(
            f"ART was not found with {options.art_python}. Make an environment for it (python -m venv art && "
            "art/bin/pip install torch adversarial-robustness-toolbox packaging) and give --art-python art/bin/python."
        )
    done = {(r["scene"], r["budget"], r["shown"], r["seed"]) for r in known() if r["thief"] in PEERS}
    cells = [
        (name, budget, shown, seed)
        for seed in range(options.seeds)
        for budget in options.budgets
        for name in TABLES
        for shown in SHOWN
    ]
    command = [options.art_python, __file__, "--worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as art:
        for record in records(art, [cell for cell in cells if cell not in done]):
            with RECORDS.open("a") as file:
                file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    worker() if sys.argv[1:] == ["--worker"] else main()
