"""Bodies with pictures in them: base64 texts in JSON, parts of a form, or a file by itself."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from typing import Any

import orjson

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.gateway.protocols.claims import SLACK, Room, fits
from portcullis_ml.gateway.protocols.image_spec import JPEG_HEAD, PNG_HEAD, ImageSpec
from portcullis_ml.gateway.protocols.json_paths import place
from portcullis_ml.gateway.protocols.multipart import form_data, parts_of
from portcullis_ml.gateway.protocols.strict import BadRequest, loads, only_keys
from portcullis_ml.gateway.protocols.wire import Headers

__all__ = ["body_of", "files_in", "keys_of"]

KINDS = {"application/json": "base64", "multipart/form-data": "multipart", "image/png": "raw", "image/jpeg": "raw",
         "image/jpg": "raw"}  # fmt: skip
SILENT = ("", "application/octet-stream", "application/x-www-form-urlencoded")  # said of a body that nothing is said of
PICTURE = ("", "application/octet-stream", "image/png", "image/jpeg", "image/jpg")  # said of a part
DATA_URL = re.compile(r"data:image/(?:png|jpeg|jpg);base64,", re.IGNORECASE)
NAMES = {"base64": "application/json", "data_url": "application/json", "multipart": "multipart/form-data",
         "raw": "image/png or image/jpeg"}  # fmt: skip


def keys_of(spec: ImageSpec) -> list[str]:
    """The keys that lead to the pictures in a JSON object: "image" and "$.image" -> ["image"]."""
    keys = place(spec.field if spec.field.startswith("$") else f"$.{spec.field}", "field").keys
    if not keys:
        raise ParameterError("field", 'a key, or a path such as "$.data.image"', spec.field)
    return list(keys)


def files_in(headers: Headers, body: bytes, spec: ImageSpec, most: int) -> list[bytes]:
    """The 1 to `most` files in a body. Raises BadRequest."""
    form = _form(headers.get("content-type", ""), body, spec)
    if form == "raw":
        found = [body]
    elif form == "multipart":
        found = _in_form(headers["content-type"], body, spec, most)
    else:
        found = [_from_text(text) for text in _texts(body, spec, most)]
    if not all(found):
        raise BadRequest("The picture is empty.")
    return found


def _form(content_type: str, body: bytes, spec: ImageSpec) -> str:
    """The form of a body: as its content type says, or its first byte where that says nothing."""
    kind = content_type.partition(";")[0].strip().lower()
    forms = ["base64" if form == "data_url" else form for form in spec.form]
    silent = "raw" if body[:1] in (PNG_HEAD[:1], JPEG_HEAD[:1]) else "base64"  # no JSON begins like this
    found = silent if kind in SILENT else KINDS.get(kind)
    if found not in forms:
        words = ", or as ".join(dict.fromkeys(NAMES[form] for form in spec.form))
        raise BadRequest(f"A picture must be sent as {words}.", 415)
    return found


def _texts(body: bytes, spec: ImageSpec, most: int) -> list[str]:
    """The base64 texts in a JSON body."""
    room, where = 2 * most + SLACK, "$." + ".".join(keys_of(spec))
    try:
        fits(body, Room(commas=room, lists=SLACK, keys=room, rows=most, shape=(1,)))
    except BadRequest as error:
        held = f"1 to {most} pictures" if spec.batch else "a picture"
        raise BadRequest(f"The body must hold {held} at {where}; it holds more.", error.status) from None
    value: Any = loads(body)
    for key in keys_of(spec):
        value = only_keys(value, (key,), "The request").get(key)
    if not spec.batch:
        value = [value] if isinstance(value, str) else None
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise BadRequest(f"{where} must be {'a list of base64 texts' if spec.batch else 'a base64 text'}.")
    if len(value) > most:
        raise BadRequest(f"{where} must hold 1 to {most} pictures; got {len(value)}.", 413)
    return value


def _from_text(text: str) -> bytes:
    head = DATA_URL.match(text)
    try:
        return b64decode(text[head.end() :] if head else text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(
            "A picture must be base64 without line breaks, or a data URL of image/png or image/jpeg."
        ) from None


def _in_form(content_type: str, body: bytes, spec: ImageSpec, most: int) -> list[bytes]:
    name = spec.field.removeprefix("$.")
    parts = parts_of(content_type, body, most if spec.batch else 1)
    for part in parts:
        if part.name != name:
            raise BadRequest(
                f"The form has {part.name[:40]!r}, which is not allowed here; a picture's part is {name!r}."
            )
        if part.kind not in PICTURE:
            raise BadRequest("A picture's part must say image/png or image/jpeg, or nothing, of its content.", 415)
    return [part.content for part in parts]


def body_of(files: list[bytes], spec: ImageSpec) -> tuple[str, bytes]:
    """(content type, body) of PNG files, in the first form. BadRequest for more than one where one is taken."""
    if not spec.batch and len(files) != 1:
        raise BadRequest(f"The model server takes one picture a request; got {len(files)}.")
    form, name = spec.form[0], spec.field.removeprefix("$.")
    if form == "raw":
        return "image/png", files[0]
    if form == "multipart":
        return form_data(name, files, "image/png", "picture.png")
    head = "data:image/png;base64," if form == "data_url" else ""
    texts = [head + b64encode(file).decode() for file in files]
    tree: Any = texts if spec.batch else texts[0]
    for key in reversed(keys_of(spec)):
        tree = {key: tree}
    return "application/json", orjson.dumps(tree)
