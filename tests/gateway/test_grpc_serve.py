"""The port of gRPC in a whole gate: in a process of its own on uvloop, over TLS, and in policies that cannot work."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.gateway.calls import LISTEN, answers, asked
from tests.gateway.certificates import certificates
from tests.gateway.harness import KEYS, Softmax, gate, policy_of, policy_text, running, served_of
from tests.gateway.test_server import process
from tests.gateway.test_tls import issued
from tests.servers.environments import free_port

from portcullis_ml.core.errors import PortcullisError
from portcullis_ml.gateway import server as server_module
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.policy import extras
from portcullis_ml.gateway.policy.explain import explained
from portcullis_ml.gateway.policy.policy import PolicyError

MODEL = Softmax()
X = np.array([[0.1, 0.2, 0.3, 0.4]])
QUOTA = '[[guard]]\nunit = "quota"\nrows = 30\nper = 3600.0\n'
INFER = "/inference.GRPCInferenceService/ModelInfer"


def ask(address: str, key: str = "alice", secret: Any = None, **settings: Any) -> str:
    """The code's name; an answer is held against the model's own."""
    channel = grpc.insecure_channel(address) if secret is None else grpc.secure_channel(address, secret)
    with channel:
        try:
            body = channel.unary_unary(INFER)(
                asked(X).SerializeToString(), metadata=(("x-api-key", KEYS[key]),), timeout=10, **settings
            )
        except grpc.RpcError as error:
            return str(error.code().name)
    np.testing.assert_array_equal(answers(body)["probabilities"], MODEL.scores(X))
    return "OK"


def test_the_gates_own_process_answers_by_grpc_is_killed_and_goes_on(tmp_path: Path) -> None:
    path, port = tmp_path / "p.toml", free_port()
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        path.write_text(policy_text(MODEL, upstream, tmp_path, QUOTA, f"[listen]\nport = 0\ngrpc_port = {port}\n"))
        with process(path) as (server, _):
            for _ in range(20):
                assert ask(f"127.0.0.1:{port}") == "OK"
            os.kill(server.pid, signal.SIGKILL)
        with process(path) as (server, _):
            for _ in range(10):
                assert ask(f"127.0.0.1:{port}") == "OK"
            assert ask(f"127.0.0.1:{port}") == "RESOURCE_EXHAUSTED"
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
    with sqlite3.connect(tmp_path / "state.db") as db:
        assert db.execute("SELECT COUNT(*) FROM alarms").fetchone() == (0,)
    db.close()


def test_it_speaks_tls_and_shows_a_new_certificate_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "RENEW_S", 0.02)
    old = issued(tmp_path, "old")

    def secret(folder: Path) -> Any:
        return grpc.ssl_channel_credentials((folder / "ca.pem").read_bytes())

    with (
        running(ModelServer(MODEL, served_of(MODEL))) as upstream,
        gate(policy_of(MODEL, upstream, tmp_path, more=LISTEN + 'cert_file = "door.pem"\n')) as made,
    ):
        place = made.grpc.address
        assert ask(place, secret=secret(old)) == "OK"
        (tmp_path / "door.pem").write_text("half a file")
        time.sleep(0.1)
        assert ask(place, secret=secret(old)) == "OK"
        new = issued(tmp_path, "new")
        end = time.monotonic() + 5
        while ask(place, secret=secret(new)) != "OK":
            assert time.monotonic() < end
        assert ask(place, secret=secret(old)) == "UNAVAILABLE"


def test_a_gate_asks_a_gate_by_grpc_over_tls(tmp_path: Path) -> None:
    """A client by gRPC, a gate, TLS with both certificates' authority, another gate, a model over HTTP."""
    for name in ("front", "back"):
        (tmp_path / name).mkdir()
    certificates(tmp_path)
    (tmp_path / "key").write_text(KEYS["bob"])
    behind = LISTEN + f'cert_file = "{tmp_path}/server.pem"\n'
    with (
        running(ModelServer(MODEL, served_of(MODEL))) as upstream,
        gate(policy_of(MODEL, upstream, tmp_path / "back", QUOTA, behind)) as back,
    ):
        place = back.grpc.address
        to = (f'[upstream]\nurl = "grpcs://{place}"\nprotocol = "grpc"\nca_file = "{tmp_path}/ca.pem"\n'
              f'token_file = "{tmp_path}/key"\ntoken_header = "x-api-key"\n')  # fmt: skip
        with gate(policy_of(MODEL, "", tmp_path / "front", "", LISTEN + to)) as front:
            assert [ask(front.grpc.address) for _ in range(31)] == ["OK"] * 30 + ["UNAVAILABLE"]


def test_a_policy_says_where_it_listens_and_what_it_asks(tmp_path: Path) -> None:
    to = '[upstream]\nurl = "grpc://127.0.0.1:8081"\nprotocol = "grpc"\n'
    said = " ".join(explained(policy_of(MODEL, "", tmp_path, more=to + "[listen]\nport = 0\ngrpc_port = 8002\n")))
    assert "the gate asks the model server at grpc://127.0.0.1:8081 in grpc." in said
    assert "Clients call the Open Inference Protocol by gRPC at 127.0.0.1:8002; what it has beside" in said
    assert "gRPC" not in " ".join(explained(policy_of(MODEL, "http://127.0.0.1:9", tmp_path)))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("[listen]\nport = 0\ngrpc_port = 70000\n", r"grpc_port must be an int in \[0, 65535\]; got 70000"),
        ("[listen]\nport = 0\ngrpc_port = true\n", "grpc_port must be a whole number; got True"),
        ("[listen]\nport = 0\ngrpc_port = '8002'\n", "grpc_port must be a whole number; got '8002'"),
        ("[listen]\nport = 8002\ngrpc_port = 8002\n", "grpc_port must be another one than port; got 8002"),
        ('[listen]\nport = 0\nprotocols = ["v2", "grpc"]\n', "protocols must be without grpc, which has a port of its"),
        ('[upstream]\nurl = "grpc://h:1"\n', "protocol must be \"grpc\" with a grpc:// address; got 'v2'"),
        ('[upstream]\nurl = "http://h:1"\nprotocol = "grpc"\n', 'protocol must be "grpc" with a grpc:// address'),
        (
            '[upstream]\nurl = "grpc://h:1/path"\nprotocol = "grpc"\n',
            "url must be http://host:port or grpc://host:port",
        ),
        ('[upstream]\nurl = "grpc://a:b@h:1"\nprotocol = "grpc"\n', "url must be http://host:port or grpc://host:port"),
        ('[upstream]\nurl = "grpc://h:1"\nprotocol = "grpc"\nca_file = "x"\n', "with an https:// or grpcs:// address"),
    ],
)
def test_what_cannot_work_is_refused_at_its_line(more: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=rf"line \d+: .*{sentence}"):
        policy_of(MODEL, "http://127.0.0.1:9", tmp_path, more=more)


@pytest.mark.parametrize("absent", ["grpc", "google.protobuf"])
@pytest.mark.parametrize("more", [LISTEN, '[upstream]\nurl = "grpc://h:1"\nprotocol = "grpc"\n'])
def test_without_the_extra_one_sentence_says_what_to_install(
    more: str, absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == absent else find_spec(name))
    with pytest.raises(PolicyError, match=r"line \d+: .* needs .*, which is not installed. Install .* extra 'grpc'"):
        policy_of(MODEL, "http://127.0.0.1:9", tmp_path, more=more)


def test_a_port_that_is_taken_is_said_before_anything_is_served(tmp_path: Path) -> None:
    with (
        running(ModelServer(MODEL, served_of(MODEL))) as upstream,
        gate(policy_of(MODEL, upstream, tmp_path, more=LISTEN)) as first,
    ):
        port = first.grpc.address.rpartition(":")[2]
        (tmp_path / "other").mkdir()
        policy = policy_of(MODEL, upstream, tmp_path / "other", more=f"[listen]\nport = 0\ngrpc_port = {port}\n")
        with pytest.raises(PortcullisError, match=rf"127\.0\.0\.1:{port} cannot be used for gRPC\. Choose another"):
            with gate(policy):
                pass


def test_nothing_of_grpc_is_loaded_where_no_policy_asks_for_it() -> None:
    code = "import sys, portcullis_ml.gateway.server, portcullis_ml.gateway.oracle; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "portcullis_ml.gateway.gate" in done.stdout.split()
    assert not {"grpc", "google.protobuf"} & set(done.stdout.split())
