"""How often a hidden column was guessed, beside what is known of it without the model.

Yeom, Giacomelli, Fredrikson, Jha. "Privacy Risk in Machine Learning", IEEE CSF 2018, section 4. Right guesses mean
little by themselves: most people's values follow from their other columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Estimate
from portcullis_ml.measures.statistics import clopper_pearson, mean_of

__all__ = ["attribute_measures"]

Codes = NDArray[np.int64]


def attribute_measures(
    guessed: Codes, truth: Codes, imputed: Codes, usual: int, member: NDArray[np.bool_]
) -> dict[str, Estimate]:
    """Measures of guesses (n,), the truth, guesses without the model, and the most frequent value; who is a member.

    guessed      the share of the members that the attack guesses right
    imputed      the same without the model;  majority: by always saying what is most frequent
    gain         how much more often the attack is right than imputation, over the same members
    gain_others  the same over those who were not trained on: what the model tells of anybody
    """
    found = {}
    for name, guess in (("guessed", guessed), ("imputed", imputed), ("majority", np.full(len(truth), usual))):
        right = guess[member] == truth[member]
        found[name] = clopper_pearson(int(right.sum()), int(member.sum()), unit="members")
    difference = (guessed == truth).astype(float) - (imputed == truth)
    found["gain"] = mean_of(difference[member], unit="members", within=(-1, 1))
    found["gain_others"] = mean_of(difference[~member], unit="non-members", within=(-1, 1))
    return found
