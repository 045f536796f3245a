"""Runs `portcullis privacy` from the options to the records: trains shadow models once, runs the attacks, raises flags.

Nothing is printed or drawn here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.bench.flags import FLAGS, raised
from portcullis_ml.bench.named import by_name, guard_named, privacy_named
from portcullis_ml.bench.privacy_cell import (
    candidates_for,
    copy_for,
    learner_of,
    pools_for,
    privacy_cell,
)
from portcullis_ml.bench.privacy_rows import Candidates
from portcullis_ml.bench.records import plain_estimate, versions
from portcullis_ml.bench.run import Progress, run_cells
from portcullis_ml.bench.run_audit import shown_as
from portcullis_ml.bench.target import bindable
from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Learner, Reveals
from portcullis_ml.measures.blind import blind_suspicion, classes_differ
from portcullis_ml.measures.membership import membership_measures, needed_for
from portcullis_ml.models.learners import learner_named
from portcullis_ml.models.shadows import rows_to_train_on, save_shadows, train_shadows
from portcullis_ml.privacy import CATALOG as PRIVACY

__all__ = ["USUAL", "PrivacyOptions", "run_privacy"]

USUAL = ("gap", "loss_threshold", "label_only", "shadow", "lira", "rmia")
BUDGET = 1_000_000  # queries, where nobody says how many
POOL = 5_000  # rows of the pool that shadow models are trained on, at most, as the attacks have it


@dataclass(frozen=True, kw_only=True)
class PrivacyOptions:
    """What a person asked for. The spec's training rows are the members, its test rows the non-members."""

    spec: ExperimentSpec
    attacks: tuple[str, ...] = ()
    through: str = "none"
    on: str | None = None  # the file of a stolen copy
    answers: str = "probs"
    k: int = 1
    decimals: int | None = None
    budget: int = BUDGET  # queries of each attack
    shadow_models: int = 16
    learner: str | None = None  # how shadow models are trained; the victim's own way if not said
    rows: int = 5_000  # members, and non-members, at most
    rate: float = 0.01  # the false positive rate of a limit
    limited: bool = False  # whether there is one
    seed: int = 0
    command: str = "portcullis privacy"

    def __post_init__(self) -> None:
        if self.shadow_models < 4 or self.shadow_models % 2:
            raise ParameterError("--shadow-models", "an even number of at least 4", self.shadow_models)
        if not 0 <= self.rate < 1:
            raise ParameterError("--fpr", "in [0, 1)", self.rate)
        by_name(self.attacks, privacy_named)
        if guard_named(self.through).hardening is not None:
            raise ParameterError("--through", "the stages of a guard; a hardening makes another victim", self.through)

    @property
    def named(self) -> dict[str, Any]:
        return by_name(self.attacks or USUAL, privacy_named)


def run_privacy(
    options: PrivacyOptions,
    *,
    out: Path,
    progress: Callable[[Progress], None] | None = None,
    training: Callable[[str, int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The records of every attack, and the meta data of the run, both also written to `out`."""
    clock = time.monotonic()
    experiment = options.spec.load()
    candidates = candidates_for(experiment, options.rows, options.seed)
    _enough(options, candidates)
    if options.on is not None:
        copy_for(experiment, options.on)
    described = None if options.learner is None else describe(learner_named(options.learner, options.spec.device))
    learner = learner_of(experiment, described, options.spec.device)
    shadows = _shadows(options, experiment, candidates, learner, out, training)
    cells = _cells(options, experiment, candidates, described, shadows)
    bindable(cells[0], experiment)
    records = run_cells(cells, partial(privacy_cell, spec=options.spec), out=out, jobs=0, progress=progress)
    blind = _blind(candidates, options.seed)
    meta = _about(options, experiment, candidates, learner) | {
        "blind": {name: plain_estimate(e) for name, e in blind.items()},
        "flags": _flags(records, candidates, blind),
        "flag_texts": {id: asdict(flag) for id, flag in FLAGS.items()},
        "seconds": round(time.monotonic() - clock, 1),
        "versions": versions(),
    }
    (out / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")
    return records, meta


def _enough(options: PrivacyOptions, candidates: Candidates) -> None:
    others, needed = int((~candidates.member).sum()), needed_for(options.rate)
    if options.limited and others < needed:
        raise InputError(
            f"A false positive rate of {100 * options.rate:g}% was expected to be measured on at least {needed:,} "
            f"non-members; there are {others:,}. Give more, or a greater --fpr."
        )


def _cells(
    options: PrivacyOptions,
    experiment: Experiment,
    candidates: Candidates,
    learner: Mapping[str, Any] | None,
    shadows: Artifact | None,
) -> list[Cell]:
    """Every attack on the API, on the copy where there is one, and on an innocent model where one can be trained."""
    stages = guard_named(options.through).stages
    shown = shown_as(options.answers, k=options.k, decimals=options.decimals)
    innocent = pools_for(experiment, candidates, options.seed)[1]
    where = ["api", *(["copy"] if options.on else []), *(["innocent"] if innocent is not None else [])]
    about = {"rows": options.rows, "members": _mark(candidates)}
    cells = []
    for on in where:
        for word, attack in options.named.items():
            if shadows is not None and attack.get("shadows", "") is None and attack["most"] == POOL:
                attack = {**attack, "shadows": str(shadows)}
            cells.append(
                Cell(
                    victim={k: experiment.names["victim"][k] for k in ("name", "sha256")},
                    data=experiment.names["data"],
                    interface=shown | ({"missing": True} if experiment.interface.missing else {}),
                    attack=attack,
                    defense=() if on == "copy" else stages,
                    budget=options.budget,
                    seed=options.seed,
                    learner=learner,
                    role="privacy",
                    knows_defense=on != "copy",
                    extra={"on": on, **about, **(_copy(options) if on == "copy" else {})},
                    names={"attack": word, "defense": {"api": options.through}.get(on, on)},
                )
            )
    return cells


def _copy(options: PrivacyOptions) -> dict[str, str]:
    """How a cell names the copy: where it lies, and the hash of its content where it is a file."""
    path = str(options.on)
    file = Path(path.partition("@")[0])
    return {"copy": path, "copy_sha256": Artifact.at(str(file)).sha256 if file.exists() else ""}


def _mark(candidates: Candidates) -> str:
    """What the candidates and their membership are known by."""
    digest = hashlib.sha256(np.ascontiguousarray(candidates.rows.x).tobytes())
    digest.update(candidates.member.tobytes() + np.ascontiguousarray(candidates.rows.y).tobytes())
    return digest.hexdigest()[:16]


def _shadows(
    options: PrivacyOptions,
    experiment: Experiment,
    candidates: Candidates,
    learner: Learner,
    out: Path,
    training: Callable[[str, int, int], None] | None,
) -> Artifact | None:
    """Shadow models for all attacks, trained once and kept; None where no attack wants them or they have no format."""
    attacks = [PRIVACY.build(attack) for attack in options.named.values()]
    wanted = [a for a in attacks if getattr(a, "shadows", False) is None]
    shown = experiment.interface.revealing(reveals=Reveals.parse(options.answers))
    if not any(a.needs.lacking(shown, Knowledge(learner=learner), a.name) is None for a in wanted):
        return None
    pool = pools_for(experiment, candidates, options.seed)[0]
    held = Knowledge() if pool is None else Knowledge(pool=pool.x, pool_groups=pool.y)
    rows = rows_to_train_on(candidates.rows, held, POOL)
    assert rows.y is not None
    about = [
        options.shadow_models,
        options.seed,
        getattr(learner, "about", lambda: describe(learner))(),
        _mark(candidates),
    ]
    digest = hashlib.sha256(json.dumps(about).encode() + np.ascontiguousarray(rows.x).tobytes()).hexdigest()[:16]
    folder = out / f"shadows-{digest}"
    if not folder.is_dir():
        watch = (lambda done, steps: training("shadow models", done, steps)) if training else None
        made = train_shadows(
            learner, rows.x, rows.y, experiment.interface.n_classes,
            models=options.shadow_models, rng=derive(options.seed, "shadows"), progress=watch,
        )  # fmt: skip
        partial_folder = out / f".shadows-{os.getpid()}"
        shutil.rmtree(partial_folder, ignore_errors=True)
        try:
            save_shadows(made, partial_folder, learner, rows.x, rows.y)
        except InputError:
            shutil.rmtree(partial_folder, ignore_errors=True)
            return None
        os.replace(partial_folder, folder)  # a killed run leaves no half-written folder
    return Artifact.at(str(folder))


def _said_of(learner: Any) -> dict[str, Any]:
    """A learner as plain data."""
    return dict(learner.about() if hasattr(learner, "about") else describe(learner))


def _blind(candidates: Candidates, seed: int) -> dict[str, Any]:
    rng = derive(seed, "blind")
    return membership_measures(blind_suspicion(candidates.rows, candidates.member, rng=rng), candidates.member)


def _flags(
    records: Sequence[Mapping[str, Any]], candidates: Candidates, blind: Mapping[str, Any]
) -> list[dict[str, str]]:
    others = int((~candidates.member).sum())
    found = []
    if others < 10 * needed_for(0.001):
        read = "it was not read" if others < needed_for(0.001) else f"{others // 1000} of them decide"
        found.append(raised("too_few_non_members", f"{others:,} for a rate of 0.1%: {read}"))
    if others < 10 * needed_for(0.01):
        found.append(raised("threshold_on_evaluated_rows", f"{others // 100} of {others:,} set the threshold of 1%"))
    assert candidates.rows.y is not None
    if (p := classes_differ(candidates.rows.y, candidates.member)) is not None:
        found.append(raised("members_by_class", f"p-value {p:.1g}"))
    if blind["auc"].low > 0.5:
        found.append(raised("members_look_different", f"area {blind['auc'].percent()} without the model"))
    innocent = [r for r in records if r["cell"]["extra"]["on"] == "innocent" and r["outcome"] == "done"]
    if not any(r["cell"]["extra"]["on"] == "innocent" for r in records):
        found.append(raised("no_innocent_control"))
    for r in innocent:
        if "auc" in r["measures"] and r["measures"]["auc"]["low"] > 0.5:
            detail = f"{r['attack']}: area {100 * r['measures']['auc']['value']:.1f}% on a model without them"
            found.append(raised("control_is_not_random", detail))
    return [{**flag, "where": "privacy"} for flag in found]


def _about(options: PrivacyOptions, experiment: Experiment, candidates: Candidates, learner: Learner) -> dict[str, Any]:
    title = experiment.names["data"]["name"] if options.spec.victim is None else experiment.names["victim"]["name"]
    return {
        "title": title,
        "command": options.command,
        "victim": {k: experiment.names["victim"][k] for k in ("name", "sha256")},
        "data": experiment.names["data"],
        "members": int(candidates.member.sum()),
        "non_members": int((~candidates.member).sum()),
        "through": options.through,
        "on": None if options.on is None else Path(options.on).name,
        "answers": options.answers,
        "learner": _said_of(learner),
        "seed": options.seed,
        "notes": list(experiment.notes),
    }
