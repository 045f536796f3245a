"""`portcullis audit`: how cheaply a model can be stolen, by whom, and what each defense changes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portcullis.cli import options as o

if TYPE_CHECKING:
    from portcullis.report.reading import Audit, Pair

__all__ = ["audit"]

THIEF, GRID, RESULT = "Who attacks", "Behind which defense", "What comes out"


def audit(
    victim: o.VictimOption = None,
    data: o.DataOption = None,
    data_folder: o.FolderOption = None,
    test: o.TestOption = None,
    pool: o.PoolOption = None,
    train: o.TrainOption = None,
    target: o.TargetOption = None,
    softmax: o.SoftmaxOption = False,
    answers: o.AnswersOption = "probs",
    k: o.KOption = 1,
    attacks: Annotated[
        str | None,
        typer.Option(help="Comma-separated; see `portcullis list extraction`.", rich_help_panel=THIEF),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Queries the thief may pay for. Several make the curve; one gets smaller ones by itself.",
            rich_help_panel=THIEF,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of every copy.", rich_help_panel=THIEF)] = None,
    defenses: Annotated[
        str | None,
        typer.Option(
            help='Comma-separated; "a + b" is one guard of two stages. No defense and label-only are always run.',
            rich_help_panel=GRID,
        ),
    ] = None,
    deployed: Annotated[
        str | None,
        typer.Option(
            help="The guard in use, for --fail-over; the last of --defenses if not given.", rich_help_panel=GRID
        ),
    ] = None,
    fail_over: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Exit with 3 if the worst attacker's agreement behind the deployed guard is above this.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    transfer: Annotated[
        bool,
        typer.Option("--transfer", help="Also measure how well adversarial examples transfer.", rich_help_panel=RESULT),
    ] = False,
    out: Annotated[
        Path,
        typer.Option(help="The folder for results; finished cells in it are not run again.", rich_help_panel=RESULT),
    ] = Path("portcullis-audit"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of tables.", rich_help_panel=RESULT)
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Repetitions: 3 if not given, 5 for a claim.", rich_help_panel=o.HOW)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A look: one seed, a third of the budget.", rich_help_panel=o.HOW)
    ] = False,
    jobs: o.JobsOption = o.CORES,
    device: o.DeviceOption = "cpu",
) -> None:
    """How cheaply your model can be stolen, by whom, and what each defense changes.

    Without options it audits a small network trained on scikit-learn's digits: minutes, no download.

    \b
    portcullis audit
    portcullis audit --victim model.onnx --test test.npz --pool pool.npz --budget 3000
    portcullis audit --victim app:model --data mnist --defenses "rounding(decimals=2), top_k(k=1) + label_only"
    portcullis audit --victim model.skops --test test.csv --target label --fail-over 0.8

    It can be stopped at any time; the same command goes on from where it stood.
    """
    from portcullis.bench.conduct import Wish, conduct
    from portcullis.bench.grid import split_outside
    from portcullis.cli.progress import waiting, watching
    from portcullis.report import write_report
    from portcullis.report.reading import read

    where = {"victim": victim, "data": data, "folder": data_folder, "test": test, "pool": pool, "train": train}
    wish = Wish(
        scene=o.scene_of(**where, target=target, softmax=softmax, device=device),
        attacks=tuple(split_outside(attacks or "", ",")),
        defenses=None if defenses is None else tuple(split_outside(defenses, ",")),
        deployed=deployed,
        budgets=_numbers(budget),
        answers=answers,
        k=k,
        seeds=seeds,
        epochs=epochs,
        transfer=transfer,
        quick=quick,
        command=o.command_line(),
    )
    with waiting("Loading the victim; without one of yours, training one ..."):
        wish.scene.stage()
    with watching() as progress:
        records, meta = conduct(wish, out=out, jobs=jobs, progress=progress)
    report = write_report(records, meta, out / "report.html")
    told = Outcome(read(records), meta, report, fail_over)
    if as_json:
        typer.echo(json.dumps(told.to_json(), indent=2))
    else:
        told.show()
    told.check()
    if told.fails:
        raise typer.Exit(3)


def _numbers(text: str | None) -> tuple[int, ...]:
    from portcullis.core.errors import ParameterError

    try:
        return tuple(int(part.replace("_", "")) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise ParameterError("--budget", "whole numbers, separated by commas", text) from None


class Outcome:
    """What an audit found, for the terminal, for programs and for the exit code."""

    def __init__(self, audit: Audit, meta: Mapping[str, Any], report: Path, fail_over: float | None) -> None:
        self._audit = audit
        self._meta = meta
        self._report = report
        self._limit = fail_over
        self._deployed = str(meta["deployed"])

    @property
    def worst(self) -> Pair | None:
        """The attacker who does best behind the deployed guard."""
        return self._audit.worst(self._deployed)

    @property
    def fails(self) -> bool:
        return bool(self._limit is not None and self.worst and self.worst.measures["agreement"].value > self._limit)

    def check(self) -> None:
        """A limit that nothing was measured against must not pass."""
        from portcullis.core.errors import AttackFailed

        if self._limit is not None and self.worst is None:
            raise AttackFailed(
                f"--fail-over needs an attack that made a copy behind {self._deployed}; none did. "
                "Choose other --attacks, or see the reasons in the report."
            )

    def to_json(self) -> dict[str, Any]:
        from portcullis.report.words import answer

        keys = ("command", "victim", "data", "seeds", "budgets", "deployed", "quick", "seconds", "flags")
        said = answer(self._audit)
        return {
            "headline": said.headline,
            "verdict": said.verdict,
            "worst_behind_deployed": _copy(self.worst),
            "worst_undefended": _copy(self._audit.worst("none")),
            "fail_over": self._limit,
            "failed": self.fails,
            **{key: self._meta[key] for key in keys},
            "rows": [_row(pair) for pair in (*self._audit.pairs.values(), *self._audit.controls)],
            "report": str(self._report),
            "records": str(self._report.with_name("records.jsonl")),
        }

    def show(self) -> None:
        from rich.console import Console

        from portcullis.report.words import answer

        console = Console(soft_wrap=False)
        said = answer(self._audit)
        console.print()
        console.print(said.headline, style="bold", markup=False, highlight=False)
        for sentence in (*said.detail, *said.caveats):
            console.print(sentence, markup=False, highlight=False)
        console.print()
        console.print(self._matrix())
        flags = sorted({f["id"] for f in self._meta["flags"]})
        if flags:
            console.print(f"\nFlags: {', '.join(flags)}. The report says what each means.", highlight=False)
        if self._limit is not None and self.worst:
            sign = "above" if self.fails else "not above"
            found = self.worst.measures["agreement"]
            console.print(
                f"\nBehind {self._deployed} the worst attacker is {self.worst.attack} with {found.percent()}: "
                f"{sign} the limit of {self._limit:.1%}.",
                style="bold red" if self.fails else "green",
                markup=False,
                highlight=False,
            )
        console.print(f"\nReport: {self._report.resolve()}", markup=False, highlight=False, soft_wrap=True)

    def _matrix(self) -> Any:
        """Agreement of every attack behind every defense; what honest clients lose in the last line."""
        from rich.table import Table
        from rich.text import Text

        audit = self._audit
        table = Table(title=f"Agreement with the victim at {audit.budget:,} queries", title_justify="left", box=None)
        table.add_column("defense", style="cyan", overflow="fold")
        for attack in audit.attacks:
            table.add_column(attack, justify="right")
        table.add_column("honest clients lose", justify="right")
        for defense in audit.defenses:
            cost = audit.cost(defense)
            lost = "?" if cost is None else f"{100 * cost.value:.1f} points"
            mark = " (deployed)" if defense == self._deployed else ""
            table.add_row(Text(defense + mark), *(_cell(audit, a, defense) for a in audit.attacks), lost)
        for control in audit.controls:
            found = control.measures.get("agreement")
            blank = [""] * (len(audit.attacks) - 1)
            table.add_row(f"control: {control.attack}", found.percent(0) if found else "?", *blank, "", style="dim")
        return table


def _cell(audit: Audit, attack: str, defense: str) -> str:
    pair = audit.pairs.get((attack, defense))
    if pair is None:
        return ""
    found = pair.measures.get("agreement")
    return found.percent(0) if found else pair.outcome


def _copy(pair: Pair | None) -> dict[str, Any] | None:
    if pair is None:
        return None
    e = pair.measures["agreement"]
    return {"attack": pair.attack, "queries": pair.queries, "agreement": [e.value, e.low, e.high], "n": e.n}


def _row(pair: Pair) -> dict[str, Any]:
    measures: Sequence[tuple[str, Any]] = list(pair.measures.items())
    return {
        "attack": pair.attack,
        "defense": pair.defense,
        "budget": pair.budget,
        "outcome": pair.outcome,
        "reason": pair.reason,
        "queries": pair.queries,
        "measures": {name: [e.value, e.low, e.high] for name, e in measures},
        "alarms": pair.alarms,
    }
