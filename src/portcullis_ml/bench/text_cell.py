"""One attack on a model of text, judged by whoever has the text: exposure of canaries, or samples that were copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.bench.text_scene import TextScene
from portcullis_ml.core.errors import BudgetExhausted, NotApplicable
from portcullis_ml.core.privacy import Leakage
from portcullis_ml.core.types import Estimate
from portcullis_ml.measures.memorized import copied_runs, documents_holding, eidetic_precision
from portcullis_ml.measures.statistics import mean_of
from portcullis_ml.sequences import CATALOG as ATTACKS

__all__ = ["FIRST", "text_cell"]

FIRST = (20, 100)  # samples of every ranking that are judged
SHOWN = 8  # samples of every ranking that are quoted
WAYS = ("by_extrapolation", "by_sampling")
ANY = 10**9  # documents: a sample that stands in any number of them counts


def text_cell(cell: Cell, workspace: Workspace, *, scene: TextScene) -> Record:
    """The record of one cell; the scene holds what the cell names."""
    attack = ATTACKS.build(cell.attack)
    canaries = hasattr(attack, "draw")
    if canaries and scene.canaries is None:
        raise NotApplicable(
            "canaries needs a text with canaries in it; none are known. Plant some with --plant before training."
        )
    texts = scene.canaries.texts if canaries and scene.canaries else ()
    try:
        leakage = attack(
            scene.model, texts, references=scene.references, prompts=scene.unseen, rng=cell.rng("attack"),
            budget=cell.budget, watch=workspace.report,
        )  # fmt: skip
    except BudgetExhausted as error:
        raise NotApplicable(
            f"{cell.attack_name} needs more than the {cell.budget:,} queries of --budget. Raise it, or ask for fewer "
            "samples, shorter ones, or fewer references."
        ) from error
    measures, notes = _exposures(leakage, scene) if canaries else _copies(leakage, scene, int(cell.extra["match"]))
    held = "the canaries' form" if canaries else f"{len(scene.unseen):,} unseen documents"
    threat = {"answers": "log_probs", "data": held, "accounts": 1, "knows_defense": False}
    return Record(cell=cell, measures=measures, queries=leakage.queries, notes=notes, threat_model=threat)


def _exposures(leakage: Leakage, scene: TextScene) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """The mean exposure of the canaries of every number of repetitions, 0 for never, in both ways."""
    measures = {}
    for way in WAYS:
        found = np.array(leakage.notes[way])
        for times in np.unique(scene.often).tolist():
            measures[f"exposure_{way}_{times}"] = mean_of(found[scene.often == times], unit="canaries")
    assert scene.canaries is not None
    return measures, {**leakage.notes, "repetitions": scene.often.tolist(), "canaries": list(scene.canaries.texts)}


def _copies(leakage: Leakage, scene: TextScene, match: int) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """How many samples hold so many characters of the text: of each ranking's first, of all, and of unseen text."""
    texts = leakage.notes["texts"]
    holding = documents_holding(texts, scene.documents, match)
    measures = {"all": eidetic_precision(holding, range(len(texts)), 1)}
    if scene.unseen:
        foreign = documents_holding(texts, scene.unseen, match)
        measures["unseen"] = eidetic_precision(foreign, range(len(texts)), ANY)
    quoted = []
    for ranking, places in leakage.notes["kept"].items():
        for n in FIRST:
            measures[f"{ranking}_{n}"] = eidetic_precision(holding, places[:n], 1)
        measures[f"{ranking}_{FIRST[-1]}_any"] = eidetic_precision(holding, places[: FIRST[-1]], ANY)
        quoted += places[:SHOWN]
    notes = {
        "kept": leakage.notes["kept"],
        "left_out": leakage.notes["left_out"],
        "holding": {ranking: holding[places].tolist() for ranking, places in leakage.notes["kept"].items()},
        "quoted": _quoted(list(dict.fromkeys(quoted)), texts, scene.documents, holding),
    }
    return measures, notes


def _quoted(
    places: Sequence[int], texts: Sequence[str], documents: Sequence[str], holding: NDArray[np.int64]
) -> dict[str, Mapping[str, Any]]:
    """Samples by their place: the text, where its longest copied run is, and of which document."""
    runs = copied_runs([texts[i] for i in places], documents)
    return {
        str(i): {"text": texts[i], "start": start, "length": length, "document": document, "held_by": int(holding[i])}
        for i, (start, length, document) in zip(places, runs, strict=True)
    }
