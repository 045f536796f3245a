"""Time tokens: a whole one dates the commitment; of another file, nonce or authority, it does not hold."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import InputError, ProofError
from portcullis_ml.court.timestamp import anchored, new_request, roots_in

from .authority import Authority
from .conftest import marked, minted

pytest.importorskip("rfc3161_client")
skops_io = pytest.importorskip("skops.io")
if shutil.which("openssl") is None:
    pytest.skip("openssl makes the tests' time authority", allow_module_level=True)

MESSAGE = b"what is published"


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("time") / "authority")


def token_for(authority: Authority, message: bytes, folder: Path) -> tuple[bytes, bytes]:
    """(the token, the request)"""
    request = folder / "request.tsq"
    request.write_bytes(new_request(message))
    return authority.answer(request, folder / "token.tsr").read_bytes(), request.read_bytes()


def test_a_token_dates_the_message(authority: Authority, tmp_path: Path) -> None:
    token, request = token_for(authority, MESSAGE, tmp_path)
    found = anchored(MESSAGE, token, request, roots_in(authority.roots))
    assert abs(found.at - datetime.now(UTC)) < timedelta(minutes=5)
    assert anchored(MESSAGE, token, None, roots_in(authority.roots)) == found


def test_a_token_of_another_file_is_refused(authority: Authority, tmp_path: Path) -> None:
    token, request = token_for(authority, b"another file", tmp_path)
    with pytest.raises(ProofError, match="does not hold for this commitment: Mismatch between messages"):
        anchored(MESSAGE, token, request, roots_in(authority.roots))


def test_a_token_for_another_nonce_is_refused(authority: Authority, tmp_path: Path) -> None:
    token, _ = token_for(authority, MESSAGE, tmp_path)
    with pytest.raises(ProofError, match="Nonce mismatch"):
        anchored(MESSAGE, token, new_request(MESSAGE), roots_in(authority.roots))


def test_a_token_of_an_authority_that_the_verifier_does_not_trust_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other", "somebody")
    token, request = token_for(other, MESSAGE, tmp_path)
    with pytest.raises(ProofError, match="does not hold for this commitment"):
        anchored(MESSAGE, token, request, roots_in(authority.roots))


def test_a_token_with_a_flipped_bit_is_refused(authority: Authority, tmp_path: Path) -> None:
    token, request = token_for(authority, MESSAGE, tmp_path)
    roots = roots_in(authority.roots)
    for at in range(0, len(token), 41):
        wrong = token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]
        try:
            found = anchored(MESSAGE, wrong, request, roots)
        except ProofError:
            continue
        assert found == anchored(MESSAGE, token, request, roots)  # a bit that is not signed and means nothing


@pytest.mark.parametrize("token", [b"", b"no token"])
def test_what_is_no_token_is_refused(authority: Authority, token: bytes) -> None:
    with pytest.raises(ProofError, match="is no RFC 3161 response"):
        anchored(MESSAGE, token, None, roots_in(authority.roots))


def test_what_is_no_request_is_refused(authority: Authority, tmp_path: Path) -> None:
    token, _ = token_for(authority, MESSAGE, tmp_path)
    with pytest.raises(ProofError, match="is no RFC 3161 request"):
        anchored(MESSAGE, token, b"no request", roots_in(authority.roots))


def test_roots_are_certificates(tmp_path: Path) -> None:
    (tmp_path / "roots.pem").write_text("no certificate")
    with pytest.raises(InputError, match="was expected to hold root certificates in PEM"):
        roots_in(tmp_path / "roots.pem")


def test_a_claim_with_a_real_token_is_judged_by_its_date(authority: Authority, tmp_path: Path, monkeypatch) -> None:
    """Every step on the command line, with nothing made up."""
    monkeypatch.chdir(tmp_path)
    mark = minted(tmp_path / "mark")
    model = marked(mark)
    skops_io.dump(model.estimator, "stolen.skops")  # type: ignore[attr-defined]

    def run(*words: object, code: int = 0) -> str:
        found = CliRunner().invoke(app, [str(w) for w in words])
        assert found.exit_code == code, found.output
        return found.stdout

    run("watermark", "commit", "mark")
    token = authority.answer(tmp_path / "mark" / "request.tsq", tmp_path / "token.tsr")
    run("watermark", "commit", "mark", "--token", token, "--roots", authority.roots)
    run("watermark", "bundle", "mark", "--suspect", "them", "--nonce", "n", "--pairs", 20, "--out", "b.zip")
    words = ("verify", "b.zip", "--suspect", "stolen.skops", "--roots", authority.roots, "--nonce", "n")
    tomorrow, yesterday = (datetime.now(UTC) + timedelta(days=d) for d in (1, -1))
    assert "DERIVED" in run(*words, "--released", tomorrow.isoformat())
    assert "UNANCHORED" in run(*words, "--released", yesterday.isoformat(), code=4)
    (tmp_path / "of another file").mkdir()
    token_file, (elsewhere, _) = mark.path / "token.tsr", token_for(authority, b"x", tmp_path / "of another file")
    token_file.write_bytes(elsewhere)
    run("watermark", "bundle", "mark", "--suspect", "them", "--nonce", "n", "--pairs", 20, "--out", "c.zip")
    said = run("verify", "c.zip", *words[2:], "--released", tomorrow.isoformat(), code=5)
    assert "FALSE. The claim does not hold: The time token does not hold for this commitment" in said
    other = Authority(tmp_path / "other", "somebody")
    untrusted = (*words[:4], "--roots", other.roots, "--released", tomorrow.isoformat())
    assert "FALSE" in run(*untrusted, code=5)
