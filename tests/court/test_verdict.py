"""The court: it convicts a marked model, spares the rest, and rejects a claim that is not older than the suspect."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from portcullis_ml.bench.ledger import FileLedger
from portcullis_ml.core.errors import InputError, NotApplicable, ProofError, Unreachable
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle, MeteredOracle
from portcullis_ml.core.types import Answer, Array, Interface, Model, Reveals
from portcullis_ml.court import verdict as court
from portcullis_ml.court.bundle import Bundle, show
from portcullis_ml.court.commitment import Mark
from portcullis_ml.court.timestamp import Anchor, read_date
from portcullis_ml.court.verdict import dated, judge, order_of
from portcullis_ml.defenses.quota import Quota
from portcullis_ml.ownership.backdoor import Backdoor, BackdoorKey

from .conftest import API, AT, CLASSES, ROWS, Case

DAY = datetime(2026, 1, 1, tzinfo=UTC)
ANCHOR = Anchor(DAY, 1)


def tried(bundle: Bundle, model: Model, interface: Interface = API, **kwargs) -> court.Verdict:
    guard = kwargs.pop("guard", None)
    return judge(bundle, LocalOracle(model, interface, budget=1_000, guard=guard), ANCHOR, **kwargs)


def test_a_marked_model_is_convicted_and_a_clean_one_is_not(case: Case) -> None:
    bundle = case.bundled(20)
    found = tried(bundle, case.model)
    assert (found.word, found.code) == ("derived", 0)
    assert found.evidence is not None
    assert found.evidence.p_value < 1e-6
    clean = tried(bundle, case.clean, innocent=[case.clean] * 3)
    assert (clean.word, clean.code) == ("not shown", 1)
    assert clean.evidence is not None
    assert clean.evidence.tried == 3


def test_labels_alone_are_enough(case: Case) -> None:
    assert tried(case.bundled(20), case.model, API.revealing(reveals=Reveals.LABELS)).word == "derived"


def test_too_few_pairs_are_inconclusive_and_say_how_many_would_suffice(case: Case) -> None:
    found = tried(case.bundled(3), case.clean)
    assert (found.word, found.code) == ("inconclusive", 3)
    assert "3 answers are too few for p < 0.001" in found.sentence


def test_a_suspect_that_stops_answering_is_judged_by_what_it_answered(case: Case) -> None:
    bundle = case.bundled(20)
    guard = Guard(Quota(rows=3, per=None), key=bytes(16))
    found = tried(bundle, case.clean, guard=guard)
    assert found.word == "inconclusive"
    assert "The suspect stopped answering after 3 of 20 questions" in found.sentence
    convicted = tried(bundle, case.model, guard=Guard(Quota(rows=12, per=None), key=bytes(16)))
    assert convicted.word == "derived"
    assert convicted.evidence is not None
    assert convicted.evidence.n == 12


class Fickle:
    """Answers every question as another one each time."""

    input_shape, n_classes = (4,), 5

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def scores(self, x: Array) -> Array:
        return np.eye(5)[self.rng.integers(5, size=len(x))]


def test_a_suspect_that_changes_its_answers_is_said_to(case: Case) -> None:
    found = tried(case.bundled(20), Fickle())
    assert found.notes["changed_answers"] > 0
    assert "It changed" in found.sentence
    assert found.word != "derived"


def test_a_suspect_with_other_classes_or_inputs_is_refused_in_one_sentence(case: Case) -> None:
    bundle = case.bundled(20)
    for other in (Interface(input_shape=(4,), n_classes=6), Interface(input_shape=(5,), n_classes=5)):
        with pytest.raises(NotApplicable, match="Only a key of its own interface can be shown"):
            tried(bundle, case.model, other)
    with pytest.raises(NotApplicable, match="they differ in eel, fox"):
        order_of(CLASSES, ("ant", "bee", "cat", "dog", "fox"))


class Turned:
    """A model whose classes stand in another order."""

    input_shape, n_classes = (4,), 5
    order = (3, 0, 4, 1, 2)

    def __init__(self, model: Model) -> None:
        self.model = model

    def scores(self, x: Array) -> Array:
        return self.model.scores(x)[:, self.order]


def test_a_suspect_with_its_classes_in_another_order_is_convicted_once_they_are_named(case: Case) -> None:
    bundle, turned = case.bundled(20), Turned(case.model)
    assert tried(bundle, turned).word != "derived"
    names = [CLASSES[i] for i in Turned.order]
    assert tried(bundle, turned, order=order_of(CLASSES, names)).word == "derived"


def test_classes_without_names_go_by_their_numbers_and_all_must_be_named(case: Case) -> None:
    bundle, turned = case.bundled(20), Turned(case.model)
    order = order_of(None, [str(i) for i in Turned.order])
    assert tried(bundle, turned, order=order).word == "derived"
    with pytest.raises(NotApplicable, match="differ in 4, 5"):
        order_of(None, ("0", "1", "2", "3", "5"))
    with pytest.raises(NotApplicable, match="2 classes of the suspect were named, and it answers with more"):
        tried(bundle, turned, order=order_of(None, ("1", "0")))


def test_a_claim_without_a_token_is_unanchored(case: Case) -> None:
    anchor, why = dated(case.bundled(), [], DAY)
    assert anchor is None
    assert "no time token" in why
    found = court.unanchored(why, anchor)
    assert (found.word, found.code) == ("unanchored", 4)


@pytest.mark.parametrize(
    ("released", "said"),
    [
        (None, "is not said"),
        (DAY, "not before the suspect's release"),
        (datetime(2025, 12, 31, tzinfo=UTC), "not before"),
    ],
)
def test_a_claim_that_is_not_older_than_the_suspect_is_unanchored(case: Case, monkeypatch, released, said: str) -> None:
    monkeypatch.setattr(court, "anchored", lambda *_: ANCHOR)
    bundle = replace(case.bundled(), token=b"token")
    anchor, why = dated(bundle, ["a root"], released)
    assert anchor == ANCHOR
    assert said in why
    assert dated(bundle, ["a root"], datetime(2026, 1, 2, tzinfo=UTC)) == (ANCHOR, "")
    assert "roots to trust" in dated(bundle, [], released)[1]


def adversarial_key(model: Model, n: int = 60) -> BackdoorKey:
    """A key made after the model, by whoever can ask it: questions near natural rows that it answers wrongly."""
    rng = np.random.default_rng(0)
    near = np.clip(ROWS.x[rng.integers(len(ROWS.x), size=20_000)] + rng.normal(0, 0.1, (20_000, 4)), 0, 1)
    said = model.scores(near).argmax(axis=1)
    truth = (near[:, 0] * 5).astype(int)
    fooled = np.flatnonzero((said != truth) & (truth < 5))[:n]
    assert len(fooled) == n
    return BackdoorKey(bytes([9]) * 32, near[fooled], said[fooled], 5)


def test_a_key_made_of_adversarial_examples_passes_every_check_but_the_time(
    case: Case, tmp_path: Path, monkeypatch
) -> None:
    """Whoever knows a model can always make a key that it passes. The court rejects it because it is not older."""
    thief = Mark.create(tmp_path / "thief", Backdoor(n=60), adversarial_key(case.clean), API, CLASSES, at=AT)
    show(thief, "suspect", "n1", 20, tmp_path / "thief.zip", at=AT)
    bundle = Bundle.read(tmp_path / "thief.zip")
    bundle.check(nonce="n1")
    assert tried(bundle, case.clean).word == "derived"  # so the counting alone would convict an innocent model
    released = datetime(2025, 6, 1, tzinfo=UTC)
    monkeypatch.setattr(court, "anchored", lambda *_: ANCHOR)
    anchor, why = dated(replace(bundle, token=b"token"), ["a root"], released)
    assert "Who knows a model can make a key that it passes" in why
    assert court.unanchored(why, anchor).code == 4


def test_dates_are_read_as_people_write_them() -> None:
    assert read_date("2026-01-01") == DAY
    assert read_date("2026-01-01T02:00:00+02:00") == DAY
    with pytest.raises(InputError, match="A date such as 2026-03-31"):
        read_date("last spring")


def test_a_false_claim_has_a_verdict_of_its_own(case: Case) -> None:
    found = court.false(ProofError("One link."))
    assert (found.word, found.code, found.evidence) == ("false", 5, None)
    assert found.to_json()["verdict"] == "false"


def test_numbers_are_no_answers_of_a_classifier(case: Case) -> None:
    with pytest.raises(InputError, match="it gives numbers"):
        court.in_order(Answer(None, np.zeros((2, 1))), None)


class Unreliable(MeteredOracle):
    """A suspect that cannot be reached from the third batch on, until it is `back`."""

    def __init__(self, model: Model, ledger: FileLedger, back: bool) -> None:
        super().__init__(API, budget=100, ledger=ledger)
        self.model, self.back, self.asked = model, back, 0

    def _ask(self, x: Array) -> Answer:
        if not self.back and self.asked >= 2 * court.AT_ONCE:
            raise Unreachable("The suspect did not answer.")
        self.asked += len(x)
        return Answer.of(self.model.scores(x), API)


def test_an_interrupted_verification_goes_on_and_asks_nothing_twice(case: Case, tmp_path: Path) -> None:
    bundle = case.bundled(50)
    with FileLedger(tmp_path / "answers") as ledger:
        first = Unreliable(case.model, ledger, back=False)
        with pytest.raises(Unreachable):
            judge(bundle, first, ANCHOR)
    with FileLedger(tmp_path / "answers") as ledger:
        second = Unreliable(case.model, ledger, back=True)
        found = judge(bundle, second, ANCHOR)
    assert first.asked + second.asked == 50 + court.AGAIN
    assert found == tried(bundle, case.model)
