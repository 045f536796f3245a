"""Audits over gRPC: what a gate answers by it is what the guard answers offline, and every refusal is known again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.calls import LISTEN
from tests.gateway.harness import KEYS, SECRET, Softmax, alarms_of, gate, interface_of, policy_of, running, served_of
from tests.gateway.test_online_is_offline import ROUNDING, WATCH

from portcullis_ml.bench.endpoint import Endpoint
from portcullis_ml.core.errors import InputError, ParameterError, Refused, Unreachable
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.gateway.grpc_oracle import GrpcOracle
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.querylog import read_log
from portcullis_ml.gateway.replay import replay

MODEL = Softmax(d=4)
QUOTA = '[[guard]]\nunit = "quota"\nrows = {}\nper = 3600.0\n'


@contextmanager
def gate_of(folder: Path, stages: str = "", more: str = "") -> Iterator[tuple[Policy, Any]]:
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        policy = policy_of(MODEL, upstream, folder, stages, LISTEN + more)
        with gate(policy) as server:
            yield policy, server


def oracle(server: Any, key: str = "alice", budget: int = 1_000, **about: Any) -> GrpcOracle:
    headers = {"x-api-key": KEYS[key]}
    return GrpcOracle(f"grpc://{server.grpc.address}", interface=interface_of(MODEL), budget=budget, headers=headers,
                      **{"model": "m", "sleep": lambda seconds: None, **about})  # fmt: skip


STAGES = {
    "blocked": WATCH + 'then = { unit = "block" }\n' + ROUNDING,
    "labels": WATCH + 'then = { unit = "label_only" }\n',
    "quota": QUOTA.format(250) + WATCH + 'then = { unit = "label_only" }\n',
}


@pytest.mark.parametrize("name", STAGES)
def test_online_is_offline_by_grpc_too(name: str, tmp_path: Path) -> None:
    """The same questions through gRPC, over HTTP and to a guard in this process: the same answers, alarms and end."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(size=(100, 4)), np.repeat(rng.normal(size=(1, 4)), 200, axis=0) + 1e-3])
    log = f'[log]\npath = "{tmp_path}/log"\nqueries = true\n'
    with gate_of(tmp_path, STAGES[name], log) as (policy, server):
        with closing(oracle(server, "alice")) as by_grpc:
            online = _asked(by_grpc, x)
        http = HttpOracle(server.url, interface=interface_of(MODEL), budget=10**6, model="m",
                          headers={"x-api-key": KEYS["bob"]})  # fmt: skip
        with closing(http):
            over_http = _asked(http, x)
        alarms = {c: [(a.stage, a.row, a.suspicion) for a in alarms_of(server) if a.client == c] for c in KEYS}
    offline = LocalOracle(MODEL, interface_of(MODEL), budget=10**6, guard=Guard(*policy.stages, key=SECRET))
    guarded = _asked(offline, x)
    for other in (over_http, guarded):
        assert online[1] == other[1]
        assert len(online[0]) == len(other[0]) > 50
        for mine, theirs in zip(online[0], other[0], strict=True):
            np.testing.assert_array_equal(mine.labels, theirs.labels)
            np.testing.assert_array_equal(mine.scores, theirs.scores)
    assert alarms["alice"] == alarms["bob"] == [(a.stage, a.row, a.suspicion) for a in offline.alarms]
    assert alarms["alice"]
    again = replay(read_log(tmp_path / "log"), policy)
    assert again.requests > 150
    assert again.different == []


def _asked(asked: Any, x: np.ndarray) -> tuple[list[Any], str]:
    """(the answers row by row, why it ended)."""
    answers = []
    for row in x:
        try:
            answers.append(asked.query(row[None]))
        except Refused as refusal:
            return answers, refusal.reason
    return answers, ""


def test_a_quota_gives_what_is_left_and_then_refuses(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(10, 4))
    with gate_of(tmp_path, QUOTA.format(7)) as (_, server):
        asked = oracle(server)
        with pytest.raises(Refused) as refusal:
            asked.query(x)
        asked.close()
    assert len(refusal.value.answered or ()) == 7
    assert refusal.value.retry_after


def test_an_endpoint_learns_names_and_classes_from_the_models_metadata(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEYS["alice"])
    x = np.random.default_rng(0).normal(size=(5, 4))
    with gate_of(tmp_path, more='[clients]\nkey_header = "authorization"\nkey = ['
                 f'{{ client = "alice", sha256 = "{_digest("alice")}" }}]\n') as (_, server):  # fmt: skip
        endpoint = Endpoint(protocol="grpc", model="m", store=str(tmp_path), key_file=str(key))
        model = endpoint.open(f"grpc://{server.grpc.address}", (4,), None)
        np.testing.assert_allclose(model.scores(x), MODEL.scores(x), atol=1e-12)
    with pytest.raises(InputError, match="does not say how many classes"):
        endpoint.open("grpc://127.0.0.1:9", (4,), None)


def _digest(name: str) -> str:
    from portcullis_ml.gateway.policy.clients import hashed

    return hashed(KEYS[name])


def test_what_cannot_be_asked_is_said_in_one_sentence() -> None:
    about: dict[str, Any] = {"interface": interface_of(MODEL), "budget": 1}
    with pytest.raises(ParameterError, match="grpc://host:port without a query"):
        GrpcOracle("http://127.0.0.1:9", **about)
    with pytest.raises(ParameterError, match="only there"):
        HttpOracle("http://127.0.0.1:9", protocol="grpc", **about)
    with pytest.raises(ParameterError, match="authorized_by"):
        GrpcOracle("grpc://192.0.2.1:9", **about)
    gone = GrpcOracle("grpc://127.0.0.1:9", attempts=2, sleep=lambda seconds: None, **about)
    with pytest.raises(Unreachable, match="answered 503"):
        gone.query(np.zeros((1, 4)))
    gone.close()
