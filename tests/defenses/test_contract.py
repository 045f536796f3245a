"""What every defense keeps, over the whole catalog: a new file is tested before its author writes a test."""

from __future__ import annotations

import inspect
import json
import random
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import portcullis_ml.defenses
from portcullis_ml.core.errors import NotApplicable, ParameterError, Refused
from portcullis_ml.core.guard import Defense, Guard
from portcullis_ml.core.settings import describe
from portcullis_ml.core.state import pack, unpack
from portcullis_ml.core.types import Answer, Array, Request
from portcullis_ml.defenses import CATALOG

from .toys import API, REQUIRED, VARIANTS, answer_to, explained, noise, rows, same

NAMES = list(CATALOG)
CASES = sorted({*NAMES, *VARIANTS})
X = rows(60)
CLEAN = answer_to(X)


@pytest.fixture
def defense(case: str) -> Defense[Any]:
    return build(case)


def build(case: str) -> Defense[Any]:
    name = case.partition("-")[0]
    return CATALOG.load(name)(**VARIANTS.get(case, REQUIRED.get(name, {}))).bind(API)


def released(
    defense: Defense[Any],
    x: Array,
    cuts: tuple[int, ...] = (),
    state: Any = None,
    model: Callable[[Array], Answer] = answer_to,
) -> Answer:
    """The answer to a stream sent in these pieces; `model` gives the undefended answers."""
    state = defense.start() if state is None else state
    pieces = [p for p in np.split(x, sorted(cuts)) if len(p)]
    return Answer.concat([defense.release(Request("a", p), model(p), model(p), state, noise()) for p in pieces])


def unexplained(answer: Answer) -> NDArray[np.bool_]:
    """(n,) which rows have no explanation."""
    if answer.explanation is None:
        return np.ones(len(answer), bool)
    return np.isnan(answer.explanation).reshape(len(answer), -1).all(axis=1)


@pytest.mark.parametrize(
    ("case", "kept"),
    [
        ("block", False),  # nothing is answered
        ("label_only", False),
        ("log", True),
        ("other_class", False),  # it would be that of the true class
        ("quota", True),
        ("rounding", True),
        ("top_k", True),
        ("watch-calm", True),
    ],
)
def test_an_explanation_is_kept_or_withheld(case: str, kept: bool) -> None:
    answer = released(build(case), X, model=explained)
    assert unexplained(answer).tolist() == [not kept] * len(X)
    if kept:
        np.testing.assert_array_equal(answer.explanation, explained(X).explanation)
        assert build(case).shown(API.revealing(explains=True)).explains


def test_from_an_alarm_on_nothing_is_explained_where_labels_only_are_shown() -> None:
    blank = unexplained(released(build("watch-label_only"), X, model=explained))
    assert blank.tolist() == [row >= 20 for row in range(len(X))]  # `Tally` is alarmed at its 21st row


def test_the_catalog_names_are_the_files_and_the_classes() -> None:
    folder = Path(portcullis_ml.defenses.__file__).parent
    assert sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")) == NAMES
    assert [CATALOG.load(name).name for name in NAMES] == NAMES


@pytest.mark.parametrize("case", CASES)
class TestContract:
    @settings(max_examples=20, deadline=None)
    @given(cuts=st.sets(st.integers(1, len(X) - 1), max_size=8))
    def test_a_batch_equals_its_pieces(self, case: str, cuts: set[int]) -> None:
        defense = build(case)
        assert same(released(defense, X), released(defense, X, tuple(cuts)))

    def test_a_batch_equals_its_rows(self, defense: Defense[Any]) -> None:
        assert same(released(defense, X), released(defense, X, tuple(range(1, len(X)))))

    @settings(max_examples=10, deadline=None)
    @given(cuts=st.sets(st.integers(1, len(X) - 1), max_size=8))
    def test_a_batch_equals_its_pieces_with_explanations_too(self, case: str, cuts: set[int]) -> None:
        whole = released(build(case), X, model=explained)
        assert same(whole, released(build(case), X, tuple(cuts), model=explained))
        assert whole.explanation is None or whole.explanation.shape == (len(X), 2, 2)

    def test_no_more_is_explained_than_is_answered_and_shown(self, defense: Defense[Any]) -> None:
        assert not defense.shown(API).explains
        answer = released(defense, X, model=explained)
        blank = unexplained(answer)
        assert blank[~answer.answered].all()
        assert blank.all() or defense.shown(API.revealing(explains=True)).explains

    def test_without_an_explanation_none_is_made_up(self, defense: Defense[Any]) -> None:
        assert released(defense, X).explanation is None

    def test_an_empty_batch_gets_an_empty_answer(self, defense: Defense[Any]) -> None:
        answer = answer_to(X[:0])
        assert len(defense.release(Request("a", X[:0]), answer, answer, defense.start(), noise())) == 0

    def test_a_repeated_query_repeats_its_answer(self, defense: Defense[Any]) -> None:
        state = defense.start()
        released(defense, rows(100, 5), state=state)  # any alarm is behind us
        first = released(defense, X, state=state)
        again = [released(defense, X[order], state=state) for order in (slice(None), slice(None, None, -1))]
        assert same(first, again[0])
        assert same(first, again[1].take(slice(None, None, -1)))

    def test_keeps_labels_if_it_says_so(self, defense: Defense[Any]) -> None:
        kept = np.array_equal(released(defense, X).labels, CLEAN.labels)
        assert kept or not defense.keeps_labels

    def test_rows_are_distributions_or_withheld(self, defense: Defense[Any]) -> None:
        answer = released(defense, X)
        assert answer.labels.dtype == np.int64
        assert answer.scores is not None
        assert answer.scores.shape == CLEAN.scores.shape
        assert answer.scores.dtype == np.float64
        whole = ~np.isnan(answer.scores).any(axis=1)
        renormalised = getattr(defense, "renormalise", True)
        slack = 1e-9 if renormalised else 0.5 * answer.scores.shape[1] * 10.0**-defense.decimals
        total = answer.scores[whole].sum(axis=1)
        zero = renormalised & (total == 0)  # rounded away altogether
        assert (zero | (abs(total - 1) <= slack)).all()
        assert (np.nan_to_num(answer.scores) >= 0).all()
        assert (np.nansum(answer.scores, axis=1) <= 1 + slack).all()

    def test_what_was_withheld_stays_withheld(self, defense: Defense[Any]) -> None:
        gone = np.arange(len(X)) % 3 == 0
        so_far = CLEAN.withhold(gone)
        answer = defense.release(Request("a", X), so_far, CLEAN, defense.start(), noise())
        assert not answer.answered[gone].any()

    def test_takes_answers_whose_scores_are_partly_or_wholly_withheld(self, defense: Defense[Any]) -> None:
        masked = CLEAN.scores.copy()
        masked[:, 2] = np.nan
        for so_far in (Answer(CLEAN.labels, masked), Answer(CLEAN.labels)):
            answer = defense.release(Request("a", X), so_far, CLEAN, defense.start(), noise())
            shown = 0 if answer.scores is None else (~np.isnan(answer.scores)).sum(axis=1)
            before = 0 if so_far.scores is None else (~np.isnan(so_far.scores)).sum(axis=1)
            assert np.all(shown <= before), "a later stage shows what an earlier one withheld"

    def test_never_changes_its_input(self, defense: Defense[Any]) -> None:
        x, clean = X.copy(), answer_to(X)
        so_far = Answer(clean.labels.copy(), clean.scores.copy(), np.ones((len(x), 2)))
        parts = (x, clean.labels, clean.scores, so_far.labels, so_far.scores, so_far.explanation)
        kept = [a.copy() for a in parts]
        for a in parts:
            a.flags.writeable = False
        defense.release(Request("a", x), so_far, clean, defense.start(), noise())
        for a, b in zip(parts, kept, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_clients_do_not_leak_into_one_another(self, defense: Defense[Any]) -> None:
        alone = released(defense, X)
        guard = Guard(defense, key=b"g" * 32)
        mine = []
        for x in np.split(X, 12):
            mine.append(guard.release(Request("me", x), answer_to(x)).answer)
            guard.release(Request("other", x[::-1]), answer_to(x[::-1]))
        by_guard = Guard(defense, key=b"g" * 32).release(Request("me", X), CLEAN).answer
        assert same(Answer.concat(mine), by_guard)
        assert len(alone) == len(by_guard)

    @pytest.mark.parametrize("at", [1, 20, 21, 59])
    def test_the_state_survives_being_stored_midway(self, defense: Defense[Any], at: int) -> None:
        state = defense.start()
        released(defense, X[:at], state=state)
        if state is None:
            stored = None
        else:
            stored = unpack(type(state), pack(state))
            assert pack(stored) == pack(state)
            assert defense.alarm(stored) == defense.alarm(state)
        assert same(released(defense, X[at:], state=stored), released(defense, X[at:], state=state))

    def test_what_admit_raises_is_a_refusal_and_undo_is_harmless(self, defense: Defense[Any]) -> None:
        state, request = defense.start(), Request("a", X)
        released(defense, X, state=state)
        before = None if state is None else pack(state)
        try:
            defense.admit(request, state)
        except Refused as refusal:
            said = str(refusal)
        else:
            said = "The guard refused this client: not at all."
            defense.undo(request, state)
        assert re.fullmatch(r"The guard refused this client: .+[^.]\.", said)
        assert before == (None if state is None else pack(state))

    def test_the_guard_knows_which_rows_were_changed(self, defense: Defense[Any]) -> None:
        out = Guard(defense, key=b"g" * 32).release(Request("a", X), CLEAN)
        unchanged = ~out.altered
        assert same(out.answer.take(unchanged), CLEAN.take(unchanged))

    def test_what_treats_all_alike_decides_about_nobody(self, defense: Defense[Any]) -> None:
        out = Guard(defense, key=b"g" * 32).release(Request("a", X), CLEAN)
        if defense.same_for_all:
            assert defense.start() is None
            assert type(defense).alarm is Defense.alarm
            assert not out.by_stage
        else:
            assert (sum(out.by_stage.values(), np.zeros(len(X), bool)) == out.altered).all()

    def test_what_blocks_answers_nothing_once_it_does(self, defense: Defense[Any]) -> None:
        state = defense.start()
        out = released(defense, X, state=state)
        if defense.blocks and (defense.same_for_all or defense.alarm(state)):
            assert not out.answered[-1]
            with pytest.raises(Refused):
                defense.admit(Request("a", X), state)

    def test_settings_survive_being_written_down(self, case: str, defense: Defense[Any]) -> None:
        written = json.loads(json.dumps(describe(defense)))
        assert written["unit"] == case.partition("-")[0]
        assert CATALOG.build(written) == defense
        assert hash(CATALOG.build(written)) == hash(defense)

    def test_global_generators_are_left_alone(self, defense: Defense[Any]) -> None:
        before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state().clone()  # noqa: NPY002
        released(defense, X)
        np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
        assert random.getstate() == before[1]
        assert torch.equal(torch.get_rng_state(), before[2])

    def test_takes_regression_or_says_why_not(self, case: str, defense: Defense[Any]) -> None:
        answer = Answer(None, X[:30, :1].copy())
        try:
            out = defense.release(Request("a", X[:30]), answer, answer, defense.start(), noise())
        except NotApplicable as reason:
            said = str(reason)
        else:
            said = f"{case} needs nothing more"
            assert out.labels is None
            assert out.scores.shape == (30, 1)
        assert said.partition(" needs ")[0] in case


@pytest.mark.parametrize("name", NAMES)
class TestPages:
    def test_its_docstring_says_what_a_user_must_know(self, name: str) -> None:
        words = sys.modules[CATALOG.load(name).__module__].__doc__ or ""
        assert re.search(r"\b(19|20)\d\d\b", words), "the citation has a year"
        assert "section" in words
        assert "Costs the honest client" in words
        assert "Does not stop" in words

    def test_every_setting_has_a_comment(self, name: str) -> None:
        kind = CATALOG.load(name)
        for f in fields(kind):
            owner = next(k for k in kind.__mro__ if f.name in inspect.get_annotations(k))
            source = Path(sys.modules[owner.__module__].__file__ or "").read_text()
            assert re.search(rf"^    {f.name}: .*  # \w", source, re.MULTILINE), f.name

    def test_an_unknown_setting_is_named(self, name: str) -> None:
        with pytest.raises(ParameterError, match="must be settings among"):
            CATALOG.build({"unit": name, "colour": 1})
