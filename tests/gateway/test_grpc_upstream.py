"""A model server that speaks gRPC, behind the gate: what it is asked, and what its failures are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from tests.gateway.asgi import call, question
from tests.gateway.harness import KEYS, Softmax, policy_of, stored

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.gateway.gate import Gate
from portcullis_ml.gateway.grpc.status import status_of
from portcullis_ml.gateway.protocols.grpc_messages import CLASSES, message
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.state.streams import Streams
from portcullis_ml.gateway.upstream import HttpUpstream, open_upstream

MODEL = Softmax()
X = np.array([[0.1, 0.2, 0.3, 0.4]])


class Stub(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A model server of which a test says what each method answers."""

    def __init__(self, **methods: Any) -> None:
        self.methods = {"ModelInfer": _scored, "ModelReady": b"\x08\x01", **methods}
        self.asked: list[Any] = []
        self.metadata: list[dict[str, Any]] = []

    def service(self, details: Any) -> Any:
        found = self.methods.get(details.method.rpartition("/")[2])

        async def answer(body: bytes, context: Any) -> bytes:
            self.metadata.append(dict(context.invocation_metadata()))
            if callable(found):
                self.asked.append(CLASSES["ModelInferRequest"].FromString(body))
                return await found(self.asked[-1], context)
            return found

        return None if found is None else grpc.unary_unary_rpc_method_handler(answer)


async def _scored(asked: Any, context: Any) -> bytes:
    x = np.frombuffer(asked.raw_input_contents[0]).reshape(list(asked.inputs[0].shape))
    scores = MODEL.scores(x)
    tensor = message("Tensor", name="probabilities", datatype="FP64", shape=scores.shape)
    tensor.contents.fp64_contents.extend(scores.ravel().tolist())
    return message("ModelInferResponse", model_name="m", outputs=[tensor]).SerializeToString()


def failing(code: grpc.StatusCode, said: str = "no") -> Callable[[Any, Any], Any]:
    async def fail(asked: Any, context: Any) -> bytes:
        await context.abort(code, said)

    return fail


@asynccontextmanager
async def upstream(folder: Path, stub: Stub, more: str = "", **settings: Any) -> AsyncIterator[HttpUpstream]:
    server = grpc.aio.server(handlers=(stub,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    about = f'[upstream]\nurl = "grpc://127.0.0.1:{port}"\nprotocol = "grpc"\n{more}'
    policy = policy_of(MODEL, "", folder, more=about)
    found = open_upstream(policy)
    try:
        yield found
    finally:
        await found.close()
        await server.stop(0.0)


async def test_the_model_is_asked_with_raw_numbers_and_its_answer_is_read(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    stub = Stub()
    async with upstream(tmp_path, stub, f'token_file = "{tmp_path}/token"\n') as model:
        answer = await model.ask(X, {"x-request-id": "abc"})
        assert await model.ready()
        assert (await model.try_out()).scores is not None
    np.testing.assert_array_equal(answer.scores, MODEL.scores(X))
    asked = stub.asked[0]
    assert (asked.model_name, asked.model_version, asked.inputs[0].name) == ("m", "", "input")
    assert (stub.metadata[0]["x-request-id"], stub.metadata[0]["authorization"]) == ("abc", "Bearer secret")


FAILURES = {
    "UNAVAILABLE": (503, "is busy: it answered 503"),
    "RESOURCE_EXHAUSTED": (503, "is busy: it answered 429"),
    "DEADLINE_EXCEEDED": (504, "did not answer within"),
    "UNAUTHENTICATED": (502, "see upstream.token_file"),
    "NOT_FOUND": (502, "There is no such model or route"),
    "UNIMPLEMENTED": (502, "It does not speak this protocol there"),
    "INTERNAL": (502, "answered 500 to POST /inference.GRPCInferenceService/ModelInfer/models/m (INTERNAL: no)"),
    "INVALID_ARGUMENT": (502, "It refuses a question that it should take, too"),
}


@pytest.mark.parametrize("code", FAILURES)
async def test_each_failure_has_its_status_and_sentence(code: str, tmp_path: Path) -> None:
    status, words = FAILURES[code]
    async with upstream(tmp_path, Stub(ModelInfer=failing(grpc.StatusCode[code]))) as model:
        with pytest.raises(Unreachable) as error:
            await model.ask(X, {})
    assert error.value.status == status
    assert words in str(error.value)


async def test_a_row_that_the_model_refuses_is_the_clients_mistake(tmp_path: Path) -> None:
    async def picky(asked: Any, context: Any) -> bytes:
        if np.frombuffer(asked.raw_input_contents[0])[0] == 9:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not this one")
        return await _scored(asked, context)

    async with upstream(tmp_path, Stub(ModelInfer=picky)) as model:
        with pytest.raises(BadRequest, match="does not take this input"):
            await model.ask(np.array([[9.0, 0, 0, 0]]), {})


async def test_a_server_that_is_not_there_is_502_and_comes_back(tmp_path: Path) -> None:
    async with upstream(tmp_path, Stub()) as model:
        address = model._client._address
    model = open_upstream(
        policy_of(MODEL, "", tmp_path, more=f'[upstream]\nurl = "grpc://{address}"\nprotocol = "grpc"\n')
    )
    with pytest.raises(Unreachable, match="cannot be reached") as error:
        await model.ask(X, {})
    assert error.value.status == 502
    assert not await model.ready()
    server = grpc.aio.server(handlers=(Stub(),))
    server.add_insecure_port(address)
    await server.start()
    for _ in range(100):
        if await model.ready():
            break
        await asyncio.sleep(0.05)
    np.testing.assert_array_equal((await model.ask(X, {})).scores, MODEL.scores(X))
    await model.close()
    await server.stop(0.0)


async def test_one_that_does_not_answer_is_504(tmp_path: Path) -> None:
    async def slow(asked: Any, context: Any) -> bytes:
        await asyncio.sleep(5)
        return b""

    async with upstream(tmp_path, Stub(ModelInfer=slow), "timeout_s = 0.2\n") as model:
        with pytest.raises(Unreachable, match=r"did not answer within 0\.2 s") as error:
            await model.ask(X, {})
    assert error.value.status == 504


def tensor(name: str = "probabilities", shape: tuple[int, ...] = (1, 3), kind: str = "FP64", **contents: Any) -> Any:
    return message("Tensor", name=name, datatype=kind, shape=shape, contents=message("Contents", **contents))


BAD = {
    "nothing": ([], (), "must answer a tensor named 'probabilities'"),
    "NaN": ([tensor(fp64_contents=[np.nan] * 3)], (), "not finite or not complete"),
    "too few": ([tensor(fp64_contents=[1.0])], (), "must be as many as its shape says"),
    "raw too short": ([tensor()], (b"12345678",), "must have as many bytes"),
    "both": ([tensor(fp64_contents=[1.0, 0, 0])], (bytes(24),), "not both"),
    "raw for one of two": ([tensor(), tensor("more")], (bytes(24),), "must be as many as the tensors"),
    "another shape": ([tensor(shape=(3, 1), fp64_contents=[1.0, 0, 0])], (), "must answer scores of shape 1 x 3"),
    "words": ([tensor(kind="BYTES", bytes_contents=[b"a", b"b", b"c"])], (), "must hold numbers; it holds words"),
    "not its field": ([tensor(fp32_contents=[1.0, 0, 0])], (), "must stand in its fp64_contents, or raw"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
async def test_an_answer_that_is_none_is_not_believed(case: str, tmp_path: Path) -> None:
    outputs, raw, words = BAD[case]
    body = message("ModelInferResponse", outputs=outputs, raw_output_contents=raw).SerializeToString()

    async def said(asked: Any, context: Any) -> bytes:
        return body

    async with upstream(tmp_path, Stub(ModelInfer=said)) as model:
        with pytest.raises(Unreachable, match=words):
            await model.ask(X, {})


async def test_bytes_that_are_no_message_are_not_believed(tmp_path: Path) -> None:
    async def said(asked: Any, context: Any) -> bytes:
        return b"\xff\xff"

    async with upstream(tmp_path, Stub(ModelInfer=said)) as model:
        with pytest.raises(Unreachable, match="must be a message"):
            await model.ask(X, {})


async def test_what_the_model_says_of_itself_is_held_against_the_policy(tmp_path: Path) -> None:
    inputs = [message("About", name="pixels", datatype="FP32", shape=[-1, 4])]
    outputs = [message("About", name="probabilities", datatype="FP64", shape=[-1, 5])]
    about = message("ModelMetadataResponse", name="m", inputs=inputs, outputs=outputs).SerializeToString()
    async with upstream(tmp_path, Stub(ModelMetadata=about)) as model:
        said = " ".join(await model.differences())
    assert "The model takes 'pixels'; the policy asks with 'input': see upstream.input." in said
    assert "has shape [-1, 5]; the policy says 3 scores a row" in said
    async with upstream(tmp_path, Stub(ModelReady=b"")) as model:
        assert await model.differences() == []
        assert not await model.ready()


async def test_a_client_over_http_is_answered_by_a_model_that_speaks_grpc(tmp_path: Path) -> None:
    stub = Stub()
    async with upstream(tmp_path, stub) as model:
        policy = policy_of(MODEL, "http://127.0.0.1:1", tmp_path)
        gate = Gate(policy, Streams(policy.guard(), stored(policy.state.url), capacity=10), model)
        headers = {"x-api-key": KEYS["alice"], "content-type": "application/json"}
        status, _, body = await call(gate, "POST", "/v2/models/m/infer", question(X), headers)
    assert status == 200
    assert b"probabilities" in body
    np.testing.assert_array_equal(np.frombuffer(stub.asked[0].raw_input_contents[0]), X[0])


def test_every_code_of_grpc_has_a_status() -> None:
    assert {status_of(code) for code in grpc.StatusCode} <= {400, 401, 403, 404, 405, 413, 429, 500, 503, 504}
