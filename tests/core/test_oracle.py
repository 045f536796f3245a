import numpy as np
import pytest

from portcullis_ml.core.errors import BudgetExhausted, InputError, ParameterError, Refused
from portcullis_ml.core.guard import Defense, Guard
from portcullis_ml.core.oracle import LocalOracle, Oracle
from portcullis_ml.core.types import Answer, Array, Interface, Reveals
from portcullis_ml.defenses.quota import Quota

API = Interface(input_shape=(2,), n_classes=2)


class Sigmoid:
    input_shape = (2,)
    n_classes = 2

    def __init__(self, spoil=lambda p: p) -> None:
        self.rows = 0
        self.spoil = spoil

    def scores(self, x: Array) -> Array:
        self.rows += len(x)
        p = 1 / (1 + np.exp(-x.sum(1)))
        return self.spoil(np.column_stack([1 - p, p]))


class Notebook:
    """A ledger in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[bytes, Answer]] = []
        self.place = 0

    def rewind(self) -> "Notebook":
        self.place = 0
        return self

    def recall(self, x: Array) -> Answer | None:
        found = []
        for row in x:
            if self.place == len(self.rows):
                break
            asked, answer = self.rows[self.place]
            assert asked == row.tobytes()
            found.append(answer)
            self.place += 1
        return Answer.concat(found) if found else None

    def record(self, x: Array, answer: Answer) -> None:
        for i, row in enumerate(x):
            self.rows.append((row.tobytes(), answer.take(slice(i, i + 1))))
        self.place = len(self.rows)


class CloseAt(Defense[None]):
    """Blocks rows whose first input is above one half."""

    name = "close_at"

    def release(self, request, answer, clean, state, noise):
        return answer.withhold(request.x[:, 0] > 0.5)


def points(n: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((n, 2))


def test_rows_are_charged_one_by_one_and_never_beyond_the_budget() -> None:
    victim = Sigmoid()
    oracle = LocalOracle(victim, API, budget=10)
    assert isinstance(oracle, Oracle)
    oracle.query(points(7))
    with pytest.raises(BudgetExhausted, match=r"4 rows were asked and 3 are left"):
        oracle.query(points(4))
    assert (oracle.queries, oracle.left, victim.rows) == (7, 3, 7)


def test_an_answer_shows_only_what_the_interface_reveals() -> None:
    oracle = LocalOracle(Sigmoid(), API.revealing(reveals=Reveals.LABELS), budget=5)
    assert oracle.query(points(5)).scores is None


@pytest.mark.parametrize("x", [np.zeros(2), np.zeros((1, 3)), np.zeros((1, 2, 1))])
def test_a_query_of_another_shape_is_refused_and_costs_nothing(x: Array) -> None:
    oracle = LocalOracle(Sigmoid(), API, budget=5)
    with pytest.raises(InputError, match=r"shape \(n, 2\)"):
        oracle.query(x)
    assert oracle.left == 5


def test_nan_is_refused_unless_inputs_may_be_missing() -> None:
    x = np.array([[np.nan, 0.0]])
    with pytest.raises(InputError, match="omitted"):
        LocalOracle(Sigmoid(), API, budget=5).query(x)
    with pytest.raises(InputError, match="finite"):
        LocalOracle(Sigmoid(), API.revealing(missing=True), budget=5).query(np.full((1, 2), np.inf))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda p: p * np.nan, "finite scores; row 0"),
        (lambda p: p * 2, "sum to one; one row sums to 2"),
        (lambda p: p[:, :1], r"3 x 2 scores; got an array of shape \(3, 1\)"),
        (lambda p: p[:-1], r"shape \(2, 2\)"),
        (lambda p: np.array([[-0.5, 1.5]] * len(p)), "least score is -0.5"),
    ],
)
def test_a_broken_victim_is_named(spoil, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        LocalOracle(Sigmoid(spoil), API, budget=5).query(points(3))


def test_a_failing_model_gives_back_what_the_guard_reserved() -> None:
    returned = []

    class Reserve(Defense[None]):
        name = "reserve"

        def undo(self, request, state):
            returned.append(len(request))

        def release(self, request, answer, clean, state, noise):
            return answer

    oracle = LocalOracle(Sigmoid(lambda p: p * np.nan), API, budget=5, guard=Guard(Reserve(), key=b"k" * 16))
    with pytest.raises(InputError):
        oracle.query(points(3))
    assert returned == [3]


def test_a_door_that_closes_mid_batch_keeps_the_rows_before() -> None:
    x = np.array([[0.1, 0], [0.2, 0], [0.9, 0], [0.3, 0]])
    oracle = LocalOracle(Sigmoid(), API, budget=9, guard=Guard(CloseAt(), key=b"k" * 16))
    with pytest.raises(Refused) as refused:
        oracle.query(x)
    assert len(refused.value.answered) == 2
    assert oracle.queries == 4


def test_a_resumed_run_pays_for_no_row_twice() -> None:
    ledger, x = Notebook(), points(10)
    first = LocalOracle(Sigmoid(), API, budget=20, ledger=ledger).query(x[:6])
    victim = Sigmoid()
    oracle = LocalOracle(victim, API, budget=20, ledger=ledger.rewind())
    again = oracle.query(x)
    assert victim.rows == 4
    assert oracle.queries == 10
    assert (again.scores[:6] == first.scores).all()


def test_a_refusal_is_recorded_up_to_the_last_answered_row() -> None:
    x = np.array([[0.1, 0], [0.2, 0], [0.9, 0]])
    ledger = Notebook()
    with pytest.raises(Refused):
        LocalOracle(Sigmoid(), API, budget=9, guard=Guard(CloseAt(), key=b"k" * 16), ledger=ledger).query(x)
    assert len(ledger.rows) == 2


@pytest.mark.parametrize("size", [4, 7, 30])
def test_a_batch_too_large_for_a_quota_is_asked_as_far_as_it_goes(size: int) -> None:
    ledger, x = Notebook(), points(30)

    def run(oracle: LocalOracle) -> None:
        for start in range(0, 30, size):
            oracle.query(x[start : start + size])

    victim = Sigmoid()
    guard = lambda: Guard(Quota(rows=10), key=b"k" * 16)  # noqa: E731
    oracle = LocalOracle(victim, API, budget=50, guard=guard(), ledger=ledger)
    with pytest.raises(Refused, match="quota"):
        run(oracle)
    assert (victim.rows, len(ledger.rows), oracle.queries) == (10, 10, 10)
    again = LocalOracle(Sigmoid(), API, budget=50, guard=guard(), ledger=ledger.rewind())
    with pytest.raises(Refused, match="quota"):
        run(again)
    assert again.queries == 10


def test_a_resumed_run_gets_what_was_answered_before_the_refusal() -> None:
    x, ledger = np.array([[0.1, 0], [0.2, 0], [0.9, 0]]), Notebook()
    for _ in range(2):
        oracle = LocalOracle(Sigmoid(), API, budget=9, guard=Guard(CloseAt(), key=b"k" * 16), ledger=ledger.rewind())
        with pytest.raises(Refused) as refused:
            oracle.query(x)
        assert len(refused.value.answered) == 2


def test_a_budget_below_one_is_refused() -> None:
    with pytest.raises(ParameterError, match="at least 1 query"):
        LocalOracle(Sigmoid(), API, budget=0)
