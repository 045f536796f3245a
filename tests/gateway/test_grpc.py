"""The port of gRPC: what passes, what each error is, and that a call is judged as a request over HTTP is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tests.gateway.asgi import Here, down
from tests.gateway.calls import LISTEN, answers, asked, calling
from tests.gateway.harness import KEYS, Softmax, policy_of

from portcullis_ml.gateway.grpc.status import CODES, code_of
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.grpc_messages import CLASSES, message

X = np.array([[0.1, 0.2, 0.3, 0.4], [-0.5, 0.25, 1.0, 0.0]])


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("datatype", ["FP64", "FP32", "INT8", "UINT64", "BOOL", "FP16"])
async def test_rows_are_answered_in_the_form_they_came_in(datatype: str, raw: bool, tmp_path: Path) -> None:
    here = Here(tmp_path, "", LISTEN)
    x = np.array([[1, 0, 1, 1], [0, 0, 1, 0]])
    async with calling(here) as call:
        if datatype == "FP16" and not raw:  # the protocol has no place for it
            question = asked(x, datatype="FP32", raw=False)
            question.inputs[0].datatype = "FP16"
            code, said, _ = await call.infer(question)
            assert (code, said) == ("INVALID_ARGUMENT", "The values of 'input', which are FP16, must stand raw.")
            return
        code, body, end = await call.infer(asked(x, datatype=datatype, raw=raw, id="7"))
    assert code == "OK"
    assert set(end) == {"x-request-id"}
    came = CLASSES["ModelInferResponse"].FromString(body)
    assert (came.model_name, came.id, bool(came.raw_output_contents)) == ("m", "7", raw)
    np.testing.assert_array_equal(answers(body)["probabilities"], here.model.scores(x.astype(float)))
    np.testing.assert_array_equal(here.upstream.x[-1], x)


async def test_health_and_metadata_are_told_without_a_key(tmp_path: Path) -> None:
    here = Here(tmp_path, "", LISTEN)
    about = message("ModelMetadataRequest", name="m").SerializeToString()
    async with calling(here) as call:
        for method in ("ServerLive", "ServerReady"):
            assert (await call(method))[:2] == ("OK", message("ServerReadyResponse", ready=True).SerializeToString())
        assert (await call("ModelReady", about))[1] == b"\x08\x01"
        assert (await call("Check", service="grpc.health.v1.Health"))[1] == b"\x08\x01"
        server = CLASSES["ServerMetadataResponse"].FromString((await call("ServerMetadata"))[1])
        assert (server.name, list(server.extensions)) == ("portcullis", [])
        model = CLASSES["ModelMetadataResponse"].FromString((await call("ModelMetadata", about))[1])
        assert [(t.name, t.datatype, list(t.shape)) for t in (*model.inputs, *model.outputs)] == [
            ("input", "FP64", [-1, 4]), ("label", "INT64", [-1]), ("probabilities", "FP64", [-1, 3]),
        ]  # fmt: skip
        here.upstream.fails = down()
        here.gate.health._at = float("-inf")
        assert (await call("ServerReady"))[:2] == ("OK", b"")
        assert (await call("ModelReady", about))[:2] == ("OK", b"")
        assert (await call("Check", service="grpc.health.v1.Health"))[:2] == ("OK", b"\x08\x02")
        assert (await call("ServerLive"))[1] == b"\x08\x01"


@pytest.mark.parametrize(
    "method",
    ["ModelStreamInfer", "ModelConfig", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad",
     "RepositoryModelUnload", "SystemSharedMemoryRegister", "CudaSharedMemoryRegister", "TraceSetting", "LogSettings",
     "modelinfer", "ModelInfer/", ""],
)  # fmt: skip
async def test_every_other_method_goes_nowhere(method: str, tmp_path: Path) -> None:
    here = Here(tmp_path, "", LISTEN)
    async with calling(here) as call:
        assert (await call(method, asked(X).SerializeToString(), [("x-api-key", KEYS["alice"])]))[0] == "UNIMPLEMENTED"
        assert (await call("Watch", service="grpc.health.v1.Health"))[0] == "UNIMPLEMENTED"
        assert (await call("ServerReflectionInfo", service="grpc.reflection.v1.ServerReflection"))[0] == "UNIMPLEMENTED"
    assert here.upstream.x == []


WRONG = {
    "no key": (asked(X), {}, "UNAUTHENTICATED", "Say who you are: an API key or a token is needed."),
    "wrong key": (asked(X), {"x-api-key": "nobody's"}, "UNAUTHENTICATED", "The API key is not valid."),
    "another model": (asked(X, model_name="n"), None, "NOT_FOUND", "There is no such model here."),
    "another version": (asked(X, model_version="2"), None, "NOT_FOUND", "There is no such model here."),
    "no model": (asked(X, model_name=""), None, "NOT_FOUND", "There is no such model here."),
    "too many rows": (asked(np.zeros((9, 4))), None, "OUT_OF_RANGE", "The input must hold 1 to 8 rows; got 9."),
    "another shape": (asked(np.zeros((2, 5))), None, "INVALID_ARGUMENT", "The input must have shape (n, 4)"),
    "NaN": (asked([[0, 0, 0, np.nan]]), None, "INVALID_ARGUMENT", "The input must be finite; got NaN or infinity."),
    "no rows": (message("ModelInferRequest", model_name="m"), None, "INVALID_ARGUMENT", '"inputs" must be a list of'),
    "no message": (b"\xff", None, "INVALID_ARGUMENT", "The body must be a message of the Open Inference Protocol."),
    "an output that is not there": (
        asked(X, outputs=[message("Wanted", name="secret")]), None, "INVALID_ARGUMENT", "The model's outputs are",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
async def test_what_is_wrong_gets_a_code_and_one_sentence(case: str, tmp_path: Path) -> None:
    question, headers, code, sentence = WRONG[case]
    here = Here(tmp_path, "", LISTEN + "[limits]\nrows = 8\n")
    async with calling(here) as call:
        found = await call.infer(question, *([] if headers is None else [headers]))
    assert found[0] == code
    assert found[1].startswith(sentence)
    assert here.upstream.x == []


async def test_a_quota_says_when_to_come_again_and_how_many_rows_are_left(tmp_path: Path) -> None:
    here = Here(tmp_path, '[[guard]]\nunit = "quota"\nrows = 3\nper = 60.0\n', LISTEN)
    async with calling(here) as call:
        assert (await call.infer(asked(X)))[0] == "OK"
        code, said, end = await call.infer(asked(X))
    assert code == "RESOURCE_EXHAUSTED"
    assert said.startswith("The guard refused this client: ")
    assert end["x-ratelimit-remaining"] == "1"
    assert 1 <= int(end["retry-after"]) <= 60


@pytest.mark.parametrize(
    ("status", "code"), [(502, "UNAVAILABLE"), (503, "UNAVAILABLE"), (504, "DEADLINE_EXCEEDED")]
)  # fmt: skip
async def test_a_model_that_fails_costs_no_quota(status: int, code: str, tmp_path: Path) -> None:
    here = Here(tmp_path, '[[guard]]\nunit = "quota"\nrows = 2\nper = 60.0\n', LISTEN)
    async with calling(here) as call:
        here.upstream.fails = down()
        here.upstream.fails.status = status
        for _ in range(3):
            assert (await call.infer(asked(X)))[0] == code
        here.upstream.fails = None
        assert (await call.infer(asked(X)))[0] == "OK"


COLUMNS = """[model]
name = "m"
input_shape = [3]
classes = 2
inputs = "columns"
features = [
    { name = "age", low = 0.0, high = 99.0 },
    { name = "kids", low = 0.0, high = 9.0, datatype = "INT64" },
    { name = "city", values = ["Bern", "Basel", "Genève"] },
]
"""


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
async def test_a_tensor_for_every_column_is_read_in_any_order(
    raw: bool, order: tuple[int, ...], tmp_path: Path
) -> None:
    here = Here(tmp_path, "", LISTEN + COLUMNS)
    here.upstream.model = Softmax(3, 2)
    words = ["Genève".encode(), b"Bern"]
    values = [
        ("age", "FP64", "fp64_contents", [37.5, 20.0], np.array([37.5, 20.0]).tobytes()),
        ("kids", "INT64", "int64_contents", [2, 0], np.array([2, 0]).tobytes()),
        ("city", "BYTES", "bytes_contents", words, b"".join(len(w).to_bytes(4, "little") + w for w in words)),
    ]
    question = message("ModelInferRequest", model_name="m")
    for name, kind, field, listed, bytes_of in (values[i] for i in order):
        contents = {} if raw else {"contents": message("Contents", **{field: listed})}
        question.inputs.append(message("Tensor", name=name, datatype=kind, shape=[2, 1], **contents))
        if raw:
            question.raw_input_contents.append(bytes_of)
    async with calling(here) as call:
        code, body, _ = await call.infer(question)
        about = message("ModelMetadataRequest", name="m").SerializeToString()
        told = CLASSES["ModelMetadataResponse"].FromString((await call("ModelMetadata", about))[1])
    assert code == "OK", body
    np.testing.assert_array_equal(here.upstream.x, [[[37.5, 2, 2], [20, 0, 0]]])
    assert [(t.name, t.datatype) for t in told.inputs] == [("age", "FP64"), ("kids", "INT64"), ("city", "BYTES")]


def test_columns_go_to_the_model_with_the_hints_that_mlserver_reads_them_by(tmp_path: Path) -> None:
    asked_as = policy_of(Softmax(3, 2), "http://127.0.0.1:9", tmp_path, more=COLUMNS).asked
    ask = CATALOG.load("grpc")().ask(asked_as, np.array([[37.5, 2.0, 2.0]]))
    sent = CLASSES["ModelInferRequest"].FromString(ask.body)
    assert {p.key: p.value.string_param for p in sent.parameters} == {"content_type": "pd"}
    assert [(t.name, t.datatype, list(t.shape)) for t in sent.inputs] == [
        ("age", "FP64", [1, 1]), ("kids", "INT64", [1, 1]), ("city", "BYTES", [1, 1]),
    ]  # fmt: skip
    assert sent.raw_input_contents[2] == (7).to_bytes(4, "little") + "Genève".encode()
    np.testing.assert_array_equal(CATALOG.load("grpc")().read(asked_as, {}, ask.body).x, [[37.5, 2, 2]])


def test_the_page_says_which_code_each_status_is() -> None:
    page = Path(__file__).parents[2] / "docs" / "gateway" / "in-front-of" / "grpc.md"
    told: dict[int, str] = {}
    for statuses, codes in re.findall(r"^\| ([\d, ]+) \| ([`A-Z_, ]+) \|", page.read_text(), flags=re.M):
        names = re.findall(r"`(\w+)`", codes)
        numbers = [int(n) for n in statuses.split(",")]
        told |= dict(zip(numbers, names if len(names) > 1 else names * len(numbers), strict=True))
    assert told == {status: code_of(status).name for status in CODES if status not in (405, 501)}
