"""PRADA, the published experiment: what Jb-topk steals from a digit and a traffic-sign model, and when it is seen.

Juuti, Szyller, Dmitrenko, Marchal, Asokan. "PRADA: Protecting against DNN Model Stealing Attacks",
arXiv 1805.02628v1, sections 4.1 to 4.3 (agreement, transferability) and 5.3 (Table 2, false positives).

Threat model   answers: probabilities (p) or labels; data: a few natural images of the domain; its own network.
Query cost     the budget of the protocol for every cell; transfer queries are counted separately.

Every setting stands in prada_mnist.toml and prada_gtsrb.toml. A cell is one attack, one training strategy and one
repetition; detectors read its queries in the order in which they were made, with the undefended answers. Their
thresholds are set beforehand, on honest streams of the victim's own training rows and on nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell, fingerprint
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.protocols.tables import attack_table, detector_table, document
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.extraction import Extraction, ExtractionAttack
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Answer, Array, Estimate, Interface, Labels, Model, Reveals
from portcullis_ml.data.dataset import Dataset
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.detectors import CATALOG as DETECTORS
from portcullis_ml.extraction import CATALOG as EXTRACTION
from portcullis_ml.measures.agreement import agreement, macro_f
from portcullis_ml.measures.detection import first_alarm, run_accounts, run_detector, share_flagged
from portcullis_ml.measures.transferability import GTSRB_GROUPS, Transfer
from portcullis_ml.models.victims import train_victim

__all__ = ["gtsrb", "mnist"]

MARGIN = 1.1  # a threshold is this many times the highest suspicion on honest calibration streams


@dataclass(frozen=True)
class Setting:
    """Where a protocol runs: its fixed settings, the data folder, and where its victim is kept."""

    plan: Mapping[str, Any]
    data: str | None
    out: Path
    device: str

    def __hash__(self) -> int:
        return hash((self.plan["protocol"], self.data, self.out, self.device))


def mnist(run: Run) -> str:
    """Run prada-mnist and return its tables; see `run`."""
    return planned("prada_mnist.toml", run)


def gtsrb(run: Run) -> str:
    """Run prada-gtsrb and return its tables; see `run`."""
    return planned("prada_gtsrb.toml", run)


def planned(file: str, run: Run) -> str:
    """The protocol of that file; see `play`."""
    plan = plan_in(file)
    return play(shortened(plan) if run.quick else plan, run)


def play(plan: Mapping[str, Any], run: Run) -> str:
    """Published beside measured, as Markdown; resumable: a finished cell is never run again."""
    setting = Setting(plan, run.data, run.out, run.device)
    run.out.mkdir(parents=True, exist_ok=True)
    victim, thresholds = load(setting).fingerprint, calibrate(setting)
    cells = [*attack_cells(setting, victim, thresholds), *stream_cells(setting, victim, thresholds)]
    records = run.cells(cells, partial(work, setting=setting), keep=True)
    facts = {**load(setting).facts, "quick": run.quick}
    return document(plan, facts, attack_table(plan, records), detector_table(plan, records))


def shortened(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The quick look: fewer rows, repetitions and epochs. Its figures stand for nothing."""
    quick = plan["quick"]
    return {
        **plan,
        "budget": quick["budget"],
        "repetitions": quick["repetitions"],
        "victim": plan["victim"] | {"epochs": 2},
        "learner": plan["learner"] | {"epochs": quick["epochs"]},
        "row": [plan["row"][i] for i in quick["rows"]],
        "streams": plan["streams"] | {"count": 2, "rows": quick["stream_rows"]},
    }


@dataclass(frozen=True)
class VictimAndData:
    """The victim, and the rows of victim, thief and test, which have none in common."""

    dataset: Dataset
    interface: Interface
    victim: Model
    adversary: tuple[Array, Labels]  # natural rows of the thief, and their classes: seeds are drawn class by class
    exam: tuple[Array, Labels]  # rows on which agreement is measured, with the victim's labels
    fingerprint: str
    facts: Mapping[str, Any]


@lru_cache(maxsize=1)
def load(setting: Setting) -> VictimAndData:
    """Load the data, and train the victim or load the one kept in `out`."""
    plan = setting.plan
    dataset = load_dataset(plan["dataset"], setting.data)
    interface = Interface(input_shape=dataset.x.shape[1:], n_classes=len(dataset.classes), bounds=dataset.bounds)
    order = derive(0, plan["protocol"], "split").permutation(len(dataset.x))
    own, spare = order[: plan["victim_rows"]], order[plan["victim_rows"] :]
    y, y_test = np.asarray(dataset.y, np.int64), np.asarray(dataset.y_test, np.int64)
    victim = trained(setting, dataset.x[own], y[own], interface.n_classes)
    on_test = plan["agreement_on"] == "test"
    adversary = (dataset.x[spare], y[spare]) if on_test else (dataset.x_test, y_test)
    rows = dataset.x_test if on_test else dataset.x[own[: plan["exam_rows"]]]
    given = victim.scores(rows).argmax(axis=1)
    right = victim.scores(dataset.x_test).argmax(axis=1) == y_test
    facts: dict[str, Any] = {
        "victim_rows": len(own),
        "adversary_rows": len(adversary[0]),
        "exam_rows": len(rows),
        "victim_accuracy": float(right.mean()),
        "test_rows": len(right),
    }
    mark = fingerprint(dataset.x[own[:256]], repr(sorted(plan["victim"].items())))
    return VictimAndData(dataset, interface, victim, adversary, (rows, given), mark, facts)


def trained(setting: Setting, x: Array, y: Labels, n_classes: int) -> Model:
    from portcullis_ml.models.torch import TorchLearner

    learner = TorchLearner(**setting.plan["victim"], targets="labels", device=setting.device)
    rng = derive(0, setting.plan["protocol"], "victim")
    return train_victim(x, y, n_classes, learner, rng=rng, cache=setting.out)


# Cells


def attack_cells(setting: Setting, victim: str, thresholds: Mapping[str, float]) -> list[Cell]:
    """All rows of the first repetition first, so that a run that is cut short has something to say."""
    cells = []
    for seed in range(setting.plan["repetitions"]):
        for row in setting.plan["row"]:
            if seed >= row.get("repetitions", seed + 1):
                continue
            learner = learner_of(setting, row)
            labels = row["strategy"] in ("plain", "d", "papernot")
            cells.append(
                Cell(
                    victim={"name": setting.plan["victim"]["network"], "sha256": victim},
                    data={"name": setting.plan["dataset"]},
                    interface={"reveals": "labels" if labels else "probs"},
                    attack=describe(EXTRACTION.build(row["attack"])),
                    budget=min(row.get("budget", setting.plan["budget"]), setting.plan["budget"]),
                    seed=seed,
                    learner=describe(learner),
                    extra={
                        "thresholds": dict(thresholds),
                        "version": setting.plan["version"],
                        "transfer_of_seeds": "transfer_seeds" in row["published"],
                    },
                    names={"attack": f"{row['name']} {row['strategy']}"},
                )
            )
    return cells


def learner_of(setting: Setting, row: Mapping[str, Any]) -> Any:
    """The four training strategies of section 3.3, and Papernot's own."""
    from portcullis_ml.models.torch import TorchLearner

    strategy = row["strategy"]
    base = setting.plan["learner"] | {"device": setting.device}
    base["epochs"] = row.get("epochs", base["epochs"])
    if strategy == "papernot":
        return TorchLearner(**base | setting.plan["papernot"], targets="labels")
    dropout = setting.plan["dropout"]["rate"] if strategy in ("d", "p+d") else 0.0
    return TorchLearner(**base, targets="soft" if strategy in ("p", "p+d") else "labels", dropout=dropout)


def stream_cells(setting: Setting, victim: str, thresholds: Mapping[str, float]) -> list[Cell]:
    """Honest clients, and thieves whose queries a detector of distances does not see."""
    streams = setting.plan["streams"]
    kinds = [(source, "honest") for source in streams["benign"]] + [(source, "control") for source in streams["blind"]]
    return [
        Cell(
            victim={"name": setting.plan["victim"]["network"], "sha256": victim},
            data={"name": source},
            interface={"reveals": "probs"},
            attack={"unit": "stream"},
            budget=streams["rows"],
            seed=seed,
            role=role,  # type: ignore[arg-type]
            extra={"thresholds": dict(thresholds), "version": setting.plan["version"]},
            names={"attack": source},
        )
        for source, role in kinds
        for seed in range(streams["count"])
    ]


def work(cell: Cell, workspace: Workspace, *, setting: Setting) -> Record:
    loaded = load(setting)
    if cell.attack["unit"] == "stream":
        return watched(cell, setting, stream(setting, cell.data["name"], cell.budget, cell.rng("stream")))
    extraction = steal(cell, workspace, loaded, setting.plan["seeds_per_class"])
    x, given = loaded.exam
    predicted = [(queries, copy.scores(x).argmax(axis=1)) for queries, copy in extraction.history]
    curve = tuple(
        (q, {"macro_f": _macro_f(cell, loaded, given, g), "agreement": agreement(given, g)}) for q, g in predicted
    )
    record = watched(cell, setting, (extraction.x, extraction.answer))
    measures = {"macro_f": curve[-1][1]["macro_f"], "agreement": curve[-1][1]["agreement"]}
    measures |= {"macro_f_seeds": curve[0][1]["macro_f"], **transfer(cell, setting, extraction), **record.measures}
    if loaded.exam[0] is not loaded.dataset.x_test:
        held = loaded.victim.scores(loaded.dataset.x_test).argmax(axis=1)
        measures["macro_f_held_out"] = _macro_f(
            cell, loaded, held, extraction.model.scores(loaded.dataset.x_test).argmax(axis=1)
        )
    return replace(
        record,
        measures=measures,
        curve=curve,
        queries=extraction.queries,
        notes=extraction.notes,
        stopped=extraction.stopped,
    )


def _macro_f(cell: Cell, loaded: VictimAndData, given: Labels, predicted: Labels) -> Estimate:
    return macro_f(given, predicted, loaded.interface.n_classes, rng=cell.rng("bootstrap"))


def steal(cell: Cell, workspace: Workspace, loaded: VictimAndData, seeds_per_class: int) -> Extraction:
    """The attack, with seeds drawn in equal numbers from every class of the adversary set."""
    from portcullis_ml.models.torch import TorchLearner

    attack: ExtractionAttack = EXTRACTION.build(cell.attack)
    learner = TorchLearner(**{k: v for k, v in (cell.learner or {}).items() if k != "unit"})
    rng = cell.rng("seeds")
    x, classes = loaded.adversary
    # A thief without synthesis spends the whole budget on natural rows.
    natural = cell.attack["unit"] == "knockoff"
    per_class = cell.budget // loaded.interface.n_classes if natural else seeds_per_class
    own = [rng.permutation(np.flatnonzero(classes == c))[:per_class] for c in range(loaded.interface.n_classes)]
    chosen = x[np.concatenate(own)]
    interface = loaded.interface.revealing(reveals=Reveals.parse(str(cell.interface["reveals"])))
    oracle = LocalOracle(
        loaded.victim, interface, budget=cell.budget, ledger=workspace.ledger(columns=interface.n_classes)
    )
    knowledge = Knowledge(pool=chosen, seeds=chosen, learner=learner)
    return attack(oracle, knowledge, rng=cell.rng("attack"), watch=workspace.report)


def transfer(cell: Cell, setting: Setting, extraction: Extraction) -> dict[str, Estimate]:
    """Targeted and untargeted transferability, each with its control; of the seeds alone where that was published."""
    loaded, plan = load(setting), dict(setting.plan["transfer"])
    groups = GTSRB_GROUPS if plan.pop("macro_classes", False) else None
    x, _ = loaded.adversary
    labels = loaded.victim.scores(x).argmax(axis=1)
    found: dict[str, Estimate] = {}
    wanted = [("transfer", extraction.model, "targeted"), ("untargeted", extraction.model, "untargeted")]
    if cell.extra["transfer_of_seeds"]:
        wanted.append(("transfer_seeds", extraction.history[0][1], "targeted"))
    for name, copy, goal in wanted:
        protocol = Transfer(**plan, goal=goal, groups=groups)  # type: ignore[arg-type]
        report = protocol(copy, loaded.victim, x, labels, bounds=loaded.interface.bounds, rng=cell.rng("transfer"))  # type: ignore[arg-type]
        found |= {name: report.rate, f"{name}_noise": report.noise}
    return found


# Detection


def stream(setting: Setting, source: str, rows: int, rng: np.random.Generator) -> tuple[Array, Answer]:
    """`rows` queries of one kind in random order, with the victim's answers."""
    loaded = load(setting)
    name, _, part = source.partition(":")
    if name == "uniform":
        x = loaded.interface.uniform(rows, rng)
    else:
        data = loaded.dataset if name == setting.plan["dataset"] else load_dataset(name, setting.data)
        pool = data.x_test if part == "test" else data.x
        x = fitted(pool[rng.permutation(len(pool))[:rows]], loaded.interface.input_shape)
    return x, Answer.of(loaded.victim.scores(x), loaded.interface)


def fitted(x: Array, shape: tuple[int, ...]) -> Array:
    """USPS digits fill their 16 x 16 frame, MNIST's stand 20 x 20 in the middle of 28 x 28; other sets fit already."""
    if x.shape[1:] == shape:
        return x
    from scipy.ndimage import zoom

    grown = np.clip(zoom(x, (1, 20 / x.shape[1], 20 / x.shape[2]), order=1), 0, 1)
    # 8-bit pixels, as every other image here: a client sends images, not interpolations.
    return np.pad(np.round(grown * 255) / 255, ((0, 0), (4, 4), (4, 4)))


def calibrate(setting: Setting) -> dict[str, float]:
    """For each detector, the highest suspicion on honest calibration streams, times a margin."""
    streams = setting.plan["streams"]
    thresholds = {}
    for name, spec in setting.plan["detectors"].items():
        detector = DETECTORS.build(spec)
        loudest = 0.0
        for i in range(streams["count"]):
            rng = derive(i, setting.plan["protocol"], "calibration")
            loud = run_detector(detector, *stream(setting, streams["calibration"], streams["rows"], rng))
            loudest = max(loudest, float(np.nanmax(loud)))
        thresholds[name] = round(MARGIN * loudest, 4)
    return thresholds


def watched(cell: Cell, setting: Setting, asked: tuple[Array, Answer]) -> Record:
    """The cell's stream through every detector: first alarm, chunks of 50 with an alarm, accounts of a Sybil split."""
    x, answer = asked
    alarms, measures = [], {}
    for name, threshold in cell.extra["thresholds"].items():
        detector = replace(DETECTORS.build(setting.plan["detectors"][name]), threshold=threshold)
        suspicion = run_detector(detector, x, answer)
        loud = detector.alarms(suspicion)
        row = first_alarm(loud)
        if row is not None:
            alarms.append({"stage": name, "row": row, "suspicion": float(suspicion[row - 1])})
        chunks = [bool(loud[i : i + 50].any()) for i in range(0, len(loud), 50)]
        measures[f"chunks_{name}"] = Estimate(float(np.mean(chunks)), 0.0, 1.0, len(chunks), unit="chunks")
        if cell.names["attack"].startswith("Jb-top3"):
            split = run_accounts(detector, x, answer, accounts=setting.plan["streams"]["accounts"], turns="round_robin")
            measures[f"accounts_{name}"] = share_flagged(split)
    return Record(cell=cell, measures=measures, alarms=tuple(alarms), queries=len(x))
