"""Shadow models: trained like a victim, on rows of which it is known who was trained on what.

Shokri, Stronati, Song, Shmatikov. "Membership Inference Attacks Against Machine Learning Models", IEEE S&P 2017. Each
row is in exactly half of the models: they come in pairs, of which one gets a random half of the rows and the other the
rest. Kept in a folder, they say what they were trained on, and are refused where other rows are asked about.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.artifacts import ABOUT, Artifact
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Array, Feature, Labels, Learner, Model, Rows

__all__ = ["Shadows", "load_shadows", "paired_halves", "rows_to_train_on", "save_shadows", "train_shadows"]

HELD = "held.npy"


@dataclass(frozen=True)
class Shadows:
    """Models, and which rows each was trained on: `held` (models, rows)."""

    models: Sequence[Model]
    held: NDArray[np.bool_]


def paired_halves(models: int, n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(models, n) such that every column is true in exactly half of an even number of models."""
    halves = np.stack([rng.permutation(n) < n // 2 for _ in range(models // 2)])
    return np.stack([halves, ~halves], axis=1).reshape(models, n)


def rows_to_train_on(candidates: Rows, knowledge: Knowledge, most: int) -> Rows:
    """The rows that an attacker can train shadows on: the candidates, then the labelled pool without those in it."""
    assert candidates.y is not None
    if knowledge.pool is None or knowledge.pool_groups is None:
        return candidates
    ours = {row.tobytes() for row in np.ascontiguousarray(candidates.x)}
    new = np.array([row.tobytes() not in ours for row in np.ascontiguousarray(knowledge.pool)], bool)
    pool, groups = knowledge.pool[new][:most], np.asarray(knowledge.pool_groups)[new][:most]
    return Rows(np.concatenate([candidates.x, pool]), np.concatenate([candidates.y, groups.astype(np.int64)]))


def train_shadows(
    learner: Learner,
    x: Array,
    y: Labels,
    n_classes: int,
    *,
    models: int,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> Shadows:
    """An even number of models trained by `learner`, each on one half of the rows x (n, ...) with classes y (n,).

    progress(steps done, steps in all). Networks of one kind are trained together.
    """
    held = paired_halves(models, len(x), rng)
    if type(learner).__name__ == "TorchLearner":
        from portcullis_ml.models.together import fit_together, stackable

        if stackable(learner, tuple(x.shape[1:]), n_classes):  # type: ignore[arg-type]
            return Shadows(fit_together(learner, x, y, n_classes, held, rng=rng, progress=progress), held)  # type: ignore[arg-type]
    targets, found = np.eye(n_classes)[y], []
    for i, mine in enumerate(held):
        found.append(learner.fit(x[mine], targets[mine], rng=rng))
        if progress:
            progress(i + 1, models)
    return Shadows(found, held)


def save_shadows(shadows: Shadows, folder: Path, learner: Learner, x: Array, y: Labels) -> Artifact:
    """Write the models into a new folder, with what they were trained on; InputError for a kind without a format."""
    from portcullis_ml.models.load import save_model

    folder.mkdir(parents=True)
    for i, model in enumerate(shadows.models):
        save_model(model, folder / f"model-{i:03d}")
    np.save(folder / HELD, np.packbits(shadows.held, axis=1), allow_pickle=False)
    about = _about(learner, x, y) | {"models": len(shadows.models), "n_classes": shadows.models[0].n_classes}
    about["table"] = hasattr(shadows.models[0], "columns")  # a pipeline over named columns, which needs their schema
    (folder / ABOUT).write_text(json.dumps(about, indent=1))
    return Artifact.at(str(folder))


def load_shadows(
    artifact: Artifact, learner: Learner | None, x: Array, y: Labels, features: Sequence[Feature] | None = None
) -> Shadows:
    """The models in a folder; `features` are the columns of a table. InputError where they were trained on other rows,
    or by another learner."""
    from portcullis_ml.models.load import load_model

    content = artifact.read()
    wanted = _about(learner, x, y)
    for word, what in (("rows", "other rows than are audited"), ("learner", "another learner than this attacker's")):
        if wanted[word] is not None and content.about.get(word) != wanted[word]:
            raise InputError(
                f"The shadow models in {artifact.path} were trained with {what}, so they say nothing here. Leave the "
                "setting out to train them anew, or name the right folder."
            )
    names = sorted(name for name in content.files if name.startswith("model-"))
    classes = int(content.about["n_classes"])
    known: dict[str, Any] = {"input_shape": x.shape[1:], "n_classes": classes}
    known |= {"features": features} if content.about.get("table") else {}
    found = [load_model(str(Path(artifact.path) / name), **known) for name in names]
    packed = np.load(io.BytesIO(content.files[HELD]), allow_pickle=False)
    return Shadows(found, np.unpackbits(packed, axis=1, count=len(x)).astype(bool))


def _about(learner: Learner | None, x: Array, y: Labels) -> dict[str, Any]:
    import hashlib

    digest = hashlib.sha256(f"{x.shape}".encode())
    digest.update(np.ascontiguousarray(x, np.float64).data)
    digest.update(np.ascontiguousarray(y, np.int64).data)
    named: Any = None
    if learner is not None:
        named = learner.about() if hasattr(learner, "about") else describe(learner)
    return {"rows": digest.hexdigest(), "learner": json.loads(json.dumps(named))}
