"""`portcullis demo`: play the thief against the demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from portcullis_ml.gateway.demo import Theft

__all__ = ["app"]

app = typer.Typer(help="Play the thief against the demonstration.", no_args_is_help=True)
GATE = "http://127.0.0.1:8000"  # where `portcullis serve` listens unless told


@app.callback()
def _top() -> None:
    """Play the thief against the demonstration."""


@app.command("attack")
def attack(
    url: Annotated[
        str | None,
        typer.Option(
            help=f"The gate's address; this machine only. None tries {GATE}, then the same guard without a gate."
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A policy for the digits model: the thief asks behind its guard."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="An API key; none asks as the anonymous client.")] = None,
    budget: Annotated[int, typer.Option(help="Rows to pay for at most.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Of the thief's choices.")] = 3,
) -> None:
    """Run Jb-top3 with and without the guard, and say what the difference is.

    Example:  portcullis demo attack --policy portcullis-audit/portcullis.toml
    """
    import numpy as np

    from portcullis_ml.core.errors import InputError
    from portcullis_ml.gateway.demo import unguarded, without_asking

    if policy is not None and (url is not None or key is not None):
        raise InputError("Give --policy, or --url and --key: a gate has a policy of its own.")

    def settings() -> dict[str, Any]:
        return {"budget": budget, "rng": np.random.default_rng(seed), "watch": _watch}

    own = without_asking(rng=np.random.default_rng(seed))
    typer.echo("The thief asks the model without a guard ...", err=True)
    free = unguarded(**settings())
    where, held = _guarded(url, key, settings()) if policy is None else _behind(policy, settings())
    _table({"asks nobody": own, "asks the model without a guard": free, f"asks {where}": held})
    for sentence in _difference(own, free, held):
        typer.echo(sentence)


def _guarded(url: str | None, key: str | None, settings: dict[str, Any]) -> tuple[str, Theft]:
    """(where, the theft) behind a gate, or behind its guard in this process where none was named and none answers."""
    from portcullis_ml.core.errors import AttackFailed, InputError, Unreachable
    from portcullis_ml.gateway.demo import behind_gate, behind_policy

    try:
        typer.echo(f"The thief asks the gate at {url or GATE} ...", err=True)
        return f"the gate at {url or GATE}", behind_gate(url or GATE, key, **settings)
    except Unreachable:
        if url is not None:
            raise
        typer.echo(
            "No demonstration answers there (`portcullis serve` starts one, with a dashboard). "
            "The same guard runs in this process.",
            err=True,
        )
        return "the model behind the guard", behind_policy(**settings)
    except AttackFailed as error:
        raise InputError(
            f"The gate at {url or GATE} answers this client nothing: its quota is used up, or it is blocked. Clear the "
            "client on the dashboard, or start the demonstration anew."
        ) from error


def _behind(policy: Path, settings: dict[str, Any]) -> tuple[str, Theft]:
    """(where, the theft) behind the guard of a policy's file, in this process."""
    from portcullis_ml.gateway.demo import behind_policy

    typer.echo(f"The thief asks the model behind the guard of {policy} ...", err=True)
    return f"behind {policy}", behind_policy(policy, **settings)


def _difference(own: Theft, free: Theft, held: Theft) -> tuple[str, str]:
    """Two sentences."""
    first = (
        f"Without a guard the thief's copy agrees with the model on {_percent(free)} of {free.of} digits, and on "
        f"{_percent(held)} behind it, where {_ended(held)}."
    )
    gave, left = free.agreed - own.agreed, held.agreed - own.agreed
    worth = f"The thief's own 100 digits give {_percent(own)} without a question"
    if gave <= 0:
        return first, f"{worth}: the model gave nothing away that a guard could keep."
    kept = 100 * (gave - left) / gave
    if kept <= 0:
        return (
            first,
            f"{worth}, and the guard kept nothing of what the answers add to that: this thief needs another one.",
        )
    return first, (
        f"{worth}, so the guard kept {kept:.0f}% of what the answers add to that; `portcullis audit` says what a guard "
        "would keep of yours."
    )


def _ended(theft: Theft) -> str:
    """Why the thief got no further, as a part of a sentence."""
    if theft.stopped in ("", "budget"):
        return f"it got all of its {theft.answered:,} answers"
    return f"it was stopped after {theft.answered:,} answers ({theft.stopped})"


def _percent(theft: Theft) -> str:
    return f"{100 * theft.agreed / theft.of:.1f}%"


def _share(theft: Theft) -> str:
    from portcullis_ml.measures.statistics import clopper_pearson

    found = clopper_pearson(theft.agreed, theft.of)
    return f"{_percent(theft)} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _table(thefts: dict[str, Theft]) -> None:
    _row("what the thief does", "rows answered", "its copy agrees with the model")
    for name, theft in thefts.items():
        _row(name, f"{theft.answered:,}", _share(theft))
    typer.echo("")


def _row(name: str, rows: str, agreement: str) -> None:
    typer.echo(f"{name:44}{rows:>14}   {agreement}")


def _watch(paid: int, total: int) -> None:
    typer.echo(f"{paid} of {total} rows asked", err=True)
