"""Options that say how a victim's answers are to be read, where that cannot be told."""

from __future__ import annotations

from typing import Annotated

import typer

from portcullis_ml.cli.options import WHAT

__all__ = ["RegressionOption"]

RegressionOption = Annotated[
    bool,
    typer.Option(
        "--regression", help="The victim answers numbers, where that cannot be told by itself.", rich_help_panel=WHAT
    ),
]
