"""`portcullis inspect`: what a victim and its rows are taken for, before anything is asked or paid."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from portcullis_ml.cli import options as o
from portcullis_ml.cli import reading_options as r

__all__ = ["inspect"]


def inspect(
    victim: o.VictimOption = None,
    data: o.DataOption = None,
    data_folder: o.FolderOption = None,
    test: o.TestOption = None,
    pool: o.PoolOption = None,
    train: o.TrainOption = None,
    target: o.TargetOption = None,
    text: o.TextOption = None,
    schema: o.SchemaOption = None,
    softmax: o.SoftmaxOption = False,
    classes: o.ClassesOption = None,
    output_name: o.OutputOption = None,
    regression: r.RegressionOption = False,
    label: r.LabelOption = None,
    answers: o.AnswersOption = "probs",
    protocol: o.ProtocolOption = "v2",
    model_name: o.ModelNameOption = "model",
    authorized_by: o.AuthorizedOption = None,
    api_key: o.ApiKeyOption = None,
    per_second: o.PerSecondOption = None,
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

    endpoint = o.endpoint_of(
        victim, answers=answers, protocol=protocol, model_name=model_name, authorized_by=authorized_by, api_key=api_key,
        per_second=per_second,
    )  # fmt: skip
    spec = o.spec_of(
        victim=victim, data=data, folder=data_folder, test=test, pool=pool, train=train, target=target, schema=schema,
        softmax=softmax, classes=classes, output=output_name, regression=regression, text=text, label=label,
        device=device, endpoint=endpoint,
    )  # fmt: skip
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
