"""`portcullis replay`: a recorded log under the same policy or another."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portcullis_ml.core.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portcullis_ml.gateway.policy.policy import Policy
    from portcullis_ml.gateway.querylog import Line
    from portcullis_ml.gateway.replay import Replayed
    from portcullis_ml.gateway.state.marked import Mark

__all__ = ["replay"]

FIRST = 4  # inputs of a marked question that a line shows; --json has them all


def replay(
    log: Annotated[str, typer.Argument(help="The query log: its folder, or one of its files; another gateway's file.")],
    policy: Annotated[str, typer.Option(help="The policy to run over it.")],
    honest: Annotated[list[str] | None, typer.Option(help="A client known to be honest; repeat for more.")] = None,
    marks: Annotated[bool, typer.Option("--marks", help="List every client's marked questions.")] = False,
    regroup: Annotated[
        bool, typer.Option("--regroup", help="Group accounts as the policy links them, not as the log says.")
    ] = False,
    groups: Annotated[bool, typer.Option("--groups", help="Say who is linked by what they ask, instead.")] = False,
    written_by: Annotated[
        str, typer.Option("--from", help="Who wrote the log: portcullis, nginx, litellm.")
    ] = "portcullis",
    fields: Annotated[
        list[str] | None, typer.Option("--field", help="What a field of another gateway's log is called, as KEY=NAME.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Who would have been stopped, when, which honest clients hurt, and who got which marks.

    With --groups: which accounts the policy's [groups] would have linked and called, and how many honest ones.

    Example:  portcullis replay log/ --policy stricter.toml --honest alice
    Example:  portcullis replay access.log --from nginx --policy portcullis.toml
    """
    from portcullis_ml.gateway.policy.policy import read_policy
    from portcullis_ml.gateway.replay import replay as run

    used = read_policy(policy)
    lines, said = _lines(log, used, written_by, fields or [])
    if groups:
        from portcullis_ml.cli.replay_groups import replay_groups

        return replay_groups(list(lines), used, honest or [], as_json)
    found = run(lines, used, regroup=regroup)
    if as_json:
        typer.echo(json.dumps(_tree(found, used, said, marks), indent=2))
    else:
        _show(found, used, said, honest or [], marks)


def _tree(found: Replayed, used: Policy, said: str, marks: bool) -> dict[str, Any]:
    """For programs."""
    tree: dict[str, Any] = {
        "requests": found.requests,
        "different": found.different,
        "policy": used.digest,
        "logged_under": found.logged_under,
        **({"read": said} if said else {}),
        "clients": {name: asdict(fate) for name, fate in found.fates.items()},
    }
    if marks:
        tree["marks"] = {name: [_plain(mark) for mark in held] for name, held in found.marks.items()}
    return tree


def _show(found: Replayed, used: Policy, said: str, honest: list[str], marks: bool) -> None:
    """For people: a table of clients, and sentences."""
    from rich.console import Console
    from rich.table import Table

    table = Table("client", "rows", "refused then", "refused now", "changed then", "changed now", "alarm at row", "")
    if found.marking:
        table.add_column("marks")
    for name, fate in sorted(found.fates.items()):
        known = {name, *fate.accounts} & set(honest)
        note = "honest, and hurt" if fate.hurt and known else "stopped" if fate.hurt else ""
        numbers = (fate.rows, fate.was_refused, fate.refused, fate.was_altered, fate.altered, fate.stopped_row or "")
        marked = [f"{fate.marks} ({100 * fate.share_marked:.2g}%)"] if found.marking else []
        table.add_row(name, *map(str, numbers), note, *marked)
    Console().print(table)
    for name, fate in sorted(found.fates.items()):
        if fate.code:
            typer.echo(f"{name}, row {fate.stopped_row}: {fate.code}. {fate.evidence['means']}")
    if marks:
        _list(found)
    if said:
        typer.echo(said)
    same = "the same decisions" if not found.different else f"{len(found.different)} decided otherwise than logged"
    typer.echo(f"{found.requests} requests, {same}.")
    if found.logged_under:
        others = ", ".join(found.logged_under)
        typer.echo(
            f"The log was written under the policy {others}; this is {used.digest}: its text or artifacts differ."
        )


def _lines(log: str, used: Policy, written_by: str, named: list[str]) -> tuple[Iterable[Line], str]:
    """The log's lines and, of another gateway's log, a sentence on what was read."""
    from portcullis_ml.gateway.foreign_log import form_of, read_foreign
    from portcullis_ml.gateway.querylog import read_log

    if written_by == "portcullis":
        if named:
            raise ParameterError("field", "given with --from nginx or --from litellm", named[0])
        return read_log(log), ""
    pairs = [text.partition("=") for text in named]
    if wrong := [text for text, (key, _, name) in zip(named, pairs, strict=True) if not key or not name]:
        raise ParameterError("field", "KEY=NAME, such as client=http_x_account", wrong[0])
    read = read_foreign(log, used, form_of(written_by, {key: name for key, _, name in pairs}))
    return read.lines, read.said()


def _plain(mark: Mark) -> dict[str, Any]:
    return {"stage": mark.stage, "at": mark.at, "label": mark.label, "x": mark.x.tolist()}


def _list(found: Replayed) -> None:
    """A line for every marked question: whose, when, the class that was served, and where its inputs begin."""
    if not found.marking:
        typer.echo('No stage of this policy marks answers: a [[guard]] with unit = "dawn" does.')
    for client, held in sorted(found.marks.items()):
        for mark in held:
            at = datetime.fromtimestamp(mark.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
            begins = ", ".join(f"{v:.4g}" for v in mark.x[:FIRST]) + (", ..." if len(mark.x) > FIRST else "")
            typer.echo(f"{client}  {at} UTC  class {mark.label}  [{begins}]")
