"""Alarms say why, on what evidence, and how an honest client gets out."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.asgi import ALICE, Here
from tests.gateway.harness import SECRET, Softmax, asked, fetch, gate, policy_of, running, served_of, stored
from tests.gateway.test_principals import ACME, TWELVE, by_key
from tests.gateway.units import At

from portcullis_ml.core.guard import Alarm, Detector, Guard
from portcullis_ml.defenses.watch import Watch
from portcullis_ml.detectors import CATALOG
from portcullis_ml.gateway.admin.webhook import told
from portcullis_ml.gateway.http.ports import bound
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.policy.explain import explained
from portcullis_ml.gateway.policy.policy import PolicyError
from portcullis_ml.gateway.querylog import QueryLogFile, read_log
from portcullis_ml.gateway.replay import replay
from portcullis_ml.gateway.state.evidence import AlarmRecord, code_of, means_of, recorded

PAGE = Path(__file__).parents[2] / "docs" / "gateway" / "alarms.md"
RATE = '[[guard]]\nunit = "watch"\ndetector = { unit = "call_rate", threshold = 5 }\nthen = { unit = "block" }\n'
ROW = np.array([[0.1, 0.2, 0.3, 0.4]])


def detectors() -> list[type[Detector[Any]]]:
    return [CATALOG.load(name) for name in CATALOG]


def test_every_detector_has_a_code_and_a_sentence_of_its_own() -> None:
    codes = [vars(kind)["code"] for kind in detectors()]
    assert len(set(codes)) == len(codes)
    for kind in detectors():
        assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", kind.code)  # type: ignore[attr-defined]
        assert re.fullmatch(r"[A-Z][^.]+\.", vars(kind)["means"])


def test_the_pages_table_is_the_catalog() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| `(\w+)` \| (.*) \|$", PAGE.read_text(), re.M)
    known = [(kind.code, kind.name, kind.means) for kind in detectors()]  # type: ignore[attr-defined]
    assert rows == sorted(known)


def test_a_detector_of_somebody_elses_is_called_by_its_name() -> None:
    assert code_of(At()) == "TESTS_GATEWAY_UNITS_AT"
    assert means_of(At()) == "The suspicion of the detector tests.gateway.units:At rose above its threshold."


async def alarmed(folder: Path, more: str = ACME, **settings: Any) -> Here:
    """A gate whose watch has blocked an organisation at its sixth row."""
    here = Here(folder, RATE, more, **settings)
    for i in range(8):
        await here.infer(ROW, by_key(TWELVE[i % 3]))
        here.now += 1.0
    return here


async def test_an_alarm_is_kept_with_its_evidence(tmp_path: Path) -> None:
    here = await alarmed(tmp_path)
    ((id, alarm),) = await here.store.alarms()
    assert (alarm.stage, alarm.client, alarm.row, alarm.suspicion, alarm.code) == (
        "0-watch",
        "org:acme",
        6,
        6.0,
        "CALL_RATE",
    )
    print_of = here.streams.open["org:acme"].prints["0-watch"]
    assert alarm.evidence == {
        "code": "CALL_RATE",
        "means": "More rows were asked within the window than the threshold allows.",
        "detector": "call_rate", "threshold": 5.0, "settings": print_of, "rows": 6, "since": 1_000.0, "last": 1_005.0,
        "accounts": [{"account": f"worker-{i}", "rows": 2, "share": 0.3333, "since": 1_000.0 + i, "last": 1_003.0 + i}
                     for i in range(3)],
        "account_count": 3,
    }  # fmt: skip
    assert told(id, alarm, "ops") == {
        "id": id, "stage": "0-watch", "client": "org:acme", "row": 6, "suspicion": 6.0, "at": 1_005.0,
        **alarm.evidence, "contact": "ops",
    }  # fmt: skip
    assert here.alarms == [alarm]
    json.dumps(told(id, alarm, ""))  # JSON throughout


async def test_logs_and_replay_say_the_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = QueryLogFile(tmp_path / "log", queries=True)
    with caplog.at_level(logging.WARNING, "portcullis.gate"):
        here = await alarmed(tmp_path, querylog=log)
    (record,) = [vars(r) for r in caplog.records if r.message == "alarm"]
    assert (record["code"], record["account_count"], record["threshold"]) == ("CALL_RATE", 3, 5.0)
    await asyncio.to_thread(here.gate.querylog.close)
    lines = list(read_log(tmp_path / "log"))
    assert [line.codes for line in lines] == ["", "", "", "", "", "CALL_RATE", "", ""]
    fate = replay(lines, here.policy).fates["org:acme"]
    ((_, alarm),) = await here.store.alarms()
    assert (fate.stopped_row, fate.code, fate.evidence) == (6, "CALL_RATE", alarm.evidence)  # to the last figure


async def test_a_state_file_of_an_earlier_version_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE alarms (id TEXT PRIMARY KEY, client TEXT, stage TEXT, row INTEGER, suspicion REAL,"
                   " at REAL, told INTEGER NOT NULL DEFAULT 0)")  # fmt: skip
        db.execute("INSERT INTO alarms VALUES ('old', 'c', '0-watch', 7, 1.5, 10.0, 0)")
        db.execute("PRAGMA user_version = 4")
    db.close()
    store = stored(path)
    assert await store.alarms() == [("old", AlarmRecord("0-watch", "c", 7, 1.5, 10.0))]
    assert told("old", AlarmRecord("0-watch", "c", 7, 1.5, 10.0), "") == {
        "id": "old", "stage": "0-watch", "client": "c", "row": 7, "suspicion": 1.5, "at": 10.0,
    }  # fmt: skip
    new = recorded(Alarm("0-watch", "d", 1, 2.0, 11.0), Guard(Watch(At()), key=SECRET).stages[0], "ab", 1, {})
    await store.alarm("new", new)
    assert [i for i, a in await store.alarms() if a.evidence] == ["new"]


@pytest.mark.parametrize(("tells", "said"), [(True, " If this is a mistake: ask abuse@example.com"), (False, "")])
async def test_a_refusal_says_the_contact_where_the_policy_wants_it(tells: bool, said: str, tmp_path: Path) -> None:
    more = f'[alarms]\ncontact = "ask abuse@example.com"\ntell_clients = {str(tells).lower()}\n'
    quota = '[[guard]]\nunit = "quota"\nrows = 7\nper = 100\n'
    here = Here(tmp_path, quota + RATE, more)
    sentences = [(await here.infer(ROW))[2].get("error", "") for _ in range(7)]
    blocked = f"The guard refused this client: this client was blocked.{said}"
    assert sentences == ["", "", "", "", "", blocked, blocked]
    fresh = await here.infer(np.repeat(ROW, 8, axis=0), {**ALICE, "x-api-key": "key-of-bob"})
    assert fresh[2]["error"] == "The guard refused this client: its quota of rows is used up."  # says itself what to do
    whom = "operators and, in a refusal, clients" if tells else "operators"
    sentence = f"Who was stopped by mistake turns to ask abuse@example.com: {whom} are told so."
    assert sentence in list(explained(here.policy))


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("tell_clients = true", "tell_clients must be given with a contact"),
        ('webhook = "http://h/"', "secret_file must be given with webhook"),
        ('secret_file = "hook.key"', "secret_file must be given with webhook"),
        ('contact = "two\\nlines"', "contact must be one line"),
        (f'contact = "{"x" * 201}"', "contact must be one line of at most 200"),
        ("contact = 3", "contact must be text"),
    ],
)
def test_a_mistake_is_refused_at_its_line(table: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=sentence) as error:
        policy_of(Softmax(), "http://127.0.0.1:1", tmp_path, more=f"[alarms]\n{table}\n")
    assert error.value.line > 0


def test_operators_read_alarms_and_let_an_honest_client_go_on(tmp_path: Path) -> None:
    model = Softmax()
    more = ACME + '[alarms]\ncontact = "abuse@example.com"\n'
    with running(ModelServer(model, served_of(model))) as upstream:
        with gate(policy_of(model, upstream, tmp_path, RATE, more)) as server:
            assert [asked(server.url, f"key-of-{TWELVE[i % 3]}") for i in range(7)] == [200] * 5 + [403] * 2
            url, token = server.admin_url, server.admin.state.token
            assert fetch(f"{url}/alarms")[0] == 401
            assert fetch(f"{url}/alarms?limit=none", token)[0] == 400
            assert json.loads(fetch(f"{url}/alarms?client=bob", token)[1]) == {"alarms": []}
            (alarm,) = json.loads(fetch(f"{url}/alarms?client=org:acme", token)[1])["alarms"]
            assert (alarm["code"], alarm["rows"], alarm["contact"]) == ("CALL_RATE", 6, "abuse@example.com")
            page = fetch(f"{url}/client?name=org:acme", token)[1]
            for words in (
                "<code>CALL_RATE</code> More rows were asked", "6 rows by 3 accounts", "worker-0 33%",
                "An alarm does not end by itself", "turn to abuse@example.com", alarm["settings"],
            ):  # fmt: skip
                assert words in page
            assert "CALL_RATE" in fetch(f"{url}/", token)[1]
            fetch(f"{url}/act", token, name="worker-2", deed="unblock")
            assert asked(server.url, "key-of-worker-2") == 200
            page = fetch(f"{url}/client?name=org:acme", token)[1]
            assert "operator: unblock" in page  # who, and when


def test_the_drill_of_the_page_runs(tmp_path: Path) -> None:
    drill = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.S)[-1]
    sockets = [bound("127.0.0.1", 0) for _ in range(2)]
    for place, sock in zip(("8000", "8001"), sockets, strict=True):
        drill = drill.replace(place, str(sock.getsockname()[1]))
        sock.close()
    python = f'"{sys.executable}" -c "from portcullis_ml.cli import main; main()"'
    serve = re.search(r"^portcullis (serve .*) &$", drill, re.M)
    assert serve
    shell = drill.replace(serve[0], f"(exec {python} {serve[1]}) &")  # so that `kill` ends the gate itself
    shell = re.sub(r"^portcullis", lambda _: python, shell, flags=re.M)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # where the demonstration keeps its state
    done = subprocess.run(["bash", "-ec", shell], cwd=tmp_path, env=environment, text=True, capture_output=True,
                          timeout=180, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    (alarm,), acted, (client,) = answers[0]["alarms"], answers[1], answers[2]["clients"]
    assert (alarm["code"], alarm["client"]) == ("CALL_RATE", "thief")
    assert (alarm["row"], alarm["threshold"]) == (201, 200.0)
    assert acted == {"done": "unblock", "client": "thief", "by": "operator"}
    assert client["standing"] == "earlier alarm"
    assert lines[-1].endswith("the same decisions.")
    assert "thief, row 201: CALL_RATE. More rows were asked within the window than the threshold allows." in lines
