"""Options that say how a victim's answers are to be read, where that cannot be told, and how much of a pool."""

from __future__ import annotations

from typing import Annotated

import typer

from portcullis_ml.cli.options import WHAT

__all__ = ["LabelOption", "PoolRowsOption", "RegressionOption", "StrictPoolOption"]

LabelOption = Annotated[
    str | None,
    typer.Option(
        "--label",
        metavar="INDEX|NAME",
        help="Which label of a multi-label victim to audit: its column, from 0, or its name among --classes.",
        rich_help_panel=WHAT,
    ),
]

RegressionOption = Annotated[
    bool,
    typer.Option(
        "--regression", help="The victim answers numbers, where that cannot be told by itself.", rich_help_panel=WHAT
    ),
]
PoolRowsOption = Annotated[
    int,
    typer.Option(
        "--pool-rows",
        metavar="N",
        min=1,
        help="Rows that are drawn at random from a pool of more; the others are not used.",
        rich_help_panel=WHAT,
    ),
]
StrictPoolOption = Annotated[
    bool,
    typer.Option(
        "--strict-pool",
        help="Refuse a pool of pictures with a file that cannot be read; otherwise such files are named and counted.",
        rich_help_panel=WHAT,
    ),
]
