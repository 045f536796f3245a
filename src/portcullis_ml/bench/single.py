"""One attack, kept: the surrogate as a file that `load_model` reads, and the transfer set that it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.audit_cell import audit_cell
from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.experiment import ExperimentSpec
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Progress, Workspace, run_cells
from portcullis_ml.bench.texts import write_transfer
from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.types import Interface
from portcullis_ml.models.texts import TextInterface

__all__ = ["extract_to"]


def extract_to(
    cell: Cell, spec: ExperimentSpec, out: Path, *, progress: Callable[[Progress], None] | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The cell's record, and {"surrogate": path, "transfer_set": path} in `out`; a finished cell is not run again."""
    kind = "jsonl" if spec.load().interface.text else "npz"
    files = {"surrogate": "", "transfer_set": str(out / f"{cell.id}-transfer.{kind}")}
    (record,) = run_cells([cell], partial(_kept, spec=spec, out=out), out=out, jobs=0, progress=progress)
    if record["outcome"] != "done":
        return record, {}
    files["surrogate"] = next((str(p) for p in sorted(out.glob(f"{cell.id}-surrogate.*"))), "")
    return record, {name: path for name, path in files.items() if path}


def _kept(cell: Cell, workspace: Workspace, *, spec: ExperimentSpec, out: Path) -> Record:
    return audit_cell(cell, workspace, spec=spec, keep=partial(_write, cell.id, out, spec.load().interface))


def _write(id: str, out: Path, interface: Interface, extraction: Extraction) -> None:
    """The transfer set first: it was paid for."""
    from portcullis_ml.models.load import save_model

    answer = extraction.answer
    arrays: dict[str, Any] = {"x": extraction.x, "labels": answer.labels, "scores": answer.scores}
    arrays["explanation"] = answer.explanation
    if isinstance(interface, TextInterface):
        write_transfer(out / f"{id}-transfer.jsonl", extraction, interface)
    else:
        np.savez_compressed(out / f"{id}-transfer.npz", **{name: a for name, a in arrays.items() if a is not None})
    try:
        save_model(extraction.model, out / f"{id}-surrogate")
    except (InputError, MissingExtra):
        return  # a copy of a kind that has no file format here; its transfer set makes it again
