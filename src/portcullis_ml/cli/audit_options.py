"""The options of `portcullis audit`, in the groups that its help shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from portcullis_ml.cli import options as o

__all__ = ["Guards", "Judgement", "Runs", "Theft", "Written"]

THIEF, GRID, RESULT = o.THIEF, "Behind which defense", "What comes out"


@dataclass(frozen=True, kw_only=True)
class Theft:
    """Who attacks, and with how many questions."""

    attacks: Annotated[
        list[str] | None,
        typer.Option(
            help="Comma-separated, or given again; see `portcullis list extraction`. One of every kind that applies "
            "unless given. Those made for a defense join by themselves beside it.",
            rich_help_panel=THIEF,
        ),
    ] = None
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Queries the thief may pay for. Several make the curve; one gets smaller ones by itself.",
            rich_help_panel=THIEF,
        ),
    ] = None
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of every copy.", rich_help_panel=THIEF)] = None
    learner: o.LearnerOption = None
    privacy: Annotated[
        list[str] | None,
        typer.Option(
            help="Attacks on the training data to measure behind every defense; see `portcullis list privacy`.",
            rich_help_panel=THIEF,
        ),
    ] = None
    then: Annotated[
        list[str] | None,
        typer.Option(
            help="What is done with every copy, comma-separated in order: membership, inversion, evasion, a privacy "
            "attack, another theft. All but a theft are tried on the API as well, for as many queries.",
            rich_help_panel=THIEF,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Guards:
    """Behind which defenses, and with which rows they are trained."""

    outside: o.OutsideOption = None
    defenses: Annotated[
        list[str] | None,
        typer.Option(
            help='Comma-separated, or given again; "a + b" is one guard of two stages; a hardening may come first. One '
            "of every kind that applies unless given. No defense and label-only are always run.",
            rich_help_panel=GRID,
        ),
    ] = None
    regimes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="matched,held_out",
            help="Where outside rows come from: held_out from --outside, matched from half of the pool. held_out where "
            "--outside is given, else matched.",
            rich_help_panel=GRID,
        ),
    ] = None
    deployed: Annotated[
        str | None,
        typer.Option(
            help="The guard in use, for --fail-over; the last of --defenses if not given.", rich_help_panel=GRID
        ),
    ] = None
    marks: Annotated[
        list[str] | None,
        typer.Option(
            help="Ownership marks to examine the copies for; see `portcullis list ownership`.", rich_help_panel=GRID
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """By what the verdict goes, and what a recommendation may cost."""

    fail_over: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Exit with 3 if the worst attacker's copy behind the deployed guard has more than this in the measure "
            "of the verdict. The figure itself is compared, the mean over seeds, not an end of its interval.",
            rich_help_panel=RESULT,
        ),
    ] = None
    cap: Annotated[
        float,
        typer.Option(
            metavar="POINTS",
            help="Accuracy that honest clients may lose, at the upper end of the interval, behind a defense that is "
            "recommended.",
            rich_help_panel=RESULT,
        ),
    ] = 1.0
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help="What the verdict goes by: agreement, balanced_agreement, macro_f_agreement, minority_f_agreement, "
            "rank_correlation (for scores that rank) or auc_agreement. Chosen by the victim's classes if not given.",
            rich_help_panel=RESULT,
        ),
    ] = None
    price_per_query: Annotated[
        float | None, typer.Option(min=0, help="What a query costs whoever asks.", rich_help_panel=RESULT)
    ] = None
    price_per_label: Annotated[
        float | None, typer.Option(min=0, help="What a label costs that is written by hand.", rich_help_panel=RESULT)
    ] = None


@dataclass(frozen=True, kw_only=True)
class Written:
    """What comes out, and where."""

    transfer: Annotated[
        bool,
        typer.Option("--transfer", help="Also measure how well adversarial examples transfer.", rich_help_panel=RESULT),
    ] = False
    out: Annotated[
        Path,
        typer.Option(help="The folder for results; finished cells in it are not run again.", rich_help_panel=RESULT),
    ] = Path("portcullis-audit")
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="html,md,junit,sarif,oscal",
            help="Which files to write into the folder; report.html is always written.",
            rich_help_panel=RESULT,
        ),
    ] = "html,md"
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.", rich_help_panel=RESULT)] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class Runs:
    """How often and where cells run."""

    seeds: Annotated[
        int | None, typer.Option(min=1, help="Repetitions: 3 if not given, 5 for a claim.", rich_help_panel=o.HOW)
    ] = None
    seed: Annotated[
        int, typer.Option(min=0, help="The first seed; another starts elsewhere.", rich_help_panel=o.HOW)
    ] = 0
    quick: Annotated[
        bool, typer.Option("--quick", help="A look: one seed, a third of the budget.", rich_help_panel=o.HOW)
    ] = False
    jobs: o.JobsOption = o.CORES
    on: o.OnOption = None
    device: o.DeviceOption = "cpu"
