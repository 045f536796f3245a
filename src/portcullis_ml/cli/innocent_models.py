"""What `portcullis watermark innocents` does: train whoever is missing in a folder, and say what came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
    from portcullis_ml.core.types import Rows

__all__ = ["made"]


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
        "learner": word, "seed": seed, "epochs": epochs, "classes": experiment.interface.n_classes,
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
        if epochs is not None and not hasattr(found, "epochs"):
            raise InputError(f"--epochs is a setting of networks; {word} has none. Leave it out.")
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
    if "others" in rows and experiment.overlap:
        found["overlap"] = f"{experiment.overlap} rows of --pool are the owner's as well; leave them out"
    own = {answer.tobytes() for answer, learnt in zip(answers, innocents.learnt, strict=True) if learnt}
    if len(own) == 1:
        found["note"] = (
            "Every seed gives the same model of the owner's rows: no scheme can tell a copy from a model that was "
            "trained on them honestly."
        )
    return found
