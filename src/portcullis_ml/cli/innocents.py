"""`portcullis watermark innocents`: models that learnt the owner's rows honestly, for a null that accuses none such."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from portcullis_ml.cli import options as o

__all__ = ["innocents"]

FEWEST = 20  # models without which no scheme claims anything


def innocents(
    victim: o.VictimOption = None,
    data: o.DataOption = None,
    data_folder: o.FolderOption = None,
    test: o.TestOption = None,
    train: o.TrainOption = None,
    pool: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Rows with classes that are not the owner's: as many models learn these."),
    ] = None,
    target: o.TargetOption = None,
    schema: o.SchemaOption = None,
    softmax: o.SoftmaxOption = False,
    classes: o.ClassesOption = None,
    output_name: o.OutputOption = None,
    learner: Annotated[
        str | None,
        typer.Option(
            metavar="WORD", help="How they are trained, see `portcullis list learners`; as the victim if not said."
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="How many of a kind; 20 or more.")] = FEWEST,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of a network; as the victim's if not said.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that the trainings draw.")] = 0,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="A folder for the models; one that is begun goes on.")
    ] = Path("portcullis-innocents"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: o.DeviceOption = "cpu",
) -> None:
    """Train models on the owner's rows with other seeds: what a verdict must not accuse; for --innocent.

    \b
    portcullis watermark innocents --victim model.skops --train train.npz --test test.npz --out innocents
    portcullis watermark innocents --victim net.safetensors --train train.npz --pool other.npz --out innocents
    portcullis verify bundle.zip --suspect http://127.0.0.1:9000 --innocent innocents ...

    The folder says which rows each of them learnt, and by which seed. An interrupted run goes on.
    """
    from portcullis_ml.cli.innocent_models import made
    from portcullis_ml.cli.progress import waiting
    from portcullis_ml.core.errors import ParameterError

    if n < FEWEST:
        raise ParameterError("--n", f"at least {FEWEST}, since schemes claim nothing with fewer innocent models", n)
    if victim is not None and test is None:
        test = train
    spec = o.spec_of(
        victim=victim, data=data, folder=data_folder, test=test, pool=pool, train=train, target=target, schema=schema,
        softmax=softmax, device=device, classes=classes, output=output_name,
    )  # fmt: skip
    experiment = spec.load()
    with waiting(f"Training {n * (2 if pool else 1)} innocent models", quiet=as_json):
        found = made(experiment, spec, out, learner=learner, others=pool is not None, n=n, epochs=epochs, seed=seed)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        typer.echo(f"{name.replace('_', ' ')}: {value}")
    typer.echo(
        f"Next: portcullis verify bundle.zip --innocent {out} ..., or portcullis watermark trace --innocent {out}"
    )
