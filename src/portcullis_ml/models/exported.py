"""Files of torch.export (.pt2), inspected before PyTorch reads them.

`torch.export.load` runs code that a forged file holds: it unpickles tensors of unusual types, evaluates expressions of
sizes as Python, and calls whatever a node names below `torch`. So a file is let in where none of that can happen: no
pickle but plain tensors, sizes of plain arithmetic, operators of PyTorch's own sets, outputs in tuples, lists and
dicts. Everything else is refused with the way around.
"""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from portcullis_ml.core.errors import InputError

__all__ = ["read_exported"]

OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|torchvision|quantized_decomposed)\.\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.(cond|map|map_impl|while_loop|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|getitem|and_|or_|not_)"
    r"|torch\.sym_\w+|torch\.(_check|_constrain_as_size)|math\.\w+"
)
TOUCHES_FILES = re.compile(r"aten\.(save|from_file)\b")
NAME = re.compile(r"[^\W\d]\w*")
SYMBOL = re.compile(r"[suz]\d+")
ARITHMETIC = frozenset(
    "Symbol positive nonnegative integer real True False Integer Float Rational Add Mul Pow Max Min Mod PythonMod "
    "FloorDiv CeilDiv CleanDiv TruncToInt ToFloat IntTrueDiv FloatTrueDiv Eq Ne Ge Gt Le Lt And Or Not oo "
    "int_oo".split()
)
CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict", "builtins.NoneType", "collections.OrderedDict", None}


class Exported(nn.Module):
    """An exported program as a module. Fewer rows than it was exported for are filled up, and more are cut."""

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.call = [program.module()]  # in a list: it may not be set to eval mode, as nn.Module would do
        (given,) = _inputs(program)
        self.takes = given.dtype
        self.rows = int(given.shape[0]) if isinstance(given.shape[0], int) else None  # it takes; None for any number

    def forward(self, x: Tensor) -> Any:
        """(n, *input_shape) -> what the program gives for n rows."""
        if self.rows is None:
            return self._asked(x) if len(x) > 1 else _cut(self._asked(torch.cat([x, x])), 1)
        parts = []
        for start in range(0, len(x), self.rows):
            own = x[start : start + self.rows]
            filled = torch.cat([own, own[:1].expand(self.rows - len(own), *own.shape[1:])])
            parts.append(_cut(self._asked(filled), len(own)))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _asked(self, x: Tensor) -> Any:
        return self.call[0](x)


def read_exported(path: Path) -> nn.Module:
    """The module in a .pt2 file. InputError where it could run code, or cannot be read."""
    _inspect(path)
    try:
        with _quiet():
            program = torch.export.load(path)
        if len(_inputs(program)) != 1:
            raise InputError(f"{path} takes {len(_inputs(program))} inputs; one array of rows was expected.")
        return Exported(program)
    except InputError:
        raise
    except Exception as error:  # another version's file fails in many ways
        raise InputError(
            f"{path} was expected to be written by torch.export.save; PyTorch {torch.__version__} cannot read it "
            f"({type(error).__name__}). It may be cut short or of another version: export it again."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's own words about a file that it cannot read: it is said in a sentence."""
    log = logging.getLogger("torch.export")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _inputs(program: Any) -> list[Any]:
    """What stands for the user's inputs while the program is read: each has a shape and a dtype."""
    names = set(program.graph_signature.user_inputs)
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _cut(found: Any, n: int) -> Any:
    if isinstance(found, dict):
        return {name: value[:n] for name, value in found.items()}
    return tuple(value[:n] for value in found) if isinstance(found, tuple | list) else found[:n]


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return torch.cat(parts)


def _inspect(path: Path) -> None:
    """Raise InputError where PyTorch would run what the file holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        written = {name: json.loads(data) for name, data in parts.items() if name.endswith(".json")}
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise InputError(
            f"{path} was expected to be an archive of torch.export; it cannot be read ({type(error).__name__}). "
            "It may be cut short: write it again with torch.export.save."
        ) from error
    if "models/model.json" not in written:
        raise InputError(
            f"{path} holds no program of this generation of torch.export (a later or compiled one perhaps). Write it "
            "again with torch.export.save of PyTorch 2.8 or newer, or name it as module:object."
        )
    why = next(_dangers(parts, written), None)
    if why is not None:
        raise InputError(
            f"{path} holds {why}, which PyTorch would run when it reads the file, and is not read. "
            "Load it yourself, if you trust it, and name its .module() as module:object."
        )


def _dangers(parts: dict[str, bytes], written: dict[str, Any]) -> Iterator[str]:
    for name, data in parts.items():
        if name.startswith(("data/weights/", "data/constants/")) and name.endswith(".pt"):
            yield f"a pickle ({name})"
        if name.startswith("data/sample_inputs/") and data and not _plain(data):
            yield f"a pickle ({name})"
    for name, held in written.items():
        for key, value in _entries(held):
            if key == "use_pickle" and value:
                yield f"a pickle ({name})"
            if key == "path_name" and not re.fullmatch(r"(weight|tensor)_\d+", str(value)):
                yield f"an object of Python ({value})"
            if key in ("operator", "as_operator") and isinstance(value, str) and not _known(value):
                yield f"the operator {value!r}"
            if key == "expr_str" and not _arithmetic(value):
                yield f"the expression {str(value)[:60]!r}"
            if key in ("in_spec", "out_spec", "treespec") and not _plain_containers(value):
                yield "inputs or outputs in containers of its own"


def _entries(held: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value anywhere in what a JSON file holds; the target of a node is called its operator."""
    if isinstance(held, dict):
        for key, value in held.items():
            yield "operator" if key == "target" and "inputs" in held else key, value
            yield from _entries(value)
    elif isinstance(held, list):
        for value in held:
            yield from _entries(value)


def _known(operator: str) -> bool:
    """Whether a node may call this. PyTorch looks up names that begin so; others stay words, and fail."""
    if not operator.startswith(("torch", "_operator", "math", "#")):
        return True
    return bool(OPERATOR.fullmatch(operator)) and not TOUCHES_FILES.search(operator)


def _arithmetic(expression: Any) -> bool:
    """Whether a size is plain arithmetic of its symbols."""
    text = re.sub(r"'([suz]\d+)'", r"\1", str(expression))
    plain = bool(re.fullmatch(r"[\w\s+\-*/(),=<>.%]*", text)) and not re.search(r"[^\W\d]\w*\s*\.|\.\s*[^\W\d]", text)
    return plain and all(name in ARITHMETIC or SYMBOL.fullmatch(name) for name in NAME.findall(text))


def _plain_containers(spec: Any) -> bool:
    if not isinstance(spec, str) or not spec:
        return not spec
    try:
        types = [value for key, value in _entries(json.loads(spec)) if key == "type"]
    except ValueError:
        return False
    return all(found in CONTAINERS for found in types)


def _plain(data: bytes) -> bool:
    """Whether torch.load reads this as tensors and plain containers only."""
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception:  # whatever it is, PyTorch would try again without that guard
        return False
    return True
