"""Trains what an audit's cells need before they run: what its defenses' recipes make, and hardened victims.

Every recipe and hardening is trained once for every victim, settings, rows, regime and seed, on the victim's own rows,
and written to `<out>/artifacts/<key>`. The cell then names that folder and the hash of its content instead of the
recipe; a second run finds the folder and trains nothing. What cannot be trained here, for want of rows, leaves a cell
that does not apply.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from portcullis_ml.bench.audit_cell import audit_cell
from portcullis_ml.bench.cell import Cell, fingerprint
from portcullis_ml.bench.experiment import ExperimentSpec, victims_learner
from portcullis_ml.bench.outside import SAID, SHOWN, Outside
from portcullis_ml.bench.records import Record, versions
from portcullis_ml.bench.run import Workspace
from portcullis_ml.catalog import identity
from portcullis_ml.core.artifacts import Artifact, Contents
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.recipes import Hardening, Recipe
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Learner, Model, Rows
from portcullis_ml.hardening import CATALOG as HARDENING
from portcullis_ml.recipes import CATALOG as RECIPES

__all__ = ["Prepared", "Training", "needs_outside", "prepare_cells", "prepared_cell"]

Watch = Callable[[str, int, int], None]  # (what is trained, steps done, steps in all)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: everything that decides what comes out of it.

    given   the recipe's victim, or the hardening's learner
    victim  {"name", "sha256"} of the model that is served, or was before the hardening
    source  the name of where the victim's own rows come from
    """

    unit: Recipe | Hardening
    given: Model | Learner
    victim: Mapping[str, Any]
    rows: Rows | None
    source: str
    outside: Outside | None
    regime: str = ""
    seed: int = 0

    def about(self) -> dict[str, Any]:
        """What is trained, on what: JSON throughout."""
        own, other = self.rows, self.outside
        kind = "hardening" if isinstance(self.unit, Hardening) else "recipe"
        learner = {"learner": describe(self.given)} if kind == "hardening" else {}
        return {
            kind: self.unit.name or describe(self.unit)["unit"],
            "settings": identity(describe(self.unit)),
            "victim": {name: self.victim[name] for name in ("name", "sha256")},
            "rows": own and {"name": self.source, "n": len(own.x), "sha256": fingerprint(own.x, own.y)},
            "outside": other and {"name": other.name, "n": len(other.x), "sha256": fingerprint(other.x)},
            "regime": self.regime,
            "seed": self.seed,
            **learner,
        }

    def __call__(self, folder: Path, watch: Callable[[int, int], None], *, key: str) -> Artifact:
        """Train, and write the folder. NotApplicable and InputError say which rows are missing or wrong."""
        x = None if self.outside is None else self.outside.x
        made = self.unit(self.given, self.rows, x, rng=derive(self.seed, key), watch=watch)  # type: ignore[arg-type]
        contents = made if isinstance(made, Contents) else self._of_model(made)
        about = {**self.about(), "notes": dict(contents.about), "versions": versions()}
        from portcullis_ml.models.artifacts import write_artifact

        return write_artifact(Contents(contents.files, about), folder)

    def key(self) -> str:
        """A name for the folder: the same for the same training."""
        return f"{self.unit.name or 'unit'}-{fingerprint(json.dumps(self.about(), sort_keys=True))}"

    def _of_model(self, model: Model) -> Contents:
        from portcullis_ml.models.export import model_files

        assert self.rows is not None  # it has been trained on them
        files, sentence = model_files(model, self.rows.x[:200])
        return Contents(files, {**getattr(model, "notes", {}), "onnx": sentence})


@dataclass(frozen=True)
class Prepared:
    """Cells that name what was trained, why some of them do not apply (by id), and sentences about the trainings."""

    cells: list[Cell]
    lacking: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def prepare_cells(
    cells: Sequence[Cell], spec: ExperimentSpec, *, regimes: Sequence[str], out: Path, watch: Watch
) -> Prepared:
    """The cells with everything trained that they need; those trained with outside rows once for every regime."""
    bench, made, lacking = _Bench(spec, out, watch), [], {}
    for cell in cells:
        wanted = [*cell.defense, *([cell.hardening] if cell.hardening else [])]
        if not any(_trained(part) for part in wanted):
            made.append(cell)
            continue
        chosen = regimes if any(unit.needs_outside for part in wanted for unit in _trained(part)) else ("",)
        for regime in chosen:
            name = cell.defense_name + (SHOWN[regime] if len(chosen) > 1 else "")
            named = replace(cell, regime=regime, names={**cell.names, "defense": name})
            try:
                made.append(bench.filled(named))
            except NotApplicable as error:
                made.append(named)
                lacking[named.id] = str(error)
    return Prepared(made, lacking, tuple(bench.notes))


def prepared_cell(cell: Cell, workspace: Workspace, *, spec: ExperimentSpec, lacking: Mapping[str, str] = {}) -> Record:
    """The record of an audit's cell; it says where the outside rows come from that were used."""
    if cell.id in lacking:
        raise NotApplicable(lacking[cell.id])
    record = audit_cell(cell, workspace, spec=spec)
    used = SAID[cell.regime] if cell.regime else ", ".join(dict.fromkeys(_outside_of(cell.defense)))
    return replace(record, threat_model={**record.threat_model, "outside_rows": used}) if used else record


def needs_outside(description: Any) -> bool:
    """Whether something in this description of units is to be trained with outside rows."""
    return any(unit.needs_outside for unit in _trained(description))


def _outside_of(description: Any) -> Iterator[str]:
    """What is known of the outside rows with which the artifacts in this description were trained."""
    if isinstance(description, Mapping):
        description = list(description.values())
    if isinstance(description, list | tuple):
        for part in description:
            yield from _outside_of(part)
    elif isinstance(description, str) and "@sha256:" in description:
        if rows := Artifact.at(description).read().about.get("outside"):
            yield f"{rows['name']}, used before this audit and not compared with the pool"


def _trained(description: Any) -> list[type[Recipe] | type[Hardening]]:
    """The classes of what is still to be trained in a description of units."""
    if isinstance(description, list | tuple):
        return [kind for part in description for kind in _trained(part)]
    if not isinstance(description, Mapping) or "artifact" in description:
        return []
    kind = _kind(description.get("unit"))
    return [*([kind] if kind else []), *(found for part in description.values() for found in _trained(part))]


def _kind(name: Any) -> type[Recipe] | type[Hardening] | None:
    """The recipe or hardening of that name, or None where it is another unit."""
    for catalog in (RECIPES, HARDENING):
        if isinstance(name, str) and (name in catalog or ":" in name):
            found = catalog.load(name)
            return found if isinstance(found, type) and issubclass(found, Recipe | Hardening) else None
    return None


class _Bench:
    """Trains, each thing once."""

    def __init__(self, spec: ExperimentSpec, out: Path, watch: Watch) -> None:
        self._spec = spec
        self._experiment = spec.load()
        self._out = out / "artifacts"
        self._watch = watch
        self._made: dict[str, Artifact] = {}
        self.notes: dict[str, None] = {}

    def filled(self, cell: Cell) -> Cell:
        """The cell with the hash of what was trained in the place of everything that has to be. NotApplicable."""
        model, victim = self._experiment.model, self._experiment.names["victim"]
        hardening = cell.hardening
        if hardening is not None:
            unit = HARDENING.build(hardening)
            artifact = self._artifact(unit, victims_learner(self._experiment, self._spec.device), victim, cell)
            hardening = {**hardening, "artifact": str(artifact)}
            model = self._spec.load(str(artifact)).model
            if model.n_classes != self._experiment.interface.n_classes:
                raise InputError(
                    f"{unit.name} was expected to train a victim of {self._experiment.interface.n_classes} classes; "
                    f"its rows have {model.n_classes}. Give --train rows of every class."
                )
            victim = {"name": f"{victim['name']}, {unit.name}", "sha256": artifact.sha256}
        fill = partial(self._filled, model=model, victim=victim, cell=cell)
        return replace(cell, defense=tuple(fill(stage) for stage in cell.defense), hardening=hardening)

    def _filled(self, part: Any, *, model: Model, victim: Mapping[str, Any], cell: Cell) -> Any:
        """A description in which a recipe, and what it needs itself, has become "PATH@sha256:HEX"."""
        again = partial(self._filled, model=model, victim=victim, cell=cell)
        if isinstance(part, list | tuple):
            return [again(value) for value in part]
        if not isinstance(part, Mapping):
            return part
        part = {name: again(value) for name, value in part.items()}
        if _kind(part.get("unit")) is None:
            return part
        return str(self._artifact(RECIPES.build(part), model, victim, cell))

    def _artifact(self, unit: Any, given: Model | Learner, victim: Mapping[str, Any], cell: Cell) -> Artifact:
        if self._experiment.interface.text:
            raise NotApplicable(f"{unit.name} learns from rows of numbers; this API takes texts. Leave it out.")
        asked = json.dumps([describe(unit), victim["sha256"], cell.regime, cell.seed], sort_keys=True)
        if asked not in self._made:
            experiment = self._experiment
            outside = experiment.outside.get(cell.regime)
            training = Training(
                unit=unit,
                given=given,
                victim=victim,
                rows=None if experiment.train is None else Rows(experiment.train, experiment.train_y),
                source=experiment.source,
                outside=outside if unit.needs_outside else None,
                regime=cell.regime,
                seed=cell.seed,
            )
            self._made[asked] = self._found_or_trained(training)
            self.notes.update(dict.fromkeys(_sentences(training)))
        return self._made[asked]

    def _found_or_trained(self, training: Training) -> Artifact:
        key = training.key()
        folder = self._out / key
        if folder.is_dir():
            return Artifact.at(str(folder))
        what = f"{training.unit.name}{SHOWN.get(training.regime, '')}, seed {training.seed}"
        return training(folder, partial(self._watch, what), key=key)


def _sentences(training: Training) -> Iterator[str]:
    assert training.rows is not None  # it has been trained on them
    other = training.outside
    rest = f" and {len(other.x):,} outside rows ({other.name}), {SAID[training.regime]}" if other else ""
    yield f"{training.unit.name} was trained on {len(training.rows.x):,} rows of the victim's own{rest}."
