"""The 2n commitments: what an opening shows, what it hides, and what no longer opens once a bit is changed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError, ProofError
from portcullis_ml.core.types import Interface
from portcullis_ml.ownership._pairs import Opening, VerificationKey, answer_bytes, commit_to, drawn
from portcullis_ml.ownership.backdoor import Backdoor, BackdoorKey

API = Interface(input_shape=(2, 3), n_classes=7)
SECRET = bytes(range(32))


@pytest.fixture
def key() -> BackdoorKey:
    return Backdoor(n=12).mint(SECRET, API)


def test_every_pair_opens_at_its_place_and_survives_json(key: BackdoorKey) -> None:
    openings = [Opening.from_json(json.loads(json.dumps(o.to_json()))) for o in key.open(range(12))]
    vk = VerificationKey.from_json(json.loads(json.dumps(key.vk().to_json())))
    assert vk == key.vk()
    vk.check(openings)
    assert [o.label for o in openings] == key.labels.tolist()


@pytest.mark.parametrize(
    ("change", "link"),
    [
        (lambda o: replace(o, x=o.x + np.spacing(o.x)), "question"),
        (lambda o: replace(o, x=o.x.reshape(3, 2)), "question"),
        (lambda o: replace(o, label=(o.label + 1) % 7), "answer"),
        (lambda o: replace(o, salts=(bytes(32), o.salts[1])), "question"),
        (lambda o: replace(o, salts=(o.salts[0], bytes([o.salts[1][0] ^ 1]) + o.salts[1][1:])), "answer"),
        (lambda o: replace(o, place=o.place + 1), "question"),
    ],
)
def test_a_changed_opening_is_refused_and_the_link_named(key: BackdoorKey, change, link: str) -> None:
    with pytest.raises(ProofError, match=f"The {link} of opening"):
        key.vk().check([change(key.open([4])[0])])


def test_a_place_that_is_not_there_or_comes_twice_is_refused(key: BackdoorKey) -> None:
    for wrong in (key.open([3, 3]), [replace(key.open([3])[0], place=12)], [replace(key.open([3])[0], place=-1)]):
        with pytest.raises(ProofError, match="is not one of the 12 committed pairs, or comes twice"):
            key.vk().check(wrong)


def test_swapped_answers_are_refused(key: BackdoorKey) -> None:
    one, other = key.open([0, int(np.flatnonzero(key.labels != key.labels[0])[0])])
    with pytest.raises(ProofError, match="answer"):
        key.vk().check([replace(one, label=other.label, salts=(one.salts[0], other.salts[1]))])


def test_trying_every_class_finds_no_answer_with_salts_and_each_without(key: BackdoorKey) -> None:
    vk = key.vk()
    for i in range(len(key)):
        guesses = [commit_to("L", i, answer_bytes(c), b"") for c in range(7)]
        assert vk.labels[i] not in guesses
        assert commit_to("L", i, answer_bytes(int(key.labels[i])), b"") in guesses  # so it would be with no salt


def test_an_opening_tells_nothing_of_the_others(key: BackdoorKey) -> None:
    """The salts are HMACs of the secret for one place each: no two are alike, and none is the secret."""
    salts = [salt for o in key.open(range(12)) for salt in o.salts]
    assert len(set(salts)) == 24
    assert SECRET not in salts
    assert drawn(SECRET, "salt", "t", 1) != drawn(SECRET, "salt", "L", 1) != drawn(SECRET, "salt", "t", 11)


def test_the_commitment_binds_to_the_secret_too(key: BackdoorKey) -> None:
    other = replace(key, secret=bytes([1]) + SECRET[1:])
    assert other.commit() != key.commit()
    with pytest.raises(ProofError, match="question of opening 0"):
        key.vk().check(other.open(range(12)))


def test_a_key_for_another_interface_is_refused_in_one_sentence(key: BackdoorKey) -> None:
    with pytest.raises(NotApplicable, match=r"minted for inputs of \(2, 3\) and 7 classes; the suspect takes \(6,\)"):
        key.fits(Interface(input_shape=(6,), n_classes=7))
    with pytest.raises(NotApplicable, match="has 9"):
        key.fits(Interface(input_shape=(2, 3), n_classes=9))


@pytest.mark.parametrize("data", [{}, {"place": 1, "x": [], "label": 1, "salts": ["00"]}, {"place": "a"}])
def test_what_is_no_opening_is_refused(data: dict) -> None:
    with pytest.raises(InputError, match="An opening was expected"):
        Opening.from_json(data)


def test_what_is_no_verification_key_is_refused(key: BackdoorKey) -> None:
    good = key.vk().to_json()
    for wrong in ({}, {**good, "labels": good["labels"][1:]}, {**good, "questions": [], "labels": []}):
        with pytest.raises(InputError, match="verification key"):
            VerificationKey.from_json(wrong)
    with pytest.raises(ParameterError, match="one answer for each"):
        replace(key, labels=key.labels[1:])
