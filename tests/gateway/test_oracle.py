"""The oracle over HTTP: whom it may ask, what it pays for, and when it asks again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest
from tests.gateway.asgi import ALICE, Here, call, question
from tests.gateway.harness import SECRET, Softmax, interface_of, running, served_of

from portcullis_ml.core.errors import BudgetExhausted, ParameterError, Refused, Unreachable
from portcullis_ml.core.guard import Guard, Released
from portcullis_ml.core.types import Answer, Request
from portcullis_ml.defenses.quota import Quota
from portcullis_ml.gateway.guarded import Guarded, GuardedRoutes, LocalUpstream
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.clients import loopback
from portcullis_ml.gateway.protocols.wire import Reply

MODEL = Softmax()


class Flaky(ModelServer):
    """A server that fails on the requests it is told to fail on."""

    def __init__(self, failures: dict[int, int]) -> None:
        super().__init__(MODEL, served_of(MODEL))
        self.failures = failures
        self.requests = 0
        self.answered: list[int] = []

    def _reply(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        self.requests += 1
        status = self.failures.get(self.requests)
        if status:
            sentence = "The guard refused this client: too curious." if status == 403 else "not now"
            return Reply(orjson.dumps({"error": sentence}), status)
        reply = super()._reply(method, path, headers, body)
        self.answered.append(len(orjson.loads(reply.body)["outputs"][0]["data"]))
        return reply


def oracle(url: str, **settings: object) -> HttpOracle:
    defaults = {"interface": interface_of(MODEL), "budget": 100, "model": "m", "rows_per_request": 4, "sleep": print}
    return HttpOracle(url, **{**defaults, "sleep": lambda seconds: None, **settings})  # type: ignore[arg-type]


X = np.random.default_rng(0).normal(size=(10, 4))


@pytest.mark.parametrize("protocol", ["v2", "v1", "invocations"])
def test_answers_are_those_of_the_model(protocol: str) -> None:
    with running(ModelServer(MODEL, served_of(MODEL))) as url:
        asked = oracle(url, protocol=protocol)
        answer = asked.query(X)
        asked.close()
    np.testing.assert_array_equal(answer.scores, MODEL.scores(X))
    np.testing.assert_array_equal(answer.labels, MODEL.scores(X).argmax(1))
    assert asked.left == 90


def test_what_got_no_answer_is_asked_again_and_what_got_one_is_not() -> None:
    server = Flaky({2: 503, 3: 502})
    with running(server) as url:
        asked = oracle(url)
        np.testing.assert_array_equal(asked.query(X).scores, MODEL.scores(X))
        asked.close()
    assert server.answered == [4, 4, 2]
    assert asked.queries == 10


def test_rows_answered_before_a_failure_are_kept_for_the_next_attempt() -> None:
    server = Flaky({3: 500})
    with running(server) as url:
        asked = oracle(url)
        with pytest.raises(Unreachable, match="answered 500: not now"):
            asked.query(X)
        np.testing.assert_array_equal(asked.query(X).scores, MODEL.scores(X))
        asked.close()
    assert server.answered == [4, 4, 2]  # ten rows, each of them once


def test_a_refusal_carries_the_rows_answered_before_it() -> None:
    with running(Flaky({3: 403})) as url:
        asked = oracle(url)
        with pytest.raises(Refused, match="too curious") as refused:
            asked.query(X)
        asked.close()
    assert refused.value.reason == "too curious"
    assert refused.value.answered is not None
    np.testing.assert_array_equal(refused.value.answered.scores, MODEL.scores(X[:8]))


def test_nobody_at_the_address_is_unreachable_after_the_last_attempt() -> None:
    waits: list[float] = []
    with pytest.raises(Unreachable, match="did not answer 3 times"):
        oracle("http://127.0.0.1:9", attempts=3, sleep=waits.append).query(X)
    assert waits == [0.1, 0.2]


def test_the_rate_limit_is_its_own() -> None:
    waits: list[float] = []
    with running(ModelServer(MODEL, served_of(MODEL))) as url:
        asked = oracle(url, per_second=8.0, sleep=waits.append)
        asked.query(X)
        asked.close()
    assert waits == [0.5, 0.5, 0.25]


def test_a_batch_that_cannot_be_paid_for_is_not_sent() -> None:
    with pytest.raises(BudgetExhausted):
        oracle("http://127.0.0.1:9", budget=5).query(X)


@pytest.mark.parametrize("url", ["http://192.0.2.1:8000", "https://models.example", "http://localhost.example:1"])
def test_an_address_outside_this_machine_needs_a_statement(url: str) -> None:
    with pytest.raises(ParameterError, match="authorized_by must be the name of whoever allowed this test"):
        oracle(url)
    with pytest.raises(ParameterError, match="authorized_by"):
        oracle(url, authorized_by="  ")
    allowed = oracle(url, authorized_by="Jo Doe, head of security, 2026-01-05")
    assert allowed.statement == {
        "url": url, "protocol": "v2", "authorized_by": "Jo Doe, head of security, 2026-01-05", "loopback": False,
    }  # fmt: skip


def test_this_machine_is_known_by_its_names() -> None:
    assert [loopback(h) for h in ("localhost", "127.0.0.1", "127.9.9.9", "::1")] == [True] * 4
    assert [loopback(h) for h in ("0.0.0.0", "10.0.0.1", "example.org", "127.0.0.1.example.org")] == [False] * 4


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "127.0.0.1:80", "http://127.0.0.1/?a=b", "http://u:p@127.0.0.1"])
def test_an_address_must_be_plain(url: str) -> None:
    with pytest.raises(ParameterError, match="http://host:port"):
        oracle(url)


def test_a_guarded_model_drops_into_code_for_a_classifier() -> None:
    guarded = Guarded(MODEL, Guard(Quota(rows=12, per=None), key=SECRET))
    np.testing.assert_array_equal(guarded.predict_proba(X, client="alice"), MODEL.scores(X))
    np.testing.assert_array_equal(guarded.predict(X[:2], client="alice"), MODEL.scores(X[:2]).argmax(1))
    with pytest.raises(Refused, match="quota"):
        guarded.predict(X[:1], client="alice")
    assert len(guarded.predict(X, client="bob")) == 10


async def test_middleware_guards_its_routes_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"the application"})

    here = Here(tmp_path)
    here.gate.upstream = LocalUpstream(MODEL, interface_of(MODEL))
    both = GuardedRoutes(app, gate=here.gate)
    assert (await call(both, "GET", "/about", b"", {}))[2] == b"the application"
    status, _, text = await call(both, "POST", "/v2/models/m/infer", question(X[:1]), ALICE)
    assert status == 200
    assert orjson.loads(text)["outputs"][1]["data"] == MODEL.scores(X[:1]).ravel().tolist()
    assert (await call(both, "POST", "/v2/models/m/infer", question(X[:1]), {}))[0] == 401
    assert here.streams.open["alice"].tally["rows"] == 1
    assert isinstance(await here.gate.upstream.ask(X, {}), Answer)


class Careless(Softmax):
    """It writes into what it is given, as a scaler with copy=False does."""

    def scores(self, x: np.ndarray) -> np.ndarray:
        found = super().scores(x)
        x *= 0.0
        return found


def looked_at(guard: Guard) -> list[np.ndarray]:
    """The rows that this guard sees when it releases answers, from now on."""
    seen: list[np.ndarray] = []
    release = guard.release

    def watched(request: Request, clean: Answer) -> Released:
        seen.append(request.x.copy())
        return release(request, clean)

    guard.release = watched  # type: ignore[method-assign]
    return seen


async def test_a_model_that_writes_into_its_rows_does_not_blind_the_guard(tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.gate.upstream = LocalUpstream(Careless(), interface_of(MODEL))
    seen = looked_at(here.streams.fold.guard)
    status, _, text = await call(here.gate, "POST", "/v2/models/m/infer", question(X[:1]), ALICE)
    assert status == 200
    assert orjson.loads(text)["outputs"][1]["data"] == MODEL.scores(X[:1]).ravel().tolist()
    np.testing.assert_array_equal(seen, [X[:1]])
    guard = Guard(Quota(rows=12, per=None), key=SECRET)
    seen, mine = looked_at(guard), X[:2].copy()
    np.testing.assert_array_equal(Guarded(Careless(), guard).predict_proba(mine, client="a"), MODEL.scores(X[:2]))
    np.testing.assert_array_equal(seen, [X[:2]])
    np.testing.assert_array_equal(mine, X[:2])
