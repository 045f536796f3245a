"""Coherence: whether any two members of an ensemble agree on a row.

Kariyappa, Prakash, Qureshi. "Protecting DNNs from Theft Using an Ensemble of Diverse Models", ICLR 2021, the section on
the diversity objective: near 1 on the victim's own rows and low on foreign ones is what that training is for.

Threat model   none: the examiner holds the ensemble.
Query cost     none.
"""

from __future__ import annotations

import numpy as np

from portcullis_ml.core.types import Array

__all__ = ["coherence"]


def coherence(p: Array) -> Array:
    """(n,) the greatest cosine similarity of two members' probabilities p (n, members, classes): 1 where two agree."""
    unit = p / np.linalg.norm(p, axis=2, keepdims=True)
    first, second = np.triu_indices(p.shape[1], 1)
    return np.asarray((unit[:, first] * unit[:, second]).sum(axis=2).max(axis=1))
