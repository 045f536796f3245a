"""A plan's quota in a policy: written into the one that is there, or into a new one."""

from __future__ import annotations

from pathlib import Path

import typer

from portcullis_ml.bench.limits import PerAccount
from portcullis_ml.bench.pilots import Piloted
from portcullis_ml.bench.run_audit import AuditOptions, interface_said
from portcullis_ml.cli.policy_edit import with_quota
from portcullis_ml.report import write_with_key
from portcullis_ml.report.policy import policy_text

__all__ = ["reason", "write_quota"]

HEAD = "# A policy for the gate, written by a plan. What it does, in sentences: portcullis check POLICY"
WORDS = {"day": "a day", "month": "in 30 days", "total": "in a hundred years, which stand for ever"}


def reason(piloted: Piloted, quota: PerAccount, accounts: int, price: float | None) -> str:
    """Why the quota is what it is, and the price of what it prevents, for a comment above it."""
    reach = piloted.worst.queries
    assert reach is not None
    lines = [
        f"Planned: {quota.rows:,} rows {WORDS[quota.window]}, against a thief with {accounts:,} account(s).",
        f"{piloted.worst.attack} reaches {piloted.target:.0%} after {reach.value:,.0f} queries "
        f"[{reach.low:,.0f}, {reach.high:,.0f}], n = {reach.n} runs.",
    ]
    if price is not None:
        lines.append(f"At a price of {price:g} a query that costs {price * reach.value:,.2f}.")
    return "\n".join(lines)


def write_quota(path: Path, quota: PerAccount, why: str, audit: AuditOptions) -> None:
    """Write the quota, its reason above it; a policy that is not there is made, with a guard's secret beside it."""
    if path.exists():
        path.write_text(with_quota(path.read_text(encoding="utf-8"), quota.rows, quota.seconds, why), encoding="utf-8")
    else:
        experiment = audit.spec.load()
        text = policy_text("", experiment.names["victim"]["name"], interface_said(experiment, audit.shown), HEAD)
        write_with_key(with_quota(text, quota.rows, quota.seconds, why), path)
    typer.echo(
        f"Written: {quota.rows:,} rows {WORDS[quota.window]} into {path}; `portcullis check {path}` explains it.",
        err=True,
    )
