"""`portcullis replay --groups`: who is linked over a log, and how many honest clients are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.gateway.harness import Softmax, policy_text
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.types import Answer
from portcullis_ml.gateway.querylog import Line, QueryLogFile

GROUPS = '[groups]\nseen = "log"\nrows = 30\n'


def written(folder: Path, groups: str = GROUPS, *, queries: bool = True) -> list[str]:
    """The arguments that name a log of two accounts that ask the same, two honest ones, and a policy."""
    rng, log = np.random.default_rng(0), QueryLogFile(folder / "log", queries=queries)
    shared = rng.normal(size=(20, 4))
    asked = {"a": shared, "b": shared, "alice": rng.normal(size=(120, 4)), "bob": rng.normal(size=(120, 4))}
    for k, (client, x) in enumerate(asked.items()):
        for i, row in enumerate(x):
            clean = Answer(np.zeros(1, np.int64), np.full((1, 3), 1 / 3))
            log.write(
                Line(at=1e4 * k + 31.0 * i, client=client, rows=1, admitted=1, released=1, x=row[None], clean=clean)
            )
    log.close()
    (folder / "p.toml").write_text(policy_text(Softmax(), "http://127.0.0.1:1", folder, "", groups))
    return ["replay", str(folder / "log"), "--policy", str(folder / "p.toml"), "--groups"]


def test_says_who_is_linked_and_called_and_how_many_honest_ones_are(tmp_path: Path) -> None:
    words = [*written(tmp_path, GROUPS + "near = 0.001\n"), "--honest", "alice", "--honest", "bob"]
    said = CliRunner().invoke(app, words).output
    assert "Linked: a, b." in said
    assert "2 accounts called by rows at 31 rows:" in said
    assert "same with b (" in said
    assert "Honest clients linked: 0 of 2, 95% interval 0.0% to 84.2%; called: 0." in said
    tree = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert tree["linked"] == [["a", "b"]]
    assert tree["honest"] == {
        "clients": 2,
        "linked": [],
        "called": [],
        "low": 0.0,
        "high": pytest.approx(0.8419, abs=1e-4),
    }
    assert "measured" not in tree


def test_an_honest_client_who_is_linked_is_named(tmp_path: Path) -> None:
    said = (
        CliRunner()
        .invoke(app, [*written(tmp_path, GROUPS + "near = 0.001\n"), "--honest", "a", "--honest", "bob"])
        .output
    )
    assert "Honest clients linked: 1 of 2 (a)" in said


def test_measures_what_the_policy_does_not_say(tmp_path: Path) -> None:
    words = written(tmp_path)
    said = CliRunner().invoke(app, [*words, "--honest", "alice", "--honest", "bob"]).output
    assert "Measured on these honest clients: near = 0." in said
    assert "measured" not in CliRunner().invoke(app, words).output.lower()


@pytest.mark.parametrize(
    ("groups", "queries", "said"),
    [
        ("", True, r"The policy does not link accounts: write \[groups\]"),
        (GROUPS, False, r"holds no answered rows; linking accounts needs \[log\] queries = true"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_a_sentence(
    tmp_path: Path, groups: str, queries: bool, said: str
) -> None:
    found = CliRunner().invoke(app, written(tmp_path, groups, queries=queries))
    assert found.exit_code == 2
    assert re.search(said, " ".join(found.output.split()))
