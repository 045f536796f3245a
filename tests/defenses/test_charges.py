"""What suspicion costs: money and work, written down before the model runs and given back where it fails."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portcullis_ml.core.errors import ParameterError, Refused
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Request
from portcullis_ml.defenses._windows import renewed
from portcullis_ml.defenses.priced import Priced
from portcullis_ml.defenses.proof_of_work import ProofOfWork

from .toys import API, Tally, answer_to, noise, rows


def ask(stage: Priced | ProofOfWork, state: object, n: int, at: float = 0.0, work: int = 0) -> None:
    request = Request("a", rows(n), at, work)
    stage.admit(request, state)  # type: ignore[arg-type]
    stage.release(request, answer_to(request.x), answer_to(request.x), state, noise())  # type: ignore[arg-type]


def price(suspicion: float, normal: float, threshold: float, factor: float, most: float) -> float:
    """The plain twin of `times`."""
    if math.isnan(suspicion) or suspicion <= normal:
        return 1.0
    return min(factor ** ((suspicion - normal) / (threshold - normal)), most)


@given(
    suspicion=st.one_of(st.just(float("nan")), st.floats(-100, 100)),
    normal=st.floats(-10, 9),
    factor=st.floats(1, 50),
    most=st.floats(1, 1e6),
)
def test_the_price_rises_with_suspicion(suspicion: float, normal: float, factor: float, most: float) -> None:
    stage = Priced(Tally(threshold=10.0), normal=normal, factor=factor, most=most)
    assert stage.times(suspicion) == pytest.approx(price(suspicion, normal, 10.0, factor, most), rel=1e-9)
    assert stage.times(normal) == stage.times(-math.inf) == 1.0
    assert stage.times(10.0) == pytest.approx(min(factor, most))
    assert stage.times(math.inf) == pytest.approx(most if factor > 1 else 1.0)


def test_rows_cost_credit_by_what_was_known_before_the_request() -> None:
    stage = Priced(Tally(threshold=20.0), credit=100.0, price=2.0, normal=10.0, factor=4.0)
    state = stage.start()
    ask(stage, state, 10)
    assert (state.spent, state.suspicion) == (20.0, 10.0)
    ask(stage, state, 10)  # the ordinary price up to `normal`
    assert (state.spent, state.suspicion) == (40.0, 20.0)
    ask(stage, state, 5)  # four times as much at the threshold
    assert state.spent == 80.0
    with pytest.raises(Refused, match="its credit is used up") as refused:
        ask(stage, state, 2, at=100.0)
    assert refused.value.room == 1  # 2 * 4 ** 1.5 = 16 each, of 20 that are left
    assert refused.value.retry_after == 86_300.0
    ask(stage, state, 1, at=100.0)
    assert state.spent == 96.0


def test_credit_is_renewed_with_the_window_or_never() -> None:
    daily = Priced(Tally(threshold=1e9), normal=1e8, credit=10.0, per=60.0)
    state = daily.start()
    ask(daily, state, 10, at=5.0)
    with pytest.raises(Refused) as refused:
        ask(daily, state, 1, at=64.0)
    assert refused.value.retry_after == 1.0
    ask(daily, state, 10, at=65.0)
    life = Priced(Tally(threshold=1e9), normal=1e8, credit=10.0, per=None)
    state = life.start()
    ask(life, state, 10)
    with pytest.raises(Refused) as refused:
        ask(life, state, 1, at=1e9)
    assert refused.value.retry_after is None


def test_what_was_not_answered_is_given_back_at_its_own_price() -> None:
    stage = Priced(Tally(threshold=20.0), credit=1_000.0, factor=10.0)
    state = stage.start()
    waiting = Request("a", rows(3), 0.0)
    stage.admit(waiting, state)  # at the ordinary price
    ask(stage, state, 20, at=1.0)
    dear = Request("a", rows(3), 2.0)
    stage.admit(dear, state)  # at ten times that
    assert state.spent == 3 + 20 + 30
    stage.undo(waiting, state)
    assert state.spent == 20 + 30
    stage.undo(dear, state)
    assert state.spent == 20
    stage.undo(dear, state)  # nothing is given back twice
    assert state.spent == 20
    assert state.open == []


@given(suspicion=st.floats(-5, 60), n=st.integers(0, 5_000), seconds=st.floats(1e-3, 100), speed=st.floats(1, 1e9))
def test_work_takes_the_seconds_of_its_rows_on_average(suspicion: float, n: int, seconds: float, speed: float) -> None:
    stage = ProofOfWork(Tally(threshold=20.0), normal=5.0, seconds=seconds, hashes_per_s=speed, bits=64)
    bits = stage.asked(suspicion, n)
    if suspicion <= 5.0 or n == 0:
        assert bits == 0
        return
    wanted = n * seconds * price(suspicion, 5.0, 20.0, 10.0, 1e6)
    assert 2.0**bits / speed >= wanted * (1 - 1e-9) or bits == 64
    assert bits == 0 or 2.0 ** (bits - 1) / speed <= wanted * (1 + 1e-9)  # the least number of bits that does


def test_who_is_suspected_is_refused_until_enough_work_is_shown() -> None:
    stage = ProofOfWork(Tally(threshold=20.0), seconds=1.0, hashes_per_s=1024.0, factor=4.0)
    state = stage.start()
    ask(stage, state, 20)
    with pytest.raises(Refused, match="it must show work first") as refused:
        ask(stage, state, 2)
    assert refused.value.work == 13  # 2 rows at 4 times 1,024 hashes
    with pytest.raises(Refused):
        ask(stage, state, 2, work=12)
    ask(stage, state, 2, work=13)
    assert state.spent == 2.0**13
    assert stage.asked(1e9, 1) == 30  # 1,024 times `most`
    assert stage.asked(1e9, 10_000) == 36  # never more than `bits`


def test_an_oracle_counts_the_work_and_goes_on() -> None:
    class Model:
        input_shape, n_classes = (4,), 5

        def scores(self, x: np.ndarray) -> np.ndarray:
            scores = answer_to(x).scores
            assert scores is not None
            return scores

    guard = Guard(ProofOfWork(Tally(threshold=20.0), normal=9.5, seconds=1.0, hashes_per_s=1024.0), key=b"g" * 32)
    oracle = LocalOracle(Model(), API, budget=100, guard=guard)
    for _ in range(5):
        assert len(oracle.query(rows(5))) == 5
    bits = [guard.stages[0].asked(float(known), 5) for known in (10, 15, 20)]  # type: ignore[attr-defined]
    assert oracle.hashes == sum(2.0**b for b in bits)
    assert oracle.queries == 25


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Priced(Tally(threshold=3.0), normal=3.0), "below the detector's threshold"),
        (lambda: Priced(Tally(), credit=1.0, price=2.0), "at most the credit"),
        (lambda: Priced(Tally(), per=0.0), "None or a positive number of seconds"),
        (lambda: Priced(Tally(), factor=0.5), "at least 1"),
        (lambda: Priced("prada"), "a detector, such as Prada"),  # type: ignore[arg-type]
        (lambda: ProofOfWork(Tally(), bits=65), "1, 64"),
        (lambda: ProofOfWork(Tally(), seconds=0.0), "a positive number"),
    ],
)
def test_wrong_settings_are_named(build: object, sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence):
        build()  # type: ignore[operator]


def test_windows_begin_with_what_is_first_counted_in_them() -> None:
    assert renewed(0.0, 50.0, 60.0, unused=True) == (50.0, True)
    assert renewed(50.0, 109.0, 60.0, unused=False) == (50.0, False)
    assert renewed(50.0, 110.0, 60.0, unused=False) == (110.0, True)
    assert renewed(50.0, 1e9, None, unused=False) == (50.0, False)
    assert renewed(50.0, 20.0, 60.0, unused=False) == (20.0, False)  # a clock was set back
