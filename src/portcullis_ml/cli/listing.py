"""`portcullis list`: what there is, what each thing needs, and what is missing here."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["WINGS", "entries", "listing"]

WINGS = {
    "extraction": "portcullis_ml.extraction:CATALOG",
    "defenses": "portcullis_ml.defenses:CATALOG",
    "detectors": "portcullis_ml.detectors:CATALOG",
    "recipes": "portcullis_ml.recipes:CATALOG",
    "hardening": "portcullis_ml.hardening:CATALOG",
    "ownership": "portcullis_ml.ownership:CATALOG",
    "privacy": "portcullis_ml.privacy:CATALOG",
    "sequences": "portcullis_ml.sequences:CATALOG",
    "hidden_data": "portcullis_ml.hidden_data:CATALOG",
    "explainers": "portcullis_ml.models.explain:EXPLAINERS",
    "learners": "portcullis_ml.models.learners:LEARNERS",
    "text_learners": "portcullis_ml.models.learners:TEXT_LEARNERS",
    "networks": "portcullis_ml.models.networks:NETWORKS",
    "bench": "portcullis_ml.bench.protocols:PROTOCOLS",
}


TRAINED = ("recipes", "hardening")


def listing(
    wing: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(WINGS)}. All of them if not given.")] = None,
    answers: Annotated[
        str | None, typer.Option(help="Only attacks that make do with these answers: labels, top_k or probs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What there is, and what each thing needs.

    Example:  portcullis list extraction --answers labels
    """
    from portcullis_ml.core.errors import ParameterError
    from portcullis_ml.core.types import Reveals

    if wing is not None and wing not in WINGS:
        _unknown(wing)
    if answers is not None and wing not in (None, "extraction"):
        raise ParameterError("--answers", "given with extraction, as it filters attacks", answers)
    chosen = ["extraction"] if answers is not None else [wing] if wing else list(WINGS)
    found = {w: entries(w) for w in chosen}
    if answers is not None:
        shown = Reveals.parse(answers)
        found["extraction"] = [
            e for e in found["extraction"] if "answers" in e and Reveals.parse(e["answers"]) <= shown
        ]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for name, rows in found.items():
        if rows or wing:
            _print(name, rows)


def _unknown(wing: str) -> None:
    import difflib

    from portcullis_ml.core.errors import ParameterError

    near = difflib.get_close_matches(wing, WINGS, n=2, cutoff=0.4) or list(WINGS)
    raise ParameterError("what to list", f"one of {', '.join(WINGS)}", wing, f"Did you mean {' or '.join(near)}?")


def entries(wing: str) -> list[dict[str, Any]]:
    """One dict for every name: what it is, what it needs; presets after the attack that they are settings of."""
    from portcullis_ml.catalog import Catalog, resolve

    catalog: Catalog = resolve(WINGS[wing])
    found = []
    for name, path in catalog.items():
        row = _entry(wing, name, path)
        presets = [p for p, words in catalog.presets.items() if words.partition("(")[0] == name]
        ours = wing.endswith("learners")  # whose settings no paper names
        said = {p: catalog.presets[p] if ours else f"{name} with published settings" for p in presets}
        found += [row, *(row | {"name": p, "what": what} for p, what in said.items())]
    return found


def _entry(wing: str, name: str, path: str) -> dict[str, Any]:
    from portcullis_ml.catalog import resolve
    from portcullis_ml.core.errors import MissingExtra

    row: dict[str, Any] = {"name": name, "what": _sentence(path.partition(":")[0], name)}
    if wing in ("explainers", "learners", "text_learners", "networks", "bench"):
        row["what"] = "" if wing == "networks" else row["what"]
        return row
    try:
        unit = resolve(path)
    except MissingExtra as error:
        return row | {"missing": str(error)}
    if wing in ("extraction", "privacy"):
        row |= _needs(unit.needs)
    elif wing in TRAINED:
        wanted = (("outside rows", unit.needs_outside), ("labels", unit.needs_labels))
        row["needs"] = [words for words, needed in wanted if needed]
    elif wing == "defenses":
        keeps = getattr(unit, "keeps_labels", False)
        row["keeps_labels"] = keeps if isinstance(keeps, bool) else "as its consequence does"
    return row


def _needs(needs: Any) -> dict[str, Any]:
    """What an attack cannot do without, in words."""
    things = ("pool", "seeds", "learner", "missing", "features", "explains", "model")
    wanted = [thing for thing in things if getattr(needs, thing)]
    wanted += [f"a guard with {' or '.join(needs.defense)}"] if needs.defense else []
    return {"answers": needs.answers.word, "task": needs.task, "needs": wanted}


def _sentence(module: str, name: str) -> str:
    """The first sentence of a module's docstring, read without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def _print(wing: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=wing, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("name", no_wrap=True, style="cyan")
    attacks = wing in ("extraction", "privacy")
    if attacks:
        table.add_column("answers", no_wrap=True)
    if attacks or wing in TRAINED:
        table.add_column("needs")
    if wing == "defenses":
        table.add_column("keeps labels")
    table.add_column("what")
    for row in rows:
        cells = [row["name"]]
        if attacks:
            cells.append(row.get("answers", "?"))
        if attacks or wing in TRAINED:
            cells.append(", ".join(row.get("needs", [])) or "nothing else")
        if wing == "defenses":
            keeps = row.get("keeps_labels", "?")
            cells.append({True: "yes", False: "no"}.get(keeps, str(keeps)))
        table.add_row(*cells, row.get("missing") or row["what"])
    console = Console()
    console.print(table)
    console.print()
