"""`portcullis watermark innocents`: models that learnt the owner's rows honestly, for a null that accuses none such."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portcullis_ml.cli import options as o

if TYPE_CHECKING:
    from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
    from portcullis_ml.core.types import Rows

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


def made(
    experiment: Experiment, spec: ExperimentSpec, out: Path, *,
    learner: str | None, others: bool, n: int, epochs: int | None, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Train whoever is missing in the folder, each written as soon as it is there, and say what came out."""
    from portcullis_ml.court.innocents import rows_sha256, sha256_of, write_manifest
    from portcullis_ml.models.load import save_model

    trainer, word = _trainer(experiment, spec, learner, epochs)
    kinds = {"owner": _owners(experiment), **({"others": _pool(experiment)} if others else {})}
    begun = {
        **{kind: {"rows": len(rows), "sha256": rows_sha256(rows)} for kind, rows in kinds.items()},
        "learner": word, "seed": seed, "epochs": epochs, "n": n, "classes": experiment.interface.n_classes,
    }  # fmt: skip
    manifest = _continued(out, begun)
    done = {Path(entry["file"]).stem for entry in manifest["models"]}
    for kind, i, rows in ((kind, i, rows) for kind, rows in kinds.items() for i in range(n)):
        stem = f"{kind}-{i:03d}"
        if stem in done:
            continue
        path = save_model(_trained(trainer, rows, experiment, seed, stem), out / stem)
        entry = {"file": path.name, "sha256": sha256_of(path), "learnt": kind, "seed": [seed, stem]}
        manifest["models"].append(entry)
        write_manifest(out, manifest)
    return _said(out, experiment, {kind: len(rows) for kind, rows in kinds.items()})


def _trainer(experiment: Experiment, spec: ExperimentSpec, word: str | None, epochs: int | None) -> tuple[Any, Any]:
    """(how innocent models are trained, the same as plain data)."""
    from dataclasses import replace

    from portcullis_ml.bench.marks import learner_of
    from portcullis_ml.core.errors import InputError, NotApplicable
    from portcullis_ml.core.settings import describe
    from portcullis_ml.models.learners import LEARNERS, learner_named

    if word is None:
        try:
            found: Any = learner_of(experiment, spec, epochs=epochs)[0]
        except NotApplicable as error:
            raise NotApplicable(
                f"{type(experiment.model).__name__} cannot be trained here. Say how its likes are trained with "
                "--learner WORD, or train 20 of them yourself and name each with --innocent."
            ) from error
    else:
        found = learner_named(word, spec.device)
        if not callable(getattr(found, "fit", None)):
            raise InputError(
                f"--learner was expected to name a learner, {', '.join(LEARNERS)}; {word} is a {type(found).__name__}."
            )
        if epochs is not None:
            found = replace(found, epochs=epochs)
    return found, found.about() if hasattr(found, "about") else describe(found)


def _owners(experiment: Experiment) -> Rows:
    from portcullis_ml.core.errors import NotApplicable
    from portcullis_ml.core.types import Rows

    if experiment.train is None or experiment.train_y is None:
        raise NotApplicable("Innocent models learn the victim's rows, and those are not known. Give --train FILE with "
                            "their classes.")  # fmt: skip
    return Rows(experiment.train, experiment.train_y)


def _pool(experiment: Experiment) -> Rows:
    from portcullis_ml.core.errors import NotApplicable
    from portcullis_ml.core.types import Rows

    if experiment.pool is None or experiment.pool_labels is None:
        raise NotApplicable(
            "Models learn the rows of --pool with their classes; these have none. Give .npz with x and y."
        )
    return Rows(experiment.pool, experiment.pool_labels)


def _continued(out: Path, begun: dict[str, Any]) -> dict[str, Any]:
    """What the folder holds so far of the same command; InputError where it holds something else."""
    from portcullis_ml.core.errors import InputError
    from portcullis_ml.court.innocents import read_manifest

    out.mkdir(parents=True, exist_ok=True)
    found = read_manifest(out)
    if found is None:
        if any(out.iterdir()):
            raise InputError(f"{out} holds other files. Name a new or an empty folder.")
        return {**begun, "models": []}
    if {name: value for name, value in found.items() if name != "models"} != json.loads(json.dumps(begun)):
        raise InputError(f"{out} holds innocent models of other rows or settings. Name a new folder.")
    return found


def _trained(trainer: Any, rows: Rows, experiment: Experiment, seed: int, stem: str) -> Any:
    import numpy as np

    from portcullis_ml.core.errors import InputError
    from portcullis_ml.core.randomness import derive

    interface = experiment.interface
    targets = np.eye(interface.n_classes)[rows.y]
    model = trainer.fit(rows.x, targets, rng=derive(seed, "innocent model", stem))
    if (tuple(model.input_shape), model.n_classes) != (interface.input_shape, interface.n_classes):
        raise InputError(
            f"A model of {interface.input_shape} and {interface.n_classes} classes was expected of the learner; it "
            f"makes one of {tuple(model.input_shape)} and {model.n_classes}. Name another with --learner."
        )
    return model


def _said(out: Path, experiment: Experiment, rows: dict[str, int]) -> dict[str, Any]:
    """How many there are, how they answer beside the victim, and whether they differ at all."""
    from portcullis_ml.court.innocents import Innocents
    from portcullis_ml.models.load import load_model

    interface, innocents = experiment.interface, Innocents.of([str(out)])
    known: dict[str, Any] = {"input_shape": interface.input_shape, "n_classes": interface.n_classes}
    answers = [
        load_model(name, **known, features=interface.features).scores(experiment.test_x) for name in innocents.names
    ]
    victim = experiment.model.scores(experiment.test_x).argmax(axis=1)
    alike = [float((answer.argmax(axis=1) == victim).mean()) for answer in answers]
    found: dict[str, Any] = {"folder": str(out), **innocents.to_json()}
    found["trained_on"] = rows
    found["agree_with_the_victim"] = f"{min(alike):.1%} to {max(alike):.1%} of {len(victim)} rows"
    own = {answer.tobytes() for answer, learnt in zip(answers, innocents.learnt, strict=True) if learnt}
    if len(own) == 1:
        found["note"] = (
            "Every seed gives the same model of the owner's rows: no scheme can tell a copy from a model that was "
            "trained on them honestly."
        )
    return found
