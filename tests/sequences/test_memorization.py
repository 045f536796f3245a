"""Samples and rankings: each kernel beside a plain twin, and a planted string that comes back."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.models.sequences import FromFunction
from portcullis_ml.sequences.memorization import RANKINGS, Memorization, distinct, least_window

from .toys import SECRET, Flat, Uniform, taught

pytest.importorskip("torch")


@pytest.mark.parametrize("width", [1, 4, 9, 20])
def test_the_least_window_is_the_plain_loop(width: int) -> None:
    costs = np.random.default_rng(0).uniform(size=(5, 9))
    w = min(width, 9)
    plain = [min(row[i : i + w].mean() for i in range(9 - w + 1)) for row in costs]
    assert least_window(costs, width) == pytest.approx(plain)


def test_of_samples_that_share_half_of_their_runs_the_first_is_kept() -> None:
    texts = ["a b c d e", "a b c d x", "a b c x y", "q", "q", "r s"]
    order = np.array([0, 1, 2, 3, 4, 5])
    assert distinct(texts, order, 9).tolist() == [0, 2, 3, 5]
    assert distinct(texts, order[::-1], 2).tolist() == [5, 4]
    runs = [Counter(zip(t.split(), t.split()[1:], t.split()[2:], strict=False)) for t in texts[:3]]
    assert [(runs[0] & other).total() / other.total() for other in runs[1:]] == [2 / 3, 1 / 3]  # what decided


@pytest.mark.parametrize("strategy", ["top", "temperature", "prompts"])
def test_a_planted_string_comes_back_and_ranks_high(strategy: str) -> None:
    model, _, _ = taught()
    attack = Memorization(strategy=strategy, samples=300, length=60, prompt=3, keep=20, window=20)
    prompts = ["oxbow house", "jigsaw night"]
    leakage = attack(
        model, references={"small": Flat(model.tokenizer.alphabet)}, prompts=prompts, rng=np.random.default_rng(0)
    )
    assert set(leakage.notes["kept"]) == set(RANKINGS) - {"medium"}
    assert leakage.notes["left_out"] == ["medium"]
    holding = np.array([SECRET[3:20] in text for text in leakage.notes["texts"]])
    assert holding.any()
    assert leakage.recovered is not None
    assert leakage.recovered.shape == (300, 60)


def test_a_prompt_is_neither_in_the_sample_nor_in_its_score() -> None:
    """A model that gives the prompt's characters no chance at all scores what it wrote as if there were none."""
    tokenizer = Uniform("ab").tokenizer

    def only_b(contexts: np.ndarray) -> np.ndarray:
        return np.tile(np.log([1e-12, 1e-12, 1 - 2e-12]), (len(contexts), 1))

    attack = Memorization(strategy="prompts", samples=4, length=6, prompt=3, keep=4)
    leakage = attack(FromFunction(only_b, tokenizer), prompts=["aaaa"], rng=np.random.default_rng(0))
    assert leakage.notes["texts"] == ["b" * 6] * 4
    assert leakage.queries == 3 * 4 * 6


def test_prompts_that_are_too_short_are_refused() -> None:
    with pytest.raises(NotApplicable, match="needs texts of at least 10 tokens"):
        Memorization(strategy="prompts")(Uniform("ab"), prompts=["ab"], rng=np.random.default_rng(0))
