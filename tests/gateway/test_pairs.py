"""Ranked pairs of a class and its score: what is read of a server's, and what clients and oracles get of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.harness import KEYS, Softmax, gate, interface_of, policy_of, running

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer, Interface
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.explain import explained
from portcullis_ml.gateway.policy.policy import PolicyError
from portcullis_ml.gateway.protocols.mapping import JsonPath
from portcullis_ml.gateway.protocols.wire import Inquiry, ModelSpec

WORDS = ("cat", "dog", "eel")
WIRE = JsonPath()
X = np.zeros((2, 4))
MODEL = Softmax()


def spec(classes: tuple[Any, ...] = WORDS, **options: Any) -> ModelSpec:
    interface = Interface(input_shape=(4,), n_classes=len(classes) or 3)
    told = {"scores": "$", "scores_as": "pairs", **options}
    return ModelSpec(name="m", interface=interface, class_names=classes, options=told)


def pair(label: Any, score: Any) -> dict[str, Any]:
    return {"label": label, "score": score}


def read(served: ModelSpec, tree: Any, n: int = 2) -> Answer:
    return WIRE.understand(served, n, {}, json.dumps(tree).encode())


def test_pairs_are_read_in_any_order() -> None:
    tree = [
        [pair("dog", 0.7), pair("cat", 0.2), pair("eel", 0.1)],
        [pair("cat", 0.1), pair("eel", 0.6), pair("dog", 0.3)],
    ]
    answer = read(spec(), tree)
    np.testing.assert_array_equal(answer.labels, [1, 2])
    np.testing.assert_array_equal(answer.scores, [[0.2, 0.7, 0.1], [0.1, 0.3, 0.6]])
    one = read(spec(batch=False), tree[0], 1)
    np.testing.assert_array_equal(one.scores, [[0.2, 0.7, 0.1]])


def test_pairs_stand_where_the_table_says_by_the_names_that_it_says() -> None:
    served = spec((), scores="$.outputs[*].top", pair=["class_id", "p"])
    tree = {"outputs": [{"top": [{"class_id": 2, "p": 1, "box": [0]}]}, {"top": [{"class_id": 0, "p": 0.5}]}]}
    answer = read(served, tree)
    np.testing.assert_array_equal(answer.labels, [2, 0])


def test_of_the_best_alone_the_others_are_withheld_and_the_guard_reads_the_rest_as_spread() -> None:
    served = spec(best=1)
    answer = read(served, [[pair("dog", 0.7)], [pair("eel", 0.6)]])
    np.testing.assert_array_equal(answer.scores, [[np.nan, 0.7, np.nan], [np.nan, np.nan, 0.6]])
    assert (WIRE.given(served).reveals.word, WIRE.given(served).k) == ("top_k", 1)
    assert WIRE.given(spec()).reveals.word == WIRE.given(spec(best=3)).reveals.word == "probs"


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ([[pair("dog", 0.7)]], "a list of pairs for each of 2 rows"),
        ({"a": 1}, "a list of pairs for each of 2 rows"),
        ([[{"label": "dog"}], []], "pairs of 'label' and 'score'"),
        ([[pair("dog", 0.7), pair("dog", 0.1)], []], "name each class of a row once"),
        ([[pair("cow", 0.7)], []], "the class 'cow'; "),
        ([[pair(None, 0.7)], []], "name each class"),
        ([[pair("dog", "0.7")], []], "scores as numbers"),
        ([[pair("dog", True)], []], "scores as numbers"),
    ],
)
def test_what_is_no_list_of_pairs_is_not_believed(tree: Any, sentence: str) -> None:
    with pytest.raises(Unreachable, match=sentence):
        read(spec(), tree)


def test_more_pairs_than_the_best_are_not_believed() -> None:
    with pytest.raises(Unreachable, match="2 pairs a row at most: see best"):
        read(spec(best=2), [[pair(w, 0.3) for w in WORDS], []])


@given(
    scores=st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=4),
    hidden=st.lists(st.sampled_from(["all", "some", "row", "none"]), min_size=4, max_size=4),
    names=st.sampled_from([WORDS, (), (1, 2, 7), (-1, 0, 1)]),
)
def test_what_a_client_is_written_an_oracle_reads(scores: Any, hidden: list[str], names: tuple[Any, ...]) -> None:
    held = np.array(scores)
    labels = held.argmax(axis=1)
    for i, what in enumerate(hidden[: len(held)]):
        if what in ("all", "row"):
            held[i] = np.nan
        if what == "some":
            kept = held[i, labels[i]]
            held[i] = np.nan
            held[i, labels[i]] = kept
        if what == "row":
            labels[i] = -1
    served = spec(names)
    body = WIRE.write(served, Inquiry(np.zeros((len(held), 4))), Answer(labels, held)).body
    again = WIRE.understand(served, len(held), {}, body)
    np.testing.assert_array_equal(again.labels, labels)
    np.testing.assert_array_equal(again.scores, held)


def tables(**more: Any) -> str:
    lines = "\n".join(f"{k} = {json.dumps(v)}" for k, v in {"scores": "$", "scores_as": "pairs", **more}.items())
    about = 'name = "m"\ninput_shape = [4]\nclasses = ["cat", "dog", "eel"]\nbounds = [-3.0, 3.0]\n'
    return f'[listen]\nport = 0\nprotocols = ["mapping"]\n[model]\n{about}[model.mapping]\n{lines}\n'


async def pipeline(scope: Any, receive: Any, send: Any) -> None:
    """A server that answers as a pipeline of Hugging Face does, the best two of three."""
    body = json.loads((await receive())["body"])
    rows = [
        sorted(zip(WORDS, row, strict=True), key=lambda p: -p[1])[:2] for row in MODEL.scores(np.array(body["inputs"]))
    ]
    told = json.dumps([[pair(w, p) for w, p in row] for row in rows]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": told})


def test_through_a_gate(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (5, 4))
    with running(pipeline) as url:
        known = policy_of(
            MODEL, url, tmp_path, "", f'{tables(best=2)}[upstream]\nurl = "{url}"\nprotocol = "mapping"\n'
        )
        assert "The model server tells the 2 best scores alone" in " ".join(explained(known))
        with gate(known) as server:
            oracle = HttpOracle(
                server.url, interface=interface_of(MODEL), budget=9, protocol="mapping",
                headers={"x-api-key": KEYS["alice"]},
                served={"class_names": WORDS, "options": {"scores": "$", "scores_as": "pairs"}},
            )  # fmt: skip
            answer = oracle.query(x)
            oracle.close()
    scores = MODEL.scores(x)
    np.testing.assert_array_equal(answer.labels, scores.argmax(axis=1))
    worst = scores.argmin(axis=1)
    assert np.isnan(answer.scores[np.arange(5), worst]).all()
    assert np.isnan(answer.scores).sum() == 5
    np.testing.assert_allclose(np.nanmax(answer.scores, axis=1), scores.max(axis=1))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"labels": "$.y"}, 'labels must be "", as the pairs name the classes'),
        ({"pair": ["a"]}, "two keys such as"),
        ({"pair": ["a", "a"]}, "two different keys"),
        ({"best": -1}, "how many pairs a row"),
        ({"best": 2, "scores_as": "list", "labels": ""}, "0 where scores_as is not"),
    ],
)
def test_wrong_tables_are_refused_by_their_line(tmp_path: Path, more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PolicyError, match=sentence):
        policy_of(MODEL, "http://127.0.0.1:9", tmp_path, "", tables(**more))


def test_a_mapping_that_never_had_pairs_is_as_before() -> None:
    served = replace(spec(), options={})
    assert json.loads(WIRE.write(served, Inquiry(X), Answer(np.array([0, 1]), np.eye(3)[:2])).body) == {
        "scores": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        "labels": ["cat", "dog"],
    }
