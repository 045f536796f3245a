"""API keys in a file: made, rotated and revoked while the gate runs, by the command and by operators."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.harness import Softmax, asked, fetch, gate, policy_of, policy_text, running, served_of
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.gateway import server as server_module
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.policy.keys import KeyFile

MODEL = Softmax()
CLIENTS = '[clients]\nkeys_file = "keys.json"\n'


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json", clock=lambda: 1_000.0)


def test_a_key_is_kept_by_its_digest_in_a_file_of_its_owner_alone(keys: KeyFile) -> None:
    key, kept = keys.make("alice", for_s=60)
    assert keys.read() == (kept,)
    assert (kept.made, kept.until) == (1_000.0, 1_060.0)
    assert key not in keys.path.read_text()
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600


def test_rotation_leaves_the_old_key_for_a_while_and_never_lengthens_it(keys: KeyFile) -> None:
    _, short = keys.make("alice", for_s=10)
    _, new, old = keys.rotate("alice", overlap_s=60)
    assert (old.id, old.until, new.until, new.client) == (short.id, 1_010.0, None, "alice")
    assert [key.id for key in keys.read()] == [old.id, new.id]
    with pytest.raises(InputError, match=f"alice has 2 keys that count \\({old.id}, {new.id}\\)"):
        keys.rotate("alice", overlap_s=0)
    _, _, ended = keys.rotate(new.id, overlap_s=0)
    assert ended.until == 1_000.0


def test_a_revoked_key_has_ended_at_once(keys: KeyFile) -> None:
    keys.make("alice")
    ended = keys.revoke("alice")
    assert ended.ended(1_000.0)
    with pytest.raises(InputError, match="it has ended already"):
        keys.revoke("alice")
    with pytest.raises(InputError, match="it is not there"):
        keys.revoke("bob")


def test_writers_at_once_lose_no_key(keys: KeyFile) -> None:
    threads = [threading.Thread(target=keys.make, args=(f"client-{i}",)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.client for key in keys.read()} == {f"client-{i}" for i in range(20)}


@pytest.mark.parametrize(
    ("do", "error", "said"),
    [
        (lambda keys: keys.make(""), ParameterError, "a name of 1 to 128"),
        (lambda keys: keys.make("(x"), ParameterError, "does not begin with"),
        (lambda keys: keys.make("a", for_s=0.0), ParameterError, "seconds above 0"),
        (lambda keys: keys.make("a", for_s=float("inf")), ParameterError, "seconds above 0"),
        (lambda keys: keys.rotate("a", overlap_s=-1.0), ParameterError, "seconds from 0 up"),
    ],
)
def test_what_cannot_be_made_is_refused_and_changes_nothing(
    keys: KeyFile, do: Callable[[KeyFile], Any], error: type[Exception], said: str
) -> None:
    keys.make("alice")
    before = keys.path.read_bytes()
    with pytest.raises(error, match=said):
        do(keys)
    assert keys.path.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"keys": [{"client": "a"}]}', '{"keys": [{"client": "a", "sha256": "x", "made": 0}]}']
)
def test_a_file_that_is_spoilt_is_one_sentence(keys: KeyFile, text: str) -> None:
    keys.path.write_text(text)
    with pytest.raises((InputError, ParameterError), match=r"keys|64 hexadecimal"):
        keys.read()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(server_module, "RENEW_S", 0.02)
    monkeypatch.chdir(tmp_path)
    with running(ModelServer(MODEL, served_of(MODEL))) as upstream:
        Path("portcullis.toml").write_text(policy_text(MODEL, upstream, tmp_path, "", CLIENTS))
        with gate(policy_of(MODEL, upstream, tmp_path, "", CLIENTS)) as server:
            yield server


def until(said: Callable[[], int], wanted: int) -> None:
    """Wait for the gate to look at the file."""
    for _ in range(500):
        if said() == wanted:
            return
        threading.Event().wait(0.02)
    assert said() == wanted


def test_a_running_gate_takes_up_keys_that_the_file_gets(served: Any, tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    assert asked(served.url, "none") == 401
    key, _ = file.make("alice")
    until(lambda: asked(served.url, key), 200)
    new, _, _ = file.rotate("alice", overlap_s=60)
    until(lambda: asked(served.url, new), 200)
    assert asked(served.url, key) == 200
    (old, _) = file.read()
    file.revoke(old.id)
    until(lambda: asked(served.url, key), 401)
    (tmp_path / "keys.json").write_text("{")
    assert asked(served.url, new) == 200  # a spoilt file changes nothing


def test_an_operator_makes_rotates_and_revokes_keys_at_once(served: Any) -> None:
    def do(**form: str) -> dict[str, Any]:
        status, text = fetch(served.admin_url + "/keys", served.admin.state.token, **form)
        return {"status": status, **json.loads(text)}

    made = do(deed="make", client="alice", days="1")
    assert asked(served.url, made["key"]) == 200
    rotated = do(deed="rotate", which="alice")
    assert (asked(served.url, made["key"]), asked(served.url, rotated["key"])) == (401, 200)
    assert do(deed="revoke", which=rotated["id"])["counts"] is False
    assert asked(served.url, rotated["key"]) == 401
    listed = json.loads(fetch(served.admin_url + "/keys", served.admin.state.token)[1])["keys"]
    assert [(key["client"], key["counts"]) for key in listed] == [("alice", False), ("alice", False)]
    assert do(deed="make", client="")["status"] == 400
    assert do(deed="make", client="bob", days="soon")["status"] == 400
    assert do(deed="steal", client="bob")["status"] == 400
    assert fetch(served.admin_url + "/keys", "wrong", deed="make", client="eve")[0] == 401
    page = fetch(served.admin_url + "/", served.admin.state.token)[1]
    assert "revoke key" in page


def test_the_command_does_the_same(served: Any) -> None:
    def run(*words: str, code: int = 0) -> str:
        told = CliRunner().invoke(app, ["keys", *words])
        assert told.exit_code == code, told.output
        return told.output

    assert "There is no key yet" in run("list")
    made = json.loads(run("make", "alice", "--json"))
    until(lambda: asked(served.url, made["key"]), 200)
    assert "(shown this once)" in run("rotate", "alice", "--overlap-days", "0")
    until(lambda: asked(served.url, made["key"]), 401)
    assert "no more" in run("revoke", "alice")
    assert [key["counts"] for key in json.loads(run("list", "--json"))["keys"]] == [False, False]
    assert "ended" in run("list")
    assert "is called bob" in run("revoke", "bob", code=2)
    Path("portcullis.toml").write_text(Path("portcullis.toml").read_text().replace('keys_file = "keys.json"', ""))
    assert "names no file of keys" in run("list", code=2)
