"""`portcullis check`: what a policy does, in sentences, or the line of its mistake."""

from __future__ import annotations

from typing import Annotated, Any

import typer

__all__ = ["check", "own_output"]


def check(
    policy: Annotated[str | None, typer.Argument(help="The policy, a TOML file.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Ask the model server too, with one row.")] = False,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make an API key and its digest.")] = False,
    new_secret: Annotated[bool, typer.Option("--new-secret", help="Make a guard's secret for key_file.")] = False,
) -> None:
    """Explain a policy, or refuse it by line.

    Example:  portcullis check portcullis.toml --live
    """
    import secrets

    from portcullis_ml.core.errors import InputError

    if new_key or new_secret:
        own_output()
    if new_key:
        from portcullis_ml.gateway.policy.clients import new_key as fresh

        key, digest = fresh()
        typer.echo(f"key     {key}\nsha256  {digest}")
    if new_secret:
        typer.echo(secrets.token_bytes(32).hex())
    if policy is None:
        if not (new_key or new_secret):
            raise InputError("Give a policy to check, such as portcullis.toml.")
        return
    from portcullis_ml.gateway.policy.calibrated import uncalibrated
    from portcullis_ml.gateway.policy.explain import explained
    from portcullis_ml.gateway.policy.policy import read_policy
    from portcullis_ml.gateway.policy.warn import warnings
    from portcullis_ml.gateway.selftest import tried

    found = read_policy(policy)
    for one in (found, *found.models):
        further = one is not found
        if further:
            typer.echo(f"\n{one.path}, a further model:")
        for sentence in explained(one, further=further):
            typer.echo(sentence)
        for sentence in (*warnings(one, further=further), *uncalibrated(one, one.path)):
            typer.echo(f"Note: {sentence}")
        for limit in tried(one):
            typer.echo(f"Self-test: {limit}.")
        if live:
            _live(one)


def own_output() -> None:
    """A file that the output goes to holds a secret from now on: its owner alone may read it."""
    import os
    import stat
    import sys

    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):  # no output of the system's
        return
    if stat.S_ISREG(os.fstat(number).st_mode):
        os.fchmod(number, 0o600)


def _live(policy: Any) -> None:
    """What the model server says of itself, and whether it answers; Unreachable if it does not."""
    import asyncio

    from portcullis_ml.gateway.upstream import open_upstream

    async def asked() -> Any:
        upstream = open_upstream(policy)
        try:
            for sentence in await upstream.differences():
                typer.echo(f"Note: {sentence}")
            return await upstream.try_out()
        finally:
            await upstream.close()

    answer = asyncio.run(asked())
    what = "a class alone" if answer.scores is None else f"scores ({answer.scores.shape[1]})"
    typer.echo(f"The model server answers one row with {what}, as the policy says.")
