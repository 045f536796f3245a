"""`portcullis audit`: how cheaply a model can be stolen, by whom, and what each defense changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from portcullis_ml.cli import options as o
from portcullis_ml.cli.grouped import grouped
from portcullis_ml.cli.victim_options import Api, Shown, Victim

__all__ = ["audit"]

THIEF, GRID, RESULT = o.THIEF, "Behind which defense", "What comes out"


@grouped
def audit(
    victim: Victim,
    api: Api,
    shown: Shown,
    outside: o.OutsideOption = None,
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            help="Comma-separated, or given again; see `portcullis list extraction`. One of every kind that applies "
            "unless given. Those made for a defense join by themselves beside it.",
            rich_help_panel=THIEF,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Queries the thief may pay for. Several make the curve; one gets smaller ones by itself.",
            rich_help_panel=THIEF,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of every copy.", rich_help_panel=THIEF)] = None,
    learner: o.LearnerOption = None,
    defenses: Annotated[
        list[str] | None,
        typer.Option(
            help='Comma-separated, or given again; "a + b" is one guard of two stages; a hardening may come first. One '
            "of every kind that applies unless given. No defense and label-only are always run.",
            rich_help_panel=GRID,
        ),
    ] = None,
    regimes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="matched,held_out",
            help="Where outside rows come from: held_out from --outside, matched from half of the pool. held_out where "
            "--outside is given, else matched.",
            rich_help_panel=GRID,
        ),
    ] = None,
    deployed: Annotated[
        str | None,
        typer.Option(
            help="The guard in use, for --fail-over; the last of --defenses if not given.", rich_help_panel=GRID
        ),
    ] = None,
    fail_over: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Exit with 3 if the worst attacker's copy behind the deployed guard has more than this in the measure "
            "of the verdict. The figure itself is compared, the mean over seeds, not an end of its interval.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    cap: Annotated[
        float,
        typer.Option(
            metavar="POINTS",
            help="Accuracy that honest clients may lose, at the upper end of the interval, behind a defense that is "
            "recommended.",
            rich_help_panel=RESULT,
        ),
    ] = 1.0,
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help="What the verdict goes by: agreement, balanced_agreement, macro_f_agreement, minority_f_agreement, "
            "rank_correlation (for scores that rank) or auc_agreement. Chosen by the victim's classes if not given.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    privacy: Annotated[
        list[str] | None,
        typer.Option(
            help="Attacks on the training data to measure behind every defense; see `portcullis list privacy`.",
            rich_help_panel=THIEF,
        ),
    ] = None,
    then: Annotated[
        list[str] | None,
        typer.Option(
            help="What is done with every copy, comma-separated in order: membership, inversion, evasion, a privacy "
            "attack, another theft. All but a theft are tried on the API as well, for as many queries.",
            rich_help_panel=THIEF,
        ),
    ] = None,
    marks: Annotated[
        list[str] | None,
        typer.Option(
            help="Ownership marks to examine the copies for; see `portcullis list ownership`.", rich_help_panel=GRID
        ),
    ] = None,
    price_per_query: Annotated[
        float | None, typer.Option(min=0, help="What a query costs whoever asks.", rich_help_panel=RESULT)
    ] = None,
    price_per_label: Annotated[
        float | None, typer.Option(min=0, help="What a label costs that is written by hand.", rich_help_panel=RESULT)
    ] = None,
    transfer: Annotated[
        bool,
        typer.Option("--transfer", help="Also measure how well adversarial examples transfer.", rich_help_panel=RESULT),
    ] = False,
    out: Annotated[
        Path,
        typer.Option(help="The folder for results; finished cells in it are not run again.", rich_help_panel=RESULT),
    ] = Path("portcullis-audit"),
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="html,md,junit,sarif",
            help="Which files to write into the folder; report.html is always written.",
            rich_help_panel=RESULT,
        ),
    ] = "html,md",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of tables.", rich_help_panel=RESULT)
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Repetitions: 3 if not given, 5 for a claim.", rich_help_panel=o.HOW)
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="The first seed; another starts elsewhere.", rich_help_panel=o.HOW)
    ] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A look: one seed, a third of the budget.", rich_help_panel=o.HOW)
    ] = False,
    jobs: o.JobsOption = o.CORES,
    on: o.OnOption = None,
    device: o.DeviceOption = "cpu",
) -> None:
    """How cheaply your model can be stolen, by whom, and what each defense changes.

    Without options it audits a softmax regression of scikit-learn's digits in a scene that shows what an audit says: an
    exact theft, a defense that helps, one that does not, and an alarm. Minutes, no download.

    \b
    portcullis audit
    portcullis audit --data digits
    portcullis audit --victim model.onnx --test test.npz --pool pool.npz --budget 3000
    portcullis audit --victim app:model --data mnist --defenses "rounding(decimals=2), top_k(k=1) + label_only"
    portcullis audit --victim model.skops --test adult.csv.gz --target income --fail-over 0.8
    portcullis audit --outside other.npz --defenses "out_of_domain(filter=domain_filter), outlier_exposure + rounding"

    It can be stopped at any time; the same command goes on from where it stood.
    """
    from portcullis_ml.bench.run_audit import AuditOptions, run_audit
    from portcullis_ml.bench.showcase import showcase
    from portcullis_ml.cli.formats import formats as named_formats
    from portcullis_ml.cli.formats import write_formats
    from portcullis_ml.cli.outcome import Outcome
    from portcullis_ml.cli.progress import waiting, watching
    from portcullis_ml.cli.schema import show_understood
    from portcullis_ml.report import write_policy, write_report
    from portcullis_ml.report.results import audit_of

    files = named_formats(formats)
    options = AuditOptions(
        spec=victim.spec(api, shown, device=device, outside=outside),
        attacks=_words(attacks),
        defenses=None if defenses is None else _words(defenses),
        deployed=deployed,
        budgets=_numbers(budget),
        answers=api.reveals,
        k=shown.k,
        decimals=shown.decimals,
        precision=shown.precision,
        seeds=seeds,
        seed=seed,
        epochs=epochs,
        learner=learner,
        privacy=_words(privacy),
        then=_words(then),
        marks=_words(marks),
        cap=cap,
        price_per_query=price_per_query,
        price_per_label=price_per_label,
        measure=measure,
        transfer=transfer,
        quick=quick,
        regimes=_words(regimes),
        command=o.command_line(),
    )
    if victim.data is None:
        options = showcase(options)
    # Every process would ask an API at the rate that --per-second allows.
    machines = o.workers(on, 1 if api.per_second else jobs, api=options.spec.endpoint is not None)
    with waiting("Loading the victim; without one of yours, training one ..."):
        experiment = options.spec.load()
    if not as_json:
        show_understood(options.spec, experiment)
    with watching() as progress:
        records, meta = run_audit(options, out=out, jobs=machines, progress=progress, training=progress.training)
    policy = write_policy(records, meta, out / "portcullis.toml")
    audited = audit_of(records, meta)
    outcome = Outcome(audited, meta, out / "report.html", fail_over, policy)
    write_report(records, {**meta, "limit": outcome.limit}, out / "report.html")
    write_formats(files, audited, meta, outcome.limit, out)
    if as_json:
        typer.echo(json.dumps(outcome.to_json(), indent=2))
    else:
        outcome.show()
    outcome.check()
    if outcome.fails:
        raise typer.Exit(3)


def _words(given: list[str] | None) -> tuple[str, ...]:
    """Every unit named, whether separated by commas or given one by one."""
    from portcullis_ml.catalog import split_outside

    return tuple(split_outside(",".join(given or ()), ","))


def _numbers(text: str | None) -> tuple[int, ...]:
    from portcullis_ml.core.errors import ParameterError

    try:
        return tuple(int(part.replace("_", "")) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise ParameterError("--budget", "whole numbers, separated by commas", text) from None
