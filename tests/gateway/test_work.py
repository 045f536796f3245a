"""Proofs of work at the gate: bound to client, question and expiry, and good for one answer."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.harness import KEYS, SECRET, Softmax, gate, interface_of, policy_of, policy_text, running, served_of
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import Refused
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.calibrated import uncalibrated
from portcullis_ml.gateway.policy.explain import explained
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.querylog import read_log
from portcullis_ml.gateway.replay import replay
from portcullis_ml.gateway.selftest import tried
from portcullis_ml.gateway.server import Server
from portcullis_ml.gateway.work import HEADER, Works, solved

MODEL = Softmax()
X = np.array([[0.1, 0.2, 0.3, 0.4]])
Y = X + 1.0
# `At` is suspicious of a client at their fifth row and from then on; 2 ** 6 hashes are then a row's work.
STAGES = """[[guard]]
unit = "proof_of_work"
detector = { unit = "tests.gateway.units:At", row = 5 }
normal = 4.0
factor = 1.0
seconds = 1.0
hashes_per_s = 64.0
"""


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def works(key: bytes = SECRET, began: float = 0.0, now: float = 1_000.0) -> tuple[Works, Clock]:
    clock = Clock()
    clock.now = began
    made = Works(key, clock)
    clock.now = now
    return made, clock


def test_work_is_a_nonce_with_leading_zero_bits_and_counts_once() -> None:
    made, _ = works()
    set_ = made.set("alice", X, 1e-6, 9)
    shown, hashes = solved(set_)
    challenge, nonce = re.search(r"challenge=(\w+)", set_)[1], re.search(r"nonce=(\w+)", shown)[1]  # type: ignore[index]
    digest = int(hashlib.sha256(f"{challenge}:{nonce}".encode()).hexdigest(), 16)
    assert digest < 2 ** (256 - 9)
    assert hashes == int(nonce, 16) + 1
    assert made.shown(shown, "alice", X, 1e-6) == 9
    with pytest.raises(BadRequest, match="has been shown before"):
        made.shown(shown, "alice", X, 1e-6)


@pytest.mark.parametrize(
    ("client", "x", "bits"), [("bob", X, 9), ("alice", Y, 9), ("alice", np.concatenate([X, X]), 9), ("alice", X, 10)]
)
def test_work_is_bound_to_client_question_and_bits(client: str, x: np.ndarray, bits: int) -> None:
    made, _ = works()
    shown, _ = solved(made.set("alice", X, 1e-6, 9))
    with pytest.raises(BadRequest, match="does not fit this question") as refused:
        made.shown(shown.replace("bits=9", f"bits={bits}"), client, x, 1e-6)
    assert refused.value.status == 428


def test_work_expires_and_its_expiry_cannot_be_moved() -> None:
    made, clock = works()
    shown, _ = solved(made.set("alice", X, 1e-6, 6))
    clock.now += 122.0
    with pytest.raises(BadRequest, match="too long ago"):
        made.shown(shown, "alice", X, 1e-6)
    with pytest.raises(BadRequest, match="does not fit"):
        made.shown(shown.replace("expires=1120002", "expires=1200000"), "alice", X, 1e-6)


def test_who_is_set_much_has_the_time_that_a_slow_machine_takes() -> None:
    made, _ = works()
    ends = [int(re.search(r"expires=(\d+)", made.set("alice", X, 1e-6, bits))[1]) for bits in (6, 26)]  # type: ignore[index]
    assert [end - 1_000_000 for end in ends] == [120_002, 120_001 + 2**26 // 64]  # 26 bits: 19 minutes


def test_work_that_was_set_before_the_start_or_by_another_key_is_not_taken() -> None:
    before, _ = works(now=999.5)
    shown, _ = solved(before.set("alice", X, 1e-6, 6))
    after, _ = works(began=1_000.5, now=1_001.0)
    with pytest.raises(BadRequest, match="too long ago"):
        after.shown(shown, "alice", X, 1e-6)
    set_, _ = solved(works(b"another secret of sixteen")[0].set("alice", X, 1e-6, 12))
    with pytest.raises(BadRequest, match="does not fit"):
        works()[0].shown(set_, "alice", X, 1e-6)


def test_what_was_used_is_forgotten_when_it_has_expired() -> None:
    made, clock = works()
    for i in range(50):
        shown, _ = solved(made.set("alice", X + i, 1e-6, 1))
        made.shown(shown, "alice", X + i, 1e-6)
    clock.now += 500.0
    made.shown(solved(made.set("alice", X, 1e-6, 1))[0], "alice", X, 1e-6)
    assert len(made._used) == 1


@given(st.text(alphabet="bitsexpirnc=; 0123456789af", max_size=60))
def test_whatever_the_header_holds_is_a_number_of_bits_or_one_sentence(header: str) -> None:
    made, _ = works()
    for text in (header, f"bits={header}", f"bits=64; expires=1100000; nonce={header}"):
        with pytest.raises(BadRequest):
            made.shown(text, "alice", X, 1e-6)


def test_a_header_that_sets_nothing_is_one_sentence() -> None:
    with pytest.raises(BadRequest, match="sets no work that is understood"):
        solved("bits=99; challenge=1")


def policy(folder: Path, upstream: str) -> Policy:
    return policy_of(MODEL, upstream, folder, STAGES, f'[log]\npath = "{folder}/log"\nqueries = true\n')


def post(server: Server, x: np.ndarray = X, client: str = "alice", work: str = "") -> tuple[int, dict[str, str], Any]:
    tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP64", "data": x.ravel().tolist()}
    head = {"x-api-key": KEYS[client], **({HEADER: work} if work else {})}
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    try:
        connection.request("POST", "/v2/models/m/infer", json.dumps({"inputs": [tensor]}), head)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, json.loads(answer.read())
    finally:
        connection.close()


def test_a_suspected_client_works_for_each_answer(tmp_path: Path) -> None:
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream, gate(policy(tmp_path, upstream)) as server:
        assert [post(server)[0] for _ in range(5)] == [200] * 5
        status, head, body = post(server)
        assert (status, body["error"]) == (428, "The guard refused this client: it must show work first.")
        assert head[HEADER].startswith("bits=6; expires=")
        shown, _ = solved(head[HEADER])
        assert post(server, work=shown)[0] == 200
        assert post(server, work=shown)[0] == 428  # replayed
        assert post(server, Y, work=shown)[0] == 428  # another question
        status, head, _ = post(server, np.concatenate([X, Y]))
        assert head[HEADER].startswith("bits=7; ")  # twice the rows, twice the work
        assert post(server, np.concatenate([X, Y]), work=solved(head[HEADER])[0])[0] == 200
        assert post(server, work="bits=6")[0] == 400
        assert post(server, client="bob")[0] == 200
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        used = policy(tmp_path, upstream)
        with gate(used) as server:  # after a restart
            assert post(server)[0] == 428
            assert post(server, work=shown)[0] == 428
    lines = list(read_log(tmp_path / "log"))
    assert sorted(line.work for line in lines if line.work) == [6, 7]
    assert replay(lines, used).different == []


def test_online_is_offline_and_the_oracle_works_by_itself(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (24, 4))
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream, gate(policy(tmp_path, upstream)) as server:
        known = policy(tmp_path, upstream)
        online = HttpOracle(
            server.url, interface=interface_of(MODEL), budget=100, model="m", headers={"x-api-key": KEYS["thief"]}
        )
        guard = Guard(*known.stages, key=known.key, quantum=known.quantum)
        offline = LocalOracle(MODEL, interface_of(MODEL), budget=100, guard=guard)
        for part in np.split(x, 6):
            there, here = online.query(part), offline.query(part)
            np.testing.assert_array_equal(there.scores, here.scores)
            np.testing.assert_array_equal(there.labels, here.labels)
        online.close()
        lazy = HttpOracle(
            server.url, interface=interface_of(MODEL), budget=9, model="m", headers={"x-api-key": KEYS["thief"]},
            work_bits=7,
        )  # fmt: skip
        with pytest.raises(Refused, match="it must show work first"):
            lazy.query(x[:4])
        lazy.close()
    assert offline.hashes == 4 * 2.0**8  # of the last four requests, of four rows at 64 hashes
    assert 0 < online.hashes < 40 * offline.hashes


def test_a_client_by_the_page_s_own_lines_is_answered(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "gateway" / "charging.md").read_text()
    names: dict[str, Any] = {}
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], names)  # type: ignore[index]
    made, _ = works()
    assert made.shown(names["work"](made.set("alice", X, 1e-6, 10)), "alice", X, 1e-6) == 10
    stages = re.search(r"```toml\n(.*?)```", page, re.S)[1]  # type: ignore[index]
    known = policy_of(MODEL, "http://127.0.0.1:9", tmp_path, stages)
    (tmp_path / "p.toml").write_text(policy_text(MODEL, "http://127.0.0.1:9", tmp_path, stages))
    notes = list(uncalibrated(known, tmp_path / "p.toml"))
    assert [note.partition(",")[0] for note in notes] == ["Stage 1 charges by prada", "Stage 2 charges by prada"]
    checked = CliRunner().invoke(app, ["check", str(tmp_path / "p.toml")])
    assert checked.exit_code == 0, checked.output
    assert "portcullis calibrate LOG --detectors prada says what threshold fits them." in checked.output
    limits = [str(limit) for limit in tried(known)]
    assert "stage 1, priced: at the highest price row 1 is refused" in limits
    assert "stage 2, proof_of_work: at the highest price a row needs 36 bits of work" in limits
    said = " ".join(explained(known))
    assert "charge each client by what prada (" in said
    assert "says of them: 1 a row of a credit of 10000 in 86400 seconds, 10 times that at the threshold" in said
    assert "ask work for each question by what prada (" in said
    assert "0.1 s a row above a suspicion of 1.2" in said
