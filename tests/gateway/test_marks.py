"""Marks of DAWN in a gate: none is lost by a kill, and each client's become a key of their own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import stat
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from tests.gateway.harness import KEYS, gate, policy_text, running, served_of
from tests.gateway.test_server import MODEL, QUOTA, fetch, process
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import InputError, PortcullisError
from portcullis_ml.core.types import Array
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.policy.policy import read_policy
from portcullis_ml.gateway.remembered import remembered

DAWN = '[[guard]]\nunit = "dawn"\nrate = 0.5\nplanes = 12\n'
CLIENTS = ("alice", "bob")


def label_of(url: str, client: str, x: Array) -> int:
    """The label that a gate shows for one row."""
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP64", "data": x.tolist()}
    headers = {"x-api-key": KEYS[client], "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v2/models/m/infer", json.dumps({"inputs": [tensor]}).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as reply:
        outputs = {t["name"]: t["data"] for t in json.load(reply)["outputs"]}
    return int(outputs["label"][0])


def killed(path: Path, rows: int) -> dict[str, list[tuple[Array, int]]]:
    """What each client was answered wrongly by a gate that was killed while they asked."""
    wrong: dict[str, list[tuple[Array, int]]] = {client: [] for client in CLIENTS}
    asked = dict.fromkeys(CLIENTS, 0)

    def ask(url: str, client: str) -> None:
        rng = np.random.default_rng(len(client))
        try:
            while True:
                x = rng.uniform(-3, 3, 4)
                label = label_of(url, client, x)
                if label != MODEL.scores(x[None]).argmax():
                    wrong[client].append((x, label))
                asked[client] += 1
        except (OSError, http.client.HTTPException):
            pass  # killed

    with process(path) as (server, url):
        threads = [threading.Thread(target=ask, args=(url, client)) for client in CLIENTS]
        for thread in threads:
            thread.start()
        while min(asked.values()) < rows:
            time.sleep(0.01)
        os.kill(server.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
    return wrong


def test_a_kill_loses_no_mark_and_each_client_gets_a_key(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        path.write_text(policy_text(MODEL, upstream, tmp_path, DAWN))
        wrong = killed(path, 40)
    states = remembered(read_policy(path), "dawn")
    for client in CLIENTS:
        marks = {(x.tobytes(), int(label)) for x, label in zip(states[client].x, states[client].labels, strict=True)}
        seen = {(x.tobytes(), label) for x, label in wrong[client]}
        assert len(seen) > 5
        assert seen <= marks
        assert len(marks) <= len(seen) + 1  # the answer that the kill cut off
    told = CliRunner().invoke(app, ["watermark", "list", "--policy", str(path), "--json"])
    assert json.loads(told.stdout) == {client: len(states[client].labels) for client in CLIENTS}
    mint = ["watermark", "mint", "dawn", "--policy", str(path), "--out", str(tmp_path / "mark"), "--json", "--client"]
    assert (
        "A client of this gate was expected: alice, bob; got 'carol'."
        in CliRunner().invoke(app, [*mint, "carol"]).stderr
    )
    found = CliRunner().invoke(app, [*mint, "alice"])
    assert json.loads(found.stdout)["pairs"] == len(states["alice"].labels)
    assert stat.S_IMODE((tmp_path / "mark" / "secret.key").stat().st_mode) == 0o600
    bundle = ["watermark", "bundle", str(tmp_path / "mark"), "--suspect", "them", "--pairs", "4", "--json", "--out"]
    shown = json.loads(CliRunner().invoke(app, [*bundle, str(tmp_path / "b.zip")]).stdout)
    assert shown["pairs_left"] == len(states["alice"].labels) - 4
    assert json.loads((tmp_path / "mark" / "commitment.json").read_text())["scheme"]["unit"] == "dawn"


def test_a_gate_that_nobody_has_asked_has_no_marks_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        path.write_text(policy_text(MODEL, upstream, tmp_path, DAWN))
        with process(path):
            pass
    told = CliRunner().invoke(app, ["watermark", "list", "--policy", str(path)])
    assert told.stdout == "Nobody has asked this gate yet.\n"


@pytest.mark.parametrize("words", [(), ("--client", "carol"), ("--policy", "p.toml")])
def test_a_key_of_marks_needs_a_gate_and_a_client(words: tuple[str, ...], tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["watermark", "mint", "dawn", *words, "--out", str(tmp_path / "mark")])
    assert found.exit_code == 2
    assert "Serve with it, stop the gate, and give --policy FILE and --client NAME." in found.stderr


def test_bad_states_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(policy_text(MODEL, "http://127.0.0.1:9", tmp_path, QUOTA))
    with pytest.raises(InputError, match='with a stage unit = "dawn" was expected; this one has none'):
        remembered(read_policy(path), "dawn")
    path.write_text(policy_text(MODEL, "http://127.0.0.1:9", tmp_path, DAWN))
    with pytest.raises(InputError, match=r"state was expected at .*state\.db; there is none"):
        remembered(read_policy(path), "dawn")
    assert not (tmp_path / "state.db").exists()
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        path.write_text(policy_text(MODEL, upstream, tmp_path, DAWN))
        with process(path), pytest.raises(PortcullisError, match="a file that no other process uses"):
            remembered(read_policy(path), "dawn")


def asked(folder: Path, top: str = "", rows: int = 40) -> tuple[dict[str, int], dict[str, str]]:
    """(wrong answers of each client who asked so many different questions, the dashboard's pages); a log is kept."""
    path, wrong = folder / "p.toml", dict.fromkeys(CLIENTS, 0)
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        path.write_text(
            policy_text(MODEL, upstream, folder, DAWN, f'[log]\npath = "{folder}/log"\nqueries = true\n', top)
        )
        with gate(read_policy(path)) as server:
            rng = np.random.default_rng(0)
            for client, n in zip(CLIENTS, (rows, rows // 4), strict=True):
                for x in rng.uniform(-3, 3, (n, 4)):
                    wrong[client] += label_of(server.url, client, x) != MODEL.scores(x[None]).argmax()
            paths = {"all": "/", **{client: f"/client?name={client}" for client in CLIENTS}}
            token = server.admin.state.token
            pages = {name: fetch(server.admin_url + where, token)[1] for name, where in paths.items()}
    return wrong, pages


def test_the_dashboard_shows_each_clients_marks_and_their_share(tmp_path: Path) -> None:
    wrong, pages = asked(tmp_path)
    rows = {name: row for row in re.findall(r"<tr.*?</tr>", pages["all"]) for name in CLIENTS if f">{name}</a>" in row}
    for client, n in zip(CLIENTS, (40, 10), strict=True):
        assert wrong[client] > 0
        share = f"{100 * wrong[client] / n:.2g}%"
        assert f'<td class="n">{wrong[client]} <small>{share}</small></td>' in rows[client]
        assert (
            f"Marked questions: {wrong[client]}. Of the rows answered, {share} carried a mark (0-dawn)."
            in pages[client]
        )


def test_where_nothing_is_enforced_the_dashboard_says_what_would_have_been_marked(tmp_path: Path) -> None:
    wrong, pages = asked(tmp_path, 'mode = "observe"')
    assert set(wrong.values()) == {0}
    assert "% would have carried a mark (0-dawn)." in pages["alice"]
    assert "Marked questions: 0." not in pages["alice"]


def test_a_replay_says_which_client_got_which_marks(tmp_path: Path) -> None:
    wrong, _ = asked(tmp_path)
    command = ["replay", str(tmp_path / "log"), "--policy", str(tmp_path / "p.toml")]
    told = CliRunner().invoke(app, [*command, "--marks", "--json"])
    tree = json.loads(told.stdout)
    assert tree["different"] == []
    states = remembered(read_policy(tmp_path / "p.toml"), "dawn")
    for client, n in zip(CLIENTS, (40, 10), strict=True):
        fate, marks = tree["clients"][client], tree["marks"][client]
        assert (fate["marks"], fate["share_marked"]) == (wrong[client], wrong[client] / n)
        assert [(m["stage"], m["label"], m["x"]) for m in marks] == [
            ("0-dawn", int(label), x.tolist()) for label, x in zip(states[client].labels, states[client].x, strict=True)
        ]
    assert "marks" not in json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    lines = CliRunner().invoke(app, [*command, "--marks"]).stdout.splitlines()
    listed = [line for line in lines if line.startswith("alice  ")]
    assert len(listed) == wrong["alice"]
    assert f"UTC  class {states['alice'].labels[0]}  [{states['alice'].x[0, 0]:.4g}, " in listed[0]


def test_a_replay_without_a_stage_that_marks_says_so(tmp_path: Path) -> None:
    asked(tmp_path, rows=4)
    (tmp_path / "q.toml").write_text(policy_text(MODEL, "http://127.0.0.1:9", tmp_path, QUOTA))
    told = CliRunner().invoke(app, ["replay", str(tmp_path / "log"), "--policy", str(tmp_path / "q.toml"), "--marks"])
    assert 'No stage of this policy marks answers: a [[guard]] with unit = "dawn" does.' in told.stdout
