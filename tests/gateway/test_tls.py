"""TLS on the gate's ports, and certificates that are exchanged while it runs."""

from __future__ import annotations

import shutil
import ssl
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.gateway.asgi import ALICE, URL, question
from tests.gateway.certificates import certificates
from tests.gateway.harness import Softmax, gate, policy_of, running, served_of

from portcullis_ml.gateway import server as server_module
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.policy.certificates import Certificate
from portcullis_ml.gateway.policy.explain import explained
from portcullis_ml.gateway.policy.policy import PolicyError
from portcullis_ml.gateway.policy.warn import warnings

TLS = (
    '[listen]\nport = 0\ncert_file = "door.pem"\n[admin]\nport = 0\ncert_file = "door.pem"\n'
    "[limits]\nhead_s = 0.5\n"
)  # fmt: skip
X = [[0.1, 0.2, 0.3, 0.4]]


def issued(folder: Path, name: str) -> Path:
    """A folder with certificates of an authority of its own; the server's is in use."""
    (folder / name).mkdir()
    certificates(folder / name)
    put(folder / name / "server.pem", folder / "door.pem")
    return folder / name


def put(source: Path, target: Path) -> None:
    """Replace a file in one step, as what renews certificates does."""
    shutil.copy(source, target.with_suffix(".new"))
    target.with_suffix(".new").replace(target)


def post(url: str, ca: Path, body: bytes = b"", headers: Any = ALICE) -> tuple[int, Any]:
    context = ssl.create_default_context(cafile=ca / "ca.pem")
    request = urllib.request.Request(url, body or None, {**headers, "connection": "close"})
    with urllib.request.urlopen(request, context=context, timeout=5) as answer:
        return answer.status, answer.headers


def test_both_ports_speak_tls_and_a_new_certificate_is_shown_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "RENEW_S", 0.02)
    old, model = issued(tmp_path, "old"), Softmax()
    with (
        running(ModelServer(model, served_of(model))) as upstream,
        gate(policy_of(model, upstream, tmp_path, more=TLS)) as made,
    ):
        assert (urlsplit(made.url).scheme, urlsplit(made.admin_url).scheme) == ("https", "https")
        assert post(made.url + URL, old, question(X))[0] == 200
        assert post(made.admin_url + "/healthz", old)[0] == 200

        (tmp_path / "door.pem").write_text("half a file")
        time.sleep(0.1)
        assert post(made.url + URL, old, question(X))[0] == 200

        new = issued(tmp_path, "new")
        end = time.monotonic() + 5
        while True:
            try:
                assert post(made.url + URL, new, question(X))[0] == 200
                break
            except (ssl.SSLError, OSError):
                assert time.monotonic() < end
        assert post(made.admin_url + "/healthz", new)[0] == 200


def test_a_certificate_that_cannot_be_used_leaves_the_old_one_and_is_told_of_once(tmp_path: Path, caplog: Any) -> None:
    issued(tmp_path, "old")
    certificate = Certificate(str(tmp_path / "door.pem"))
    assert not certificate.renew()
    for broken in (b"half a file", None):
        (tmp_path / "door.pem").unlink()
        if broken is not None:
            (tmp_path / "door.pem").write_bytes(broken)
        caplog.clear()
        assert [certificate.renew() for _ in range(3)] == [False] * 3
        assert caplog.text.count("was not exchanged") == 1
    issued(tmp_path, "new")
    assert certificate.renew()
    assert not certificate.renew()


@pytest.mark.parametrize(
    ("table", "line", "word"),
    [
        ('[listen]\ncert_file = "missing.pem"', 2, "missing.pem"),
        ('[listen]\nkey_file = "door.pem"', 2, "cert_file"),
        ('[listen]\ncert_file = "guard.key"', 2, "PEM"),
        ("[listen]\ncert_file = 3", 2, "text"),
        ('[admin]\ncert_file = "missing.pem"', 2, "missing.pem"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_refused_with_its_line(
    table: str, line: int, word: str, tmp_path: Path
) -> None:
    issued(tmp_path, "old")
    with pytest.raises(PolicyError, match=word) as found:
        policy_of(Softmax(), "http://127.0.0.1:1", tmp_path, more=table)
    text = found.value.args[0]
    assert "line" in text


def test_check_says_that_a_port_speaks_tls(tmp_path: Path) -> None:
    issued(tmp_path, "old")
    more = '[listen]\ncert_file = "door.pem"\n[admin]\nhost = "0.0.0.0"\ncert_file = "door.pem"\n'
    policy = policy_of(Softmax(), "http://127.0.0.1:1", tmp_path, more=more)
    assert any("over TLS with the certificate in" in sentence for sentence in explained(policy))
    assert not any("put it behind TLS" in sentence for sentence in warnings(policy))
