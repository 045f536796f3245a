"""MLServer behind the gate: a tensor for every column, inputs of different shapes, several outputs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.gateway.harness import KEYS, gate, policy_of, policy_text
from tests.gateway.test_columns import Table
from tests.servers.environments import free_port, python_of, serving
from typer.testing import CliRunner

from portcullis_ml.cli.app import app

pytestmark = pytest.mark.servers

PAGES = Path(__file__).parents[2] / "docs" / "gateway" / "in-front-of"
ROWS = {"age": [37.5, 20.0, 61.0, 44.0], "kids": [2, 0, 1, 3], "city": ["Bern", "Basel", "Genève", "Bern"]}
TRAIN = """
import joblib, numpy as np, pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

rng = np.random.default_rng(0)
x = pd.DataFrame({"age": rng.uniform(0, 99, 300), "kids": rng.integers(0, 9, 300),
                  "city": rng.choice(["Bern", "Basel", "Genève"], 300)})
y = ((x.age > 40) ^ (x.city == "Bern")).astype(int)
columns = ColumnTransformer([("city", OneHotEncoder(), ["city"])], remainder="passthrough")
joblib.dump(make_pipeline(columns, LogisticRegression(max_iter=1000)).fit(x, y), "people/model.joblib")
"""
RUNTIMES = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Scans(MLModel):
    \"\"\"Scores beside an embedding, whatever was asked for.\"\"\"

    async def load(self) -> bool:
        return True

    async def predict(self, payload):
        given = {i.name: NumpyCodec.decode_input(i) for i in payload.inputs}
        image, meta = given["image"], given["meta"]
        assert image.dtype == np.float32 and image.shape[1:] == (4, 4) and meta.shape[1:] == (3,)
        p = 1 / (1 + np.exp(-(image.sum(axis=(1, 2)) - meta.sum(axis=1))))
        scores, embedding = np.stack([1 - p, p], axis=1), np.repeat(image.sum(axis=1), 2, axis=1)
        outputs = [NumpyCodec.encode_output(n, v) for n, v in (("embedding", embedding), ("scores", scores))]
        return InferenceResponse(model_name=self.name, outputs=outputs)


class Faces(MLModel):
    \"\"\"An embedding of 384 numbers, beside how many tokens it took.\"\"\"

    async def load(self) -> bool:
        self.w = np.random.default_rng(0).normal(size=(16, 384)) / 4
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        found = (("tokens", np.ones(len(x), np.int64)), ("embedding", x @ self.w))
        outputs = [NumpyCodec.encode_output(n, v) for n, v in found]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""
OUTPUTS = [{"name": "embedding", "datatype": "FP32", "shape": [-1, 8]},
           {"name": "scores", "datatype": "FP64", "shape": [-1, 2]}]  # fmt: skip
CLIENT = """
import json, sys
import numpy as np
import tritonclient.http as http

address, model, key, form = sys.argv[1:5]
binary, rows, kinds = form == "binary", json.loads(sys.argv[5]), json.loads(sys.argv[6])
client = http.InferenceServerClient(address)
inputs = []
for name, values in rows.items():
    words = isinstance(values[0], str)
    kind = "BYTES" if words else kinds.get(name, "FP64")
    array = np.array(values, object if words else {"FP64": np.float64, "FP32": np.float32, "INT64": np.int64}[kind])
    array = array[:, None] if array.ndim == 1 else array
    tensor = http.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array, binary_data=binary)
    inputs.append(tensor)
outputs = [http.InferRequestedOutput(n, binary_data=binary) for n in sys.argv[7:]]
# tritonclient says no content type of JSON, which MLServer wants to see.
headers = {"x-api-key": key} if binary else {"x-api-key": key, "content-type": "application/json"}
more = {} if key else {"parameters": {"content_type": "pd"}}
found = client.infer(model, inputs, outputs=outputs or None, headers=headers, **more)
print(json.dumps({o["name"]: found.as_numpy(o["name"]).tolist() for o in found.get_response()["outputs"]}))
"""


class Served(NamedTuple):
    """MLServer with its models, and how to ask it or a gate."""

    url: str
    python: str
    folder: Path

    def asked(
        self, url: str, model: str, rows: Any, *outputs: str, key: str = "", form: str = "json"
    ) -> dict[str, Any]:
        """What tritonclient gets, as lists by the outputs' names."""
        kinds = json.dumps({"kids": "INT64", "image": "FP32"})
        address = url.removeprefix("http://")
        command = [self.python, "client.py", address, model, key, form, json.dumps(rows), kinds, *outputs]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    python, folder = python_of("mlserver"), tmp_path_factory.mktemp("mlserver")
    models = {"people": "mlserver_sklearn.SKLearnModel", "scans": "runtimes.Scans", "faces": "runtimes.Faces"}
    for name, kind in models.items():
        (folder / name).mkdir()
        more = {"parameters": {"uri": "./model.joblib"}} if name == "people" else {}
        more |= {"outputs": OUTPUTS} if name == "scans" else {}
        (folder / name / "model-settings.json").write_text(json.dumps({"name": name, "implementation": kind, **more}))
    (folder / "runtimes.py").write_text(RUNTIMES)
    (folder / "client.py").write_text(CLIENT)
    port = free_port()
    ports = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps({**ports, "parallel_workers": 0, "debug": False}))
    subprocess.run([python, "-c", TRAIN], cwd=folder, check=True, timeout=120)
    start = "import sys; from mlserver.cli import main; sys.path.insert(0, '.'); sys.argv[1:] = ['start', '.']; main()"
    url = f"http://127.0.0.1:{port}"
    with serving([python, "-c", start], folder, f"{url}/v2/health/ready"):
        yield Served(url, python, folder)


def block(section: str, page: str = "columns") -> str:
    """The policy under a heading of a page."""
    text = (PAGES / f"{page}.md").read_text()
    found = re.search(rf"^#+ {section}\n.*?```toml\n(.*?)```", text, flags=re.M | re.S)
    assert found
    return found[1]


def policy(section: str, url: str, folder: Path, stages: str = "", more: str = "") -> Any:
    return policy_of(Table(), "", folder, stages, block(section).replace("http://127.0.0.1:8080", url) + more)


@pytest.mark.parametrize("form", ["json", "binary"])
@pytest.mark.parametrize("city", ["words", "codes"])
def test_a_table_with_words_is_answered_as_mlserver_answers_it_directly(
    mlserver: Served, form: str, city: str, tmp_path: Path
) -> None:
    straight = mlserver.asked(mlserver.url, "people", ROWS, "predict_proba")["predict_proba"]
    rows = ROWS if city == "words" else {"city": [0.0, 1.0, 2.0, 0.0], "age": ROWS["age"], "kids": ROWS["kids"]}
    with gate(policy("MLServer", mlserver.url, tmp_path)) as server:
        found = mlserver.asked(server.url, "people", rows, key=KEYS["alice"], form=form)
    np.testing.assert_array_equal(found["probabilities"], straight)
    assert len({round(p, 3) for p, _ in straight}) > 2


@pytest.mark.parametrize("form", ["json", "binary"])
def test_inputs_of_different_shapes_come_to_a_runtime_of_ones_own_and_only_the_scores_come_back(
    mlserver: Served, form: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    rows = {"meta": rng.random((3, 3)).tolist(), "image": rng.random((3, 4, 4)).tolist()}
    straight = mlserver.asked(mlserver.url, "scans", rows)
    assert set(straight) == {"scores", "embedding"}
    with gate(policy("Inputs of different shapes", mlserver.url, tmp_path)) as server:
        found = mlserver.asked(server.url, "scans", rows, key=KEYS["alice"], form=form)
    assert set(found) == {"label", "probabilities"}
    np.testing.assert_array_equal(found["probabilities"], straight["scores"])


def test_check_names_the_outputs_that_nobody_is_shown(mlserver: Served, tmp_path: Path) -> None:
    path = tmp_path / "portcullis.toml"
    more = block("Inputs of different shapes").replace("http://127.0.0.1:8080", mlserver.url)
    path.write_text(policy_text(Table(), "", tmp_path, "", more))
    said = CliRunner().invoke(app, ["check", str(path), "--live"])
    assert said.exit_code == 0, said.output
    assert "Note: The model also answers 'embedding', which the gate does not ask for and shows nobody." in said.output
    assert "answers one row with scores (2), as the policy says." in said.output


def test_a_table_goes_to_mlserver_by_grpc_as_it_does_over_http(mlserver: Served, tmp_path: Path) -> None:
    straight = mlserver.asked(mlserver.url, "people", ROWS, "predict_proba")["predict_proba"]
    port = json.loads((mlserver.folder / "settings.json").read_text())["grpc_port"]
    more = block("MLServer").replace("http://127.0.0.1:8080", f"grpc://127.0.0.1:{port}")
    more = more.replace('protocol = "v2"', 'protocol = "grpc"')
    with gate(policy_of(Table(), "", tmp_path, "", more)) as server:
        found = mlserver.asked(server.url, "people", ROWS, key=KEYS["alice"])
    np.testing.assert_array_equal(found["probabilities"], straight)


def test_a_word_that_is_in_no_column_never_reaches_the_model(mlserver: Served, tmp_path: Path) -> None:
    with gate(policy("MLServer", mlserver.url, tmp_path)) as server, pytest.raises(AssertionError, match="got 'Rome'"):
        mlserver.asked(server.url, "people", {**ROWS, "city": ["Bern", "Rome", "Bern", "Bern"]}, key=KEYS["alice"])


@pytest.mark.parametrize("form", ["json", "binary"])
def test_an_embedding_is_what_mlserver_gives_and_behind_the_pages_guard_close_to_it(
    mlserver: Served, form: str, tmp_path: Path
) -> None:
    rows = {"input": np.random.default_rng(2).random((3, 16)).tolist()}
    straight = np.array(mlserver.asked(mlserver.url, "faces", rows)["embedding"])
    assert straight.shape == (3, 384)
    whole = block("In front of a model that answers embeddings", "embeddings")
    whole = whole.replace("http://127.0.0.1:8080", mlserver.url)
    for number, text in enumerate((whole.partition("[answers]")[0], whole)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with gate(policy_of(Table(), "", folder, more=text)) as server:
            found = mlserver.asked(server.url, "faces", rows, key=KEYS["alice"], form=form)
        assert list(found) == ["embedding"]
        moved = np.linalg.norm(np.array(found["embedding"]) - straight, axis=1)
        low, high = (0.002, 0.01 + 0.00005 * np.sqrt(384)) if number else (0.0, 0.0)
        assert (moved >= low).all()
        assert (moved <= high).all()


MLFLOW = """
import pandas as pd
import mlflow, mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

x = pd.DataFrame({"age": [20.5, 30, 50, 60, 70, 25], "kids": [0, 1, 2, 3, 0, 1],
                  "city": ["Bern", "Basel", "Genève", "Bern", "Basel", "Genève"]})
y = (x.age > 40).astype(int)
columns = ColumnTransformer([("city", OneHotEncoder(), ["city"])], remainder="passthrough")
model = make_pipeline(columns, LogisticRegression(max_iter=1000)).fit(x, y)
mlflow.sklearn.save_model(model, "people", signature=infer_signature(x, y), serialization_format="cloudpickle")
"""


def test_mlflow_takes_words_and_whole_numbers_as_its_signature_wants_them(tmp_path: Path) -> None:
    python, port = python_of("mlflow"), free_port()
    subprocess.run([python, "-c", MLFLOW], cwd=tmp_path, check=True, timeout=300, capture_output=True)
    path = f"PATH={Path(python).parent}:{os.environ['PATH']}"  # it looks for uvicorn there
    start = [
        "env",
        path,
        python,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        "people",
        "-p",
        str(port),
        "--env-manager",
        "local",
    ]
    model = "[model]" + block("MLServer").partition("[model]")[2]
    with serving(start, tmp_path, f"http://127.0.0.1:{port}/ping") as ready:
        url = ready.removesuffix("/ping")
        more = block("MLflow").replace("http://127.0.0.1:8080", url) + model + '[answers]\nreveals = "labels"\n'
        policy = policy_of(Table(), "", tmp_path, more=more + '[listen]\nport = 0\nprotocols = ["v1", "invocations"]\n')
        records = [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]
        straight = posted(f"{url}/invocations", {"dataframe_records": records})
        with gate(policy) as server:
            found = posted(f"{server.url}/invocations", {"dataframe_records": records})
            rows = posted(f"{server.url}/v1/models/people:predict", {"inputs": ROWS})
    assert straight == found == {"predictions": [0, 0, 1, 1]}
    assert rows == {"outputs": [0, 0, 1, 1]}


def posted(url: str, tree: Any) -> Any:
    headers = {"content-type": "application/json", "x-api-key": KEYS["alice"]}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(tree).encode(), headers), timeout=30) as answer:
        return json.loads(answer.read())
