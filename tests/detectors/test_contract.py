"""What every detector keeps, over the whole catalog: a new file is tested before its author writes a test."""

from __future__ import annotations

import json
import random
import re
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

import portcullis_ml.detectors
from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.guard import Detector
from portcullis_ml.core.settings import describe
from portcullis_ml.core.state import pack, unpack
from portcullis_ml.core.types import Answer, Array, Request
from portcullis_ml.detectors import CATALOG

from .toys import setup_of

NAMES = list(CATALOG)
FALSE_ALARM_RATE = 0.02  # of clients of the model's own domain, that every detector has to stay under
BYTES = 300_000  # what a client of 64-number rows may cost with the settings of `small`


def build(name: str, **changes: Any) -> Detector[Any]:
    return made(name, **changes).bind(setup_of(name).api)


def made(name: str, **changes: Any) -> Detector[Any]:
    """Not bound yet."""
    return CATALOG.load(name)(**{**setup_of(name).settings(), **changes})


def small(name: str) -> Detector[Any]:
    """With a short memory, where there is such a setting."""
    known = {f.name for f in fields(CATALOG.load(name))}
    return build(name, **{k: v for k, v in {"cap": 40, "remember": 500, "latest": 500}.items() if k in known})


def watched(name: str, detector: Detector[Any], x: Array, cuts: tuple[int, ...] = ()) -> tuple[Array, Any]:
    """The suspicions of a stream sent in these pieces, and the state it leaves."""
    state, answer_to = detector.start(), setup_of(name).answer_to
    pieces = np.split(x, sorted(cuts))
    parts = [detector.update(state, Request("a", p), answer_to(p)) for p in pieces if len(p)]
    return np.concatenate(parts), state


@cache
def stream_of(name: str) -> Array:
    stream = setup_of(name).attack(260, 0)
    stream.flags.writeable = False
    return stream


@pytest.fixture
def stream(name: str) -> Array:
    return stream_of(name)


def test_the_catalog_names_are_the_files_and_the_classes() -> None:
    folder = Path(portcullis_ml.detectors.__file__).parent
    assert sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")) == NAMES
    assert [CATALOG.load(name).name for name in NAMES] == NAMES


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_gives_every_row_one_suspicion(self, name: str, stream: Array) -> None:
        suspicion, _ = watched(name, build(name), stream)
        assert suspicion.shape == (len(stream),)
        assert suspicion.dtype == np.float64
        assert not np.isinf(suspicion).any()

    @settings(max_examples=8, deadline=None)
    @given(cuts=st.sets(st.integers(1, 259), max_size=6))
    def test_a_batch_equals_its_pieces(self, name: str, cuts: set[int]) -> None:
        detector, stream = build(name), stream_of(name)
        whole, state = watched(name, detector, stream)
        pieces, pieced = watched(name, detector, stream, tuple(cuts))
        np.testing.assert_array_equal(whole, pieces)
        assert pack(state) == pack(pieced)

    def test_a_batch_equals_its_rows(self, name: str, stream: Array) -> None:
        detector = build(name)
        np.testing.assert_array_equal(
            watched(name, detector, stream)[0], watched(name, detector, stream, tuple(range(1, len(stream))))[0]
        )

    def test_an_empty_batch_changes_nothing(self, name: str, stream: Array) -> None:
        detector = build(name)
        _, state = watched(name, detector, stream[:50])
        before = pack(state)
        assert detector.update(state, Request("a", stream[:0]), Answer(np.empty(0, np.int64))).shape == (0,)
        assert pack(state) == before

    @pytest.mark.parametrize("at", [1, 59, 130, 259])
    def test_the_state_survives_being_stored_midway(self, name: str, stream: Array, at: int) -> None:
        detector = build(name)
        _, state = watched(name, detector, stream[:at])
        stored = unpack(type(state), pack(state))
        assert pack(stored) == pack(state)
        rest = Request("a", stream[at:]), setup_of(name).answer_to(stream[at:])
        np.testing.assert_array_equal(detector.update(stored, *rest), detector.update(state, *rest))

    def test_is_silent_on_natural_streams(self, name: str) -> None:
        detector, clients = build(name), 15
        loud = sum(
            detector.alarms(watched(name, detector, setup_of(name).natural(500, seed))[0]).any()
            for seed in range(clients)
        )
        assert loud <= binom.ppf(0.999, clients, FALSE_ALARM_RATE)

    @pytest.mark.parametrize("seed", range(5))
    def test_fires_on_the_attack_of_its_paper(self, name: str, seed: int) -> None:
        detector = build(name)
        alarms = detector.alarms(watched(name, detector, setup_of(name).attack(400, seed))[0])
        assert alarms.any()
        assert alarms.argmax() >= 60, "it fired before the first synthetic query"

    def test_clients_do_not_leak_into_one_another(self, name: str, stream: Array) -> None:
        detector = build(name)
        alone = watched(name, detector, stream)[0]
        mine, other = detector.start(), detector.start()
        suspicions = []
        for x in np.split(stream, 10):
            suspicions.append(detector.update(mine, Request("a", x), setup_of(name).answer_to(x)))
            detector.update(other, Request("b", x[::-1]), setup_of(name).answer_to(x[::-1]))
        np.testing.assert_array_equal(np.concatenate(suspicions), alone)

    def test_never_changes_its_input(self, name: str, stream: Array) -> None:
        x, answer = stream.copy(), setup_of(name).answer_to(stream)
        kept = [a.copy() for a in (x, answer.labels, answer.scores)]
        for a in (x, answer.labels, answer.scores):
            a.flags.writeable = False
        detector = build(name)
        detector.update(detector.start(), Request("a", x), answer)
        for a, b in zip((x, answer.labels, answer.scores), kept, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_memory_is_bounded(self, name: str) -> None:
        detector = small(name)
        rng = np.random.default_rng(3)
        state, honest = detector.start(), setup_of(name).natural(400, 0)
        held = []
        for _ in range(6):
            x = np.clip(honest + rng.normal(0, 0.3, honest.shape), 0, 1)
            detector.update(state, Request("a", x), setup_of(name).answer_to(x))
            held.append(len(pack(state)))
        assert max(held) < BYTES
        assert held[-1] <= held[-3] * 1.01, "it still grows"

    def test_settings_survive_being_written_down(self, name: str) -> None:
        detector = build(name)
        written = json.loads(json.dumps(describe(detector)))
        assert written["unit"] == name
        assert CATALOG.build(written) == detector
        if not setup_of(name).settings():
            assert CATALOG.build(name) == detector

    def test_an_unknown_setting_is_named(self, name: str) -> None:
        with pytest.raises(ParameterError, match="must be settings among"):
            CATALOG.build({"unit": name, "colour": 1})

    def test_global_generators_are_left_alone(self, name: str, stream: Array) -> None:
        before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state().clone()  # noqa: NPY002
        watched(name, build(name), stream)
        np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
        assert random.getstate() == before[1]
        assert torch.equal(torch.get_rng_state(), before[2])

    def test_refuses_regression_in_a_sentence_or_reads_it_as_one_class(self, name: str, stream: Array) -> None:
        detector = build(name)
        if name in ("call_rate", "prada", "prada_normality"):
            numbers, one = Answer(None, np.zeros((len(stream), 1))), Answer(np.zeros(len(stream), np.int64))
            found, same = (detector.update(detector.start(), Request("a", stream), answer) for answer in (numbers, one))
            np.testing.assert_array_equal(found, same)
            return
        with pytest.raises(NotApplicable, match=rf"^{name} needs .*; this one does regression\. Leave it out\.$"):
            detector.update(detector.start(), Request("a", stream[:3]), Answer(None, np.zeros((3, 1))))

    def test_its_docstring_says_what_a_user_must_know(self, name: str) -> None:
        words = sys.modules[CATALOG.load(name).__module__].__doc__ or ""
        assert re.search(r"\b(19|20)\d\d\b", words), "the citation has a year"
        assert "section" in words
        assert "Costs the honest client" in words
        assert "Defaults hold for" in words
        assert "Does not see" in words

    def test_every_setting_has_a_comment(self, name: str) -> None:
        source = Path(sys.modules[CATALOG.load(name).__module__].__file__ or "").read_text()
        for f in fields(CATALOG.load(name)):
            assert not f.init or re.search(rf"^    {f.name}: .*  # \w", source, re.MULTILINE), f.name


@pytest.mark.parametrize("name", ["mahalanobis", "odin"])
@pytest.mark.parametrize(
    ("setting", "wrong"),
    [("threshold", 0), ("threshold", 1), ("above", 0), ("above", 1.5), ("window", 0), ("window", 1.5)],
)
def test_a_setting_at_the_edge_of_its_range_is_refused(name: str, setting: str, wrong: float) -> None:
    with pytest.raises(ParameterError, match=setting):
        made(name, **{setting: wrong})
