"""MLServer and tritonclient, which nobody here wrote, on either side of the gate by gRPC."""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.harness import KEYS, SECRET, gate
from tests.servers.environments import free_port, python_of, serving

from portcullis_ml.gateway.policy.clients import hashed
from portcullis_ml.gateway.policy.policy import parse_policy

pytestmark = pytest.mark.servers

PAGE = Path(__file__).parents[2] / "docs" / "gateway" / "in-front-of" / "grpc.md"
TRAIN = """
import sys, joblib, numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
x, y = load_digits(return_X_y=True)
joblib.dump(LogisticRegression(max_iter=200).fit(x[:300] / 16, y[:300]), "model.joblib")
np.save("x.npy", x[300:320] / 16)
"""
TRITON = """
import sys, json, numpy as np
import tritonclient.grpc as triton
address, key, datatype, compression = sys.argv[1:5]
client = triton.InferenceServerClient(address)
headers = {"x-api-key": key}
x = np.load("x.npy").astype({"FP64": "f8", "FP32": "f4"}[datatype])
rows = triton.InferInput("input", list(x.shape), datatype)
rows.set_data_from_numpy(x)
wanted = [triton.InferRequestedOutput("predict_proba")]
told = {"live": client.is_server_live(), "ready": client.is_server_ready(), "model": client.is_model_ready("digits")}
try:
    answer = client.infer("digits", [rows], outputs=wanted, headers=headers, request_id="7",
                          compression_algorithm=compression or None)
    told |= {"scores": answer.as_numpy("predict_proba").tolist(), "id": answer.get_response().id}
    about = client.get_model_metadata("digits", as_json=True)
    told["about"] = [about["name"], [t["name"] for t in about.get("inputs", [])]]
except triton.InferenceServerException as error:
    told["error"] = [error.status(), error.message()]
others = {}
for name, ask in {"index": client.get_model_repository_index, "memory": client.get_system_shared_memory_status,
                  "statistics": client.get_inference_statistics, "log": client.get_log_settings}.items():
    try:
        ask()
        others[name] = "answered"
    except triton.InferenceServerException as error:
        others[name] = error.status()
print(json.dumps({**told, "others": others}))
"""
TYPED = """
import sys, json, grpc, numpy as np
from mlserver.grpc import dataplane_pb2 as pb, dataplane_pb2_grpc as rpc
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserver.types import InferenceRequest, RequestInput, RequestOutput
from mlserver.codecs import NumpyCodec
address, key = sys.argv[1:3]
x = np.load("x.npy")
asked = InferenceRequest(inputs=[NumpyCodec.encode_input("input", x)], outputs=[RequestOutput(name="predict_proba")])
stub = rpc.GRPCInferenceServiceStub(grpc.insecure_channel(address))
came = stub.ModelInfer(ModelInferRequestConverter.from_types(asked, "digits"), metadata=(("x-api-key", key),))
answer = ModelInferResponseConverter.to_types(came)
print(json.dumps({"scores": NumpyCodec.decode_output(answer.outputs[0]).tolist()}))
"""


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """(its folder, its addresses by HTTP and gRPC)."""
    python, folder = python_of("mlserver"), tmp_path_factory.mktemp("mlserver")
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "parallel_workers": 0, **ports}))
    about = {"name": "digits", "implementation": "mlserver_sklearn.SKLearnModel",
             "parameters": {"uri": "model.joblib"}}  # fmt: skip
    (folder / "model-settings.json").write_text(json.dumps(about))
    subprocess.run([python, "-c", TRAIN], cwd=folder, check=True)
    by_http = f"http://127.0.0.1:{ports['http_port']}"
    command = [str(Path(python).parent / "mlserver"), "start", "."]
    with serving(command, folder, f"{by_http}/v2/models/digits/ready"):
        yield folder, {"v2": by_http, "grpc": f"grpc://127.0.0.1:{ports['grpc_port']}"}


def client(script: str, folder: Path, *words: str) -> dict[str, Any]:
    """What a script of the other environment prints."""
    done = subprocess.run([python_of("mlserver"), "-c", script, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def gate_of_the_page(folder: Path, upstream: str, protocol: str, more: str = "") -> Iterator[str]:
    """The address by gRPC of a gate with the page's policy, but for ports, keys and the upstream."""
    (_, text, *_) = PAGE.read_text().split("```toml\n")[0:2]
    text = text.split("```")[0]
    page = tomllib.loads(text)
    text = text.replace(page["upstream"]["url"], upstream).replace('protocol = "grpc"', f'protocol = "{protocol}"')
    text = text.replace("grpc_port = 8002", "grpc_port = 0").replace("port = 8000", "port = 0")
    text = text.replace(page["clients"]["key"][0]["sha256"], hashed(KEYS["alice"]))
    (folder / "guard.key").write_text(SECRET.hex())
    text += f'\n[state]\nurl = "sqlite:///{folder}/state.db"\n[admin]\nport = 0\n{more}'
    with gate(parse_policy(text, folder=folder)) as server:
        yield server.grpc.address


@pytest.fixture(scope="module")
def direct(mlserver: tuple[Path, dict[str, str]]) -> dict[str, Any]:
    """What MLServer answers tritonclient itself."""
    folder, addresses = mlserver
    return client(TRITON, folder, addresses["grpc"].removeprefix("grpc://"), "", "FP64", "")


@pytest.mark.parametrize("protocol", ["v2", "grpc"])
def test_tritonclient_through_the_gate_gets_what_mlserver_answers(
    protocol: str, mlserver: tuple[Path, dict[str, str]], direct: dict[str, Any], tmp_path: Path
) -> None:
    folder, addresses = mlserver
    with gate_of_the_page(tmp_path, addresses[protocol], protocol) as place:
        through = client(TRITON, folder, place, KEYS["alice"], "FP64", "")
        packed = client(TRITON, folder, place, KEYS["alice"], "FP32", "gzip")
        typed = client(TYPED, folder, place, KEYS["alice"])
        stranger = client(TRITON, folder, place, "nobody's", "FP64", "")
    np.testing.assert_array_equal(through["scores"], direct["scores"])
    np.testing.assert_array_equal(typed["scores"], direct["scores"])
    np.testing.assert_allclose(packed["scores"], direct["scores"], atol=1e-5)
    assert np.shape(through["scores"]) == (20, 10)
    assert through["id"] == "7"
    assert through["about"] == ["digits", ["input"]]
    assert [through[word] for word in ("live", "ready", "model")] == [True] * 3
    assert set(through["others"].values()) == {"StatusCode.UNIMPLEMENTED"}
    assert direct["others"]["index"] == "answered"  # or the line above would say nothing
    assert stranger["error"] == ["StatusCode.UNAUTHENTICATED", "The API key is not valid."]


def test_the_pages_client_is_run(mlserver: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, addresses = mlserver
    script = PAGE.read_text().split("```python\n")[1].split("```")[0]
    head = "import sys, json, numpy as np\nkey, x = sys.argv[1], np.load('x.npy')[:1]\n"
    tail = "print(json.dumps(answer.as_numpy('predict_proba').tolist()))"
    with gate_of_the_page(tmp_path, addresses["grpc"], "grpc") as place:
        (row,) = client(f"{head}{script.replace('127.0.0.1:8002', place)}\n{tail}", folder, KEYS["alice"])
    assert abs(sum(row) - 1) < 1e-9


def test_check_live_asks_mlserver_by_grpc(mlserver: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from portcullis_ml.cli.app import app

    _, addresses = mlserver
    text = PAGE.read_text().split("```toml\n")[1].split("```")[0]
    (tmp_path / "guard.key").write_text(SECRET.hex())
    (tmp_path / "p.toml").write_text(text.replace("grpc://127.0.0.1:8081", addresses["grpc"]))
    done = CliRunner().invoke(app, ["check", str(tmp_path / "p.toml"), "--live"])
    assert done.exit_code == 0, done.output
    assert "The model server answers one row with scores (10)" in " ".join(done.output.split())


def test_an_audit_asks_mlserver_by_grpc(mlserver: tuple[Path, dict[str, str]], direct: dict[str, Any]) -> None:
    from portcullis_ml.core.types import Interface
    from portcullis_ml.gateway.grpc_oracle import GrpcOracle

    folder, addresses = mlserver
    x = np.load(folder / "x.npy")
    oracle = GrpcOracle(addresses["grpc"], interface=Interface(input_shape=(64,), n_classes=10), budget=20,
                        model="digits", served={"scores": "predict_proba", "label": None})  # fmt: skip
    np.testing.assert_array_equal(oracle.query(x).scores, direct["scores"])
    oracle.close()
