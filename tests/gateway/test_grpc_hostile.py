"""Strangers at the port of gRPC: bytes that are no question, questions that cost, clients that do not wait."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from tests.gateway.asgi import Here, down
from tests.gateway.calls import LISTEN, Calls, answers, asked, calling
from tests.gateway.harness import KEYS, Softmax, served_of

from portcullis_ml.gateway.policy.clients import hashed
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.grpc_fields import model_in
from portcullis_ml.gateway.protocols.grpc_messages import CLASSES, message
from portcullis_ml.gateway.protocols.strict import BadRequest

X = np.array([[0.1, 0.2, 0.3, 0.4]])
DECOY = np.array([[9.0, 9.0, 9.0, 9.0]])
ALICE, BOB = {"x-api-key": KEYS["alice"]}, {"x-api-key": KEYS["bob"]}
QUOTA = '[[guard]]\nunit = "quota"\nrows = 2\nper = 60.0\n'


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


# Fields that come twice, fields that nobody knows.


def field(number: int, value: bytes) -> bytes:
    """A field that has a length, as protobuf writes it."""
    size, length = len(value), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


WHOLE = asked(X).SerializeToString()
TENSOR = message("Tensor", name="input", datatype="FP64", shape=[1, 4]).SerializeToString()
TYPED = field(5, message("Contents", fp64_contents=DECOY[0]).SerializeToString())
TWICE = {
    "model name": (field(1, b"other") + WHOLE, "OK"),
    "model name, the last one another's": (WHOLE + field(1, b"other"), "NOT_FOUND"),
    "model version": (field(2, b"7") + WHOLE + field(2, b""), "OK"),
    "raw contents": (WHOLE + field(7, DECOY.tobytes()), "INVALID_ARGUMENT"),
    "inputs": (WHOLE + field(5, TENSOR), "INVALID_ARGUMENT"),
    "raw and typed": (field(1, b"m") + field(5, TENSOR + TYPED) + field(7, X.tobytes()), "INVALID_ARGUMENT"),
    "contents, which protobuf puts together": (field(1, b"m") + field(5, TENSOR + TYPED + TYPED), "INVALID_ARGUMENT"),
    "a field that nobody knows": (field(15, b"secret") + WHOLE + field(14, DECOY.tobytes()), "OK"),
    "a number where a text should be": (b"\x08\x01" + WHOLE, "OK"),
    "a name that is no text": (field(1, b"\xff") + WHOLE, "INVALID_ARGUMENT"),
    "a group": (WHOLE + b"\x2b\x2c", "INVALID_ARGUMENT"),
    "a field that ends behind the message": (WHOLE + b"\x2a\x7f", "INVALID_ARGUMENT"),
    "a length that has no end": (WHOLE + b"\x2a" + b"\x80" * 11, "INVALID_ARGUMENT"),
}


@pytest.mark.parametrize("case", TWICE)
async def test_what_comes_twice_or_is_not_known_never_reaches_the_model(case: str, tmp_path: Path) -> None:
    body, code = TWICE[case]
    here = Here(tmp_path, "", LISTEN)
    async with calling(here) as call:
        assert (await call.infer(body))[0] == code
    if code == "OK":
        (seen,) = [event.x for event in (await here.store.load("alice")).events if event.kind == "admit"]
        np.testing.assert_array_equal(seen, X)
        np.testing.assert_array_equal(here.upstream.x, [X])
    else:
        assert here.upstream.x == []


@pytest.mark.parametrize("key", ["shared_memory_region", "shared_memory_byte_size", "sequence_id", "classification"])
@pytest.mark.parametrize("where", ["request", "input", "output"])
async def test_parameters_that_lead_around_the_guard_are_refused(where: str, key: str, tmp_path: Path) -> None:
    here, question = Here(tmp_path, "", LISTEN), asked(X)
    part = {"request": question, "input": question.inputs[0]}.get(where) or question.outputs.add(name="label")
    part.parameters.add(key="priority", value=message("Value", int64_param=1))
    async with calling(here) as call:
        assert (await call.infer(question))[0] == "OK"
        part.parameters.add(key=key, value=message("Value", string_param="x"))
        code, said, _ = await call.infer(question)
    assert code == "INVALID_ARGUMENT"
    assert f"{key!r}, which is not allowed here." in said
    assert len(here.upstream.x) == 1


def test_the_name_that_a_call_is_led_by_is_the_one_that_is_read() -> None:
    read = 0
    for body, _ in TWICE.values():
        with contextlib.suppress(BadRequest, DecodeError):
            told = CLASSES["ModelInferRequest"].FromString(body)
            assert model_in(body) == (told.model_name, told.model_version)
            read += 1
    assert read >= 8


# Bytes and sizes.


async def test_damaged_messages_are_read_or_refused_and_never_fail_the_gate(tmp_path: Path) -> None:
    here, dice = Here(tmp_path, "", LISTEN), random.Random(0)
    honest = [WHOLE, asked(X, raw=False, id="7").SerializeToString(), asked(X, datatype="INT8").SerializeToString()]
    codes = []
    async with calling(here) as call:
        for _ in range(300):
            body = bytearray(dice.choice(honest))
            for _ in range(dice.randint(1, 3)):
                at = dice.randrange(len(body))
                body[at : at + dice.randint(0, 2)] = dice.randbytes(dice.randint(0, 2))
            codes.append((await call.infer(bytes(body)))[0])
    assert set(codes) <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE"}
    assert {"OK", "INVALID_ARGUMENT"} <= set(codes)
    assert here.gate.in_flight == 0


INNER = {
    "inputs": b"\x2a\x00", "outputs": b"\x32\x00", "parameters": b"\x22\x00", "raw contents": b"\x3a\x00",
    "parameters of an input": field(5, b"\x22\x00" * 500_000),
    "values of parameters": field(4, b"\x12\x00" * 500_000), "parameters of an output": field(6, b"\x12\x00" * 500_000),
    "numbers one by one": field(5, field(5, b"\x39" * 1 + bytes(8)) * 200_000),
    "bytes one by one": field(5, field(5, b"\x42\x00" * 500_000)),
}  # fmt: skip


@pytest.mark.parametrize("case", INNER)
def test_a_million_messages_in_a_message_are_refused_before_any_is_made(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CLASSES, "ModelInferRequest", None)
    wire = CATALOG.load("grpc")()
    body = INNER[case] if len(INNER[case]) > 2 else INNER[case] * 1_000_000
    began = time.thread_time()
    with pytest.raises(BadRequest, match="A question may have 2048 fields"):
        wire.read(served_of(Softmax()), {}, body)
    assert time.thread_time() - began < 0.1


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        ({"shape": [2**62] * 100_000}, "A tensor's shape may have 32 axes."),
        ({"shape": [2**62, 2**62]}, "must have as many bytes as its shape and datatype say."),
        ({"shape": [-1, 4]}, "must have as many bytes"),
        ({"shape": []}, "must have as many bytes"),
        ({"shape": [1, 4], "datatype": "BYTES"}, '"datatype" must be one of'),
        ({"shape": [1, 4], "datatype": "BF16"}, '"datatype" must be one of'),
        ({"shape": [1, 4], "datatype": ""}, '"datatype" must be one of'),
        ({"shape": [1, 4], "name": "other"}, "The model takes one input named 'input'."),
    ],
)
async def test_a_tensor_that_is_none_is_refused(tensor: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    here = Here(tmp_path, "", LISTEN)
    question = asked(X, inputs=[message("Tensor", **{"name": "input", "datatype": "FP64", **tensor})])
    async with calling(here) as call:
        code, said, _ = await call.infer(question)
    assert code == "INVALID_ARGUMENT"
    assert sentence in said


async def test_typed_numbers_are_counted_before_they_are_read_and_fit_their_datatype(tmp_path: Path) -> None:
    here = Here(tmp_path, "", LISTEN + "[limits]\nrows = 2\n")
    async with calling(here) as call:
        many = asked(np.zeros((9, 4)), raw=False)
        assert (await call.infer(many))[:2] == (
            "OUT_OF_RANGE", "The input must hold at most 2 x 4 numbers; it holds more.",
        )  # fmt: skip
        few = asked(X, raw=False)
        few.inputs[0].shape[:] = [2, 4]
        assert "must be as many as its shape says; got 4" in (await call.infer(few))[1]
        large = asked(np.array([[100, 0, 0, 0]]), raw=False, datatype="INT8")
        large.inputs[0].contents.int_contents[0] = 300
        assert (await call.infer(large))[:2] == (
            "INVALID_ARGUMENT", "The input must hold whole numbers that fit INT8.",
        )  # fmt: skip


LIMITS = LISTEN + "[limits]\nbody_bytes = 4096\nhead_bytes = 8192\nbody_s = 0.3\nbuffer_bytes = 16384\n"


@pytest.mark.parametrize("way", [grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_message_that_is_too_long_once_it_is_unpacked_is_not_unpacked(
    way: grpc.Compression, tmp_path: Path
) -> None:
    here = Here(tmp_path, "", LIMITS)
    async with calling(here) as call:
        assert (await call.infer(asked(X), compression=way))[0] == "OK"
        code, said, _ = await call.infer(WHOLE + field(15, bytes(32 << 20)), compression=way)
    assert code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in said


async def test_metadata_beyond_the_limit_of_a_head_is_refused(tmp_path: Path) -> None:
    here = Here(tmp_path, "", LIMITS)
    async with calling(here) as call:
        assert (await call.infer(asked(X), {**ALICE, "x-more": "a" * 4_000}))[0] == "OK"
        assert (await call.infer(asked(X), {**ALICE, "x-more": "a" * 20_000}))[0] == "RESOURCE_EXHAUSTED"
        assert (await call.infer(asked(X)))[0] == "OK"
    assert len(here.upstream.x) == 2


# Who does not say who they are, and who says it in two ways.


async def test_a_client_is_known_by_metadata_as_over_http(tmp_path: Path) -> None:
    clients = '[clients]\nanonymous = "refuse"\nheader = { header = "x-client", trusted = ["10.0.0.0/8"] }\n'
    here = Here(tmp_path, "", LISTEN + clients)
    async with calling(here) as call:
        code, said, _ = await call.infer(asked(X), {"x-client": "alice"})
        assert (code, said) == ("PERMISSION_DENIED", "The header x-client is taken from the proxy only.")
    here = Here(tmp_path, "", LISTEN)
    async with calling(here) as call:
        key = ("x-api-key", KEYS["alice"])
        found = await call("ModelInfer", WHOLE, [key, key])
        assert found[:2] == ("INVALID_ARGUMENT", "The header x-api-key may come once.")
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        lies = [("content-length", "1"), ("content-encoding", "gzip"), ("x-bin", b"\xff"), ("traceparent", trace)]
        assert (await call("ModelInfer", WHOLE, [key, *lies]))[0] == "OK"
    assert here.upstream.headers[-1]["traceparent"] == trace


async def test_a_proxy_on_this_machine_names_its_clients(tmp_path: Path) -> None:
    clients = '[clients]\nheader = { header = "x-client" }\n'
    here = Here(tmp_path, "", LISTEN + clients)
    async with calling(here) as call:
        assert (await call.infer(asked(X), {"x-client": "carol"}))[0] == "OK"
    assert [e.kind for e in (await here.store.load("carol")).events][:1] == ["admit"]


async def open_call(call: Calls, headers: dict[str, str]) -> Any:
    """A call whose message does not come."""
    return call.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")(metadata=tuple(headers.items()))


async def test_a_message_that_does_not_come_is_not_waited_for_and_a_strangers_not_at_all(tmp_path: Path) -> None:
    here = Here(tmp_path, "", LIMITS.replace("body_s = 0.3", "body_s = 30.0"))
    async with calling(here) as call:
        stranger = await open_call(call, {})
        assert (await stranger.code()).name == "UNAUTHENTICATED"
    here = Here(tmp_path, "", LIMITS)
    async with calling(here) as call:
        slow = await open_call(call, ALICE)
        assert (await slow.code()).name == "DEADLINE_EXCEEDED"
        assert await slow.details() == "The message of a call took longer than 0.3 seconds."
        empty = await open_call(call, ALICE)
        await empty.done_writing()
        assert await empty.details() == "A call must have one message."
    assert here.gate.metrics.requests["malformed"] == 2


async def test_who_keeps_messages_back_takes_no_places_of_others(tmp_path: Path) -> None:
    here = Here(tmp_path, "", LIMITS.replace("body_s = 0.3", "body_s = 30.0"))  # four places
    async with calling(here) as call:
        slow = [await open_call(call, ALICE) for _ in range(2)]
        await until(lambda: call.port._places.users["alice"] == 2)
        late = asyncio.create_task(call.infer(asked(X)))
        await until(lambda: call.port._places.users["alice"] == 3)
        assert (await call.infer(asked(X), BOB))[0] == "OK"
        assert not late.done()
        for one in slow:
            one.cancel()
        assert (await late)[0] == "OK"
        await until(lambda: not call.port._places.users)


async def test_who_waits_too_long_for_a_place_is_told_that_the_gate_is_busy(tmp_path: Path) -> None:
    here = Here(tmp_path, "", LIMITS)
    async with calling(here) as call, contextlib.AsyncExitStack() as stack:
        for who in ("a", "a", "b", "b"):
            await stack.enter_async_context(call.port._places.held(who))
        assert (await call.infer(asked(X)))[:2] == ("UNAVAILABLE", "The gate is busy.")


async def test_all_calls_that_a_client_may_have_at_once_are_answered(tmp_path: Path) -> None:
    here = Here(tmp_path, "", LISTEN)
    async with calling(here) as call:
        found = await asyncio.gather(*(call.infer(asked(X)) for _ in range(64)))
    assert {code for code, _, _ in found} == {"OK"}


# Limits of the policy.


@pytest.mark.parametrize(
    ("limits", "code"),
    [("per_client = 1", "RESOURCE_EXHAUSTED"), ("in_flight = 1", "UNAVAILABLE")],
)
async def test_who_asks_too_much_at_once_is_told_when_to_come_again(limits: str, code: str, tmp_path: Path) -> None:
    here = Here(tmp_path, "", LISTEN + f"[limits]\n{limits}\n")
    here.upstream.waits = asyncio.Event()
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with calling(here) as call, calling(here, options) as other:
        first = asyncio.create_task(call.infer(asked(X)))
        await until(lambda: here.upstream.x)
        found = await other.infer(asked(X))
        assert (found[0], found[2]["retry-after"]) == (code, "1")
        here.upstream.waits.set()
        assert (await first)[0] == "OK"


async def test_requests_a_minute_are_counted_for_who_is_known_and_who_is_not(tmp_path: Path) -> None:
    here = Here(tmp_path, "", LISTEN + "[limits]\nrequests_per_minute = 6\n")  # one may come at once
    async with calling(here) as call:
        assert (await call.infer(asked(X)))[0] == "OK"
        assert (await call.infer(asked(X)))[0] == "RESOURCE_EXHAUSTED"
        assert (await call.infer(asked(X), {}))[0] == "UNAUTHENTICATED"
        assert (await call.infer(asked(X), {}))[0] == "RESOURCE_EXHAUSTED"


# Clients that do not wait.


async def test_a_client_that_goes_away_is_counted_where_the_model_answered(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA, LISTEN)
    here.upstream.waits = asyncio.Event()
    async with calling(here) as call:
        for leave in (lambda c: c.cancel(), lambda c: None):
            left = call.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
                WHOLE, metadata=tuple(ALICE.items()), timeout=0.3
            )
            before = len(here.upstream.x)
            await until(lambda before=before: len(here.upstream.x) > before)
            leave(left)
            assert (await left.code()).name in ("CANCELLED", "DEADLINE_EXCEEDED")
        here.upstream.waits.set()
        await until(lambda: here.gate.in_flight == 0)
        code, _, end = await call.infer(asked(X))
    assert (code, end["x-ratelimit-remaining"]) == ("RESOURCE_EXHAUSTED", "0")
    assert here.gate.metrics.requests["answered"] == 2


async def test_a_client_that_goes_away_gets_back_what_the_model_did_not_answer(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA, LISTEN)
    here.upstream.waits, here.upstream.fails = asyncio.Event(), down()
    async with calling(here) as call:
        left = call.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
            WHOLE, metadata=tuple(ALICE.items())
        )
        await until(lambda: here.upstream.x)
        left.cancel()
        here.upstream.waits.set()
        await until(lambda: here.gate.in_flight == 0)
        here.upstream.fails = None
        assert [(await call.infer(asked(X)))[0] for _ in range(3)] == ["OK", "OK", "RESOURCE_EXHAUSTED"]


async def test_who_goes_away_before_the_message_is_there_has_asked_nothing(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA, LISTEN)
    async with calling(here) as call:
        left = await open_call(call, ALICE)
        await until(lambda: call.port._places.users)
        left.cancel()
        await until(lambda: not call.port._places.users)
        await until(lambda: here.gate.metrics.requests["malformed"] == 1)  # as where a body ends early
        assert here.gate.in_flight == 0
        assert [(await call.infer(asked(X)))[0] for _ in range(3)] == ["OK", "OK", "RESOURCE_EXHAUSTED"]


async def test_the_journal_remembers_what_was_asked_by_grpc(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA, LISTEN)
    async with calling(here) as call:
        assert (await call.infer(asked(X)))[0] == "OK"
    here.open()  # after a crash
    async with calling(here) as call:
        assert [(await call.infer(asked(X)))[0] for _ in range(2)] == ["OK", "RESOURCE_EXHAUSTED"]
    assert (await here.infer(X))[0] == 429  # over HTTP it is the same account


async def test_a_gate_that_is_being_stopped_takes_no_more_and_ends_what_runs(tmp_path: Path) -> None:
    here = Here(tmp_path, "", LISTEN)
    here.upstream.waits = asyncio.Event()
    async with calling(here) as call:
        first = asyncio.create_task(call.infer(asked(X)))
        await until(lambda: here.upstream.x)
        drained = asyncio.create_task(here.gate.drained(10))
        await until(lambda: here.gate.draining)
        assert (await call.infer(asked(X)))[:2] == ("UNAVAILABLE", "The gate is busy.")
        assert (await call("ServerReady"))[:2] == ("OK", b"")
        here.upstream.waits.set()
        assert await drained
        assert (await first)[0] == "OK"


# What is withheld.

LABELS = '[[guard]]\nunit = "label_only"\n'
WORDS = '[model]\nname = "m"\ninput_shape = [4]\nclasses = ["cat", "dog", "cow"]\nbounds = [-3.0, 3.0]\n'


@pytest.mark.parametrize("raw", [True, False])
async def test_withheld_scores_are_nan_and_classes_are_words(raw: bool, tmp_path: Path) -> None:
    here = Here(tmp_path, LABELS, LISTEN + WORDS)
    async with calling(here) as call:
        code, body, _ = await call.infer(asked(X, raw=raw))
    assert code == "OK"
    told = answers(body)
    assert np.isnan(told["probabilities"]).all()
    assert told["label"].tolist() == [["cat", "dog", "cow"][here.model.scores(X).argmax()].encode()]


# Connections.

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
GO_AWAY = 7


async def frames(call: Calls, sent: bytes) -> list[int]:
    """The types of the frames that come until the port closes the connection."""
    host, _, port = call.port.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    found = []
    async with asyncio.timeout(10):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            while True:
                head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(head[:3], "big"))
                found.append(head[3])
    writer.close()
    return found


async def test_who_pings_without_end_or_says_nothing_loses_the_connection(tmp_path: Path) -> None:
    here = Here(tmp_path, "", LISTEN + "[limits]\nhead_s = 0.3\n")
    async with calling(here) as call:
        assert GO_AWAY in await frames(call, PREFACE + PING * 50)
        began = time.monotonic()
        await frames(call, b"")
        assert time.monotonic() - began < 5
        await frames(call, b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await call.infer(asked(X)))[0] == "OK"


WHY = '[model]\nname = "m"\ninput_shape = [4]\nclasses = 3\nbounds = [-3.0, 3.0]\nexplanation = "why"\n'


@pytest.mark.parametrize("raw", [True, False])
async def test_explanations_come_beside_the_scores(raw: bool, tmp_path: Path) -> None:
    here = Here(tmp_path, "", LISTEN + WHY + "[answers]\nexplains = true\n")
    async with calling(here) as call:
        told = answers((await call.infer(asked(X, raw=raw)))[1])
    np.testing.assert_array_equal(told["why"], here.model.explain(X, told["label"]))


async def test_calls_beyond_the_limit_on_connections_are_refused_by_the_library(tmp_path: Path) -> None:
    here = Here(tmp_path, "", LISTEN + "[limits]\nconnections = 2\n")
    async with calling(here) as call:
        slow = [await open_call(call, ALICE) for _ in range(2)]
        await until(lambda: call.port._places.users["alice"] == 2)
        assert (await call.infer(asked(X), BOB))[0] == "RESOURCE_EXHAUSTED"
        for one in slow:
            one.cancel()
        await until(lambda: not call.port._places.users)
        assert (await call.infer(asked(X), BOB))[0] == "OK"


async def test_places_and_quota_belong_to_the_principal_and_not_to_the_key(tmp_path: Path) -> None:
    keys = ", ".join(
        f'{{ client = "{name}", payment = "visa", sha256 = "{hashed(KEYS[name])}" }}' for name in ("alice", "bob")
    )
    clients = f'[clients]\nprincipal = ["payment"]\nkey = [{keys}]\n'
    here = Here(tmp_path, QUOTA, LISTEN + clients)
    async with calling(here) as call:
        slow = [await open_call(call, who) for who in (ALICE, BOB)]
        await until(lambda: call.port._places.users.total() == 2)
        assert len(call.port._places.users) == 1
        for one in slow:
            one.cancel()
        found = [(await call.infer(asked(X), who))[0] for who in (ALICE, BOB, ALICE)]
    assert found == ["OK", "OK", "RESOURCE_EXHAUSTED"]
