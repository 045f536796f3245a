"""Out of domain: what flagged questions get, and that the others get what they would get without it."""

import numpy as np
import pytest

from portcullis_ml.core.artifacts import Contents
from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Answer, Interface, Request
from portcullis_ml.defenses import CATALOG
from portcullis_ml.defenses.out_of_domain import OutOfDomain
from portcullis_ml.models.artifacts import write_artifact

from .toys import API, answer_to, noise, rows, toy_filter, toy_surrogate

X = rows(80)
CLEAN = answer_to(X)
FOREIGN = X.sum(axis=1) > 2


def released(then, clean=CLEAN, **settings):
    guard = Guard(OutOfDomain(filter=toy_filter(), then=then, **settings), key=b"k" * 32, interface=API)
    return guard.release(Request("a", X), clean).answer


@pytest.mark.parametrize("then", ["label_only", "shuffled", "fixed", "block"])
def test_rows_of_the_domain_are_left_as_they_are(then):
    answer = released(then)
    assert 20 < FOREIGN.sum() < 60
    np.testing.assert_array_equal(answer.scores[~FOREIGN], CLEAN.scores[~FOREIGN])
    np.testing.assert_array_equal(answer.labels[~FOREIGN], CLEAN.labels[~FOREIGN])


def test_a_flagged_question_loses_its_scores_or_its_answer():
    bare, nothing = released("label_only"), released("block")
    assert np.isnan(bare.scores[FOREIGN]).all()
    np.testing.assert_array_equal(bare.labels, CLEAN.labels)
    assert np.isnan(nothing.scores[FOREIGN]).all()
    assert (nothing.labels[FOREIGN] == -1).all()


def test_a_shuffled_answer_is_a_permutation_whose_label_goes_along():
    answer = released("shuffled")
    np.testing.assert_array_equal(np.sort(answer.scores, axis=1), np.sort(CLEAN.scores, axis=1))
    np.testing.assert_array_equal(answer.labels, answer.scores.argmax(axis=1))
    kept = (answer.labels == CLEAN.labels)[FOREIGN].mean()
    assert 0 < kept < 0.5  # a fifth of the permutations of five classes leave a class in its place
    orders = {tuple(np.argsort(row)) for row in answer.scores[FOREIGN]}
    assert len(orders) > 10


def test_a_fixed_permutation_leaves_no_class_in_its_place_and_is_one_for_all():
    answer = released("fixed")
    pairs = {(int(a), int(b)) for a, b in zip(CLEAN.labels[FOREIGN], answer.labels[FOREIGN], strict=True)}
    assert all(a != b for a, b in pairs)
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs) >= 2  # one class becomes one class
    np.testing.assert_array_equal(answer.labels, answer.scores.argmax(axis=1))
    np.testing.assert_array_equal(np.sort(answer.scores, axis=1), np.sort(CLEAN.scores, axis=1))
    bare = released("fixed", Answer(CLEAN.labels))
    np.testing.assert_array_equal(bare.labels, answer.labels)


@pytest.mark.parametrize("classes", [2, 3, 43, 1000])
def test_every_key_has_a_derangement_of_its_own(classes):
    stage = OutOfDomain(score="msp", then="fixed").bind(Interface(input_shape=(4,), n_classes=classes))
    found = [stage._permuted(X[:3], noise(bytes([i]) * 32)) for i in range(40)]
    for goes_to in found:
        assert (goes_to == goes_to[0]).all()
        assert sorted(goes_to[0]) == list(range(classes))
        assert (goes_to[0] != np.arange(classes)).all()
    assert len({tuple(goes_to[0]) for goes_to in found}) == {2: 1, 3: 2}.get(classes, 40)


def test_flagged_labels_are_right_by_chance_when_shuffled_and_never_when_fixed():
    x = rows(4000, 3)
    clean, far = answer_to(x), x.sum(axis=1) > 2
    for then, low, high in (("shuffled", 0.17, 0.23), ("fixed", 0.0, 0.0)):
        guard = Guard(OutOfDomain(filter=toy_filter(), then=then), key=b"k" * 32, interface=API)
        kept = (guard.release(Request("a", x), clean).answer.labels == clean.labels)[far].mean()
        assert low <= kept <= high


@pytest.mark.parametrize("then", ["shuffled", "fixed", "label_only"])
def test_honest_accuracy_is_that_of_passed_rows_and_that_of_shuffled_ones_by_their_shares(then):
    """TPR x accuracy + (1 - TPR) x shuffled accuracy: an honest client half of whose rows are taken for foreign."""
    x = rows(4000, 3)
    clean, flagged = answer_to(x), x.sum(axis=1) > 2
    rng = np.random.default_rng(0)
    truth = np.where(rng.random(4000) < 0.8, clean.labels, (clean.labels + rng.integers(1, 5, 4000)) % 5)
    guard = Guard(OutOfDomain(filter=toy_filter(), then=then), key=b"k" * 32, interface=API)
    right = guard.release(Request("honest", x), clean).answer.labels == truth
    passed, accuracy = (~flagged).mean(), (clean.labels == truth)[~flagged].mean()
    shuffled = {"shuffled": 0.2, "fixed": 0.05, "label_only": 0.8}[then]  # chance; below chance; as before
    assert right.mean() == pytest.approx(passed * accuracy + (1 - passed) * right[flagged].mean())
    assert right[flagged].mean() == pytest.approx(shuffled, abs=0.03)


def test_msp_flags_what_the_undefended_model_doubts():
    guard = Guard(
        CATALOG.load("prediction_poisoning")(surrogate=toy_surrogate(), eps=0.8),
        OutOfDomain(score="msp", threshold=0.4, then="block"), key=b"k" * 32, interface=API,
    )  # fmt: skip
    answer = guard.release(Request("a", X), CLEAN).answer
    doubted = [max(row) < 0.6 for row in CLEAN.scores.tolist()]
    assert 10 < sum(doubted) < 70
    assert (~answer.answered).tolist() == doubted
    assert not OutOfDomain(score="msp").heavy
    assert OutOfDomain(filter=toy_filter()).heavy


def test_labels_are_shuffled_the_same_where_no_scores_are_shown():
    bare = released("shuffled", Answer(CLEAN.labels))
    np.testing.assert_array_equal(bare.labels, released("shuffled").labels)
    assert bare.scores is None


def test_explanations_of_flagged_questions_are_withheld():
    explained = released("shuffled", Answer(CLEAN.labels, CLEAN.scores, np.ones((80, 2))))
    assert np.isnan(explained.explanation[FOREIGN]).all()
    assert (explained.explanation[~FOREIGN] == 1).all()


def test_a_higher_threshold_flags_fewer():
    def flagged(threshold):
        return int(np.isnan(released("label_only", threshold=threshold).scores).all(axis=1).sum())

    assert flagged(0.01) > flagged(0.5) > flagged(0.99)


def test_it_is_built_from_words_and_keeps_labels_when_it_says_so():
    word = f'out_of_domain(filter="{toy_filter()}", then=label_only)'
    assert CATALOG.build(word) == OutOfDomain(filter=toy_filter(), then="label_only")
    assert CATALOG.build(word).keeps_labels
    assert not OutOfDomain(filter=toy_filter()).keeps_labels


def test_a_filter_of_another_api_is_refused_in_a_sentence(tmp_path):
    defense = OutOfDomain(filter=toy_filter())
    with pytest.raises(
        InputError,
        match=r"must be a filter of rows \(7,\) that knows two sides, own and outside; this one is of \(4,\)",
    ):
        defense.bind(Interface(input_shape=(7,), n_classes=2))
    with pytest.raises(NotApplicable, match="needs whole rows"):
        defense.bind(API.revealing(missing=True))
    with pytest.raises(NotApplicable, match="needs an API that predicts classes"):
        defense.bind(Interface(input_shape=(4,), task="regression"))
    other = write_artifact(Contents({"weights.safetensors": b"1"}), tmp_path / "other")
    with pytest.raises(InputError, match=r"must hold filter\.safetensors, as domain_filter writes it"):
        OutOfDomain(filter=other).bind(API)
    for given in ("filter", None):
        with pytest.raises(ParameterError, match=r"OutOfDomain\.filter must be what domain_filter has trained"):
            OutOfDomain(filter=given)
    with pytest.raises(ParameterError, match=r"OutOfDomain\.filter must be left out with score=msp"):
        OutOfDomain(filter=toy_filter(), score="msp")
    with pytest.raises(NotApplicable, match=r"out_of_domain\(score=msp\) needs a model that gives probabilities"):
        Guard(OutOfDomain(score="msp"), key=b"k" * 32, interface=API).release(Request("a", X), Answer(CLEAN.labels))
