"""Runs a record's cell again, and compares what is measured with what the record says.

A cell is its settings and its seed, so the same victim, rows and versions give the same values to the last digit. Other
versions of a library, or another processor, may round otherwise; the sentence then names what differs.

A bundle comes from a stranger, and a cell names the code that it runs: units of Portcullis itself are built, and an
object of another module only where the verifier names that module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.experiment import ExperimentSpec
from portcullis_ml.bench.prepare import prepared_cell
from portcullis_ml.bench.records import versions
from portcullis_ml.bench.run import run_cells
from portcullis_ml.catalog import resolve
from portcullis_ml.core.errors import InputError, ProofError

__all__ = ["again", "chosen_cells", "known_code", "spec_of"]

OBJECT = re.compile(r"(?P<module>[A-Za-z_][\w.]*):[A-Za-z_][\w.]*")
ARTIFACT = re.compile(r"@sha256:[0-9a-f]{64}")
UNITS = ("attack", "defense", "learner", "hardening", "mark", "then", "interface", "extra")  # what of a cell names code
COMPARED = ("outcome", "measures", "classes", "curve", "queries", "stopped", "alarms", "then")


def spec_of(meta: Mapping[str, Any], modules: Collection[str] = (), **given: Any) -> ExperimentSpec:
    """What the audit loaded, with the verifier's own files and folders where they name some."""
    known = {f.name for f in fields(ExperimentSpec)}
    said = dict(meta.get("experiment") or {})
    if unknown := sorted(set(said) - known):
        raise InputError(f"The audit was made with an option that this version does not know: {unknown[0]}.")
    if str(said.get("victim", "")).startswith(("http://", "https://")):
        raise InputError("The victim is an API, which may answer otherwise today; its cells cannot be run again.")
    theirs = {name: value for name, value in given.items() if value is not None}
    known_code([value for name, value in said.items() if name not in theirs], modules)
    return replace(ExperimentSpec(**said), **theirs)


def chosen_cells(records: list[dict[str, Any]], word: str, draw: Any) -> list[dict[str, Any]]:
    """The records that --rerun names: so many, drawn by `draw` (a random.Random) among those done, or one by its id."""
    done = list({r["id"]: r for r in records if r["outcome"] == "done"}.values())
    if word.isdecimal() and len(word) < 6:
        return list(draw.sample(done, min(int(word), len(done))))
    found = [r for r in done if r["id"].startswith(word)]
    if len(found) != 1 or len(word) < 6:
        some = ", ".join(r["id"] for r in done[:3])
        raise InputError(
            f"--rerun takes a number of cells, or the id of one that was done, such as {some}; got {word!r}."
        )
    return found


def known_code(told: Any, modules: Collection[str]) -> None:
    """Raise InputError where these words name code other than ours and that of the modules that the verifier names."""
    if isinstance(told, Mapping | list | tuple):
        for part in told.values() if isinstance(told, Mapping) else told:
            known_code(part, modules)
    elif isinstance(told, str):
        for found in OBJECT.finditer(ARTIFACT.sub("", told)):
            if found["module"] not in modules and not _ours(found[0]):
                raise InputError(
                    f"The bundle names code that is not Portcullis' own, {found[0]}, and it is not run. If you have "
                    f"read it and it lies here: --import {found['module']}."
                )


def _ours(path: str) -> bool:
    """Whether "module:name" is a class that is defined in this package."""
    if not path.startswith("portcullis_ml."):
        return False
    try:
        found = resolve(path)
    except Exception:
        return False
    return isinstance(found, type) and found.__module__.startswith("portcullis_ml.")


def again(record: Mapping[str, Any], spec: ExperimentSpec, folder: Path, modules: Collection[str] = ()) -> None:
    """Run the record's cell in `folder`. InputError for other files or code, ProofError for another value.

    modules   modules of the verifier's whose objects may be run
    """
    cell = Cell.from_json(record["cell"])
    known_code([record["cell"].get(name) for name in UNITS], modules)
    experiment = spec.load()
    for what, option in (("victim", "--victim"), ("data", "--test and --pool")):
        held, named = dict(getattr(cell, what)), experiment.names[what]
        if held != {key: named.get(key) for key in held}:
            raise InputError(
                f"The {what} of cell {cell.id} has fingerprint {held.get('sha256')}; what was loaded here has "
                f"{named.get('sha256')}. Name the files of the audit with {option}."
            )
    (made,) = run_cells([cell], partial(prepared_cell, spec=spec), out=folder, jobs=1)
    made = json.loads(json.dumps(made, allow_nan=False))
    if differs := [name for name in COMPARED if made[name] != record.get(name)]:
        raise ProofError(
            f"Cell {cell.id} ({cell}) came out otherwise: {_said(differs[0], record, made)}{_versions(record)}"
        )


def _said(name: str, record: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    held, new = record.get(name), made[name]
    if name == "measures" and isinstance(held, Mapping):
        part = next(m for m in {**held, **new} if held.get(m) != new.get(m))
        return f"{part} is {_value(held.get(part))} in the record, and {_value(new.get(part))} here."
    if name == "outcome":
        return f"it is {held} in the record, and {new} here: {made['reason']}"
    return f"{name} is not what the record says."


def _value(estimate: Any) -> Any:
    return estimate.get("value") if isinstance(estimate, Mapping) else "not there"


def _versions(record: Mapping[str, Any]) -> str:
    """Which versions differ from those of the record, as a sentence; "" where none does."""
    held, here = record.get("versions") or {}, versions()
    odd = [
        f"{name} {held[name]} there, {here[name]} here" for name in held if name in here and held[name] != here[name]
    ]
    return f" Versions differ: {'; '.join(odd)}." if odd else ""
