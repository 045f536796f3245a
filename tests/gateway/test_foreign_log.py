"""Logs that other gateways wrote are replayed to the decisions that this gate makes on the same requests."""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.harness import Softmax, policy_of, policy_text, running
from tests.servers.environments import free_port, serving
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.gateway.foreign_log import FIELDS, ForeignLog, form_of, read_foreign
from portcullis_ml.gateway.policy.clients import ANONYMOUS
from portcullis_ml.gateway.replay import replay

MODEL = Softmax()
QUOTA = '[[guard]]\nunit = "quota"\nrows = 3\n'
PATH = "/v2/models/m/infer"


def question(x: np.ndarray) -> dict[str, Any]:
    tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP64", "data": x.ravel().tolist()}
    return {"inputs": [tensor]}


def answer(x: np.ndarray) -> dict[str, Any]:
    scores = MODEL.scores(x)
    tensor = {"name": "probabilities", "shape": list(scores.shape), "datatype": "FP64", "data": scores.ravel().tolist()}
    return {"model_name": "m", "outputs": [tensor]}


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 4))


def nginx(x: np.ndarray, at: float, client: str = "alice", **changes: Any) -> dict[str, Any]:
    line = {
        "msec": f"{at:.3f}", "request_time": "0.250", "remote_user": client, "request_method": "POST",
        "request_uri": PATH + "?x=1", "status": "200", "request_body": json.dumps(question(x)),
        "response_body": json.dumps(answer(x)),
    }  # fmt: skip
    return line | changes


def litellm(x: np.ndarray, at: float, client: str | None = "alice", **changes: Any) -> dict[str, Any]:
    metadata = {"user_api_key_alias": client, "user_api_key_hash": "88dc"}
    about = {
        "id": "call-1",
        "startTime": at,
        "response_time": 0.25,
        "status": "success",
        "metadata": metadata,
    } | changes
    passed = {"url": f"http://model:8080{PATH}", "request_method": "POST", "request_body": question(x)}
    return {"standard_logging_object": about, "passthrough_logging_payload": {**passed, "response_body": answer(x)}}


def read(folder: Path, lines: list[Any], kind: str = "nginx", **named: str) -> ForeignLog:
    path = folder / "access.log"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return read_foreign(path, policy_of(MODEL, "http://127.0.0.1:9", folder, QUOTA), form_of(kind, named))


@pytest.mark.parametrize(("kind", "line"), [("nginx", nginx), ("litellm", litellm)])
def test_rows_answers_clients_and_times_are_those_of_the_log(tmp_path: Path, kind: str, line: Any) -> None:
    x, more = rows(2), rows(3, seed=1)
    found = read(tmp_path, [line(more, 200.0, "bob"), line(x, 100.0)], kind)
    assert [held.client for held in found.lines] == ["alice", "bob"]  # in the order of their times
    assert [held.at for held in found.lines] == ([99.75, 199.75] if kind == "nginx" else [100.0, 200.0])
    for held, asked in zip(found.lines, (x, more), strict=True):
        assert held.x is not None
        assert held.clean is not None
        assert held.clean.scores is not None
        np.testing.assert_array_equal(held.x, asked)
        np.testing.assert_array_equal(held.clean.scores, MODEL.scores(asked))
    assert found.said() == "2 requests were read."


def test_replay_refuses_what_the_gate_would_have_refused(tmp_path: Path) -> None:
    log = [nginx(rows(2, i), 100.0 + i) for i in range(3)] + [nginx(rows(3), 50.0, "bob")]
    fates = replay(read(tmp_path, log).lines, policy_of(MODEL, "http://127.0.0.1:9", tmp_path, QUOTA)).fates
    assert (fates["alice"].requests, fates["alice"].refused, fates["alice"].was_refused) == (3, 2, 0)
    assert fates["bob"].refused == 0


def test_requests_that_ran_together_keep_their_order(tmp_path: Path) -> None:
    slow, fast = nginx(rows(1), 110.0, request_time="10"), nginx(rows(1, 1), 105.0, request_time="1")
    found = read(tmp_path, [fast, slow])
    (first, second) = found.lines
    assert (first.at, second.at) == (100.0, 104.0)
    assert (first.admitted, second.admitted, second.released, first.released) == (1, 2, 3, 4)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    x = rows(1)
    found = read(
        tmp_path,
        [
            nginx(x, 1.0),
            nginx(x, 2.0, request_uri="/healthz"),
            nginx(x, 3.0, status="503", response_body=""),
            nginx(x, 4.0, request_body='{"inputs": []}'),
            nginx(x, 5.0, response_body='{"outputs": []}'),
            "",
        ],
    )
    assert len(found.lines) == 1
    assert found.left_out == {
        "of other routes": 1,
        "not answered": 1,
        "that the gate would not take": 1,
        "whose answer the policy does not fit": 1,
    }
    assert found.said().startswith("1 requests were read; left out: 1 of other routes, ")


def test_clients_without_a_name_and_fields_by_another_name(tmp_path: Path) -> None:
    x = rows(1)
    lines = [nginx(x, 1.0, "-"), nginx(x, 2.0, "", account="carol"), nginx(x, 3.0, "x" * 200)]
    assert {held.client for held in read(tmp_path, lines).lines} == {ANONYMOUS}
    assert "carol" in {held.client for held in read(tmp_path, lines, client="account").lines}
    nested = {**nginx(x, 1.0), "user": {"id": "dave"}}
    assert read(tmp_path, [nested], client="user.id").lines[0].client == "dave"
    assert read(tmp_path, [litellm(x, 1.0, None)], "litellm").lines[0].client == "88dc"


def test_times_in_words(tmp_path: Path) -> None:
    line = nginx(rows(1), 0.0, time_iso8601="2026-11-01T10:00:00+01:00", request_time=None)
    del line["msec"]
    assert read(tmp_path, [line]).lines[0].at == 1_793_523_600.0


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("no JSON", r"line 1: one JSON object was expected; got b'no JSON'"),
        (
            nginx(rows(1), 1.0, response_body=""),
            r"line 1 has no answer \(looked for response_body, resp_body\).*--field",
        ),
        (nginx(rows(1), 1.0, msec="yesterday"), r"line 1: a time was expected .* got 'yesterday'"),
        (nginx(rows(1), 1.0, request_uri="/"), r"holds no answered request.*left out: 1 of other routes"),
        ("[1]", r"holds no answered request"),
    ],
)
def test_wrong_logs_are_refused_in_a_sentence(tmp_path: Path, line: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read(tmp_path, [line])


def test_wrong_forms_and_files(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="one of nginx, litellm"):
        form_of("apache", {})
    with pytest.raises(ParameterError, match="as in client=http_x_account"):
        form_of("nginx", {"customer": "x"})
    policy = policy_of(MODEL, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(InputError, match="it cannot be read"):
        read_foreign(tmp_path / "none.log", policy, form_of("nginx", {}))


def test_the_command(tmp_path: Path) -> None:
    policy, log = tmp_path / "portcullis.toml", tmp_path / "access.log"
    policy.write_text(policy_text(MODEL, "http://127.0.0.1:9", tmp_path, QUOTA))
    log.write_text("\n".join(json.dumps(nginx(rows(2, i), 100.0 + i)) for i in range(3)))
    run = CliRunner().invoke
    command = ["replay", str(log), "--from", "nginx", "--policy", str(policy)]
    said = run(app, [*command, "--honest", "alice"], env={"COLUMNS": "200"})
    assert said.exit_code == 0, said.output
    assert "3 requests were read." in said.output
    assert "honest, and hurt" in said.output
    told = json.loads(run(app, [*command, "--json"]).output)
    assert told["clients"]["alice"]["refused"] == 2
    assert told["read"] == "3 requests were read."
    for wrong in (["--field", "client=x"], ["--from", "nginx", "--field", "client"]):
        failed = run(app, ["replay", str(log), "--policy", str(policy), *wrong])
        assert failed.exit_code != 0


def test_the_page_names_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gateway" / "other-logs.md").read_text()
    for kind in ("nginx", "litellm"):
        for key, names in FIELDS[kind].items():
            row = next(line for line in page.splitlines() if line.startswith(f"| `{key}` "))
            assert all(f"`{name.partition('.')[2] if kind == 'litellm' else name}`" in row for name in names), key


NJS = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")


@pytest.mark.skipif(shutil.which("nginx") is None or not NJS.exists(), reason="nginx or its njs module is missing")
def test_a_real_nginx_logs_what_is_replayed(tmp_path: Path) -> None:
    """By the page's own configuration."""
    page = (Path(__file__).parents[2] / "docs" / "gateway" / "other-logs.md").read_text()
    config, script = (re.search(rf"```{word}\n(.*?)```", page, re.S)[1] for word in ("nginx", "js"))  # type: ignore[index]
    (tmp_path / "bodies.js").write_text(script)
    port = free_port()
    x = rows(1)

    async def model(scope: Any, receive: Any, send: Any) -> None:
        body = json.dumps(answer(x)).encode()
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    with running(model) as url:
        for was, now in (
            ("/etc/nginx/njs", str(tmp_path)),
            ("/var/log/nginx/bodies.log", str(tmp_path / "access.log")),
            ("http://127.0.0.1:8080", url),
            ("server {", f"server {{\n        listen 127.0.0.1:{port};"),
            ("load_module modules/", "load_module /usr/lib/nginx/modules/"),
            ("http {", f"pid {tmp_path}/pid;\nerror_log {tmp_path}/error.log;\nevents {{}}\nhttp {{"),
        ):
            assert was in config
            config = config.replace(was, now)
        (tmp_path / "nginx.conf").write_text(config)
        command = ["nginx", "-c", str(tmp_path / "nginx.conf"), "-g", "daemon off;"]
        with serving(command, tmp_path, f"http://127.0.0.1:{port}/"):
            head = {"x-account": "alice", "content-type": "application/json"}
            ask = urllib.request.Request(f"http://127.0.0.1:{port}{PATH}", json.dumps(question(x)).encode(), head)
            with urllib.request.urlopen(ask) as said:
                assert json.loads(said.read()) == answer(x)
            end = time.monotonic() + 10.0  # nginx writes its line once the answer has gone
            while PATH not in (tmp_path / "access.log").read_text() and time.monotonic() < end:
                time.sleep(0.01)
    policy = policy_of(MODEL, url, tmp_path, QUOTA)
    found = read_foreign(tmp_path / "access.log", policy, form_of("nginx", {}))
    (held,) = found.lines
    assert held.client == "alice"
    np.testing.assert_array_equal(held.x, x)
    assert held.clean is not None
    np.testing.assert_array_equal(held.clean.scores, MODEL.scores(x))
