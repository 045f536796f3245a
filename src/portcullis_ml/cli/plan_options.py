"""The options of `portcullis plan`, in the groups that its help shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from portcullis_ml.cli import options as o
from portcullis_ml.cli.victim_options import Victim

__all__ = ["Pilots", "PlannedVictim", "Question"]

WHAT, THIEF, HOW = "What is attacked", o.THIEF, "How it runs"
ANSWER = "What is to be answered"


@dataclass(frozen=True, kw_only=True)
class PlannedVictim(Victim):
    """The victim, whose label column has another name here, since --target is the fidelity."""

    target: Annotated[
        str | None,
        typer.Option(
            "--label-column",
            metavar="COLUMN",
            help="The label column of tables, which other verbs call --target.",
            rich_help_panel=WHAT,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be answered, and how sharply."""

    fidelity: Annotated[
        float, typer.Option("--target", help="Fidelity of the copy to be prevented.", rich_help_panel=ANSWER)
    ] = 0.8
    accounts: Annotated[
        str, typer.Option(metavar="N[,N...]", help="Accounts that one thief may hold.", rich_help_panel=ANSWER)
    ] = "1,10,100"
    days: Annotated[int, typer.Option(help="For how many days a limit is to hold.", rich_help_panel=ANSWER)] = 365
    rows_per: Annotated[
        str,
        typer.Option(
            "--principal-rows-per",
            metavar="day|month|total",
            help="The window of the quota that is written.",
            rich_help_panel=ANSWER,
        ),
    ] = "total"
    price_per_query: Annotated[
        float | None, typer.Option(min=0, help="What a query costs whoever asks.", rich_help_panel=ANSWER)
    ] = None
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help="agreement or balanced_agreement; chosen by the victim's classes unless given.",
            rich_help_panel=ANSWER,
        ),
    ] = None
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="POLICY",
            help="Write the quota for the first of --accounts into this policy; one is made where there is none.",
            rich_help_panel=ANSWER,
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.", rich_help_panel=ANSWER)] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class Pilots:
    """Which attacks are tried, and how long."""

    attacks: Annotated[
        list[str] | None,
        typer.Option(
            help="Comma-separated, or given again; one of every kind that applies unless given. A plain stranger is "
            "always tried.",
            rich_help_panel=THIEF,
        ),
    ] = None
    budget: Annotated[
        int | None,
        typer.Option(
            min=1, help="Queries of one pilot at most; the pool's rows, or 3,000, unless given.", rich_help_panel=THIEF
        ),
    ] = None
    learner: o.LearnerOption = None
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of every copy.", rich_help_panel=THIEF)] = None
    minutes: Annotated[float, typer.Option(help="Of pilots, after which they end.", rich_help_panel=HOW)] = 5.0
    seed: Annotated[int, typer.Option(min=0, help="The first seed.", rich_help_panel=HOW)] = 0
    out: Annotated[
        Path, typer.Option(help="The folder for pilots; those in it are not run again.", rich_help_panel=HOW)
    ] = Path("portcullis-plan")
    jobs: o.JobsOption = 0
    device: o.DeviceOption = "cpu"
