"""`portcullis check`: what a policy does, in sentences, or the line of its mistake."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["check"]


def check(
    policy: Annotated[str | None, typer.Argument(help="The policy, a TOML file.")] = None,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make an API key and its digest.")] = False,
    new_secret: Annotated[bool, typer.Option("--new-secret", help="Make a guard's secret for key_file.")] = False,
) -> None:
    """Explain a policy, or refuse it by line.

    Example:  portcullis check portcullis.toml
    """
    import secrets

    from portcullis_ml.core.errors import InputError

    if new_key or new_secret:
        _own_output()
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
    from portcullis_ml.gateway.policy.explain import explained, warnings
    from portcullis_ml.gateway.policy.policy import read_policy

    found = read_policy(policy)
    for sentence in explained(found):
        typer.echo(sentence)
    for sentence in warnings(found):
        typer.echo(f"Note: {sentence}")


def _own_output() -> None:
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
