"""Exact match with the training text, beside a plain search."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.measures.memorized import copied_runs, documents_holding, eidetic_precision


def test_documents_are_counted_as_a_plain_search_counts_them() -> None:
    rng = np.random.default_rng(0)
    documents = ["".join(rng.choice(list("ab"), 30)) for _ in range(12)]
    samples = ["".join(rng.choice(list("ab"), 12)) for _ in range(40)] + ["", "ab"]
    plain = []
    for text in samples:
        counts = [sum(text[i : i + 7] in d for d in documents) for i in range(len(text) - 6)]
        plain.append(min((c for c in counts if c), default=0))
    found = documents_holding(samples, documents, 7)
    assert found.tolist() == plain
    assert {0, 1, 2} <= set(found.tolist())


def test_a_string_repeated_within_one_document_counts_once_and_common_text_is_no_secret() -> None:
    holding = documents_holding(["secret", "notice", "nought"], ["secret secret", "notice", "notice"], 6)
    assert holding.tolist() == [1, 2, 0]
    precision = eidetic_precision(holding, [0, 1, 2], 1)
    assert (precision.value, precision.n) == (pytest.approx(1 / 3), 3)
    assert eidetic_precision(holding, [1, 2], 2).value == 0.5


def test_the_longest_copied_run_is_that_of_a_plain_search() -> None:
    rng = np.random.default_rng(1)
    documents = ["".join(rng.choice(list("abc"), 20)) for _ in range(5)]
    samples = ["".join(rng.choice(list("abcd"), 12)) for _ in range(30)] + ["", "d"]
    found = copied_runs(samples, documents)
    for text, (start, length, document) in zip(samples, found, strict=True):
        runs = [text[i:j] for i in range(len(text)) for j in range(i, len(text) + 1)]
        assert length == max((len(run) for run in runs if any(run in d for d in documents)), default=0)
        run = text[start : start + length]
        assert document == next((i for i, d in enumerate(documents) if run and run in d), -1)


def test_no_run_goes_from_one_document_to_the_next() -> None:
    assert copied_runs(["abcd"], ["xab", "cdx"]) == [(0, 2, 0)]


def test_a_run_of_no_characters_is_refused() -> None:
    with pytest.raises(ParameterError, match="at least 1 character"):
        documents_holding(["a"], ["a"], 0)
