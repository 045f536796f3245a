"""Explanations: from the model through the journal, the log and the protocols to the client, or not to the client."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from tests.gateway.asgi import Here
from tests.gateway.harness import SECRET, Softmax, gate, interface_of, policy_of, policy_text, running, served_of
from tests.gateway.units import Doubts

from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError, Unreachable
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Answer
from portcullis_ml.defenses.rounding import Rounding
from portcullis_ml.gateway.admin.openapi import described
from portcullis_ml.gateway.guarded import Guarded, LocalUpstream
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.explain import explained
from portcullis_ml.gateway.policy.policy import PolicyError
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.wire import Inquiry
from portcullis_ml.gateway.querylog import QueryLogFile, read_log
from portcullis_ml.gateway.replay import replay
from portcullis_ml.gateway.state.events import JournalEvent, pack_by_words, pack_event, unpack_event
from portcullis_ml.gateway.state.stores import open_store
from portcullis_ml.gateway.upstream import checked

MODEL = Softmax()
ABOUT = '[model]\nname = "m"\ninput_shape = [4]\nclasses = 3\nbounds = [-3.0, 3.0]\nexplanation = "why"\n'
SHOWN = ABOUT + "[answers]\nexplains = true\n"
DOUBTS = '[[guard]]\nunit = "tests.gateway.units:Doubts"\n'
BLOCK_AT_3 = (
    '[[guard]]\nunit = "watch"\ndetector = { unit = "tests.gateway.units:At", row = 3 }\nthen = { unit = "block" }\n'
)
X = np.array([[0.1, 0.2, 0.3, 0.4], [1.0, -1.0, 0.5, 0.25]])


def answer(x: np.ndarray, explanation: Any = None) -> Answer:
    scores = MODEL.scores(x)
    labels = scores.argmax(axis=1)
    return Answer(labels, scores, MODEL.explain(x, labels) if explanation is None else explanation)


def tensors(tree: Any) -> dict[str, Any]:
    return {o["name"]: o for o in tree["outputs"]}


def same(a: Answer | None, b: Answer | None) -> None:
    assert a is not None
    assert b is not None
    for name, value in vars(a).items():
        np.testing.assert_array_equal(value, vars(b)[name])


# The journal and the log.


@pytest.mark.parametrize("shape", [(2, 4), (2,), (2, 3, 5), (2, 0)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("scores", [True, False])
def test_an_event_keeps_its_explanation(shape: tuple[int, ...], kind: Any, scores: bool) -> None:
    why = np.random.default_rng(0).normal(size=shape).astype(kind).astype(np.float64)
    full = answer(X, why)
    event = JournalEvent("whole", 5.0, x=X, answer=full if scores else Answer(full.labels, None, why))
    for packed in (pack_event(event), pack_by_words(event)):
        found = unpack_event(packed)
        same(found.answer, event.answer)
        assert (found.kind, found.at) == ("whole", 5.0)
        np.testing.assert_array_equal(found.x, X)


def test_a_damaged_event_is_said_to_be_damaged() -> None:
    packed = pack_event(JournalEvent("release", of=1, answer=answer(X)))
    with pytest.raises(InputError, match="damaged"):
        unpack_event(packed[:-1])


def test_an_event_without_explanation_is_written_as_it_was_in_version_3() -> None:
    event = JournalEvent("release", of=7, answer=Answer(np.array([1]), np.array([[0.25, 0.75]])))
    packed = bytes.fromhex(
        "010000ff01020300" "0000000000000000" "0700000000000000" "010000000100000002000000"
        "0100000000000000" "000000000000d03f" "000000000000e83f"
    )  # fmt: skip
    assert pack_event(event) == packed
    same(unpack_event(packed).answer, event.answer)


async def test_a_state_file_of_version_3_is_read_and_becomes_one_of_version_4(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.db")
    store._db.execute("PRAGMA user_version = 3")
    await store.tell("c", 0, JournalEvent("admit", 1.0, x=X), durable=True)
    await store.close()
    store = open_store(f"sqlite:///{tmp_path}/s.db")
    assert len((await store.load("c")).events) == 1
    assert store._db.execute("PRAGMA user_version").fetchone() == (4,)
    await store.close()


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
async def test_live_restarted_and_replayed_a_defense_that_reads_explanations_decides_alike(
    format: str, tmp_path: Path
) -> None:
    log = QueryLogFile(tmp_path / "log", queries=True, format=format)
    here = Here(tmp_path, DOUBTS, ABOUT, querylog=log)
    rng = np.random.default_rng(3)
    for _ in range(8):
        assert (await here.infer(rng.normal(size=(2, 4))))[0] == 200
    before = b"".join(here.streams.fold.pack(here.streams.open["alice"]))
    await here.store.close()
    here.open(querylog=log)
    await here.streams.look("alice")
    assert b"".join(here.streams.fold.pack(here.streams.open["alice"])) == before
    log.close()
    lines = list(read_log(tmp_path / "log"))
    assert all(line.clean is not None and line.clean.explanation is not None for line in lines)
    found = replay(lines, here.policy)
    assert (found.requests, found.different) == (8, [])
    assert found.fates["alice"].altered == 16
    for line in lines:  # a log that had dropped them would not do
        line.clean = Answer(line.clean.labels, line.clean.scores)  # type: ignore[union-attr]
    assert replay(lines, here.policy).fates["alice"].altered == 0


# Towards the client and the model server.


async def test_an_explanation_is_shown_only_where_the_policy_says_so(tmp_path: Path) -> None:
    for more, shown in ((ABOUT, False), (SHOWN, True)):
        folder = tmp_path / str(shown)
        folder.mkdir()
        here = Here(folder, DOUBTS, more)
        _, _, tree = await here.infer(X)
        assert list(tensors(tree)) == ["label", "probabilities", *["why"] * shown]
        status, _, _ = await here.infer(X, outputs=[{"name": "why"}])
        assert status == (200 if shown else 400)
        _, _, about = await here.send("GET", "/v2/models/m")
        assert [o["name"] for o in about["outputs"]] == list(tensors(tree))
        words = orjson.dumps(described(here.policy)).decode()
        assert ('"why"' in words) == shown
        sentences = " ".join(explained(here.policy))
        assert ("and the explanation." in sentences, "for the guard alone" in sentences) == (shown, not shown)
    assert tensors(tree)["why"] == {
        "name": "why", "shape": [2, 4], "datatype": "FP64", "data": answer(X).explanation.ravel().tolist(),  # type: ignore[union-attr]
    }  # fmt: skip
    assert about["outputs"][2] == {"name": "why", "datatype": "FP64", "shape": [-1, 4]}


async def test_a_withheld_rows_explanation_is_null_as_its_scores_are(tmp_path: Path) -> None:
    here = Here(tmp_path, BLOCK_AT_3, SHOWN)
    _, _, tree = await here.infer(np.concatenate([X, X]))
    why = tensors(tree)["why"]["data"]
    assert why[:8] == answer(X).explanation.ravel().tolist()  # type: ignore[union-attr]
    assert why[8:] == tensors(tree)["probabilities"]["data"][6:] + [None] * 2 == [None] * 8


@pytest.mark.parametrize(
    "why", [None, np.full((2, 4), np.nan), np.zeros((2, 3)), np.zeros((1, 4))], ids=["none", "nan", "few", "short"]
)
@pytest.mark.parametrize("protocol", ["v2", "mapping"])
def test_an_upstream_that_does_not_explain_as_it_should_is_a_502(protocol: str, why: Any, tmp_path: Path) -> None:
    more = SHOWN + f'[upstream]\nurl = "http://127.0.0.1:9"\nprotocol = "{protocol}"\n'
    policy = policy_of(MODEL, "", tmp_path, "", more)
    wire = CATALOG.load(protocol)()
    full = answer(X)
    tree: dict[str, Any] = {"labels": full.labels, "scores": full.scores, "explanation": why}
    if protocol == "v2":
        kinds = {"label": full.labels, "probabilities": full.scores, "why": why}
        tree = {"outputs": [
            {"name": n, "shape": v.shape, "datatype": "INT64" if n == "label" else "FP64", "data": v.ravel().tolist()}
            for n, v in kinds.items() if v is not None
        ]}  # fmt: skip
    body = re.sub(rb"NaN", b"null", orjson.dumps(tree, option=orjson.OPT_SERIALIZE_NUMPY))
    with pytest.raises(Unreachable, match=r"not finite or not complete|explanations of shape 2 x 4; it sent"):
        checked(wire.understand(policy.asked, 2, {}, body), 2, policy.asked)


@pytest.mark.parametrize("protocol", ["v2", "mapping"])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("shape", [None, (2, 2)])
def test_what_one_side_writes_the_other_reads(protocol: str, binary: bool, shape: Any) -> None:
    served = served_of(MODEL, explanation="why", explanation_shape=shape, binary=binary)
    wire = CATALOG.load(protocol)()
    full = answer(X, answer(X).explanation.reshape(2, *(shape or (4,)))).withhold(np.array([False, True]))  # type: ignore[union-attr]
    reply = wire.write(served, Inquiry(X, binary=served.outputs if binary else ()), full)
    same(wire.understand(served, 2, dict(reply.headers), reply.body), full)
    ask = wire.ask(served, X)
    np.testing.assert_array_equal(wire.read(served, ask.headers, ask.body).x, X)


def test_a_mapping_puts_the_explanation_at_its_path() -> None:
    served = served_of(MODEL, explanation="why", options={"explanation": "$.result.saliency"})
    tree = orjson.loads(CATALOG.load("mapping")().write(served, Inquiry(X), answer(X)).body)
    np.testing.assert_array_equal(tree["result"]["saliency"], answer(X).explanation)


def test_a_thief_over_http_reads_the_explanations_that_are_shown(tmp_path: Path) -> None:
    served = served_of(MODEL, explanation="explanation")
    with running(ModelServer(MODEL, served)) as url:
        oracle = HttpOracle(url, interface=served.interface, budget=10, model="m")
        same(oracle.query(X), answer(X))
        oracle.close()
        more = f'{SHOWN}[upstream]\nurl = "{url}"\nprotocol = "v2"\nexplanation = "explanation"\n'
        more += '[listen]\nport = 0\nprotocols = ["mapping"]\n[clients]\nanonymous = "shared"\n'
        with gate(policy_of(MODEL, "", tmp_path, DOUBTS, more)) as server:
            behind = HttpOracle(server.url, interface=served.interface, budget=10, model="m", protocol="mapping")
            found = behind.query(X)
            behind.close()
    np.testing.assert_array_equal(found.explanation, answer(X).explanation)
    assert not np.array_equal(found.scores, answer(X).scores)
    with pytest.raises(ParameterError, match="a place for explanations"):
        HttpOracle("http://127.0.0.1:9", interface=served.interface, budget=1, protocol="v1")


# Policies.


@pytest.mark.parametrize(
    ("more", "line", "sentence"),
    [
        (ABOUT.replace('"why"', "5"), "explanation", "explanation must be text"),
        (ABOUT + "explanation_shape = 4\n", "explanation_shape", "must be a list of ints"),
        (ABOUT + "explanation_shape = [0]\n", "explanation_shape", "must be a list of ints"),
        (SHOWN.replace("true", '"yes"'), "explains", "explains must be true or false"),
        (SHOWN.replace('explanation = "why"\n', ""), "explains", "must name the output tensor that explains"),
        (
            ABOUT.replace('explanation = "why"\n', "") + '[upstream]\nurl = "http://h:1"\nexplanation = "why"\n',
            "explanation",
            "must name the output tensor that explains",
        ),
        (ABOUT + '[upstream]\nurl = "http://h:1"\nprotocol = "v1"\n', "protocol", "v1 has no place for explanations"),
        (SHOWN + '[listen]\nprotocols = ["v2", "invocations"]\n', "protocols", "invocations has no place for"),
    ],
)
def test_a_policy_that_cannot_explain_is_refused_by_line(more: str, line: str, sentence: str, tmp_path: Path) -> None:
    text = policy_text(MODEL, "http://127.0.0.1:9", tmp_path, "", more)
    with pytest.raises(PolicyError, match=sentence) as error:
        policy_of(MODEL, "http://127.0.0.1:9", tmp_path, "", more)
    assert text.splitlines()[error.value.line - 1].startswith(f"{line} =")


def test_a_protocol_without_a_place_may_be_spoken_where_nobody_is_shown_explanations(tmp_path: Path) -> None:
    policy = policy_of(MODEL, "http://127.0.0.1:9", tmp_path, "", ABOUT + '[listen]\nprotocols = ["v1"]\n')
    assert (policy.served.explanation, policy.asked.explanation) == (None, "why")


# Without a gate.


async def test_guarded_and_a_local_upstream_explain() -> None:
    interface = interface_of(MODEL, explains=True)
    guarded = Guarded(MODEL, Guard(Rounding(decimals=1), key=SECRET), interface=interface)
    found = guarded.answer(X, client="c")
    np.testing.assert_array_equal(found.explanation, answer(X).explanation)
    same(await LocalUpstream(MODEL, interface).ask(X, {}), answer(X))
    with pytest.raises(NotApplicable, match="this API has none"):
        Guarded(MODEL, Guard(Doubts(), key=SECRET))
