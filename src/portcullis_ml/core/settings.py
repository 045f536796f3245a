"""Settings are frozen data: checked once, printed as JSON, built again from JSON or from a word.

A unit (an attack, a defense, a detector) is a frozen keyword-only dataclass whose fields are its
settings. `check` validates one of them in `__post_init__`; `describe` turns a unit into a dict of
plain values and `Catalog.build` turns it back. A `Catalog` maps names to "module:Class" and loads
a class when it is first asked for, so that listing imports nothing.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from portcullis_ml.core.errors import InputError, MissingExtra, ParameterError

__all__ = ["Catalog", "absent", "check", "describe", "resolve"]

OPTIONAL = ("onnx", "onnxruntime", "pandas", "safetensors", "skops", "torch")  # what the extra `audit` installs

FORMER = "portcullis."  # how the names of our modules began until 0.2; it stands in older records and policies
WORDS = ("str", "Literal")  # how the type of a setting begins whose value is a word


def check(unit: object, name: str, expected: str, test: Callable[[Any], bool]) -> None:
    """Raise ParameterError unless `test(value of that setting)` holds. A value of the wrong type fails too."""
    value = getattr(unit, name)
    try:
        good = test(value) and not (isinstance(value, float) and math.isnan(value))
    except (TypeError, ValueError, AttributeError):
        good = False
    if not good:
        raise ParameterError(f"{type(unit).__name__}.{name}", expected, value)


def describe(unit: object) -> dict[str, Any]:
    """{"unit": catalog name or "module:Class", setting: value, ...}, JSON throughout; nested units too."""
    if not is_dataclass(unit) or isinstance(unit, type):
        raise ParameterError("describe(unit)", "a unit: an instance of a settings dataclass", unit)
    name = getattr(type(unit), "name", None) or f"{type(unit).__module__}:{type(unit).__qualname__}"
    return {"unit": name, **{f.name: _plain(getattr(unit, f.name)) for f in fields(unit)}}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name.lower()
    if is_dataclass(value) and not isinstance(value, type):
        return describe(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ParameterError("a setting", "a number, text, a list, a mapping or another unit", value)


def resolve(path: str) -> Any:
    """The object at "module:name". Says which extra to install where a known optional package is absent."""
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise absent(path, error) from error
    except AttributeError as error:
        raise InputError(f"{path!r} was expected to be module:name; {module} has no {attribute!r}.") from error
    return found


def absent(path: str, error: ModuleNotFoundError) -> MissingExtra | InputError:
    """What to raise where the code at "module:name" imports a module that is not installed."""
    package = (error.name or "").partition(".")[0]
    if package in OPTIONAL:
        return MissingExtra(path, package)
    return InputError(f"{path!r} was expected to be module:name; there is no module {error.name!r}.")


class Catalog(Mapping[str, str]):
    """The front door of a wing: sorted names, each standing for "module:Class"."""

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> str:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, name: str) -> Any:
        """The class of that name, or of "my_package.module:Class". Offers the nearest names on a miss."""
        if name.startswith(FORMER):
            name = name.replace(FORMER, "portcullis_ml.", 1)
        if name in self._entries:
            return resolve(self._entries[name])
        if ":" in name:
            return resolve(name)
        near = difflib.get_close_matches(name, self._entries, n=3, cutoff=0.4) or sorted(self._entries)
        raise ParameterError(
            f"{self.kind} name",
            f"one of those in `portcullis list {self.kind}`",
            name,
            f"Did you mean {' or '.join(near)}?",
        )

    def build(self, spec: str | Mapping[str, Any]) -> Any:
        """A unit from its description, or from a word with settings: "rounding", "rounding(decimals=2)",
        "watch(detector=prada(delta=5), then=block)"."""
        if isinstance(spec, str):
            spec = _parse(spec)
        unit = self.load(spec["unit"])
        words = {f.name for f in fields(unit) if str(f.type).startswith(WORDS)} if is_dataclass(unit) else set()
        settings = {k: _word(v) if k in words else _build_nested(v) for k, v in spec.items() if k != "unit"}
        try:
            return unit(**settings)
        except TypeError as error:
            known = ", ".join(f.name for f in fields(unit)) if is_dataclass(unit) else "?"
            raise ParameterError(spec["unit"], f"settings among: {known or 'none'}", sorted(settings)) from error


def _word(value: Any) -> Any:
    """A setting that is a word may stand without quotes: strategy=adaptive."""
    return value["unit"] if isinstance(value, Mapping) and value.keys() == {"unit"} else value


def _build_nested(value: Any) -> Any:
    """A setting that is itself a unit is named in one of the wings' catalogs; the first that knows it builds it."""
    if isinstance(value, list):
        return tuple(_build_nested(v) for v in value)
    if not (isinstance(value, Mapping) and "unit" in value):
        return value
    for wing in ("detectors", "defenses", "extraction"):
        catalog: Catalog = resolve(f"portcullis_ml.{wing}:CATALOG")
        if value["unit"] in catalog:
            return catalog.build(value)
    return catalog.build(value)


def _parse(text: str) -> dict[str, Any]:
    """ "name", "module:Class" or either with (setting=value, ...); values are Python literals, words or units."""
    head, bracket, rest = text.partition("(")
    if not bracket:
        return {"unit": text.strip()}
    try:
        call = ast.parse(f"unit({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError(text)
        return {"unit": head.strip(), **{str(k.arg): _literal(k.value) for k in call.keywords}}
    except (SyntaxError, ValueError) as error:
        raise ParameterError("a unit", "written name or name(setting=value, ...)", text) from error


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        return {"unit": node.func.id, **{str(k.arg): _literal(k.value) for k in node.keywords}}
    if isinstance(node, ast.Name):
        return {"unit": node.id}
    if isinstance(node, ast.Tuple | ast.List):
        return [_literal(item) for item in node.elts]
    return ast.literal_eval(node)
