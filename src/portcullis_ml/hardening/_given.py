"""What hardenings ask of the rows and the learner that they are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.types import Learner, Rows

if TYPE_CHECKING:
    from portcullis_ml.models.torch import TorchLearner

__all__ = ["network_learner", "several_classes"]


def several_classes(name: str, rows: Rows) -> int:
    """How many classes the labelled rows are of. InputError where they are all of one."""
    assert rows.y is not None  # `needs_labels` says so
    if len(np.unique(rows.y)) < 2:
        raise InputError(f"{name} was expected to get rows of 2 classes at least; got one class.")
    return int(rows.y.max()) + 1


def network_learner(name: str, given: Learner) -> TorchLearner:
    """The learner, which trains a network by name. NotApplicable where it trains anything else."""
    from portcullis_ml.models.networks import NETWORKS
    from portcullis_ml.models.torch import TorchLearner

    if not isinstance(given, TorchLearner) or given.network not in NETWORKS:
        raise NotApplicable(f"{name} needs a learner that trains one of `portcullis list networks`.")
    return given
