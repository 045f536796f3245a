"""Removal attacks: each does what its name says, on tiny networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from portcullis_ml.bench.removal import NOISE, OWNERS_HEAD, REMOVALS, TUNED, Thief, attacked, copied, noisy
from portcullis_ml.core.types import Array, Interface, Rows
from portcullis_ml.models.torch import TorchLearner, TorchModel

RNG = np.random.default_rng(0)
CENTRES = RNG.random((4, 6, 6))
API = Interface(input_shape=(6, 6), n_classes=4)
LEARNER = TorchLearner(network="mlp", epochs=12)


def rows_of(n: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    y = rng.integers(4, size=n)
    return Rows(np.clip(CENTRES[y] + 0.2 * rng.normal(size=(n, 6, 6)), 0, 1), y)


def fitted(rows: Rows, seed: int = 0) -> TorchModel:
    return LEARNER.fit(rows.x, np.eye(4)[rows.y], rng=np.random.default_rng(seed))


VICTIM = fitted(rows_of(200, 1))
TEST = rows_of(200, 2)
THIEF = Thief(API, rows_of(120, 3), rows_of(160, 4).x, LEARNER, replace(LEARNER, epochs=3))


def weights(model: TorchModel) -> list[np.ndarray]:
    return [value.numpy() for value in model.module.state_dict().values()]


def run(name: str, seed: int = 0) -> TorchModel:
    return REMOVALS[name](VICTIM, THIEF, np.random.default_rng(seed))


def accuracy(model: TorchModel) -> float:
    return float((model.scores(TEST.x).argmax(axis=1) == TEST.y).mean())


@pytest.mark.parametrize("name", REMOVALS)
def test_every_removal_leaves_a_model_that_works_and_the_stolen_one_as_it_was(name: str) -> None:
    before = [value.copy() for value in weights(VICTIM)]
    suspect = run(name)
    assert all(np.array_equal(a, b) for a, b in zip(before, weights(VICTIM), strict=True))
    scores = suspect.scores(TEST.x)
    assert scores.shape == (200, 4)
    assert np.isfinite(scores).all()
    if not name.startswith(("pruning 8", "pruning 9", "RTLL")):
        assert accuracy(suspect) > 0.5, "a thief wants a model that is of use; guessing has 0.25"


@pytest.mark.parametrize("name", sorted(set(REMOVALS) - {"none"}))
def test_every_removal_changes_the_model_and_follows_the_generator(name: str) -> None:
    one, same = run(name), run(name)
    assert any(not np.array_equal(a, b) for a, b in zip(weights(VICTIM), weights(one), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(weights(one), weights(same), strict=True))


@pytest.mark.parametrize(("name", "body_moves"), [("FTLL", False), ("RTLL", False), ("FTAL", True), ("RTAL", True)])
def test_only_training_of_all_layers_moves_the_body(name: str, body_moves: bool) -> None:
    *body, weight, bias = weights(run(name))
    *owners, own_weight, own_bias = weights(VICTIM)
    moved = any(not np.array_equal(a, b) for a, b in zip(body, owners, strict=True))
    assert moved is body_moves
    assert not np.array_equal(weight, own_weight)
    assert not np.array_equal(bias, own_bias)


def test_the_owners_last_layer_undoes_what_was_done_to_the_last_layer_alone() -> None:
    found = dict(attacked(VICTIM, THIEF, ["none", *TUNED], np.random.default_rng(0)))
    assert set(found) == {"none", *TUNED, *(name + OWNERS_HEAD for name in TUNED)}
    for name in TUNED:
        exact = np.array_equal(found[name + OWNERS_HEAD].scores(TEST.x), VICTIM.scores(TEST.x))
        assert exact is (name in ("FTLL", "RTLL"))


def test_copies_are_trained_on_answers_to_the_pool_alone() -> None:
    """A model that always answers 2 has copies that do, whatever the thief's own classes are."""

    class Two:
        input_shape, n_classes = (6, 6), 4

        def scores(self, x: Array) -> Array:
            return np.tile([0.0, 0.1, 0.9, 0.0], (len(x), 1))

    for labels in (False, True):
        copy = copied(Two(), THIEF, np.random.default_rng(0), labels=labels)  # type: ignore[arg-type]
        assert (copy.scores(TEST.x).argmax(axis=1) == 2).mean() > 0.95


def test_a_share_of_labels_is_drawn_anew() -> None:
    y = np.zeros(20_000, np.int64)
    after = noisy(y, 4, np.random.default_rng(0))
    assert (after != y).mean() == pytest.approx(NOISE * 3 / 4, abs=0.01)


def test_overwriting_brings_in_a_mark_of_the_thiefs() -> None:
    from portcullis_ml.ownership import CATALOG

    key = CATALOG.build("backdoor").mint(np.random.default_rng(0).bytes(32), API)
    marked = REMOVALS["overwriting"](
        VICTIM, replace(THIEF, tuner=replace(LEARNER, epochs=30)), np.random.default_rng(0)
    )
    share = [(m.scores(key.x).argmax(axis=1) == key.labels).mean() for m in (VICTIM, marked)]
    assert share[0] < 0.5 < 0.9 < share[1]
