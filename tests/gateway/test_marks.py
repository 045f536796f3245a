"""Marks of DAWN in a gate: none is lost by a kill, and each client's become a key of their own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import stat
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from tests.gateway.harness import KEYS, policy_text, running, served_of
from tests.gateway.test_server import MODEL, QUOTA, process
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
