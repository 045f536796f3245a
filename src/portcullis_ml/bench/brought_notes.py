"""Sentences about a victim that somebody brought: how its answers were read, and what became of its rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from portcullis_ml.bench.rows import LabelledRows
from portcullis_ml.core.types import Array, Labels, Model
from portcullis_ml.models.booster import BoosterEstimator
from portcullis_ml.models.onnx import OnnxModel
from portcullis_ml.models.outputs import are_probabilities

__all__ = ["of_dropped", "of_scores", "of_words"]


def of_scores(model: Model, x: Array, y: Labels, scores: Array, *, softmax: bool) -> Iterator[str]:
    """Whether the answers to rows x were taken for probabilities, beside what they would be as logits."""
    sure = getattr(model, "reading", "") == "probabilities" and are_probabilities(scores)
    if hasattr(model, "module") and not softmax and sure:
        yield (
            "The module's own answers sum to 1 and were taken as probabilities: log loss "
            f"{_log_loss(scores, y):.2f}, and {_log_loss(_softmax(scores), y):.2f} were they logits."
        )
    elif softmax and _unneeded(model, x):
        yield ("--softmax was not needed: the victim's answers already sum to 1, and were left as they are.")


def _unneeded(model: Model, x: Array) -> bool:
    """Whether a model that was said to give logits gives probabilities."""
    if isinstance(model, OnnxModel):
        return not model.needs_softmax(x)
    return getattr(model, "reading", "logits") == "probabilities"


def _softmax(scores: Array) -> Array:
    from scipy.special import softmax

    return np.asarray(softmax(scores, axis=1))


def _log_loss(p: Array, y: Labels) -> float:
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean())


def of_words(test: LabelledRows, model: Model) -> Iterator[str]:
    """Words that go to the victim as bare codes, since it has no encoder for them."""
    columns = getattr(model, "columns", None)
    if columns is None or test.features is None:
        return
    bare = [c.feature.name for c in columns if c.feature.categorical and c.values is None]
    if bare:
        yield (
            f"{', '.join(bare[:4])} hold words, and the victim has no encoder for them: they are sent as codes 0, 1, "
            "2, ... in alphabetical order. Another order: `values` in a --schema."
        )


def of_dropped(what: str, rows: LabelledRows | None, model: Model) -> Iterator[str]:
    if rows is not None and rows.dropped:
        where = ", ".join(rows.lacking[:3]) + (", ..." if len(rows.lacking) > 3 else "")
        boosted = isinstance(getattr(model, "estimator", None), BoosterEstimator)  # it would answer a missing number
        why = "a row is asked with all its numbers" if boosted else "the victim does not know a missing value there"
        total = rows.dropped + len(rows)
        yield f"{what} lost {rows.dropped:,} of {total:,} rows, which lack a value in {where}: {why}."
