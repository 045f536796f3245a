"""Two versions of one model and another model of MLServer behind one gate, asked by tritonclient."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.gateway.harness import KEYS, Softmax, gate, policy_text
from tests.gateway.test_models import further
from tests.servers.environments import free_port, python_of, serving
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.gateway.policy.policy import read_policy

pytestmark = pytest.mark.servers

TRAIN = """
import joblib, numpy as np
from sklearn.linear_model import LogisticRegression

rng = np.random.default_rng(0)
for folder, width, classes in (("digits-1", 8, 3), ("digits-2", 8, 3), ("credit", 5, 2)):
    x = rng.normal(size=(200, width))
    joblib.dump(LogisticRegression().fit(x, rng.integers(0, classes, 200)), f"{folder}/model.joblib")
"""
CLIENT = """
import json, sys
import numpy as np
import tritonclient.http as http

address, model, version, key, output = sys.argv[1:6]
client = http.InferenceServerClient(address)
rows = np.array(json.loads(sys.argv[6]))
tensor = http.InferInput("input", list(rows.shape), "FP64")
tensor.set_data_from_numpy(rows, binary_data=False)
headers = {"x-api-key": key, "content-type": "application/json"}
wanted = [http.InferRequestedOutput(output, binary_data=False)]
try:
    found = client.infer(model, [tensor], model_version=version, outputs=wanted, headers=headers)
    ready = client.is_model_ready(model, version)
    print(json.dumps([found.as_numpy(output).tolist(), ready, client.get_model_metadata(model, version)["versions"]]))
except http.InferenceServerException as error:
    print(json.dumps([str(error.status()), str(error)]))
"""
MODELS = {"digits-1": ("digits", "1"), "digits-2": ("digits", "2"), "credit": ("credit", "")}


class Served(NamedTuple):
    """MLServer, and how to ask it or a gate."""

    url: str
    python: str
    folder: Path

    def asked(self, url: str, model: str, version: str, rows: Any, output: str, key: str = "") -> Any:
        """[the answer, whether the model is ready, its versions], or [status, sentence]."""
        command = [self.python, "client.py", url.removeprefix("http://"), model, version, key, output, json.dumps(rows)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    python, folder = python_of("mlserver"), tmp_path_factory.mktemp("mlserver")
    for place, (name, version) in MODELS.items():
        (folder / place).mkdir()
        parameters = {"uri": "./model.joblib", **({"version": version} if version else {})}
        about = {"name": name, "implementation": "mlserver_sklearn.SKLearnModel", "parameters": parameters}
        (folder / place / "model-settings.json").write_text(json.dumps(about))
    (folder / "client.py").write_text(CLIENT)
    port = free_port()
    ports = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps({**ports, "parallel_workers": 0, "debug": False}))
    subprocess.run([python, "-c", TRAIN], cwd=folder, check=True, timeout=120)
    start = "import sys; from mlserver.cli import main; sys.argv[1:] = ['start', '.']; main()"
    url = f"http://127.0.0.1:{port}"
    with serving([python, "-c", start], folder, f"{url}/v2/health/ready"):
        yield Served(url, python, folder)


def policies(folder: Path, url: str) -> Path:
    """The main policy, of version 1, and those of version 2 and of acme/credit, which MLServer knows as credit."""
    digits, credit = Softmax(8, 3), Softmax(5, 2)

    def upstream(model: str, version: str = "") -> str:
        return f'url = "{url}"\nscores = "predict_proba"\nmodel = "{model}"\nversion = "{version}"'

    quota = '[[guard]]\nunit = "quota"\nrows = {}\n'
    files = [
        further(folder, "credit", credit, url, 'name = "acme/credit"', stages=quota.format(4)),
        further(folder, "digits2", digits, url, 'name = "digits"\nversion = "2"', stages=quota.format(2)),
    ]
    for file, about in zip(files, (upstream("credit"), upstream("digits", "2")), strict=True):
        text = (folder / file).read_text()
        (folder / file).write_text(text.replace(f'url = "{url}"', about))
    about = 'name = "digits"\nversion = "1"\ninput_shape = [8]\nclasses = 3\nbounds = [-3.0, 3.0]\n'
    more = f"[upstream]\n{upstream('digits', '1')}\n[model]\n{about}"
    path = folder / "portcullis.toml"
    path.write_text(policy_text(digits, url, folder, quota.format(2), more, f"models = {json.dumps(files)}"))
    return path


def test_versions_and_a_name_with_a_slash_are_asked_by_tritonclient(mlserver: Served, tmp_path: Path) -> None:
    path = policies(tmp_path, mlserver.url)
    rng = np.random.default_rng(1)
    digits, credit = rng.normal(size=(2, 8)).tolist(), rng.normal(size=(2, 5)).tolist()
    live = CliRunner().invoke(app, ["check", str(path), "--live"])
    assert live.output.count("The model server answers one row with scores") == 3, live.output
    with gate(read_policy(path)) as server:
        answers = {}
        for name, version, own, rows in (("digits", "1", "digits", digits), ("digits", "2", "digits", digits),
                                         ("acme/credit", "", "credit", credit)):  # fmt: skip
            found = mlserver.asked(server.url, name, version, rows, "probabilities", KEYS["alice"])
            assert found[1] is True
            assert sorted(found[2]) == (["1", "2"] if name == "digits" else [])
            np.testing.assert_allclose(found[0], mlserver.asked(mlserver.url, own, version, rows, "predict_proba")[0])
            answers[name, version] = found[0]
        assert answers["digits", "1"] != answers["digits", "2"]
        for version in ("1", "2", ""):  # each has its quota of two rows; where no version is said, the first answers
            status, _ = mlserver.asked(server.url, "digits", version, digits[:1], "probabilities", KEYS["alice"])
            assert status == "429"
        assert mlserver.asked(server.url, "acme/credit", "", credit, "probabilities", KEYS["alice"])[1] is True
        status, _ = mlserver.asked(server.url, "acme/credit", "", credit[:1], "probabilities", KEYS["alice"])
        assert status == "429"
        assert mlserver.asked(server.url, "digits", "3", digits, "probabilities", KEYS["bob"])[0] == "404"
