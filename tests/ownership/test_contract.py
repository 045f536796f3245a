"""What every ownership scheme must do: convict a marked model, spare the innocent, and notice one flipped bit."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.errors import NotApplicable, ParameterError, ProofError
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.ownership import Commitment, Evidence, Key, MarkLog, Scheme
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Model
from portcullis_ml.ownership import CATALOG

from .toys import API, ROWS, SETUPS, innocent

NAMES = sorted(SETUPS)
SECRET = bytes(range(32))
DRAWS = 2_000  # innocent models: enough to see a p-value that counts one match too many


def scheme_of(name: str) -> Scheme[Any]:
    scheme: Scheme[Any] = CATALOG.build(SETUPS[name].words)
    return scheme


def marked(name: str, secret: bytes = SECRET) -> tuple[Key, Model, MarkLog]:
    """A key, a model that carries its mark (the victim itself where nothing is marked, a thief's exact copy where
    answers are), and the log. Another secret is that of another owner, who has another victim."""
    scheme, learner, rng = scheme_of(name), SETUPS[name].learner(), np.random.default_rng(0)
    victim = SETUPS[name].victim(secret)
    key = scheme.mint(secret, API, victim, SETUPS[name].rows(secret))
    if scheme.marks == "model":
        return key, scheme.embed(key, learner, ROWS, rng=rng), MarkLog()
    if scheme.marks == "nothing":
        return key, victim, MarkLog()
    guard = Guard(scheme.defense(key), key=b"guard key of the test")
    asked = API.uniform(300, rng)
    answer = LocalOracle(innocent(99), API, budget=300, guard=guard, client="thief").query(asked)
    copy = learner.fit(asked, answer.soft(API.n_classes), rng=rng)
    return key, copy, scheme.log(guard.store.load(("thief", guard.names[0])))


def judge(name: str, key: Key, suspect: Model, log: MarkLog, reference: tuple[Model, ...] = ()) -> Evidence:
    oracle = LocalOracle(suspect, API, budget=10_000)
    reference = (*SETUPS[name].reference, *reference)
    return scheme_of(name)(key, oracle, reference, commitment=key.commit(), log=log, rng=np.random.default_rng(0))


def test_every_scheme_of_the_catalog_has_a_setup() -> None:
    assert set(CATALOG) <= set(SETUPS)


@pytest.mark.parametrize("name", NAMES)
def test_a_marked_model_is_convicted_and_its_examination_billed(name: str) -> None:
    key, model, log = marked(name)
    found = judge(name, key, model, log)
    assert found.p_value < 1e-6
    assert 0 < found.matches <= found.n <= found.queries
    assert found.null


@pytest.mark.parametrize("name", NAMES)
def test_innocent_models_get_p_values_no_smaller_than_chance(name: str) -> None:
    """Super-uniform: the share of p-values below any level is at most the level, up to four standard errors."""
    key, _, log = marked(name)
    draws = DRAWS // 10 if SETUPS[name].reference else DRAWS
    p = np.array([judge(name, key, innocent(seed), log).p_value for seed in range(draws)])
    for level in (0.01, 0.05, 0.2, 0.5):
        assert (p <= level).mean() <= level + 4 * np.sqrt(level * (1 - level) / len(p))


@pytest.mark.parametrize("name", NAMES)
def test_innocent_references_are_put_to_the_same_examination(name: str) -> None:
    key, model, log = marked(name)
    found = judge(name, key, model, log, tuple(innocent(seed) for seed in range(10)))
    assert (found.accused, found.tried) == (0, 10 + len(SETUPS[name].reference))
    assert judge(name, key, model, log, (model,)).accused == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_in_the_key_is_noticed_before_anything_is_asked(name: str) -> None:
    key, model, log = marked(name)
    for field in dataclasses.fields(key):
        value = getattr(key, field.name)
        changed = replace(key, **{field.name: flipped(value)})
        oracle = LocalOracle(model, API, budget=10_000)
        with pytest.raises(ProofError, match="not the one that the commitment"):
            scheme_of(name)(changed, oracle, commitment=key.commit(), log=log, rng=np.random.default_rng(0))
        assert oracle.queries == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_in_the_commitment_is_noticed(name: str) -> None:
    key, model, log = marked(name)
    commitment = key.commit()
    digest = ("0" if commitment.sha256[0] != "0" else "1") + commitment.sha256[1:]
    for wrong in (Commitment(commitment.scheme, digest), Commitment("another", commitment.sha256)):
        with pytest.raises(ProofError):
            scheme_of(name)(
                key, LocalOracle(model, API, budget=1), commitment=wrong, log=log, rng=np.random.default_rng(0)
            )


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_in_the_log_is_noticed(name: str) -> None:
    key, model, log = marked(name)
    log = log if log.entries else MarkLog().append(b"an entry")
    entries = (flipped(log.entries[0]), *log.entries[1:])
    for wrong in (replace(log, entries=entries), replace(log, entries=log.entries[1:]), replace(log, head="00" * 32)):
        with pytest.raises(ProofError, match="do not lead to its head"):
            judge(name, key, model, wrong)


@pytest.mark.parametrize("name", NAMES)
def test_a_key_is_a_function_of_its_secret_and_hides_it(name: str) -> None:
    scheme = scheme_of(name)
    read = API, SETUPS[name].victim(bytes(32)), SETUPS[name].rows(SECRET)
    one, other = scheme.mint(SECRET, *read), scheme.mint(bytes(32), *read)
    assert one.commit() == scheme.mint(SECRET, *read).commit() != other.commit()
    assert SECRET.hex() not in str(one.commit())
    with pytest.raises(ParameterError, match="at least 32 secret bytes"):
        scheme.mint(b"short", *read)


@pytest.mark.parametrize("name", NAMES)
def test_another_owners_key_convicts_nobody(name: str) -> None:
    _, model, _ = marked(name)
    stranger, _, log = marked(name, b"another owner's secret, 32 bytes")
    if scheme_of(name).marks == "answers":
        log = MarkLog()  # that owner has served nothing to this thief
    assert judge(name, stranger, model, log).p_value > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_scheme_marks_one_thing_and_says_so_of_the_other(name: str) -> None:
    scheme, learner = scheme_of(name), SETUPS[name].learner()
    key = scheme.mint(SECRET, API, SETUPS[name].victim(bytes(32)), SETUPS[name].rows(SECRET))
    ways = {
        "model": lambda: scheme.embed(key, learner, ROWS, rng=np.random.default_rng(0)),
        "answers": lambda: scheme.defense(key),
    }
    for marked, way in ways.items():
        if marked != scheme.marks:
            with pytest.raises(NotApplicable, match="marks"):
                way()


@pytest.mark.parametrize("name", NAMES)
def test_settings_survive_being_written_down(name: str) -> None:
    scheme = scheme_of(name)
    assert CATALOG.build(describe(scheme)) == scheme


def test_the_docstrings_say_what_a_reader_needs() -> None:
    for name in CATALOG:
        text = inspect.getdoc(sys.modules[CATALOG.load(name).__module__]) or ""
        for words in ("Costs the honest client", "Does not ", "Query cost"):
            assert words in text, name


def flipped(value: Any) -> Any:
    """The value with one bit of it changed."""
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:]
    data = np.array(value)
    raw = bytearray(data.tobytes())
    raw[0] ^= 1
    return np.frombuffer(bytes(raw), data.dtype).reshape(data.shape)
