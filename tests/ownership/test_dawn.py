"""DAWN's scheme: a copy made from one client's answers is convicted by that client's marks and by no other's."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from sklearn.tree import DecisionTreeClassifier

from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError, ProofError
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.ownership import Evidence, MarkLog
from portcullis_ml.core.types import Answer, Array, Interface
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.ownership.dawn import Dawn, DawnKey, DawnMarks

API = Interface(input_shape=(64,), n_classes=10)
X, Y = load_digits(return_X_y=True)
X = X / 16
ASKED = slice(600, 1600)
SECRET = bytes(range(32))
SCHEME = Dawn(rate=0.1, planes=16)
KEY = DawnKey(SECRET)


@cache
def victim() -> SklearnModel:
    return SklearnModel(MLPClassifier((16,), max_iter=150, random_state=0, tol=0.01).fit(X[:600], Y[:600]))


@cache
def innocents() -> tuple[SklearnModel, ...]:
    """Models of the same rows with their true classes."""
    rng = np.random.default_rng(0)
    chosen = [rng.permutation(1600)[:500] for _ in range(20)]
    return tuple(SklearnModel(DecisionTreeClassifier(random_state=0).fit(X[i], Y[i])) for i in chosen)


@cache
def stolen(client: str) -> tuple[Answer, MarkLog]:
    """What a client was answered, and what was written down of it."""
    guard = Guard(SCHEME.defense(KEY), key=bytes(32), quantum=1 / 255, interface=API)
    answer = LocalOracle(victim(), API, budget=1000, guard=guard, client=client).query(X[ASKED])
    return answer, SCHEME.log(guard.store.load((client, guard.names[0])))


def copy_of(client: str) -> SklearnModel:
    return SklearnModel(DecisionTreeClassifier(random_state=1).fit(X[ASKED], stolen(client)[0].labels))


def judged(suspect: SklearnModel, log: MarkLog, key: DawnKey | DawnMarks = KEY, n: int = 20) -> Evidence:
    oracle, rng = LocalOracle(suspect, API, budget=10_000), np.random.default_rng(0)
    return SCHEME(key, oracle, innocents()[:n], commitment=key.commit(), log=log, rng=rng)


def test_a_copy_of_a_clients_answers_is_convicted_by_their_marks_alone() -> None:
    found = judged(copy_of("thief"), stolen("thief")[1])
    assert found.verdict == "derived"
    assert found.p_value < 1e-20
    assert found.n == len(stolen("thief")[1].entries) > 50
    assert judged(copy_of("thief"), stolen("alice")[1]).verdict == "not shown"  # so it was not alice who leaked
    assert judged(victim(), stolen("thief")[1]).matches == 0  # the model itself is not marked


def test_no_innocent_model_is_accused() -> None:
    found = judged(innocents()[0], stolen("thief")[1])
    assert found.verdict == "not shown"
    assert (found.accused, found.tried) == (0, 20)


def test_the_key_of_registered_marks_says_what_the_log_says() -> None:
    log = stolen("thief")[1]
    key = SCHEME.registered(SECRET, log, API)
    assert len(key.vk()) == len(log.entries)
    named, logged = judged(copy_of("thief"), MarkLog(), key), judged(copy_of("thief"), log)
    assert (named.matches, named.n, named.p_value) == (logged.matches, logged.n, logged.p_value)


def test_too_few_marks_or_innocent_models_are_inconclusive() -> None:
    log = MarkLog()
    for entry in stolen("thief")[1].entries[:2]:
        log = log.append(entry)
    found = judged(copy_of("thief"), log)
    assert found.verdict == "inconclusive"
    nothing = judged(copy_of("thief"), MarkLog())
    assert (nothing.verdict, nothing.queries) == ("inconclusive", 0)
    assert "Nothing is marked of what this client was answered" in nothing.lacking
    assert "dawn needs 20 innocent models" in judged(copy_of("thief"), stolen("thief")[1], n=19).lacking


def test_bad_input_is_refused_in_a_sentence() -> None:
    log = stolen("thief")[1]
    with pytest.raises(NotApplicable, match="dawn has marked nothing of this client yet"):
        SCHEME.registered(SECRET, SCHEME.log(None), API)
    with pytest.raises(InputError, match=r"expected to hold questions of \(64,\) and classes below 3"):
        SCHEME.registered(SECRET, log, Interface(input_shape=(64,), n_classes=3))
    with pytest.raises(InputError, match="A log of dawn was expected to hold questions"):
        SCHEME.registered(SECRET, MarkLog().append(b"{}"), API)
    with pytest.raises(ProofError, match="do not lead to its head"):
        SCHEME.registered(SECRET, MarkLog(log.entries[1:], log.head), API)
    with pytest.raises(NotApplicable, match="dawn marks the answers of classifiers"):
        SCHEME.mint(SECRET, Interface(input_shape=(4,), n_classes=0, task="regression"))
    key, oracle = SCHEME.registered(SECRET, log, API), LocalOracle(Other(), replace(API, n_classes=11), budget=9)
    with pytest.raises(NotApplicable, match="Only a key of its own interface can be shown"):
        SCHEME(key, oracle, commitment=key.commit(), rng=np.random.default_rng(0))
    with pytest.raises(ParameterError, match=r"Dawn.rate must be in \(0, 0.5\]"):
        Dawn(rate=0.9)


class Other:
    """A model of eleven classes."""

    input_shape = (64,)
    n_classes = 11

    def scores(self, x: Array) -> Array:
        return np.full((len(x), 11), 1 / 11)
