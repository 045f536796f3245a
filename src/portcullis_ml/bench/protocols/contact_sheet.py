"""Contact sheets: pictures from records beside each other in one grey PNG, without a library for pictures."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array

__all__ = ["packed", "png", "unpacked", "write_sheet"]

GAP, WHITE = 2, 255  # between pictures


def packed(pictures: Array) -> dict[str, Any]:
    """Pictures (n, height, width) in [0, 1] as plain data for a record; every one takes the whole range of greys."""
    flat = pictures.reshape(len(pictures), -1)
    low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
    grey = np.rint(255 * (flat - low) / np.where(high > low, high - low, np.inf)).astype(np.uint8)
    return {"shape": list(pictures.shape), "grey": base64.b85encode(zlib.compress(grey.tobytes(), 9)).decode()}


def unpacked(data: Mapping[str, Any]) -> NDArray[np.uint8]:
    """(n, height, width) greys."""
    return np.frombuffer(zlib.decompress(base64.b85decode(data["grey"])), np.uint8).reshape(data["shape"])


def write_sheet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A row of pictures for each packed one, from top to bottom."""
    lines = [np.concatenate([np.pad(p, GAP, constant_values=WHITE) for p in unpacked(row)], axis=1) for row in rows]
    path.write_bytes(png(np.concatenate(lines)))


def png(grey: NDArray[np.uint8]) -> bytes:
    """(height, width) as a PNG of 8-bit greys (ISO/IEC 15948)."""
    height, width = grey.shape
    lines = np.column_stack([np.zeros(height, np.uint8), grey])  # a zero in front of every line: it is not filtered
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = {b"IHDR": header, b"IDAT": zlib.compress(lines.tobytes(), 9), b"IEND": b""}
    chunks = [
        struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
