"""Texts through a whole gate: the audit's answers are the gate's, whoever speaks which protocol, before and after a
restart, and in a replay."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.asgi import Here
from tests.gateway.harness import KEYS, SECRET, alarms_of, gate, policy_text, running
from tests.gateway.texts import CLASSES, TEXTS, policy, scores_of, victim

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.types import Answer, Interface, Request
from portcullis_ml.extraction.active_thief import ActiveThief
from portcullis_ml.extraction.knockoff import Knockoff
from portcullis_ml.gateway.guarded import LocalUpstream
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.policy import parse_policy, undefended
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.texts import Hashing, TextInput
from portcullis_ml.gateway.protocols.wire import Carried, ModelSpec
from portcullis_ml.gateway.querylog import read_log
from portcullis_ml.gateway.replay import replay
from portcullis_ml.models.texts import TextInterface, TextModel, Texts
from portcullis_ml.models.tfidf import TfidfLearner

ABLE = ("v2", "v1", "invocations", "mapping")
WORDS = "win cash prize offer click now meeting report lunch monday team notes the you we".split()
DOUBTS = (
    '[[guard]]\nunit = "watch"\ndetector = { unit = "low_confidence", threshold = 0.2, below = 0.6, window = 20 }\n'
)
STAGES = {
    "blocked": DOUBTS + 'then = { unit = "block" }\n[[guard]]\nunit = "rounding"\ndecimals = 3\n',
    "labels and noise": '[[guard]]\nunit = "noise"\n' + DOUBTS + 'then = { unit = "label_only" }\n',
    "quota and marks": '[[guard]]\nunit = "quota"\nrows = 100\n[[guard]]\nunit = "dawn"\nrate = 0.2\n',
    "top_k": '[[guard]]\nunit = "top_k"\nk = 1\n[[guard]]\nunit = "reverse_sigmoid"\n',
}
ATTACKS: dict[str, ExtractionAttack] = {"knockoff": Knockoff(batch=32), "active_thief": ActiveThief(rounds=2)}
HASHING = 'rows = { unit = "hashing", dimensions = 32 }\n'


def drawn(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=6)) for _ in range(n)]


def post(url: str, path: str, tree: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    head = {"x-api-key": KEYS["alice"], "content-type": "application/json", **(headers or {})}
    body = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, body, head), timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_attack_steals_the_same_copy(stages: str, name: str, tmp_path: Path) -> None:
    model, spec = victim()
    interface = TextInterface(n_classes=CLASSES)
    pool = interface.texts.add(drawn(200))
    known = Knowledge(pool=pool, learner=TfidfLearner(vectors=("words",)).knowing(interface))
    with running(ModelServer(model, spec)) as upstream:
        found = policy(upstream, tmp_path, STAGES[stages])
        with gate(found) as server:
            online = HttpOracle(
                server.url, interface=interface, budget=150, model="m", headers={"x-api-key": KEYS["thief"]},
                rows_per_request=40,
            )  # fmt: skip
            far = ATTACKS[name](online, known, rng=np.random.default_rng(3))
            online.close()
            alarms = [(a.stage, a.row, a.suspicion) for a in alarms_of(server)]
    guard = Guard(*found.stages, key=SECRET, interface=undefended(found.asked))
    offline = LocalOracle(model.holding(interface.texts), interface, budget=150, guard=guard)
    near = ATTACKS[name](offline, known, rng=np.random.default_rng(3))
    assert (far.queries, far.stopped) == (near.queries, near.stopped)
    np.testing.assert_array_equal(far.x, near.x)
    np.testing.assert_array_equal(far.answer.labels, near.answer.labels)
    np.testing.assert_array_equal(far.answer.scores, near.answer.scores)
    np.testing.assert_array_equal(far.model.scores(pool), near.model.scores(pool))
    assert alarms == [(a.stage, a.row, a.suspicion) for a in offline.alarms]
    assert alarms or "low_confidence" not in STAGES[stages]


@pytest.mark.parametrize("text", ["", HASHING])
@pytest.mark.parametrize("far", ABLE)
@pytest.mark.parametrize("near", ABLE)
def test_clients_and_model_server_may_speak_differently(near: str, far: str, text: str, tmp_path: Path) -> None:
    model, spec = victim()
    with running(ModelServer(model, spec, protocols=(far,))) as upstream:
        more = f'[upstream]\nurl = "{upstream}"\nprotocol = "{far}"\n[listen]\nport = 0\nprotocols = ["{near}"]\n'
        with gate(policy(upstream, tmp_path, more=more, text=text)) as server:
            ask = CATALOG.load(near)().ask(spec, np.zeros((1, 3)), Carried(texts=tuple(TEXTS)))
            status, found = post(server.url, ask.path, ask.body, dict(ask.headers))
    assert status == 200
    reply = CATALOG.load(near)().understand(spec, len(TEXTS), {}, json.dumps(found).encode())
    np.testing.assert_array_equal(reply.scores, scores_of(TEXTS))


PRADA = (
    '[[guard]]\nunit = "quota"\nrows = 150\n[[guard]]\nunit = "noise"\n'
    '[[guard]]\nunit = "watch"\ndetector = { unit = "prada", threshold = 1.01, window = 10 }\n'
    'then = { unit = "label_only" }\n'
)


@pytest.mark.parametrize("kind", ["hash", "hashing"])
def test_a_restart_forgets_nothing_and_a_replay_decides_the_same(kind: str, tmp_path: Path) -> None:
    model, spec = victim()
    text, stages = (HASHING, PRADA) if kind == "hashing" else ("", STAGES["labels and noise"])
    rows = TextInput(hashing=Hashing(dimensions=32)) if kind == "hashing" else TextInput()
    texts = drawn(120, 5)
    answers: list[Any] = []
    with running(ModelServer(model, spec)) as upstream:
        log = f'[log]\npath = "{tmp_path}/log"\nqueries = true\n'
        found = policy(upstream, tmp_path, stages, log, text)
        for part in (texts[:70], texts[70:]):
            with gate(found) as server:
                for start in range(0, len(part), 10):
                    tensor = {"name": "input", "shape": [10], "datatype": "BYTES", "data": part[start : start + 10]}
                    status, tree = post(server.url, "/v2/models/m/infer", {"inputs": [tensor]})
                    assert status == 200
                    answers.append({t["name"]: t["data"] for t in tree["outputs"]})
                alarms = [(a.stage, a.row, a.suspicion) for a in alarms_of(server)]
    guard = found.guard()
    expected = []
    for start in range(0, len(texts), 10):
        part = texts[start : start + 10]
        request = Request("alice", rows.rows(part), 0.0)
        guard.admit(request)
        scores = scores_of(part)
        released = guard.release(request, Answer(scores.argmax(axis=1), scores))
        expected += [(a.stage, a.row, a.suspicion) for a in released.alarms]
        shown = answers[start // 10]
        np.testing.assert_array_equal(shown["label"], released.answer.labels)
        seen = np.array(shown["probabilities"], float).reshape(10, CLASSES)
        np.testing.assert_array_equal(seen, released.answer.scores)
    assert alarms == expected
    assert alarms
    again = replay(read_log(tmp_path / "log"), found)
    assert again.requests == 12
    assert again.different == []
    whole = b"".join(path.read_bytes() for path in (tmp_path / "log").iterdir())
    assert b"prize" not in whole
    assert b"prize" not in (tmp_path / "state.db").read_bytes()


def test_texts_of_the_same_words_meet_the_same_noise_and_only_as_counted_words() -> None:
    texts = ["win a prize now", "prize a win now"]
    noise = Noise(SECRET, "noise")
    for text, same in ((TextInput(), False), (TextInput(hashing=Hashing()), True)):
        first, second = noise.uniform(text.rows(texts), 3)
        assert (first == second).all() == same


def test_whatever_is_wrong_with_an_oracle_of_texts_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    interface = TextInterface(n_classes=CLASSES)
    monkeypatch.setattr(CATALOG.load("v1"), "carries", frozenset())
    with pytest.raises(ParameterError, match="one that carries texts"):
        HttpOracle("http://127.0.0.1:9", interface=interface, budget=9, protocol="v1")
    oracle = HttpOracle("http://127.0.0.1:9", interface=interface, budget=9)
    with pytest.raises(InputError, match="half of a surrogate pair"):
        oracle.query(interface.texts.add(["\ud800"]))
    with pytest.raises(InputError, match="stands for none that is known"):
        oracle.query(Texts().add(["unknown"]))


def test_an_api_that_takes_one_text_is_asked_as_its_file_describes_it(tmp_path: Path) -> None:
    model, spec = victim(options={"path": "/one", "rows": "$.text", "batch": False})
    (tmp_path / "api.toml").write_text('path = "/one"\nrows = "$.text"\nbatch = false\n')
    interface = TextInterface(n_classes=CLASSES)
    with running(ModelServer(model, spec, protocols=("mapping",))) as url:
        oracle = HttpOracle(url, interface=interface, budget=9, protocol=str(tmp_path / "api.toml"))
        np.testing.assert_array_equal(oracle.query(interface.texts.add(TEXTS)).scores, scores_of(TEXTS))
        oracle.close()


@pytest.mark.parametrize("text", ["", HASHING])
async def test_a_model_of_texts_in_this_process_is_asked_with_them(text: str, tmp_path: Path) -> None:
    model, spec = victim()
    here = Here(tmp_path)
    here.policy = policy("http://127.0.0.1:1", tmp_path, text=text)
    here.open()
    here.gate.upstream = LocalUpstream(model, here.policy.asked.interface)
    tensor = {"name": "input", "shape": [5], "datatype": "BYTES", "data": TEXTS}
    status, _, tree = await here.send(body=json.dumps({"inputs": [tensor]}).encode())
    assert status == 200
    assert {t["name"]: t["data"] for t in tree["outputs"]}["probabilities"] == scores_of(TEXTS).ravel().tolist()
    with pytest.raises(InputError, match="A TextModel was expected, since texts are asked; got a Softmax"):
        await LocalUpstream(here.model, spec.interface).ask(np.zeros((1, 3)), {}, carried=Carried(texts=("a",)))


def test_an_encoder_of_texts_answers_embeddings(tmp_path: Path) -> None:
    def encoded(texts: list[str]) -> np.ndarray:
        return np.array([[len(text), text.count(" "), -1.5] for text in texts], float)

    texts = Texts()
    about = Interface(input_shape=(3,), task="regression", outputs=3)
    spec = ModelSpec(name="m", interface=about, text=TextInput(), scores="embedding", label=None)
    stages = PRADA.replace('then = { unit = "label_only" }', 'then = { unit = "block" }')
    with running(ModelServer(TextModel(encoded, texts, 0), spec)) as upstream:
        head = f'[upstream]\nurl = "{upstream}"\n[model]\nname = "m"\ntask = "embedding"\ndimensions = 3\n'
        written = policy_text(victim()[0], upstream, tmp_path, stages, f"{head}[model.text]\n{HASHING}")
        with gate(parse_policy(written, folder=tmp_path)) as server:
            tensor = {"name": "input", "shape": [5], "datatype": "BYTES", "data": TEXTS}
            status, tree = post(server.url, "/v2/models/m/infer", {"inputs": [tensor]})
    assert status == 200
    (output,) = tree["outputs"]
    moved = np.array(output["data"]).reshape(5, 3) - encoded(TEXTS)
    np.testing.assert_array_equal(moved[0], moved[4])  # the same words in another order: the same noise
    assert (moved[0] != moved[1]).any()


def test_a_text_of_4_mb_is_refused_and_the_gate_lives(tmp_path: Path) -> None:
    model, spec = victim()
    with running(ModelServer(model, spec)) as upstream, gate(policy(upstream, tmp_path)) as server:

        def ask(text: str) -> tuple[int, Any]:
            tensor = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [text]}
            return post(server.url, "/v2/models/m/infer", {"inputs": [tensor]})

        assert ask("a" * 4_000_000)[0] == 413
        assert ask("a" * 10_000)[0] == 200
        for body in (b'{"inputs": [{"data": ["\xff"]}]}', b"[" * 100_000, b'{"inputs": "\\ud800"}'):
            assert post(server.url, "/v2/models/m/infer", body)[0] in (400, 413)
        assert ask("hello")[0] == 200
