"""Several models behind one port of gRPC: whose answer, and whose quota."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tests.gateway.calls import LISTEN, answers, asked
from tests.gateway.harness import KEYS
from tests.gateway.test_models import CREDIT, FIRST, ROW, SECOND, X, policy, serving, upstreams

from portcullis_ml.gateway.protocols.grpc_messages import CLASSES, message

__all__ = ["policy", "upstreams"]  # fixtures
SERVICE = "/inference.GRPCInferenceService/"


def test_each_model_is_asked_by_its_name_and_version(policy: Path) -> None:
    policy.write_text(policy.read_text().replace("[listen]\nport = 0\n", LISTEN))
    with serving(policy) as server, grpc.insecure_channel(server.grpc.address) as channel:

        def ask(x: Any, name: str, version: str = "", client: str = "alice") -> Any:
            body = asked(x, model_name=name, model_version=version).SerializeToString()
            key = (("x-api-key", KEYS[client]),)
            try:
                return answers(channel.unary_unary(f"{SERVICE}ModelInfer")(body, metadata=key))["probabilities"]
            except grpc.RpcError as error:
                return error.code().name

        for _ in range(2):
            np.testing.assert_array_equal(ask(X, "m"), FIRST.scores(np.array(X)))
        assert ask(X, "m") == "RESOURCE_EXHAUSTED"
        np.testing.assert_array_equal(ask(X, "m", "2"), SECOND.scores(np.array(X)))
        for _ in range(3):
            np.testing.assert_array_equal(ask(ROW, "org/credit"), CREDIT.scores(np.array(ROW)))
        assert ask(ROW, "org/credit") == "RESOURCE_EXHAUSTED"
        assert ask(X, "org/credit", client="bob") == "INVALID_ARGUMENT"
        assert ask(ROW, "org", "credit") == ask(ROW, "credit") == ask(X, "m", "3") == "NOT_FOUND"
        assert ask(ROW, "org/credit", client="alice") == "RESOURCE_EXHAUSTED"

        def told(method: str, name: str, version: str = "") -> bytes:
            body = message(f"{method}Request", name=name, version=version).SerializeToString()
            return bytes(channel.unary_unary(f"{SERVICE}{method}")(body))

        assert told("ModelReady", "org/credit") == told("ModelReady", "m", "2") == b"\x08\x01"
        about = CLASSES["ModelMetadataResponse"].FromString(told("ModelMetadata", "org/credit"))
        assert (about.name, list(about.inputs[0].shape)) == ("org/credit", [-1, 2])
        assert channel.unary_unary(f"{SERVICE}ServerReady")(b"") == b"\x08\x01"
