"""Models of texts behind the gate: a runtime of MLServer, a pipeline in MLflow's server, a FastAPI app."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.harness import KEYS, gate, policy_text
from tests.gateway.texts import victim
from tests.servers.environments import free_port, python_of, serving
from tests.servers.test_columns import CLIENT
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.gateway.policy.policy import Policy, parse_policy

pytestmark = pytest.mark.servers

PAGE = Path(__file__).parents[2] / "docs" / "gateway" / "in-front-of" / "text.md"
TEXTS = ["win a prize now", "lunch on monday?", 'Grüße, "世界" \U0001f600\n\t\x01', "", "prize prize lunch report"]
TRAIN = """
import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

rng = np.random.default_rng(0)
words = {"spam": "win cash prize offer click now".split(), "ham": "meeting report lunch monday team notes".split()}
labels = ["spam", "ham"] * 100
texts = [" ".join(rng.choice(words[label] + ["a", "the", "on"], 6)) for label in labels]
"""
RUNTIME = """
import joblib
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse


class Spam(MLModel):
    async def load(self) -> bool:
        self.model = joblib.load("spam.joblib")
        return True

    async def predict(self, payload):
        (given,) = payload.inputs
        texts = StringCodec.decode_input(given)
        assert all(type(text) is str for text in texts)
        scores = np.asarray(self.model.predict_proba(texts))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", scores)])
"""
SERVICE = (
    TRAIN
    + """
import sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

model = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)).fit(texts, labels)
app = FastAPI()


class One(BaseModel):
    text: str


class Many(BaseModel):
    texts: list[str]


@app.post("/one")
def one(body: One):
    (p,) = model.predict_proba([body.text])
    return {"label": str(model.classes_[p.argmax()]), "score": float(p.max())}


@app.post("/many")
def many(body: Many):
    return {"scores": model.predict_proba(body.texts).tolist()}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""
)


def post(url: str, tree: Any, **headers: str) -> tuple[int, Any]:
    head = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(tree).encode(), head), timeout=60) as found:
            return found.status, json.loads(found.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def policy(section: str, url: str, folder: Path, more: str = "") -> Policy:
    """The policy under a heading of the page, in front of this server."""
    found = re.search(rf"^## {section}\n.*?```toml\n(.*?)```", PAGE.read_text(), flags=re.M | re.S)
    assert found
    block = found[1].replace("http://127.0.0.1:8080", url).replace("port = 8000", "port = 0")
    return parse_policy(policy_text(victim()[0], "", folder, "", block + more), folder=folder)


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    python, folder = python_of("mlserver"), tmp_path_factory.mktemp("mlserver")
    save = """
import joblib
joblib.dump(make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)).fit(texts, labels), "spam.joblib")
"""
    subprocess.run([python, "-c", TRAIN + save], cwd=folder, check=True, timeout=120)
    (folder / "runtimes.py").write_text(RUNTIME)
    (folder / "model-settings.json").write_text(json.dumps({"name": "spam", "implementation": "runtimes.Spam"}))
    port = free_port()
    ports = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps({**ports, "parallel_workers": 0, "debug": False}))
    start = "import sys; from mlserver.cli import main; sys.path.insert(0, '.'); sys.argv[1:] = ['start', '.']; main()"
    url = f"http://127.0.0.1:{port}"
    with serving([python, "-c", start], folder, f"{url}/v2/health/ready"):
        yield url


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    python, folder = python_of("mlflow"), tmp_path_factory.mktemp("mlflow")
    save = """
import mlflow.sklearn, pandas as pd
frame = pd.DataFrame({"text": texts})
columns = ColumnTransformer([("text", TfidfVectorizer(), "text")])
model = make_pipeline(columns, LogisticRegression(C=10)).fit(frame, labels)
mlflow.sklearn.save_model(model, "model", input_example=frame[:2], serialization_format="cloudpickle")
"""
    subprocess.run([python, "-c", TRAIN + save], cwd=folder, check=True, timeout=300, capture_output=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    own = f"PATH={Path(python).parent}:{os.environ['PATH']}"  # MLflow starts the first uvicorn that it finds
    start = [
        "env",
        own,
        python,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        "model",
        "--env-manager",
        "local",
        "--port",
        str(port),
    ]
    with serving([*start, "--host", "127.0.0.1"], folder, f"{url}/ping"):
        yield url


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    python, folder, port = python_of("litserve"), tmp_path_factory.mktemp("service"), free_port()
    (folder / "service.py").write_text(SERVICE)
    url = f"http://127.0.0.1:{port}"
    with serving([python, "service.py", str(port)], folder, f"{url}/openapi.json"):
        yield url


def tensor(texts: list[str]) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}]}


def test_a_runtime_of_mlserver_gets_strings_and_answers_as_it_does_directly(mlserver: str, tmp_path: Path) -> None:
    path = "/v2/models/spam/infer"
    status, straight = post(mlserver + path, tensor(TEXTS))
    assert status == 200, straight
    with gate(policy("MLServer", mlserver, tmp_path)) as server:
        status, found = post(server.url + path, tensor(TEXTS), x_api_key=KEYS["alice"])
        assert status == 200, found
        assert post(server.url + path, tensor(["a\0b"]), x_api_key=KEYS["alice"])[0] == 400
    outputs = {t["name"]: t["data"] for t in found["outputs"]}
    assert outputs["probabilities"] == straight["outputs"][0]["data"]
    assert set(outputs["label"]) == {"ham", "spam"}


@pytest.mark.parametrize("form", ["json", "binary"])
def test_tritonclient_sends_texts_and_reads_what_mlserver_answers(mlserver: str, form: str, tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text(CLIENT)
    straight = post(f"{mlserver}/v2/models/spam/infer", tensor(TEXTS))[1]["outputs"][0]["data"]
    with gate(policy("MLServer", mlserver, tmp_path)) as server:
        address, rows = server.url.removeprefix("http://"), json.dumps({"text": TEXTS})
        command = [
            python_of("mlserver"),
            "client.py",
            address,
            "spam",
            KEYS["alice"],
            form,
            rows,
            "{}",
            "probabilities",
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    assert np.ravel(json.loads(done.stdout)["probabilities"]).tolist() == straight


def test_check_asks_mlserver_with_the_text_of_the_policy(mlserver: str, tmp_path: Path) -> None:
    found = re.search(r"^## MLServer\n.*?```toml\n(.*?)```", PAGE.read_text(), flags=re.M | re.S)
    assert found
    block = found[1].replace("http://127.0.0.1:8080", mlserver)
    (tmp_path / "portcullis.toml").write_text(policy_text(victim()[0], "", tmp_path, "", block))
    said = CliRunner().invoke(app, ["check", str(tmp_path / "portcullis.toml"), "--live"])
    assert said.exit_code == 0, said.output
    assert "answers one row with scores (2), as the policy says." in said.output


def test_a_pipeline_in_mlflows_server_is_asked_by_its_column(mlflow: str, tmp_path: Path) -> None:
    table = {"dataframe_split": {"columns": ["text"], "data": [[text] for text in TEXTS]}}
    status, straight = post(f"{mlflow}/invocations", table)
    assert status == 200, straight
    listen = '[listen]\nport = 0\nprotocols = ["invocations", "v1"]\n'
    with gate(policy("MLflow", mlflow, tmp_path, listen)) as server:
        for asked in (table, {"inputs": TEXTS}, {"dataframe_records": [{"text": text} for text in TEXTS]}):
            assert post(f"{server.url}/invocations", asked, x_api_key=KEYS["alice"]) == (200, straight)
        path = "/v1/models/spam:predict"
        assert post(server.url + path, {"instances": TEXTS}, x_api_key=KEYS["alice"]) == (200, straight)
    assert set(straight["predictions"]) == {"ham", "spam"}


def test_an_app_of_many_texts_is_answered_for_as_it_answers(service: str, tmp_path: Path) -> None:
    straight = post(f"{service}/many", {"texts": TEXTS})
    assert straight[0] == 200, straight
    with gate(policy("A service that takes many texts", service, tmp_path)) as server:
        status, found = post(f"{server.url}/many", {"texts": TEXTS}, x_api_key=KEYS["alice"])
        assert (status, found["scores"]) == (200, straight[1]["scores"])
        assert post(f"{server.url}/one", {"text": "a"}, x_api_key=KEYS["alice"])[0] == 404


def test_an_app_of_one_text_is_answered_for_as_it_answers(service: str, tmp_path: Path) -> None:
    with gate(policy("A service that takes one text", service, tmp_path)) as server:
        for text in TEXTS:
            _, straight = post(f"{service}/one", {"text": text})
            status, found = post(f"{server.url}/one", {"text": text}, x_api_key=KEYS["alice"])
            assert status == 200, found
            assert found["label"] == straight["label"]
            np.testing.assert_allclose(found["score"], straight["score"], rtol=1e-12)
        assert post(f"{server.url}/one", {"text": TEXTS}, x_api_key=KEYS["alice"])[0] == 400
