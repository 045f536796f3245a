"""The stream of a group through every detector of the catalog."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.types import Answer, Request
from portcullis_ml.detectors.linkage.pooled import Pooled, pooled, union
from portcullis_ml.detectors.prada_normality import PradaNormality

from .test_contract import NAMES, build, stream_of, watched
from .toys import answer_to, setup_of


def sent(name: str, client: str, x: np.ndarray, at: list[float], cuts: list[int]) -> list[tuple[Request, Answer]]:
    pieces = np.split(x, cuts)
    return [(Request(client, p, t), setup_of(name).answer_to(p)) for p, t in zip(pieces, at, strict=True) if len(p)]


@pytest.mark.parametrize("name", NAMES)
class TestEveryDetector:
    def test_one_account_pooled_is_the_plain_detector(self, name: str) -> None:
        x, detector = stream_of(name), build(name)
        plain, _ = watched(name, detector, x)
        cuts = list(range(20, 260, 20))
        requests = sent(name, "a", x, [float(i) for i in range(13)], cuts)
        np.testing.assert_array_equal(pooled(detector, {"a": requests}), paced(name, x, cuts))
        if name != "call_rate":  # whose suspicion follows the times
            np.testing.assert_array_equal(pooled(detector, {"a": requests}), plain)

    @settings(max_examples=5, deadline=None)
    @given(accounts=st.integers(1, 7), cuts=st.sets(st.integers(1, 259), max_size=5))
    def test_accounts_in_turn_are_the_one_stream(self, name: str, accounts: int, cuts: set[int]) -> None:
        x, detector, at = stream_of(name), build(name), sorted({0, *cuts})
        names = [f"account-{i % accounts}" for i in range(len(at))]
        streams: dict[str, list[tuple[Request, Answer]]] = {}
        for i, (who, part) in enumerate(zip(names, np.split(x, at[1:]), strict=True)):
            streams.setdefault(who, []).append((Request(who, part, float(i)), setup_of(name).answer_to(part)))
        backwards = dict(reversed(streams.items()))
        np.testing.assert_array_equal(pooled(detector, streams), pooled(detector, backwards))
        np.testing.assert_array_equal(pooled(detector, streams), paced(name, x, at[1:]))


def paced(name: str, x: np.ndarray, cuts: list[int]) -> np.ndarray:
    """The plain detector on one account that sends these pieces a second apart."""
    detector = build(name)
    state = detector.start()
    parts = np.split(x, cuts)
    return np.concatenate(
        [detector.update(state, Request("a", p, float(i)), setup_of(name).answer_to(p)) for i, p in enumerate(parts)]
    )


def test_the_union_is_in_order_of_time_and_keeps_each_accounts_order() -> None:
    x = np.zeros((1, 4))
    a = [(Request("a", x, t), answer_to(np.zeros((1, 64)))) for t in (1.0, 3.0, 3.0)]
    b = [(Request("b", x, t), answer_to(np.zeros((1, 64)))) for t in (2.0, 3.0)]
    assert [request.client for request, _ in union({"b": b, "a": a})] == ["a", "b", "a", "a", "b"]
    assert [r for r, _ in union({"a": a, "b": b})][2:4] == [a[1][0], a[2][0]]


def test_a_campaign_below_each_accounts_threshold_is_seen_in_its_union() -> None:
    """The merge test: forty accounts of eighty questions each, too few for PRADA to say anything."""
    name, detector = "prada_normality", PradaNormality()
    x = setup_of(name).attack(800, 0)
    streams = {
        f"a{i}": [(Request("c", x[j : j + 1], float(j)), answer_to(x[j : j + 1])) for j in range(i, 800, 10)]
        for i in range(10)
    }
    assert not any(detector.alarms(pooled(detector, {a: s})).any() for a, s in streams.items())
    assert detector.alarms(pooled(detector, streams)).any()


def test_groups_do_not_leak_into_one_another() -> None:
    unit, states = Pooled(detector=PradaNormality()), {}
    x = natural_rows = stream_of("prada_normality")
    alone = unit.update({}, "g", Request("a", x), answer_to(x))
    unit.update(states, "other", Request("a", natural_rows), answer_to(x))
    np.testing.assert_array_equal(unit.update(states, "g", Request("a", x), answer_to(x)), alone)


def test_what_is_no_detector_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"Pooled\.detector|pooled\.detector"):
        Pooled(detector="prada")  # type: ignore[arg-type]
