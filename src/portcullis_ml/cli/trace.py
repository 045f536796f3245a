"""`portcullis watermark trace`: whose copy a suspect is, where every licensee or client has marks of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portcullis_ml.cli import suspects as s
from portcullis_ml.cli.grouped import grouped

if TYPE_CHECKING:
    from portcullis_ml.core.oracle import MeteredOracle
    from portcullis_ml.core.types import Model
    from portcullis_ml.court.commitment import Mark
    from portcullis_ml.court.naming import Source
    from portcullis_ml.court.tracing import Trace

__all__ = ["trace"]


@grouped
def trace(
    marks: Annotated[
        list[Path],
        typer.Argument(metavar="MARKS...", help="Marks, or folders of marks; each is named by its folder's name."),
    ],
    asked: s.Asked,
    pairs: Annotated[
        int, typer.Option(min=1, help="How many pairs of each mark to ask; this suspect uses them up.")
    ] = 30,
    innocent: s.InnocentOption = None,
    licensed: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The models as they were given away, each by the name of its mark."),
    ] = None,
    classes: s.ClassOrderOption = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where answers and the result are kept.")] = Path(
        "portcullis-trace"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Name the licensee or client whose copy leaked, or several, or nobody; with the chance of naming a wrong one.

    \b
    portcullis watermark trace marks --suspect http://127.0.0.1:9000 --authorized-by "..." --licensed licensed
    portcullis watermark trace marks --suspect copy.onnx --innocent other.onnx --json

    Exit codes: 0 one or several are named, 1 nobody, 3 inconclusive, 5 a mark does not hold, 2 anything else. Answers
    are kept: the same command goes on after an interruption, and asks nothing twice. For a claim that others can check,
    show fresh pairs of the mark that is named: `portcullis watermark bundle`.
    """
    from portcullis_ml.core.errors import ProofError
    from portcullis_ml.court.tracing import check_apart

    (out / "trace.json").unlink(missing_ok=True)  # if this run breaks off, nobody takes an older result for its own
    try:
        found = _marks(marks)
        check_apart(found)
        for mark in found.values():
            mark.key()  # every link of every mark, before any pair is used up
        result = _traced(asked.keeping(out), found, pairs, innocent or [], licensed, classes)
    except ProofError as error:
        typer.echo(json.dumps({"verdict": "false", "sentence": str(error)}) if as_json else f"FALSE. {error}")
        raise typer.Exit(5) from error
    _tell({**result.to_json(), "suspect_asked": asked.suspect, "authorized_by": asked.authorized_by}, out, as_json)
    raise typer.Exit(result.code)


def _marks(paths: Sequence[Path]) -> dict[str, Mark]:
    """The marks at these places and in these folders, by the names of their folders, in their order."""
    from portcullis_ml.core.errors import InputError
    from portcullis_ml.court.commitment import Mark

    found: dict[str, Mark] = {}
    for path in paths:
        inside = sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
        places = [p for p in (path, *inside) if (p / "commitment.json").is_file()]
        if not places:
            raise InputError(f"A mark, or a folder of marks, was expected at {path}; there is none. Mint one first.")
        for place in places:
            name = place.resolve().name
            if name in found:
                raise InputError(
                    f"Two marks are named {name}, {found[name].path} and {place}: nobody could be named by it. Rename "
                    "one of the folders, or leave it out."
                )
            found[name] = Mark(place)
    return dict(sorted(found.items()))


def _traced(
    asked: s.Suspect,
    marks: dict[str, Mark],
    pairs: int,
    innocent: Sequence[str],
    licensed: Path | None,
    classes: str | None,
) -> Trace:
    """Load whom to compare with, then use pairs up, then ask."""
    from portcullis_ml.bench.endpoint import is_address
    from portcullis_ml.cli.marking import now
    from portcullis_ml.core.errors import NotApplicable, Unreachable
    from portcullis_ml.court.tracing import source_of, trace, unfit
    from portcullis_ml.court.verdict import order_of

    published = {name: mark.published() for name, mark in marks.items()}
    first = next(iter(published.values()))
    known: dict[str, Any] = {"input_shape": first.vk.input_shape, "n_classes": first.vk.n_classes}
    known["features"] = first.interface.features
    given = {} if licensed is None else _licensed(licensed, list(marks), known)
    _, models = s.innocents_of(innocent, first.interface)
    order = order_of(first.classes, None if classes is None else [word.strip() for word in classes.split(",")])
    level = min(of.scheme.level for of in published.values())
    try:
        if not is_address(asked.address):
            s.in_hand(asked.address, first.interface)  # a file that is no suspect uses no pairs up
    except NotApplicable as error:
        return unfit(list(marks), error, level)
    sources = [source_of(name, mark, asked.address, pairs, at=now()) for name, mark in marks.items()]
    with ExitStack() as held, s.said_how_it_goes_on():

        def oracle(source: Source) -> MeteredOracle:
            of = published[source.name]
            return asked.oracle(held, f"trace {of.sha256}", of.interface, rows=len(source.x))

        try:
            return trace(sources, oracle, innocent=models, licensed=given, order=order)
        except Unreachable as error:
            if error.status not in s.UNFIT:
                raise
            return unfit(list(marks), error, level)


def _licensed(folder: Path, names: list[str], known: dict[str, Any]) -> dict[str, Model]:
    """The models in a folder whose names are those of marks, with or without an ending."""
    from portcullis_ml.core.errors import InputError
    from portcullis_ml.models.load import load_model

    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    found = {name: next((p for p in inside if name in (p.name, p.stem)), None) for name in names}
    absent = [name for name, path in found.items() if path is None]
    if absent:
        raise InputError(f"A model for each mark was expected in {folder}; there is none of {', '.join(absent[:4])}.")
    return {name: load_model(str(path), **known) for name, path in found.items()}


def _tell(found: dict[str, Any], out: Path, as_json: bool) -> None:
    """Keep what was found, and say it."""
    text = json.dumps(found, indent=2)
    out.mkdir(parents=True, exist_ok=True)
    (out / "trace.json").write_text(text + "\n")
    if as_json:
        typer.echo(text)
        return
    typer.echo(f"{found['verdict'].upper()}. {found['sentence']}")
    for row in sorted(found["sources"], key=lambda row: (row["adjusted"], row["p_value"])):
        taken = f"where {row['null_chance']:.0%} is what a model that owes nothing is taken to give"
        typer.echo(f"{row['name']}: {row['matches']} of {row['n']}, {taken}; p = {row['adjusted']:.2g} after Holm")
    wrong = found["wrong_names"]
    typer.echo(f"A wrong name has a chance of at most {wrong['by_theory_at_most']:g}, whatever the number of keys.")
    for what, words in (
        ("innocents", "innocent models"),
        ("cross_pairs", "pairs of a licensee's model and another key"),
    ):
        if rate := wrong.get(what):
            typer.echo(f"Named wrongly: {rate['named']} of {rate['tried']} {words} (at most {rate['at_most']:.1%}).")
    typer.echo(f"Kept in {out / 'trace.json'}. For a court: portcullis watermark bundle MARK, with fresh pairs.")
