"""What shows the gate to the model server, and the model server to the gate: a token, and certificates."""

from __future__ import annotations

import ssl
from pathlib import Path

from portcullis_ml.core.errors import InputError

__all__ = ["credentials", "trusted"]


def credentials(path: str | None, header: str) -> dict[str, str]:
    """The header that shows the gate to the model server, read from a file, so that no policy holds a secret."""
    if path is None:
        return {}
    try:
        token = Path(path).read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise InputError(
            f"The model server's token is expected in {path!r}, as one line of ASCII; it cannot be read. "
            "See upstream.token_file in the policy."
        ) from error
    if not token or not token.isprintable():
        raise InputError(f"The model server's token must be one line of printable text; {path!r} holds something else.")
    return {header.lower(): f"Bearer {token}" if header.lower() == "authorization" else token}


def trusted(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """TLS towards the model server: its certificate must be signed by this authority (by one that the system knows, if
    none is given), and the gate shows its own if it has one."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if cert_file is not None:
            context.load_cert_chain(cert_file, key_file)
    except (OSError, ValueError) as error:
        names = ", ".join(repr(f) for f in (ca_file, cert_file, key_file) if f)
        raise InputError(
            f"Certificates and keys towards the model server are expected as PEM files; {names} cannot be read "
            f"({error}). See upstream.ca_file, cert_file and key_file in the policy."
        ) from error
    return context
