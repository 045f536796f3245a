"""`portcullis verify` and suspects or bundles that make it hard: no false claim, and one sentence that says why."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.harness import running

from portcullis_ml.core.types import Array, Interface
from portcullis_ml.court.verdict import AGAIN
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.protocols.wire import ModelSpec
from portcullis_ml.models.load import load_model

from .test_watermark import answer, call, dated, files, marked, skops_io, verify

__all__ = ["dated", "files"]

PAIRS = 20


class Counting:
    """A model made of a function, which counts the rows that it was asked."""

    def __init__(self, scores: Callable[[Array], Array], columns: int = 6, n_classes: int = 4) -> None:
        self._scores, self.input_shape, self.n_classes = scores, (columns,), n_classes
        self.rows = 0

    def scores(self, x: Array) -> Array:
        self.rows += len(x)
        return self._scores(x)


class Suspect:
    """A model server that answers so many requests, and all later ones with a status and a sentence."""

    def __init__(self, model: Counting, *, room: int = 1_000, status: int = 403, says: str = "no") -> None:
        interface = Interface(input_shape=model.input_shape, n_classes=model.n_classes)
        self.server = ModelServer(model, ModelSpec(name="model", interface=interface))
        self.room, self.status, self.says = room, status, says
        self.requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.requests >= self.room:
            await sent(send, {"error": self.says}, self.status)
            return
        self.requests += 1
        await self.server(scope, receive, send)


class LabelsOnly:
    """A model server whose only output is the class."""

    def __init__(self, model: Any) -> None:
        self.model = model

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message.get("more_body"):
                break
        tensor = json.loads(body)["inputs"][0]
        labels = self.model.scores(np.reshape(tensor["data"], tensor["shape"])).argmax(axis=1).tolist()
        output = {"name": "label", "datatype": "INT64", "shape": [len(labels)], "data": labels}
        await sent(send, {"model_name": "model", "outputs": [output]}, 200)


async def sent(send: Any, body: dict[str, Any], status: int) -> None:
    head = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


@pytest.fixture
def stolen(files: None, dated: None) -> Counting:
    """A model that carries the mark of b.zip."""
    marked()
    return Counting(load_model("marked", input_shape=(6,), n_classes=4).scores)


def asked(suspect: Any, *words: object, code: int) -> dict[str, Any]:
    with running(suspect) as url:
        return verify(*words, suspect=url, code=code)


def test_a_suspect_behind_an_api_is_convicted(stolen: Counting) -> None:
    assert asked(Suspect(stolen), code=0)["verdict"] == "derived"
    assert stolen.rows == PAIRS + AGAIN


@pytest.mark.parametrize(("columns", "n_classes"), [(5, 4), (6, 5), (6, 3)], ids=["inputs", "more", "fewer"])
def test_a_key_of_another_interface_says_nothing_of_an_api(stolen: Counting, columns: int, n_classes: int) -> None:
    other = Counting(lambda x: np.full((len(x), n_classes), 1 / n_classes), columns, n_classes)
    found = asked(Suspect(other), code=3)
    assert found["verdict"] == "inconclusive"
    assert "does not answer as a model of the key's interface" in found["sentence"]
    assert found["evidence"] is None
    assert "Nothing can be said.</h1>" in Path("portcullis-verify/certificate.html").read_text()


@pytest.mark.parametrize(("columns", "n_classes"), [(5, 4), (6, 5)], ids=["inputs", "classes"])
def test_a_key_of_another_interface_says_nothing_of_a_model_in_a_file(
    stolen: Counting, columns: int, n_classes: int
) -> None:
    from sklearn.tree import DecisionTreeClassifier

    x = np.random.default_rng(0).random((60, columns))
    skops_io.dump(DecisionTreeClassifier().fit(x, np.arange(60) % n_classes), "other.skops")
    found = verify(suspect="other.skops", code=3)
    assert "This key was minted for inputs of (6,) and 4 classes; the suspect has others." in found["sentence"]
    absent = call("verify", "b.zip", "--suspect", "absent.skops", "--released", "2026-02-01", "--roots", "r.pem")
    assert absent.exit_code == 2  # a file that is not there is no suspect of another interface
    assert "There is no file absent.skops" in absent.stderr


def test_other_classes_are_inconclusive_and_another_order_convicts_once_it_is_named(stolen: Counting) -> None:
    order = [3, 0, 1, 2]
    turned = Suspect(Counting(lambda x: stolen.scores(x)[:, order]))
    found = asked(turned, code=1)
    assert found["verdict"] == "not shown"
    assert any("--classes names another" in sentence for sentence in found["evidence"]["assumed"])
    assert asked(turned, "--classes", ",".join(map(str, order)), code=0)["verdict"] == "derived"
    other = asked(turned, "--classes", "0,1,2,fox", code=3)
    assert "they differ in 3, fox" in other["sentence"]


def test_a_suspect_that_refuses_is_inconclusive(stolen: Counting) -> None:
    found = asked(Suspect(stolen, room=0, says="we do not serve courts"), code=3)
    assert "The suspect stopped answering after 0 of 20 questions (we do not serve courts)" in found["sentence"]
    assert stolen.rows == 0


def test_a_suspect_that_answers_labels_only_is_judged_by_them(stolen: Counting) -> None:
    clean = load_model("model.skops", input_shape=(6,), n_classes=4)
    for words in ((), ("--answers", "labels")):
        assert asked(LabelsOnly(stolen), *words, code=0)["verdict"] == "derived"
        assert asked(LabelsOnly(clean), *words, code=1)["verdict"] == "not shown"


def test_a_suspect_that_changes_its_answers_is_not_convicted_and_is_said_to(stolen: Counting) -> None:
    rng = np.random.default_rng(0)
    found = asked(Suspect(Counting(lambda x: np.eye(4)[rng.integers(4, size=len(x))])), code=1)
    assert found["verdict"] == "not shown"
    assert f"It changed {found['changed_answers']} of its answers when asked again." in found["sentence"]


def test_a_rate_limited_suspect_is_asked_nothing_twice(stolen: Counting) -> None:
    """The first request is answered, then the rate is said to be too high; the same command goes on later."""
    suspect = Suspect(stolen, room=1, status=429, says="too many requests")
    with running(suspect) as url:
        words = ("verify", "b.zip", "--suspect", url, "--roots", "r.pem", "--released", "2026-02-01")
        limited = call(*words)
        assert limited.exit_code == 2
        assert "answered 429: too many requests" in limited.stderr
        assert "Answers so far are kept and not asked for again." in limited.stderr
        assert "Traceback" not in limited.output
        before = stolen.rows
        assert 0 < before < PAIRS
        suspect.room = 1_000
        found = answer(*words)
    assert found["verdict"] == "derived"
    assert stolen.rows == PAIRS + AGAIN


def test_a_run_that_breaks_off_leaves_no_older_verdict(stolen: Counting) -> None:
    asked(Suspect(stolen), code=0)
    with running(Suspect(stolen, room=0, status=500)) as url:
        assert call("verify", "b.zip", "--suspect", url, "--roots", "r", "--released", "2026-02-01").exit_code == 2
    assert not list(Path("portcullis-verify").glob("verdict.json"))
    assert not list(Path("portcullis-verify").glob("certificate.html"))


def altered(name: str, change: Callable[[str], str]) -> None:
    """b.zip with one of its files changed."""
    with zipfile.ZipFile("b.zip") as archive:
        contents = {entry: archive.read(entry) for entry in archive.namelist()}
    contents[name] = change(contents[name].decode()).encode()
    with zipfile.ZipFile("b.zip", "w") as archive:
        for entry, data in contents.items():
            archive.writestr(entry, data)


def other_label(text: str) -> str:
    """openings.json with another answer in its first pair."""
    found = json.loads(text)
    found["openings"][0]["label"] = (found["openings"][0]["label"] + 1) % 4
    return json.dumps(found)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("openings.json", other_label, "is not the one that was committed to"),
        ("openings.json", lambda t: t.replace('"them"', '"others"'), "shown for another suspect or nonce"),
        ("log.jsonl", lambda t: t.replace('"them"', '"others"'), "does not follow from those before it"),
        ("log.jsonl", lambda t: "".join(t.splitlines(True)[:-1]), "does not say that these pairs were shown"),
        ("log.jsonl", lambda t: "".join(t.splitlines(True)[1:]), "does not follow from those before it"),
        ("log.jsonl", lambda t: t[:-40], "it was changed or cut"),
        ("log.jsonl", lambda t: "", "does not begin with this commitment"),
        ("commitment.json", lambda t: t.replace('"n_classes": 4', '"n_classes": 9'), "another key's log"),
    ],
    ids=["answer", "suspect", "entry", "cut-behind", "cut-before", "cut-inside", "no-log", "commitment"],
)
def test_a_bundle_with_a_broken_link_is_false_and_asks_nothing(
    stolen: Counting, name: str, change: Callable[[str], str], said: str
) -> None:
    altered(name, change)
    found = asked(Suspect(stolen), code=5)
    assert found["verdict"] == "false"
    assert said in found["sentence"]
    assert found["evidence"] is None
    assert stolen.rows == 0
    assert "The claim does not hold.</h1>" in Path("portcullis-verify/certificate.html").read_text()


def test_an_owners_log_that_was_cut_short_shows_no_more_pairs(stolen: Counting) -> None:
    log = Path("mark/log.jsonl")
    log.write_text("".join(log.read_text().splitlines(True)[:-1]))
    result = call("watermark", "bundle", "mark", "--suspect", "them", "--out", "c.zip")
    assert result.exit_code == 2
    assert "do not lead to its head: it was cut short" in result.stderr
    assert not Path("c.zip").exists()


def test_a_bundle_of_an_older_log_is_found_out_by_the_head_that_was_seen(stolen: Counting) -> None:
    """The owner shows pairs to others, and then brings the bundle that they made before."""
    later = answer("watermark", "bundle", "mark", "--suspect", "others", "--pairs", "5", "--out", "c.zip")
    found = verify("--head", later["head"], code=5)
    assert "it is another log, or was cut short" in found["sentence"]
