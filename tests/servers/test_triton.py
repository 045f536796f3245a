"""Triton, as PyTriton brings it, behind a gate by REST and by gRPC, asked by tritonclient and by an oracle."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
from tests.gateway.harness import KEYS, SECRET, gate
from tests.servers.environments import free_port, python_of, serving
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import Refused
from portcullis_ml.core.types import Interface
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.clients import hashed
from portcullis_ml.gateway.policy.policy import Policy, parse_policy

pytestmark = pytest.mark.servers

PAGE = Path(__file__).parents[2] / "docs" / "gateway" / "in-front-of" / "triton.md"
WEIGHTS = np.random.default_rng(0).normal(size=(4, 3))
X = np.random.default_rng(1).uniform(-1, 1, (5, 4))
MODEL = """
import sys
import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

weights = np.random.default_rng(0).normal(size=(4, 3))

@batch
def infer(input):
    z = np.exp(input @ weights)
    return {"probabilities": z / z.sum(axis=1, keepdims=True), "hidden": z}

rest, grpc = map(int, sys.argv[1:])
here = {"http_address": "127.0.0.1", "grpc_address": "127.0.0.1", "allow_metrics": False}
with Triton(config=TritonConfig(http_port=rest, grpc_port=grpc, **here)) as triton:
    inputs = [Tensor(name="input", dtype=np.float64, shape=(4,))]
    outputs = [Tensor(name=name, dtype=np.float64, shape=(3,)) for name in ("probabilities", "hidden")]
    triton.bind(
        model_name="toy", infer_func=infer, inputs=inputs, outputs=outputs, config=ModelConfig(max_batch_size=64)
    )
    triton.serve()
"""
CLIENT = """
import json, sys
import numpy as np
import tritonclient.http as http

address, key, binary = sys.argv[1], sys.argv[2], sys.argv[3] == "binary"
rows = np.array(json.loads(sys.argv[4]))
tensor = http.InferInput("input", list(rows.shape), "FP64")
tensor.set_data_from_numpy(rows, binary_data=binary)
headers = {"x-api-key": key} if binary else {"x-api-key": key, "content-type": "application/json"}
wanted = [http.InferRequestedOutput("probabilities", binary_data=binary)]
found = http.InferenceServerClient(address).infer("toy", [tensor], outputs=wanted, headers=headers)
print(json.dumps(found.as_numpy("probabilities").tolist()))
"""


class Running(NamedTuple):
    python: str
    rest: str
    grpc: str
    folder: Path

    def asked(self, url: str, form: str, key: str = "") -> Any:
        """The answer to X by tritonclient."""
        command = [self.python, "client.py", url.removeprefix("http://"), key, form, json.dumps(X.tolist())]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    python, folder = python_of("pytriton"), tmp_path_factory.mktemp("triton")
    (folder / "model.py").write_text(MODEL)
    (folder / "client.py").write_text(CLIENT)
    where = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"  # of the Python that Triton starts
    lib = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    rest, grpc = free_port(), free_port()
    command = ["env", f"LD_LIBRARY_PATH={lib}", python, "model.py", str(rest), str(grpc)]
    with serving(command, folder, f"http://127.0.0.1:{rest}/v2/models/toy/ready", most=200):
        yield Running(python, f"http://127.0.0.1:{rest}", f"grpc://127.0.0.1:{grpc}", folder)


def policy(folder: Path, upstream: str, **changes: str) -> Policy:
    """The page's own policy before this address."""
    text = re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.S)[1]  # type: ignore[index]
    (folder / "guard.key").write_text(SECRET.hex())
    text = re.sub(r'sha256 = "\w+"', f'sha256 = "{hashed(KEYS["alice"])}"', text)
    text = text.replace("http://127.0.0.1:8080", upstream) + f'[state]\nurl = "sqlite:///{folder}/state.db"\n'
    for was, now in changes.items():
        assert was in text
        text = text.replace(was, now)
    (folder / "portcullis.toml").write_text(text)
    return parse_policy(text, folder=folder)


FORMS = {
    "raw bytes": {},
    "JSON": {"binary = true ": "binary = false "},
    "gRPC": {'protocol = "v2"\nbinary = true ': 'protocol = "grpc"\nbinary = false '},
}


@pytest.mark.parametrize("towards", FORMS)
def test_the_gates_answers_are_tritons_and_the_quota_holds(triton: Running, tmp_path: Path, towards: str) -> None:
    direct = triton.asked(triton.rest, "binary")
    np.testing.assert_allclose(direct, np.exp(X @ WEIGHTS) / np.exp(X @ WEIGHTS).sum(axis=1, keepdims=True))
    upstream = triton.grpc if towards == "gRPC" else triton.rest
    with gate(policy(tmp_path, upstream, **FORMS[towards])) as server:
        near = 1e-14 if towards == "JSON" else 0.0  # Triton writes a double in JSON to the last bit but one
        np.testing.assert_allclose(triton.asked(server.url, "binary", KEYS["alice"]), direct, rtol=near, atol=0.0)
        api = Interface(input_shape=(4,), n_classes=3, bounds=(-1.0, 1.0))
        oracle = HttpOracle(server.url, interface=api, budget=9, model="toy", headers={"x-api-key": KEYS["alice"]})
        np.testing.assert_allclose(oracle.query(X[:3]).scores, direct[:3], rtol=near, atol=0.0)
        with pytest.raises(Refused, match="quota"):
            oracle.query(X[:1])
        oracle.close()


def test_a_client_who_speaks_json_gets_the_same(triton: Running, tmp_path: Path) -> None:
    with gate(policy(tmp_path, triton.rest)) as server:
        assert triton.asked(server.url, "JSON", KEYS["alice"]) == triton.asked(triton.rest, "binary")


def test_nothing_but_the_protocol_passes_and_no_output_that_is_not_named(triton: Running, tmp_path: Path) -> None:
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP64", "data": X[0].tolist()}

    def asked(url: str, path: str, body: Any) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
        head = {"x-api-key": KEYS["alice"], "content-type": "application/json"}
        connection.request("POST", path, json.dumps(body), head)
        answer = connection.getresponse()
        found = answer.read()
        connection.close()
        return answer.status, json.loads(found) if found else None

    infer = "/v2/models/toy/infer"
    with gate(policy(tmp_path, triton.rest)) as server:
        assert {o["name"] for o in asked(triton.rest, infer, {"inputs": [tensor]})[1]["outputs"]} == {
            "probabilities",
            "hidden",
        }
        status, tree = asked(server.url, infer, {"inputs": [tensor]})
        assert status == 200
        assert {o["name"] for o in tree["outputs"]} == {"label", "probabilities"}
        assert asked(server.url, infer, {"inputs": [tensor], "outputs": [{"name": "hidden"}]})[0] == 400
        ranked = [{"name": "probabilities", "parameters": {"classification": 2}}]
        assert asked(server.url, infer, {"inputs": [tensor], "outputs": ranked})[0] == 400
        for path in ("/v2/repository/index", "/v2/systemsharedmemory/region/a/register", "/v2/trace/setting"):
            assert asked(server.url, path, {})[0] == 404
        shared = {**tensor, "parameters": {"shared_memory_region": "a", "shared_memory_byte_size": 32}}
        del shared["data"]
        assert asked(server.url, infer, {"inputs": [shared]})[0] == 400


def test_check_asks_it_and_says_which_output_is_dropped(triton: Running, tmp_path: Path) -> None:
    policy(tmp_path, triton.rest)
    said = CliRunner().invoke(app, ["check", str(tmp_path / "portcullis.toml"), "--live"])
    assert said.exit_code == 0, said.output
    assert "hidden" in said.output
