"""Whether a sample was trained on, by exact match: in how many documents a long run of it stands.

Carlini et al. "Extracting Training Data from Large Language Models", USENIX Security 2021: a string is k-eidetic
memorized when it can be extracted and stands in at most k documents, however often within them. A run that stands in
many documents is common text and nobody's secret.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.types import Estimate
from portcullis_ml.measures.statistics import clopper_pearson

__all__ = ["copied_runs", "documents_holding", "eidetic_precision"]

BETWEEN = "\0"  # stands between documents, so that no run goes from one to the next


def documents_holding(samples: Sequence[str], documents: Sequence[str], length: int) -> NDArray[np.int64]:
    """(n,) the number of documents that hold a run of `length` characters of the sample, the rarest; 0 if none does."""
    if length < 1:
        raise ParameterError("length", "at least 1 character", length)
    runs = [{text[i : i + length] for i in range(len(text) - length + 1)} for text in samples]
    counts = dict.fromkeys(set().union(*runs), 0)
    for document in documents:
        for run in {document[i : i + length] for i in range(len(document) - length + 1)} & counts.keys():
            counts[run] += 1
    held = [[counts[run] for run in own if counts[run]] for own in runs]
    return np.array([min(found, default=0) for found in held], np.int64)


def eidetic_precision(holding: NDArray[np.int64], kept: Sequence[int], k: int) -> Estimate:
    """The share of the kept samples that hold a run which stands in at least one and at most k documents."""
    chosen = holding[np.asarray(kept, np.int64)]
    return clopper_pearson(int(((chosen >= 1) & (chosen <= k)).sum()), len(chosen), unit="samples")


def copied_runs(samples: Sequence[str], documents: Sequence[str]) -> list[tuple[int, int, int]]:
    """For every sample (start, length, document): its longest run that stands in a document, and the first that has it.

    The document is -1 where not one character of the sample stands in any.
    """
    whole = BETWEEN.join(documents)
    found = []
    for sample in samples:
        start, length = 0, 0
        for i in range(len(sample)):
            while i + length < len(sample) and sample[i : i + length + 1] in whole:
                start, length = i, length + 1
        run = sample[start : start + length]
        document = whole.count(BETWEEN, 0, whole.index(run)) if run else -1
        found.append((start, length, document))
    return found
