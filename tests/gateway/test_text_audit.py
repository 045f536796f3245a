"""An audit of an API of texts at an address is the audit of its model, and no text is asked twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.harness import running
from tests.gateway.test_text_gate import drawn
from tests.gateway.texts import CLASSES, scores_of
from typer.testing import CliRunner

from portcullis_ml.bench import experiment, grading
from portcullis_ml.cli.app import app
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.policy.policy import parse_policy
from portcullis_ml.gateway.protocols.texts import TextInput
from portcullis_ml.gateway.protocols.wire import ModelSpec
from portcullis_ml.models.texts import TextInterface, TextModel, Texts
from portcullis_ml.report.policy import policy_text

ASKED: list[str] = []


def answers(texts: list[str]) -> np.ndarray:
    return scores_of(texts)


def counted(texts: list[str]) -> np.ndarray:
    ASKED.extend(texts)
    return scores_of(texts)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the model, beside files of texts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORTCULLIS_CACHE", str(tmp_path / "cache"))
    ASKED.clear()
    test = drawn(60, 1)
    rows = zip(test, scores_of(test).argmax(axis=1).tolist(), strict=True)
    Path("test.jsonl").write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows))
    Path("pool.txt").write_text("\n".join(drawn(100, 2)))
    texts = Texts()
    spec = ModelSpec(name="m", interface=TextInterface(n_classes=CLASSES, texts=texts), text=TextInput(), max_rows=1024)
    with running(ModelServer(TextModel(counted, texts, CLASSES), spec)) as url:
        yield url


def call(verb: str, victim: str, *words: str) -> dict[str, Any]:
    experiment._load.cache_clear()  # as in another process
    grading._plain_exam.cache_clear()
    files = ["--test", "test.jsonl", "--pool", "pool.txt"]
    told = CliRunner().invoke(app, [verb, "--victim", victim, *files, *words, "--json"])
    assert told.exit_code == 0, f"{told.output}{told.exception}"
    return json.loads(told.stdout)  # type: ignore[no-any-return]


def audit(victim: str, out: str, *words: str) -> dict[str, Any]:
    small = ["--attacks", "knockoff", "--defenses", "rounding(decimals=1)", "--budget", "60", "--seeds", "1"]
    return call("audit", victim, *small, "--learner", "tfidf(vectors=('words',))", "--jobs", "0", "--out", out, *words)


def test_an_audit_of_an_api_of_texts_is_the_audit_of_its_model(api: str) -> None:
    there = audit(api, "there", "--model-name", "m")
    here = audit(f"{__name__}:answers", "here", "--text", "text")
    rows = [[(r["attack"], r["defense"], r["queries"], r["outcome"]) for r in found["rows"]] for found in (there, here)]
    assert rows[0] == rows[1]  # what is drawn depends on the victim's name
    assert len(rows[0]) > 4
    assert {outcome for *_, outcome in rows[0]} == {"done"}
    assert any("The victim is the API at" in note for note in there["notes"])
    assert len(ASKED) == len(set(ASKED))
    asked = len(ASKED)
    assert audit(api, "again", "--model-name", "m")["headline"] == there["headline"]
    assert len(ASKED) <= asked + 16  # whether it still answers as it did


def test_the_policy_that_an_audit_of_texts_writes_is_served(tmp_path: Path) -> None:
    seen = {"input_shape": [3], "n_classes": 3, "text": True, "bounds": [0.0, 2.0**24], "reveals": "probs"}
    written = policy_text('[[guard]]\nunit = "rounding"\ndecimals = 1\n', "Words", seen, "#")
    (tmp_path / "guard.key").write_text("00" * 32)
    found = parse_policy(written, folder=tmp_path)
    assert found.served.text == TextInput()
    assert found.served.interface.text
