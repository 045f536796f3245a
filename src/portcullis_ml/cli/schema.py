"""What a victim, its rows and its columns were taken for, shown before anything is asked, for a person to correct."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
    from portcullis_ml.core.types import Feature

__all__ = ["show_understood"]

MOST = 40  # columns that are printed


def show_understood(spec: ExperimentSpec, experiment: Experiment) -> None:
    """Every point with the option that changes it, the notes, and the columns where the inputs are a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from portcullis_ml.bench.understood import understood

    console = Console()
    table = Table(title="What was understood", title_justify="left", box=None)
    for head in ("about", "taken for", "another"):
        table.add_column(head, overflow="fold")
    for point in understood(spec, experiment):
        table.add_row(Text(point.about, style="cyan"), Text(point.taken), Text(point.change))
    console.print(table)
    for note in experiment.notes:
        console.print(f"- {note}", markup=False, highlight=False)
    if experiment.interface.features is not None and spec.victim is not None:
        _show_columns(console, experiment.interface.features)


def _show_columns(console: Console, features: tuple[Feature, ...]) -> None:
    """The columns of a table, one a line."""
    from rich.table import Table
    from rich.text import Text

    from portcullis_ml.data.schema import described

    table = Table(title=f"The API takes {len(features)} columns", title_justify="left", box=None)
    for head in ("column", "kind", "values"):
        table.add_column(head, overflow="fold")
    for name, kind, values in described(features[:MOST]):
        table.add_row(Text(name, style="cyan"), kind, Text(values))
    console.print(table)
    if len(features) > MOST:
        console.print(f"... and {len(features) - MOST} more")
    console.print("If a range or a category is wrong, correct it: --schema FILE.toml\n", highlight=False)
