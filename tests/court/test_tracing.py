"""Tracing: eight licensees of one network, whose leaked copies name them, and nobody who has nothing to do with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.ownership import Key
from portcullis_ml.core.types import Array, Interface, Model, Rows
from portcullis_ml.court.naming import References, Source, holm
from portcullis_ml.court.tracing import trace
from portcullis_ml.models.torch import TorchLearner
from portcullis_ml.ownership._counted import at_most
from portcullis_ml.ownership.backdoor import Backdoor
from portcullis_ml.ownership.dawn import Dawn, DawnMarks

API = Interface(input_shape=(6,), n_classes=4)
SCHEME = Backdoor(n=100, repeat=20)
LEARNER = TorchLearner(network="table_mlp", epochs=50)
NAMES = ["ada", "ben", "cyd", "dan", "eve", "fay", "gus", "hal"]


def rows(n: int, seed: int) -> Rows:
    x = np.random.default_rng(seed).random((n, 6))
    return Rows(x, (x[:, 0] + x[:, 1] > 1) * 2 + (x[:, 2] > 0.5))


def fitted(data: Rows, seed: int, start: Model | None = None, epochs: int = 25) -> Model:
    learner = TorchLearner(network="table_mlp", epochs=epochs)
    return learner.fit(data.x, np.eye(4)[data.y], rng=np.random.default_rng(seed), start=start)


OWN = rows(300, 0)
BASE = fitted(OWN, 0)
KEYS = [SCHEME.mint(bytes([i + 1]) * 32, API) for i in range(len(NAMES))]
SOURCES = [Source(name, SCHEME, key.x, key.labels, 4) for name, key in zip(NAMES, KEYS, strict=True)]
LICENSED = {
    name: SCHEME.embed(key, LEARNER, OWN, BASE, rng=np.random.default_rng(i))
    for i, (name, key) in enumerate(zip(NAMES, KEYS, strict=True))
}
INNOCENT = [fitted(rows(300, 50 + i), i) for i in range(20)]


class Together:
    """What two copies answer together: their mean, or one for some rows and the other for the rest."""

    input_shape = (6,)
    n_classes = 4

    def __init__(self, one: Model, other: Model, *, mean: bool) -> None:
        self.one, self.other, self.mean = one, other, mean

    def scores(self, x: Array) -> Array:
        share = np.full((len(x), 1), 0.5) if self.mean else x.sum(axis=1, keepdims=True) * 1e3 % 2 > 1
        return np.asarray(share * self.one.scores(x) + (1 - share) * self.other.scores(x))


def asking(model: Model, room: int = 10**6) -> Callable[[Source], LocalOracle]:
    return lambda source: LocalOracle(model, API, budget=min(room, len(source.x)))


def names(model: Model) -> list[str]:
    return trace(SOURCES, asking(model), innocent=INNOCENT, licensed=LICENSED).names


@pytest.mark.parametrize("name", NAMES)
def test_every_copy_names_its_licensee_and_nobody_else(name: str) -> None:
    assert names(LICENSED[name]) == [name]


def test_a_copy_that_its_licensee_trained_on_names_them() -> None:
    tuned = fitted(rows(300, 9), 9, LICENSED["eve"], epochs=2)
    assert (tuned.scores(KEYS[4].x).argmax(axis=1) == KEYS[4].labels).mean() < 1
    assert names(tuned) == ["eve"]


def test_two_copies_of_which_each_answers_some_questions_name_both() -> None:
    both = Together(LICENSED["ben"], LICENSED["gus"], mean=False)
    found = trace(SOURCES, asking(both), innocent=INNOCENT, licensed=LICENSED)
    assert (found.word, found.names, found.code) == ("several", ["ben", "gus"], 0)
    assert "several copies, those of ben, gus" in found.sentence


def test_the_mean_of_two_copies_names_nobody_but_those_two() -> None:
    """One mark may drown in the other model's answers; that is no wrong name."""
    assert {"ben"} <= set(names(Together(LICENSED["ben"], LICENSED["gus"], mean=True))) <= {"ben", "gus"}


@pytest.mark.parametrize("which", ["another", "unmarked"])
def test_models_without_a_mark_name_nobody(which: str) -> None:
    suspect = BASE if which == "unmarked" else fitted(rows(300, 99), 99)
    found = trace(SOURCES, asking(suspect), innocent=INNOCENT, licensed=LICENSED)
    assert (found.word, found.names, found.code) == ("nobody", [], 1)


def test_innocents_and_cross_pairs_are_judged_and_counted() -> None:
    found = trace(SOURCES, asking(BASE), innocent=INNOCENT, licensed=LICENSED)
    assert (found.innocents, found.licensed, found.cross_pairs) == ((0, 20), (8, 8), (0, 56))
    wrong = found.to_json()["wrong_names"]
    assert wrong["innocents"]["at_most"] == pytest.approx(at_most(0, 20))
    assert wrong["cross_pairs"]["at_most"] == pytest.approx(1 - 0.05 ** (1 / 56))
    assert wrong["by_theory_at_most"] == 1e-3


def test_a_model_that_stands_under_a_wrong_name_is_counted_as_wrongly_named() -> None:
    """If the copies of two licensees were exchanged, the counts must say so, or they say nothing."""
    exchanged = {**LICENSED, "ada": LICENSED["ben"], "ben": LICENSED["ada"]}
    found = trace(SOURCES, asking(BASE), licensed=exchanged)
    assert found.licensed == (6, 8)
    assert found.cross_pairs[0] == 2


def test_a_suspect_that_stops_answering_is_inconclusive_and_says_so() -> None:
    found = trace(SOURCES, asking(BASE, room=3))
    assert (found.word, found.code) == ("inconclusive", 3)
    assert "3 answers of ada are too few among 8 keys" in found.sentence


def test_random_models_name_anybody_no_more_often_than_the_level() -> None:
    """With a null by theory alone and a level of 5%: at most 5% of the models, up to four standard errors."""
    rng = np.random.default_rng(0)
    sources = [Source(str(i), Backdoor(n=20), np.zeros((20, 6)), rng.integers(4, size=20), 4) for i in range(30)]
    empty = References(sources, np.zeros((0, 30), np.int64), [])
    tried = 1_000
    wrong = sum(
        min(f.adjusted for f in empty.findings(rng.binomial(20, 0.25, 30), np.full(30, 20))) < 0.05
        for _ in range(tried)
    )
    assert wrong / tried <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / tried)


def test_marks_in_answers_need_innocent_models_and_name_the_client() -> None:
    """Client b's questions were answered wrongly, and the copy has learnt it; everybody answers client a's so."""
    x, scheme = rows(40, 5).x, Dawn()
    said = BASE.scores(x).argmax(axis=1)
    keys: list[Key] = [DawnMarks(bytes(32), x[:20], said[:20], 4), DawnMarks(bytes(32), x[20:], (said[20:] + 1) % 4, 4)]
    sources = [Source(n, scheme, k.x, k.labels, 4) for n, k in zip("ab", keys, strict=True)]  # type: ignore[attr-defined]
    copy = fitted(Rows(np.concatenate([OWN.x, np.tile(x[20:], (20, 1))]),
                       np.concatenate([OWN.y, np.tile((said[20:] + 1) % 4, 20)])), 3)  # fmt: skip
    assert trace(sources, asking(copy), innocent=INNOCENT).names == ["b"]
    alone = trace(sources, asking(copy), innocent=INNOCENT[:19])
    assert (alone.word, alone.names) == ("inconclusive", [])
    assert "dawn needs 20 innocent models to compare with, and 19 were given." in alone.sentence


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
