"""The gate: what goes through, what is refused, and that a refusal leaves no trace."""

from __future__ import annotations

import asyncio
import gzip
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from tests.gateway.asgi import ALICE, URL, Here, down, question
from tests.gateway.harness import KEYS

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.querylog import Line, NoLog

QUOTA = '[[guard]]\nunit = "quota"\nrows = 10\nper = 60\n'
ROUNDING = '[[guard]]\nunit = "rounding"\ndecimals = 2\n'
X = np.array([[0.1, 0.2, 0.3, 0.4]])


def watch(row: int, then: str = '{ unit = "block" }') -> str:
    """A stage whose alarm goes off at this row."""
    detector = f'{{ unit = "tests.gateway.units:At", row = {row} }}'
    return f'[[guard]]\nunit = "watch"\ndetector = {detector}\nthen = {then}\n'


def scores(tree: Any) -> list[float]:
    return next(o["data"] for o in tree["outputs"] if o["name"] == "probabilities")


async def test_an_answer_goes_out_as_the_guard_leaves_it(tmp_path: Path) -> None:
    here = Here(tmp_path, ROUNDING)
    status, headers, tree = await here.infer(X)
    assert status == 200
    assert scores(tree) == np.round(here.model.scores(X), 2).ravel().tolist()
    assert here.gate.metrics.requests["answered"] == 1  # as everybody is
    assert headers["x-request-id"]


async def test_the_upstream_gets_the_request_id_and_the_trace_and_nothing_else_of_the_clients(tmp_path: Path) -> None:
    here = Here(tmp_path)
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    given = {**ALICE, "x-request-id": "abc-1", "traceparent": trace, "tracestate": "k=v", "cookie": "c", "x-other": "1"}
    _, headers, _ = await here.infer(X, given)
    assert headers["x-request-id"] == "abc-1"
    assert here.upstream.headers == [{"x-request-id": "abc-1", "traceparent": trace, "tracestate": "k=v"}]
    bad = {**ALICE, "x-request-id": "a\tb", "traceparent": "00-x", "tracestate": "k=v"}
    _, headers, _ = await here.infer(X, bad)
    assert headers["x-request-id"] != "a\tb"
    assert list(here.upstream.headers[1]) == ["x-request-id"]


@pytest.mark.parametrize(
    ("headers", "status", "sentence"),
    [
        ({}, 401, "Say who you are"),
        ({"x-api-key": "wrong"}, 401, "not valid"),
        ([("x-api-key", KEYS["alice"]), ("x-api-key", KEYS["bob"])], 400, "may come once"),
        ({**ALICE, "content-encoding": "br"}, 415, "gzip"),
        ({**ALICE, "content-length": str(10**9)}, 413, "bytes long"),
        ({**ALICE, "content-length": "9" * 5_000}, 413, "bytes long"),
        ({**ALICE, "content-length": "ten"}, 400, "must be one number"),
    ],
)
async def test_who_cannot_be_served_is_told_why(headers: Any, status: int, sentence: str, tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA)
    got, _, tree = await here.send(body=question(X), headers=headers)
    assert (got, sentence in tree["error"]) == (status, True)
    assert here.model.asked == 0
    assert not here.streams.open  # no state changed


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "TRACE"])
async def test_other_methods_and_routes_are_refused_not_passed_through(method: str, tmp_path: Path) -> None:
    here = Here(tmp_path)
    status, headers, tree = await here.send(method)
    assert (status, headers["allow"]) == (405, "POST, OPTIONS")
    assert tree["error"] == "Ask here by POST or OPTIONS."
    assert (await here.send(method, "/v2/models/other/infer"))[0] == 404
    assert (await here.send("POST", "/v2/repository/models/m/unload"))[0] == 404
    assert here.model.asked == 0


@pytest.mark.parametrize(
    ("path", "methods"), [(URL, "POST, OPTIONS"), ("/v2", "GET, HEAD, OPTIONS"), ("*", "GET, HEAD, POST, OPTIONS")]
)
async def test_options_tells_what_may_be_asked(path: str, methods: str, tmp_path: Path) -> None:
    here = Here(tmp_path)
    status, headers, body = await here.send("OPTIONS", path, headers={})
    assert (status, headers["allow"], body) == (204, methods, b"")
    assert "content-length" not in headers
    assert (await here.send("OPTIONS", "/v2/models/other/infer"))[0] == 404


async def test_head_is_answered_as_get_is(tmp_path: Path) -> None:
    here = Here(tmp_path)
    given = {**ALICE, "x-request-id": "seven"}
    for path in ("/v2", "/v2/health/live", "/v2/models/m", "/v2/nothing"):
        assert await here.send("HEAD", path, headers=given) == await here.send("GET", path, headers=given)


async def test_a_query_behind_a_path_is_not_looked_at(tmp_path: Path) -> None:
    here = Here(tmp_path)
    assert (await here.send("POST", URL, question(X), query_string=b"debug=1&x=%2e%2e"))[0] == 200


async def test_a_question_in_gzip_is_read(tmp_path: Path) -> None:
    here = Here(tmp_path)
    plain = (await here.infer(X))[2]
    packed = await here.send(body=gzip.compress(question(X)), headers={**ALICE, "content-encoding": "gzip"}, pieces=3)
    assert (packed[0], packed[2]) == (200, plain)
    assert here.gate.bodies.buffered == 0


async def test_what_is_sent_upstream_is_what_was_inspected(tmp_path: Path) -> None:
    here = Here(tmp_path)
    await here.infer(X)
    np.testing.assert_array_equal(here.upstream.x[0], X)
    for again in (b'"data":[9,9,9,9],"data":[', b'"data":[1,1,1,1],"\\u0064ata":['):  # of equal keys the last holds
        assert (await here.send(body=question(X).replace(b'"data":[', again)))[0] == 200
        np.testing.assert_array_equal(here.upstream.x[-1], X)
    admitted = [event.x for event in (await here.store.load("alice")).events if event.kind == "admit"]
    np.testing.assert_array_equal(admitted, here.upstream.x)


async def test_rows_are_counted_not_requests(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA)
    assert (await here.infer(np.zeros((9, 4))))[0] == 200
    status, headers, tree = await here.infer(np.zeros((2, 4)))
    assert (status, headers["retry-after"]) == (429, "60")
    assert tree["error"] == "The guard refused this client: its quota of rows is used up."
    assert (await here.infer(X))[0] == 200
    assert (await here.infer(X))[0] == 429
    assert (await here.infer(X, {"x-api-key": KEYS["bob"]}))[0] == 200  # somebody else's
    here.now += 60
    assert (await here.infer(X))[0] == 200


async def test_a_clock_that_ran_ahead_for_a_while_locks_nobody_for_weeks(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA)  # ten rows in 60 seconds
    assert (await here.infer(np.zeros((4, 4))))[0] == 200
    here.now += 30 * 86_400
    assert (await here.infer(np.zeros((10, 4))))[0] == 200
    here.now = 1_001.0
    status, headers, _ = await here.infer(X)
    assert (status, headers["retry-after"]) == (429, "60")
    here.now = 1_061.0
    assert (await here.infer(np.zeros((10, 4))))[0] == 200
    here.now = 1_062.0 - 50  # replicas whose clocks differ by less than a minute begin no window anew
    assert (await here.infer(X))[0] == 429
    here.now = 1_122.0
    assert (await here.infer(X))[0] == 200


async def test_a_thousand_requests_at_once_never_spend_one_budget_twice(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA, more="[limits]\nper_client = 2000\nin_flight = 2000\n")
    here.upstream.waits = asyncio.Event()
    tasks = [asyncio.create_task(here.infer(X)) for _ in range(1_000)]
    await asyncio.sleep(0.05)
    here.upstream.waits.set()
    found = [status for status, _, _ in await asyncio.gather(*tasks)]
    assert (found.count(200), found.count(429)) == (10, 990)
    assert here.model.asked == 10


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (down(), 502),
        (Unreachable("slow", status=504), 504),
        (Unreachable("busy", status=503), 503),
        (BadRequest("The model does not take this input."), 400),
        (RuntimeError("a bug"), 500),
    ],
)
async def test_a_quota_is_given_back_when_the_model_fails(error: Exception, status: int, tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA)
    here.upstream.fails = error
    for _ in range(12):
        got, _, tree = await here.infer(X)
        assert got == status
        assert "a bug" not in tree["error"]
    here.upstream.fails = None
    assert [(await here.infer(X))[0] for _ in range(11)] == [200] * 10 + [429]


async def test_a_block_in_the_middle_of_a_batch_answers_the_rows_before_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = Here(tmp_path, watch(row=3))
    status, headers, tree = await here.infer(np.zeros((5, 4)))
    assert status == 200
    assert tree["outputs"][0]["data"][2:] == [-1, -1, -1]
    assert scores(tree)[6:] == [None] * 9
    assert [a.row for a in here.alarms] == [3]
    (told,) = [r for r in caplog.records if r.getMessage() == "alarm"]
    assert (told.id, told.client, told.row) == (headers["x-request-id"], "alice", 3)  # type: ignore[attr-defined]
    status, headers, tree = await here.infer(X)
    assert (status, "retry-after" in headers) == (403, False)
    assert tree["error"].startswith("The guard refused this client: ")


async def test_a_first_row_that_is_blocked_is_a_403(tmp_path: Path) -> None:
    here = Here(tmp_path, watch(row=1))
    assert (await here.infer(X))[0] == 403
    assert here.gate.metrics.requests["withheld"] == 1


async def test_a_block_may_be_a_429(tmp_path: Path) -> None:
    here = Here(tmp_path, watch(2, '{ unit = "block", reason = "too curious", retry_after = 3600.0 }'))
    await here.infer(np.zeros((2, 4)))
    status, headers, tree = await here.infer(X)
    assert (status, headers["retry-after"]) == (429, "3600")
    assert tree["error"] == "The guard refused this client: too curious."


async def test_what_everybody_gets_is_not_counted_as_altered(tmp_path: Path) -> None:
    log: list[Any] = []

    class Lines(NoLog):
        def write(self, line: Line) -> None:
            log.append(line.altered)

    here = Here(tmp_path, ROUNDING + watch(4, '{ unit = "label_only" }') + ROUNDING, querylog=Lines())
    for n in (1, 2, 2, 1):
        assert (await here.infer(np.repeat(X, n, axis=0)))[0] == 200
    assert log == [0, 0, 2, 1]  # the fourth row sets the alarm off
    assert (here.gate.metrics.requests["answered"], here.gate.metrics.requests["altered"]) == (2, 2)
    stream = await here.streams.look("alice")
    assert stream.tally["altered"] == 3
    assert stream.decided == {"1-watch": {"changed": 3, "refused": 0}}


async def test_observing_decides_counts_and_alarms_but_changes_nothing(tmp_path: Path) -> None:
    here = Here(tmp_path, watch(3) + ROUNDING, top='mode = "observe"')
    for _ in range(3):
        status, _, tree = await here.infer(np.full((2, 4), 0.3))
        assert status == 200
        assert scores(tree) == here.model.scores(np.full((2, 4), 0.3)).ravel().tolist()
    assert [a.row for a in here.alarms] == [3]
    assert here.gate.metrics.would_refuse == 1


async def test_everybody_is_shown_what_the_policy_says(tmp_path: Path) -> None:
    here = Here(tmp_path, more='[answers]\nreveals = "labels"\n')
    _, _, tree = await here.infer(X)
    assert [o["name"] for o in tree["outputs"]] == ["label"]


@pytest.mark.parametrize(("policy", "status"), [("closed", 503), ("labels", 200), ("open", 200)])
async def test_a_stage_that_breaks_does_what_the_policy_says(policy: str, status: int, tmp_path: Path) -> None:
    here = Here(tmp_path, '[[guard]]\nunit = "tests.gateway.units:Broken"\n', more=f'[failure]\nguard = "{policy}"\n')
    got, _, tree = await here.infer(X)
    assert got == status
    if policy == "labels":
        assert scores(tree) == [None] * 3
    if policy == "open":
        assert scores(tree) == here.model.scores(X).ravel().tolist()
    assert here.gate.metrics.not_enforced["guard"] == (status == 200)


async def test_too_many_at_once_are_told_to_come_back(tmp_path: Path) -> None:
    here = Here(tmp_path, more="[limits]\nin_flight = 3\nper_client = 2\n")
    here.upstream.waits = asyncio.Event()
    running = [asyncio.create_task(here.infer(X)) for _ in range(2)]
    await asyncio.sleep(0.01)
    status, headers, _ = await here.infer(X)
    assert (status, headers["retry-after"]) == (429, "1")  # alice has two
    running.append(asyncio.create_task(here.infer(X, {"x-api-key": KEYS["bob"]})))
    await asyncio.sleep(0.01)
    status, headers, _ = await here.infer(X, {"x-api-key": KEYS["bob"]})
    assert (status, headers["retry-after"]) == (503, "1")  # all have three
    here.upstream.waits.set()
    assert [s for s, _, _ in await asyncio.gather(*running)] == [200] * 3
    assert (await here.infer(X))[0] == 200


async def test_bodies_that_are_large_slow_or_broken_off_are_refused(tmp_path: Path) -> None:
    here = Here(tmp_path, more="[limits]\nbody_bytes = 2000\nbody_s = 0.05\nbuffer_bytes = 1500\n")
    big = question(X) + b" " * 2_000
    assert (await here.send(body=big))[0] == 413
    assert (await here.send(body=big, pieces=50))[0] in (413, 503)
    assert (await here.send(body=big[:1_800], pieces=9))[0] == 503  # more than may be buffered
    assert (await here.send(body=question(X), pieces=10, slow=0.02))[0] == 408
    assert (await here.send(body=question(X)[:-5], pieces=3))[0] == 400
    assert (await here.send(body=question(X), pieces=5))[0] == 200
    assert here.gate.bodies.buffered == 0


async def test_a_draining_gate_takes_nothing_new_and_waits_for_the_rest(tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.upstream.waits = asyncio.Event()
    running = asyncio.create_task(here.infer(X))
    await asyncio.sleep(0.01)
    drained = asyncio.create_task(here.gate.drained(5))
    await asyncio.sleep(0.01)
    assert (await here.infer(X))[0] == 503
    here.upstream.waits.set()
    assert (await running)[0] == 200
    assert await drained


async def test_errors_and_answers_say_nothing_of_thresholds(tmp_path: Path) -> None:
    here = Here(tmp_path, watch(2, '{ unit = "other_class" }'))
    first = await here.infer(X)
    late = await here.infer(np.array([[0.4, 0.3, 0.2, 0.1]]))
    assert set(first[1]) == set(late[1])
    assert [set(o) for o in first[2]["outputs"]] == [set(o) for o in late[2]["outputs"]]
    assert set(first[2]) == set(late[2])


async def test_a_header_from_the_trusted_proxy_names_the_client_and_from_others_is_refused(tmp_path: Path) -> None:
    more = '[clients]\nheader = { header = "X-Client", trusted = ["10.0.0.0/8"] }\n'
    here = Here(tmp_path, QUOTA, more)
    given = {"x-client": "carol"}
    assert (await here.infer(X, given))[0] == 403
    status, _, _ = await here.send(body=question(X), headers=given, client=("10.1.2.3", 1))
    assert status == 200
    assert list(here.streams.open) == ["carol"]
    for bad in ("x" * 10_000, "", "(anonymous)", "a\x07b"):
        status, _, tree = await here.send(body=question(X), headers={"x-client": bad}, client=("10.1.2.3", 1))
        assert (status, "printable" in tree["error"]) == (400, True)
    twice = [("x-client", "carol"), ("x-client", "dave")]
    assert (await here.send(body=question(X), headers=twice, client=("10.1.2.3", 1)))[0] == 400


async def test_a_signed_token_names_the_client(tmp_path: Path) -> None:
    import jwt

    secret = "s" * 32
    (tmp_path / "token.key").write_text(secret)
    token = '{ key_file = "token.key", algorithms = ["HS256"], claim = "sub", audience = "gate" }'
    here = Here(tmp_path, QUOTA, f"[clients]\ntoken = {token}\n")
    good = {"sub": "erin", "exp": 4e9, "aud": "gate"}

    def signed(claims: dict[str, Any], key: str = secret, algorithm: str = "HS256") -> dict[str, str]:
        return {"authorization": "Bearer " + jwt.encode(claims, key, algorithm)}

    assert (await here.infer(X, signed(good)))[0] == 200
    assert list(here.streams.open) == ["erin"]
    for bad in (
        signed({**good, "exp": 1}),
        signed({**good, "aud": "other"}),
        signed({"sub": "erin", "aud": "gate"}),  # never ends
        signed({"exp": 4e9, "aud": "gate"}),
        signed(good, "t" * 32),
        signed(good, "", "none"),
        {"authorization": "Bearer x"},
    ):
        assert (await here.infer(X, bad))[0] == 401
    assert (await here.infer(X, signed({**good, "sub": "x" * 500})))[0] == 400


@pytest.mark.parametrize("claim", ["sub", "user_id"])
async def test_a_whole_number_names_a_client_by_its_digits(claim: str, tmp_path: Path) -> None:
    import jwt

    (tmp_path / "token.key").write_text("s" * 32)
    token = f'{{ key_file = "token.key", algorithms = ["HS256"], claim = "{claim}" }}'
    here = Here(tmp_path, QUOTA, f"[clients]\ntoken = {token}\n")
    for value, status in ((1234, 200), (-5, 200), (True, 400), (12.0, 400), ([1], 400), (None, 401), (10**200, 400)):
        given = {"authorization": "Bearer " + jwt.encode({"exp": 4e9, claim: value}, "s" * 32, "HS256")}
        assert (await here.infer(X, given))[0] == status, value
    assert list(here.streams.open) == ["1234", "-5"]


async def test_the_clocks_of_issuer_and_gate_may_differ_by_the_leeway(tmp_path: Path) -> None:
    import jwt

    token = 'key_file = "token.key", algorithms = ["HS256"]'
    for leeway, ahead, status in (
        ("", 5, 200),
        ("", 40, 401),
        (", leeway_s = 60", 40, 200),
        (", leeway_s = 0", 5, 401),
    ):
        folder = tmp_path / f"{leeway}{ahead}"
        folder.mkdir()
        (folder / "token.key").write_text("s" * 32)
        here = Here(folder, QUOTA, f"[clients]\ntoken = {{ {token}{leeway} }}\n")
        now = int(time.time())
        for claim in ("iat", "nbf"):
            claims = {"sub": "erin", "exp": now + 600, claim: now + ahead}
            given = {"authorization": "Bearer " + jwt.encode(claims, "s" * 32, "HS256")}
            assert (await here.infer(X, given))[0] == status, (leeway, ahead, claim)


async def test_a_proxy_names_clients_in_utf_8(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA, '[clients]\nsubject = { header = "X-Subject", trusted = ["10.0.0.0/8"] }\n')

    async def named(name: bytes) -> tuple[int, Any]:
        given = {"x-subject": name.decode("latin-1")}  # as any header is read: byte by byte
        status, _, tree = await here.send(body=question(X), headers=given, client=("10.1.2.3", 1))
        return status, tree

    for name in ("CN=José", "CN=李雷", "CN=ascii"):
        assert (await named(name.encode()))[0] == 200
    assert list(here.streams.open) == ["CN=José", "CN=李雷", "CN=ascii"]
    assert await named(b"CN=Jos\xe9") == (400, {"error": "The header x-subject must be UTF-8."})


async def test_a_key_and_its_successor_overlap(tmp_path: Path) -> None:
    from portcullis_ml.gateway.policy.clients import hashed

    more = f"""[clients]
key = [
    {{ client = "alice", sha256 = "{hashed("old")}", until = 1970-01-01T01:00:00Z }},
    {{ client = "alice", sha256 = "{hashed("new")}" }},
]
"""
    here = Here(tmp_path, QUOTA, more)
    assert (await here.infer(np.zeros((6, 4)), {"x-api-key": "old"}))[0] == 200
    assert (await here.infer(np.zeros((6, 4)), {"x-api-key": "new"}))[0] == 429  # one client, one quota
    here.now = 3_601.0
    assert (await here.infer(X, {"x-api-key": "old"}))[0] == 401
    assert (await here.infer(X, {"x-api-key": "new"}))[0] == 200


async def test_whoever_has_no_name_may_share_one(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA, '[clients]\nanonymous = "shared"\n')
    assert (await here.infer(np.zeros((6, 4)), {}))[0] == 200
    assert (await here.infer(np.zeros((6, 4)), {}))[0] == 429


async def test_an_upstream_answer_that_is_not_finite_is_a_502_and_no_state_changes(tmp_path: Path) -> None:
    from portcullis_ml.gateway.upstream import checked

    for bad in (
        Answer(np.array([0]), np.array([[np.nan, 1, 0]])),
        Answer(np.array([7]), np.array([[0.0, 1, 0]])),
        Answer(np.array([0, 0])),
    ):
        with pytest.raises(Unreachable) as error:
            checked(bad, 1, Here(tmp_path).policy.asked)
        assert error.value.status == 502


async def test_other_protocols_are_served_side_by_side(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA, '[listen]\nport = 0\nprotocols = ["v2", "v1", "invocations"]\n')
    ways = {
        "/v1/models/m:predict": {"instances": X.tolist()},
        "/invocations": {"inputs": X.tolist()},
    }
    for path, tree in ways.items():
        status, _, got = await here.send("POST", path, orjson.dumps(tree))
        assert (status, got["predictions"]) == (200, here.model.scores(X).tolist())
    assert here.streams.open["alice"].tally["rows"] == 2
    assert (await here.send("GET", "/ping"))[0] == 200
    assert (await here.send("POST", "/predict", b"{}"))[0] == 404  # a protocol that is not on the list
