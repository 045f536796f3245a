"""Keys in PEM files, of whatever kind: how they are read, made and told apart."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.court.commitment import owners_alone, read_bytes, write_secret

__all__ = ["Public", "library", "private_in", "write_pair"]


def library() -> Any:
    """The package that signs. MissingExtra where it is not installed."""
    try:
        import cryptography
    except ModuleNotFoundError as error:
        raise MissingExtra("A signature", "cryptography", "court") from error
    return cryptography


@dataclass(frozen=True)
class Public:
    """A public key. Subclasses say which kind by `suits`."""

    key: Any
    kind: ClassVar[str] = "a public key"

    @classmethod
    def suits(cls, key: Any) -> bool:
        """Whether a key is of this kind."""
        raise NotImplementedError

    @classmethod
    def parse(cls, pem: bytes, where: str) -> Self:
        """The key in these bytes; InputError where it is none of this kind."""
        library()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization

        try:
            key = serialization.load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InputError(f"{where} was expected to hold a public key in PEM; it does not.") from error
        if not cls.suits(key):
            raise InputError(f"{where} was expected to hold {cls.kind}.")
        return cls(key)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The key in a file."""
        return cls.parse(read_bytes(path), str(path))

    @property
    def pem(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return bytes(self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key, in hexadecimal digits: what two people compare over the telephone."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return hashlib.sha256(self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def write_pair(path: Path, private: Any, public: Public) -> None:
    """Write the private key, mode 0600, and the public one beside it as `.pub`; InputError where that is there."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    beside = path.with_suffix(".pub")
    if beside.exists():
        raise InputError(f"{beside} is there already. Choose another name for the key.")
    write_secret(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    beside.write_bytes(public.pem)


def private_in(path: Path) -> Any:
    """The private key in a PEM file that its owner alone may read."""
    library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read_bytes(path)
    owners_alone(path)
    try:
        return load_pem_private_key(data, password=None)
    except TypeError as error:
        raise InputError(f"{path} is encrypted. Decrypt it on the machine that signs: openssl pkey -in FILE "
                         "-out PLAIN, in a folder of your own.") from error  # fmt: skip
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path} was expected to hold a private key in PEM; it does not.") from error
