"""Signatures: the owner's hold, and every change, other key or missing signature is said in one sentence."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path

import pytest

from portcullis_ml.core.errors import InputError, PortcullisError, ProofError
from portcullis_ml.court.bundle import Bundle, show, sign
from portcullis_ml.court.signature import PublicKey, Signed, Signer, manifest, new_key

from .conftest import AT, Case

pytest.importorskip("cryptography")


@pytest.fixture
def owner(tmp_path: Path) -> Signer:
    new_key(tmp_path / "owner.key")
    return Signer.read(tmp_path / "owner.key")


def other_key(folder: Path) -> Signer:
    new_key(folder / "other.key")
    return Signer.read(folder / "other.key")


def signed(case: Case, owner: Signer | None, folder: Path) -> Path:
    out = folder / "signed.zip"
    show(case.mark, "suspect", "n1", 20, out, at=AT, signer=owner)
    return out


def repacked(path: Path, **changes: bytes) -> Bundle:
    """The bundle with other contents of files, named with _ for the dot."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files |= {name.replace("_", "."): data for name, data in changes.items()}
    out = path.with_name("repacked.zip")
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return Bundle.read(out)


def test_the_private_key_is_its_owners_alone_and_never_written_over(owner: Signer, tmp_path: Path) -> None:
    path = tmp_path / "owner.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PublicKey.read(tmp_path / "owner.pub") == owner.public
    assert len(owner.public.fingerprint) == 64
    with pytest.raises(InputError, match="is there already"):
        new_key(path)
    path.chmod(0o640)
    with pytest.raises(InputError, match="can be read by others"):
        Signer.read(path)


def test_a_signed_bundle_says_whose_it_is(case: Case, owner: Signer, tmp_path: Path) -> None:
    bundle = Bundle.read(signed(case, owner, tmp_path))
    bundle.check(nonce="n1")
    assert bundle.signed_by(owner.public) == bundle.signed_by() == owner.public
    assert b"PRIVATE" not in (bundle.signature or b"")


def test_a_bundle_without_a_signature_holds_only_for_who_expects_none(
    case: Case, owner: Signer, tmp_path: Path
) -> None:
    bundle = Bundle.read(signed(case, None, tmp_path))
    assert bundle.signed_by() is None
    with pytest.raises(ProofError, match="has no signature"):
        bundle.signed_by(owner.public)


def test_a_signed_commitment_does_not_sign_a_bundle(case: Case, owner: Signer, tmp_path: Path) -> None:
    sign(case.mark, owner)
    bundle = Bundle.read(signed(case, None, tmp_path))
    assert bundle.signed_by() == owner.public
    with pytest.raises(ProofError, match="The commitment is signed and the bundle is not"):
        bundle.signed_by(owner.public)


def test_a_signature_of_another_key_is_refused(case: Case, owner: Signer, tmp_path: Path) -> None:
    bundle = Bundle.read(signed(case, owner, tmp_path))
    with pytest.raises(ProofError, match="not by the key that the verifier expects"):
        bundle.signed_by(other_key(tmp_path).public)


def test_whoever_changes_a_file_or_puts_their_own_key_in_is_found_out(
    case: Case, owner: Signer, tmp_path: Path
) -> None:
    path = signed(case, owner, tmp_path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with pytest.raises(ProofError, match="The signature over the bundle is not of key"):
        repacked(path, openings_json=files["openings.json"] + b" ").signed_by()
    with pytest.raises(ProofError, match="The signature over the commitment is not of key"):
        repacked(path, commitment_json=files["commitment.json"] + b" ").signed_by()
    written = json.loads(files["signature.json"])
    mine = json.dumps({**written, "public_key": other_key(tmp_path).public.pem.decode()}).encode()
    with pytest.raises(ProofError, match="somebody else signed it"):
        repacked(path, signature_json=mine).signed_by()
    swapped = json.dumps({**written, "commitment": written["bundle"]}).encode()
    with pytest.raises(ProofError, match="The signature over the commitment"):
        repacked(path, signature_json=swapped).signed_by()


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"format": "portcullis signature 2"}'])
def test_a_damaged_signature_is_no_signature(case: Case, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ProofError, match="does not hold a public key and its signatures"):
        repacked(signed(case, None, tmp_path), signature_json=data).signed_by()


def test_one_flipped_bit_of_a_signature_is_noticed(case: Case, owner: Signer, tmp_path: Path) -> None:
    data = Signed.by(owner, b"what is published", {"a": b"1"}).data()
    over = manifest({"a": b"1"})
    for at in range(0, len(data), 7):
        wrong = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        try:
            found = Signed.parse(wrong)
            found.check(b"what is published", over)
        except PortcullisError:
            continue
        assert (found.public, found.commitment) == (owner.public, Signed.parse(data).commitment)


def test_a_commitment_has_one_signer(case: Case, owner: Signer, tmp_path: Path) -> None:
    first = sign(case.mark, owner)
    assert sign(case.mark, owner) == first
    with pytest.raises(InputError, match="is of another key"):
        sign(case.mark, other_key(tmp_path))
    with pytest.raises(InputError, match="is of another key"):
        show(case.mark, "s", "n", 5, tmp_path / "b.zip", at=AT, signer=Signer.read(tmp_path / "other.key"))
    assert not case.mark.shown()


def test_only_keys_of_elliptic_curves_are_taken(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    def written(name: str, key, encryption=s.NoEncryption()) -> Path:  # noqa: B008
        path = tmp_path / name
        path.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, encryption))
        path.chmod(0o600)
        return path

    with pytest.raises(InputError, match="a key of an elliptic curve of 256 bits"):
        Signer.read(written("ed", ed25519.Ed25519PrivateKey.generate()))
    with pytest.raises(InputError, match="a key of an elliptic curve of 256 bits"):
        Signer.read(written("small", ec.generate_private_key(ec.SECP224R1())))
    encrypted = s.BestAvailableEncryption(b"word")
    with pytest.raises(InputError, match="is encrypted"):
        Signer.read(written("locked", ec.generate_private_key(ec.SECP256R1()), encrypted))
    (tmp_path / "none").write_text("no key")
    (tmp_path / "none").chmod(0o600)
    with pytest.raises(InputError, match="a private key in PEM; it does not"):
        Signer.read(tmp_path / "none")
    with pytest.raises(InputError, match="a public key in PEM; it does not"):
        PublicKey.read(tmp_path / "none")
