"""The screen of a model that somebody else trained: train clean models as it is said to be trained, and compare.

Song, Ristenpart, Shmatikov. "Machine Learning Models that Remember Too Much", CCS 2017; the tests are those of
`measures/screening.py`. Every clean model is screened too, beside the others, which says how often clean models are
accused here. What was seen of a clean model is kept in a folder, and a model that is there is not trained again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.rows import read_rows
from portcullis_ml.core.errors import InputError, PortcullisError
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Array, Estimate, Rows
from portcullis_ml.measures.screening import (
    LEAST,
    Finding,
    Portrait,
    far_rows,
    portrait,
    screen,
    suspicious,
    weights_of,
)
from portcullis_ml.measures.statistics import clopper_pearson
from portcullis_ml.models.learners import learner_named
from portcullis_ml.models.load import load_model

__all__ = ["Screened", "run_screen"]

FAR = 200  # rows of each kind that answers are compared on


@dataclass(frozen=True)
class Screened:
    """What a screen found.

    findings      what every test says of the model; `accusing` those that speak against it
    clean         test -> clean models that it accuses, and "any" for all tests together, out of all of them
    rounded       whether the weights were in half precision, so that their low bits hold nothing
    """

    findings: Sequence[Finding]
    accusing: Sequence[Finding]
    clean: Mapping[str, Estimate]
    rounded: bool


def run_screen(
    model: str,
    train: str,
    learners: Sequence[str],
    *,
    target: str | None = None,
    models: int = 20,
    rate: float = 0.01,
    seed: int = 0,
    device: str = "cpu",
    out: Path,
    progress: Callable[[int, int], None],
) -> Screened:
    """Screen the model that `model` names beside clean ones trained on the rows in `train` by each of the learners."""
    if models <= LEAST:
        raise InputError(
            f"A screen was expected to train at least {LEAST + 1} clean models, each of which is screened beside the "
            f"others; got {models}. Give --models a larger number."
        )
    makers = [learner_named(word, device) for word in learners]
    rows = _rows(train, target)
    suspect = _loaded(model, rows)
    far = far_rows(rows.x, FAR, rng=derive(seed, "far rows"))
    own = portrait(weights_of(suspect), suspect, far)
    shapes = [w.shape for w in weights_of(suspect)]
    clean = []
    for i in range(models):
        clean.append(_clean(makers[i % len(makers)], rows, far, shapes, i, seed, out))
        progress(i + 1, models)
    findings = screen(own, clean)
    judged = [suspicious(screen(c, clean[:i] + clean[i + 1 :]), rate) for i, c in enumerate(clean)]
    accused = {
        f.test: clopper_pearson(sum(any(g.test == f.test for g in found) for found in judged), models, unit="models")
        for f in findings
    }
    accused["any"] = clopper_pearson(sum(map(bool, judged)), models, unit="models")
    return Screened(findings, suspicious(findings, rate), accused, own.half_precision)


def _rows(train: str, target: str | None) -> Rows:
    found = read_rows("training set", Path(train), target=target, part="train")
    if found.y is None:
        raise InputError(f"A screen trains clean models, which needs classes; {train} holds rows without y. Add them.")
    if found.y.min() < 0 or len(np.unique(found.y)) < 2:
        raise InputError(
            f"The training set was expected to hold classes from 0, two or more of them; {train} does not."
        )
    return Rows(found.x, found.y)


def _loaded(spec: str, rows: Rows) -> Any:
    """The model, whose weights can be read. InputError for any other kind."""
    assert rows.y is not None
    given: dict[str, Any] = {"input_shape": rows.x.shape[1:]}
    if "@" in spec or ":" in spec:
        given["n_classes"] = int(rows.y.max()) + 1
    try:
        model = load_model(spec, **given)
        model.scores(rows.x[:2])
    except PortcullisError:
        raise
    except Exception as error:  # somebody's own module may raise anything
        raise InputError(
            f"{spec} was expected to answer the training rows, of {rows.x.shape[1:]}; it cannot "
            f"({type(error).__name__}: {str(error)[:100]}). Give the rows in the shape that it takes."
        ) from error
    if not hasattr(model, "module"):
        raise InputError(
            f"A screen reads the weights of a PyTorch network; {spec} is a {type(model).__name__}, which has none that "
            "it can read. Give FILE.safetensors, FILE.safetensors@module:factory, or a torch module as module:object."
        )
    return model


def _clean(
    learner: Any, rows: Rows, far: Mapping[str, Array], shapes: Sequence[Any], i: int, seed: int, out: Path
) -> Portrait:
    """What is seen of the i-th clean model, kept under what it follows from."""
    assert rows.y is not None
    digest = hashlib.sha256(json.dumps([describe(learner), rows.x.shape, FAR, i, seed, *shapes]).encode())
    digest.update(np.ascontiguousarray(rows.x).data)
    digest.update(np.ascontiguousarray(rows.y).data)
    path = out / f"clean-{digest.hexdigest()[:16]}.json"
    if path.is_file():
        return Portrait.of_json(json.loads(path.read_text()))
    model = learner.fit(rows.x, np.eye(int(rows.y.max()) + 1)[rows.y], rng=derive(seed, "clean model", str(i)))
    if not hasattr(model, "module"):
        raise InputError(
            f"--learner was expected to train a PyTorch network, as the model is one; this one made a "
            f'{type(model).__name__}. Write it as "network(network=NAME, epochs=N)".'
        )
    found = [w.shape for w in weights_of(model)]
    if found != list(shapes):
        raise InputError(
            f"Clean models were expected to have the model's matrices, {_said(shapes)}; --learner made {_said(found)}. "
            "Name the network that the model is, and its training rows."
        )
    seen = portrait(weights_of(model), model, far)
    out.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(seen.to_json()))
    partial.replace(path)
    return seen


def _said(shapes: Sequence[Any]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes[:6]) + (", ..." if len(shapes) > 6 else "")
