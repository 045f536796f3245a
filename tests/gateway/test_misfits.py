"""A policy that does not fit the model server: the operator is told why, the client only that there is no answer."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.asgi import Here
from tests.gateway.harness import Softmax

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer, Feature, Interface
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import ModelSpec
from portcullis_ml.gateway.trouble import OTHER_S, SAME_S, Trouble
from portcullis_ml.gateway.upstream import HttpUpstream

MODEL = Softmax()
ASKED = ModelSpec(name="m", interface=Interface(input_shape=(4,), n_classes=3, bounds=(-3, 3)), label=None)
X = np.array([[0.1, 0.2, 0.3, 0.4]])
QUOTA = '[[guard]]\nunit = "quota"\nrows = 3\nper = 60\n'
Reply = Callable[[str, dict[str, Any]], tuple[int, Any]]  # (path, body) -> (status, body)


@contextmanager
def serving(reply: Reply) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            status, tree = reply(self.path, json.loads(self.rfile.read(int(self.headers["content-length"]))))
            body = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def picky(path: str, tree: dict[str, Any]) -> tuple[int, Any]:
    """A model server that knows its names, and takes no row that begins with 9."""
    if path != "/v2/models/m/infer":
        return 404, {"error": "Model not found"}
    (tensor,) = tree["inputs"]
    if tensor["name"] != "input":
        return 400, {"error": f"unexpected inference input '{tensor['name']}'\n\tfor model 'm'"}
    x = np.array(tensor["data"], float).reshape(tensor["shape"])
    if (x[:, 0] == 9).any():
        return 422, {"error": "9 is no category"}
    scores = MODEL.scores(x)
    tensors = [{"name": "probabilities", "shape": scores.shape, "datatype": "FP64", "data": scores.ravel().tolist()}]
    return 200, {"outputs": tensors}


def asked_of(url: str, asked: ModelSpec = ASKED, protocol: str = "v2", **settings: Any) -> HttpUpstream:
    return HttpUpstream(url, CATALOG.load(protocol)(), asked, **settings)


MISFITS = {
    "another model": (
        dict(model="other"),
        r"404 to POST /v2/models/other/infer .*no such model or route.*model and version",
    ),
    "another version": (dict(version="2"), r"404 to POST /v2/models/m/versions/2/infer .*no such model"),
    "another protocol": (dict(protocol="v1"), r"404 to POST /v1/models/m:predict .*see upstream.url, protocol"),
    "another input": (dict(input="x"), r"400 .*unexpected inference input 'x'.*see \[model\] and upstream.input"),
    "another output": (dict(scores="p"), r"must answer a tensor named 'p'; it sent \['probabilities'\]"),
    "another address": (dict(url="http://127.0.0.1:9"), r"at 127.0.0.1:9 cannot be reached: .*127.0.0.1"),
    "answers labels": (dict(answers="labels"), r"must answer a tensor named 'label'; it sent \['probabilities'\]"),
}


@pytest.mark.parametrize("case", MISFITS)
async def test_a_policy_that_does_not_fit_is_told_to_the_operator_and_charges_nobody(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong, sentence = MISFITS[case]
    with serving(picky) as url:
        table = "".join(f'{key} = "{value}"\n' for key, value in {"url": url, **wrong}.items())
        here = Here(tmp_path, QUOTA, f"[upstream]\n{table}")
        up = here.policy.upstream
        assert up is not None
        here.gate.upstream = asked_of(up.url, here.policy.asked, up.protocol)
        with caplog.at_level(logging.ERROR, "portcullis.gate"):
            for _ in range(5):  # more rows than the quota has
                status, _, tree = await here.infer(X)
                assert (status, tree) == (502, {"error": "The model cannot be asked just now."})
        (record,) = caplog.records
        assert "\n" not in record.getMessage()
        assert re.search(sentence, record.getMessage()), record.getMessage()
        assert here.gate.trouble == record.getMessage()
        await here.gate.upstream.close()
    assert here.gate.metrics.requests["failed"] == 5


async def test_an_input_that_the_model_does_not_take_is_the_clients_fault_from_the_first_request_on() -> None:
    with serving(picky) as url:
        upstream = asked_of(url)
        for x in (np.full((1, 4), 9.0), X, np.full((1, 4), 9.0)):
            if x is X:
                assert len(await upstream.ask(x, {})) == 1
            else:
                with pytest.raises(BadRequest, match="does not take this input"):
                    await upstream.ask(x, {})
        await upstream.close()


async def test_a_model_server_that_forgets_its_model_is_no_fault_of_the_clients() -> None:
    refuses = False

    def reply(path: str, tree: dict[str, Any]) -> tuple[int, Any]:
        return (400, {"error": "unexpected input"}) if refuses else picky(path, tree)

    with serving(reply) as url:
        upstream = asked_of(url)
        assert len(await upstream.ask(X, {})) == 1
        refuses = True
        with pytest.raises(Unreachable, match=r"answered 400 .*unexpected input") as error:
            await upstream.ask(X, {})
        assert error.value.status == 502
        await upstream.close()


@pytest.mark.parametrize(
    ("status", "told", "sentence"),
    [(401, 502, "upstream.token_file"), (403, 502, "upstream.token_file"), (405, 502, "see upstream.url and protocol"),
     (500, 502, r"answered 500 to POST /v2/models/m/infer \(oh a trace\)\.$"), (429, 503, "is busy: it answered 429"),
     (503, 503, "is busy")],
)  # fmt: skip
async def test_other_answers_are_told_too(status: int, told: int, sentence: str) -> None:
    with serving(lambda path, tree: (status, b"oh\x00 a\n  trace")) as url:
        upstream = asked_of(url)
        with pytest.raises(Unreachable, match=sentence) as error:
            await upstream.ask(X, {})
        assert error.value.status == told
        await upstream.close()


async def test_a_row_that_is_nothing_special_is_within_the_models_features() -> None:
    rows: list[Any] = []

    def reply(path: str, tree: dict[str, Any]) -> tuple[int, Any]:
        rows.append(tree["instances"])
        return 400, {}

    features = (Feature("age", 20, 60), Feature("sex", values=("f", "m")))
    table = ModelSpec(name="m", interface=Interface(input_shape=(2,), n_classes=3, features=features))
    with serving(reply) as url:
        upstream = asked_of(url, table, "v1")
        with pytest.raises(Unreachable):
            await upstream.ask(np.array([[33.0, 1.0]]), {})
        await upstream.close()
    assert rows == [[[33.0, 1.0]], [[40.0, 0.0]]]


def test_the_log_hears_of_the_same_trouble_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    trouble = Trouble(lambda: now)
    with caplog.at_level(logging.ERROR, "portcullis.gate"):
        for sentence in ("a", "a", "b", "a"):
            trouble.say(sentence)
        assert [r.getMessage() for r in caplog.records] == ["a"]
        now += OTHER_S
        trouble.say("b")
        now += SAME_S - 1
        trouble.say("b")
        trouble.over()
        assert trouble.now == ""
        now += 1
        trouble.say("b")
    assert [(r.getMessage(), r.requests) for r in caplog.records] == [("a", 1), ("b", 4), ("b", 2)]  # type: ignore[attr-defined]


async def test_the_trouble_is_over_with_the_first_answer(tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.upstream.fails = Unreachable("The model server is gone.", status=502)
    await here.infer(X)
    assert here.gate.trouble == "The model server is gone."
    here.upstream.fails = None
    await here.infer(X)
    assert here.gate.trouble == ""


# Readiness.


async def is_ready(url: str, asked: ModelSpec = ASKED, protocol: str = "v2") -> bool:
    upstream = asked_of(url, asked, protocol)
    try:
        return await upstream.ready()
    finally:
        await upstream.close()


async def test_a_gate_is_ready_once_the_model_answers_as_the_policy_says(caplog: pytest.LogCaptureFixture) -> None:
    wrong = [(replace(ASKED, name="other"), "v2"), (replace(ASKED, scores="p"), "v2"), (ASKED, "v1")]
    with serving(picky) as url:
        assert await is_ready(url)
        for asked, protocol in wrong:
            assert not await is_ready(url, asked, protocol)
    assert len(caplog.records) == len(wrong)  # before any client has asked
    words = replace(ASKED, scores=None, label="label")
    with serving(lambda path, tree: (200, {"predictions": ["cat"]})) as url:
        assert not await is_ready(url, words, "invocations")
        assert await is_ready(url, replace(words, class_names=("cat", "dog", "cow")), "invocations")


async def test_a_model_that_refuses_a_row_that_it_never_took_may_be_right() -> None:
    for status in (400, 422, 500, 503):
        with serving(lambda path, tree, status=status: (status, {})) as url:  # type: ignore[misc]
            assert await is_ready(url)


async def test_readiness_comes_and_goes_with_the_answers_to_a_row_that_was_answered() -> None:
    status = 200

    def reply(path: str, tree: dict[str, Any]) -> tuple[int, Any]:
        return picky(path, tree) if status == 200 else (status, {})

    with serving(reply) as url:
        upstream = asked_of(url)
        assert len(await upstream.ask(X, {})) == 1
        assert await upstream.ready()
        for wrong in (400, 404, 500):
            status = wrong
            with pytest.raises(Unreachable):
                await upstream.ask(X, {})
            assert not await upstream.ready()
        status = 200
        assert await upstream.ready()
        with pytest.raises(BadRequest):  # what a client sends does not make the gate unready
            await upstream.ask(np.full((1, 4), 9.0), {})
        assert await upstream.ready()
        await upstream.close()


# A model server's client that needs a task.


async def test_a_client_that_needs_a_task_is_given_one(tmp_path: Path) -> None:
    here = Here(tmp_path)
    plain = here.upstream.ask

    async def ask(x: Any, headers: Any) -> Answer:
        async with asyncio.timeout(5):
            assert asyncio.current_task() is not None
            await asyncio.sleep(0)
            return await plain(x, headers)

    here.upstream.ask = ask  # type: ignore[method-assign]
    assert (await here.infer(X))[0] == 200


async def test_an_upstream_that_cannot_even_be_called_ends_the_request(tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.upstream.ask = lambda x: None  # type: ignore[method-assign, assignment, misc]
    async with asyncio.timeout(10):
        assert (await here.infer(X))[0] == 500
    assert here.gate.in_flight == 0
