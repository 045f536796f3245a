from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.state import pack, unpack


@dataclass
class Inner:
    rows: np.ndarray
    derived: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.derived = self.rows * 2


@dataclass
class Outer:
    by_class: dict[int, Inner] = field(default_factory=dict)
    history: list[float] = field(default_factory=list)
    pair: tuple[int, str] = (0, "")
    secret: bytes = b""
    alarm: int | None = None
    on: bool = False


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # a busy machine is no failure
@given(
    st.dictionaries(st.integers(0, 5), st.integers(0, 4), max_size=3),
    st.lists(st.floats(allow_nan=False), max_size=4),
    st.none() | st.integers(),
    st.binary(max_size=5),
)
def test_unpack_undoes_pack(sizes: dict[int, int], history: list[float], alarm: int | None, secret: bytes) -> None:
    dtypes = [np.uint8, np.float32, np.float64]
    inner = {c: Inner(np.arange(n * 2, dtype=dtypes[c % 3]).reshape(n, 2)) for c, n in sizes.items()}
    state = Outer(inner, history, (3, "x"), secret, alarm, True)
    again = unpack(Outer, pack(state))
    assert pack(again) == pack(state)
    assert (again.history, again.pair, again.secret, again.alarm, again.on) == (history, (3, "x"), secret, alarm, True)
    for c, n in sizes.items():
        assert again.by_class[c].rows.dtype == dtypes[c % 3]
        assert again.by_class[c].rows.shape == (n, 2)
        assert (again.by_class[c].derived == inner[c].derived).all()


class Alias:
    """What `type Alias = np.ndarray` makes from Python 3.12 on, as far as `unpack` sees."""

    __value__ = np.ndarray


@dataclass
class Hinted:
    rows: Alias


def test_a_hint_may_be_an_alias() -> None:
    assert unpack(Hinted, pack(Hinted(np.arange(3.0)))).rows.tolist() == [0.0, 1.0, 2.0]  # type: ignore[attr-defined, arg-type]


def test_a_view_costs_its_own_size() -> None:
    buffer = np.zeros(10_000)
    assert len(pack(Outer({0: Inner(buffer[:10])}))) < 1_000


@pytest.mark.parametrize("damage", [lambda b: b[:-8], lambda b: b"\xff" * 8 + b[8:], lambda b: b[:12], lambda b: b""])
def test_damage_is_said_in_a_sentence(damage) -> None:
    data = pack(Outer({0: Inner(np.arange(6.0))}))
    with pytest.raises(InputError, match="damaged"):
        unpack(Outer, damage(data))


def test_only_plain_things_are_kept() -> None:
    with pytest.raises(ParameterError, match="numbers, text, arrays"):
        pack(Outer(alarm=object()))  # type: ignore[arg-type]
