"""Spans and metrics that a collector is sent: what is in them, and what never is."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.gateway.harness import KEYS, Softmax, gate, policy_of, running

from portcullis_ml.gateway.policy.explain import explained
from portcullis_ml.gateway.policy.policy import PolicyError
from portcullis_ml.gateway.server import Server

MODEL = Softmax()
QUOTA = '[[guard]]\nunit = "quota"\nrows = 3\n'
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ROW = [0.625, -0.125, 0.3125, 0.8125]


class Collector:
    """An OTLP collector over HTTP, which keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: dict[str, list[Any]] = {}
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        self.bodies.append(body)
        if scope["path"] == "/v1/traces":
            told = ExportTraceServiceRequest.FromString(body)
            self.spans += [s for r in told.resource_spans for held in r.scope_spans for s in held.spans]
        else:
            assert scope["path"] == "/v1/metrics"
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for metric in (m for held in resource.scope_metrics for m in held.metrics):
                    self.metrics[metric.name] = list((metric.sum or metric.gauge).data_points)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Upstream:
    """A model server that keeps the headers of what it is asked."""

    def __init__(self) -> None:
        self.heads: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.heads.append({k.decode(): v.decode() for k, v in scope["headers"]})
        n = json.loads((await receive())["body"])["inputs"][0]["shape"][0]
        tensor = {"name": "probabilities", "shape": [n, 3], "datatype": "FP64", "data": [0.2, 0.3, 0.5] * n}
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps({"outputs": [tensor]}).encode()})


def ask(server: Server, rows: int = 1, **headers: str) -> int:
    tensor = {"name": "input", "shape": [rows, 4], "datatype": "FP64", "data": ROW * rows}
    head = {"content-type": "application/json", "x-api-key": KEYS["alice"], **headers}
    question = urllib.request.Request(
        f"{server.url}/v2/models/m/infer", json.dumps({"inputs": [tensor]}).encode(), head
    )
    try:
        with urllib.request.urlopen(question) as said:
            return int(said.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def served(folder: Path, spans: float, questions: Any, stages: str = QUOTA) -> tuple[Collector, Upstream]:
    """What the collector and the model server got of the questions, once the gate has ended."""
    collector, upstream = Collector(), Upstream()
    with running(collector) as to, running(upstream) as url:
        more = f'[telemetry]\nendpoint = "{to}"\nspans = {spans}\n'
        with gate(policy_of(MODEL, url, folder, stages, more)) as server:
            questions(server)
    return collector, upstream


def about(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_a_span_says_what_became_of_a_request_and_where_its_time_went(tmp_path: Path) -> None:
    began = time.time_ns()
    collector, upstream = served(tmp_path, 1.0, lambda s: ask(s, traceparent=f"00-{TRACE}-{PARENT}-01"))
    ended = time.time_ns()
    (whole,) = (s for s in collector.spans if s.name == "infer m")
    parts = {s.name: s for s in collector.spans if s.name != "infer m"}
    assert whole.trace_id.hex() == TRACE
    assert whole.parent_span_id.hex() == PARENT
    assert set(parts) == {"identify", "read", "admit", "upstream", "release", "write"}
    assert all(s.trace_id == whole.trace_id and s.parent_span_id == whole.span_id for s in parts.values())
    moments = [s.start_time_unix_nano for s in parts.values()] + [parts["write"].end_time_unix_nano]
    assert began <= min(moments)
    assert max(moments) <= ended
    said = about(whole)
    assert said["http.response.status_code"] == 200
    assert (said["portcullis.decision"], said["portcullis.rows"], said["portcullis.protocol"]) == ("answered", 1, "v2")
    # The model server's own span will hang below the gate's.
    assert upstream.heads[-1]["traceparent"] == f"00-{TRACE}-{whole.span_id.hex()}-01"


def test_refusals_and_questions_without_a_name_are_spans_too(tmp_path: Path) -> None:
    def questions(server: Server) -> None:
        assert [ask(server, 3), ask(server), ask(server, **{"x-api-key": "wrong"})] == [200, 429, 401]

    collector, _ = served(tmp_path, 1.0, questions)
    decisions = [about(s)["portcullis.decision"] for s in collector.spans if s.name == "infer m"]
    assert decisions == ["answered", "refused", "unidentified"]


def test_metrics_are_the_counters(tmp_path: Path) -> None:
    def questions(server: Server) -> None:
        assert [ask(server, 2), ask(server, 2)] == [200, 429]

    collector, _ = served(tmp_path, 0.0, questions)
    assert collector.spans == []
    requests = {p.attributes[0].value.string_value: p.as_int for p in collector.metrics["portcullis.requests"]}
    assert requests["answered"] == 1
    assert requests["refused"] == 1
    assert requests["failed"] == 0
    assert collector.metrics["portcullis.rows"][0].as_int == 2
    assert "portcullis.clients_in_memory" in collector.metrics
    stages = {p.attributes[0].value.string_value: p.as_double for p in collector.metrics["portcullis.stage_time"]}
    assert stages["upstream"] > 0


def test_no_name_key_or_row_is_sent(tmp_path: Path) -> None:
    collector, _ = served(tmp_path, 1.0, lambda s: ask(s, tracestate="who=alice"))
    sent = b"".join(collector.bodies)
    assert b"infer m" in sent
    for secret in (b"alice", KEYS["alice"].encode(), b"0.625", b"0.3125"):
        assert secret not in sent


def test_a_share_of_the_requests_becomes_spans_whatever_clients_ask_for(tmp_path: Path) -> None:
    asked = 0

    def questions(server: Server) -> None:
        nonlocal asked
        for _ in range(60):
            asked += ask(server, traceparent=f"00-{time.time_ns():032x}-{PARENT}-01") == 200

    collector, _ = served(tmp_path, 0.25, questions, stages="")
    spans = sum(s.name == "infer m" for s in collector.spans)
    assert asked == 60
    assert 0 < spans < 60  # which fails by chance once in 30 million runs


def test_a_collector_that_is_away_keeps_nobody_waiting(tmp_path: Path) -> None:
    upstream = Upstream()
    with running(upstream) as url:
        more = '[telemetry]\nendpoint = "http://127.0.0.1:9"\nspans = 1.0\n'
        with gate(policy_of(MODEL, url, tmp_path, "", more)) as server:
            assert [ask(server) for _ in range(5)] == [200] * 5


def test_policy_says_where_and_what(tmp_path: Path) -> None:
    more = '[telemetry]\nendpoint = "https://user:secret@collector:4318"\n'
    said = " ".join(explained(policy_of(MODEL, "http://127.0.0.1:9", tmp_path, "", more)))
    assert "spans of 1% of the requests, without clients' names and rows, go to https://collector:4318." in said


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('endpoint = "collector:4318"', "http://host:port"),
        ('endpoint = "http://c:4318"\nspans = 2', "a share from 0 to 1"),
        ('endpoint = "http://c:4318"\nevery_s = 0', "a positive number"),
        ('endpoint = "http://c:4318"\nspan = 1', "Did you mean 'spans'"),
        ("spans = 1", "endpoint"),
    ],
)
def test_wrong_settings_are_refused_by_their_line(tmp_path: Path, line: str, sentence: str) -> None:
    with pytest.raises(PolicyError, match=sentence):
        policy_of(MODEL, "http://127.0.0.1:9", tmp_path, "", f"[telemetry]\n{line}\n")
