"""Canaries in Shakespeare: how far planted secrets stand out, by repetitions, training and size of the network.

Carlini, Liu, Erlingsson, Kos, Song. "The Secret Sharer", USENIX Security 2019.

Threat model   log-probabilities of the next character; the canaries' form is known.
Query cost     one for each digit of a canary or reference.

Every setting stands in canaries.toml. A cell is one network and one repetition, with canaries of its own; exposure is
measured after each of `points` epochs of the same training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.defended_tables import markdown, page
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.types import Estimate
from portcullis_ml.data.text import load_documents, plant
from portcullis_ml.measures.statistics import mean_of, mean_over_seeds
from portcullis_ml.models.sequences import SequenceModel, token_log_probs
from portcullis_ml.sequences import CATALOG as ATTACKS

__all__ = ["canaries", "first_documents", "play", "shortened", "unseen_loss"]

Plan = Mapping[str, Any]
NEVER = "0"
WAYS = {"by_extrapolation": "extrapolation", "by_sampling": "sampling"}


def canaries(run: Run) -> str:
    """Run canaries and return its tables; see `play`."""
    plan = plan_in("canaries.toml")
    return play(shortened(plan) if run.quick else plan, run)


def shortened(plan: Plan) -> dict[str, Any]:
    """The quick look. Its figures stand for nothing."""
    return {**plan, **plan["quick"]["changes"]}


def play(plan: Plan, run: Run) -> str:
    """What was measured, as Markdown; resumable: a finished cell is never run again."""
    work_here = partial(work, folder=run.data, device=run.device)
    records = run.cells(cells_of(plan), work_here)
    return page(plan, [_section(plan, name, records) for name in plan["network"]], records, run.quick)


def cells_of(plan: Plan) -> Iterator[Cell]:
    """A cell for every repetition and network."""
    for seed in range(plan["repetitions"]):
        for name, network in plan["network"].items():
            yield Cell(
                victim={"name": name, "settings": {**network, "epochs": max(plan["points"])}},
                data={"name": plan["data"], "characters": plan["characters"]},
                interface={"reveals": "probs"},
                attack=plan["attack"],
                seed=seed,
                role="privacy",
                extra={name: plan[name] for name in ("version", "never", "canaries", "points", "unseen")},
                names={"attack": name},
            )


def first_documents(name: str, folder: str | None, characters: int) -> tuple[list[str], list[str]]:
    """The first documents of a text, of so many characters together, and those behind them."""
    documents, taken = load_documents(name, folder), 0
    for i, document in enumerate(documents):
        if taken >= characters:
            return documents[:i], documents[i:]
        taken += len(document)
    return documents, []


def work(cell: Cell, workspace: Workspace, *, folder: str | None, device: str) -> Record:
    """Exposure of every canary after each number of epochs."""
    from portcullis_ml.models.characters import CharacterModel

    attack = ATTACKS.build(cell.attack)
    documents, others = first_documents(cell.data["name"], folder, cell.data["characters"])
    planned = {NEVER: cell.extra["never"], **cell.extra["canaries"]}
    often = np.repeat([int(times) for times in planned], list(planned.values()))
    texts = attack.draw(len(often), rng=cell.rng("canaries"))
    planted = {text: int(times) for text, times in zip(texts, often, strict=True) if times}
    whole = plant(documents, planted, rng=cell.rng("places"))
    alphabet = "".join(sorted(set("".join([*whole, *others])) | set(attack.prefix + attack.symbols)))
    measures: dict[str, Estimate] = {}
    notes: dict[str, Any] = {"repetitions": often.tolist()}
    queries = 0

    def after(epoch: int, epochs: int, model: CharacterModel) -> None:
        nonlocal queries
        if epoch not in cell.extra["points"]:
            return
        leakage = attack(model, texts, rng=cell.rng("references"))
        queries += leakage.queries
        workspace.report(queries, queries)
        for way in WAYS:
            found = np.array(leakage.notes[way])
            notes[f"{way}_{epoch}"] = found.tolist()
            for times in np.unique(often):
                own = found[often == times]
                measures[f"exposure_{way}_{times}_after_{epoch}"] = mean_of(own, unit="canaries")
        notes["most_by_sampling"], notes["secrets"] = leakage.notes["most_by_sampling"], leakage.notes["secrets"]

    learner = _learner(cell.victim["settings"], device)
    model = learner.fit(whole, rng=cell.rng("training"), alphabet=alphabet, progress=after)
    measures["loss"] = unseen_loss(model, others[: cell.extra["unseen"]])
    return Record(
        cell=cell,
        measures=measures,
        queries=queries,
        notes=notes,
        threat_model={"answers": "probs", "data": "the canaries' form", "accounts": 1, "knows_defense": False},
    )


def _learner(settings: Mapping[str, Any], device: str) -> Any:
    """What trains the network: document by document where the settings say how those are protected."""
    from portcullis_ml.models.characters import CharacterLearner

    if "longest" not in settings:
        return CharacterLearner(**settings, device=device)
    from portcullis_ml.models.private_text import PrivateCharacterLearner

    known: dict[str, Any] = {name: None if value == "none" else value for name, value in settings.items()}
    return PrivateCharacterLearner(**known)


def unseen_loss(model: SequenceModel, documents: Sequence[str]) -> Estimate:
    """Nats a character on documents that were not learnt: what protection costs."""
    losses = [-token_log_probs(model, model.tokenizer.encode(d)[None]).mean() for d in documents if d]
    return mean_of(np.array(losses), unit="documents")


def _section(plan: Plan, name: str, records: Sequence[Mapping[str, Any]]) -> str:
    done = [r for r in records if r["attack"] == name and r["outcome"] == "done"]
    if not done:
        return f"## {name}"
    often = np.concatenate([r["notes"]["repetitions"] for r in done])
    rows = []
    for times in np.unique(often):
        cells = [_exposure(done, "by_extrapolation", point, often == times) for point in plan["points"]]
        last = _exposure(done, "by_sampling", max(plan["points"]), often == times)
        rows.append([str(times) if times else "never", str(int((often == times).sum())), *cells, last])
    head = [
        "planted",
        "canaries",
        *(f"after {p} epochs" for p in plan["points"]),
        f"sampling, after {plan['points'][-1]}",
    ]
    most = done[0]["notes"]["most_by_sampling"]
    return (
        f"## {name}\n\nExposure in bits by extrapolation, and by sampling, which cannot tell more than {most:.1f}: "
        f"mean [95% interval] over the canaries of {len(done)} trainings. {_agreement(done, plan['points'])} "
        f"{_loss(done)}\n\n" + markdown(head, rows)
    )


def _pooled(done: Sequence[Mapping[str, Any]], way: str, point: int) -> Any:
    return np.concatenate([r["notes"][f"{way}_{point}"] for r in done])


def _exposure(done: Sequence[Mapping[str, Any]], way: str, point: int, rows: Any) -> str:
    e = mean_of(_pooled(done, way, point)[rows], unit="canaries")
    return f"{e.value:.1f} [{e.low:.1f}, {e.high:.1f}]"


def _agreement(done: Sequence[Mapping[str, Any]], points: Sequence[int]) -> str:
    """How far the two estimators are apart where sampling can still tell: a rank above 10."""
    most = done[0]["notes"]["most_by_sampling"] - np.log2(10)
    by = {way: np.concatenate([_pooled(done, way, p) for p in points]) for way in WAYS}
    told = by["by_sampling"] < most
    e = mean_of(np.abs(by["by_sampling"] - by["by_extrapolation"])[told], unit="canaries")
    return f"Below {most:.1f} bits they are {e.value:.2f} [{e.low:.2f}, {e.high:.2f}] bits apart (n={e.n})."


def _loss(done: Sequence[Mapping[str, Any]]) -> str:
    e = mean_over_seeds([r["measures"]["loss"]["value"] for r in done])
    return f"Loss on unseen text: {e.value:.2f} [{e.low:.2f}, {e.high:.2f}] nats a character, over the trainings."
