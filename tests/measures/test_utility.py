"""What honest clients lose, with guards whose effect is known beforehand."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError, NotApplicable, Refused
from portcullis_ml.core.guard import Defense, Guard
from portcullis_ml.core.types import Answer, Estimate, Interface, Reveals
from portcullis_ml.measures.statistics import clopper_pearson
from portcullis_ml.measures.utility import calibration_error, honest_cost, serve, shown_distance

from .toys import a_softmax

KEY = bytes(32)
INTERFACE = Interface(input_shape=(6,), n_classes=3)


class Rotate(Defense[None]):
    """Rows whose first input is below `below` get the next class, and its scores."""

    def __init__(self, below):
        self.below = below

    def release(self, request, answer, clean, state, noise):
        hit = request.x[:, 0] < self.below
        labels = np.where(hit, (answer.labels + 1) % 3, answer.labels)
        return Answer(labels, np.where(hit[:, None], np.roll(answer.scores, 1, axis=1), answer.scores))


class Labels(Defense[None]):
    keeps_labels = True

    def release(self, request, answer, clean, state, noise):
        return Answer(answer.labels, None)


@dataclass
class Count:
    rows: int = 0


class Shut(Defense[Count]):
    """Client `only` is alarmed at row `after` + 1, withheld that row and refused from there."""

    def __init__(self, after, only):
        self.after, self.only = after, only

    def start(self):
        return Count()

    def admit(self, request, state):
        if state.rows > self.after and request.client == self.only:
            raise Refused("shut")

    def release(self, request, answer, clean, state, noise):
        seen = state.rows + 1 + np.arange(len(request))
        state.rows += len(request)
        return answer.withhold((seen > self.after) & (request.client == self.only))

    def alarm(self, state):
        return (self.after + 1, 1.0) if state.rows > self.after else None


def clients(sizes=(60, 60, 60), seed=0):
    model = a_softmax(seed)
    streams = [np.random.default_rng(i).uniform(size=(n, 6)) for i, n in enumerate(sizes)]
    truths = [(model.scores(x).argmax(axis=1) + (x[:, 1] < 0.1)) % 3 for x in streams]
    return model, streams, truths


def cost(*stages, interface=INTERFACE, sizes=(60, 60, 60), truth=True):
    model, streams, truths = clients(sizes)
    rng = np.random.default_rng(1)
    return honest_cost(lambda: Guard(*stages, key=KEY), model, interface, streams, truths if truth else None, rng=rng)


def test_a_guard_that_does_nothing_costs_nothing():
    found = cost()
    assert found.agreement == clopper_pearson(180, 180)
    assert found.altered == found.refused == clopper_pearson(0, 180)
    assert found.flagged == clopper_pearson(0, 3, unit="clients")
    assert found.accuracy == found.utility
    # At most this share of rows is ever touched, and a row can lose 1 in accuracy and 2 in L1.
    share = clopper_pearson(0, 180).high
    assert (found.l1.value, found.l1.low, found.l1.high) == (0.0, 0.0, 2 * share)
    assert (found.accuracy_drop.value, found.accuracy_drop.low, found.accuracy_drop.high) == (0.0, -share, share)
    assert found.clean_calibration.value == found.served_calibration.value


def test_wrong_answers_are_counted():
    _, streams, truths = clients()
    model = a_softmax(0)
    found = cost(Rotate(0.3))
    hit = [x[:, 0] < 0.3 for x in streams]
    share = np.concatenate(hit).mean()
    assert 0.1 < share < 0.5
    assert found.altered.value == pytest.approx(share)
    assert found.agreement.value == pytest.approx(1 - share)
    assert found.agreement.unit == "clients"
    assert found.agreement.low < 1 - share < found.agreement.high
    assert found.refused.value == found.flagged.value == 0.0
    slow = []
    for x, rotated in zip(streams, hit, strict=True):
        for row, turned in zip(model.scores(x), rotated, strict=True):
            other = row[[2, 0, 1]] if turned else row
            slow.append(sum(abs(a - b) for a, b in zip(row, other, strict=True)))
    assert found.l1.value == pytest.approx(sum(slow) / len(slow))
    right = np.concatenate([model.scores(x).argmax(axis=1) == t for x, t in zip(streams, truths, strict=True)])
    turned_right = np.concatenate(
        [(model.scores(x).argmax(axis=1) + h) % 3 == t for x, h, t in zip(streams, hit, truths, strict=True)]
    )
    assert found.accuracy.value == pytest.approx(right.mean())
    assert found.utility.value == pytest.approx(turned_right.mean())
    assert found.accuracy_drop.value == pytest.approx(right.mean() - turned_right.mean())
    assert found.accuracy_drop.low < found.accuracy_drop.value < found.accuracy_drop.high


def test_labels_alone_are_an_alteration_that_keeps_labels():
    model, streams, _ = clients()
    found = cost(Labels())
    assert found.agreement.value == found.altered.value == 1.0
    assert found.accuracy_drop.value == 0.0
    top = np.concatenate([model.scores(x).max(axis=1) for x in streams])
    assert found.l1.value == pytest.approx((2 * (1 - top)).mean())
    assert math.isnan(found.served_calibration.value)  # there is no score to be calibrated


def test_a_client_who_is_shut_out_loses_every_row():
    found = cost(Shut(20, "honest-1"))
    # "honest-1" gets 20 of its 60 rows; all clients pass row 20, so that all are alarmed and one is shut out.
    assert found.refused.value == pytest.approx(40 / 180)
    assert found.agreement.value == pytest.approx(140 / 180)
    assert found.altered.value == pytest.approx(40 / 180)
    assert found.flagged.value == 1.0
    assert found.l1.value == 0.0  # over the rows that were answered
    assert found.utility.value < found.accuracy.value
    assert found.refused.high > 0.6  # three clients, one of them shut out: hardly anything is known


def test_clients_have_their_own_state_and_their_order_does_not_matter():
    model, streams, _ = clients()
    guard = Guard(Shut(20, "b"), key=KEY)
    first = serve(guard, model, INTERFACE, streams[0], client="a")
    second = serve(guard, model, INTERFACE, streams[1], client="b")
    assert first.answer.answered.all()
    assert second.answer.answered.tolist() == [True] * 20 + [False] * 40
    alone = serve(Guard(Shut(20, "b"), key=KEY), model, INTERFACE, streams[1], client="b")
    np.testing.assert_array_equal(alone.answer.scores, second.answer.scores)


def test_everything_refused_is_said():
    found = cost(*[Shut(0, f"honest-{i}") for i in range(3)])
    assert found.refused.value == 1.0
    assert found.agreement.value == found.utility.value == 0.0
    assert math.isnan(found.l1.value)


def test_what_the_interface_hides_is_no_loss():
    for interface in (INTERFACE.revealing(reveals=Reveals.TOP_K, k=1), INTERFACE.revealing(reveals=Reveals.LABELS)):
        found = cost(interface=interface)
        assert found.l1.value == found.altered.value == 0.0
    hidden = cost(Labels(), interface=INTERFACE.revealing(reveals=Reveals.LABELS))
    assert hidden.altered.value == 0.0
    assert hidden.l1.value == 0.0


def test_distance_by_hand():
    clean = Answer(np.array([0, 1, 0, 0]), np.array([[0.6, 0.4], [0.2, 0.8], [0.9, 0.1], [0.7, 0.3]]))
    served = Answer(np.array([0, 1, 1, -1]), np.array([[0.5, 0.5], [np.nan, 0.8], [np.nan, np.nan], [np.nan, np.nan]]))
    # moved by 0.1 twice; hidden 0.2 counts as 0; only label 1 is shown: |0.9 - 0| + |0.1 - 1|; refused
    np.testing.assert_allclose(shown_distance(clean, served, 2), [0.2, 0.2, 1.8, np.nan])
    bare = Answer(np.array([0, 1, 1, -1]))
    np.testing.assert_allclose(shown_distance(clean, bare, 2), [0.8, 0.4, 1.8, np.nan])


def slow_calibration(confidence, right, bins):
    total = 0.0
    for b in range(bins):
        rows = [i for i, c in enumerate(confidence) if b / bins < c <= (b + 1) / bins or (b == 0 and c == 0)]
        if rows:
            accuracy = sum(right[i] for i in rows) / len(rows)
            total += len(rows) / len(right) * abs(accuracy - sum(confidence[i] for i in rows) / len(rows))
    return total


def test_calibration_error_is_the_definition():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), size=300)
    answer = Answer(scores.argmax(axis=1), scores)
    true = rng.integers(3, size=300)
    found = calibration_error(
        [answer.take(slice(100)), answer.take(slice(100, None))], [true[:100], true[100:]], rng=rng
    )
    expected = slow_calibration(scores.max(axis=1).tolist(), (answer.labels == true).tolist(), 15)
    assert found.value == pytest.approx(expected)
    assert found.low <= found.value <= found.high
    assert found.n == 300


def test_calibration_error_by_hand():
    # Told 0.75 of four rows and right about three: no error. Told 1.0 of four and right about two: 0.5.
    right = np.array([1, 1, 1, 0, 1, 1, 0, 0])
    scores = np.array([[0.75, 0.25]] * 4 + [[1.0, 0.0]] * 4)
    answer, true = Answer(np.zeros(8, int), scores), 1 - right
    found = calibration_error([answer], [true], rng=np.random.default_rng(0))
    assert found.value == pytest.approx(0.25)
    refused = answer.withhold(np.arange(8) >= 4)
    assert calibration_error([refused], [true], rng=np.random.default_rng(0)).value == pytest.approx(0.0)


def test_one_client_is_judged_by_its_rows():
    found = cost(Rotate(0.3), sizes=(80,))
    assert (found.agreement.n, found.agreement.unit) == (80, "rows")
    assert (found.l1.n, found.l1.unit) == (80, "rows")


def test_without_truth_there_is_no_accuracy():
    found = cost(truth=False)
    assert found.accuracy is found.utility is found.accuracy_drop is found.served_calibration is None
    assert "accuracy" not in found.measures()


def test_measures_by_name():
    named = cost(Rotate(0.3)).measures()
    assert {"utility", "accuracy", "tv", "labels_changed", "refused", "flagged"} <= set(named)
    assert all(isinstance(e, Estimate) and e.low <= e.value <= e.high for e in named.values())
    assert named["labels_changed"].value == pytest.approx(1 - named["agreement"].value)
    assert named["tv"].value == pytest.approx(named["l1"].value / 2)


def test_streams_are_checked():
    model, streams, truths = clients()
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="at least one stream"):
        honest_cost(lambda: Guard(key=KEY), model, INTERFACE, [], rng=rng)
    with pytest.raises(InputError, match=r"got 3 streams and labels for \[60, 60\] rows"):
        honest_cost(lambda: Guard(key=KEY), model, INTERFACE, streams, truths[:2], rng=rng)
    with pytest.raises(NotApplicable, match="this API does regression"):
        honest_cost(lambda: Guard(key=KEY), model, Interface(input_shape=(6,), task="regression"), streams, rng=rng)


def test_explanations_are_those_of_each_row():
    model, streams, _ = clients()

    class Explained:
        input_shape, n_classes = model.input_shape, model.n_classes

        def scores(self, x):
            return model.scores(x)

        def explain(self, x, classes):
            return x * (1 + classes[:, None])

    interface = Interface(input_shape=(6,), n_classes=3, explains=True)
    told = serve(Guard(key=KEY), Explained(), interface, streams[0], client="honest")
    np.testing.assert_array_equal(told.answer.explanation, told.clean.explanation)
    x = streams[0]
    np.testing.assert_array_equal(told.answer.explanation, x * (1 + model.scores(x).argmax(axis=1)[:, None]))


def test_derived_measures_turn_and_halve_the_whole_interval():
    found = cost(Rotate(0.3))
    named, same, moved = found.measures(), found.agreement, found.l1
    tv, changed = named["tv"], named["labels_changed"]
    assert (tv.value, tv.low, tv.high) == pytest.approx((moved.value / 2, moved.low / 2, moved.high / 2))
    assert (changed.low, changed.high) == pytest.approx((1 - same.high, 1 - same.low))
    assert 0 < tv.low < tv.value < tv.high
