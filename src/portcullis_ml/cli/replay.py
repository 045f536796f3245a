"""`portcullis replay`: a recorded log under the same policy or another."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

__all__ = ["replay"]


def replay(
    log: Annotated[str, typer.Argument(help="The query log: its folder, or one of its files.")],
    policy: Annotated[str, typer.Option(help="The policy to run over it.")],
    honest: Annotated[list[str] | None, typer.Option(help="A client known to be honest; repeat for more.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Who would have been stopped, when, and which honest clients hurt.

    Example:  portcullis replay log/ --policy stricter.toml --honest alice
    """
    from rich.console import Console
    from rich.table import Table

    from portcullis_ml.gateway.policy.policy import read_policy
    from portcullis_ml.gateway.querylog import read_log
    from portcullis_ml.gateway.replay import replay as run

    used = read_policy(policy)
    found = run(read_log(log), used)
    if as_json:
        fates = {name: asdict(fate) for name, fate in found.fates.items()}
        tree = {
            "requests": found.requests,
            "different": found.different,
            "policy": used.digest,
            "logged_under": found.logged_under,
            "clients": fates,
        }
        typer.echo(json.dumps(tree, indent=2))
        return
    table = Table("client", "rows", "refused then", "refused now", "changed then", "changed now", "alarm at row", "")
    for name, fate in sorted(found.fates.items()):
        note = "honest, and hurt" if fate.hurt and name in (honest or []) else "stopped" if fate.hurt else ""
        numbers = (fate.rows, fate.was_refused, fate.refused, fate.was_altered, fate.altered, fate.stopped_row or "")
        table.add_row(name, *map(str, numbers), note)
    Console().print(table)
    same = "the same decisions" if not found.different else f"{len(found.different)} decided otherwise than logged"
    typer.echo(f"{found.requests} requests, {same}.")
    if found.logged_under:
        others = ", ".join(found.logged_under)
        typer.echo(
            f"The log was written under the policy {others}; this is {used.digest}: its text or artifacts differ."
        )
