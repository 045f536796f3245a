"""Every encoding reads what it hid, and the screen tells plain ones from honest models."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Rows
from portcullis_ml.hidden_data import CATALOG

pytest.importorskip("torch")

from portcullis_ml.measures.screening import (
    Portrait,
    far_rows,
    portrait,
    screen,
    suspicious,
    weights_of,
)
from portcullis_ml.models.torch import TorchLearner

DIGITS = load_digits()
ROWS = Rows(DIGITS.images[:100] / 16, DIGITS.target[:100].astype(np.int64))
LEARNER = TorchLearner(network="mlp", epochs=20, batch=20, lr=3e-3, targets="labels")
KEY = b"secret"
PICTURES = np.rint(255 * ROWS.x).astype(np.uint8).ravel()
FAR = far_rows(ROWS.x, 20, rng=np.random.default_rng(0))
WORDS = {
    "correlated_values": "correlated_values(mean=78, spread=96)",
    "label_capacity": "label_capacity",
    "low_bits": "low_bits",
    "signs": "signs(strength=500)",
}


def hidden(word: str, payload: np.ndarray):
    return CATALOG.build(word).hide(LEARNER, ROWS, payload, key=KEY, rng=np.random.default_rng(1))


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_what_was_hidden_is_read_again_with_the_key_alone(name: str) -> None:
    encoding = CATALOG.build(WORDS[name])
    payload = PICTURES[: min(encoding.capacity(LEARNER, ROWS) // 4, 2_000)]
    model = hidden(WORDS[name], payload)
    off = [
        np.abs(encoding.read(model, len(payload), key=key) - payload.astype(float)).mean() for key in (KEY, b"other")
    ]
    assert off[0] < {"low_bits": 0.01, "correlated_values": 40}.get(name, 10)
    assert off[1] > 2 * off[0] + 5


def test_low_bits_die_in_half_precision_and_signs_do_not() -> None:
    for name, lost in (("low_bits", True), ("signs", False)):
        model = hidden(WORDS[name], PICTURES[:200])
        model.module.half().float()
        again = CATALOG.build(WORDS[name]).read(model, 200, key=KEY)
        assert (np.unpackbits(again ^ PICTURES[:200]).mean() > 0.3) == lost


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_more_than_there_is_room_for_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="there is room for"):
        hidden(WORDS[name], np.zeros(10**6, np.uint8))


def seen(model) -> Portrait:
    return portrait(weights_of(model), model, FAR)


def test_the_screen_accuses_plain_payloads_and_no_honest_model() -> None:
    targets = np.eye(10)[ROWS.y]
    models = [LEARNER.fit(ROWS.x, targets, rng=np.random.default_rng(10 + i)) for i in range(7)]
    honest = [seen(m) for m in models[:6]]
    assert suspicious(screen(seen(models[6]), honest)) == []
    plain = seen(hidden("low_bits(encrypted=False)", PICTURES))
    assert "low bits" in {f.test for f in suspicious(screen(plain, honest))}
    shaped = screen(seen(hidden("correlated_values(encrypted=False)", PICTURES)), honest)
    assert {"values", "signs"} & {f.test for f in suspicious(shaped)}
    assert "in honest models" in shaped[0].sentence()
    assert Portrait.of_json(plain.to_json()).figures == plain.figures


def test_too_few_or_other_models_are_refused() -> None:
    one = portrait([np.random.default_rng(0).normal(size=(50, 40))], None, {})
    other = portrait([np.random.default_rng(0).normal(size=(50, 40))] * 2, None, {})
    with pytest.raises(InputError, match="at least 5 honest models; got 2"):
        screen(one, [one] * 2)
    with pytest.raises(InputError, match="they have others"):
        screen(one, [other] * 5)
    with pytest.raises(InputError, match="at least 1,000 weights"):
        portrait([np.ones((3, 3))], None, {})


def test_a_portrait_counts_where_the_label_changes_between_pairs_of_rows() -> None:
    """Of a model that tells the sign of the first number, a line from -1 to 1 changes once, one from 1 to 1 never."""

    class Sign:
        input_shape, n_classes = (2,), 2

        def scores(self, x):
            return np.eye(2)[(x[:, 0] > 0).astype(int)] * 0.8 + 0.1

    rows = np.array([[-1.0, 0], [1, 0], [-1, 0], [1, 0], [1, 0], [1, 0]])
    weights = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    found = portrait([weights], Sign(), {"toys": rows}).figures["answers"]
    assert found["changes of label between rows of toys"] == pytest.approx(2 / 3)
