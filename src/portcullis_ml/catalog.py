"""Names for units: the front door of every wing, and the words in which people write a unit with its settings.

A `Catalog` maps names to "module:Class" and loads a class when it is first asked for, so that listing imports nothing.
"rounding", "rounding(decimals=2)" and "watch(detector=prada(window=20), then=block)" are such words.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from portcullis_ml.core.artifacts import WRITTEN, Artifact
from portcullis_ml.core.errors import InputError, MissingExtra, ParameterError

__all__ = ["FACTS", "Catalog", "Default", "absent", "identity", "resolve", "split_outside"]

OPTIONAL = ("onnx", "onnxruntime", "pandas", "safetensors", "skops", "torch")  # what the extra `audit` installs
FORMER = "portcullis."  # how the names of our modules began until 0.2; it stands in older records and policies
WORDS = ("str", "Literal")  # how the type of a setting begins whose value is a word
SHOWN = 6  # names offered at most where none is near
NESTED = ("detectors", "defenses", "extraction", "recipes")  # the wings in which a setting that is a unit is looked up


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


FACTS = {  # what may hold of an audit; "no pool" says that "pool" does not
    "explains": "the API explains its answers",
    "flat": "rows are lists of numbers or categories, not pictures",
    "numbers": "the victim answers numbers and no classes",
    "outside": "the owner gave outside rows",
    "own": "a victim was given; the one that is trained otherwise is to be audited within three minutes",
    "pool": "the thief has natural rows",
    "probs": "all probabilities are shown",
    "quick": "it is a quick look",
    "scores": "at least one score is shown",
    "text": "rows are texts",
    "torch": "PyTorch is installed",
    "train": "the victim's own rows are known",
    "tree": "the victim is a decision tree",
    "trees": "the victim is an ensemble of trees",
}


@dataclass(frozen=True)
class Default:
    """A unit that an audit tries where nobody names any.

    word   the unit as people write it
    kind   what it stands for; of each kind the first is tried whose conditions hold
    where  its conditions: words of `FACTS`, or "no" before one
    """

    word: str
    kind: str
    where: tuple[str, ...] = ()


class Catalog(Mapping[str, str]):
    """The front door of a wing: sorted names, each standing for "module:Class".

    `presets` are further names for `build` only, each standing for an entry with settings: "jacobian(k=7)".
    `defaults` are what an audit tries by itself.
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, str],
        presets: Mapping[str, str] | None = None,
        defaults: Sequence[Default] = (),
    ) -> None:
        self.kind = kind
        self.presets = dict(presets or {})
        self.defaults = tuple(defaults)
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> str:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def default_words(self, facts: Mapping[str, bool]) -> tuple[str, ...]:
        """What an audit tries of which these of `FACTS` hold: one of every kind that applies, in the table's order."""
        holding = {name if holds else f"no {name}" for name, holds in facts.items()}
        chosen: dict[str, str] = {}
        for default in self.defaults:
            if holding.issuperset(default.where):
                chosen.setdefault(default.kind, default.word)
        return tuple(chosen.values())

    def load(self, name: str) -> Any:
        """The class of that name, or of "my_package.module:Class". Offers the nearest names on a miss."""
        if name.startswith(FORMER):
            name = name.replace(FORMER, "portcullis_ml.", 1)
        if name in self._entries:
            return resolve(self._entries[name])
        if ":" in name:
            return resolve(name)
        known = [*self._entries, *self.presets]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)[:SHOWN]
        raise ParameterError(
            f"{self.kind} name",
            f"one of those in `portcullis list {self.kind}`",
            name,
            f"Did you mean {' or '.join(near)}?" if near else "",
        )

    def build(self, spec: str | Mapping[str, Any], *, folder: Path = Path()) -> Any:
        """A unit from its description, or from a word with settings. Artifacts' relative paths start from `folder`.

        Settings beside a preset's name come before its own.
        """
        if isinstance(spec, str):
            spec = _parse(spec)
        if spec["unit"] in self.presets:
            preset = _parse(self.presets[spec["unit"]])
            spec = {**preset, **spec, "unit": preset["unit"]}
        unit = self.load(spec["unit"])
        types = {f.name: str(f.type) for f in fields(unit)} if is_dataclass(unit) else {}
        given = {name: value for name, value in spec.items() if name != "unit"}
        settings = {name: _setting(value, types.get(name, ""), folder) for name, value in given.items()}
        try:
            return unit(**settings)
        except TypeError as error:
            own = [f for f in fields(unit) if f.init] if is_dataclass(unit) else []
            required = [f for f in own if f.default is MISSING and f.default_factory is MISSING and f.name not in spec]
            if required and set(settings) <= {f.name for f in own}:
                name, recipe = required[0].name, required[0].metadata.get("recipe")
                remedy = f"In an audit: {spec['unit']}({name}={recipe})." if recipe else ""
                raise ParameterError(f"{spec['unit']}.{name}", "given, as it has no default", None, remedy) from error
            known = ", ".join(f.name for f in own) or "?"
            raise ParameterError(spec["unit"], f"settings among: {known or 'none'}", sorted(settings)) from error


def _setting(value: Any, kind: str, folder: Path) -> Any:
    """A setting's value from how it is written; `kind` is the setting's type."""
    if kind.startswith(WORDS) and isinstance(value, Mapping) and value.keys() == {"unit"}:
        return value["unit"]  # a word may stand without quotes: strategy=adaptive
    if kind.startswith("Artifact") and isinstance(value, str):
        return Artifact.at(value, folder)
    if isinstance(value, list):
        return tuple(_setting(v, "", folder) for v in value)
    if not (isinstance(value, Mapping) and "unit" in value):
        return value
    for wing in NESTED:
        catalog: Catalog = resolve(f"portcullis_ml.{wing}:CATALOG")
        if value["unit"] in catalog:
            return catalog.build(value, folder=folder)
    return catalog.build(value, folder=folder)


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
        raise ParameterError(
            "a unit", "written name or name(setting=value, ...), values with a : or / in quotes", text
        ) from error


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        return {"unit": node.func.id, **{str(k.arg): _literal(k.value) for k in node.keywords}}
    if isinstance(node, ast.Name):
        return {"unit": node.id}
    if isinstance(node, ast.Tuple | ast.List):
        return [_literal(item) for item in node.elts]
    return ast.literal_eval(node)


def identity(description: Any) -> Any:
    """A description with its artifacts' hashes instead of their paths: the same on every machine."""
    if isinstance(description, str):
        found = WRITTEN.fullmatch(description)
        return f"sha256:{found['sha256']}" if found else description
    if isinstance(description, Mapping):
        return {name: identity(value) for name, value in description.items()}
    if isinstance(description, list | tuple):
        return [identity(value) for value in description]
    return description


def split_outside(text: str, separator: str) -> list[str]:
    """Split at separators that stand outside brackets: "a(x=(1, 2)), b" at commas gives two parts."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]
