"""`portcullis prepare`: trains what a defense needs, or a victim that is harder to steal, into a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portcullis_ml.cli import options as o

if TYPE_CHECKING:
    from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
    from portcullis_ml.bench.prepare import Training

__all__ = ["prepare"]


def prepare(
    unit: Annotated[
        str,
        typer.Argument(metavar="WORD", help="See `portcullis list recipes` and `hardening`; with settings, 'x(n=2)'."),
    ],
    victim: o.VictimOption = None,
    data: o.DataOption = None,
    data_folder: o.FolderOption = None,
    train: o.TrainOption = None,
    outside: o.OutsideOption = None,
    target: o.TargetOption = None,
    schema: o.SchemaOption = None,
    softmax: o.SoftmaxOption = False,
    classes: o.ClassesOption = None,
    output_name: o.OutputOption = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder for what is trained.")] = Path(
        "portcullis-prepared"
    ),
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a whole policy for the gate to this new file, in observe mode."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: o.DeviceOption = "cpu",
) -> None:
    """Train what a defense needs, or a victim that is harder to steal, on your own rows.

    \b
    portcullis prepare domain_filter --victim model.onnx --train train.npz --outside other.npz --out filter
    portcullis prepare outlier_exposure --data mnist --outside fashion_mnist --out hardened

    It prints the words that an audit takes and the lines that a policy takes; --policy portcullis.toml writes a whole
    one, which `portcullis check` explains and `portcullis serve` runs. --victim of audit and extract takes the
    folder of a hardened victim, and any model server the model.onnx in it.
    """
    from portcullis_ml.cli.progress import waiting, watching
    from portcullis_ml.core.recipes import Hardening

    made = _named(unit)
    _must_be_free(out, policy)
    spec = _spec(
        victim=victim, data=data, folder=data_folder, train=train, outside=outside, target=target, schema=schema,
        softmax=softmax, classes=classes, output=output_name, device=device,
    )  # fmt: skip
    with waiting("Loading the victim; without one of yours, training one ..."):
        experiment = spec.load()
        training = _training(made, experiment, spec.device, seed)
    before = time.monotonic()
    with watching(quiet=as_json) as progress:
        artifact = training(out, _told(progress, made.name or "the unit"), key=training.key())
    found = {
        "unit": made.name,
        "artifact": str(artifact),
        "sha256": artifact.sha256,
        "seconds": round(time.monotonic() - before, 1),
        "use": _as_victim(out, artifact) if isinstance(made, Hardening) else _as_setting(made.name, str(artifact)),
        "about": artifact.read().about,
    }
    if policy is not None:
        _write_policy(policy, found["use"], experiment)
    typer.echo(json.dumps(found, indent=2)) if as_json else _show(found)


def _named(word: str) -> Any:
    """The recipe or hardening of that word; offers the nearest names on a miss."""
    import difflib

    from portcullis_ml.core.errors import ParameterError
    from portcullis_ml.core.recipes import Hardening, Recipe
    from portcullis_ml.hardening import CATALOG as HARDENING
    from portcullis_ml.recipes import CATALOG as RECIPES

    name = word.partition("(")[0].strip()
    if name in RECIPES or name in HARDENING or ":" in name:
        unit = (HARDENING if name in HARDENING else RECIPES).build(word)
        if isinstance(unit, Recipe | Hardening):
            return unit
    known = [*RECIPES, *HARDENING]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    expected = "one of those in `portcullis list recipes` or `portcullis list hardening`"
    raise ParameterError("WORD", expected, name, f"Did you mean {' or '.join(near)}?")


def _must_be_free(out: Path, policy: Path | None) -> None:
    """Raise InputError before anything is trained for a folder or file that cannot be written."""
    from portcullis_ml.core.errors import InputError

    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"A new or an empty folder was expected at {out}; something is there. Choose another --out.")
    if policy is not None and policy.exists():
        raise InputError(f"A new file was expected at {policy}; something is there. Choose another --policy.")


def _spec(*, victim: str | None, train: str | None, **rest: Any) -> ExperimentSpec:
    """The spec of a victim and its own rows, which also stand where an audit has test rows."""
    if victim is not None and train is not None:
        from portcullis_ml.bench.rows import read_rows

        read_rows("training set", Path(train), target=rest["target"], part="train")  # else called the test set
    return o.spec_of(victim=victim, test=train, pool=None, train=train, **rest)


def _training(unit: Any, experiment: Experiment, device: str, seed: int) -> Training:
    from portcullis_ml.bench.experiment import victims_learner
    from portcullis_ml.bench.prepare import Training
    from portcullis_ml.core.recipes import Hardening
    from portcullis_ml.core.types import Rows

    return Training(
        unit=unit,
        given=victims_learner(experiment, device) if isinstance(unit, Hardening) else experiment.model,
        victim=experiment.names["victim"],
        rows=None if experiment.train is None else Rows(experiment.train, experiment.train_y),
        source=experiment.source,
        outside=experiment.outside.get("held_out") if unit.needs_outside else None,
        seed=seed,
    )


def _write_policy(path: Path, use: dict[str, str], experiment: Experiment) -> None:
    """A whole policy with what was trained; for a hardened victim, one that names the model to serve."""
    from portcullis_ml.bench.run_audit import interface_said
    from portcullis_ml.report import write_with_key
    from portcullis_ml.report.policy import policy_text

    head = f"# A policy for the gate, written by portcullis prepare. What it does: portcullis check {path.name}"
    guard = use.get("policy") or f"# the model to serve is the hardened one: {use.get('model server', use['audit'])}"
    said = interface_said(experiment, {"reveals": "probs"})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_with_key(policy_text(guard, experiment.names["victim"]["name"], said, head), path)


def _told(progress: Any, what: str) -> Callable[[int, int], None]:
    return lambda done, steps: progress.training(what, done, steps)


def _as_victim(out: Path, artifact: Any) -> dict[str, str]:
    """How a hardened victim is used."""
    onnx = out / "model.onnx"
    return {"audit": f"--victim '{artifact}'"} | ({"model server": str(onnx)} if onnx.is_file() else {})


def _as_setting(recipe: str, artifact: str) -> dict[str, str]:
    """How a trained artifact is used, by each defense or detector (in a watch) that takes it."""
    audits, policies = [], []
    for name, settings, detects in _takers(recipe, artifact):
        written = {setting: json.dumps(value) for setting, value in settings.items()}
        word = f"{name}({', '.join(f'{s}={v}' for s, v in written.items())})"
        lines = [f"{s} = {v}" for s, v in written.items()]
        if detects:
            word = f"watch(detector={word}, then=block)"
            lines = [f'detector = {{unit = "{name}", {", ".join(lines)}}}']
        audits.append(f"--defenses '{word}'")
        policies.append("\n".join(["[[guard]]", f'unit = "{"watch" if detects else name}"', *lines]))
    if not audits:
        return {"audit": json.dumps(artifact), "policy": json.dumps(artifact)}
    return {"audit": "\n".join(audits), "policy": "\n\n# or\n".join(policies)}


def _takers(recipe: str, artifact: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """(name, settings, whether it is a detector) of what takes a recipe's artifact. A setting that takes several names
    one in its metadata, and of the others what else must be set."""
    from portcullis_ml.defenses import CATALOG as DEFENSES
    from portcullis_ml.detectors import CATALOG as DETECTORS

    for catalog in (DEFENSES, DETECTORS):
        for name in catalog:
            for setting in fields(catalog.load(name)):
                if setting.metadata.get("recipe") == recipe:
                    yield name, {setting.name: artifact}, catalog is DETECTORS
                elif recipe in setting.metadata:
                    yield name, {**setting.metadata[recipe], setting.name: artifact}, catalog is DETECTORS


def _show(found: dict[str, Any]) -> None:
    about = found["about"]
    other = f" and {about['outside']['n']:,} outside rows" if about["outside"] else ""
    typer.echo(f"{found['unit']}: trained on {about['rows']['n']:,} own rows{other} in {found['seconds']} s.")
    for name, note in about["notes"].items():
        typer.echo(f"{name.replace('_', ' ')}: {note if isinstance(note, str) else json.dumps(note)}")
    typer.echo(f"artifact: {found['artifact']}")
    heads = {"audit": "In an audit", "policy": "In a policy", "model server": "For a model server"}
    for where, words in found["use"].items():
        typer.echo(f"\n{heads[where]}:\n{words}")
