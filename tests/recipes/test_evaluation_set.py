"""The evaluation set: rows of the owner's, labelled by the victim."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.types import Rows
from portcullis_ml.models.artifacts import unpack_arrays
from portcullis_ml.recipes.evaluation_set import EvaluationSet

from .toys import VICTIM, own


def test_it_holds_rows_of_the_owners_with_the_victims_labels() -> None:
    rows = Rows(own(300).x, np.zeros(300, np.int64))  # the true classes are not asked
    contents = EvaluationSet(rows=50)(VICTIM, rows, None, rng=np.random.default_rng(0))
    arrays = unpack_arrays(contents.files["set.safetensors"])
    x = arrays["x"].astype(np.float64)
    assert x.shape == (50, 4)
    assert np.abs(x[:, None] - rows.x).sum(axis=2).min(axis=1).max() < 1e-6
    assert len(np.unique(x[:, 0])) == 50
    np.testing.assert_array_equal(arrays["labels"], VICTIM.scores(x).argmax(axis=1))
    assert contents.about == {
        "rows": 50,
        "most_frequent_class": {"times": int(np.bincount(arrays["labels"]).max()), "of": 50},
        "leaves": (unpack_arrays(contents.files["tree.safetensors"])["feature"] < 0).sum(),
    }


def test_what_it_cannot_be_made_of_is_said() -> None:
    alike = Rows(np.repeat(own(1).x, 20, axis=0))
    with pytest.raises(InputError, match=r"the victim says 2 classes at least; it says \d of all 20\. Give others"):
        EvaluationSet()(VICTIM, alike, None, rng=np.random.default_rng(0))

    class Regression:
        input_shape, n_classes = (4,), 0

    with pytest.raises(NotApplicable, match="needs a victim that predicts classes"):
        EvaluationSet()(Regression(), own(), None, rng=np.random.default_rng(0))  # type: ignore[arg-type]
