"""Whatever path is asked for: a question reaches the model that it names, or none."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.gateway.asgi import ALICE, FakeUpstream, call, question
from tests.gateway.harness import Softmax, interface_of, policy_text
from tests.gateway.test_fuzz import N
from tests.gateway.test_models import further

from portcullis_ml.core.errors import InputError
from portcullis_ml.gateway.gate import Gate
from portcullis_ml.gateway.guarded import GuardedRoutes
from portcullis_ml.gateway.models import Models
from portcullis_ml.gateway.policy.names import is_model_name
from portcullis_ml.gateway.policy.policy import read_policy
from portcullis_ml.gateway.policy.several import together
from portcullis_ml.gateway.protocols.v1 import Predict
from portcullis_ml.gateway.protocols.v2 import OpenInference
from portcullis_ml.gateway.protocols.wire import ModelSpec, Wire
from portcullis_ml.gateway.shared import Shared
from portcullis_ml.gateway.state.stores import open_store
from portcullis_ml.gateway.state.streams import Streams

NAMES = [("m", ""), ("m/a", ""), ("m", "2"), ("m/a", "2"), ("a", "1"), ("infer", ""), ("m/a/b", "m")]
REACHED = {
    f"/{protocol}/models/{name}{version and words + version}{verb}": i
    for i, (name, version) in reversed(list(enumerate(NAMES)))
    for protocol, verb, versions in (("v2", "/infer", ["/versions/"]), ("v1", ":predict", ["/versions/", "/labels/"]))
    for words in versions
    for version in {version, ""}  # of two versions, the first that is listed answers where none is said
}
REACHED["/home/made"] = 0
PARTS = ["m", "a", "b", "1", "2", "infer", "ready", "versions", "labels", "v2", "v1", "models", "predict", "home",
         "made", "", ".", "..", "%2F", "%6D", ":predict", "metadata", "health", "é"]  # fmt: skip


def policies(folder: Path, names: list[tuple[str, str]]) -> list[str]:
    """The files of further models with these names and versions."""
    abouts = [f'name = "{name}"\nversion = "{version}"\nprotocols = ["v2", "v1"]' for name, version in names]
    return [further(folder, f"f{i}", Softmax(), "http://127.0.0.1:9", about) for i, about in enumerate(abouts)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Models, list[FakeUpstream]]]:
    """A gate with seven models of one shape, whose names are parts of one another."""
    folder, shared, gates, upstreams, stores = tmp_path_factory.mktemp("models"), Shared(), [], [], []
    files = policies(folder, NAMES[1:])
    more = '[model.mapping]\npath = "/home/made"\n[listen]\nprotocols = ["v2", "v1", "mapping"]\n'
    text = policy_text(Softmax(), "http://127.0.0.1:9", folder, "", more, f"models = {files}")
    (folder / "p.toml").write_text(text)
    policy = read_policy(folder / "p.toml")
    for i, one in enumerate((policy, *policy.models)):
        upstreams.append(FakeUpstream(Softmax(seed=i)))
        stores.append(open_store(":memory:"))
        gates.append(Gate(one, Streams(one.guard(), stores[-1]), upstreams[-1], shared=shared))
    yield Models(gates), upstreams
    for store in stores:
        store.discard()


def asked(models: tuple[Models, list[FakeUpstream]], path: str, raw: bytes) -> tuple[int, list[int]]:
    """(status, the models that were asked)."""
    app, upstreams = models
    before = [upstream.model.asked for upstream in upstreams]
    x = np.full((1, 4), 0.5)
    body = b'{"instances": [[0.5, 0.5, 0.5, 0.5]]}' if ":predict" in path else question(x)
    body = b'{"inputs": [[0.5, 0.5, 0.5, 0.5]]}' if path == "/home/made" else body
    status, _, _ = asyncio.run(
        call(app, "POST", path, body, {**ALICE, "content-type": "application/json"}, raw_path=raw)
    )
    return status, [i for i, upstream in enumerate(upstreams) if upstream.model.asked > before[i]]


def test_every_route_reaches_its_model(models: tuple[Models, list[FakeUpstream]]) -> None:
    for path, i in REACHED.items():
        assert asked(models, path, path.encode()) == (200, [i]), path


@settings(max_examples=N, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=8), st.sampled_from(["", "/v2/models/", "/v1/models/"]), st.booleans())
@example(["m", "a", "versions", "2", "infer"], "/v2/models/", False)
@example(["m", "versions", "2", "a", "infer"], "/v2/models/", False)
@example(["m", "versions", "m", "a", "infer"], "/v2/models/", True)
def test_no_path_reaches_another_model(
    models: tuple[Models, list[FakeUpstream]], parts: list[str], before: str, escaped: bool
) -> None:
    path = (before + "/".join(parts)).replace("/:predict", ":predict")
    path = path if path.startswith("/") else f"/{path}"
    raw = (quote(path, safe=":") if escaped else quote(path, safe="/:%")).encode()
    read = path.replace("%2F", "/").replace("%6D", "m")  # as a server decodes it
    status, found = asked(models, read, raw)
    honest = raw == quote(read, safe="/:").encode()
    assert (status, found) == ((200, [REACHED[read]]) if honest and read in REACHED else (status, []))
    assert status in (200, 404, 405)


WORDS = st.sampled_from(["m", "a", "2", "infer", "ready", "versions", "labels", "metadata"])
NAME = st.lists(WORDS, min_size=1, max_size=3).map("/".join).filter(is_model_name)
VERSION = st.sampled_from(["", "2", "m", "infer"])


@settings(max_examples=N, deadline=None)
@given(NAME, VERSION, NAME, VERSION, st.sampled_from([OpenInference(), Predict()]))
def test_no_route_of_a_name_that_a_policy_takes_is_one_of_another_name(
    name: str, version: str, other: str, others: str, wire: Wire
) -> None:
    interface = interface_of(Softmax())
    served = ModelSpec(name=name, version=version, interface=interface)
    beside = ModelSpec(name=other, version=others, interface=interface)
    starts = [f"/{wire.name}/models/{name}{v}" for v in ("", f"/versions/{version}", f"/labels/{version}")]
    for path in (start + end for start in starts for end in ("", "/infer", "/ready", ":predict", "/metadata")):
        for method in ("GET", "POST"):
            if name != other and wire.route(method, path, served):
                assert wire.route(method, path, beside) is None


async def test_an_application_around_several_models_keeps_its_other_routes(
    models: tuple[Models, list[FakeUpstream]],
) -> None:
    async def rest(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b""})  # type: ignore[operator]

    app = GuardedRoutes(rest, gate=models[0])
    assert (await call(app, "POST", "/v2/models/a/infer", question(np.zeros((1, 4))), ALICE))[0] == 200
    assert (await call(app, "POST", "/home/made", b"{}", ALICE))[0] == 400
    assert (await call(app, "GET", "/elsewhere", b"", ALICE))[0] == 299


def test_any_two_of_the_models_may_stand_together_and_none_with_itself(tmp_path: Path) -> None:
    found = [read_policy(tmp_path / file) for file in policies(tmp_path, NAMES)]
    for one, other in itertools.permutations(found, 2):
        assert len(together([one, other])) == 2
    for one in found:
        with pytest.raises(InputError, match="both serve the model"):
            together([one, one])
