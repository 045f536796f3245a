"""FastAPI and LitServe with pictures behind the gate: the blocks of the page, and answers as the servers give them."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from tests.gateway.harness import SECRET, gate
from tests.gateway.test_pictures import as_base64, as_form, as_raw, file
from tests.servers.environments import free_port, python_of, serving
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.types import Interface
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.policy import Policy, parse_policy

pytestmark = pytest.mark.servers

PAGE = Path(__file__).parents[2] / "docs" / "gateway" / "in-front-of" / "pictures.md"
SERVICE, LIT = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
POLICY, API = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.S)
DIGITS = np.rint(load_digits().images[:20] * 255 / 16).astype(np.uint8)
SENT = {"base64": as_base64, "multipart": as_form, "raw": as_raw}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("fastapi"), free_port()
    (folder / "service.py").write_text(SERVICE)
    command = [python_of("litserve"), "-m", "uvicorn", "service:app", "--port", str(port)]
    with serving(command, folder, f"http://127.0.0.1:{port}/docs"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def lit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("litserve"), free_port()
    (folder / "lit.py").write_text(LIT)
    with serving([python_of("litserve"), "lit.py", str(port)], folder, f"http://127.0.0.1:{port}/health"):
        yield f"http://127.0.0.1:{port}"


def policy(folder: Path, url: str, path: str, form: str) -> Policy:
    """The page's, with this address and this way of asking the server."""
    (folder / "guard.key").write_text(SECRET.hex())
    text = POLICY.replace("http://127.0.0.1:8080", url).replace("protocols =", "port = 0\nprotocols =")
    text = text.replace('path = "/upload"\nform = "multipart"', f'path = "{path}"\nform = "{form}"')
    return parse_policy(text + f'\n[state]\nurl = "sqlite:///{folder}/state.db"\n[admin]\nport = 0\n', folder=folder)


def asked(url: str, body: tuple[dict[str, str], bytes]) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body[1], body[0]), timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.mark.parametrize("form", SENT)
def test_fastapi_answers_as_it_does_without_the_gate(service: str, form: str, tmp_path: Path) -> None:
    path = {"base64": "/base64", "multipart": "/upload", "raw": "/raw"}[form]
    with gate(policy(tmp_path, service, path, form)) as server:
        for pixels in DIGITS:
            direct = asked(service + path, SENT[form](file(pixels)))
            assert direct[0] == 200
            for body in (write(file(pixels)) for write in SENT.values()):
                assert asked(server.url + "/predict", body) == direct
        status, tree = asked(server.url + "/predict", as_form(file(DIGITS[0], "GIF")))
        assert (status, tree["error"]) == (415, "A picture must be a PNG or JPEG file.")


def test_litserve_answers_as_it_does_without_the_gate(lit: str, tmp_path: Path) -> None:
    with gate(policy(tmp_path, lit, "/predict", "base64")) as server:
        for pixels in DIGITS:
            direct = asked(lit + "/predict", as_base64(file(pixels)))
            assert direct[0] == 200
            assert asked(server.url + "/predict", as_form(file(pixels))) == direct


def test_check_asks_the_service_for_one_picture(service: str, tmp_path: Path) -> None:
    policy(tmp_path, service, "/upload", "multipart")
    text = POLICY.replace("http://127.0.0.1:8080", service)
    for said, code in ((text, 0), (text.replace("/upload", "/nowhere"), 2)):
        (tmp_path / "portcullis.toml").write_text(said)
        done = CliRunner().invoke(app, ["check", str(tmp_path / "portcullis.toml"), "--live"])
        assert done.exit_code == code, done.output
        assert ("There is no such model or route" in done.output.replace("\n", " ")) == bool(code)


def test_an_audit_can_ask_the_service(service: str, tmp_path: Path) -> None:
    (tmp_path / "api.toml").write_text(API)
    interface = Interface(input_shape=(8, 8), n_classes=10)
    oracle = HttpOracle(service, interface=interface, budget=20, protocol=str(tmp_path / "api.toml"))
    answer = oracle.query(DIGITS / 255)
    oracle.close()
    wanted = [asked(service + "/upload", as_form(file(pixels)))[1] for pixels in DIGITS]
    np.testing.assert_array_equal(answer.labels, [tree["label"] for tree in wanted])
    np.testing.assert_array_equal(answer.scores, [tree["scores"] for tree in wanted])
