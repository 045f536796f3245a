"""The Open Inference Protocol over gRPC: the questions and answers of `v2` in protobuf's messages.

A method is called on a path of the form SERVICE/METHOD/models/NAME/versions/VERSION. gRPC itself knows the first two
parts alone and has the model's name in the body, so whoever receives or sends a call adds or reads the others.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import orjson
from google.protobuf.message import DecodeError

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer, Floats
from portcullis_ml.gateway.protocols.described import Described
from portcullis_ml.gateway.protocols.grpc_envelope import Misfit, hints, opened, packed, parameters, tensors_out
from portcullis_ml.gateway.protocols.grpc_fields import MOST, UNREADABLE, fits
from portcullis_ml.gateway.protocols.grpc_messages import CLASSES, HEALTH, METHODS, SERVICE, message
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.v2 import OpenInference
from portcullis_ml.gateway.protocols.wire import NOTHING, Ask, Carried, Headers, Inquiry, ModelSpec, Reply, Wire

__all__ = ["CALL", "KIND", "NO_MODEL", "GrpcInference", "call_of", "path_of"]

CALL = "CALL"  # the method of a request that came as a call; no request over HTTP has it
WORDS = {"ServerLive": "live", "ServerReady": "ready", "ServerMetadata": "server", "Check": "ready",
         "ModelReady": "model_ready", "ModelMetadata": "model", "ModelInfer": "infer"}  # fmt: skip
KIND = ("content-type", "application/grpc+proto")
NO_MODEL = "There is no such model here."


def path_of(method: str, name: str = "", version: str = "") -> str:
    """Where a method is called for this model."""
    service = SERVICE if method in METHODS else HEALTH
    about = f"/models/{name}" if name else ""
    return f"/{service}/{method}{about}{f'/versions/{version}' if version else ''}"


def call_of(path: str) -> tuple[str, str, str, str]:
    """(what gRPC knows of a path, its method, the model's name, its version)."""
    head, _, about = path.partition("/models/")
    name, _, version = about.partition("/versions/")
    return head, head.rpartition("/")[2], name, version


class GrpcInference(Wire):
    """gRPC of Triton, KServe, MLServer, Seldon and OpenVINO's server."""

    name: ClassVar[str] = "grpc"
    health: ClassVar[frozenset[str]] = frozenset(("ready", "model_ready"))
    common: ClassVar[frozenset[str]] = frozenset(("live", "ready", "server"))
    explains: ClassVar[bool] = True
    parts: ClassVar[bool] = OpenInference.parts
    carries: ClassVar[frozenset[str]] = OpenInference.carries

    def __init__(self) -> None:
        self._json = OpenInference()

    def route(self, method: str, path: str, served: ModelSpec) -> str | None:
        if method != CALL:
            return None
        for verb, what in WORDS.items():
            own = [path_of(verb, served.name, v) for v in dict.fromkeys(("", served.version))]
            if path in own if verb.startswith("Model") else path == path_of(verb):
                return what
        return "infer" if path == path_of("ModelInfer") else None  # of which `read` will say what is wrong with it

    def routes(self, served: ModelSpec) -> tuple[Described, ...]:
        return ()  # there are none over HTTP

    # Facing the client.

    def read(self, served: ModelSpec, headers: Headers, body: bytes) -> Inquiry:
        fits(body, MOST + served.max_rows)
        try:
            asked = CLASSES["ModelInferRequest"].FromString(body)
        except DecodeError:
            raise BadRequest(UNREADABLE) from None
        if asked.model_name != served.name or asked.model_version not in ("", served.version):
            raise BadRequest(NO_MODEL, 404)
        for tensor in asked.inputs:
            _moderate(tensor, served)
        more: dict[str, Any] = {"parameters": parameters(asked.parameters)}
        if asked.id:
            more["id"] = asked.id
        if asked.outputs:
            more["outputs"] = [{"name": o.name, "parameters": parameters(o.parameters)} for o in asked.outputs]
        try:
            inner, content = opened(asked.inputs, asked.raw_input_contents, "inputs", **more)
        except Misfit as misfit:
            raise BadRequest(str(misfit)) from None
        inquiry = self._json.read(served, inner, content)
        return inquiry._replace(binary=served.outputs, shape="raw" if asked.raw_input_contents else "typed")

    def write(self, served: ModelSpec, inquiry: Inquiry, answer: Answer) -> Reply:
        reply = self._json.write(served, inquiry, answer)
        tree, raw = packed(dict(reply.headers), reply.body)
        outputs, raw = tensors_out(tree["outputs"], raw, typed=inquiry.shape == "typed")
        names = {key: tree[key] for key in ("model_name", "model_version", "id") if key in tree}
        return _reply("ModelInferResponse", **names, outputs=outputs, raw_output_contents=raw)

    def tell(self, served: ModelSpec, what: str) -> Reply:
        if what in ("live", "ready", "model_ready"):
            return _reply("ServerLiveResponse", live=True)  # and so do those of the others: 1 in their first field
        tree = orjson.loads(self._json.tell(served, what).body)
        if what == "server":
            return _reply("ServerMetadataResponse", name=tree["name"], version=tree["version"])
        tensors = {key: [message("About", **tensor) for tensor in tree[key]] for key in ("inputs", "outputs")}
        rest = {key: tree[key] for key in ("name", "versions", "platform")}
        return _reply("ModelMetadataResponse", **rest, **tensors)

    def refuse(self, status: int, sentence: str) -> Reply:
        return Reply(sentence.encode(), status, (KIND,))

    # Facing the upstream.

    def ready_paths(self, served: ModelSpec) -> tuple[str, ...]:
        return path_of("ModelReady", served.name, served.version), path_of("ServerReady")

    def ask(self, served: ModelSpec, x: Floats, carried: Carried = NOTHING) -> Ask:
        asked = served.made.get("grpc") or served.made.setdefault("grpc", replace(served, binary=not served.several))
        ask = self._json.ask(asked, x, carried)
        tree, raw = packed(ask.headers, ask.body)
        inputs, raw = tensors_out(tree["inputs"], raw)
        outputs = [message("Wanted", name=o["name"]) for o in tree["outputs"]]
        whole = message("ModelInferRequest", model_name=served.name, model_version=served.version,
                        parameters=hints(tree), inputs=inputs,
                        outputs=outputs, raw_input_contents=raw)  # fmt: skip
        return Ask(path_of("ModelInfer", served.name, served.version), whole.SerializeToString(), {})

    def about(self, served: ModelSpec) -> str:
        return path_of("ModelMetadata", served.name, served.version)

    def described(self, body: bytes) -> Any:
        try:
            came = CLASSES["ModelMetadataResponse"].FromString(body)
        except DecodeError:
            raise Unreachable("The model server's metadata must be a message of the protocol.") from None
        tensors = {key: [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in getattr(came, key)]
                   for key in ("inputs", "outputs")}  # fmt: skip
        return {"name": came.name, **tensors}

    def differences(self, served: ModelSpec, told: Any) -> list[str]:
        return self._json.differences(served, told)

    def understand(self, served: ModelSpec, n: int, headers: Headers, body: bytes) -> Answer:
        try:
            came = CLASSES["ModelInferResponse"].FromString(body)
            inner, content = opened(came.outputs, came.raw_output_contents, "outputs")
        except DecodeError:
            raise Unreachable("The model server's answer must be a message of the Open Inference Protocol.") from None
        except Misfit as misfit:
            raise Unreachable(f"The model server's answer cannot be read: {misfit}") from None
        return self._json.understand(served, n, inner, content)


def _moderate(tensor: Any, served: ModelSpec) -> None:
    """Refuse more numbers than the model takes, before any of them is looked at."""
    numbers, most = max(len(field) for _, field in [(None, ()), *tensor.contents.ListFields()]), served.most
    if numbers > most.rows * math.prod(most.shape):
        raise BadRequest(f"The input must hold at most {most.about}; it holds more.", 413)


def _reply(name: str, /, **fields: Any) -> Reply:
    return Reply(message(name, **fields).SerializeToString(), 200, (KIND,))
