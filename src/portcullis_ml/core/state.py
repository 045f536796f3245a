"""Streaming state as bytes: what a detector or a defense remembers of one client, and where it is kept.

A state is a dataclass of numbers, text, arrays, lists and dicts, possibly of further such dataclasses. `pack` writes it
as one JSON header followed by raw little-endian arrays, `unpack` reads it by the type hints; nothing is ever unpickled.
"""

from __future__ import annotations

import json
import types
import typing
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np

from portcullis_ml.core.errors import InputError, ParameterError

__all__ = ["MemoryStore", "Store", "pack", "parts", "unpack"]

Key = tuple[str, str]  # (client, stage)
S = TypeVar("S")


def pack(state: Any) -> bytes:
    """The state as bytes. Equal states give equal bytes."""
    return b"".join(parts(state))


def parts(state: Any) -> list[bytes | memoryview]:
    """The pieces of `pack`: the header, then every array. The arrays are the state's own, not copies."""
    arrays: list[np.ndarray] = []
    header = json.dumps(_flatten(state, arrays), separators=(",", ":")).encode()
    raw = [a.reshape(-1).view(np.uint8).data for a in arrays if a.size]
    return [len(header).to_bytes(8, "little") + header, *raw]


def unpack(kind: type[S], data: bytes | memoryview) -> S:
    """The state that `pack` wrote; `kind` is its dataclass."""
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        tree = json.loads(bytes(data[8:start]))
        return _rebuild(kind, tree, memoryview(data)[start:])  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"The stored state of a {kind.__name__} is damaged ({error}). Clear this client.") from error


def _flatten(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        # A view of a larger buffer is stored at its own size, not at the buffer's.
        plain = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        offset = sum(a.nbytes for a in arrays)
        arrays.append(plain)
        return {"dtype": plain.dtype.str, "shape": list(plain.shape), "at": offset}
    if is_dataclass(value) and not isinstance(value, type):
        saved = [f for f in fields(value) if f.init]
        return {f.name: _flatten(getattr(value, f.name), arrays) for f in saved}
    if isinstance(value, dict):
        return [[_flatten(k, arrays), _flatten(v, arrays)] for k, v in value.items()]
    if isinstance(value, list | tuple):
        return [_flatten(v, arrays) for v in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ParameterError("a state", "made of numbers, text, arrays, lists, dicts and dataclasses", type(value))


def _rebuild(kind: Any, tree: Any, data: memoryview) -> Any:
    kind = getattr(typing.get_origin(kind) or kind, "__value__", kind)  # an alias, as NDArray is from numpy 2.5 on
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if tree is None or kind is Any:
        return tree
    if origin in (types.UnionType, typing.Union):
        return _rebuild(next(a for a in inner if a is not type(None)), tree, data)
    if kind is np.ndarray or origin is np.ndarray:
        dtype, count = np.dtype(tree["dtype"]), int(np.prod(tree["shape"], dtype=int))
        return np.frombuffer(data, dtype, count, tree["at"]).reshape(tree["shape"]).copy()
    if is_dataclass(kind):
        hints = _hints(kind)  # type: ignore[arg-type]
        return kind(**{name: _rebuild(hints[name], value, data) for name, value in tree.items()})  # type: ignore[operator]
    if origin is dict:
        return {_rebuild(inner[0], k, data): _rebuild(inner[1], v, data) for k, v in tree}
    if origin is list:
        return [_rebuild(inner[0], v, data) for v in tree]
    if origin is tuple:
        each = inner[:1] * len(tree) if inner[-1] is Ellipsis else inner
        return tuple(_rebuild(k, v, data) for k, v in zip(each, tree, strict=True))
    if kind is bytes:
        return bytes.fromhex(tree)
    return kind(tree)


@lru_cache(maxsize=256)
def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields; looking them up costs more than all the rest of reading a state."""
    return typing.get_type_hints(kind)


class Store(Protocol):
    """Where a guard keeps the state of every (client, stage). One caller at a time per client."""

    def load(self, key: Key) -> Any | None: ...

    def save(self, key: Key, state: Any) -> None: ...


class MemoryStore:
    """States in this process, for as long as it lives."""

    def __init__(self) -> None:
        self._states: dict[Key, Any] = {}

    def load(self, key: Key) -> Any | None:
        return self._states.get(key)

    def save(self, key: Key, state: Any) -> None:
        self._states[key] = state
