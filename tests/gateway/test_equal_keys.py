"""Equal keys in one JSON object: what the guard inspects is what the model is asked, in every protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.asgi import URL, Here
from tests.gateway.harness import NUMERIC, Softmax, served_of

from portcullis_ml.gateway.protocols import CATALOG as PROTOCOLS
from portcullis_ml.gateway.protocols.v2_question import LENGTH

X = np.array([[0.1, 0.2, 0.3, 0.4]])
DECOY, ASKED = [9.5, 9.5, 9.5, 9.5], [0.1, 0.2, 0.3, 0.4]
LONG = ", ".join(["0.125"] * 100)
TENSOR = '"name":"input","shape":[1,4],"datatype":"FP64"'
TWICE = {
    "v2 data": (URL, f'{{"inputs":[{{{TENSOR},"data":{DECOY},"data":{ASKED}}}]}}'),
    "v2 data, spelled in another way": (URL, f'{{"inputs":[{{{TENSOR},"d\\u0061ta":{DECOY},"data":{ASKED}}}]}}'),
    "v2 data, the last spelled so": (URL, f'{{"inputs":[{{{TENSOR},"data":{DECOY},"d\\u0061ta":{ASKED}}}]}}'),
    "v2 long decoy": (URL, f'{{"inputs":[{{{TENSOR},"data":[{LONG}],"data":{ASKED}}}]}}'),
    "v2 inputs": (URL, f'{{"inputs":[{{{TENSOR},"data":{DECOY}}}],"inputs":[{{{TENSOR},"data":{ASKED}}}]}}'),
    "v2 shape": (URL, f'{{"inputs":[{{"shape":[4,1],{TENSOR},"data":{ASKED}}}]}}'),
    "v1 instances": ("/v1/models/m:predict", f'{{"instances":[{DECOY}],"instances":[{ASKED}]}}'),
    "v1 in an instance": ("/v1/models/m:predict", f'{{"instances":[{{"input":{DECOY},"input":{ASKED}}}]}}'),
    "v1 long decoy": ("/v1/models/m:predict", f'{{"instances":[[{LONG}]],"inst\\u0061nces":[{ASKED}]}}'),
    "invocations": ("/invocations", f'{{"inputs":[{DECOY}],"inputs":[{ASKED}]}}'),
    "invocations split": ("/invocations", f'{{"dataframe_split":{{"data":[{DECOY}],"data":[{ASKED}]}}}}'),
    "mapping": ("/predict", f'{{"inputs":[{DECOY}],"inputs":[{ASKED}]}}'),
    "mapping, long decoy": ("/predict", f'{{"inputs":[[{LONG}]],"inputs":[{ASKED}]}}'),
}


@pytest.mark.parametrize("case", TWICE)
async def test_of_equal_keys_the_guard_and_the_model_get_the_last_one_in_every_protocol(
    case: str, tmp_path: Path
) -> None:
    here = Here(tmp_path, "", '[listen]\nport = 0\nprotocols = ["v2", "v1", "invocations", "mapping"]\n')
    path, body = TWICE[case]
    assert (await here.send("POST", path, body.encode()))[0] == 200
    (seen,) = [event.x for event in (await here.store.load("alice")).events if event.kind == "admit"]
    np.testing.assert_array_equal(seen, [ASKED])
    np.testing.assert_array_equal(here.upstream.x, [seen])


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("protocol", [name for name in NUMERIC if name != "grpc"])  # which is not JSON
def test_no_key_is_written_twice_to_the_model_and_nothing_of_the_clients_body(protocol: str, binary: bool) -> None:
    wire, asked = PROTOCOLS.load(protocol)(), served_of(Softmax(), binary=binary)
    ask = wire.ask(asked, wire.read(asked, {}, wire.ask(served_of(Softmax()), X).body).x)
    head = ask.body[: int(ask.headers[LENGTH])] if LENGTH in ask.headers else ask.body

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    tree = json.loads(head, object_pairs_hook=once)
    assert set(tree) <= {"inputs", "instances", "outputs"}
    np.testing.assert_array_equal(wire.read(asked, ask.headers, ask.body).x, X)
