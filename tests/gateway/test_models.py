"""Several models behind one gate, over HTTP: whose answer, whose quota, whose state, and what an operator sees."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.gateway.harness import KEYS, Softmax, fetch, gate, interface_of, policy_text, running
from tests.gateway.test_server import process
from tests.gateway.test_telemetry import Collector
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.gateway import server as server_module
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.policy.keys import KeyFile
from portcullis_ml.gateway.policy.policy import PolicyError, read_policy
from portcullis_ml.gateway.policy.warn import warnings
from portcullis_ml.gateway.protocols.wire import ModelSpec
from portcullis_ml.gateway.querylog import read_log
from portcullis_ml.gateway.replay import replay

PAGE = Path(__file__).parents[2] / "docs" / "gateway" / "in-front-of" / "several-models.md"
FIRST, CREDIT, SECOND = Softmax(4, 3), Softmax(2, 2, seed=2), Softmax(4, 3, seed=3)
X, ROW = [[0.1, 0.2, 0.3, 0.4]], [[0.5, -0.5]]
V2 = "/v2/models/{}/infer"


def quota(rows: int) -> str:
    return f'[[guard]]\nunit = "quota"\nrows = {rows}\n'


def further(folder: Path, stem: str, model: Any, upstream: str, name: str, more: str = "", stages: str = "") -> str:
    """Writes the policy of a further model; its file's name."""
    (folder / f"{stem}.key").write_text((stem.encode() + b"0123456789abcdef" * 2).hex())
    shape = ", ".join(map(str, model.input_shape))
    (folder / f"{stem}.toml").write_text(
        f'key_file = "{stem}.key"\n[upstream]\nurl = "{upstream}"\n[state]\nurl = "sqlite:///{folder}/{stem}.db"\n'
        f"{stages}[model]\ninput_shape = [{shape}]\nclasses = {model.n_classes}\n"
        f"bounds = [-3.0, 3.0]\n{name}\n{more}"
    )
    return f"{stem}.toml"


def main_policy(folder: Path, upstream: str, *files: str, stages: str = "", more: str = "") -> Path:
    """Writes the main policy, of the model m."""
    path = folder / "portcullis.toml"
    path.write_text(policy_text(FIRST, upstream, folder, stages, more, f"models = {json.dumps(files)}"))
    return path


def spec(model: Softmax, name: str, version: str = "") -> ModelSpec:
    return ModelSpec(name=name, version=version, interface=interface_of(model))


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[str, str, str]]:
    with ExitStack() as stack:
        served = ((FIRST, spec(FIRST, "m")), (CREDIT, spec(CREDIT, "org/credit")), (SECOND, spec(SECOND, "m", "2")))
        yield tuple(stack.enter_context(running(ModelServer(*one))) for one in served)  # type: ignore[misc]


@pytest.fixture
def policy(tmp_path: Path, upstreams: tuple[str, str, str]) -> Path:
    """m, org/credit, and version 2 of m."""
    log = f'[log]\npath = "{tmp_path}/credit-log"\nqueries = true\n'
    files = (
        further(
            tmp_path, "credit", CREDIT, upstreams[1], 'name = "org/credit"\nprotocols = ["v1", "v2"]', log, quota(3)
        ),
        further(tmp_path, "m2", SECOND, upstreams[2], 'name = "m"\nversion = "2"'),
    )
    return main_policy(tmp_path, upstreams[0], *files, stages=quota(2))


@contextmanager
def serving(path: Path) -> Iterator[Any]:
    with gate(read_policy(path), reread=lambda: read_policy(path)) as server:
        yield server


def ask(url: str, path: str, x: Any, client: str = "alice") -> tuple[int, Any]:
    """(status, the scores or the error)."""
    rows = {"name": "input", "shape": np.shape(x), "datatype": "FP64", "data": np.ravel(x).tolist()}
    tree = {"instances": x} if ":predict" in path else {"inputs": [rows]}
    headers = {"x-api-key": KEYS[client], "content-type": "application/json"}
    request = urllib.request.Request(url + path, json.dumps(tree).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            tree = json.load(answer)
            return answer.status, tree["predictions"] if "predictions" in tree else tree["outputs"][-1]["data"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error).get("error")


def get(url: str) -> tuple[int, Any]:
    status, text = fetch(url)
    return status, json.loads(text)


def test_each_model_gives_its_own_answers_under_its_own_quota(policy: Path) -> None:
    with serving(policy) as server:
        for _ in range(2):
            status, found = ask(server.url, V2.format("m"), X)
            assert status == 200
            np.testing.assert_allclose(found, FIRST.scores(np.array(X))[0])
        assert ask(server.url, V2.format("m"), X)[0] == 429  # used up, and only there
        status, found = ask(server.url, V2.format("org/credit"), ROW)
        assert status == 200
        np.testing.assert_allclose(found, CREDIT.scores(np.array(ROW))[0])
        status, found = ask(server.url, "/v1/models/org/credit:predict", ROW)
        assert status == 200
        np.testing.assert_allclose(found, CREDIT.scores(np.array(ROW)))
        assert [ask(server.url, V2.format("org/credit"), ROW)[0] for _ in range(2)] == [200, 429]
        assert ask(server.url, V2.format("org/credit"), X)[0] == 400  # the other's shape
        assert ask(server.url, V2.format("org/credit"), ROW, "bob")[0] == 200


def test_the_versions_of_a_model(policy: Path) -> None:
    with serving(policy) as server:
        _, found = ask(server.url, V2.format("m/versions/2"), X)
        np.testing.assert_allclose(found, SECOND.scores(np.array(X))[0])
        _, found = ask(server.url, V2.format("m"), X)
        np.testing.assert_allclose(found, FIRST.scores(np.array(X))[0])
        assert ask(server.url, V2.format("m/versions/1"), X)[0] == 404
        assert get(f"{server.url}/v2/models/m")[1]["versions"] == ["2"]  # the first has none
        assert get(f"{server.url}/v2/models/m/versions/2")[1]["versions"] == ["2"]


def test_a_name_with_a_slash_is_read_in_one_way(policy: Path) -> None:
    with serving(policy) as server:
        assert get(f"{server.url}/v2/models/org/credit")[1]["inputs"][0]["shape"] == [-1, 2]
        assert get(f"{server.url}/v2/models/org/credit/ready") == (200, {"name": "org/credit", "ready": True})
        assert get(f"{server.url}/v1/models/org/credit")[1]["name"] == "org/credit"
        assert get(f"{server.url}/v1/models")[1] == {"models": ["org/credit"]}  # the only one that is asked in v1
        for path in ("org%2Fcredit", "org", "credit", "org/credit/", "org//credit", "org/credit/x", "m/credit"):
            assert ask(server.url, V2.format(path), ROW)[0] == 404, path
        assert ask(server.url, "/v1/models/m:predict", X)[0] == 404  # m is asked in v2 alone
        status, tree = get(f"{server.url}/v1/models/org/credit:predict")
        assert (status, tree) == (405, {"error": "Ask here by POST or OPTIONS."})


def test_health_is_that_of_all_or_of_the_model_that_is_named(tmp_path: Path, upstreams: tuple[str, str, str]) -> None:
    file = further(tmp_path, "credit", CREDIT, "http://127.0.0.1:9", 'name = "org/credit"')
    with serving(main_policy(tmp_path, upstreams[0], file)) as server:
        assert get(f"{server.url}/v2/health/live")[0] == 200
        assert get(f"{server.url}/v2/health/ready")[0] == 503
        assert get(f"{server.url}/v2/models/m/ready")[0] == 200
        assert get(f"{server.url}/v2/models/org/credit/ready")[0] == 503
        status, tree = get(f"{server.admin_url}/readyz")
        assert (status, tree["ready"]) == (503, False)
        assert {name: told["ready"] for name, told in tree["models"].items()} == {"m": True, "org/credit": False}
        assert ask(server.url, V2.format("org/credit"), ROW)[0] == 502
        assert ask(server.url, V2.format("m"), X)[0] == 200


def test_requests_in_a_minute_are_counted_over_all_models(tmp_path: Path, upstreams: tuple[str, str, str]) -> None:
    file = further(tmp_path, "credit", CREDIT, upstreams[1], 'name = "org/credit"')
    limits = "[limits]\nrequests_per_minute = 24\n"  # ten seconds' worth at once: four
    with serving(main_policy(tmp_path, upstreams[0], file, more=limits)) as server:
        found = [
            ask(server.url, *(question))[0] for question in [(V2.format("m"), X), (V2.format("org/credit"), ROW)] * 3
        ]
        assert found == [200] * 4 + [429] * 2
        assert ask(server.url, V2.format("m"), X, "bob")[0] == 200


def test_a_kill_loses_neither_models_state(policy: Path) -> None:
    with process(policy) as (server, url):
        assert [ask(url, V2.format("m"), X)[0] for _ in range(2)] == [200] * 2
        assert [ask(url, V2.format("org/credit"), ROW)[0] for _ in range(2)] == [200] * 2
        os.kill(server.pid, signal.SIGKILL)
        server.wait(20)
    with process(policy) as (server, url):
        assert ask(url, V2.format("m"), X)[0] == 429
        assert [ask(url, V2.format("org/credit"), ROW)[0] for _ in range(2)] == [200, 429]
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0


def reloaded(server: Any, caplog: pytest.LogCaptureFixture) -> str:
    """What the gate says when it has read its files again."""
    caplog.clear()
    server.loop.call_soon_threadsafe(server.reload)
    for _ in range(500):
        for record in caplog.records:
            if "exchanged" in record.getMessage():
                return record.getMessage()
        threading.Event().wait(0.02)
    raise AssertionError("nothing was said")


def test_a_mistake_in_one_file_changes_nothing_in_any(policy: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "portcullis.gate")
    credit = policy.parent / "credit.toml"
    good = credit.read_text()
    with serving(policy) as server:
        assert len(ask(server.url, V2.format("m"), X)[1]) == 3  # scores
        policy.write_text(policy.read_text() + '[answers]\nreveals = "labels"\n')
        credit.write_text(good.replace("rows = 3", "rowz = 3"))
        assert "credit.toml, line 6" in reloaded(server, caplog)
        assert len(ask(server.url, V2.format("m"), X)[1]) == 3
        credit.write_text(good.replace("rows = 3", "rows = 1") + '[answers]\nreveals = "labels"\n')
        assert reloaded(server, caplog) == "the policy was exchanged"
        assert ask(server.url, V2.format("m"), X, "bob")[1] == [int(FIRST.scores(np.array(X)).argmax())]
        assert [ask(server.url, V2.format("org/credit"), ROW)[0] for _ in range(2)] == [200, 429]
        policy.write_text(policy.read_text().replace(', "m2.toml"', ""))
        assert "The list of models is read at the start only" in reloaded(server, caplog)
        assert ask(server.url, V2.format("m/versions/2"), X)[0] == 200


def test_keys_count_for_all_models_at_once(
    tmp_path: Path, upstreams: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "RENEW_S", 0.02)
    file = further(tmp_path, "credit", CREDIT, upstreams[1], 'name = "org/credit"')
    path = main_policy(tmp_path, upstreams[0], file, more='[clients]\nkeys_file = "keys.json"\n')
    with serving(path) as server:
        made = json.loads(fetch(server.admin_url + "/keys", server.admin.state.token, deed="make", client="carol")[1])
        monkeypatch.setitem(KEYS, "carol", made["key"])
        questions = (V2.format("m"), X), (V2.format("org/credit"), ROW)
        assert [ask(server.url, *q, "carol")[0] for q in questions] == [200, 200]
        KeyFile(tmp_path / "keys.json").revoke("carol")
        for _ in range(500):
            if (found := [ask(server.url, *q, "carol")[0] for q in questions]) == [401, 401]:
                break
            threading.Event().wait(0.02)
        assert found == [401, 401]


def test_metrics_bear_the_models_name(policy: Path) -> None:
    with serving(policy) as server:
        ask(server.url, V2.format("m"), X)
        for _ in range(4):
            ask(server.url, V2.format("org/credit"), ROW)
        text = fetch(server.admin_url + "/metrics", server.admin.state.token)[1]
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))  # each metric is said once, with all its models
    families = {f.name: f for f in text_string_to_metric_families(text)}
    models = {"m", "org/credit", "m/versions/2"}
    assert all({s.labels["model"] for s in f.samples} == models for f in families.values())
    counted = {(s.labels["model"], s.labels["decision"]): s.value for s in families["portcullis_requests"].samples}
    assert (counted["m", "answered"], counted["org/credit", "answered"], counted["org/credit", "refused"]) == (1, 3, 1)
    assert counted["m/versions/2", "answered"] == 0
    times = families["portcullis_added_seconds"].samples
    counts = [s.value for s in times if s.labels["model"] == "org/credit" and s.labels.get("le") == "+Inf"]
    assert counts == [3]


def test_metrics_of_one_model_have_no_such_label(tmp_path: Path, upstreams: tuple[str, str, str]) -> None:
    with serving(main_policy(tmp_path, upstreams[0])) as server:
        text = fetch(server.admin_url + "/metrics", server.admin.state.token)[1]
    samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
    assert samples
    assert not any("model" in s.labels for s in samples)


def test_a_collector_is_told_of_which_model(policy: Path) -> None:
    collector = Collector()
    with running(collector) as url:
        table = f'[telemetry]\nendpoint = "{url}"\nspans = 1.0\n'
        policy.write_text(policy.read_text() + table)
        with serving(policy) as server:
            ask(server.url, V2.format("org/credit"), ROW)
    rows = {p.attributes[0].value.string_value: p.as_int for p in collector.metrics["portcullis.rows"]}
    assert rows.items() <= {"m": 0, "org/credit": 1, "m/versions/2": 0}.items()
    of = {a.key: a.value.string_value for span in collector.spans for a in span.attributes}
    assert of["portcullis.model"] == "org/credit"


def test_operators_see_and_block_a_client_of_one_model(policy: Path) -> None:
    with serving(policy) as server:
        url, token = server.admin_url, server.admin.state.token
        ask(server.url, V2.format("m"), X)
        ask(server.url, V2.format("org/credit"), ROW, "bob")
        front = fetch(url + "/", token)[1]
        assert re.findall(r'href="/\?model=([^"]*)"', front) == ["m", "org%2Fcredit", "m%2Fversions%2F2"]
        page = fetch(url + "/?model=org/credit", token)[1]
        assert 'href="/client?name=bob&amp;model=org%2Fcredit"' in page
        assert "alice" not in page
        assert 'data-source="/live?model=org%2Fcredit"' in page
        client = fetch(url + "/client?name=bob&model=org/credit", token)[1]
        assert '<input type="hidden" name="model" value="org/credit">' in client
        assert fetch(url + "/client?name=bob&model=m", token)[0] == 404
        told = {name: json.loads(fetch(f"{url}/clients?model={name}", token)[1]) for name in ("m", "org/credit")}
        assert {name: [c["client"] for c in t["clients"]] for name, t in told.items()} == {
            "m": ["alice"], "org/credit": ["bob"]}  # fmt: skip
        for path in ("/clients", "/clients?model=x", "/client?name=bob", "/?model=x", "/live?model=x"):
            status, text = fetch(url + path, token)
            assert (status, "Say which model: model must be one of m, org/credit, m/versions/2" in text) == (404, True)
        assert fetch(url + "/act", token, deed="block", name="bob")[0] == 404
        assert fetch(url + "/act", token, deed="block", name="bob", model="org/credit")[0] == 200
        assert ask(server.url, V2.format("org/credit"), ROW, "bob")[0] == 403
        assert ask(server.url, V2.format("m"), X, "bob")[0] == 200
        paths = json.loads(fetch(url + "/openapi.json", token)[1])
        assert {"/v2/models/m/infer", "/v2/models/org/credit/infer", "/v1/models/org/credit:predict",
                "/v2/models/m/versions/2/infer"} <= set(paths["paths"])  # fmt: skip
        assert paths["info"]["title"] == "The models 'm', 'org/credit', 'm/versions/2' behind Portcullis"


def test_a_models_log_is_replayed_with_its_own_file(policy: Path) -> None:
    with serving(policy) as server:
        for _ in range(5):
            ask(server.url, V2.format("org/credit"), ROW)
        ask(server.url, V2.format("m"), X)
    found = replay(read_log(policy.parent / "credit-log"), read_policy(policy.parent / "credit.toml"))
    assert (found.requests, found.different, found.logged_under) == (5, [], [])
    assert found.fates["alice"].refused == 2


def test_check_explains_every_model(policy: Path) -> None:
    told = CliRunner().invoke(app, ["check", str(policy)])
    assert told.exit_code == 0, told.output
    text = " ".join(told.output.split())
    assert "to all models together" in text
    assert "are versions of 'm' with a guard each" in text
    assert "credit.toml, a further model: The model 'org/credit' takes 2 numbers" in text
    assert "Clients speak v1, v2. Decisions" in text
    assert text.count("Operators look in") == text.count("No operator is named") == 1
    live = CliRunner().invoke(app, ["check", str(policy), "--live"])
    assert live.output.count("The model server answers one row with scores") == 3, live.output


def test_the_pages_policies_serve_three_models(tmp_path: Path) -> None:
    blocks = {name: text for name, text in re.findall(r"```toml\n# (\S+)\n(.*?)```", PAGE.read_text(), re.S)}
    assert list(blocks) == ["portcullis.toml", "credit.toml", "digits-v2.toml"]
    digits, credit, new = Softmax(64, 10), Softmax(5, 2, seed=4), Softmax(64, 10, seed=5)
    specs = (spec(digits, "digits"), spec(credit, "acme/credit"), spec(new, "digits"))
    with ExitStack() as stack:
        for model, served, port in zip((digits, credit, new), specs, (8080, 8081, 8082), strict=True):
            url = stack.enter_context(running(ModelServer(model, served)))
            blocks = {name: text.replace(f"http://127.0.0.1:{port}", url) for name, text in blocks.items()}
        for name, text in blocks.items():
            here = text.replace("sqlite:///", f"sqlite:///{tmp_path}/").replace('"log/', f'"{tmp_path}/log/')
            (tmp_path / name).write_text(here.replace("port = 8000", "port = 0"))
            (tmp_path / re.findall(r'key_file = "(\S+)"', text)[0]).write_text(os.urandom(32).hex())
        with (tmp_path / "portcullis.toml").open("a") as file:
            file.write("[admin]\nport = 0\n")
        key, _ = KeyFile(tmp_path / "keys.json").make("alice")
        server = stack.enter_context(serving(tmp_path / "portcullis.toml"))
        stack.enter_context(pytest.MonkeyPatch.context()).setitem(KEYS, "alice", key)
        x = np.zeros((1, 64)) + 0.1
        for path, model in ((V2.format("digits"), digits), (V2.format("digits/versions/2"), new)):
            status, found = ask(server.url, path, x.tolist())
            assert status == 200
            np.testing.assert_allclose(found, model.scores(x)[0])
        assert ask(server.url, "/v1/models/acme/credit:predict", [[0.0] * 5])[0] == 200
        assert ask(server.url, "/v1/models/digits:predict", x.tolist())[0] == 404
        assert get(f"{server.url}/v2/models/digits")[1]["versions"] == ["1", "2"]


def fails(path: Path) -> str:
    with pytest.raises(PolicyError) as error:
        read_policy(path)
    return str(error.value)


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ('name = "m"', "both serve the model 'm': give each another [model] name or version."),
        ('name = "n"\nprotocols = ["invocations"]', "both claim the route /invocations: give one of them another path"),
        ('name = "n"\nprotocols = ["mapping"]', "both claim the route /predict"),
        ('name = "n"\nprotocols = ["mapping"]\nmapping = { path = "/v2/models/m/infer" }',
         "both claim the route /v2/models/m/infer"),
    ],
)  # fmt: skip
def test_two_models_that_claim_the_same_are_refused(about: str, sentence: str, tmp_path: Path) -> None:
    file = further(tmp_path, "credit", CREDIT, "http://127.0.0.1:9", about)
    listen = '[listen]\nport = 0\nprotocols = ["v2", "invocations", "mapping"]\n'
    found = fails(main_policy(tmp_path, "http://127.0.0.1:9", file, more=listen))
    assert found.startswith(
        f"{tmp_path}/portcullis.toml, line 2: {tmp_path}/portcullis.toml and {tmp_path}/credit.toml"
    )
    assert sentence in found


@pytest.mark.parametrize(
    ("more", "theirs", "sentence"),
    [
        ("", 'url = "{}/x/../state.db"', "both keep their state in {}/state.db: give each its own [state] url."),
        (
            '[state]\nurl = "redis://a:1@h:6379"\n',
            'url = "redis://h:6379/0"',
            "both keep their state in redis://h:6379",
        ),
        ('[log]\npath = "{}/log"\n', 'url = "s.db"\n[log]\npath = "{}/./log"', "both log in {}/log: give each its own"),
    ],
)
def test_a_state_or_log_for_two_models_is_refused(more: str, theirs: str, sentence: str, tmp_path: Path) -> None:
    file = further(tmp_path, "credit", CREDIT, "http://127.0.0.1:9", 'name = "n"')
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text.replace(f'url = "sqlite:///{tmp_path}/credit.db"', theirs.format(tmp_path)))
    found = fails(main_policy(tmp_path, "http://127.0.0.1:9", file, more=more.format(tmp_path)))
    assert sentence.format(tmp_path) in found


def test_two_databases_of_one_redis_are_two_places(tmp_path: Path) -> None:
    file = further(tmp_path, "credit", CREDIT, "http://127.0.0.1:9", 'name = "n"')
    text = (tmp_path / file).read_text()
    for ours, theirs in (
        ("redis://h/0", "redis://h/1"),
        ("unix:///s?db=0", "unix:///s?db=1"),
        ("redis://h", "redis://g"),
    ):
        (tmp_path / file).write_text(text.replace(f"sqlite:///{tmp_path}/credit.db", theirs))
        path = main_policy(tmp_path, "http://127.0.0.1:9", file, more=f'[state]\nurl = "{ours}"\n')
        assert read_policy(path).models[0].state.url == theirs


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            "[listen]\nport = 1\n",
            "The main policy alone says where clients come in, for all models: listen cannot stand",
        ),
        ("[clients]\n", "The main policy alone says who they are"),
        ("[admin]\nport = 1\n", "The main policy alone says where operators look in"),
        ('[alarms]\nwebhook = "http://h"\n', "The main policy alone says where alarms are told"),
        ('[telemetry]\nendpoint = "http://h"\n', "The main policy alone says where metrics and spans are sent"),
        ("[limits]\nconnections = 5\n", "A further model's [limits] may say rows, body_bytes, in_flight, per_client"),
        ("[limits]\nrowz = 5\n", "'rowz'"),
    ],
)
def test_what_the_main_policy_says_is_refused_in_another_by_its_line(more: str, sentence: str, tmp_path: Path) -> None:
    file = further(tmp_path, "credit", CREDIT, "http://127.0.0.1:9", 'name = "n"', more)
    line = len((tmp_path / file).read_text().splitlines()) - ("[limits]" not in more and more.count("\n") > 1)
    found = fails(main_policy(tmp_path, "http://127.0.0.1:9", file))
    assert found.startswith(f"{tmp_path}/credit.toml, line {line}: ")
    assert sentence in found


def test_other_mistakes_are_one_sentence_each(tmp_path: Path) -> None:
    file = further(tmp_path, "credit", CREDIT, "http://127.0.0.1:9", 'name = "n"')
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text.replace("[state]\nurl", "[failure]\n[state]\nsynchronous = 'full' #"))
    path = main_policy(tmp_path, "http://127.0.0.1:9", file)
    assert 'must say where its own state is kept: [state] url = "sqlite:///portcullis-state-credit.db".' in fails(path)
    (tmp_path / file).write_text("models = []\n" + text)
    assert "The main policy alone lists the models" in fails(path)
    (tmp_path / file).unlink()
    assert fails(path) == f"{tmp_path}/credit.toml: The file cannot be read (No such file or directory)."
    assert "line 2: models must be a list of policy files" in fails(main_policy(tmp_path, "http://127.0.0.1:9", 5))  # type: ignore[arg-type]
    (tmp_path / file).write_text(text + 'protocols = ["v2"]\n[listen]\nprotocols = ["v1"]\n')
    assert "Say protocols in [listen] or in [model], not in both." in fails(tmp_path / file)


def test_one_secret_for_two_models_is_worth_a_note(tmp_path: Path) -> None:
    file = further(tmp_path, "credit", CREDIT, "http://127.0.0.1:9", 'name = "n"')
    path = main_policy(tmp_path, "http://127.0.0.1:9", file)
    assert not any("have one secret" in w for w in warnings(read_policy(path)))
    (tmp_path / "credit.key").write_text((tmp_path / "guard.key").read_text())
    assert any("have one secret" in w for w in warnings(read_policy(path)))
