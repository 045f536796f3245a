"""`portcullis extract`: one attack on a model of yours; keeps the surrogate and what it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from portcullis_ml.cli import options as o
from portcullis_ml.cli.grouped import grouped
from portcullis_ml.cli.victim_options import Api, Shown, Victim

__all__ = ["extract"]


@grouped
def extract(
    attack: Annotated[str, typer.Argument(help="See `portcullis list extraction`; with settings: 'jacobian(k=7)'.")],
    victim: Victim,
    api: Api,
    shown: Shown,
    budget: Annotated[int, typer.Option(help="Queries that the attack may pay for.")] = 500,
    defense: Annotated[str, typer.Option(help='A guard: "none", "rounding(decimals=2)", or "a + b".')] = "none",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of the copy; by the number of rows if not said.")
    ] = None,
    learner: o.LearnerOption = None,
    seed: Annotated[int, typer.Option(help="Of everything that the attack draws.")] = 0,
    out: Annotated[Path, typer.Option(help="The folder for the surrogate and the transfer set.")] = Path(
        "portcullis-extract"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: o.DeviceOption = "cpu",
) -> None:
    """Run one attack on a model of yours; keep the surrogate and its transfer set.

    \b
    portcullis extract knockoff --budget 500
    portcullis extract equation_solving --victim model.skops --test test.npz --budget 100

    Every paid answer is on disk before the attack sees it: a killed run goes on with the same command.
    """
    from portcullis_ml.bench.experiment import learner_for, learner_said
    from portcullis_ml.bench.grid import Plan
    from portcullis_ml.bench.named import attack_named, by_name, guard_named
    from portcullis_ml.bench.run_audit import shown_as
    from portcullis_ml.bench.single import extract_to
    from portcullis_ml.bench.texts import must_suit_texts
    from portcullis_ml.cli.progress import waiting, watching
    from portcullis_ml.core.errors import NotApplicable
    from portcullis_ml.core.settings import describe

    spec = victim.spec(api, shown, device=device)
    with waiting("Loading the victim; without one of yours, training one ..."):
        experiment = spec.load()
    shape, numbers = experiment.interface.input_shape, experiment.numbers
    suits: dict[str, Any] = {"epochs": epochs, "device": device, "numbers": numbers, "text": experiment.interface.text}
    chooser = describe(learner_for(shape, **suits))
    named = learner_said(learner, epochs, device) if learner else None
    must_suit_texts(experiment.interface, named)
    plan = Plan(
        victim={key: experiment.names["victim"][key] for key in ("name", "sha256")},
        data=experiment.names["data"],
        interface=shown_as(
            api.reveals,
            k=shown.k,
            decimals=shown.decimals,
            precision=shown.precision,
            missing=shown.incomplete,
            explain=shown.explain,
        ),
        attacks=by_name([attack], attack_named),
        defenses=by_name([defense], guard_named),
        budgets=[budget],
        seeds=[seed],
        learner=named or chooser,
        gradients=describe(learner_for(shape, gradients=True, **suits)),
        numbers=numbers,
    )
    cell = next((c for c in plan.cells() if c.role == "attack" and c.defense_name == defense), None)
    if cell is None:
        raise NotApplicable(f"{attack} is made for a guard that it knows; {defense} is none. Name one with --defense.")
    with watching() as progress:
        record, files = extract_to(cell, spec, out, progress=progress)
    _tell(record, files, as_json)
    if record["outcome"] != "done":
        raise typer.Exit(2)


def _reached(measures: dict[str, Any]) -> str:
    """How good the copy is, in classes or in numbers."""
    if r2 := measures.get("r2"):
        off = measures["mae"]["value"]
        return f"{100 * r2['value']:.1f}% of the variance of the victim's answers, off by {off:.4g} on average,"
    agreement = measures.get("agreement")
    return f"{100 * agreement['value']:.1f}% agreement" if agreement else "no agreement measured"


def _tell(record: dict[str, Any], files: dict[str, str], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"record": record, **files}, indent=2))
    elif record["outcome"] != "done":
        typer.echo(f"portcullis: {record['attack']} is {record['outcome']}. {record['reason']}", err=True)
    else:
        reached = _reached(record["measures"])
        typer.echo(f"{record['attack']}: {reached} with {record['queries']:,} queries, ended by: {record['stopped']}.")
        for name, path in files.items():
            typer.echo(f"{name.replace('_', ' ').capitalize()}: {path}")
        if "surrogate" not in files:
            typer.echo("Surrogate: not saved, as its kind has no file format here; the transfer set makes it again.")
