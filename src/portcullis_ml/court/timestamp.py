"""A time that somebody else vouches for: a token of a time authority (RFC 3161) over the published file.

`rfc3161-client` verifies the token's signature, the certificates up to roots that the verifier trusts, the nonce of the
request, and that it is over this file. Nothing here contacts a network: the owner sends the request with a tool of
their own. Certificates that come with a claim are never taken for trusted: roots are the verifier's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import InputError, MissingExtra, ProofError

__all__ = ["Anchor", "anchored", "new_request", "read_date", "roots_in"]


@dataclass(frozen=True)
class Anchor:
    """When an authority saw the file."""

    at: datetime
    serial: int

    def to_json(self) -> dict[str, Any]:
        return {"at": self.at.isoformat(), "serial": self.serial}


def new_request(message: bytes) -> bytes:
    """A request for a token over the message, with a nonce, asking for the authority's certificate too."""
    library = _library()
    builder = library.TimestampRequestBuilder().data(message).hash_algorithm(library.HashAlgorithm.SHA256)
    return bytes(builder.nonce(nonce=True).cert_request(cert_request=True).build().as_bytes())


def anchored(message: bytes, token: bytes, request: bytes | None, roots: Sequence[Any]) -> Anchor:
    """When the token says that the message existed. ProofError where it does not hold, for whatever reason."""
    library = _library()
    try:
        response = library.decode_timestamp_response(token)
    except ValueError as error:
        raise ProofError(
            "The time token is no RFC 3161 response. Give the .tsr file as the authority sent it."
        ) from error
    builder = library.VerifierBuilder(roots=list(roots), nonce=_nonce(library, request) if request else None)
    try:
        builder.build().verify_message(response, message)
    except (library.VerificationError, ValueError) as error:
        raise ProofError(f"The time token does not hold for this commitment: {error}.") from error
    info = response.tst_info
    return Anchor(info.gen_time.astimezone(UTC), int(info.serial_number))


def roots_in(path: Path) -> list[Any]:
    """The certificates in a PEM file, which whoever names it trusts."""
    try:
        from cryptography import x509
    except ModuleNotFoundError as error:
        raise MissingExtra("A time token", "cryptography", "court") from error
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} was expected to hold root certificates in PEM; it does not ({error}).") from error
    return list(found)


def read_date(text: str) -> datetime:
    """A day or a moment as people write it, in UTC where nothing else is said."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"A date such as 2026-03-31 or 2026-03-31T12:00:00Z was expected; got {text!r}.") from error
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _nonce(library: Any, request: bytes) -> int:
    """The nonce in a request. The library has a parser for what it writes itself, though not among its public names."""
    try:
        nonce = library._rust.parse_timestamp_request(request).nonce
    except ValueError as error:
        raise ProofError("The request for the time token is no RFC 3161 request. Give the .tsq file.") from error
    if nonce is None:
        raise ProofError("The request for the time token has no nonce. Give the .tsq file that the token answers.")
    return int(nonce)


def _library() -> Any:
    try:
        import rfc3161_client
    except ModuleNotFoundError as error:
        raise MissingExtra("A time token", "rfc3161-client", "court") from error
    return rfc3161_client
