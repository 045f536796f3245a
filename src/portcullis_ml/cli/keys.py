"""`portcullis keys`: the API keys of a gate's clients, in the file that its policy names."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portcullis_ml.cli.check import own_output

if TYPE_CHECKING:
    from portcullis_ml.gateway.policy.keys import KeyFile

__all__ = ["app"]

app = typer.Typer(
    help="Make, list, rotate and revoke API keys of a gate's clients; a gate that runs takes them up within a second.",
    no_args_is_help=True,
)
DAY = 86_400.0

PolicyOption = Annotated[
    str, typer.Option("--policy", metavar="FILE", help="The gate's policy, whose [clients] names a keys_file.")
]
WhichArgument = Annotated[str, typer.Argument(help="A key's id, or a client that has one key.")]
DaysOption = Annotated[
    float | None, typer.Option("--days", help="For how long the new key counts; for ever unless given.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


@app.command("make")
def make(
    client: Annotated[str, typer.Argument(help="The client's name: limits and detectors follow it, not the key.")],
    policy: PolicyOption = "portcullis.toml",
    days: DaysOption = None,
    organisation: Annotated[
        str, typer.Option("--organisation", help="Whose client it is: where the policy says so, its clients are one.")
    ] = "",
    payment: Annotated[str, typer.Option("--payment", help="Who pays, such as a customer's number; the same.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Make a key for a client. It is shown this once; the file keeps its digest.

    Example:  portcullis keys make alice --policy portcullis.toml --organisation acme --days 365
    """
    own_output()
    key, kept = _file(policy).make(client, for_s=_seconds(days), organisation=organisation, payment=payment)
    _tell(kept, as_json, key=key)


@app.command("list")
def listing(policy: PolicyOption = "portcullis.toml", as_json: JsonOption = False) -> None:
    """All keys of the file, those that have ended too.

    Example:  portcullis keys list --policy portcullis.toml
    """
    from portcullis_ml.gateway.admin.keys import shown

    kept = [shown(key, time.time()) for key in _file(policy).read()]
    if as_json:
        typer.echo(json.dumps({"keys": kept}))
        return
    for key in kept:
        until = _day(key["until"]) if key["until"] else "for ever"
        state = f"until {until}" if key["counts"] else f"ended {until}"
        links = "".join(f"  {name} {key[name]}" for name in ("organisation", "payment") if key[name])
        typer.echo(f"{key['id']}  {key['client']:20}  made {_day(key['made'])}  {state}{links}")
    if not kept:
        typer.echo("There is no key yet: portcullis keys make CLIENT")


@app.command("rotate")
def rotate(
    which: WhichArgument,
    policy: PolicyOption = "portcullis.toml",
    overlap_days: Annotated[
        float, typer.Option("--overlap-days", help="For how long the old key counts beside it.")
    ] = 7.0,
    days: DaysOption = None,
    as_json: JsonOption = False,
) -> None:
    """A new key for the same client; the old one counts for some days more.

    Example:  portcullis keys rotate alice --overlap-days 2
    """
    own_output()
    key, kept, old = _file(policy).rotate(which, overlap_s=overlap_days * DAY, for_s=_seconds(days))
    _tell(kept, as_json, key=key, old={"id": old.id, "until": old.until})


@app.command("revoke")
def revoke(which: WhichArgument, policy: PolicyOption = "portcullis.toml", as_json: JsonOption = False) -> None:
    """End a key now.

    Example:  portcullis keys revoke 5f1c0a9be2d4
    """
    _tell(_file(policy).revoke(which), as_json)


def _file(policy: str) -> KeyFile:
    from portcullis_ml.core.errors import InputError
    from portcullis_ml.gateway.policy.keys import KeyFile
    from portcullis_ml.gateway.policy.policy import read_policy

    clients = read_policy(policy).clients
    if clients.keys_file is None:
        raise InputError(f'{policy} names no file of keys. Add keys_file = "keys.json" to its [clients].')
    return KeyFile(clients.keys_file, accept=lambda keys: clients.keeping(key.key() for key in keys))


def _tell(kept: Any, as_json: bool, key: str | None = None, old: dict[str, Any] | None = None) -> None:
    from portcullis_ml.gateway.admin.keys import shown

    tree = {**shown(kept, time.time()), **({"key": key} if key else {}), **({"old": old} if old else {})}
    if as_json:
        typer.echo(json.dumps(tree))
        return
    if key:
        typer.echo(f"key     {key}   (shown this once)")
    until = "for ever" if kept.until is None else f"until {_day(kept.until)}"
    typer.echo(f"id      {kept.id}\nclient  {kept.client}\ncounts  {until if tree['counts'] else 'no more'}")
    if old and old["until"]:
        typer.echo(f"old     {old['id']}, until {_day(old['until'])}")


def _seconds(days: float | None) -> float | None:
    return None if days is None else days * DAY


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at))
