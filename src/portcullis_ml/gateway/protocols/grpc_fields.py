"""What a question over gRPC may hold, counted in its bytes before anything is made of it.

protobuf makes an object of each message in a message, of which two bytes can ask for one: four megabytes for two
million of them. Walking over the fields makes none. It also finds the model's name, which in gRPC stands in the body.
"""

from __future__ import annotations

from collections.abc import Iterator

from portcullis_ml.gateway.protocols.strict import BadRequest

__all__ = ["MOST", "fits", "model_in"]

MOST = 1_024  # fields of a question, and as many more as it may have rows, each of which may be a text
UNREADABLE = "The body must be a message of the Open Inference Protocol."

Layout = dict[int, "Layout"]  # by its number, each field that is a message, with those in it
PARAMETER: Layout = {2: {}}
REQUEST: Layout = {4: PARAMETER, 5: {4: PARAMETER, 5: {}}, 6: {2: PARAMETER}}
NAME, VERSION, PIECES = 1, 2, 2  # numbers of fields; the wire type of what has a length
WIDTHS = {1: 8, 5: 4}  # bytes, by the wire type


def fits(body: bytes, most: int) -> None:
    """Refuse a question of more than so many fields, those of its tensors and parameters among them."""
    for _ in _limited(body, REQUEST, most):
        pass


def model_in(body: bytes) -> tuple[str, str]:
    """(the model's name, its version), of each the last one, as protobuf takes it; raises BadRequest."""
    found = {NAME: b"", VERSION: b""}
    for number, kind, start, end in _limited(body, {}, MOST):
        if number in found and kind == PIECES:
            found[number] = body[start:end]
    try:
        return found[NAME].decode(), found[VERSION].decode()
    except UnicodeDecodeError:
        raise BadRequest(UNREADABLE) from None


Field = tuple[int, int, int, int]  # its number, its wire type, where its value begins and ends


def _limited(body: bytes, layout: Layout, most: int) -> Iterator[Field]:
    """The fields of a message and of those in it."""
    left, todo = most, [(layout, 0, len(body))]
    while todo:
        inner, start, end = todo.pop()
        for field in _fields(body, start, end):
            left -= 1
            if left < 0:
                raise BadRequest(f"A question may have {most} fields; lists of numbers must be packed, each in one.")
            number, kind, start, stop = field
            if number in inner and kind == PIECES:
                todo.append((inner[number], start, stop))
            yield field


def _fields(body: bytes, at: int, end: int) -> Iterator[Field]:
    while at < end:
        key, at = _varint(body, at, end)
        kind, start = key & 7, at
        if kind == 0:
            _, at = _varint(body, at, end)
        elif kind == PIECES:
            size, start = _varint(body, at, end)
            at = start + size
        elif kind in WIDTHS:
            at += WIDTHS[kind]
        else:  # a group, which nobody sends any more
            raise BadRequest(UNREADABLE)
        if at > end:
            raise BadRequest(UNREADABLE)
        yield key >> 3, kind, start, at


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    """(a number that is written seven bits a byte, where it ends)."""
    found = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = body[at]
        found |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return found, at
    raise BadRequest(UNREADABLE)
