"""`portcullis privacy`: what a model, or a stolen copy of it, gives away about the rows that it was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from portcullis_ml.cli import options as o
from portcullis_ml.cli import privacy_text as t

__all__ = ["privacy"]

META = ("victim", "data", "members", "non_members", "blind", "flags", "seconds", "command")
ATTACKER, RESULT = "Who attacks", "What comes out"


def privacy(
    context: typer.Context,
    victim: o.VictimOption = None,
    data: o.DataOption = None,
    data_folder: o.FolderOption = None,
    members: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Rows that the victim was trained on, with y.", rich_help_panel=o.WHAT),
    ] = None,
    nonmembers: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Rows from the same source that it was not trained on, with y.", rich_help_panel=o.WHAT
        ),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Further labelled rows, for shadow models and controls.", rich_help_panel=o.WHAT
        ),
    ] = None,
    target: o.TargetOption = None,
    schema: o.SchemaOption = None,
    softmax: o.SoftmaxOption = False,
    classes: o.ClassesOption = None,
    output_name: o.OutputOption = None,
    answers: o.AnswersOption = "probs",
    k: o.KOption = 1,
    decimals: o.DecimalsOption = None,
    through: Annotated[
        str,
        typer.Option(
            help='The guard that the API stands behind, "rounding(decimals=1) + top_k".', rich_help_panel=o.WHAT
        ),
    ] = "none",
    on: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="A stolen copy, attacked as well, without guard and limits.", rich_help_panel=o.WHAT
        ),
    ] = None,
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            help="Comma-separated; see `portcullis list privacy`, for text `portcullis list sequences`. All that tell "
            "members if not given.",
            rich_help_panel=ATTACKER,
        ),
    ] = None,
    budget: Annotated[
        int, typer.Option(min=1, help="Queries that each attack may pay for.", rich_help_panel=ATTACKER)
    ] = 1_000_000,
    shadow_models: Annotated[
        int, typer.Option(help="Shadow models, trained once for all attacks and kept.", rich_help_panel=ATTACKER)
    ] = 16,
    learner: Annotated[
        str | None,
        typer.Option(
            help="How shadow models are trained: see `portcullis list learners`. The victim's own way if not given. "
            "With --text, how a model is trained: `portcullis list text_learners`.",
            rich_help_panel=ATTACKER,
        ),
    ] = None,
    text: t.TextOption = None,
    model: t.ModelOption = None,
    plant: t.PlantOption = None,
    canaries: t.CanariesOption = None,
    unseen: t.UnseenOption = None,
    small: t.SmallOption = None,
    medium: t.MediumOption = None,
    repetitions: t.RepetitionsOption = "1,2,4,8",
    each: t.EachOption = 5,
    match: t.MatchOption = 50,
    rows: Annotated[int, typer.Option(min=2, help="Members, and non-members, at most.", rich_help_panel=o.HOW)] = 5_000,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.", rich_help_panel=o.HOW)] = 0,
    fail_over: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Exit with 3 if an attack on the API finds more than this share of the members at --fpr; with --text, "
            "if the canaries planted equally often have more bits of exposure than this in the mean.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    fpr: Annotated[
        float, typer.Option(help="The false positive rate that --fail-over is measured at.", rich_help_panel=RESULT)
    ] = 0.01,
    out: Annotated[
        Path, typer.Option(help="The folder for results; finished attacks are not run again.", rich_help_panel=RESULT)
    ] = Path("portcullis-privacy"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of tables.", rich_help_panel=RESULT)
    ] = False,
    device: o.DeviceOption = "cpu",
) -> None:
    """What a model, or a stolen copy, gives away about the rows or the text that it was trained on.

    Without options it measures a small network trained on scikit-learn's digits: minutes, no download.

    \b
    portcullis privacy
    portcullis privacy --victim model.skops --members train.csv --nonmembers test.csv --target income
    portcullis privacy --through "rounding(decimals=1)" --attacks lira,label_only --fail-over 0.05
    portcullis privacy --victim app:model --members in.npz --nonmembers out.npz --on copy.safetensors
    portcullis privacy --text notes.txt
    portcullis privacy --text notes.txt --plant planted.txt
    portcullis privacy --text planted.txt --model model.safetensors --unseen other.txt

    It can be stopped at any time; the same command goes on from where it stood.
    """
    t.refuse_mixed(context)
    if text is not None:
        return t.plant_canaries(context.params) if plant else t.measure_text(context.params)
    from portcullis_ml.bench.run_privacy import PrivacyOptions, run_privacy
    from portcullis_ml.catalog import split_outside
    from portcullis_ml.cli.progress import waiting, watching
    from portcullis_ml.core.errors import InputError, ParameterError
    from portcullis_ml.report import write_privacy_report

    if fail_over is not None and fail_over > 1:
        raise ParameterError("--fail-over", "a share in [0, 1]; bits belong to --text", fail_over)
    if victim is not None and (members is None or nonmembers is None):
        raise InputError("A victim of yours needs --members FILE and --nonmembers FILE, as you know who is which.")
    if victim is None and (members or nonmembers):
        raise InputError("--members and --nonmembers belong to a victim of yours; got none. Add --victim.")
    spec = o.spec_of(
        victim=victim, data=None if victim else data, folder=data_folder, test=nonmembers, pool=pool, train=members,
        target=target, schema=schema, softmax=softmax, classes=classes, output=output_name, device=device,
    )  # fmt: skip
    options = PrivacyOptions(
        spec=spec, attacks=tuple(split_outside(",".join(attacks or ()), ",")), through=through, on=on, answers=answers,
        k=k, decimals=decimals, budget=budget, shadow_models=shadow_models, learner=learner, rows=rows, rate=fpr,
        limited=fail_over is not None, seed=seed, command=o.command_line(),
    )  # fmt: skip
    with waiting("Loading the victim; without one of yours, training one ..."):
        spec.load()
    with watching() as progress:
        records, meta = run_privacy(options, out=out, progress=progress, training=progress.training)
    report = write_privacy_report(records, meta, out / "report.html")
    worst = _worst(records, fpr)
    failed = fail_over is not None and worst is not None and worst[1] > fail_over
    limit = {"fail_over": fail_over, "fpr": fpr, "worst": worst, "failed": failed}
    if as_json:
        typer.echo(json.dumps(_as_json(records, meta, report, limit), indent=2))
    else:
        _show(records, meta, report, limit)
    if fail_over is not None and worst is None:
        raise InputError("--fail-over needs an attack on the API that was measured; none was. See the reasons above.")
    if failed:
        raise typer.Exit(3)


def _worst(records: Sequence[Mapping[str, Any]], rate: float) -> tuple[str, float] | None:
    """The attack on the API that finds the greatest share of members at this false positive rate, and the share."""
    import numpy as np

    from portcullis_ml.measures.membership import members_found

    found = []
    for r in records:
        if "signal_values" in r["notes"] and r["cell"]["extra"]["on"] == "api":
            signals = np.array([-np.inf if v is None else v for v in r["notes"]["signal_values"]])
            member = np.arange(len(signals)) < r["notes"]["members"]
            found.append((r["attack"], members_found(signals, member, rate).value))
    return max(found, key=lambda pair: pair[1], default=None)


def _as_json(
    records: Sequence[Mapping[str, Any]], meta: Mapping[str, Any], report: Path, limit: Mapping[str, Any]
) -> dict[str, Any]:
    from portcullis_ml.report.privacy_page import findings

    found = findings(records, meta)
    return {
        "headline": found.headline,
        "lead": found.lead,
        **limit,
        "results": [_result(r) for r in records],
        **{
            key: meta[key]
            for key in ("victim", "data", "members", "non_members", "blind", "flags", "seconds", "command")
        },
        "report": str(report),
        "records": str(report.with_name("records.jsonl")),
    }


def _result(record: Mapping[str, Any]) -> dict[str, Any]:
    """One attack, with the keys of LeakPro's results beside ours."""
    said = {
        "result_name": record["attack"],
        "result_type": "MIAResult",
        "id": record["id"],
        "config": record["cell"]["attack"],
        "on": record["cell"]["extra"]["on"],
        "through": record["defense"],
        "outcome": record["outcome"],
        "reason": record["reason"],
        "queries": record["queries"],
    }
    notes, measures = record["notes"], record["measures"]
    said["measures"] = {name: [e["value"], e["low"], e["high"]] for name, e in measures.items()}
    if "roc" not in notes:
        return said
    m, n = notes["members"], notes["non_members"]
    tpr, fpr = notes["roc"]["tpr"], notes["roc"]["fpr"]
    tp, fp = [round(t * m) for t in tpr], [round(f * n) for f in fpr]
    return said | {
        "tpr": tpr,
        "fpr": fpr,
        "roc_auc": measures["auc"]["value"],
        "fixed_fpr": {f"TPR@{rate}%FPR": e[0] for rate, e in notes["fixed_fpr"].items()},
        "signal_values": notes["signal_values"],
        "true_labels": [1] * m + [0] * n,
        "tp": tp,
        "fp": fp,
        "tn": [n - v for v in fp],
        "fn": [m - v for v in tp],
        "accuracy": [(t + n - f) / (m + n) for t, f in zip(tp, fp, strict=True)],
        "rows": notes["places"],
        "exposed": notes["exposed"],
    }


def _show(
    records: Sequence[Mapping[str, Any]], meta: Mapping[str, Any], report: Path, limit: Mapping[str, Any]
) -> None:
    from rich.console import Console

    from portcullis_ml.report.privacy_page import findings, rebuilt

    console, found = Console(soft_wrap=False), findings(records, meta)
    console.print()
    console.print(found.headline, style="bold", markup=False, highlight=False)
    console.print(found.lead, markup=False, highlight=False)
    console.print()
    table = _table(records)
    if table.row_count:
        console.print(table)
    for line in rebuilt(records):
        console.print(line, markup=False, highlight=False)
    blind = meta["blind"]["auc"]
    console.print(f"Members told without the model: area {100 * blind['value']:.1f}.", highlight=False)
    for reason in dict.fromkeys(r["reason"] for r in records if r["reason"]):
        console.print(reason, markup=False, highlight=False)
    if ids := sorted({f["id"] for f in meta["flags"]}):
        console.print(f"Flags: {', '.join(ids)}. The report says what each means.", highlight=False)
    if limit["fail_over"] is not None and limit["worst"]:
        attack, share = limit["worst"]
        sign = "above" if limit["failed"] else "not above"
        words = f"{attack} finds {share:.1%} of the members at {100 * limit['fpr']:g}%: {sign} the limit of "
        console.print(f"{words}{limit['fail_over']:.1%}.", style="bold red" if limit["failed"] else "green")
    console.print(f"Report: {report.resolve()}", markup=False, highlight=False, soft_wrap=True)


def _table(records: Sequence[Mapping[str, Any]]) -> Any:
    """A row for every attack that tells members, or could not."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Members found at false positive rates", title_justify="left", title_style="bold", box=None)
    for name in ("attack", "on", "10%", "1%", "0.1%", "0%", "area", "queries"):
        table.add_column(name, justify="left" if name in ("attack", "on") else "right")
    for r in records:
        if r["outcome"] == "done" and "auc" not in r["measures"]:
            continue
        on = r["cell"]["extra"]["on"]
        cells = ["", "", "", r["outcome"].replace("not applicable", "n/a"), ""]
        if "auc" in r["measures"]:
            fixed = r["notes"]["fixed_fpr"]
            cells = [f"{100 * fixed[rate][0]:.1f}" for rate in ("10", "1", "0.1", "0")]
            cells.append(f"{100 * r['measures']['auc']['value']:.1f}")
        table.add_row(Text(r["attack"]), {"innocent": "control"}.get(on, on), *cells, f"{r['queries']:,}")
    return table
