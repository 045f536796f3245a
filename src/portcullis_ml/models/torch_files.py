"""PyTorch programs in files: TorchScript (.pt) and torch.export (.pt2).

TorchScript is a language of its own: `torch.jit.load` reads its archive with a reader that knows its own types only and
runs no Python. Its code may however read and write files, so an archive that names those operators is refused. What
`torch.export.load` does is in `exported.py`. Either is a program, and is run: take it from whom you trust.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.models.files import inspect_file

__all__ = ["PROGRAMS", "is_program", "read_program"]

SCRIPTS = {".pt", ".pth", ".ts"}  # what people call TorchScript; the first two may also be pickles
PROGRAMS = SCRIPTS | {".pt2"}
TOUCHES_FILES = re.compile(r"(torch|ops\s*\.\s*\w+)\s*\.\s*(save|from_file)\b")


def is_program(path: Path) -> bool:
    """Whether this is a file of torch.export by name, or one of TorchScript by content."""
    return path.suffix.lower() == ".pt2" or (path.suffix.lower() in SCRIPTS and bool(_code(path)))


def read_program(path: Path, limit: int) -> Any:
    """The module in a file of which `is_program` holds, in eval mode. InputError, MissingExtra."""
    inspect_file(path, limit, archive=True)
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtra(f"A {path.suffix} file", "torch") from error
    if path.suffix.lower() == ".pt2":
        from portcullis_ml.models.exported import read_exported

        return read_exported(path)
    if found := TOUCHES_FILES.search(_code(path)):
        raise InputError(
            f"{path} holds TorchScript that reads or writes files ({found[0]}), and is not run. "
            "Load it yourself, if you trust it, and name it as module:object."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some versions warn that TorchScript is no longer developed
            return torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except Exception as error:  # a damaged archive fails in many ways
        raise InputError(
            f"{path} was expected to hold TorchScript; PyTorch {torch.__version__} cannot read it "
            f"({type(error).__name__}). It may be cut short or of a later version: write it again with "
            "torch.jit.script(module).save, or torch.export.save."
        ) from error


def _code(path: Path) -> str:
    """The source in an archive of TorchScript; empty where it is none."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not any(name.endswith("/constants.pkl") for name in names):
            return ""
        parts = (archive.read(name) for name in names if "/code/" in name and name.endswith(".py"))
        return "\n".join(part.decode("utf-8", "replace") for part in parts)
