"""Dataset inference: whom the published test and the calibrated one accuse, of copies and of innocent models.

Maini, Yaghini, Papernot. "Dataset Inference: Ownership Resolution in Machine Learning", ICLR 2021.

Threat model   labels of the suspect; for the white box its gradients. The owner's private rows, public rows that the
               victim never saw, and 20 innocent models.
Query cost     4,000 for a calibrated verdict, at most 300,000 for a published one with these settings.

Every setting stands in dataset_inference.toml. A cell is one victim with rows, innocent models and a key of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.dataset_inference_published import Groups, apart, mixed, one_sided, walked
from portcullis_ml.bench.protocols.defended_tables import markdown, page
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.ownership import Evidence
from portcullis_ml.core.types import Array, Estimate, Interface, Labels, Model, Rows
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.measures.statistics import clopper_pearson
from portcullis_ml.ownership import CATALOG as SCHEMES

__all__ = ["dataset_inference", "play"]

Plan = Mapping[str, Any]
TAKEN = (
    "version", "rows", "references", "fine", "scheme", "errors", "noise", "published_test", "white_box", "innocent",
    "networks",
)  # fmt: skip
LEVEL = 1e-3
TESTS = {
    "published_code": "published code",
    "published": "published",
    "welch": "Welch alone",
    "calibrated": "calibrated",
    "few": "calibrated, as few queries as known_errors",
    "known_errors": "known_errors",
    "white_box": "calibrated, white box",
    "welch_elsewhere": "Welch alone, public rows from elsewhere",
    "calibrated_elsewhere": "calibrated, public rows from elsewhere",
}
ROWS_TESTS = ("published_code", "published", "welch", "calibrated", "white_box")
OTHER_TESTS = ("few", "known_errors", "welch_elsewhere", "calibrated_elsewhere")


def dataset_inference(run: Run) -> str:
    """Run dataset-inference and return its tables; see `play`."""
    plan = plan_in("dataset_inference.toml")
    return play({**plan, **plan["quick"]["changes"]} if run.quick else plan, run)


def play(plan: Plan, run: Run) -> str:
    """What was measured beside what was published, as Markdown; resumable: a finished cell is never run again."""
    here = partial(work, folder=run.data, device=run.device)
    records = run.cells(cells_of(plan), here)
    done = [r for r in records if r["outcome"] == "done"]
    return page(plan, [_suspects(plan, done), _false_claims(done), _bill(done)] if done else [], records, run.quick)


def cells_of(plan: Plan) -> Iterator[Cell]:
    """A cell for every victim."""
    for seed in range(plan["repetitions"]):
        yield Cell(
            victim={"name": plan["learner"]["network"], "settings": plan["learner"]},
            data={"name": plan["data"]},
            interface={"reveals": "labels"},
            attack=plan["scheme"],
            seed=seed,
            role="control",
            extra={name: plan[name] for name in TAKEN},
            names={"attack": "dataset_inference"},
        )


@dataclass(frozen=True)
class Parts:
    """Disjoint rows: the owner's two halves, the thief's, the test's, those of innocent suspects and of references."""

    private: Rows
    public: Rows
    thief: Rows
    test: Rows
    innocent: Rows
    reference: Rows


def work(cell: Cell, workspace: Workspace, *, folder: str | None, device: str) -> Record:
    """The p-value of every test for every suspect, and how many innocent ones each test accuses."""
    parts, train = _parts(cell, folder), _Trainer(cell, device)
    victim = train(parts.private, "victim")
    stolen = _stolen(train, victim, parts)
    innocent = _innocent(cell, train, parts)
    overlap = {"half of the private rows, by honest means": train(_halves(parts.private, parts.innocent), "overlap")}
    each = cell.extra["rows"]["each"]
    reference = [train(_drawn(cell, parts.reference, each, f"r{i}"), f"r{i}") for i in range(cell.extra["references"])]
    interface = Interface(input_shape=parts.private.x.shape[1:], n_classes=10)
    bench = _Bench(cell, interface, victim, parts, reference)
    found: dict[str, dict[str, Any]] = {}
    for group, suspects in (("stolen", stolen), ("innocent", innocent), ("overlap", overlap)):
        for done, (name, suspect) in enumerate(suspects.items()):
            workspace.report(done, len(suspects))
            found[name] = {"group": group, "accuracy": _accuracy(suspect, parts.test), **bench.tried(suspect, name)}
    measures: dict[str, Estimate] = {}
    for test in TESTS:
        p = [row[test] for row in found.values() if row["group"] == "innocent" and row[test] is not None]
        measures[f"false_claims_{test}"] = clopper_pearson(sum(v < LEVEL for v in p), len(p), unit="innocent models")
    notes = {"suspects": found, "questions": len(bench.key), "mistakes": len(bench.mistakes)}
    notes["trained"] = _accuracy(victim, parts.private)
    threat = {"answers": "labels", "data": "the owner's rows, public rows, innocent models", "accounts": 1}
    return Record(cell=cell, measures=measures, queries=len(bench.key), notes=notes, threat_model=threat)


def _parts(cell: Cell, folder: str | None) -> Parts:
    data, sizes = load_dataset(cell.data["name"], folder), cell.extra["rows"]
    order = cell.rng("rows").permutation(len(data.x))
    names = ("private", "public", "thief", "test", "innocent", "reference")
    ends = np.cumsum([0, *(sizes[name] for name in names)])
    side = math.isqrt(data.x[0].size)
    x = data.x.reshape(len(data.x), side, side)
    return Parts(
        *(Rows(x[order[a:b]].astype(np.float64), data.y[order[a:b]].astype(np.int64)) for a, b in pairwise(ends))
    )


class _Trainer:
    """Trains a network on rows with their classes, or with what another model says of them."""

    def __init__(self, cell: Cell, device: str) -> None:
        self.cell, self.device = cell, device

    def __call__(
        self,
        rows: Rows,
        word: str,
        *,
        targets: Array | None = None,
        start: Model | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Model:
        from portcullis_ml.models.torch import TorchLearner

        learner = TorchLearner(**(settings or self.cell.victim["settings"]), device=self.device)
        goals = np.eye(10)[rows.y] if targets is None else targets
        return learner.fit(rows.x, goals, rng=self.cell.rng("training", word), start=start)


def _stolen(train: _Trainer, victim: Model, parts: Parts) -> dict[str, Model]:
    extra, few = train.cell.extra, Rows(parts.thief.x[:1000], _y(parts.thief)[:1000])
    scores, own = victim.scores(parts.thief.x), victim.scores(parts.private.x)
    other = extra["networks"]["one hidden layer"]
    return {
        "the victim itself": victim,
        "fine-tuned on other rows": train(few, "fine", start=victim, settings=extra["fine"]),
        "one hidden layer on the private rows": train(parts.private, "other network", settings=other),
        "distilled on the private rows": train(parts.private, "distilled", targets=own),
        "copy from scores": train(parts.thief, "scores", targets=scores),
        "copy from labels": train(parts.thief, "labels", targets=np.eye(10)[scores.argmax(axis=1)]),
    }


def _innocent(cell: Cell, train: _Trainer, parts: Parts) -> dict[str, Model]:
    """name -> an innocent model of that kind, whose number stands behind it."""
    from portcullis_ml.models.sklearn import SklearnLearner

    found: dict[str, Model] = {}
    for kind, count in cell.extra["innocent"].items():
        for i in range(count):
            rows = (
                parts.public
                if "public" in kind
                else _drawn(cell, parts.innocent, cell.extra["rows"]["each"], f"{kind}{i}")
            )
            if kind in ("forest", "logistic"):
                learner = SklearnLearner(estimator=kind, c=1.0)
                model: Model = learner.fit(rows.x, np.eye(10)[_y(rows)], rng=cell.rng("training", kind))
            else:
                model = train(rows, f"{kind}{i}", settings=cell.extra["networks"].get(kind))
            found[f"{kind} {i + 1}"] = model
    return found


class _Bench:
    """Every test of one victim, ready for suspects."""

    def __init__(self, cell: Cell, interface: Interface, victim: Model, parts: Parts, reference: list[Model]) -> None:
        self.cell, self.interface, self.reference = cell, interface, reference
        self.scheme, self.errors = SCHEMES.build(cell.extra["scheme"]), SCHEMES.build(cell.extra["errors"])
        secret, own = cell.rng("secret").bytes(32), (parts.private, parts.public)
        self.key = self.scheme.mint(secret, interface, victim, own)
        blurred = parts.public.x + cell.extra["noise"] * cell.rng("elsewhere").normal(size=parts.public.x.shape)
        elsewhere = Rows(np.clip(blurred, 0, 1), parts.public.y)
        self.elsewhere = self.scheme.mint(secret, interface, victim, (parts.private, elsewhere))
        self.mistakes = self.errors.mint(secret, interface, victim, own)
        settings = cell.extra["published_test"]
        self.halves = tuple(Rows(r.x[: settings["rows"]], _y(r)[: settings["rows"]]) for r in own)
        self.victim = self.walks(victim, "victim")
        box = cell.extra["white_box"]
        self.boxed = tuple(Rows(r.x[: box["rows"]], _y(r)[: box["rows"]]) for r in own)
        self.box = {name: box[name] for name in ("steps", "classes")}
        self.margins = np.array([self.scheme.margins(model, *self.boxed, **self.box) for model in reference])

    def tried(self, suspect: Model, name: str) -> dict[str, float | None]:
        """The p-value of every test; None where it cannot be made."""
        walks, fitting = self.walks(suspect, name), self.cell.extra["published_test"]["fitting"]
        published = {
            test: one_sided(self.victim, walks, lines, steps=fitting, rng=self.cell.rng("regressor", test))
            for test, lines in (("published_code", mixed), ("published", apart))
        }
        few = self.judged(self.scheme, self.key, suspect, len(self.mistakes))
        white = None
        if hasattr(suspect, "input_gradient"):
            own = self.scheme.margins(suspect, *self.boxed, **self.box)
            white = self.scheme.white_box(own, self.margins, len(self.boxed[0])).p_value
        return {
            **published,
            "welch": self.alone(self.key, suspect),
            "calibrated": self.judged(self.scheme, self.key, suspect, len(self.key)).p_value,
            "few": few.p_value,
            "known_errors": self.judged(self.errors, self.mistakes, suspect, len(self.mistakes)).p_value,
            "white_box": white,
            "welch_elsewhere": self.alone(self.elsewhere, suspect),
            "calibrated_elsewhere": self.judged(self.scheme, self.elsewhere, suspect, len(self.elsewhere)).p_value,
        }

    def walks(self, model: Model, name: str) -> Groups:
        settings = self.cell.extra["published_test"]
        private, public = (
            walked(
                model, half.x, _y(half), starts=settings["starts"], steps=settings["steps"],
                rng=self.cell.rng("walks", str(i), name),
            )
            for i, half in enumerate(self.halves)
        )  # fmt: skip
        return private, public

    def judged(self, scheme: Any, key: Any, suspect: Model, queries: int) -> Evidence:
        oracle = LocalOracle(suspect, self.interface, budget=queries)
        found: Evidence = scheme(key, oracle, self.reference, commitment=key.commit(), rng=self.cell.rng("examination"))
        return found

    def alone(self, key: Any, suspect: Model) -> float:
        """Welch's test of the shares of each row that are answered with its class, without innocent models."""
        from scipy.stats import ttest_ind

        match = suspect.scores(key.x).argmax(axis=1) == key.labels % key.n_classes
        rows, at = np.unique(key.labels // key.n_classes, return_inverse=True)
        scores = np.bincount(at, match) / np.bincount(at)
        found = ttest_ind(scores[rows % 2 == 1], scores[rows % 2 == 0], equal_var=False, alternative="greater")
        return float(found.pvalue)


def _y(rows: Rows) -> Labels:
    assert rows.y is not None
    return rows.y


def _drawn(cell: Cell, rows: Rows, n: int, word: str) -> Rows:
    places = cell.rng("drawn", word).permutation(len(rows))[:n]
    return Rows(rows.x[places], _y(rows)[places])


def _halves(one: Rows, other: Rows) -> Rows:
    n = len(one) // 2
    return Rows(np.concatenate([one.x[:n], other.x[:n]]), np.concatenate([_y(one)[:n], _y(other)[:n]]))


def _accuracy(model: Model, rows: Rows) -> float:
    return float((model.scores(rows.x).argmax(axis=1) == rows.y).mean())


def _suspects(plan: Plan, done: Sequence[Mapping[str, Any]]) -> str:
    """The p-values of every suspect, innocent ones of a kind together, in two tables."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for record in done:
        for name, row in record["notes"]["suspects"].items():
            kinds.setdefault(name.rstrip(" 0123456789") if row["group"] == "innocent" else name, []).append(row)
    about = [
        [found[0]["group"], kind, f"{100 * np.mean([row['accuracy'] for row in found]):.0f}", str(len(found))]
        for kind, found in kinds.items()
    ]
    tables = []
    for tests, log in ((ROWS_TESTS, True), (OTHER_TESTS, False)):
        cells = [[_p_values([r[t] for r in found if r[t] is not None]) for t in tests] for found in kinds.values()]
        logs = [[plan["published"].get(kind, "")] for kind in kinds] if log else [[] for _ in kinds]
        head = ["group", "suspect", "accuracy, %", "n", *["published log"] * log, *(TESTS[t] for t in tests)]
        tables.append(markdown(head, [[*a, *b, *c] for a, b, c in zip(about, logs, cells, strict=True)]))
    trained = [100 * r["notes"]["trained"] for r in done]
    return (
        f"## p-values\n\nMedian (least to greatest) of n, and in how many the suspect is accused at p < {LEVEL:g}; "
        f"{len(done)} victims, right on {min(trained):.1f} to {max(trained):.1f}% of their private rows.\n\n{tables[0]}"
        "\n\nThe same suspects asked as few questions as known_errors has, by known_errors itself, and with public "
        f"rows that are noisier than the private ones:\n\n{tables[1]}"
    )


def _p_values(p: Sequence[float]) -> str:
    if not p:
        return ""
    accused = sum(v < LEVEL for v in p)
    return f"{np.median(p):.1g} ({min(p):.1g} to {max(p):.1g}), {accused} of {len(p)}"


def _false_claims(done: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for test, title in TESTS.items():
        found = [r["measures"][f"false_claims_{test}"] for r in done]
        n = sum(e["n"] for e in found)
        accused = round(sum(e["value"] * e["n"] for e in found if e["n"]))
        e = clopper_pearson(accused, n)
        rows.append([title, f"{accused} of {n}", f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"])
    return (
        f"## Innocent models accused\n\nAt p < {LEVEL:g}; in percent with the exact 95% interval, as far as models "
        "that are tried with one key are independent. Models that were trained on private rows are not among them.\n\n"
        + markdown(["test", "accused", "false claims"], rows)
    )


def _bill(done: Sequence[Mapping[str, Any]]) -> str:
    mistakes = [r["notes"]["mistakes"] for r in done]
    return (
        f"## Queries\n\n{done[0]['notes']['questions']:,} a verdict of the calibrated test; {min(mistakes)} to "
        f"{max(mistakes)} of known_errors, which is all mistakes that the victim makes on the public rows."
    )
