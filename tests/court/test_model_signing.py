"""Signatures in the format of OpenSSF Model Signing: refused before pairs are used up, checked by its own tool."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.court.signature import new_key

from .conftest import Case

pytest.importorskip("cryptography")


class Library(ModuleType):
    """What Portcullis calls of the package, which most installations leave out."""

    def __init__(self) -> None:
        super().__init__("model_signing.signing")
        self.calls: list[Any] = []

    def Config(self) -> Library:
        return self

    def use_elliptic_key_signer(self, *, private_key: Path) -> Library:
        self.calls.append(private_key)
        return self

    def sign(self, path: Path, signature: Path) -> None:
        self.calls.append(path.read_bytes()[:2])
        signature.write_text("signed")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found, package = Library(), ModuleType("model_signing")
    package.signing = found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "model_signing", package)
    monkeypatch.setitem(sys.modules, "model_signing.signing", found)
    return found


def bundled(case: Case, folder: Path, *more: str) -> Any:
    out = ["--pairs", "5", "--out", str(folder / "b.zip"), "--model-signing", str(folder / "b.sig")]
    return CliRunner().invoke(app, ["watermark", "bundle", str(case.mark.path), "--suspect", "them", *out, *more])


def test_the_bundle_is_signed_with_the_owners_key(case: Case, library: Library, tmp_path: Path) -> None:
    new_key(tmp_path / "owner.key")
    done = bundled(case, tmp_path, "--sign", str(tmp_path / "owner.key"))
    assert done.exit_code == 0, done.stderr
    assert library.calls == [tmp_path / "owner.key", b"PK"]
    assert (tmp_path / "b.sig").read_text() == "signed"


def test_what_is_missing_is_said_before_pairs_are_used_up(
    case: Case, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_key(tmp_path / "owner.key")
    key = ("--sign", str(tmp_path / "owner.key"))
    assert "--model-signing needs the owner's private key: give --sign FILE" in bundled(case, tmp_path).stderr
    (tmp_path / "b.sig").write_text("another")
    assert "b.sig is there already. Choose another name" in bundled(case, tmp_path, *key).stderr
    (tmp_path / "b.sig").unlink()
    monkeypatch.setitem(sys.modules, "model_signing", None)
    refused = bundled(case, tmp_path, *key)
    assert refused.exit_code == 2
    assert "--model-signing needs model-signing, which is not installed." in refused.stderr
    assert not case.mark.shown()
    assert not (tmp_path / "b.zip").exists()


@pytest.mark.slow  # the package brings some thirty others
def test_the_packages_own_verification_holds_and_finds_a_change(case: Case, tmp_path: Path) -> None:
    from model_signing import verifying

    new_key(tmp_path / "owner.key")
    done = bundled(case, tmp_path, "--sign", str(tmp_path / "owner.key"))
    assert done.exit_code == 0, done.stderr
    check = verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "owner.pub")
    check.verify(tmp_path / "b.zip", tmp_path / "b.sig")
    with (tmp_path / "b.zip").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="mismatch"):
        check.verify(tmp_path / "b.zip", tmp_path / "b.sig")
