"""`portcullis plan`: how many rows a principal may ask before a copy of a target fidelity is expected."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from portcullis_ml.cli import options as o
from portcullis_ml.cli.grouped import grouped
from portcullis_ml.cli.plan_options import Pilots, PlannedVictim, Question
from portcullis_ml.cli.victim_options import Api, Shown, Victim

if TYPE_CHECKING:
    from portcullis_ml.bench.limits import Limit
    from portcullis_ml.bench.pilots import Piloted, PilotOptions

__all__ = ["plan"]


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
    from portcullis_ml.cli.plan_policy import reason, write_quota
    from portcullis_ml.cli.progress import waiting, watching

    options = _options(victim, api, shown, question, pilots)
    accounts, window = _accounts(question.accounts), _window(question.rows_per)
    _must_count(accounts, question.days)
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
        quota = quota_for(limits, window, accounts[0])
        why = reason(piloted, quota, accounts[0], question.price_per_query)
        write_quota(question.write, quota, why, options.audit)


def _must_count(accounts: list[int], days: int) -> None:
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
    for head in ("attack", "queries", "95% interval", "fewest seen", "runs", "best seen"):
        attacks.add_column(head, justify="left" if head == "attack" else "right", no_wrap=head != "attack")
    for reach in piloted.reaches:
        q = reach.queries
        value = "no curve" if q is None else _count(q.value)
        interval = "" if q is None else f"{_count(q.low)} to {_count(q.high)}"
        fewest = "" if reach.least is None else f"{reach.least:,}"
        attacks.add_row(reach.attack, value, interval, fewest, str(reach.runs), f"{reach.best:.0%} at {reach.at:,}")
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
