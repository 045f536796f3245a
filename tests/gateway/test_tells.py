"""What an answer tells beside itself: nothing of thresholds, and nothing of having been altered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from tests.gateway.asgi import URL, Here, call
from tests.gateway.harness import KEYS

from portcullis_ml.gateway.protocols.v2_question import LENGTH

ALL = '[listen]\nport = 0\nprotocols = ["v2", "v1", "invocations", "mapping"]\n'
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4))
WAYS = {
    "v2": (URL, {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP64", "data": None}]}),
    "v2 binary": (URL, {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP64", "data": None}],
                        "parameters": {"binary_data_output": True}}),
    "v1": ("/v1/models/m:predict", {"instances": None}),
    "invocations": ("/invocations", {"inputs": None}),
    "mapping": ("/predict", {"inputs": None}),
}  # fmt: skip


def watch(row: int, then: str) -> str:
    detector = f'{{ unit = "tests.gateway.units:At", row = {row} }}'
    return f'[[guard]]\nunit = "watch"\ndetector = {detector}\nthen = {{ unit = {then} }}\n'


async def asked(here: Here, client: str, way: str, x: np.ndarray) -> tuple[int, dict[str, str], Any]:
    path, tree = WAYS[way]
    text = orjson.dumps(tree).replace(b"null", orjson.dumps([x.tolist()]))
    headers = {"x-api-key": KEYS[client], "x-request-id": "one"}
    status, found, body = await call(here.gate, "POST", path, text, headers)
    return status, found, body if LENGTH in found else orjson.loads(body)


def form(tree: Any) -> Any:
    """An answer without its numbers."""
    if isinstance(tree, dict):
        return {k: v if k in ("shape", "datatype", "name", "model_name") else form(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [form(v) for v in tree]
    return "text" if isinstance(tree, str) else "number" if isinstance(tree, int | float) else type(tree)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("then", ['"other_class"', '"rounding", decimals = 9', '"log"'])
async def test_an_altered_answer_has_the_form_and_the_headers_of_any_other(way: str, then: str, tmp_path: Path) -> None:
    here = Here(tmp_path, watch(1, then), ALL)
    plain = Here(tmp_path, watch(999, then), ALL + f'[state]\nurl = "sqlite:///{tmp_path}/other.db"\n')
    changed = 0
    for x in X:
        status, headers, answer = await asked(here, "alice", way, x)
        usual, known, other = await asked(plain, "alice", way, x)
        assert status == usual == 200
        assert {k for k, v in headers.items() if known[k] != v} <= {"content-length", LENGTH}
        if isinstance(answer, bytes):
            assert len(answer) == len(other)
        else:
            assert form(answer) == form(other)
        changed += answer != other
    assert [len(here.alarms), len(plain.alarms)] == [1, 0]
    assert changed == (0 if "log" in then else len(X))


async def test_a_refusal_is_the_same_whatever_the_threshold_and_wherever_the_alarm(tmp_path: Path) -> None:
    told = set()
    for row, stages in ((2, ""), (5, ""), (4, '[[guard]]\nunit = "rounding"\ndecimals = 3\n')):
        folder = tmp_path / f"{row}"
        folder.mkdir()
        here = Here(folder, stages + watch(row, '"block"'), ALL)
        for _ in range(6):
            status, headers, answer = await asked(here, "alice", "v2", X[0])
        assert status == 403
        told.add((answer["error"], *sorted(headers.items())))
    ((sentence, *_),) = told
    assert not re.search(r"\d|stage|watch|row|threshold|suspicion", sentence)


async def test_who_blocked_a_client_is_not_told(tmp_path: Path) -> None:
    """By a watch, in the request that sets it off and in later ones, or by an operator: one sentence."""
    here = Here(tmp_path, watch(1, '"block"'), ALL)
    await here.streams.operate("bob", "block", "ops", 0.0)
    found = [await asked(here, client, "v2", X[0]) for client in ("alice", "alice", "bob")]
    assert found[0] == found[1] == found[2]
    assert found[0][2] == {"error": "The guard refused this client: this client was blocked."}


async def test_a_request_that_is_refused_looks_alike_before_and_after_the_alarm(tmp_path: Path) -> None:
    """A malformed body must not tell whether its sender is blocked, nor how far a blocked one came."""
    here = Here(tmp_path, watch(2, '"block"'), ALL)
    bodies = [b"{", b'{"inputs":[]}', b'{"inputs":[{"name":"x"}]}']
    before = [await here.send(body=b, headers={"x-api-key": KEYS["alice"], "x-request-id": "1"}) for b in bodies]
    for _ in range(3):
        await asked(here, "alice", "v2", X[0])
    after = [await here.send(body=b, headers={"x-api-key": KEYS["alice"], "x-request-id": "1"}) for b in bodies]
    assert before == after
