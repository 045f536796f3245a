"""The table [model.mapping]: what a home-made JSON server takes and answers, read once and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.types import Interface
from portcullis_ml.gateway.protocols.json_paths import Place, apart, place
from portcullis_ml.gateway.protocols.wire import ModelSpec

__all__ = ["DEFAULTS", "MappingTable", "mapping_table", "suits", "table_of"]

DEFAULTS: dict[str, Any] = {
    "path": "/predict", "rows": "$.inputs", "rows_as": "list", "batch": True, "extras": [], "scores": "$.scores",
    "scores_as": "list", "pair": ["label", "score"], "best": 0, "labels": "$.labels", "explanation": "$.explanation",
}  # fmt: skip
CHOICES = {"rows_as": ("list", "object"), "scores_as": ("list", "object", "number", "top", "pairs")}
OUTPUTS = ("scores", "labels", "explanation")
MOST_EXTRAS = 32


@dataclass(frozen=True)
class MappingTable:
    """Where everything stands in the questions and answers of one server."""

    path: str
    rows: Place
    rows_as: Literal["list", "object"]
    batch: bool  # whether a question holds a list of rows; if not, it holds one row, and its answer has no list around
    extras: tuple[Place, ...]  # keys of a question that are passed on
    scores: Place | None
    scores_as: Literal["list", "object", "number", "top", "pairs"]
    pair: tuple[str, str]  # what the class and the score of a pair are called
    best: int  # how many pairs a row are answered; 0 means one for each class
    labels: Place | None
    explanation: Place | None
    given: frozenset[str]  # the keys that the table names

    def extras_within_row(self) -> tuple[Place, ...]:
        """The extras that stand among the columns of a row."""
        n = len(self.rows.keys)
        return tuple(extra for extra in self.extras if extra.keys[:n] == self.rows.keys)


def table_of(served: ModelSpec) -> MappingTable:
    """The table of a model, read once."""
    found: MappingTable | None = served.made.get("mapping")
    if found is None:
        found = served.made["mapping"] = mapping_table(served.options)
    return found


def mapping_table(options: Mapping[str, Any]) -> MappingTable:
    """The table as a policy writes it, read. Raises ParameterError, whose parameter is the key that is wrong."""
    said = {**DEFAULTS, **options}
    for key, words in CHOICES.items():
        if said[key] not in words:
            raise ParameterError(key, f"one of {', '.join(words)}", said[key])
    if type(said["batch"]) is not bool:
        raise ParameterError("batch", "true, or false where a question holds one row", said["batch"])
    if said["scores_as"] == "pairs":  # which name the classes
        said["labels"] = options.get("labels", "")
        if said["labels"]:
            raise ParameterError("labels", '"", as the pairs name the classes', said["labels"])
    outputs = _outputs(said, options)
    if said["scores_as"] == "top" and outputs["labels"] is None:
        raise ParameterError("scores_as", 'one of list, object and number where labels = ""', "top")
    rows = place(_text("rows", said["rows"]), "rows")
    found = MappingTable(
        path=_text("path", said["path"]),
        rows=rows,
        rows_as=said["rows_as"],
        batch=said["batch"],
        extras=_extras(said["extras"]),
        scores_as=said["scores_as"],
        pair=_pair(said["pair"]),
        best=_best(said),
        given=frozenset(options),
        **outputs,
    )
    _extras_beside_rows(found)
    return found


def suits(table: MappingTable, interface: Interface) -> None:
    """Refuse a table that this model cannot be asked with. Raises ParameterError as `mapping_table` does."""
    names = [f.name for f in interface.features or ()]
    if table.rows_as == "object" and not names:
        raise ParameterError("rows_as", '"list" where [model] features does not name the columns', "object")
    for extra in table.extras_within_row():
        if extra.keys[len(table.rows.keys)] in names:
            raise ParameterError("extras", "paths of other keys than the model's columns", str(extra))
    if interface.explains and table.explanation is None:
        raise ParameterError("explanation", "a place of its own where the model explains its answers", "")
    n = interface.n_classes
    if table.scores_as == "number" and n > 2:
        raise ParameterError("scores_as", f"one of list, object, top and pairs for {n} classes", "number")
    if table.scores_as == "number" and interface.outputs > 1:
        raise ParameterError("scores_as", f"list for a regression of {interface.outputs} outputs", "number")
    if table.scores_as in ("object", "top", "pairs") and not n:
        raise ParameterError("scores_as", "list or number for a regression", table.scores_as)


def _pair(names: Any) -> tuple[str, str]:
    if not isinstance(names, list | tuple) or len(names) != 2 or not all(isinstance(n, str) and n for n in names):
        raise ParameterError("pair", 'two keys such as ["label", "score"]', names)
    if names[0] == names[1]:
        raise ParameterError("pair", "two different keys", names)
    return names[0], names[1]


def _best(said: Mapping[str, Any]) -> int:
    if type(said["best"]) is not int or said["best"] < 0:
        raise ParameterError("best", "how many pairs a row are answered, or 0 for one for each class", said["best"])
    if said["best"] and said["scores_as"] != "pairs":
        raise ParameterError("best", '0 where scores_as is not "pairs"', said["best"])
    return int(said["best"])


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ParameterError(key, "text", value)
    return value


def _outputs(said: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Place | None]:
    """Where each part of the answer stands, no two in one place. Where explanations would stand unless given, but
    something else does, there is no place for them."""
    found = {key: _output(key, said[key]) for key in OUTPUTS}
    if found["scores"] is None and found["labels"] is None:
        raise ParameterError("labels", "a place where the answer has no scores", "")
    for a, b in combinations(OUTPUTS, 2):
        left, right = found[a], found[b]
        if left is None or right is None or apart(left, right):
            continue
        if b == "explanation" and b not in options:
            found[b] = None
            continue
        wrong, other = (b, a) if b in options else (a, b)
        none = f'; {other} = "" says that there are none' if other == "labels" else ""
        raise ParameterError(wrong, f"another place than that of {other}{none}", said[wrong])
    return found


def _output(key: str, path: Any) -> Place | None:
    return place(path, key, lists=True) if _text(key, path) else None


def _extras(paths: Any) -> tuple[Place, ...]:
    if not isinstance(paths, list | tuple) or not all(isinstance(p, str) for p in paths):
        raise ParameterError("extras", 'a list of paths such as "$.lang"', paths)
    if len(paths) > MOST_EXTRAS:
        raise ParameterError("extras", f"at most {MOST_EXTRAS} paths", len(paths))
    return tuple(place(path, "extras") for path in paths)


def _extras_beside_rows(table: MappingTable) -> None:
    """Refuse extras within one another, and within rows, which may hold some where there is one row with names."""
    for a, b in combinations(table.extras, 2):
        if not apart(a, b):
            raise ParameterError("extras", "paths of which none lies within another", f"{a}, {b}")
    for extra in table.extras:
        within = extra.keys[: len(table.rows.keys)] == table.rows.keys and extra.keys != table.rows.keys
        one_object = table.rows_as == "object" and not table.batch
        if not apart(extra, table.rows) and not (within and one_object):
            raise ParameterError("extras", f"paths beside the rows at {table.rows}", str(extra))
