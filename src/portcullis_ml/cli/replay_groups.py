"""`portcullis replay LOG --groups`: whom the linkage test of a policy would have linked and called over a log."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from portcullis_ml.core.errors import InputError

if TYPE_CHECKING:
    from portcullis_ml.gateway.campaigns import Campaign, Campaigns
    from portcullis_ml.gateway.policy.policy import Policy
    from portcullis_ml.gateway.querylog import Line

__all__ = ["replay_groups"]


def replay_groups(lines: list[Line], policy: Policy, honest: list[str], as_json: bool) -> None:
    """Print who is linked, who is called, and how many of the clients known to be honest are."""
    from portcullis_ml.gateway.campaigns import campaigns_in

    groups = policy.groups
    if groups.linkage is None:
        raise InputError('The policy does not link accounts: write [groups] with seen = "log" or "block".')
    if not any(line.released and line.x is not None for line in lines):
        raise InputError("This log holds no answered rows; linking accounts needs [log] queries = true.")
    measured = groups.linkage.near is None and groups.linkage.flat is None and bool(honest)
    if measured and not policy.served.interface.text:
        groups = replace(groups, linkage=_measured(groups.linkage, lines, honest))
    found, state = campaigns_in(lines, groups)
    linked = state.linkage.links(state.state)
    tree = _tree(found, state, linked, honest)
    if measured:
        tree["measured"] = {"near": groups.linkage.near, "flat": groups.linkage.flat}
    typer.echo(json.dumps(tree, indent=2)) if as_json else _say(tree)


def _measured(linkage: Any, lines: list[Line], honest: list[str]) -> Any:
    """The test with `near` and `flat` from what the honest clients asked."""
    from portcullis_ml.detectors.linkage.calibration import calibrated

    rows: dict[str, list[Any]] = defaultdict(list)
    for line in lines:
        if line.counts_for in honest and line.released and line.x is not None:
            rows[line.counts_for].append(line.x)
    return calibrated(linkage, {name: np.concatenate(x) for name, x in rows.items()})


def _tree(found: list[tuple[float, Campaign]], state: Campaigns, linked: Any, honest: list[str]) -> dict[str, Any]:
    from portcullis_ml.measures.statistics import clopper_pearson

    there = [name for name in dict.fromkeys(honest) if name in state.state.numbers]
    wrong = [name for name in there if any(name in group for group in linked.groups)]
    share = clopper_pearson(len(wrong), len(there), unit="clients")
    return {
        "linked": [list(group) for group in linked.groups],
        "campaigns": [
            {
                "at": at, "accounts": list(c.members), "rows": c.rows, "cause": c.cause,
                "evidence": {name: c.evidence(name) for name in c.new},
            }
            for at, c in found
        ],
        "honest": {"clients": len(there), "linked": wrong, "called": [n for n in there if n in state.called],
                   "low": share.low, "high": share.high},
    }  # fmt: skip


def _say(tree: dict[str, Any]) -> None:
    """The same in sentences."""
    for group in tree["linked"]:
        typer.echo(f"Linked: {', '.join(group)}.")
    if not tree["linked"]:
        typer.echo("No accounts are linked.")
    for c in tree["campaigns"]:
        at = datetime.fromtimestamp(c["at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
        typer.echo(f"{at} UTC  {len(c['accounts'])} accounts called by {c['cause']} at {c['rows']} rows:")
        for name, words in c["evidence"].items():
            typer.echo(f"  {name}  {words}")
    h = tree["honest"]
    if h["clients"]:
        names = f" ({', '.join(h['linked'])})" if h["linked"] else ""
        typer.echo(
            f"Honest clients linked: {len(h['linked'])} of {h['clients']}{names}, "
            f"95% interval {100 * h['low']:.1f}% to {100 * h['high']:.1f}%; called: {len(h['called'])}."
        )
    if "measured" in tree:
        m = tree["measured"]
        typer.echo(
            f"Measured on these honest clients: near = {m['near']:.4g}, flat = {m['flat']:.4g}. Put them into [groups] "
            "and look at other days: on these the figures above flatter the test."
        )
