"""`portcullis privacy --text`: what a model of text gives away of the text that it was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["measure_text", "plant_canaries", "refuse_mixed"]

PANEL = "A model of text"
# Options of `portcullis privacy` that belong to one of its two kinds of model.
ROWS_ONLY = (
    "victim", "data", "members", "nonmembers", "pool", "target", "schema", "softmax", "classes", "output_name",
    "answers", "k", "decimals", "through", "on", "shadow_models", "rows", "fpr",
)  # fmt: skip
TEXT_ONLY = ("model", "plant", "canaries", "unseen", "small", "medium", "repetitions", "each", "match")

TextOption = Annotated[
    str | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Measure a model of text: the .txt that it was trained on, documents between empty lines.",
        rich_help_panel=PANEL,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="FILE|FOLDER|MODULE:OBJECT",
        help="The model: .safetensors of Portcullis, a folder of transformers, or an object with log_probs and a "
        "tokenizer. None trains one on the text with canaries planted in it.",
        rich_help_panel=PANEL,
    ),
]
PlantOption = Annotated[
    Path | None,
    typer.Option(
        "--plant",
        metavar="FILE",
        help="Before you train: write the text with canaries in it to this file, the canaries beside it, and stop.",
        rich_help_panel=PANEL,
    ),
]
CanariesOption = Annotated[
    str | None,
    typer.Option(
        "--canaries",
        metavar="FILE",
        help="The canaries that --plant wrote; those beside the text if not given.",
        rich_help_panel=PANEL,
    ),
]
UnseenOption = Annotated[
    str | None,
    typer.Option(
        "--unseen",
        metavar="FILE",
        help="Text of the same kind that was not trained on: for prompts, reference models and a control.",
        rich_help_panel=PANEL,
    ),
]
SmallOption = Annotated[
    str | None,
    typer.Option(
        "--small", metavar="MODEL", help="A smaller reference; trained on --unseen if not given.", rich_help_panel=PANEL
    ),
]
MediumOption = Annotated[
    str | None,
    typer.Option("--medium", metavar="MODEL", help="A reference between the two.", rich_help_panel=PANEL),
]
RepetitionsOption = Annotated[
    str,
    typer.Option(
        "--repetitions", metavar="N,N,...", help="How often canaries stand in the text.", rich_help_panel=PANEL
    ),
]
EachOption = Annotated[
    int,
    typer.Option(
        "--each", min=1, help="Canaries for every such number; as many are never planted.", rich_help_panel=PANEL
    ),
]
MatchOption = Annotated[
    int,
    typer.Option(
        "--match", min=1, help="Characters of a sample that must stand in the text to count.", rich_help_panel=PANEL
    ),
]


def refuse_mixed(context: typer.Context) -> None:
    """InputError where options of a model of rows and of a model of text were given together."""
    from portcullis_ml.core.errors import InputError

    given = [name for name in context.params if str(context.get_parameter_source(name)).endswith("COMMANDLINE")]
    of_text = context.params["text"] is not None
    wrong = [name for name in given if name in (ROWS_ONLY if of_text else TEXT_ONLY)]
    if wrong:
        option = "--" + wrong[0].replace("_", "-")
        raise InputError(
            f"{option} belongs to a model of rows, and --text measures a model of text. Leave one of them out."
            if of_text
            else f"{option} belongs to a model of text. Name the text that it was trained on with --text."
        )


def numbers(text: str) -> tuple[int, ...]:
    """ "1,2,8" as numbers."""
    from portcullis_ml.core.errors import ParameterError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ParameterError("--repetitions", "whole numbers with commas between them", text) from error


def options_of(given: Mapping[str, Any]) -> Any:
    """The options of a run from the command's parameters, by name."""
    from portcullis_ml.bench.run_text import TextOptions
    from portcullis_ml.bench.text_scene import TextSource
    from portcullis_ml.catalog import split_outside
    from portcullis_ml.cli.options import command_line

    source = TextSource(
        text=given["text"], folder=given["data_folder"], model=given["model"], unseen=given["unseen"],
        canaries=given["canaries"], learner=given["learner"] or "gru", repetitions=numbers(given["repetitions"]),
        references={name: given[name] for name in ("small", "medium") if given[name]}, each=given["each"],
        seed=given["seed"], device=given["device"],
    )  # fmt: skip
    return TextOptions(
        source=source, attacks=tuple(split_outside(",".join(given["attacks"] or ()), ",")), match=given["match"],
        budget=given["budget"], limited=given["fail_over"] is not None, command=command_line(),
    )  # fmt: skip


def plant_canaries(given: Mapping[str, Any]) -> None:
    """Write the text with canaries in it, and say what comes next."""
    from portcullis_ml.core.errors import InputError

    if given["model"] or given["canaries"]:
        raise InputError("--plant comes before a model is trained; leave --model and --canaries to the run after it.")
    text, canaries, drawn, planted = options_of(given).plant(given["plant"])
    if given["as_json"]:
        typer.echo(json.dumps({"text": str(text), "canaries": str(canaries), "drawn": drawn, "planted": planted}))
        return
    typer.echo(f"{planted} canaries were planted, {drawn - planted} more were drawn and left out.")
    typer.echo(f"Train on {text}; keep {canaries}, which no model may see. Then:")
    typer.echo(f"portcullis privacy --text {text} --model YOUR_MODEL")


def measure_text(given: Mapping[str, Any]) -> None:
    """Run the attacks on a model of text, write the report, and print what was found. Exits with 3 over the limit."""
    from portcullis_ml.bench.run_text import run_text
    from portcullis_ml.cli.progress import watching
    from portcullis_ml.core.errors import InputError
    from portcullis_ml.report import write_text_report
    from portcullis_ml.report.text_findings import text_findings, worst_exposure

    options, out, limit = options_of(given), given["out"], given["fail_over"]
    with watching() as progress:
        records, meta = run_text(options, out=out, progress=progress, training=progress.training)
    report = write_text_report(records, meta, out / "report.html")
    worst = worst_exposure(records)
    failed = limit is not None and worst is not None and worst[1] > limit
    said = {"fail_over": limit, "worst": worst, "failed": failed}
    if given["as_json"]:
        typer.echo(json.dumps(_as_json(records, meta, report, said), indent=2))
    else:
        _show(records, text_findings(records, meta), meta, report, said)
    if limit is not None and worst is None:
        raise InputError("--fail-over needs planted canaries that were measured; none were. See the reasons above.")
    if failed:
        raise typer.Exit(3)


def _as_json(
    records: Sequence[Mapping[str, Any]], meta: Mapping[str, Any], report: Path, limit: Mapping[str, Any]
) -> dict[str, Any]:
    from portcullis_ml.report.text_findings import text_findings

    found = text_findings(records, meta)
    keys = ("model", "text", "documents", "characters", "unseen", "references", "match", "flags", "notes", "seconds")
    return {
        "headline": found.headline,
        "lead": found.lead,
        **limit,
        "results": [
            {
                "result_name": r["attack"],
                "id": r["id"],
                "config": r["cell"]["attack"],
                "outcome": r["outcome"],
                "reason": r["reason"],
                "queries": r["queries"],
                "measures": {name: [e["value"], e["low"], e["high"], e["n"]] for name, e in r["measures"].items()},
                **{name: value for name, value in r["notes"].items() if name != "texts"},
            }
            for r in records
        ],
        **{key: meta[key] for key in keys},
        "command": meta["command"],
        "report": str(report),
        "records": str(report.with_name("records.jsonl")),
    }


def _show(
    records: Sequence[Mapping[str, Any]], found: Any, meta: Mapping[str, Any], report: Path, limit: Mapping[str, Any]
) -> None:
    from rich.console import Console

    console = Console(soft_wrap=False)
    console.print()
    console.print(found.headline, style="bold", markup=False, highlight=False)
    console.print(found.lead, markup=False, highlight=False)
    console.print()
    for table in _tables(records):
        console.print(table)
        console.print()
    for reason in dict.fromkeys([*(r["reason"] for r in records if r["reason"]), *meta["notes"]]):
        console.print(reason, markup=False, highlight=False)
    if ids := sorted({f["id"] for f in meta["flags"]}):
        console.print(f"Flags: {', '.join(ids)}. The report says what each means.", highlight=False)
    if limit["fail_over"] is not None and limit["worst"]:
        times, bits = limit["worst"]
        sign = "above" if limit["failed"] else "not above"
        words = f"Canaries that stand {times} times have {bits:.1f} bits: {sign} the limit of {limit['fail_over']:g}."
        console.print(words, style="bold red" if limit["failed"] else "green", highlight=False)
    console.print(f"Report: {report.resolve()}", markup=False, highlight=False, soft_wrap=True)


def _tables(records: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Exposure by repetitions, and copied samples by ranking; those that there are."""
    from portcullis_ml.report.text_findings import exposures, precisions

    head, rows = precisions(records)
    tables = [
        ("Exposure, in bits", ["in the text", "canaries", "by extrapolation", "by sampling"], exposures(records)),
        ("Copied from one document, of the first 100 samples, in percent", head, rows),
    ]
    return [_table(title, head, rows) for title, head, rows in tables if rows]


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    for i, word in enumerate(head):
        table.add_column(word, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    return table
