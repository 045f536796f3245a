"""`portcullis plan`: how many rows a principal may ask before a copy of a target fidelity is expected."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portcullis_ml.cli import options as o
from portcullis_ml.cli.grouped import grouped
from portcullis_ml.cli.victim_options import Api, Shown, Victim

if TYPE_CHECKING:
    from portcullis_ml.bench.limits import Limit, PerAccount
    from portcullis_ml.bench.pilots import Piloted, PilotOptions

__all__ = ["plan"]

ANSWER = "What is to be answered"


@dataclass(frozen=True, kw_only=True)
class PlannedVictim(Victim):
    """The victim, whose label column has another name here, since --target is the fidelity."""

    target: Annotated[
        str | None,
        typer.Option(
            "--label-column",
            metavar="COLUMN",
            help="The label column of tables, which other verbs call --target.",
            rich_help_panel=o.WHAT,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be answered, and how sharply."""

    fidelity: Annotated[
        float, typer.Option("--target", help="Fidelity of the copy to be prevented.", rich_help_panel=ANSWER)
    ] = 0.8
    accounts: Annotated[
        str, typer.Option(metavar="N[,N...]", help="Accounts that one thief may hold.", rich_help_panel=ANSWER)
    ] = "1,10,100"
    days: Annotated[
        int, typer.Option(help="For how many days a limit is to hold.", rich_help_panel=ANSWER)
    ] = 365
    rows_per: Annotated[
        str,
        typer.Option(
            "--principal-rows-per",
            metavar="day|month|total",
            help="The window of the quota that is written.",
            rich_help_panel=ANSWER,
        ),
    ] = "total"
    price_per_query: Annotated[
        float | None, typer.Option(min=0, help="What a query costs whoever asks.", rich_help_panel=ANSWER)
    ] = None
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help="agreement or balanced_agreement; chosen by the victim's classes unless given.",
            rich_help_panel=ANSWER,
        ),
    ] = None
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="POLICY",
            help="Write the quota for the first of --accounts into this policy; one is made where there is none.",
            rich_help_panel=ANSWER,
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.", rich_help_panel=ANSWER)] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class Pilots:
    """Which attacks are tried, and how long."""

    attacks: Annotated[
        list[str] | None,
        typer.Option(
            help="Comma-separated, or given again; one of every kind that applies unless given. A plain stranger is "
            "always tried.",
            rich_help_panel=o.THIEF,
        ),
    ] = None
    budget: Annotated[
        int | None,
        typer.Option(
            min=1, help="Queries of one pilot at most; the pool's rows, or 3,000, unless given.", rich_help_panel=o.THIEF
        ),
    ] = None
    learner: o.LearnerOption = None
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of every copy.", rich_help_panel=o.THIEF)] = None
    minutes: Annotated[
        float, typer.Option(help="Of pilots, after which they end.", rich_help_panel=o.HOW)
    ] = 5.0
    seed: Annotated[int, typer.Option(min=0, help="The first seed.", rich_help_panel=o.HOW)] = 0
    out: Annotated[
        Path, typer.Option(help="The folder for pilots; those in it are not run again.", rich_help_panel=o.HOW)
    ] = Path("portcullis-plan")
    jobs: o.JobsOption = 0
    device: o.DeviceOption = "cpu"


@grouped
def plan(victim: PlannedVictim, api: Api, shown: Shown, question: Question, pilots: Pilots) -> None:
    """How many rows a principal may ask before a copy of your model is expected, and what that copy costs.

    Pilot thefts say after how many queries the worst attacker reaches the target; limits follow for a day, a month and
    at all, for one account and for many. Minutes; it goes on from where it was stopped.

    \b
    portcullis plan --data digits --target 0.8
    portcullis plan --victim model.onnx --test test.npz --pool pool.npz --accounts 1,10,100 --price-per-query 0.01
    portcullis plan --victim model.onnx --test test.npz --pool pool.npz --write portcullis.toml
    """
    from portcullis_ml.bench.limits import limit_json, limits_of, quota_for, sentences
    from portcullis_ml.bench.pilots import run_pilots
    from portcullis_ml.cli.progress import waiting, watching

    options = _options(victim, api, shown, question, pilots)
    accounts, window = _accounts(question.accounts), _window(question.rows_per)
    limits_of_nothing(accounts, question.days)
    with waiting("Loading the victim; without one of yours, training one ..."):
        options.audit.spec.load()
    with watching() as progress:
        piloted = run_pilots(options, out=pilots.out, jobs=1 if api.per_second else pilots.jobs, progress=progress)
    limits = limits_of(piloted, accounts=accounts, days=question.days)
    said = sentences(piloted, limits, days=question.days, price=question.price_per_query)
    if question.as_json:
        told: dict[str, Any] = _json(piloted) | {"limits": [limit_json(limit) for limit in limits], "said": said}
        typer.echo(json.dumps(told, indent=2))
    else:
        _show(piloted, limits, said, question.days)
    if question.write is not None:
        _write(question.write, quota_for(limits, window, accounts[0]), options, piloted, question)


def limits_of_nothing(accounts: list[int], days: int) -> None:
    """Refuse accounts and days that cannot be, before any pilot is run."""
    from portcullis_ml.core.errors import ParameterError

    if days < 1:
        raise ParameterError("--days", "at least 1", days)
    if not accounts or min(accounts) < 1:
        raise ParameterError("--accounts", "whole numbers of at least 1, such as 1,10,100", accounts)


def _options(victim: Victim, api: Api, shown: Shown, question: Question, pilots: Pilots) -> PilotOptions:
    from portcullis_ml.bench.pilots import PilotOptions
    from portcullis_ml.bench.run_audit import AuditOptions
    from portcullis_ml.catalog import split_outside

    audit = AuditOptions(
        spec=victim.spec(api, shown, device=pilots.device),
        attacks=tuple(split_outside(",".join(pilots.attacks or ()), ",")),
        defenses=(),
        budgets=(pilots.budget,) if pilots.budget else (),
        answers=api.reveals,
        k=shown.k,
        decimals=shown.decimals,
        precision=shown.precision,
        seed=pilots.seed,
        epochs=pilots.epochs,
        learner=pilots.learner,
        measure=question.measure,
        command=o.command_line(),
    )
    return PilotOptions(audit=audit, target=question.fidelity, minutes=pilots.minutes)


def _accounts(text: str) -> list[int]:
    from portcullis_ml.core.errors import ParameterError

    try:
        return [int(part.replace("_", "")) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ParameterError("--accounts", "whole numbers of at least 1, separated by commas", text) from None


def _window(word: str) -> Any:
    from portcullis_ml.bench.limits import WINDOWS
    from portcullis_ml.core.errors import ParameterError

    if word not in WINDOWS:
        raise ParameterError("--principal-rows-per", "day, month or total", word)
    return word


def _json(piloted: Piloted) -> dict[str, Any]:
    from portcullis_ml.bench.records import plain_estimate

    told = asdict(piloted)
    for shown, reach in zip(told["reaches"], piloted.reaches, strict=True):
        shown["queries"] = None if reach.queries is None else plain_estimate(reach.queries)
    return told


def _show(piloted: Piloted, limits: list[Limit], said: list[str], days: int) -> None:
    """The attacks and the limits as tables, then the three sentences."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    attacks = Table(title=f"Queries to {piloted.target:.0%} {piloted.measure.replace('_', ' ')}", box=None)
    for head in ("attack", "queries", "95% interval", "runs", "best seen"):
        attacks.add_column(head, justify="left" if head == "attack" else "right", no_wrap=head != "attack")
    for reach in piloted.reaches:
        q = reach.queries
        value = "no curve" if q is None else _count(q.value)
        interval = "" if q is None else f"{_count(q.low)} to {_count(q.high)}"
        attacks.add_row(reach.attack, value, interval, str(reach.runs), f"{reach.best:.0%} at {reach.at:,}")
    console.print(attacks)
    if piloted.failed:
        console.print(f"No copy: {', '.join(piloted.failed)}.", markup=False)
    if limits:
        table = Table(title=f"Rows that each account may ask, to hold for {days:,} days", box=None)
        for head in ("accounts", "at all", "a month", "a day", "days of a theft at the day's limit"):
            table.add_column(head, justify="right")
        for limit in limits:
            rows = [f"{limit.per[w].rows:,}" for w in ("total", "month", "day")]
            table.add_row(f"{limit.accounts:,}", *rows, _count(limit.per["day"].days, "-"))
        console.print(table)
    for sentence in said:
        console.print(sentence, markup=False, highlight=False)
    about = f"Pilots took {piloted.seconds:,.0f} s and ended because: {piloted.why}."
    console.print(about, markup=False, highlight=False)


def _count(value: float, never: str = "never") -> str:
    return f"{value:,.0f}" if value < float("inf") else never


def _write(path: Path, quota: PerAccount, options: PilotOptions, piloted: Piloted, question: Question) -> None:
    """The quota, with its reason and its price as a comment, into the policy."""
    from portcullis_ml.bench.run_audit import interface_said
    from portcullis_ml.cli.policy_edit import with_quota
    from portcullis_ml.report.policy import policy_text

    reach, price = piloted.worst.queries, question.price_per_query
    assert reach is not None
    words = {"day": "a day", "month": "in 30 days", "total": "at all (a century)"}[quota.window]
    why = f"A plan: {quota.rows:,} rows {words}, against {_accounts(question.accounts)[0]:,} account(s) of one thief.\n"
    why += f"{piloted.worst.attack} reaches {piloted.target:.0%} after {reach.value:,.0f} queries "
    why += f"[{reach.low:,.0f}, {reach.high:,.0f}], n = {reach.n} runs."
    if price is not None:
        why += f"\nAt a price of {price:g} a row these queries cost {price * reach.value:,.2f}."
    if path.exists():
        text = path.read_text(encoding="utf-8")
    else:
        seen = interface_said(options.audit.spec.load(), options.audit.shown)
        head = "# A policy for the gate, written by a plan. What it does, in sentences: portcullis check POLICY"
        text = policy_text("", options.audit.spec.load().names["victim"]["name"], seen, head)
    path.write_text(with_quota(text, quota.rows, quota.seconds, why), encoding="utf-8")
    typer.echo(f"Written: a quota of {quota.rows:,} rows {words} into {path}. portcullis check {path} explains it.", err=True)
