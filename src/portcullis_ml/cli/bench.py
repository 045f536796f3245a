"""`portcullis bench`: published experiments on real data, published figures beside measured ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from portcullis_ml.cli.options import CORES, OnOption, workers

__all__ = ["app"]

app = typer.Typer(help="Published experiments, published figures beside measured ones.", no_args_is_help=True)


@app.command("run")
def run(
    name: Annotated[str, typer.Argument(help="A protocol: see `portcullis list bench`.")],
    quick: Annotated[bool, typer.Option("--quick", help="A look in minutes; its figures stand for nothing.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where results go; finished cells there are not run again.")] = None,
    data: Annotated[
        str | None, typer.Option(envvar="PORTCULLIS_DATA", help="The folder that holds the data sets.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes at work; 0 works in this one.")] = CORES,
    on: OnOption = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Run a protocol and print its table.

    Example:  portcullis bench run prada-mnist --quick
    """
    from portcullis_ml.bench.protocols import PROTOCOLS
    from portcullis_ml.bench.protocols.plans import Run
    from portcullis_ml.cli.progress import watching

    protocol = PROTOCOLS.load(name)
    folder = out or Path("portcullis-bench") / (name.replace(":", "-") + ("-quick" if quick else ""))
    machines = workers(on, jobs)
    with watching() as progress:
        table = protocol(Run(out=folder, data=data, quick=quick, jobs=machines, device=device, progress=progress))
    (folder / "table.md").write_text(table, encoding="utf-8")
    typer.echo(table)
    typer.echo(f"Records and this table: {folder}", err=True)


@app.command("leaderboard")
def leaderboard(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="What `portcullis bundle` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.html", help="The page.")] = Path("leaderboard.html"),
) -> None:
    """Attacks by defenses for every victim, from result bundles: each is checked, and none that does not hold enters.

    Example:  portcullis bench leaderboard house.zip stranger.zip -o leaderboard.html
    """
    from portcullis_ml.cli.derived import derived
    from portcullis_ml.evidence.bundle import ResultBundle
    from portcullis_ml.report.leaderboard import Entry
    from portcullis_ml.report.leaderboard import leaderboard as page
    from portcullis_ml.report.results import audit_of

    entries = []
    for path in bundles:
        found = ResultBundle.read(path)
        found.derive_again(derived)
        audit = audit_of(found.records, found.meta)
        entries.append(Entry(path.stem, found.signer.fingerprint, audit, found.meta))
    out.write_text(page(entries), encoding="utf-8")
    ranked = sum(not entry.unfit for entry in entries)
    typer.echo(f"{out}: {ranked} of {len(entries)} bundles ranked")
