"""What a table's columns were taken for, shown before anything is asked, so that a person can correct it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portcullis_ml.bench.experiment import Experiment

__all__ = ["show_schema"]

MOST = 40  # columns that are printed


def show_schema(experiment: Experiment) -> None:
    """What was understood of a victim, and the columns of its API, one a line, where the inputs are a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from portcullis_ml.data.schema import described

    console = Console()
    for note in experiment.notes:
        console.print(f"- {note}", markup=False, highlight=False)
    features = experiment.interface.features
    if features is None:
        return
    table = Table(title=f"The API takes {len(features)} columns", title_justify="left", box=None)
    for head in ("column", "kind", "values"):
        table.add_column(head, overflow="fold")
    for name, kind, values in described(features[:MOST]):
        table.add_row(Text(name, style="cyan"), kind, Text(values))
    console.print(table)
    if len(features) > MOST:
        console.print(f"... and {len(features) - MOST} more")
    if experiment.classes:
        console.print(f"It answers: {', '.join(experiment.classes[:12])}", markup=False, highlight=False)
    console.print("If a range or a category is wrong, correct it: --schema FILE.toml\n", highlight=False)
