"""How pictures travel and what their pixels are to a model: the policy's table [model.image], and rows from pixels.

A row is made of the levels 0 to 255 of a picture's channels, laid out as the model's input and brought to its range.
The same pixels are the same row, in whatever form they came.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Floats
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.models.networks import channels_first, image_shape

__all__ = [
    "FORMATS",
    "FORMS",
    "JPEG_HEAD",
    "PNG_HEAD",
    "RESIZE",
    "ImageSpec",
    "Layout",
    "layout_of",
    "levels_of",
    "nearest_levels",
    "pixels_of",
    "rows_of",
]

Pixels = NDArray[np.uint8]

FORMS = ("base64", "data_url", "multipart", "raw")
FORMATS = ("PNG", "JPEG")
PNG_HEAD, JPEG_HEAD = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"  # how their files begin
RESIZE = ("refuse", "nearest", "box", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """The table [model.image]."""

    path: str = "/predict"
    form: tuple[str, ...] = ("base64",)  # what clients may send
    field: str = "image"  # the path of a base64 text in a JSON object, and the name of a part of multipart/form-data
    batch: bool = False  # a question holds a list of pictures, and its answer a list of rows
    formats: tuple[str, ...] = FORMATS  # what is decoded
    resize: str = "refuse"  # what becomes of a picture of another size
    rotation: str = "ignore"  # what becomes of a JPEG that says how the camera was held
    most_pixels: int = 25_000_000  # of a question's pictures before they are decoded, an equal share for each
    scale: tuple[float, float] | None = None  # what the levels 0 and 255 are to the model; None is its bounds

    def __post_init__(self) -> None:
        check(self, "form", f"some of {', '.join(FORMS)}, each once", lambda v: _some(v, FORMS))
        check(self, "formats", f"some of {', '.join(FORMATS)}, each once", lambda v: _some(v, FORMATS))
        check(self, "resize", f"one of {', '.join(RESIZE)}", lambda v: v in RESIZE)
        check(self, "rotation", '"ignore" or "apply"', lambda v: v in ("ignore", "apply"))
        check(self, "most_pixels", "a positive int", lambda v: v > 0)
        numbers = "two numbers, what the levels 0 and 255 are to the model"
        check(self, "scale", numbers, lambda v: v is None or (_pair(v) and v[0] < v[1]))
        check(
            self,
            "batch",
            "false where a picture is sent as the whole body",
            lambda v: not v or "raw" not in self.form,
        )


def _some(v: Any, words: tuple[str, ...]) -> bool:
    return bool(v) and set(v) <= set(words) and len(set(v)) == len(v)


def _pair(v: Any) -> bool:
    return len(v) == 2 and all(type(n) in (int, float) and np.isfinite(n) for n in v)


class Layout(NamedTuple):
    """A picture as an input's shape says it."""

    height: int
    width: int
    channels: int  # 1 or 3
    first: bool  # whether the channels stand before height and width


def layout_of(shape: tuple[int, ...]) -> Layout:
    """The layout of inputs of shape (H, W), (H, W, C) or (C, H, W). ParameterError for others."""
    try:
        height, width, channels = image_shape(shape)
    except InputError:
        channels = 0
    if channels not in (1, 3):
        raise ParameterError("input_shape", "(H, W), (H, W, C) or (C, H, W) with 1 or 3 channels for pictures", shape)
    return Layout(height, width, channels, channels_first(shape))


@lru_cache(maxsize=64)
def levels_of(low: float, high: float) -> Array:
    """(256,) what every level is to the model; whole numbers where `high` - `low` is 255."""
    return low + np.arange(256) * (high - low) / 255


def rows_of(pixels: Pixels, shape: tuple[int, ...], scale: tuple[float, float]) -> Array:
    """(n, H, W, C) levels -> (n, *shape) rows."""
    laid = np.moveaxis(pixels, 3, 1) if layout_of(shape).first else pixels
    return levels_of(*scale)[laid].reshape(len(pixels), *shape)


def pixels_of(x: Floats, shape: tuple[int, ...], scale: tuple[float, float]) -> Pixels:
    """(n, *shape) rows -> (n, H, W, C) the nearest levels."""
    height, width, channels, first = layout_of(shape)
    levels = _nearest(x, scale).reshape(len(x), *((channels, height, width) if first else (height, width, channels)))
    return np.ascontiguousarray(np.moveaxis(levels, 1, 3) if first else levels)


def _nearest(x: Floats, scale: tuple[float, float]) -> Pixels:
    low, high = scale
    return np.clip(np.rint((x.astype(np.float64) - low) * 255 / (high - low)), 0, 255).astype(np.uint8)


def nearest_levels(x: Floats, scale: tuple[float, float]) -> Array:
    """Rows as a model that reads 8-bit pixels sees them. BadRequest for what no pixel comes near."""
    low, high = scale
    half = (high - low) / 510
    if not (x.min() >= low - half and x.max() <= high + half):  # NaN fails too
        raise BadRequest(f"The input must hold numbers from {low:g} to {high:g}: the model reads 8-bit pixels.")
    return levels_of(*scale)[_nearest(x, scale)]
