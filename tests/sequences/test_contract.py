"""What every attack on a model of text must do."""

from __future__ import annotations

import inspect
import sys

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.privacy import Leakage
from portcullis_ml.core.settings import describe
from portcullis_ml.models.sequences import FromFunction
from portcullis_ml.sequences import CATALOG

from .toys import FORM, Uniform

WORDS = {
    "canaries": 'canaries(prefix="code ", length=5, references=100)',
    "memorization": "memorization(samples=6, length=12, keep=4)",
}
NAMES = sorted(CATALOG)
MODEL = Uniform("code 0123456789")


def run(name: str, model: object = MODEL) -> Leakage:
    candidates = FORM.draw(3, rng=np.random.default_rng(0)) if name == "canaries" else ()
    return CATALOG.build(WORDS[name])(model, candidates, rng=np.random.default_rng(1))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_generator_gives_the_same_leakage(name: str) -> None:
    one, two = run(name), run(name)
    assert one.notes == two.notes
    for field in ("membership", "recovered"):
        a, b = getattr(one, field), getattr(two, field)
        assert (a is None and b is None) or np.array_equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_every_next_token_distribution_is_billed(name: str) -> None:
    asked = []

    def counting(contexts: np.ndarray) -> np.ndarray:
        asked.append(len(contexts))
        return MODEL.log_probs(contexts)

    leakage = run(name, FromFunction(counting, MODEL.tokenizer))
    assert leakage.queries == sum(asked)
    assert leakage.queries == {"canaries": (100 + 3) * 5, "memorization": 6 * 12 * 3}[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_without_log_probabilities_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"expected to give log_probs\(contexts\).*a dict does not"):
        run(name, {})


@pytest.mark.parametrize("name", NAMES)
def test_settings_survive_being_written_down(name: str) -> None:
    attack = CATALOG.build(WORDS[name])
    assert CATALOG.build(describe(attack)) == attack


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_says_what_a_reader_needs(name: str) -> None:
    text = inspect.getdoc(sys.modules[CATALOG.load(name).__module__]) or ""
    assert all(part in text for part in ("Threat model", "Query cost", "USENIX Security 20"))


def test_every_attack_has_a_setup() -> None:
    assert sorted(WORDS) == NAMES
