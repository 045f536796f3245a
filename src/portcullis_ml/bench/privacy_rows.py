"""Rows that a privacy attack is asked about, and how rows that it rebuilt are judged by whoever knows the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.bench.experiment import Experiment
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.types import Array, Estimate, Labels, Model, Rows
from portcullis_ml.measures.attributes import attribute_measures
from portcullis_ml.measures.inversion import inversion_measures, means_and_nearest
from portcullis_ml.models.imputation import imputed

__all__ = ["Candidates", "guessed_measures", "hiding", "inverted_measures"]

NUMBERS = 50_000  # inputs in all beyond which a record keeps no pictures


@dataclass(frozen=True)
class Candidates:
    """Rows in the order in which they are asked, who of them is a member, and each one's place in its file."""

    rows: Rows
    member: NDArray[np.bool_]
    place: Labels


def hiding(rows: Rows, attack: Mapping[str, Any], experiment: Experiment) -> Rows:
    """The rows as the attack gets them: one that guesses a column sees NaN there."""
    names = [feature.name for feature in experiment.interface.features or ()]
    if attack.get("column") not in names:
        return rows
    x = rows.x.copy()
    x[:, names.index(attack["column"])] = np.nan
    return Rows(x, rows.y)


def guessed_measures(
    recovered: Array,
    rows: Rows,
    member: NDArray[np.bool_],
    pool: Rows | None,
    experiment: Experiment,
    column: str,
    *,
    rng: np.random.Generator,
) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """How often the hidden column was guessed, beside a forest that knows the same pool and never the model."""
    features = experiment.interface.features or ()
    place = [feature.name for feature in features].index(column)
    if pool is None or not len(pool):
        raise NotApplicable("What a model tells of a column is measured beside imputation, which needs a pool.")
    truth, guessed = (np.rint(x[:, place]).astype(np.int64) for x in (rows.x, recovered))
    without = imputed(pool, rows, place, features[place].categories, rng=rng).argmax(axis=1)
    usual = int(np.bincount(np.rint(pool.x[:, place]).astype(np.int64)).argmax())
    measures = attribute_measures(guessed, truth, without, usual, member)
    return measures, {"known_people": len(pool)}


def inverted_measures(
    recovered: Array,
    classes: Sequence[int],
    rows: Rows,
    member: NDArray[np.bool_],
    apart: Model | None,
    experiment: Experiment,
) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """Whether rebuilt inputs show their classes, and pictures of them beside class means and nearest members."""
    if rows.y is None or not member.any():
        raise NotApplicable("Rebuilt inputs are judged beside members of known classes; there are none.")
    x, y, wanted = rows.x[member], rows.y[member], np.array(classes)
    judged = None if apart is None else apart.scores(recovered).argmax(axis=1)
    measures = inversion_measures(recovered, wanted, x, y, judged)
    if recovered.size > NUMBERS:
        return measures, {}
    means, nearest = means_and_nearest(recovered, wanted, x, y)
    pictures = {"recovered": recovered, "means": means, "nearest": x[nearest]}
    shape = list(experiment.interface.input_shape)
    return measures, {"pictures": {k: _bytes(v, experiment) for k, v in pictures.items()} | {"shape": shape}}


def _bytes(rows: Array, experiment: Experiment) -> list[list[int]]:
    """Flat rows, every input from 0 to 255 within its range."""
    low, high = experiment.interface.low, experiment.interface.high
    share = (rows.reshape(len(rows), -1) - low) / np.where(high > low, high - low, np.inf)
    return np.rint(255 * np.clip(share, 0, 1)).astype(int).tolist()  # type: ignore[no-any-return]
