"""Signatures by the owner's EC key: over the commitment, and over the files of a bundle.

The private key is a PEM file that its owner alone may read, and signing needs no network: it can stay on a machine of
its own. The public key is given to verifiers beforehand, by a way that they trust. One that comes with a bundle says
only that whoever made the bundle has the other half, so a verifier names the key that they expect.

    signature.json   {"format", "public_key": PEM, "commitment": hex, "bundle": hex or null}

ECDSA with SHA-256 signs a tag, what it is over, and for a commitment the exact bytes of commitment.json, for a bundle
the SHA-256 of every other file in it by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from portcullis_ml.core.errors import InputError, ProofError
from portcullis_ml.court.pem import Public, library, private_in, write_pair

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

__all__ = ["FILE", "PublicKey", "Signed", "Signer", "manifest", "new_key"]

FILE = "signature.json"
FORMAT = "portcullis signature 1"


def new_key(path: Path) -> PublicKey:
    """Write a new P-256 private key to `path`, mode 0600, and its public key beside it as `.pub`."""
    library()
    from cryptography.hazmat.primitives.asymmetric import ec

    signer = Signer(ec.generate_private_key(ec.SECP256R1()))
    write_pair(path, signer.key, signer.public)
    return signer.public


@dataclass(frozen=True)
class PublicKey(Public):
    """An owner's public key."""

    key: EllipticCurvePublicKey
    kind: ClassVar[str] = "a key of an elliptic curve of 256 bits or more"

    @classmethod
    def suits(cls, key: Any) -> bool:
        from cryptography.hazmat.primitives.asymmetric import ec

        return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size >= 256

    def verify(self, kind: str, data: bytes, signature: bytes) -> None:
        """Raise ProofError unless the signature is this key's over the data."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            self.key.verify(signature, _tagged(kind, data), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise ProofError(
                f"The signature over the {kind} is not of key {self.fingerprint[:16]}...: "
                f"the {kind} was changed, or somebody else signed it."
            ) from error


@dataclass(frozen=True)
class Signer:
    """An owner's private key."""

    key: EllipticCurvePrivateKey

    @classmethod
    def read(cls, path: Path) -> Signer:
        """The key in a PEM file that its owner alone may read."""
        key = private_in(path)
        from cryptography.hazmat.primitives.asymmetric import ec

        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.key_size < 256:
            raise InputError(f"{path} was expected to hold a key of an elliptic curve of 256 bits or more.")
        return cls(key)

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.key.public_key())

    def sign(self, kind: str, data: bytes) -> bytes:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        return self.key.sign(_tagged(kind, data), ec.ECDSA(hashes.SHA256()))


@dataclass(frozen=True)
class Signed:
    """signature.json: one key, and what it has signed."""

    public: PublicKey
    commitment: bytes
    bundle: bytes | None = None

    @classmethod
    def by(cls, signer: Signer, commitment: bytes, files: Mapping[str, bytes] | None = None) -> Signed:
        """Sign the bytes of commitment.json and, where they are given, the files of a bundle."""
        over = None if files is None else signer.sign("bundle", manifest(files))
        return cls(signer.public, signer.sign("commitment", commitment), over)

    @classmethod
    def parse(cls, data: bytes) -> Signed:
        """What signature.json says; ProofError where it says nothing, for it came with a claim."""
        try:
            found = json.loads(data)
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']!r}")
            over = found["bundle"]
            public = PublicKey.parse(str(found["public_key"]).encode(), FILE)
            return cls(public, bytes.fromhex(found["commitment"]), None if over is None else bytes.fromhex(over))
        except (ValueError, KeyError, TypeError) as error:
            raise ProofError(f"{FILE} does not hold a public key and its signatures ({error}).") from error

    def data(self) -> bytes:
        over = None if self.bundle is None else self.bundle.hex()
        written = {"format": FORMAT, "public_key": self.public.pem.decode(), "commitment": self.commitment.hex()}
        return json.dumps({**written, "bundle": over}, indent=1).encode()

    def check(self, commitment: bytes, bundle: bytes | None = None) -> None:
        """Raise ProofError unless every signature that is here holds; `bundle` is the manifest of the other files."""
        self.public.verify("commitment", commitment, self.commitment)
        if self.bundle is not None and bundle is not None:
            self.public.verify("bundle", bundle, self.bundle)


def manifest(files: Mapping[str, bytes]) -> bytes:
    """What a signature over a bundle covers: the SHA-256 of every file but signature.json, by name."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != FILE}
    return json.dumps(digests, sort_keys=True, separators=(",", ":")).encode()


def _tagged(kind: str, data: bytes) -> bytes:
    return f"{FORMAT}\0{kind}\0".encode() + data
