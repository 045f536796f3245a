"""The process: killed, reloaded, drained, looked into, and telling its alarms."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import logging
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from tests.gateway.asgi import question
from tests.gateway.harness import KEYS, SECRET, Softmax, fetch, gate, policy_of, policy_text, running, served_of

from portcullis_ml.core.errors import InputError, PortcullisError
from portcullis_ml.core.guard import Guard
from portcullis_ml.defenses.rounding import Rounding
from portcullis_ml.defenses.watch import Watch
from portcullis_ml.detectors.prada import Prada
from portcullis_ml.gateway import server as server_module
from portcullis_ml.gateway.admin.webhook import HEADER, signature, verified
from portcullis_ml.gateway.http.ports import bound
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.policy.clients import hashed
from portcullis_ml.gateway.policy.policy import read_policy
from portcullis_ml.gateway.querylog import read_log
from portcullis_ml.gateway.replay import replay
from portcullis_ml.gateway.server import Server, settle
from portcullis_ml.gateway.state.streams import Down

MODEL = Softmax()
X = np.array([[0.1, 0.2, 0.3, 0.4]])


def watch(row: int, then: str = "block") -> str:
    detector = f'{{ unit = "tests.gateway.units:At", row = {row} }}'
    return f'[[guard]]\nunit = "watch"\ndetector = {detector}\nthen = {{ unit = "{then}" }}\n'


PRADA = '[[guard]]\nunit = "watch"\ndetector = { unit = "prada" }\nthen = { unit = "block" }\n'
QUOTA = '[[guard]]\nunit = "quota"\nrows = 30\nper = 86400\n'


def post(url: str, client: str = "alice", x: np.ndarray = X) -> tuple[int, Any]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request("POST", "/v2/models/m/infer", question(x), {"x-api-key": KEYS[client]})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@contextmanager
def process(policy: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`portcullis serve` as a process of its own: it, and the gate's address."""
    command = [sys.executable, "-c", "from portcullis_ml.cli import main; main()", "serve", "--policy", str(policy)]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=Path(__file__).parents[2]
    )
    assert started.stdout is not None
    try:
        yield started, next(line.split()[1] for line in started.stdout if line.startswith("gate "))
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


def test_a_kill_under_load_loses_no_answered_row_alarm_or_block(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        path.write_text(policy_text(MODEL, upstream, tmp_path, QUOTA + watch(12, "label_only")))
        answered = {"alice": 0, "bob": 0}
        with process(path) as (server, url):

            def ask(client: str) -> None:
                try:
                    while True:
                        answered[client] += post(url, client)[0] == 200
                except (OSError, http.client.HTTPException):
                    pass  # killed

            threads = [threading.Thread(target=ask, args=(c,)) for c in answered for _ in range(2)]
            for thread in threads:
                thread.start()
            while min(answered.values()) < 15:
                time.sleep(0.01)
            os.kill(server.pid, signal.SIGKILL)
            for thread in threads:
                thread.join()
        with sqlite3.connect(tmp_path / "state.db") as db:
            assert {r[0] for r in db.execute("SELECT client FROM alarms WHERE row = 12")} == {"alice", "bob"}
        db.close()
        with process(path) as (server, url):
            status, tree = post(url, "alice")
            if status == 200:  # still labels only, as before the kill
                assert tree["outputs"][1]["data"] == [None, None, None]
            for client in answered:
                while post(url, client)[0] == 200:
                    answered[client] += 1
                assert answered[client] <= 30  # the quota held across the kill
                assert post(url, client)[0] == 429
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0


def test_a_hangup_exchanges_the_policy_and_a_mistake_in_it_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        path.write_text(policy_text(MODEL, upstream, tmp_path, QUOTA))
        with process(path) as (server, url):
            assert len(post(url)[1]["outputs"]) == 2
            path.write_text(policy_text(MODEL, upstream, tmp_path, QUOTA, '[answers]\nreveals = "everything"\n'))
            server.send_signal(signal.SIGHUP)
            time.sleep(0.3)
            assert len(post(url)[1]["outputs"]) == 2
            path.write_text(policy_text(MODEL, upstream, tmp_path, QUOTA, '[answers]\nreveals = "labels"\n'))
            server.send_signal(signal.SIGHUP)
            found = []
            for _ in range(28):
                found.append(post(url))
            assert [s for s, _ in found] == [200] * 28  # nothing dropped, and the quota of 30 remembered
            assert len(found[-1][1]["outputs"]) == 1
            assert post(url)[0] == 429


class Hook(BaseHTTPRequestHandler):
    """A webhook that fails the first time."""

    taken: list[tuple[str, bytes]] = []  # noqa: RUF012
    failures = 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        Hook.failures -= 1
        if Hook.failures < 0:
            Hook.taken.append((self.headers[HEADER], body))
        self.send_response(500 if Hook.failures >= 0 else 204)
        self.end_headers()

    def log_message(self, *words: Any) -> None:
        pass


def test_an_alarm_is_told_signed_until_it_is_taken(tmp_path: Path) -> None:
    Hook.taken, Hook.failures = [], 1
    (tmp_path / "hook.key").write_text("a secret of the webhook")
    with HTTPServer(("127.0.0.1", 0), Hook) as hook, running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        thread = threading.Thread(target=hook.serve_forever)
        thread.start()
        more = f'[alarms]\nwebhook = "http://127.0.0.1:{hook.server_port}/"\nretry_s = 0.05\n'
        more += f'secret_file = "{tmp_path}/hook.key"\n'
        with gate(policy_of(MODEL, upstream, tmp_path, watch(2), more)) as server:
            for _ in range(2):
                post(server.url)
            for _ in range(400):
                if Hook.taken:
                    break
                time.sleep(0.02)
        hook.shutdown()
        thread.join()
    ((header, body),) = Hook.taken
    secret, now = b"a secret of the webhook", time.time()
    assert verified(secret, header, body, now=now)
    assert (json.loads(body)["client"], json.loads(body)["row"]) == ("alice", 2)
    assert not verified(secret, header, body + b" ", now=now)
    assert not verified(b"another secret of it", header, body, now=now)
    assert not verified(secret, header, body, now=now + 301)  # replayed
    assert not verified(secret, "t=x,v1=y", body, now=now)
    assert not verified(secret, signature(secret, body, now - 400), body, now=now)


@pytest.mark.parametrize(
    "header",
    ["", "t=²,v1=y", "t=-1,v1=y", "t=" + "9" * 5_000 + ",v1=y", "t={now},v1=é", "t={now},v1=\ud800", "t={now}",
     "t={now},v1={good},v0=1", " {whole}", "{whole}\n", "t=٣,v1={good}"],
)  # fmt: skip
def test_a_header_that_is_no_signature_is_not_believed(header: str) -> None:
    secret, body, now = b"a secret of the webhook", b"{}", 1_700_000_000
    whole = signature(secret, body, now)
    assert verified(secret, whole, body, now=now)
    header = header.replace("{whole}", whole).replace("{now}", str(now)).replace("{good}", whole.partition("v1=")[2])
    assert verified(secret, header, body, now=now) is False


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[Any]:
    """A gate at which alice has set off an alarm and bob has not."""
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        with gate(policy_of(MODEL, upstream, tmp_path, QUOTA + watch(3))) as server:
            for _ in range(4):
                post(server.url)
            post(server.url, "bob")
            yield server


def test_the_operators_port_needs_a_token(seen: Any) -> None:
    url, token = seen.admin_url, seen.admin.state.token
    assert fetch(f"{url}/healthz") == (200, '{"alive":true}')
    assert json.loads(fetch(f"{url}/readyz")[1])["ready"] is True
    for path in ("/metrics", "/live"):
        assert fetch(url + path)[0] == 401
        assert fetch(url + path, "wrong")[0] == 401
    assert fetch(f"{url}/act", name="bob", deed="block")[0] == 401
    assert "alice" not in fetch(f"{url}/")[1]
    assert fetch(f"{url}/login", "", token="wrong")[0] == 403
    assert fetch(f"{url}/nothing.js", token)[0] == 404
    assert fetch(f"{seen.url}/metrics", token)[0] == 404  # not on the clients' port


def test_the_pages_say_that_the_state_cannot_be_read_and_do_not_fail(
    seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*values: Any, **settings: Any) -> None:
        raise Down("The state file cannot be read: disk I/O error.")

    for name in ("alarms", "clients"):
        monkeypatch.setattr(seen.store, name, down)
    for path in ("/", "/client?name=alice"):
        status, text = fetch(seen.admin_url + path, seen.admin.state.token)
        assert (status, json.loads(text)) == (503, {"error": "The state file cannot be read: disk I/O error."})


def send(
    url: str, method: str, path: str, form: Mapping[str, str] | None = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, str]:
    """One request of a browser: (status, headers, body)."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request(method, path, urlencode(form or {}), headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def opened(server: Any, token: str) -> str:
    """A session's cookie."""
    status, headers, _ = send(server.admin_url, "POST", "/login", {"token": token})
    assert status == 303
    return headers["set-cookie"].partition(";")[0]


def test_a_session_opens_with_the_token_and_its_forms_come_from_its_own_pages(seen: Any) -> None:
    url = seen.admin_url
    status, headers, _ = send(url, "POST", "/login", {"token": seen.admin.state.token})
    cookie = headers["set-cookie"]
    assert status == 303
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie  # the port speaks plain HTTP
    session = cookie.partition(";")[0]
    assert "alice" in send(url, "GET", "/", cookie=session)[2]
    deed = {"name": "bob", "deed": "block"}
    assert send(url, "POST", "/act", deed, cookie=session, origin="http://elsewhere.example")[0] == 401
    assert send(url, "POST", "/act", deed, cookie=session, origin=url)[0] == 303
    assert post(seen.url, "bob")[0] == 403
    assert send(url, "POST", "/act", deed, cookie="portcullis=wrong")[0] == 401


def test_a_session_ends_when_its_operator_logs_out(seen: Any) -> None:
    url, session = seen.admin_url, opened(seen, seen.admin.state.token)
    assert "Log out" in send(url, "GET", "/", cookie=session)[2]
    assert send(url, "POST", "/logout", cookie=session, origin="http://elsewhere.example")[0] == 401
    assert send(url, "GET", "/live.js", cookie=session)[0] == 200
    status, headers, _ = send(url, "POST", "/logout", cookie=session, origin=url)
    assert (status, headers["location"]) == (303, "/")
    assert "Max-Age=0" in headers["set-cookie"]
    assert "alice" not in send(url, "GET", "/", cookie=session)[2]  # whoever kept the cookie is out too
    assert send(url, "POST", "/act", {"name": "bob", "deed": "block"}, cookie=session)[0] == 401


def test_sessions_and_live_pages_end_with_the_operators_secret(tmp_path: Path) -> None:
    def policy(*names: str) -> Any:
        operators = ", ".join(f'{{ name = "{n}", sha256 = "{hashed(f"token-of-{n}")}" }}' for n in names)
        more = f"[admin]\nport = 0\nhttps = true\noperator = [{operators}]\n"
        return policy_of(MODEL, "http://127.0.0.1:1", tmp_path, QUOTA, more)

    with gate(policy("ann", "ben")) as server:
        url = server.admin_url
        status, headers, _ = send(url, "POST", "/login", {"token": "token-of-ann"})
        assert (status, "Secure" in headers["set-cookie"]) == (303, True)
        ann, ben = headers["set-cookie"].partition(";")[0], opened(server, "token-of-ben")
        with urllib.request.urlopen(urllib.request.Request(url + "/live", headers={"cookie": ann}), timeout=20) as live:
            assert live.readline().startswith(b"data: ")
            new = policy("ben", "cat")
            server.loop.call_soon_threadsafe(server.exchange, new, new.guard())
            live.read()  # to the end, which comes within a second
        deed = {"name": "x", "deed": "block"}
        assert send(url, "POST", "/act", deed, cookie=ann)[0] == 401
        assert send(url, "POST", "/act", deed, cookie=ben)[0] == 303
        assert send(url, "POST", "/login", {"token": "token-of-ann"})[0] == 403
        assert {d["who"] for d in asyncio.run(server.store.operator_log())} == {"ben"}


def test_the_starts_own_token_ends_once_operators_are_named(seen: Any, tmp_path: Path) -> None:
    token = seen.admin.state.token
    assert fetch(f"{seen.admin_url}/metrics", token)[0] == 200
    more = f'[admin]\nport = 0\noperator = [{{ name = "ann", sha256 = "{hashed("token-of-ann")}" }}]\n'
    new = policy_of(MODEL, "http://127.0.0.1:1", tmp_path, QUOTA, more)
    seen.loop.call_soon_threadsafe(seen.exchange, new, new.guard())
    assert fetch(f"{seen.admin_url}/metrics", "token-of-ann")[0] == 200
    assert fetch(f"{seen.admin_url}/metrics", token)[0] == 401


def test_metrics_count_decisions_and_name_no_client(seen: Any) -> None:
    text = fetch(f"{seen.admin_url}/metrics", seen.admin.state.token)[1]
    assert 'portcullis_requests_total{decision="answered"} 3.0' in text
    assert 'portcullis_requests_total{decision="withheld"} 1.0' in text
    assert 'portcullis_requests_total{decision="refused"} 1.0' in text
    assert "portcullis_alarms_total 1.0" in text
    assert "portcullis_added_seconds_count 3.0" in text
    assert "portcullis_suspicion_highest 3.0" in text
    assert float(text.split("\nportcullis_state_bytes ")[1].split()[0]) > 0
    assert "alice" not in text


def test_counters_of_each_client_are_told_a_page_at_a_time(seen: Any) -> None:
    url, token = f"{seen.admin_url}/clients", seen.admin.state.token
    assert fetch(url)[0] == 401
    first = json.loads(fetch(f"{url}?limit=1", token)[1])
    assert [c["client"] for c in first["clients"]] == ["alice"]
    assert (first["clients"][0]["rows"], first["clients"][0]["refused"]) == (3, 1)
    assert first["clients"][0]["standing"] == "blocked by 1-watch"
    rest = json.loads(fetch(f"{url}?after={first['next']}", token)[1])
    assert ([c["client"] for c in rest["clients"]], rest["next"]) == (["bob"], None)
    assert fetch(f"{url}?limit=0", token)[0] == fetch(f"{url}?limit=x", token)[0] == 400


def test_an_operator_blocks_and_clears_and_is_written_down(seen: Any) -> None:
    url, token = seen.admin_url, seen.admin.state.token
    done = fetch(f"{url}/act", token, name="bob", deed="block")
    assert (done[0], json.loads(done[1])) == (200, {"done": "block", "client": "bob", "by": "operator"})
    assert post(seen.url, "bob")[0] == 403
    assert "blocked by operator" in fetch(f"{url}/", token)[1]
    fetch(f"{url}/act", token, name="bob", deed="unblock")
    assert post(seen.url, "bob")[0] == 200
    assert post(seen.url, "alice")[0] == 403
    fetch(f"{url}/act", token, name="alice", deed="clear")
    assert post(seen.url, "alice")[0] == 200
    page = fetch(f"{url}/client?name=alice", token)[1]
    assert "operator: clear" in page
    assert "suspicion 3" in page  # the alarm stays in the record
    assert "earlier alarm" in page
    assert fetch(f"{url}/act", token, name="alice", deed="delete")[0] == 400
    assert fetch(f"{url}/client?name=%3Cscript%3E", token)[0] == 404


def test_unblock_lets_a_client_go_on_whom_a_watch_has_blocked(seen: Any) -> None:
    url, token = seen.admin_url, seen.admin.state.token
    assert "blocked by 1-watch" in fetch(f"{url}/", token)[1]
    assert post(seen.url)[0] == 403
    fetch(f"{url}/act", token, name="alice", deed="unblock")
    assert "blocked by" not in fetch(f"{url}/", token)[1]
    assert [post(seen.url)[0] for _ in range(4)] == [200, 200, 403, 403]  # the watch begins anew
    page = fetch(f"{url}/client?name=alice", token)[1]
    assert page.count("alarm of 1-watch at row 3") == 2  # the second is another alarm, on record and told
    assert seen.streams.open["alice"].states["0-quota"].rows == 6  # the quota remembers


def test_a_clients_page_shows_each_stage_with_its_threshold_and_what_it_decided(seen: Any) -> None:
    url, token = seen.admin_url, seen.admin.state.token
    assert "3 of 2.5" in fetch(f"{url}/", token)[1]
    page = fetch(f"{url}/client?name=alice", token)[1]
    assert "Suspicion of 1-watch: 3 now, alarm above 2.5" in page
    assert 'class="threshold"' in page
    rows = [row for row in re.findall(r"<tr.*?</tr>", page) if "-watch<" in row or "-quota<" in row]
    cells = [re.sub(r"<[^>]+>", "|", row) for row in rows]
    quota, watch = ([c for c in row.split("|") if c] for row in cells)
    assert quota == ["0-quota", "at most 30 rows in 86400 seconds", "0", "0"]
    assert watch[0] == "1-watch"
    assert watch[2:] == ["1", "1", "3 of 2.5", "row 3"]  # changed, refused, suspicion and threshold, alarm
    assert "<h1>bob</h1>" in fetch(f"{url}/client?name=bob", token)[1]  # no word beside the name


def test_a_clients_page_shows_answers_before_and_after_the_guard(tmp_path: Path) -> None:
    stages = watch(2, then="label_only") + '[[guard]]\nunit = "rounding"\ndecimals = 1\n'
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        with gate(policy_of(MODEL, upstream, tmp_path, stages)) as server:
            assert [post(server.url)[0] for _ in range(10)] == [200] * 10
            page = fetch(f"{server.admin_url}/client?name=alice", server.admin.state.token)[1]
            held = server.streams.open["alice"].latest
    table = page[page.index("Latest answers, before and after the guard") :]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(<td.*?)</tr>", table)]
    assert len(rows) == len(held) == 8  # the latest eight of ten
    label = int(MODEL.scores(X[:1])[0].argmax())
    for _, n, before, after in rows:
        assert n == "1"
        assert before.startswith(f"{label} ({label}: ")
        assert after == f"<b>{label}, without scores</b>"


def test_where_nothing_is_enforced_the_pages_do_not_say_blocked(tmp_path: Path) -> None:
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        with gate(policy_of(MODEL, upstream, tmp_path, watch(1), top='mode = "observe"')) as server:
            assert post(server.url)[0] == 200
            assert "would be blocked by 0-watch" in fetch(f"{server.admin_url}/", server.admin.state.token)[1]


def test_a_page_shows_a_name_as_text_and_fetches_nothing_from_elsewhere(seen: Any) -> None:
    url, token = seen.admin_url, seen.admin.state.token
    status, page = fetch(f"{url}/client?name=%3Cscript%3Ealert(1)%3C/script%3E", token)
    assert status == 404
    assert "<script>alert" not in page
    for path in ("/", "/client?name=alice", "/live.js", "/style.css"):
        text = fetch(url + path, token)[1]
        assert "http://" not in text
        assert "https://" not in text


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
@pytest.mark.parametrize("size", ["1280,800", "390,844"], ids=["desk", "phone"])
def test_the_dashboard_works_in_a_browser(seen: Any, size: str, tmp_path: Path) -> None:
    """The login form, as a browser renders it; pages behind it need a cookie, so a proxy adds the token."""
    from starlette.responses import Response

    async def with_token(scope, receive, send):  # type: ignore[no-untyped-def]
        path = scope["path"] + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
        if path.startswith("/live") and not path.endswith(".js"):
            text, kind = "data: <h1>pushed</h1>\n\n", "text/event-stream"
        else:
            text = (await asyncio.to_thread(fetch, seen.admin_url + path, seen.admin.state.token))[1]
            kind = {"css": "text/css", ".js": "text/javascript"}.get(path[-3:], "text/html")
        await Response(text, media_type=kind)(scope, receive, send)

    with running(with_token) as url:
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                   f"--user-data-dir={tmp_path}/profile", f"--window-size={size}", "--virtual-time-budget=1500",
                   "--dump-dom", url + "/"]  # fmt: skip
        page = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert "<h1>pushed</h1>" in page  # the script ran and took what the server sent
    assert "Portcullis" in page


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_log_replays_to_the_same_decisions_and_to_others_under_another_policy(format: str, tmp_path: Path) -> None:
    more = f'[log]\npath = "{tmp_path}/log"\nqueries = true\nformat = "{format}"\n'
    rng = np.random.default_rng(0)
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        with gate(policy_of(MODEL, upstream, tmp_path, QUOTA + watch(12), more)) as server:
            threads = [
                threading.Thread(target=lambda c=c: [post(server.url, c, rng.normal(size=(2, 4))) for _ in range(9)])
                for c in ("alice", "alice", "bob")
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    lines = list(read_log(tmp_path / "log"))
    assert len(lines) == 27
    same = replay(lines, policy_of(MODEL, "http://127.0.0.1:1", tmp_path, QUOTA + watch(12)))
    assert (same.requests, same.different) == (27, [])
    assert {n: f.stopped_row for n, f in same.fates.items()} == {"alice": 12, "bob": 12}
    assert all(f.was_refused == f.refused and f.was_altered == f.altered for f in same.fates.values())
    strict = replay(lines, policy_of(MODEL, "http://127.0.0.1:1", tmp_path, QUOTA + watch(3)))
    assert {f.stopped_row for f in strict.fates.values()} == {3}
    assert strict.different
    mild = replay(lines, policy_of(MODEL, "http://127.0.0.1:1", tmp_path, QUOTA + watch(500)))
    assert not mild.fates["bob"].hurt


def test_a_log_without_queries_holds_no_rows_and_cannot_be_replayed(tmp_path: Path) -> None:
    more = f'[log]\npath = "{tmp_path}/log"\n'
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        with gate(policy_of(MODEL, upstream, tmp_path, QUOTA, more)) as server:
            post(server.url)
    (line,) = read_log(tmp_path / "log")
    assert (line.client, line.decision, line.status, line.x) == ("alice", "answered", 200, None)
    with pytest.raises(InputError, match="queries = true"):
        replay([line], policy_of(MODEL, "http://127.0.0.1:1", tmp_path))
    with pytest.raises(InputError, match="there is none"):
        list(read_log(tmp_path / "nothing"))
    file = next((tmp_path / "log").iterdir())
    file.write_bytes(file.read_bytes() + b'{"at": 1, "cut sho')  # a crash in the middle of a line
    assert len(list(read_log(file))) == 1
    file.write_bytes(b"nonsense\n")
    with pytest.raises(InputError, match="line 1: this is not a line of a query log"):
        list(read_log(file))


def test_an_upstream_that_is_down_is_a_502_and_not_ready(tmp_path: Path) -> None:
    with gate(policy_of(MODEL, "http://127.0.0.1:9", tmp_path, QUOTA)) as server:
        assert post(server.url) == (502, {"error": "The model cannot be asked just now."})
        status, text = fetch(f"{server.admin_url}/readyz")
        assert (status, json.loads(text)["model_server"]) == (503, False)
        assert "127.0.0.1:9" not in text
        token = server.admin.state.token
        assert "The model server at 127.0.0.1:9 cannot be reached" in fetch(server.admin_url, token)[1]
        assert "portcullis_model_server_trouble 1.0" in fetch(f"{server.admin_url}/metrics", token)[1]


def test_the_command_line_checks_explains_and_replays(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from portcullis_ml.cli.app import app

    path = tmp_path / "p.toml"
    path.write_text(policy_text(MODEL, "http://127.0.0.1:9", tmp_path, QUOTA))
    assert read_policy(path).served.name == "m"
    cli = CliRunner()
    told = cli.invoke(app, ["check", str(path)])
    assert (told.exit_code, "Stage 1: at most 30 rows" in told.output) == (0, True)
    assert "sha256" in cli.invoke(app, ["check", "--new-key"]).output
    assert len(cli.invoke(app, ["check", "--new-secret"]).output.strip()) == 64
    path.write_text(path.read_text().replace("rows = 30", "rows = -30"))
    assert cli.invoke(app, ["check", str(path)]).exit_code == 2
    assert cli.invoke(app, ["serve", "--upstream", "http://127.0.0.1:9"]).exit_code == 2


def test_the_start_says_what_it_does_and_no_request_waits_for_the_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    path = tmp_path / "p.toml"
    path.write_text(policy_text(MODEL, "http://127.0.0.1:9", tmp_path, QUOTA + PRADA))
    monkeypatch.setattr(logging, "basicConfig", lambda **settings: None)
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
    monkeypatch.setattr(server_module, "settle", lambda guard: order.append(f"settled {guard.names[1]}"))

    def announce(started: Server) -> None:
        order.append("announced")
        started.stop()

    server_module.run(path, say=lambda what, about: order.append(f"{what} {about}"), announce=announce)
    compiling = "compiling the detectors' search: some 15 seconds the first time, one at each later start"
    assert order == ["loading the guard: quota, watch (prada)", compiling, "settled 1-watch", "announced"]


@pytest.mark.parametrize("policy", ["no-such-policy.toml", None])
def test_serve_says_what_it_does_before_anything_is_imported_that_takes_a_second(policy: str | None) -> None:
    code = (
        "import sys; from portcullis_ml.cli import app, serve\n"
        "def say(what, about): print(what, about, 'numpy' in sys.modules); raise SystemExit\n"
        f"serve._say = say; app.app(['serve', *{['--policy', policy] if policy else []}])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    about = "reading the policy no-such-policy.toml" if policy else "a digits model, and a gate before it"
    assert told == f"starting {about} False\n"


async def test_a_gate_that_cannot_start_leaves_nothing_open(tmp_path: Path) -> None:
    with bound("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
    more = f'[listen]\nport = {port}\n[log]\npath = "{tmp_path}/log"\n'
    more += '[upstream]\nurl = "http://127.0.0.1:1"\ntoken_file = "missing"\n'
    with pytest.raises(InputError, match="token is expected in 'missing'"):
        Server(policy_of(MODEL, "", tmp_path, QUOTA, more))
    assert "query log" not in {thread.name for thread in threading.enumerate()}
    with bound("127.0.0.1", port), pytest.raises(PortcullisError, match="Choose another port"):
        Server(policy_of(MODEL, "http://127.0.0.1:1", tmp_path, QUOTA, f"[listen]\nport = {port}\n"))


def test_what_is_there_at_the_start_is_kept_from_the_garbage_collector() -> None:
    before, asked = gc.get_freeze_count(), []

    class Compiled(Prada):
        def warm(self) -> None:
            asked.append("warm")

    guard = Guard(Rounding(), Watch(Compiled()), key=SECRET)
    try:
        settle(guard)
        assert asked == ["warm"]
        assert gc.get_freeze_count() > before + 1_000
    finally:
        gc.unfreeze()
