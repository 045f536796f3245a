"""Answers without classes that are wider than one column: embeddings, in every protocol, stage and side."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.defenses import test_contract as defenses
from tests.detectors import test_contract as detectors
from tests.gateway.asgi import ALICE, URL, Here
from tests.gateway.harness import KEYS, NUMERIC, SECRET, alarms_of, gate, policy_of, running

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, NotApplicable, Refused, Unreachable
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Answer, Interface, Request
from portcullis_ml.defenses.noise import LogitNoise
from portcullis_ml.extraction.knockoff import Knockoff
from portcullis_ml.gateway.guarded import Guarded
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.explain import explained
from portcullis_ml.gateway.policy.policy import PolicyError
from portcullis_ml.gateway.protocols import CATALOG as PROTOCOLS
from portcullis_ml.gateway.protocols.v2_metadata import differences
from portcullis_ml.gateway.protocols.v2_question import LENGTH
from portcullis_ml.gateway.protocols.wire import Inquiry, ModelSpec
from portcullis_ml.gateway.querylog import read_log
from portcullis_ml.gateway.replay import replay
from portcullis_ml.gateway.upstream import checked

PAGE = Path(__file__).parents[2] / "docs" / "gateway" / "in-front-of" / "embeddings.md"
WIDTH = 5
API = Interface(input_shape=(4,), task="regression", outputs=WIDTH, bounds=(-3, 3))
SERVED = ModelSpec(name="m", interface=API, scores="embedding", label=None)
MODEL = f'[model]\nname = "m"\ninput_shape = [4]\ntask = "embedding"\ndimensions = {WIDTH}\nbounds = [-3.0, 3.0]\n'
E = np.array([[0.1, -2.0, 3.5, 1e-9, 7.0], [0.0, 1.0, 2.0, 3.0, 4.0]])


class Embedder:
    """x W, one row at a time, so that a batch is answered as its rows are, to the last bit."""

    input_shape, n_classes = (4,), 0

    def __init__(self) -> None:
        self.w = np.random.default_rng(0).normal(size=(4, WIDTH))

    def scores(self, x: np.ndarray) -> np.ndarray:
        return np.array([(row[:, None] * self.w).sum(axis=0) for row in x])


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("protocol", NUMERIC)
def test_an_embedding_that_is_written_is_understood(protocol: str, binary: bool) -> None:
    wire = PROTOCOLS.load(protocol)()
    wanted = Inquiry(np.zeros((2, 4)), binary=("embedding",) if binary else (), shape="instances")
    for scores in (E, np.array([[np.nan] * WIDTH, E[1]])):
        reply = wire.write(SERVED, wanted, Answer(None, scores))
        answer = wire.understand(SERVED, 2, dict(reply.headers), reply.body)
        assert answer.labels is None
        np.testing.assert_array_equal(answer.scores, scores)
        assert (LENGTH in dict(reply.headers)) == (binary and protocol == "v2")


@pytest.mark.parametrize("shape", [(2, 4), (2, 6), (5, 2), (2,), (10,), (2, 5, 2)])
@pytest.mark.parametrize("protocol", ["v2", "v1", "mapping"])
def test_an_upstream_that_answers_another_width_is_not_believed(protocol: str, shape: tuple[int, ...]) -> None:
    found = np.ones(shape).tolist()
    tree = {"v2": {"outputs": [{"name": "embedding", "datatype": "FP64", "shape": shape, "data": found}]},
            "v1": {"predictions": found}, "mapping": {"scores": found}}[protocol]  # fmt: skip
    with pytest.raises(Unreachable, match=r"shape 2 x 5; it sent|a list of 2 rows"):
        PROTOCOLS.load(protocol)().understand(SERVED, 2, {}, json.dumps(tree).encode())


def test_an_upstream_may_answer_other_tensors_beside_it_and_none_of_its_numbers_may_be_missing() -> None:
    other = {"name": "tokens", "datatype": "INT64", "shape": [2], "data": [3, 4]}
    mine = {"name": "embedding", "datatype": "FP64", "shape": [2, 5], "data": E.ravel().tolist()}
    wire = PROTOCOLS.load("v2")()
    answer = wire.understand(SERVED, 2, {}, json.dumps({"outputs": [other, mine]}).encode())
    np.testing.assert_array_equal(answer.scores, E)
    gap = {**mine, "data": [None, *E.ravel().tolist()[1:]]}
    with pytest.raises(Unreachable, match="not finite or not complete"):
        checked(wire.understand(SERVED, 2, {}, json.dumps({"outputs": [gap]}).encode()), 2, SERVED)


def test_metadata_tells_the_width_and_names_no_classes() -> None:
    told = json.loads(PROTOCOLS.load("v2")().tell(SERVED, "model").body)
    assert told["outputs"] == [{"name": "embedding", "datatype": "FP64", "shape": [-1, WIDTH]}]
    assert differences(SERVED, told) == []
    told["outputs"][0]["shape"] = [-1, 768]
    assert differences(SERVED, told) == [
        "The output 'embedding' has shape [-1, 768]; the policy says 5 scores a row: see [model] dimensions."
    ]


# The catalogs.


def table() -> dict[str, bool]:
    """The page's table of stages."""
    return {
        name: word == "yes" for name, word in re.findall(r"^\| `(\w+)` \| (yes|no) \|", PAGE.read_text(), flags=re.M)
    }


def test_the_page_names_every_stage_and_detector() -> None:
    assert sorted(table()) == sorted([*defenses.CATALOG, *detectors.CATALOG])


@pytest.mark.parametrize("case", defenses.CASES)
def test_each_defense_works_on_embeddings_or_is_refused_when_it_is_bound(case: str) -> None:
    name, variant = case.partition("-")[::2]
    unit = defenses.CATALOG.load(name)(**defenses.VARIANTS.get(case, defenses.REQUIRED.get(name, {})))
    if not table()[name] or (name == "watch" and variant in ("calm", "label_only", "other_class")):
        with pytest.raises(NotApplicable, match=r"needs an API that predicts classes; this one does regression\."):
            unit.bind(API)
        return
    stage, x = unit.bind(API), np.random.default_rng(2).normal(size=(12, 4))
    answer = Answer(None, Embedder().scores(x))
    shown = stage.release(Request("a", x), answer, answer, stage.start(), defenses.noise())
    assert shown.labels is None
    assert shown.scores.shape == (12, WIDTH)
    heads = [(Request("a", x[i : i + 1]), answer.take([i])) for i in range(2)]
    once = [stage.release(asked, one, one, stage.start(), defenses.noise()) for asked, one in heads]
    if not stage.detectors():
        np.testing.assert_array_equal(np.concatenate([a.scores for a in once]), shown.scores[:2])


@pytest.mark.parametrize("name", detectors.CATALOG)
def test_each_detector_works_on_embeddings_or_is_refused_when_it_is_bound(name: str) -> None:
    detector = detectors.made(name)
    if not table()[name]:
        with pytest.raises(NotApplicable, match=rf"^{name} needs .*; this one does regression\."):
            detector.bind(API)
        return
    bound, x = detector.bind(API), np.random.default_rng(2).normal(size=(150, 4))
    answer = Answer(None, Embedder().scores(x))
    found = bound.update(bound.start(), Request("a", x), answer)
    one = bound.update(bound.start(), Request("a", x), Answer(np.zeros(150, np.int64)))
    np.testing.assert_array_equal(found, one)
    assert np.isfinite(found).any()


def test_noise_moves_a_whole_embedding_by_its_size_at_most() -> None:
    x = np.random.default_rng(3).normal(size=(50, 4))
    guard = Guard(LogitNoise(eps=0.25), key=SECRET, interface=API)
    request, clean = Request("a", x), Answer(None, Embedder().scores(x))
    guard.admit(request)
    moved = np.linalg.norm(guard.release(request, clean).answer.scores - clean.scores, axis=1)
    assert 0.1 < moved.mean() <= moved.max() <= 0.25 + 1e-9


# The policy.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((f"dimensions = {WIDTH}\n", ""), "dimensions must be given for an embedding"),
        ((f"dimensions = {WIDTH}", "dimensions = 0"), "a whole number from 1 to 65536"),
        ((f"dimensions = {WIDTH}", "dimensions = true"), "a whole number from 1 to 65536"),
        (('task = "embedding"', "classes = 3"), 'given with task = "embedding" or "regression" alone'),
        (('task = "embedding"', 'task = "embeddings"'), "one of classification, regression, embedding"),
        (('task = "embedding"', 'task = "embedding"\nclasses = 3'), "else 0"),
    ],
    ids=str,
)
def test_what_cannot_be_an_embedding_is_refused(change: tuple[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as error:
        policy_of(Embedder(), "http://h", tmp_path, more=MODEL.replace(*change))
    assert words in str(error.value)


@pytest.mark.parametrize("stage", ['unit = "top_k"', 'unit = "watch"\ndetector = { unit = "low_confidence" }\n'
                                   'then = { unit = "log" }', 'unit = "watch"\ndetector = { unit = "prada" }\n'
                                   'then = { unit = "label_only" }'])  # fmt: skip
def test_a_stage_that_needs_classes_is_refused_at_its_line(stage: str, tmp_path: Path) -> None:
    with pytest.raises(
        PolicyError, match=r"line \d+: \w+ needs an API that predicts classes; this one does regression"
    ):
        policy_of(Embedder(), "http://h", tmp_path, f"[[guard]]\n{stage}\n", MODEL)


def test_check_says_how_wide_the_answers_are(tmp_path: Path) -> None:
    policy = policy_of(Embedder(), "http://h", tmp_path, more=MODEL)
    assert (policy.served.scores, policy.served.label, policy.shown.outputs) == ("embedding", None, WIDTH)
    assert "knows no classes, but answers 5 numbers; the gate asks" in next(iter(explained(policy)))
    several = policy_of(Embedder(), "http://h", tmp_path, more=MODEL.replace('"embedding"', '"regression"'))
    assert (several.served.scores, several.served.interface.outputs) == ("probabilities", WIDTH)


def test_every_block_of_the_page_is_a_policy(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), flags=re.S)
    found = [policy_of(Embedder(), "", tmp_path, more=block) for block in blocks]
    assert [(p.upstream.protocol, p.asked.interface.outputs) for p in found] == [("v2", 384), ("mapping", 384)]  # type: ignore[union-attr]


# Through a whole gate.

STAGES = (
    '[[guard]]\nunit = "quota"\nrows = 250\n[[guard]]\nunit = "noise"\neps = 0.5\n'
    '[[guard]]\nunit = "rounding"\ndecimals = 3\n'
    '[[guard]]\nunit = "watch"\ndetector = { unit = "prada", threshold = 1.5 }\nthen = { unit = "block" }\n'
)
CALM = STAGES.replace('"block"', '"log"')


def stream() -> np.ndarray:
    """Two seeds, and steps along one line from each."""
    rng = np.random.default_rng(4)
    seeds = rng.normal(size=(30, 4))
    return np.concatenate([seeds, *(seeds + 0.05 * k * np.array([1.0, -1.0, 0.5, 0.0]) for k in range(1, 9))])


def collected(oracle: Any) -> tuple[list[np.ndarray], str]:
    """What is answered to the stream, until it is refused."""
    found = []
    for rows in np.split(stream(), 27):
        try:
            found.append(oracle.query(rows).scores)
        except Refused as refusal:
            if refusal.answered is not None:
                found.append(refusal.answered.scores)
            return found, refusal.reason
    return found, ""


@pytest.mark.parametrize("stages", [STAGES, CALM], ids=["block", "quota"])
@pytest.mark.parametrize(("protocol", "binary"), [("v2", False), ("v2", True), ("v1", False), ("mapping", False)])
def test_what_the_gate_lets_out_is_what_the_guard_lets_out(
    protocol: str, binary: bool, stages: str, tmp_path: Path
) -> None:
    stub = replace(SERVED, max_rows=1024)
    with running(ModelServer(Embedder(), stub, protocols=("v2", "v1", "invocations", "mapping"))) as url:
        more = f'[upstream]\nurl = "{url}"\nprotocol = "{protocol}"\n[listen]\nport = 0\nprotocols = ["{protocol}"]\n'
        policy = policy_of(Embedder(), url, tmp_path, stages, MODEL + more)
        with gate(policy) as server:
            online = HttpOracle(server.url, interface=API, budget=400, model="m", protocol=protocol,
                                served={"scores": "embedding", "label": None, "binary": binary},
                                headers={"x-api-key": KEYS["thief"]})  # fmt: skip
            found, reason = collected(online)
            online.close()
            alarms = [(a.stage, a.row, a.suspicion) for a in alarms_of(server)]
    offline = LocalOracle(Embedder(), API, budget=400, guard=Guard(*policy.stages, key=SECRET))
    want, said = collected(offline)
    assert reason == said
    assert reason
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(want))
    assert alarms == [(a.stage, a.row, a.suspicion) for a in offline.alarms]
    assert alarms


async def test_a_log_of_embeddings_replays_to_its_decisions(tmp_path: Path) -> None:
    log = f'[log]\npath = "{tmp_path}/log"\nqueries = true\n'
    with running(ModelServer(Embedder(), replace(SERVED, max_rows=1024))) as url:
        policy = policy_of(Embedder(), url, tmp_path, STAGES, MODEL + log)
        with gate(policy) as server:
            names, key = {"scores": "embedding", "label": None}, {"x-api-key": KEYS["thief"]}
            online = HttpOracle(server.url, interface=API, budget=400, model="m", served=names, headers=key)
            collected(online)
            online.close()
    lines = list(read_log(tmp_path / "log"))
    assert lines[0].clean.scores.shape == (10, WIDTH)  # type: ignore[union-attr]
    same = replay(lines, policy)
    assert same.different == []
    assert same.fates["thief"].altered == same.fates["thief"].was_altered > 0


@pytest.mark.parametrize("mode", ["enforce", "observe"])
async def test_a_client_who_is_blocked_gets_no_number(mode: str, tmp_path: Path) -> None:
    top = 'mode = "observe"\n' if mode == "observe" else ""
    here = Here(tmp_path, '[[guard]]\nunit = "block"\n', MODEL, top)
    here.upstream.ask = _embedding  # type: ignore[method-assign,assignment]
    body = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP64", "data": [0, 1, 0, 1]}]}
    status, _, answer = await here.send("POST", URL, json.dumps(body).encode(), ALICE)
    assert status == (200 if mode == "observe" else 403)
    if mode == "observe":
        (output,) = answer["outputs"]
        assert (output["name"], output["shape"], len(output["data"])) == ("embedding", [1, WIDTH], WIDTH)


async def _embedding(x: np.ndarray, headers: Any, **more: Any) -> Answer:
    return Answer(None, Embedder().scores(x))


def test_a_model_in_this_process_may_answer_embeddings() -> None:
    x = stream()[:3]
    guarded = Guarded(Embedder(), Guard(key=SECRET), interface=API)
    np.testing.assert_array_equal(guarded.predict(x, client="a"), Embedder().scores(x))
    np.testing.assert_array_equal(guarded.predict_proba(x, client="a"), Embedder().scores(x))
    with pytest.raises(InputError, match="must return 3 x 6 scores"):
        Guarded(Embedder(), Guard(key=SECRET), interface=replace(API, outputs=6)).predict(x, client="a")


def test_no_attack_copies_an_embedding_and_says_so() -> None:
    lacking = Knockoff.needs.lacking(API, Knowledge(), "knockoff")
    assert lacking == "knockoff learns one number a row; this API answers 5, which no attack here copies."
