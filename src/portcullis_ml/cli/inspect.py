"""`portcullis inspect`: what a victim and its rows are taken for, before anything is asked or paid."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from portcullis_ml.cli import options as o
from portcullis_ml.cli.grouped import grouped
from portcullis_ml.cli.victim_options import Api, Victim

__all__ = ["inspect"]


@grouped
def inspect(
    victim: Victim,
    api: Api,
    device: o.DeviceOption = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """What your model and your rows are taken for, and which option changes each point; nothing is attacked.

    \b
    portcullis inspect --victim model.onnx --test test.npz
    portcullis inspect --victim model.skops --test adult.csv.gz --target income --json

    `portcullis audit` prints the same before its first query.
    """
    from portcullis_ml.bench.understood import understood
    from portcullis_ml.cli.schema import show_understood
    from portcullis_ml.data.schema import described

    spec = victim.spec(api, device=device)
    experiment = spec.load()
    if not as_json:
        show_understood(spec, experiment)
        return
    features = experiment.interface.features or ()
    found = {
        "understood": {p.about: {"taken": p.taken, "change": p.change} for p in understood(spec, experiment)},
        "notes": list(experiment.notes),
        "columns": [{"name": n, "kind": kind, "values": values} for n, kind, values in described(features)],
    }
    typer.echo(json.dumps(found, indent=2))
