"""Statuses of HTTP, which the gate speaks inside, as codes of gRPC, and back.

A client library may send again by itself what got UNAVAILABLE or RESOURCE_EXHAUSTED. So a question that is too long,
which would never get through, is OUT_OF_RANGE.
"""

from __future__ import annotations

from grpc import StatusCode

__all__ = ["code_of", "status_of"]

CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    405: StatusCode.UNIMPLEMENTED,
    408: StatusCode.DEADLINE_EXCEEDED,
    413: StatusCode.OUT_OF_RANGE,
    415: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    501: StatusCode.UNIMPLEMENTED,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}
STATUSES = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.OUT_OF_RANGE: 413,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.UNIMPLEMENTED: 405,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}


def code_of(status: int) -> StatusCode:
    """The code for an error's status."""
    return CODES.get(status, StatusCode.INVALID_ARGUMENT if status < 500 else StatusCode.INTERNAL)


def status_of(code: StatusCode) -> int:
    """The status for a code that is not OK."""
    return STATUSES.get(code, 500)
