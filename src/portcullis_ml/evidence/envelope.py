"""A signed statement about files: in-toto in a DSSE envelope, as Sigstore's tools use, by a local Ed25519 key.

in-toto Attestation Framework, "Statement" v1, and "DSSE: Dead Simple Signing Envelope" v1.0.2. The statement names each
file with its SHA-256 and says what they are about (`predicate`). The signature is over DSSE's pre-authentication
encoding, so the type of the payload is signed too. `keyid` is the SHA-256 of the public key in DER.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from portcullis_ml.core.errors import InputError, ProofError
from portcullis_ml.court.pem import Public, library, private_in, write_pair

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["PREDICATE", "Verifier", "new_key", "open_envelope", "sealed", "signing_key"]

PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:portcullis:audit-results:v1"


@dataclass(frozen=True)
class Verifier(Public):
    """A public key that a bundle is checked by."""

    key: Ed25519PublicKey
    kind: ClassVar[str] = "an Ed25519 key; it holds another kind"

    @classmethod
    def suits(cls, key: Any) -> bool:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return isinstance(key, Ed25519PublicKey)


def new_key(path: Path) -> Verifier:
    """Write a new Ed25519 key to `path`, mode 0600, and its public key beside it as `.pub`."""
    library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    made = Verifier(private.public_key())
    write_pair(path, private, made)
    return made


def signing_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file that its owner alone may read."""
    key = private_in(path)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} was expected to hold an Ed25519 key; it holds another kind. Make one with --new-key.")
    return key


def sealed(files: Mapping[str, bytes], predicate: Mapping[str, Any], key: Ed25519PrivateKey) -> bytes:
    """The envelope over these files."""
    subject = [{"name": name, "digest": {"sha256": hashlib.sha256(data).hexdigest()}} for name, data in files.items()]
    statement = {"_type": STATEMENT, "subject": subject, "predicateType": PREDICATE, "predicate": predicate}
    body = json.dumps(statement, ensure_ascii=False, allow_nan=False).encode()
    signature = key.sign(_encoded(PAYLOAD, body))
    signed = {"keyid": Verifier(key.public_key()).fingerprint, "sig": base64.b64encode(signature).decode()}
    envelope = {"payloadType": PAYLOAD, "payload": base64.b64encode(body).decode(), "signatures": [signed]}
    return json.dumps(envelope, indent=1).encode()


def open_envelope(data: bytes, files: Mapping[str, bytes], key: Verifier) -> Mapping[str, Any]:
    """The predicate, if the envelope is signed by the key and the files are exactly those it names. ProofError."""
    from cryptography.exceptions import InvalidSignature

    try:
        envelope = json.loads(data)
        kind, body = str(envelope["payloadType"]), base64.b64decode(envelope["payload"], validate=True)
        (signed,) = envelope["signatures"]
        signature = base64.b64decode(signed["sig"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProofError("The envelope does not hold a payload and one signature, as DSSE wants it.") from error
    try:
        key.key.verify(signature, _encoded(kind, body))
    except InvalidSignature as error:
        raise ProofError(
            f"The signature is not of key {key.fingerprint[:16]}...: the statement was changed, or somebody else "
            "signed it."
        ) from error
    try:
        statement = json.loads(body)
        named = {str(s["name"]): str(s["digest"]["sha256"]) for s in statement["subject"]}
        predicate: Mapping[str, Any] = statement["predicate"]
        if (kind, statement["_type"], statement["predicateType"]) != (PAYLOAD, STATEMENT, PREDICATE):
            raise ValueError("of another type")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProofError(f"What is signed is no statement about audit results ({error}).") from error
    _same_files(named, files)
    return predicate


def _same_files(named: Mapping[str, str], files: Mapping[str, bytes]) -> None:
    if set(named) != set(files):
        odd = sorted(set(named) ^ set(files))
        raise ProofError(f"The statement names other files than the bundle holds: {', '.join(odd)}.")
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != named[name]:
            raise ProofError(f"{name} is not the file that was signed: its SHA-256 is another.")


def _encoded(kind: str, body: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    name = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(body), body)
