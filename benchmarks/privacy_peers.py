"""Membership beside ML Privacy Meter 1.0.1 (PyPI, MIT license) at equal work: seconds, area, members found.

    python -m venv meter
    meter/bin/pip install torch opacus tensorflow-cpu scikit-learn matplotlib jinja2 privacy-meter
    PORTCULLIS_DATA=FOLDER python benchmarks/privacy_peers.py --meter-python meter/bin/python

Adult: a network is trained on half of 4,000 candidates until it knows many by heart. Each side then gets the
candidates, 8,000 other rows and the network, and trains 16 of its kind on 4,000 rows each: Privacy Meter, which leaves
training to its user, in a plain PyTorch loop on halves of the other rows; ours together, on halves of the candidates
and as many others. Then each says which candidates are members: Privacy Meter by its population metric and its
reference metric (thresholds for every row, with its three ways to set them), ours by `loss_threshold` and `lira`.
Processor seconds of one thread, in processes of their own, by turns, without imports. Means over seeds with 95% t
intervals; members found at a false positive rate of 1%.

LeakPro has no release on PyPI: what is there under its name (0.0.1, May 2024) is an empty package of somebody else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from peers import interval

CANDIDATES, OTHERS, MODELS, EPOCHS, BATCH, LR, CLASSES = 4_000, 8_000, 16, 40, 64, 2e-3, 2
USED = 2 * CANDIDATES  # rows of which ours trains on halves: the candidates, and as many others
RATE = 0.01


def network(shape, classes, *, dropout=0.0):
    """What both sides train."""
    from torch import nn

    return nn.Sequential(nn.Linear(*shape, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes))


def trained(x, y, seed: int):
    """The plain loop: Adam, cross-entropy."""
    import torch

    torch.manual_seed(seed)
    module = network((x.shape[1],), CLASSES)
    optimizer = torch.optim.Adam(module.parameters(), LR, fused=True)
    rows, goals = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    for _ in range(EPOCHS):
        for chosen in torch.split(torch.randperm(len(rows)), BATCH):
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(module(rows[chosen]), goals[chosen]).backward()
            optimizer.step()
    return module.eval()


def scene(folder: Path, seed: int) -> None:
    """Candidates, of which the first half are members, other rows, and the network that is attacked."""
    from portcullis_ml.data.datasets import load_dataset

    adult = load_dataset("adult", os.environ["PORTCULLIS_DATA"])
    chosen = np.random.default_rng(seed).permutation(len(adult.x))[: CANDIDATES + OTHERS]
    x, y = adult.x[chosen], adult.y[chosen].astype(np.int64)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    module = trained(x[: CANDIDATES // 2], y[: CANDIDATES // 2], seed)
    weights = {f"w{k}": v.numpy() for k, v in module.state_dict().items()}
    np.savez(folder / "scene.npz", x=x, y=y, **weights)


def read(folder: Path):
    import torch

    with np.load(folder / "scene.npz") as file:
        x, y = file["x"], file["y"]
        module = network((x.shape[1],), CLASSES)
        module.load_state_dict({k[1:]: torch.tensor(file[k]) for k in file.files if k.startswith("w")})
    return x, y, module.eval()


def with_meter(folder: Path, seed: int) -> dict[str, list[float]]:
    import torch
    from privacy_meter.audit import Audit
    from privacy_meter.dataset import Dataset
    from privacy_meter.hypothesis_test import (
        gaussian_threshold_func,
        linear_itp_threshold_func,
        logit_rescale_threshold_func,
    )
    from privacy_meter.information_source import InformationSource
    from privacy_meter.information_source_signal import ModelLoss
    from privacy_meter.metric import PopulationMetric, ReferenceMetric
    from privacy_meter.model import PytorchModel

    x, y, module = read(folder)
    half, loss = CANDIDATES // 2, torch.nn.CrossEntropyLoss()
    parts = {"train": slice(0, half), "test": slice(half, CANDIDATES)}
    data = {k: {"x": x[v].astype(np.float32), "y": y[v]} for k, v in parts.items()}
    others = {"train": {"x": x[CANDIDATES:].astype(np.float32), "y": y[CANDIDATES:]}}
    start, rng = time.process_time(), np.random.default_rng(seed)
    references = []
    for i in range(MODELS):
        rows = CANDIDATES + rng.permutation(OTHERS)[: OTHERS // 2]
        references.append(PytorchModel(trained(x[rows], y[rows], 100 * seed + i), loss))
    training = time.process_time() - start
    target = InformationSource(models=[PytorchModel(module, loss)], datasets=[Dataset(data, "x", "y")])
    beside = InformationSource(models=references, datasets=[Dataset(data, "x", "y")])
    population = InformationSource(models=target.models, datasets=[Dataset(others, "x", "y")])
    found = {}
    for name, metric, source, test in (
        ("population", PopulationMetric, population, linear_itp_threshold_func),
        ("reference, linear", ReferenceMetric, beside, linear_itp_threshold_func),
        ("reference, gaussian", ReferenceMetric, beside, gaussian_threshold_func),
        ("reference, logit", ReferenceMetric, beside, logit_rescale_threshold_func),
    ):
        start = time.process_time()
        audit = Audit(
            metrics=[metric(target, source, [ModelLoss()], test)], inference_game_type=None,
            target_info_sources=[target], reference_info_sources=[source], save_logs=False,
        )  # fmt: skip
        audit.prepare()
        result = audit.run()[0][0]
        passed = result.fp <= RATE * half
        members = float(result.tp[passed].max() / half) if passed.any() else 0.0
        spent = time.process_time() - start
        found[name] = [0.0 if name == "population" else training, spent, float(result.roc_auc), members]
    return found


def with_portcullis(folder: Path, seed: int) -> dict[str, list[float]]:
    from dataclasses import replace

    from portcullis_ml.core.attack import Knowledge
    from portcullis_ml.core.oracle import LocalOracle
    from portcullis_ml.core.types import Interface, Rows
    from portcullis_ml.measures.membership import area_under_curve, members_found
    from portcullis_ml.models.shadows import rows_to_train_on, save_shadows, train_shadows
    from portcullis_ml.models.torch import TorchLearner, TorchModel
    from portcullis_ml.privacy import CATALOG

    x, y, module = read(folder)
    member = np.arange(CANDIDATES) < CANDIDATES // 2
    low, high = float(x.min()), float(x.max())
    interface = Interface(input_shape=x.shape[1:], n_classes=CLASSES, bounds=(low, high))
    learner = TorchLearner(network="privacy_peers:network", epochs=EPOCHS, batch=BATCH, lr=LR)
    model, candidates = TorchModel(module, x.shape[1:], CLASSES), Rows(x[:CANDIDATES], y[:CANDIDATES])
    knowledge = Knowledge(learner=learner, pool=x[CANDIDATES:USED], pool_groups=y[CANDIDATES:USED])
    rows = rows_to_train_on(candidates, knowledge, CANDIDATES)
    start = time.process_time()
    made = train_shadows(learner, rows.x, rows.y, CLASSES, models=MODELS, rng=np.random.default_rng(seed))
    training = time.process_time() - start
    found = {}
    for word in ("loss_threshold", "lira", "lira(mode=offline)"):
        attack = CATALOG.build(word)
        if word != "loss_threshold":
            attack = replace(attack, shadows=save_shadows(made, folder / word, learner, rows.x, rows.y))
        start = time.process_time()
        oracle = LocalOracle(model, interface, budget=10**6)
        leakage = attack(oracle, knowledge, candidates, rng=np.random.default_rng(seed))
        auc = area_under_curve(leakage.membership, member).value
        members = members_found(leakage.membership, member, RATE).value
        spent = time.process_time() - start
        found[word] = [0.0 if word == "loss_threshold" else training, spent, auc, members]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meter-python", help="the Python of an environment with Privacy Meter and torch")
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        import torch

        torch.set_num_threads(1)
        side, folder, seed = args.one
        found = (with_meter if side == "meter" else with_portcullis)(Path(folder), int(seed))
        print(json.dumps(found))
        return
    meter = args.meter_python
    if not meter or subprocess.run([meter, "-c", "import privacy_meter.audit"], capture_output=True).returncode:
        sys.exit("ML Privacy Meter was not found. Make an environment for it, as the head of this file says.")
    results: dict[str, dict[str, list[list[float]]]] = {"meter": {}, "ours": {}}
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            scene(Path(folder), seed)
            for side in ("meter", "ours") if seed % 2 else ("ours", "meter"):
                words = [meter if side == "meter" else sys.executable, __file__, "--one", side, folder, str(seed)]
                done = subprocess.run(words, check=True, capture_output=True, text=True)
                for name, values in json.loads(done.stdout.splitlines()[-1]).items():
                    results[side].setdefault(name, []).append(values)
    print(f"$ python benchmarks/privacy_peers.py --meter-python PATH --seeds {args.seeds}")
    print(f"Adult, {CANDIDATES:,} candidates, {MODELS} further models; means over {args.seeds} seeds")
    print(f"{'side':6}{'attack':32}{'training, s':>12}{'scoring, s':>12}   {'area, %':26}members found at 1%, %")
    for side, attacks in results.items():
        for name, values in attacks.items():
            training, spent, auc, members = np.array(values).T
            said = f"{side:6}{name:32}{training.mean():12.1f}{spent.mean():12.3f}   "
            print(f"{said}{interval(100 * auc):26}{interval(100 * members)}")
    first = np.array(results["meter"]["reference, logit"])
    for name in list(results["ours"])[1:]:
        ours = np.array(results["ours"][name])
        print(
            f"Privacy Meter's seconds, reference, logit / {name}: training {interval(first[:, 0] / ours[:, 0])}, ",
            end="",
        )
        print(f"scoring {interval(first[:, 1] / ours[:, 1])}")


if __name__ == "__main__":
    main()
