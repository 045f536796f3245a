"""Bodies of multipart/form-data (RFC 7578), read strictly: a few small parts, each understood, or one sentence why not.

A parser of the house: the body is here as a whole, within its limit, so nothing has to be read as it streams in, and
where parsers differ (text before the first boundary, folded headers, a name given twice) the body is refused.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple

from portcullis_ml.gateway.protocols.strict import BadRequest

__all__ = ["Part", "form_data", "parts_of"]

HEAD = 2_048  # bytes of a part's headers
BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
PARAMETER = re.compile(r';[ \t]*([A-Za-z][A-Za-z0-9_\-]*\*?)=("(?:[^"\\]|\\.)*"|[^\s";,]+)[ \t]*')
PLAIN = ("", "binary", "8bit", "7bit")  # transfer encodings that change nothing


class Part(NamedTuple):
    """One part of a form."""

    name: str
    kind: str  # its content type in small letters, without parameters; empty where it says none
    content: bytes


def parts_of(content_type: str, body: bytes, most: int) -> list[Part]:
    """The 1 to `most` parts of a form, in order. Raises BadRequest."""
    boundary = _parameters(content_type.partition(";")[2], "The content type").get("boundary", "")
    if not BOUNDARY.fullmatch(boundary):
        raise BadRequest("The content type must name a boundary of 1 to 70 characters.")
    delimiter = b"--" + boundary.encode()
    if not body.startswith(delimiter + b"\r\n"):
        raise BadRequest("The form must begin with its boundary.")
    pieces = body[len(delimiter) :].split(b"\r\n" + delimiter, most + 1)
    if len(pieces) > most + 1:
        raise BadRequest(f"The form must have at most {most} parts.", 413)
    if pieces.pop() not in (b"--", b"--\r\n"):
        raise BadRequest("The form must end with its boundary and two hyphens.")
    return [_part(piece) for piece in pieces]


def _part(piece: bytes) -> Part:
    """One part, from the line end behind its boundary on."""
    end = piece.find(b"\r\n\r\n", 0, HEAD)
    if not piece.startswith(b"\r\n") or end < 0:
        raise BadRequest(
            f"A part of the form must have headers of at most {HEAD} bytes, and an empty line behind them."
        )
    headers: dict[str, str] = {}
    for line in piece[2:end].decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        key = name.lower()
        if not colon or not re.fullmatch(r"[a-z0-9\-]+", key) or key in headers:
            raise BadRequest("A part of the form has a header that cannot be read, or the same one twice.")
        headers[key] = value.strip()
    if headers.get("content-transfer-encoding", "").lower() not in PLAIN:
        raise BadRequest("A part of the form must not be encoded.")
    disposition, _, rest = headers.get("content-disposition", "").partition(";")
    found = _parameters(rest, "A part of the form") if disposition.strip().lower() == "form-data" else {}
    if "name" not in found:
        raise BadRequest("A part of the form must be form-data and have a name.")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return Part(found["name"], kind, piece[end + 4 :])


def _parameters(text: str, where: str) -> dict[str, str]:
    """name=value; name="value" -> {name: value}. Refuses what is spelled otherwise, and a name that comes twice."""
    found: dict[str, str] = {}
    rest = f";{text}" if text.strip() else ""
    while rest:
        parameter = PARAMETER.match(rest)
        if parameter is None or parameter[1].lower() in found or len(text) > HEAD:
            raise BadRequest(f"{where} has parameters that cannot be read, or the same one twice.")
        value = parameter[2]
        found[parameter[1].lower()] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value
        rest = rest[parameter.end() :]
    return found


def form_data(name: str, contents: list[bytes], kind: str, filename: str) -> tuple[str, bytes]:
    """(content type, body) of a form whose parts all have this name, content type and file name."""
    boundary = blake2b(b"".join(contents), digest_size=16).hexdigest().encode()
    spelled = re.sub(r'(["\\])', r"\\\1", name).encode()
    head = b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="%b"\r\nContent-Type: %b\r\n\r\n'
    parts = [head % (boundary, spelled, filename.encode(), kind.encode()) + content + b"\r\n" for content in contents]
    return f"multipart/form-data; boundary={boundary.decode()}", b"".join(parts) + b"--%b--\r\n" % boundary
