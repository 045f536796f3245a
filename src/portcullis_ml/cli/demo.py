"""`portcullis demo`: play the thief against the demonstration."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Play the thief against the demonstration.", no_args_is_help=True)


@app.callback()
def _top() -> None:
    """Play the thief against the demonstration."""


@app.command("attack")
def attack(
    url: Annotated[str, typer.Option(help="The gate's address; this machine only.")] = "http://127.0.0.1:8000",
    key: Annotated[str | None, typer.Option(help="An API key; none asks as the anonymous client.")] = None,
    budget: Annotated[int, typer.Option(help="Rows to pay for at most.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Of the thief's choices.")] = 3,
) -> None:
    """Run Jb-top3 against the gate, and say how far it came.

    Example:  portcullis demo attack --url http://127.0.0.1:8000
    """
    import numpy as np

    from portcullis_ml.gateway.demo import TRAINED_ON, digits_model, digits_rows
    from portcullis_ml.gateway.demo import attack as run

    def watch(paid: int, total: int) -> None:
        typer.echo(f"{paid} of {total} rows asked", err=True)

    found, _ = run(url, key, budget=budget, rng=np.random.default_rng(seed), watch=watch)
    model, _ = digits_model()
    x, _ = digits_rows()
    held_out = x[TRAINED_ON:]
    same = (model.scores(held_out).argmax(1) == found.model.scores(held_out).argmax(1)).mean()
    typer.echo(f"{len(found.x)} rows answered, {found.queries} paid for; ended by: {found.stopped}.")
    typer.echo(f"The copy agrees with the victim on {100 * same:.1f}% of {len(held_out)} digits.")
