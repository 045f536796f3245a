"""Home-made services behind a gate, over sockets: an attack meets what it meets offline, whatever the JSON is like."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.harness import KEYS, SECRET, Softmax, gate, policy_of, policy_text, running
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Interface, Reveals
from portcullis_ml.extraction.equation_solving import EquationSolving
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.explain import explained
from portcullis_ml.gateway.policy.policy import Policy, PolicyError
from portcullis_ml.gateway.policy.warn import warnings
from portcullis_ml.gateway.protocols.wire import ModelSpec

NAMED = """
features = [
    { name = "a", low = -3, high = 3 }, { name = "b", low = -3, high = 3 },
    { name = "c", low = -3, high = 3 }, { name = "d", low = -3, high = 3 },
]
"""
FLAT = """
rows = "$.features"
batch = false
scores = "$.probabilities"
scores_as = "object"
labels = "$.label"
"""
RECORDS = """
path = "/score"
rows = "$"
rows_as = "object"
scores = "$[*].p"
labels = "$[*].animal"
"""
RESULTS = """
path = "/v1/score"
rows = "$.data.rows"
scores = "$.results[*].p"
labels = "$.results[*].y"
"""
TOP = """
scores = "$.predictions[*].score"
scores_as = "top"
labels = "$.predictions[*].label"
"""
# what clients speak, what the model server speaks ("" is the same)
SIDES = {
    "flat rows": (FLAT, ""),
    "flat rows for a server of lists": (FLAT, RESULTS),
    "records for flat rows": (RECORDS, FLAT),
    "records": (RECORDS, ""),
    "lists for a server of records": (RESULTS, RECORDS),
}
STAGES = '[[guard]]\nunit = "quota"\nrows = 25\n[[guard]]\nunit = "rounding"\ndecimals = 3\n'


def tables(clients: str, server: str, protocols: str = "mapping", more: str = "") -> str:
    upstream = f"[upstream.mapping]\n{server}" if server else ""
    return (
        '[model]\nname = "m"\ninput_shape = [4]\nclasses = ["cat", "dog", "wolf"]\nbounds = [-3.0, 3.0]\n'
        f'{NAMED}\n[model.mapping]{clients}{more}\n[listen]\nport = 0\nprotocols = ["{protocols}"]\n'
        f'[upstream]\nurl = "URL"\nprotocol = "mapping"\n{upstream}'
    )


def policy(url: str, folder: Path, text: str, stages: str = STAGES) -> Policy:
    return policy_of(Softmax(), "", folder, stages, text.replace("URL", url))


def asked(folder: Path, text: str) -> ModelSpec:
    """The model as the policy knows its server."""
    return policy("http://127.0.0.1:9", folder, text).asked


@pytest.mark.parametrize("sides", SIDES)
def test_an_attack_meets_what_it_meets_offline(sides: str, tmp_path: Path) -> None:
    model, text = Softmax(), tables(*SIDES[sides])
    (tmp_path / "api.toml").write_text(f"[model]\n{NAMED}\n[model.mapping]\n{SIDES[sides][0]}")
    interface = Interface(input_shape=(4,), n_classes=3, bounds=(-3.0, 3.0))
    attack, knowledge = EquationSolving(oversample=8.0), Knowledge()
    with running(ModelServer(model, asked(tmp_path, text), protocols=("mapping",))) as url:
        found = policy(url, tmp_path, text)
        with gate(found) as server:
            online = HttpOracle(
                server.url, interface=interface, budget=40, protocol=str(tmp_path / "api.toml"),
                headers={"x-api-key": KEYS["thief"]}, served={"class_names": ("cat", "dog", "wolf")},
                rows_per_request=7,
            )  # fmt: skip
            over_http = attack(online, knowledge, rng=np.random.default_rng(3))
            online.close()
    offline = LocalOracle(model, interface, budget=40, guard=Guard(*found.stages, key=SECRET))
    here = attack(offline, knowledge, rng=np.random.default_rng(3))
    assert (over_http.queries, over_http.stopped) == (here.queries, here.stopped)
    assert over_http.queries == 25
    np.testing.assert_array_equal(over_http.x, here.x)
    np.testing.assert_array_equal(over_http.answer.labels, here.answer.labels)
    np.testing.assert_array_equal(over_http.answer.scores, here.answer.scores)


@pytest.mark.parametrize("clients", ["mapping", "v2"])
def test_nobody_is_shown_more_than_the_named_classs_score(clients: str, tmp_path: Path) -> None:
    """Without a stage, and with one that reads all scores."""
    model, text = Softmax(), tables(TOP, "", clients) + '[answers]\nreveals = "probs"\n'
    (tmp_path / "api.toml").write_text(TOP)
    interface = Interface(input_shape=(4,), n_classes=3, bounds=(-3.0, 3.0), reveals=Reveals.TOP_K, k=1)
    x = np.random.default_rng(0).uniform(-3, 3, (9, 4))
    with running(ModelServer(model, asked(tmp_path, text), protocols=("mapping",))) as url:
        for stages in (
            "",
            '[[guard]]\nunit = "watch"\ndetector = { unit = "low_confidence" }\nthen = { unit = "log" }\n',
        ):
            found = policy(url, tmp_path, text, stages)
            with gate(found) as server:
                oracle = HttpOracle(
                    server.url, interface=interface, budget=9, model="m", headers={"x-api-key": KEYS["thief"]},
                    protocol="v2" if clients == "v2" else str(tmp_path / "api.toml"),
                    served={"class_names": ("cat", "dog", "wolf")},
                )  # fmt: skip
                answer = oracle.query(x)
                oracle.close()
            scores = model.scores(x)
            np.testing.assert_array_equal(answer.labels, scores.argmax(axis=1))
            assert answer.scores is not None
            np.testing.assert_array_equal(np.isnan(answer.scores).sum(axis=1), 2)
            np.testing.assert_allclose(np.nanmax(answer.scores, axis=1), scores.max(axis=1), rtol=1e-15)
            (tmp_path / "state.db").unlink()
    assert any("nobody is shown that" in sentence for sentence in explained(found))


def test_a_service_of_objects_by_name_is_inspected_from_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTCULLIS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "api.toml").write_text(f"[model]\n{NAMED}\n[model.mapping]\n{RECORDS}")
    x = np.random.default_rng(1).uniform(-3, 3, (40, 4))
    labels = np.array(["cat", "dog", "wolf"])[Softmax().scores(x).argmax(axis=1)]
    np.savez(tmp_path / "test.npz", x=x, y=labels)
    spec = asked(tmp_path, tables(RECORDS, ""))
    with running(ModelServer(Softmax(), spec, protocols=("mapping",))) as url:
        words = ["--protocol", str(tmp_path / "api.toml"), "--classes", "cat,dog,wolf"]
        told = CliRunner().invoke(app, ["inspect", "--victim", url, "--test", str(tmp_path / "test.npz"), *words])
    assert told.exit_code == 0, told.output
    assert "100.0% answered as labelled" in " ".join(told.output.split())


class Recorded:
    """An application, and the bodies that it was sent."""

    def __init__(self, app: Any) -> None:
        self.app, self.bodies = app, list[Any]()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def seen() -> Any:
            message = await receive()
            self.bodies.append(json.loads(message["body"] or b"null"))
            return message

        await self.app(scope, seen, send)


def post(url: str, tree: Any) -> tuple[int, Any]:
    headers = {"x-api-key": KEYS["alice"], "content-type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(tree).encode(), headers)) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_extras_reach_the_model_server_and_others_do_not(tmp_path: Path) -> None:
    text = tables(FLAT, RESULTS, more='extras = ["$.lang", "$.options.top"]\n')
    behind = Recorded(ModelServer(Softmax(), asked(tmp_path, text), protocols=("mapping",)))
    with running(behind) as url, gate(policy(url, tmp_path, text)) as server:
        row = [0.5, 0.25, -1.0, 2.0]
        status, said = post(f"{server.url}/predict", {"features": row, "lang": "de", "options": {"top": 3}})
        assert status == 200
        assert said["label"] in ("cat", "dog", "wolf")
        assert behind.bodies[-1] == {"data": {"rows": [row]}, "lang": "de", "options": {"top": 3}}
        known = len(behind.bodies)
        for extra in ({"user": "x"}, {"options": {"temperature": 2}}, {"lang": ["de"]}):
            status, said = post(f"{server.url}/predict", {"features": row, **extra})
            assert status == 400
            assert said["error"].endswith(".")
        assert len(behind.bodies) == known


def test_a_request_holds_no_more_rows_than_the_model_server_takes(tmp_path: Path) -> None:
    text = tables(RECORDS, FLAT)
    with (
        running(ModelServer(Softmax(), asked(tmp_path, text), protocols=("mapping",))) as url,
        gate(policy(url, tmp_path, text)) as server,
    ):
        row = {"a": 1, "b": 2, "c": 0, "d": -1}
        assert post(f"{server.url}/score", [row])[0] == 200
        status, said = post(f"{server.url}/score", [row, row])
        assert (status, said) == (413, {"error": '"$" must hold 1 to 1 rows; got 2.'})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/ws", "/predict/stream"])
def test_a_route_that_is_not_spoken_is_404_with_a_sentence(path: str, tmp_path: Path) -> None:
    with gate(policy("http://127.0.0.1:9", tmp_path, tables(FLAT, ""))) as server:
        status, said = post(server.url + path, {"messages": []})
    assert status == 404
    assert said["error"].endswith(".")


WORDS = {
    "openai": "Chat and completion routes do not pass",
    "chat": "Chat and completion routes do not pass",
    "sse": "Streamed answers do not pass",
    "ws": "Streamed answers do not pass",
    "jobs": "Jobs do not pass",
    "soap": "one of grpc, invocations, mapping, pictures, v1, v2",
}


@pytest.mark.parametrize(("word", "said"), WORDS.items())
def test_what_does_not_pass_is_said_where_it_is_asked_for(word: str, said: str, tmp_path: Path) -> None:
    text = tables(FLAT, "")
    for wrong in (text.replace('protocol = "mapping"', f'protocol = "{word}"'), tables(FLAT, "", word)):
        with pytest.raises(PolicyError, match=said) as error:
            policy("http://127.0.0.1:9", tmp_path, wrong)
        assert error.value.line
    with pytest.raises(ParameterError, match=said):
        HttpOracle("http://127.0.0.1:9", interface=Interface(input_shape=(4,), n_classes=3), budget=1, protocol=word)
    np.savez(tmp_path / "test.npz", x=np.zeros((4, 4)), y=np.array([0, 1, 2, 0]))
    victim = ["--victim", "http://127.0.0.1:9", "--test", str(tmp_path / "test.npz")]
    told = CliRunner().invoke(app, ["inspect", *victim, "--protocol", word])
    assert told.exit_code == 2
    assert said in " ".join(told.stderr.split())


EXTRAS = tables(FLAT, "", more='extras = ["$.lang"]\n')
MISTAKES = [
    (EXTRAS.replace('protocol = "mapping"', 'protocol = "v2"'), "extras",
     "the protocol v2 of the model server has no place for keys"),
    (f'{EXTRAS}[upstream.mapping]\nrows = "$.lang"\n', "[upstream.mapping]", "paths beside the rows at $.lang"),
    (tables(FLAT, 'extras = ["$.a"]\n'), 'extras = ["$.a"]', "'extras' is not known here"),
    (tables(FLAT, 'scores_as = "number"\n'), "scores_as = \"number\"",
     "one of list, object, top and pairs for 3 classes"),
    (tables(FLAT, 'rows = "x"\n'), 'rows = "x"', "rows must be written"),
    (tables(FLAT, "").replace(NAMED, "").replace("[model.mapping]", '[model.mapping]\nrows_as = "object"'),
     "rows_as", "where [model] features does not name the columns"),
    (tables(FLAT, "") + 'mapping = "x"\n', 'mapping = "x"', "a table: write [upstream.mapping]"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "said"), MISTAKES, ids=[said for *_, said in MISTAKES])
def test_sides_that_do_not_fit_are_refused_by_their_line(text: str, line: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as error:
        policy("http://127.0.0.1:9", tmp_path, text)
    assert said in str(error.value)
    whole = policy_text(Softmax(), "", tmp_path, STAGES, text.replace("URL", "http://127.0.0.1:9"))
    assert line in whole.splitlines()[error.value.line - 1]


def test_check_says_what_is_asked_and_notes_what_the_guard_does_not_see(tmp_path: Path) -> None:
    found = policy("http://127.0.0.1:9", tmp_path, tables(FLAT, RESULTS, more='extras = ["$.lang"]\n'))
    said = " ".join(explained(found))
    assert "Clients post /predict with one row of numbers at $.features" in said
    assert "and get for each its scores by the classes' names at $.probabilities and its class at $.label." in said
    assert "asked at /v1/score with a list of rows of numbers at $.data.rows and answers for each its scores" in said
    assert "$.lang are passed on, and the guard does not see them." in " ".join(warnings(found))
    unused = tables(FLAT, RECORDS).replace('protocol = "mapping"', 'protocol = "v2"')
    assert "[upstream.mapping] is not used" in " ".join(warnings(policy("http://127.0.0.1:9", tmp_path, unused)))


def test_a_code_without_a_word_is_one_sentence_to_an_auditor(tmp_path: Path) -> None:
    (tmp_path / "api.toml").write_text(
        '[model]\nfeatures = [{ name = "a" }, { name = "city", values = ["Bern", "Basel"] }]\n'
        '[model.mapping]\nrows_as = "object"\n'
    )
    interface = Interface(input_shape=(2,), n_classes=3)
    oracle = HttpOracle("http://127.0.0.1:9", interface=interface, budget=5, protocol=str(tmp_path / "api.toml"))
    with pytest.raises(InputError, match=r"cannot be asked such a row. 'city' must be a category's code"):
        oracle.query(np.array([[0.0, 0.5]]))
    wide = Interface(input_shape=(3,), n_classes=3)
    with pytest.raises(ParameterError, match=r"\(3,\) columns"):
        HttpOracle("http://127.0.0.1:9", interface=wide, budget=5, protocol=str(tmp_path / "api.toml"))
