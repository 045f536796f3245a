"""Files of pictures: decoded by Pillow within limits, and written as PNG.

Pillow is shown what makes the pixels and nothing else: text, profiles, thumbnails and Exif are cut away before, so
that they can neither cost anything nor mean anything. What is refused: animation, more than 8 bits a channel, colours
for print (CMYK), anything transparent, and bytes behind the end of a PNG.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from portcullis_ml.core.errors import MissingExtra
from portcullis_ml.gateway.protocols.image_spec import JPEG_HEAD, PNG_HEAD, ImageSpec, Layout, Pixels
from portcullis_ml.gateway.protocols.strict import BadRequest

try:
    from PIL import Image, JpegImagePlugin, PngImagePlugin
except ModuleNotFoundError as error:
    raise MissingExtra("The protocol pictures", "pillow", "gateway") from error

__all__ = ["decoded", "png"]

READERS: dict[str, Any] = {"PNG": PngImagePlugin.PngImageFile, "JPEG": JpegImagePlugin.JpegImageFile}
BLOCKS = 10_000  # chunks of a PNG, or segments of a JPEG, at most
SCANS = 64  # of a JPEG: each is another way through all pixels, and a progressive one has about ten
ONCE, PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS"), (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
METADATA = {0xFE, *range(0xE1, 0xF0)} - {0xEE}  # APP0 and APP14 say how colours are to be read
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def decoded(content: bytes, spec: ImageSpec, layout: Layout, most: int) -> Pixels:
    """(H, W, C) the pixels of a file that has at most so many, in the model's size. BadRequest for what is refused or
    cannot be read."""
    image, turn = _opened(content, spec)
    width, height = image.size[::-1] if turn in (5, 6, 7, 8) else image.size
    if image.width * image.height > most:
        raise BadRequest(f"A picture may have at most {most:,} pixels; got {image.width} x {image.height}.", 413)
    if spec.resize == "refuse" and (width, height) != (layout.width, layout.height):
        wanted = f"{layout.width} x {layout.height} pixels"
        raise BadRequest(f"A picture must be {wanted} (width x height); got {width} x {height}.")
    try:
        image.load()
    except Exception as error:  # decoders of broken files raise anything
        raise damaged() from error
    image = _opaque(image).convert("L" if layout.channels == 1 else "RGB")
    if turn in TURNS:
        image = image.transpose(TURNS[turn])
    if image.size != (layout.width, layout.height):
        image = image.resize((layout.width, layout.height), Image.Resampling[spec.resize.upper()])
    return np.asarray(image).reshape(layout.height, layout.width, layout.channels)


def png(pixels: Pixels) -> bytes:
    """(H, W, C) levels as a PNG file without anything else in it."""
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def damaged() -> BadRequest:
    return BadRequest("The picture cannot be decoded: it is damaged or cut short.")


def _opened(content: bytes, spec: ImageSpec) -> tuple[Any, int]:
    """(the picture, of which only the head has been read, how it is to be turned)."""
    turn, kind = 1, "PNG" if content.startswith(PNG_HEAD) else "JPEG" if content.startswith(JPEG_HEAD) else ""
    if kind not in spec.formats:
        raise BadRequest(f"A picture must be a {' or '.join(spec.formats)} file.", 415)
    if kind == "PNG":
        content = _png_of_pixels(content)
    else:
        content, exif = _jpeg_of_pixels(content)
        turn = _orientation(exif) if spec.rotation == "apply" else 1
    try:
        image = READERS[kind](io.BytesIO(content))
    except Exception as error:
        raise damaged() from error
    if image.mode not in ("1", "L", "P", "RGB", "LA", "PA", "RGBA"):
        raise BadRequest(f"A picture must be gray or RGB; this one is {image.mode}.")
    return image, turn


def _png_of_pixels(content: bytes) -> bytes:
    """A PNG file without what stands beside its pixels."""
    at, kept, seen = len(PNG_HEAD), [PNG_HEAD], set[bytes]()
    for _ in range(BLOCKS):
        end = at + 12 + int.from_bytes(content[at : at + 4])
        kind = content[at + 4 : at + 8]
        if end > len(content) or (kind in ONCE and kind in seen) or (kind == b"IHDR") != (not seen):
            raise damaged()
        if kind == b"acTL":
            raise BadRequest("A picture must not be animated.")
        if kind == b"IHDR" and content[at + 16 : at + 17] == b"\x10":
            raise BadRequest("A picture may have 8 bits a channel; this one has 16.")
        if kind in PIXEL_CHUNKS:
            kept.append(content[at:end])
        elif not kind[:1].islower():  # it changes what the pixels are, and nobody knows how
            raise damaged()
        seen.add(kind)
        at = end
        if kind == b"IEND":
            break
    else:
        raise damaged()
    if at < len(content):
        raise BadRequest("There must be nothing behind the end of a picture.")
    return b"".join(kept)


def _jpeg_of_pixels(content: bytes) -> tuple[bytes, bytes]:
    """(a JPEG file without what stands beside its pixels, what its Exif says)."""
    at, kept, exif = 2, [content[:2]], b""
    for _ in range(BLOCKS):
        marker, length = content[at + 1 : at + 2], int.from_bytes(content[at + 2 : at + 4])
        end = at + 2 + length
        if content[at : at + 1] != b"\xff" or length < 2 or end > len(content):
            raise damaged()
        if marker == b"\xda":
            break
        if marker[0] not in METADATA:
            kept.append(content[at:end])
        elif marker == b"\xe1" and content[at + 4 : at + 10] == b"Exif\0\0":
            exif = content[at + 10 : end]
        at = end
    else:
        raise damaged()
    if content.count(b"\xff\xda", at) > SCANS:
        raise BadRequest(f"A JPEG may have at most {SCANS} scans.")
    return b"".join([*kept, content[at:]]), exif


def _orientation(exif: bytes) -> int:
    """How a camera was held (1 to 8), as the first directory of its Exif says; 1 where it says nothing that is one."""
    order = {b"II": "little", b"MM": "big"}.get(exif[:2])
    if order is None:
        return 1

    def number(at: int, size: int) -> int:
        return int.from_bytes(exif[at : at + size], order)  # type: ignore[arg-type]

    start = number(4, 4)
    for at in range(start + 2, min(start + 2 + 12 * number(start, 2), len(exif)), 12):
        if number(at, 2) == ORIENTATION:
            return number(at + 8, 2) if number(at + 8, 2) in TURNS else 1
    return 1


def _opaque(image: Any) -> Any:
    """The picture, refused where something shines through: what that is, every server decides in its own way."""
    if image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema()[0] < 255:
        raise BadRequest("A picture must not be transparent anywhere.")
    return image.convert("RGB")
