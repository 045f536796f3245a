"""How fast a client may send: told by a clock that the test sets."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from tests.gateway.asgi import ALICE, Here, question
from tests.gateway.harness import KEYS

from portcullis_ml.gateway.policy.settings import Limits
from portcullis_ml.gateway.rates import AHEAD_S, MOST, Rates, address_of

SLOW = Limits(requests_per_minute=60, bytes_per_minute=6_000)  # one request and a hundred bytes a second
X = [[0.1, 0.2, 0.3, 0.4]]
BOB = {"x-api-key": KEYS["bob"]}
LIMITS = "[limits]\nrequests_per_minute = 12\n"  # two at once, as ten seconds' worth; then one every five seconds


def spent(rates: Rates, now: float, limits: Limits = SLOW) -> int:
    """How many requests alice may send now."""
    count = 0
    while not rates.wait("alice", limits, now):
        count += 1
    return count


def test_ten_seconds_worth_may_come_at_once_and_then_as_much_as_runs_in() -> None:
    rates = Rates()
    assert spent(rates, 0.0) == AHEAD_S
    assert rates.wait("alice", SLOW, 0.25) == pytest.approx(0.75)
    assert spent(rates, 1.0) == 1
    assert spent(rates, 1_000.0) == AHEAD_S
    assert rates.wait("bob", SLOW, 1_000.0) == 0.0


def test_who_has_sent_too_many_bytes_waits_until_they_are_made_up_for() -> None:
    rates = Rates()
    rates.sent("alice", 1_500, SLOW, 0.0)  # a thousand are free
    assert rates.wait("alice", SLOW, 0.0) == pytest.approx(5.0)
    assert rates.wait("alice", SLOW, 5.0) == 0.0


def test_a_request_that_must_wait_is_not_counted() -> None:
    rates = Rates()
    spent(rates, 0.0)
    for _ in range(100):
        rates.wait("alice", SLOW, 0.5)
    assert rates.wait("alice", SLOW, 1.0) == 0.0


def test_less_than_one_request_in_ten_seconds_is_a_limit_too() -> None:
    rates, rare = Rates(), Limits(requests_per_minute=1)
    assert spent(rates, 0.0, rare) == 1
    assert rates.wait("alice", rare, 20.0) == pytest.approx(40.0)
    assert spent(rates, 60.0, rare) == 1


def test_no_limit_is_written_as_infinity() -> None:
    rates, free = Rates(), Limits(requests_per_minute=float("inf"), bytes_per_minute=float("inf"))
    for _ in range(100):
        assert rates.wait("alice", free, 0.0) == 0.0
        rates.sent("alice", 1 << 40, free, 0.0)


def test_a_clock_that_jumps_locks_nobody_out() -> None:
    rates = Rates()
    spent(rates, 1e9)
    assert rates.wait("alice", SLOW, 0.0) == pytest.approx(1.0)  # set back: what runs in counts from now
    assert rates.wait("alice", SLOW, 1.0) == 0.0


def test_the_names_that_are_remembered_have_an_end() -> None:
    rates = Rates()
    for i in range(MOST + 100):
        rates.wait(str(i), SLOW, 0.0)
    assert len(rates._buckets) == MOST


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        (None, "not an address", True),
    ],
)
def test_an_address_is_counted_by_what_one_owner_has(one: str | None, other: str, same: bool) -> None:
    assert (address_of(one) == address_of(other)) is same
    assert address_of(one).startswith("(")  # as no client's name does


async def test_beyond_its_rate_a_client_gets_429_and_when_to_come_again(tmp_path: Path) -> None:
    here = Here(tmp_path, more=LIMITS)
    assert [(await here.infer(X))[0] for _ in range(3)] == [200, 200, 429]
    status, headers, tree = await here.infer(X)
    assert (status, headers["retry-after"], "sent" in tree["error"]) == (429, "5", True)
    assert (await here.infer(X, BOB))[0] == 200
    assert here.gate.metrics.requests["busy"] == 2
    here.now += 5
    assert (await here.infer(X))[0] == 200


async def test_what_is_malformed_counts_as_well(tmp_path: Path) -> None:
    here = Here(tmp_path, more=LIMITS)
    assert [(await here.send(body=b"{"))[0] for _ in range(3)] == [400, 400, 429]
    assert (await here.infer(X))[0] == 429


@pytest.mark.parametrize("length", [True, False])
async def test_bytes_count_whether_they_are_announced_or_not(length: bool, tmp_path: Path) -> None:
    here = Here(tmp_path, more="[limits]\nbytes_per_minute = 60_000\n")  # a thousand a second
    body = question(X) + b" " * 20_000
    headers = {**ALICE, "content-length": str(len(body))} if length else ALICE
    assert (await here.send(body=body, headers=headers))[0] == 200
    status, found, _ = await here.infer(X)
    assert (status, found["retry-after"]) == (429, "11")  # a tenth of a thousand bytes and 20,000 less 10,000 are owed
    here.now += 11
    assert (await here.infer(X))[0] == 200


async def test_who_is_nobody_is_counted_by_address_and_stands_in_nobodys_way(tmp_path: Path) -> None:
    here = Here(tmp_path, more=LIMITS)
    nobody = {"x-api-key": "made up"}
    assert [(await here.infer(X, nobody))[0] for _ in range(3)] == [401, 401, 429]
    assert (await here.infer(X))[0] == 200
    assert (await here.send(body=question(X), headers=nobody, client=("127.0.0.2", 1)))[0] == 401


@pytest.mark.parametrize(("size", "status", "wait"), [(30_000, 413, "10"), (15_000, 400, "5")])
async def test_what_is_decoded_counts_as_if_it_had_been_sent(size: int, status: int, wait: str, tmp_path: Path) -> None:
    """And a bomb as much as the longest body."""
    here = Here(tmp_path, more="[limits]\nbytes_per_minute = 60_000\nbody_bytes = 20_000\n")
    packed = gzip.compress(bytes(size))
    headers = {**ALICE, "content-encoding": "gzip", "content-length": str(len(packed))}
    assert (await here.send(body=packed, headers=headers))[0] == status
    got, found, _ = await here.infer(X)
    assert (got, found["retry-after"]) == (429, wait)
    here.gate.reading.close()


async def test_a_body_that_becomes_too_long_counts_as_the_longest(tmp_path: Path) -> None:
    here = Here(tmp_path, more="[limits]\nbytes_per_minute = 60_000\nbody_bytes = 20_000\n")
    assert (await here.send(body=b"1" * 30_000))[0] == 413
    got, found, _ = await here.infer(X)
    assert (got, found["retry-after"]) == (429, "10")
