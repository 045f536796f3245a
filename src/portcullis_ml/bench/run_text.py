"""Runs `portcullis privacy --text` from the options to the records: the scene, the attacks, the flags.

Nothing is printed or drawn here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.flags import FLAGS, raised
from portcullis_ml.bench.named import by_name, sequence_named
from portcullis_ml.bench.records import versions
from portcullis_ml.bench.run import Progress, run_cells
from portcullis_ml.bench.text_cell import text_cell
from portcullis_ml.bench.text_scene import TextScene, TextSource, load_scene, plant_text
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.sequences import CATALOG as ATTACKS

__all__ = ["USUAL", "TextOptions", "run_text"]

SAMPLED = "memorization(strategy={}, samples=1000, length=160)"
USUAL = ("canaries", *(SAMPLED.format(strategy) for strategy in ("top", "temperature", "prompts")))
BUDGET = 1_000_000  # next-token distributions of each attack, where nobody says how many
ENOUGH = 5  # canaries for one number of repetitions


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """What a person asked for."""

    source: TextSource
    attacks: tuple[str, ...] = ()
    match: int = 50  # characters of a sample that stand in the text
    budget: int = BUDGET  # next-token distributions of each attack
    limited: bool = False  # whether there is a limit on exposure
    command: str = "portcullis privacy"

    def __post_init__(self) -> None:
        if self.match < 1:
            raise ParameterError("--match", "at least 1 character", self.match)
        if len([a for a in self.named.values() if a["unit"] == "canaries"]) > 1:
            raise ParameterError("--attacks", "one form of canaries, as one was planted", list(self.named))

    @property
    def named(self) -> dict[str, Any]:
        return by_name(self.attacks or USUAL, sequence_named)

    @property
    def form(self) -> Any:
        """The attack that says how canaries look and how they are measured."""
        words = (a for a in self.named.values() if a["unit"] == "canaries")
        return ATTACKS.build(next(words, {"unit": "canaries"}))

    def plant(self, path: Path) -> tuple[Path, Path, int, int]:
        """Write the text with canaries planted in it: the two files, how many canaries, how many of them planted."""
        text, canaries, drawn = plant_text(self.source, self.form, path)
        return text, canaries, len(drawn.texts), len(drawn.texts) // 2


def run_text(
    options: TextOptions,
    *,
    out: Path,
    progress: Callable[[Progress], None] | None = None,
    training: Callable[[str, int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The records of every attack, and the meta data of the run, both also written to `out`."""
    clock = time.monotonic()
    scene = load_scene(options.source, options.form, out, training)
    if options.limited and scene.canaries is None:
        raise InputError(
            "--fail-over with --text is a limit on the exposure of canaries; none are known of this text. Plant some "
            "with --plant before training, or name their file with --canaries."
        )
    records = run_cells(_cells(options, scene), partial(text_cell, scene=scene), out=out, jobs=0, progress=progress)
    meta = _about(options, scene) | {
        "flags": [{**flag, "where": "text"} for flag in _flags(records, scene)],
        "flag_texts": {id: asdict(flag) for id, flag in FLAGS.items()},
        "seconds": round(time.monotonic() - clock, 1),
        "versions": versions(),
    }
    (out / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")
    return records, meta


def _cells(options: TextOptions, scene: TextScene) -> list[Cell]:
    known = {name: scene.names[name] for name in ("unseen", "canaries")}
    references = dict(sorted(scene.names["references"].items()))
    cells = []
    for word, attack in options.named.items():
        if attack["unit"] == "canaries" and scene.canaries is not None:
            attack = dict(scene.canaries.to_json()["canaries"])
        cells.append(
            Cell(
                victim=scene.names["model"],
                data=scene.names["text"],
                interface={"reveals": "log_probs"},
                attack=attack,
                budget=options.budget,
                seed=options.source.seed,
                role="privacy",
                extra={**known, "references": references, "match": options.match},
                names={"attack": word},
            )
        )
    return cells


def _flags(records: Sequence[Mapping[str, Any]], scene: TextScene) -> list[dict[str, str]]:
    found = []
    repeated = len(scene.documents) - len(set(scene.documents)) - _planted_again(scene)
    if repeated > 0:
        found.append(
            raised("documents_repeat", f"{repeated:,} of {len(scene.documents):,} documents stand there before")
        )
    for r in records:
        measures = r["measures"]
        few = [m for name, m in measures.items() if name.startswith("exposure_by_extra") and m["n"] < ENOUGH]
        if few:
            found.append(raised("few_canaries", f"as few as {min(m['n'] for m in few)} for one number of repetitions"))
        never = measures.get("exposure_by_extrapolation_0")
        if never is not None and never["low"] is not None and never["low"] > r["notes"]["null"]:
            found.append(raised("never_planted_stand_out", f"{never['value']:.1f} bits in the mean of {never['n']}"))
    return found


def _planted_again(scene: TextScene) -> int:
    """Documents that are canaries planted before, which are meant to repeat."""
    return int(sum(max(times - 1, 0) for times in scene.often.tolist()))


def _about(options: TextOptions, scene: TextScene) -> dict[str, Any]:
    text, source = scene.names["text"], options.source
    return {
        "title": text["name"] if source.model is None else scene.names["model"]["name"],
        "command": options.command,
        "model": scene.names["model"],
        "learner": scene.names["learner"],
        "text": text,
        "documents": len(scene.documents),
        "characters": sum(map(len, scene.documents)),
        "unseen": len(scene.unseen),
        "references": sorted(scene.references),
        "match": options.match,
        "seed": source.seed,
        "notes": list(scene.notes),
    }
