"""The settings that the audit recommends for the gate, as TOML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from portcullis_ml.report.measured import loss_word
from portcullis_ml.report.numbers import count, percent, points
from portcullis_ml.report.results import Audit

__all__ = ["inline", "settings", "toml"]

TABLE = "guard"  # one [[guard]] for every stage, in order: the shape that the gateway reads


def settings(audit: Audit) -> str | None:
    """TOML for the best defense, with what it is worth as comments; None where none can be recommended."""
    if audit.recommended is None:
        return None
    held = audit.worst(audit.recommended)
    cells = (r["cell"] for r in audit.records if r["defense"] == audit.recommended)
    cell: Mapping[str, Any] = next(cells, {})
    stages, hardening = cell.get("defense") or (), cell.get("hardening")
    if held is None or not (stages or hardening):
        return None
    cost = audit.cost(audit.recommended)
    lines = [
        f"# {audit.recommended}",
        f"# nobody gets further behind it than someone who never asks: {percent(held.copy)}"
        if held.failed
        else f"# {held.words}, its worst attacker: {percent(held.copy)} with {count(held.queries, 'query')}",
        f"# honest clients lose {points(cost)} of {loss_word(audit)}"
        if cost
        else "# its cost to honest clients was not measured",
    ]
    if hardening:
        where = hardening.get("artifact", "?")
        lines.append(f"# the model to serve is the hardened one, in {where}: any model server takes its model.onnx")
    comments = (" ".join(line.split()) for line in lines)  # a name with a line break must not end the comment
    return "\n".join([*comments, *("\n" + toml(stage) for stage in stages)])


def toml(stage: Mapping[str, Any]) -> str:
    """One stage of a guard as a TOML table; units inside it as inline tables."""
    return "\n".join([f"[[{TABLE}]]", *(f"{_key(k)} = {inline(v)}" for k, v in stage.items() if v is not None)])


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def inline(value: Any) -> str:
    """A value as it stands behind a key."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else f"{'-' * (value < 0)}inf"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {inline(v)}" for k, v in value.items() if v is not None) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(inline(v) for v in value if v is not None) + "]"
    return json.dumps(value)
