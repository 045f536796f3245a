"""Certificates for tests: an authority of the test's own, and what it signed."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["certificates"]


def certificates(folder: Path) -> None:
    """An authority, and what it signed for the server and for the gate: NAME.pem holds certificate and key."""

    def name(word: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, word)])

    now, root = datetime.datetime.now(datetime.UTC), ec.generate_private_key(ec.SECP256R1())
    for word in ("ca", "server", "gate"):
        key = root if word == "ca" else ec.generate_private_key(ec.SECP256R1())
        made = (
            x509.CertificateBuilder(name("ca"), name(word), key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=word == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), False)
        )
        if word == "ca":
            made = made.add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), True)
        plain = serialization.NoEncryption()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        (folder / f"{word}.pem").write_bytes(made.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        with (folder / f"{word}.pem").open("ab") as file:
            file.write(private)
