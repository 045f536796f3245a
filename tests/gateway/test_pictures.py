"""Pictures: the same pixels are the same question in every form, and whatever is odd is refused in one sentence."""

from __future__ import annotations

import io
import json
import struct
import time
import tracemalloc
import zlib
from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.gateway.test_fuzz import N, attempt, mutated

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.types import Answer, Interface
from portcullis_ml.gateway.protocols.image_spec import PNG_HEAD, ImageSpec
from portcullis_ml.gateway.protocols.picture_files import BLOCKS, SCANS
from portcullis_ml.gateway.protocols.pictures import Pictures
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import Inquiry, ModelSpec

WIRE = Pictures()
ALL = ("base64", "multipart", "raw")
RNG = np.random.default_rng(0)
GRAY, RGB = RNG.integers(0, 256, (8, 8), np.uint8), RNG.integers(0, 256, (8, 8, 3), np.uint8)


def served(shape: tuple[int, ...] = (8, 8, 3), bounds: tuple[float, float] = (0, 1), **spec: Any) -> ModelSpec:
    own = {k: spec.pop(k) for k in ("datatype", "max_rows", "levels") if k in spec}
    form = ImageSpec(**{"form": ALL, **spec})
    interface = Interface(input_shape=shape, n_classes=3, bounds=bounds)
    return ModelSpec(name="m", interface=interface, options={"image": form}, **own)


def file(pixels: Any, kind: str = "PNG", **settings: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(out, kind, **settings)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, kind: bytes, data: bytes, times: int = 1) -> bytes:
    """A PNG with a further chunk behind its head."""
    return png[:33] + chunk(kind, data) * times + png[33:]


def header(width: int, height: int, depth: int = 8, colours: int = 2) -> bytes:
    return PNG_HEAD + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))


PNG, JPEG = file(RGB), file(RGB, "JPEG", quality=95)


def as_base64(*files: bytes, head: str = "", name: str = "image") -> tuple[dict[str, str], bytes]:
    texts = [head + b64encode(f).decode() for f in files]
    return {"content-type": "application/json"}, json.dumps({name: texts[0] if len(texts) == 1 else texts}).encode()


def as_form(
    *parts: bytes | tuple[str, bytes], boundary: str = "b-1", end: str = "--b-1--\r\n"
) -> tuple[dict[str, str], bytes]:
    """A form of files, or of (headers, content)."""
    heads = 'Content-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png'
    pairs = [part if isinstance(part, tuple) else (heads, part) for part in parts]
    body = [f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n" for head, content in pairs]
    return {"content-type": f"multipart/form-data; boundary={boundary}"}, b"".join(body) + end.encode()


def as_raw(content: bytes, kind: str = "image/png") -> tuple[dict[str, str], bytes]:
    return {"content-type": kind}, content


def read(body: tuple[dict[str, str], bytes], model: ModelSpec | None = None) -> np.ndarray:
    return WIRE.read(model or served(), *body).x


def refused(body: tuple[dict[str, str], bytes], model: ModelSpec | None = None) -> tuple[int, str]:
    """(the status, the sentence) of a refusal."""
    with pytest.raises(BadRequest) as refusal:
        read(body, model)
    assert refusal.value.sentence.endswith(".")
    assert len(refusal.value.sentence) < 250
    return refusal.value.status, refusal.value.sentence


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (1, 8, 8), (8, 8, 3), (3, 8, 8)])
def test_the_same_picture_is_the_same_row_in_every_form(shape: tuple[int, ...]) -> None:
    model, pixels = served(shape), RGB if 3 in shape else GRAY
    png = file(pixels)
    bodies = [
        as_base64(png),
        as_base64(png, head="data:image/png;base64,"),
        as_base64(png, head="DATA:image/PNG;base64,"),
        as_form(png),
        as_raw(png),
        as_raw(png, "application/octet-stream"),
        ({}, as_base64(png)[1]),
    ]
    wanted = (np.moveaxis(pixels, 2, 0) if shape == (3, 8, 8) else pixels).reshape(1, *shape) / 255
    for body in bodies:
        np.testing.assert_array_equal(read(body, model), wanted)
    for form in (*ALL, "data_url"):
        ask = WIRE.ask(served(shape, form=(form,)), wanted)
        np.testing.assert_array_equal(read((dict(ask.headers), ask.body), model), wanted)


def test_a_path_in_json_and_several_pictures() -> None:
    model = served(field="$.data.images", batch=True, form=("base64", "multipart"), max_rows=3)
    two = json.dumps({"data": {"images": [b64encode(PNG).decode(), b64encode(JPEG).decode()]}}).encode()
    assert read(({}, two), model).shape == (2, 8, 8, 3)
    status, sentence = refused(({}, two.replace(b"[", b"[" + b'"",' * 2)), model)
    assert (status, "1 to 3 pictures; got 4" in sentence) == (413, True)
    assert read(as_form(PNG, PNG), served(batch=True, form=("multipart",), max_rows=2)).shape == (2, 8, 8, 3)
    with pytest.raises(BadRequest, match="takes one picture a request; got 2"):
        WIRE.ask(served(), np.zeros((2, 8, 8, 3)))
    ask = WIRE.ask(model, np.zeros((2, 8, 8, 3)))
    assert len(json.loads(ask.body)["data"]["images"]) == 2


@pytest.mark.parametrize(
    ("bounds", "datatype"), [((0, 255), "UINT8"), ((0, 1), "FP32"), ((-1, 1), "FP64"), ((0, 1), "FP16")]
)
def test_every_level_comes_back_from_the_models_numbers(bounds: tuple[float, float], datatype: str) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    model = served((16, 16), bounds, datatype=datatype)
    x = read(as_raw(file(pixels)), model)
    assert (x.min(), x.max()) == bounds
    sent = WIRE.ask(served((16, 16), bounds, form=("raw",)), x).body
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sent))), pixels)


def test_numbers_between_levels_are_brought_to_the_nearest_before_they_are_inspected() -> None:
    model = served((8, 8), levels=(0.0, 1.0))
    x = RNG.random((2, 8, 8))
    seen = model.inspected(x.copy())
    np.testing.assert_array_equal(seen, np.rint(x * 255) / 255)
    np.testing.assert_array_equal(read(({}, WIRE.ask(model, seen[:1]).body), model), seen[:1])
    for bad in (1.1, -0.01, np.nan, np.inf):
        with pytest.raises(BadRequest, match="from 0 to 1"):
            model.inspected(np.full((1, 8, 8), bad))


# Files: what is decoded, and to what.


def test_kinds_of_files_that_are_the_same_pixels() -> None:
    gray3 = np.repeat(GRAY[..., None], 3, axis=2)
    palette = Image.fromarray(RGB // 64 * 64).quantize(64)
    opaque = np.dstack([RGB, np.full((8, 8), 255, np.uint8)])
    bits = GRAY > 99
    out = io.BytesIO()
    palette.save(out, "PNG")
    cases = {
        "gray": (file(GRAY), gray3),
        "opaque": (file(opaque), RGB),
        "palette": (out.getvalue(), np.asarray(palette.convert("RGB"))),
        "bits": (file(bits), np.repeat(bits[..., None], 3, axis=2) * 255),
        "text": (with_chunk(PNG, b"tEXt", b"a\0" + b"b" * 99_000), RGB),
        "unpacked text": (with_chunk(PNG, b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)), 500), RGB),
        "profile": (with_chunk(PNG, b"iCCP", b"x\0\0nonsense"), RGB),
        "exif": (with_chunk(PNG, b"eXIf", b"MM" + b"\xff" * 999_000), RGB),
    }
    for name, (content, wanted) in cases.items():
        np.testing.assert_array_equal(read(as_raw(content)), wanted[None] / 255, err_msg=name)


def test_interlaced_files_are_their_pixels() -> None:
    """Adam7 by hand: 8 x 8 pixels in seven passes; Pillow writes none."""
    raw = b""
    for x0, y0, dx, dy in [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]:
        raw += b"".join(b"\0" + row.tobytes() for row in GRAY[y0::dy, x0::dx])
    head = PNG_HEAD + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1))
    content = head + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(read(as_raw(content), served((8, 8))), GRAY[None] / 255)


def exif(orientation: int, order: str = ">") -> bytes:
    mark = b"MM" if order == ">" else b"II"
    tags = struct.pack(order + "HHHI", 2, 0x0100, 3, 1) + struct.pack(order + "HH", 8, 0)
    return (
        mark + struct.pack(order + "HI", 42, 8) + tags + struct.pack(order + "HHIHHI", 0x0112, 3, 1, orientation, 0, 0)
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_cameras_rotation_is_ignored_or_undone_as_the_policy_says(orientation: int, order: str) -> None:
    from PIL import ImageOps

    pixels = np.repeat(np.arange(0, 240, 5, np.uint8).reshape(6, 8)[..., None], 3, axis=2)
    content = file(pixels, "JPEG", exif=b"Exif\0\0" + exif(orientation, order), quality=100)
    plain = np.asarray(Image.open(io.BytesIO(content)))
    turned = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    np.testing.assert_array_equal(read(as_raw(content), served((6, 8, 3))), plain[None] / 255)
    model = served(turned.shape, rotation="apply")
    np.testing.assert_array_equal(read(as_raw(content), model), turned[None] / 255)


def test_a_picture_of_another_size_is_refused_or_resized() -> None:
    large = RNG.integers(0, 256, (20, 30, 3), np.uint8)
    assert refused(as_raw(file(large)))[1] == "A picture must be 8 x 8 pixels (width x height); got 30 x 20."
    wanted = np.asarray(Image.fromarray(large).resize((8, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(read(as_raw(file(large)), served(resize="bilinear")), wanted[None] / 255)


def test_a_jpeg_is_decoded_as_pillow_decodes_it() -> None:
    wanted = np.asarray(Image.open(io.BytesIO(JPEG)))[None] / 255
    for content in (
        JPEG,
        JPEG + b"motion picture",
        file(RGB, "JPEG", quality=95, exif=b"Exif\0\0junk", comment=b"c" * 60_000),
    ):
        np.testing.assert_array_equal(read(as_raw(content, "image/jpeg")), wanted)


def animated() -> bytes:
    out = io.BytesIO()
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:], duration=10)
    return out.getvalue()


def transparent() -> bytes:
    return file(np.dstack([RGB, np.full((8, 8), 254, np.uint8)]))


def scans() -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    content = file(RGB, "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * SCANS + content[-2:]


def cmyk() -> bytes:
    out = io.BytesIO()
    Image.fromarray(RGB).convert("CMYK").save(out, "JPEG")
    return out.getvalue()


BAD_FILES = {
    "empty": (b"", 400, "empty"),
    "text": (b"hello", 415, "PNG or JPEG"),
    "gif": (file(GRAY, "GIF"), 415, "PNG or JPEG"),
    "tiff": (file(GRAY, "TIFF"), 415, "PNG or JPEG"),
    "bmp": (file(RGB, "BMP"), 415, "PNG or JPEG"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "PNG or JPEG"),
    "huge": (
        header(60_000, 60_000) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b""),
        413,
        "25,000,000",
    ),
    "of no size": (header(0, 8) + chunk(b"IDAT", b"") + chunk(b"IEND", b""), 400, "A picture must be|damaged"),
    "16 bits": (file(GRAY.astype(np.uint16) * 257), 400, "has 16"),
    "animated": (animated(), 400, "animated"),
    "transparent": (transparent(), 400, "transparent"),
    "transparent colour": (file(GRAY, transparency=int(GRAY[0, 0])), 400, "transparent"),
    "behind the end": (PNG + b"x", 400, "nothing behind"),
    "two pictures": (PNG + PNG, 400, "nothing behind"),
    "cut": (PNG[:-30], 400, "damaged"),
    "without an end": (PNG[:-12], 400, "damaged"),
    "two heads": (PNG[:33] + PNG[8:], 400, "damaged"),
    "no head": (PNG_HEAD + PNG[33:], 400, "damaged"),
    "unknown and needed": (with_chunk(PNG, b"ABCD", b""), 400, "damaged"),
    "many chunks": (with_chunk(PNG, b"abCd", b"", BLOCKS), 400, "damaged"),
    "long claim": (PNG[:33] + b"\xff\xff\xff\xffIDAT", 400, "damaged"),
    "wrong sum": (PNG[:-20] + b"\0\0\0\0" + PNG[-16:], 400, "damaged"),
    "too little": (header(8, 8) + chunk(b"IDAT", zlib.compress(bytes(20))) + chunk(b"IEND", b""), 400, "damaged"),
    "no zlib": (header(8, 8) + chunk(b"IDAT", b"nonsense") + chunk(b"IEND", b""), 400, "damaged"),
    "head only": (PNG_HEAD, 400, "damaged"),
    "CMYK": (cmyk(), 400, "CMYK"),
    "cut JPEG": (JPEG[: len(JPEG) // 2], 400, "damaged"),
    "JPEG's head only": (b"\xff\xd8\xff", 400, "damaged"),
    "JPEG of segments": (b"\xff\xd8" + b"\xff\xfe\0\2" * BLOCKS * 2, 400, "damaged"),
    "many scans": (scans(), 400, f"{SCANS} scans"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_odd_is_refused_in_every_form(case: str) -> None:
    content, status, words = BAD_FILES[case]
    found = {refused(body) for body in (as_base64(content), as_form(content), as_raw(content))}
    assert len(found) == 1
    ((told, sentence),) = found
    assert told == status
    assert any(word in sentence for word in words.split("|")), sentence


def test_a_huge_jpeg_is_refused_by_its_head() -> None:
    at = JPEG.index(b"\xff\xc0")
    content = JPEG[: at + 5] + struct.pack(">HH", 65_000, 65_000) + JPEG[at + 9 :]
    assert refused(as_raw(content), served(resize="box"))[0] == 413


@pytest.mark.parametrize("resize", ["refuse", "bilinear"])
def test_a_picture_is_decoded_up_to_most_pixels(resize: str) -> None:
    model = served((8, 8), resize=resize, most_pixels=64)
    assert read(as_raw(file(GRAY)), model).shape == (1, 8, 8)
    status, sentence = refused(as_raw(file(np.zeros((8, 9), np.uint8))), model)
    assert (status, sentence) == (413, "A picture may have at most 64 pixels; got 9 x 8.")


def test_a_list_of_pictures_shares_its_pixels_and_has_no_more_numbers_than_a_body_of_numbers() -> None:
    model = served((8, 8), batch=True, form=("base64",), resize="box", most_pixels=300)
    three = [file(np.zeros((10, 10), np.uint8))] * 3
    assert read(as_base64(*three), model).shape == (3, 8, 8)
    assert refused(as_base64(*three, three[0]), model)[1] == "A picture may have at most 75 pixels; got 10 x 10."
    large = served((224, 224, 3), batch=True, form=("base64",))
    assert WIRE.most_rows(large) == 27
    flat = file(np.zeros((224, 224, 3), np.uint8))
    assert refused(as_base64(*[flat] * 28), large) == (413, "$.image must hold 1 to 27 pictures; got 28.")


def flood(kind: str) -> tuple[dict[str, str], bytes]:
    """A megabyte or two that asks for much work."""
    if kind == "parts":
        return as_form(*[b""] * 20_000)
    if kind == "boundaries":
        return {"content-type": "multipart/form-data; boundary=b"}, b"--b\r\n" + b"\r\n--b" * 300_000
    if kind == "parameters":
        return as_form(("Content-Disposition: form-data" + "; a=b" * 200_000, PNG))
    if kind == "lists":
        return {}, b'{"image":' + b"[" * 600_000 + b"]" * 600_000 + b"}"
    if kind == "texts":
        return {}, b'{"image":[' + b'"",' * 400_000 + b'""]}'
    if kind == "keys":
        return {}, b"{" + b",".join(b'"%d":1' % i for i in range(90_000)) + b"}"
    if kind == "pixels":
        idat = zlib.compress(bytes(60_000 * 400 + 400), 9)
        return as_raw(header(60_000, 400, colours=0) + chunk(b"IDAT", idat) + chunk(b"IEND", b""))
    if kind == "deep text":
        return as_raw(with_chunk(PNG, b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6), 9), 1_000)[:-1])
    return as_raw(JPEG[:2] + b"\xff\xe1\xff\xff" + bytes(65_533) * 1 + (b"\xff\xe2\xff\xff" + bytes(65_533)) * 20)


@pytest.mark.parametrize(
    "kind", ["parts", "boundaries", "parameters", "lists", "texts", "keys", "pixels", "deep text", "Exif"]
)
def test_a_megabyte_of_anything_is_refused_in_a_moment_and_in_little_memory(kind: str) -> None:
    body = flood(kind)
    tracemalloc.start()
    start = time.process_time()
    try:
        refused(body)
        took, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert took < 1
    assert peak < 20 * len(body[1]) + 10**6


# Bodies: JSON and forms.

TEXT = b64encode(PNG).decode()
BAD_TEXTS = {
    "garbage": "%%%",
    "line breaks": TEXT[:76] + "\n" + TEXT[76:],
    "no padding": TEXT.rstrip("=") + "A" * (TEXT.count("=") == 0),
    "spaces": TEXT[:4] + " " + TEXT[4:],
    "url alphabet": "-_-_",
    "not ASCII": "\u0131" * 4,
    "surrogate": "\ud800",
    "a page": "data:text/html;base64," + TEXT,
    "SVG": "data:image/svg+xml;base64," + TEXT,
    "no base64": "data:image/png," + TEXT,
    "parameters": "data:image/png;charset=utf-8;base64," + TEXT,
    "twice": "data:image/png;base64,data:image/png;base64," + TEXT,
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_a_text_that_is_no_base64_is_refused(case: str) -> None:
    body = json.dumps({"image": BAD_TEXTS[case]}).encode()
    status, sentence = refused(({}, body))
    assert status == 400
    assert "base64" in sentence or "JSON" in sentence


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"image": None},
        {"image": 1},
        {"image": [TEXT]},
        {"image": {"b64": TEXT}},
        {"image": TEXT, "more": 1},
        [TEXT],
    ],
)
def test_json_that_holds_no_picture_is_refused(tree: Any) -> None:
    assert refused(({}, json.dumps(tree).encode()))[0] == 400


def test_whoever_sends_a_form_that_is_not_taken_is_told_which_is() -> None:
    model = served(form=("base64", "multipart"))
    assert refused(as_raw(PNG), model) == (
        415,
        "A picture must be sent as application/json, or as multipart/form-data.",
    )
    assert refused(({"content-type": "text/plain"}, PNG), model)[0] == 415
    assert refused(({}, PNG), served(form=("multipart",)))[0] == 415
    assert refused(as_base64(PNG), served(form=("raw",))) == (415, "A picture must be sent as image/png or image/jpeg.")


HEAD = 'Content-Disposition: form-data; name="image"'
BAD_FORMS = {
    "no boundary": ({"content-type": "multipart/form-data"}, as_form(PNG)[1]),
    "long boundary": as_form(PNG, boundary="b" * 10_000, end=f"--{'b' * 10_000}--"),
    "two boundaries": ({"content-type": "multipart/form-data; boundary=b-1; boundary=b-2"}, as_form(PNG)[1]),
    "other boundary": ({"content-type": "multipart/form-data; boundary=b-2"}, as_form(PNG)[1]),
    "boundary with a line end": ({"content-type": 'multipart/form-data; boundary="b\r\n"'}, as_form(PNG)[1]),
    "a text before": ({"content-type": "multipart/form-data; boundary=b-1"}, b"hello\r\n" + as_form(PNG)[1]),
    "a text behind": (as_form(PNG)[0], as_form(PNG)[1] + b"hello"),
    "no end": as_form(PNG, end=""),
    "nothing": ({"content-type": "multipart/form-data; boundary=b-1"}, b""),
    "no parts": ({"content-type": "multipart/form-data; boundary=b-1"}, b"--b-1--\r\n"),
    "two parts": as_form(PNG, PNG),
    "another part": as_form((HEAD.replace("image", "file"), PNG)),
    "no name": as_form(("Content-Disposition: form-data", PNG)),
    "two names": as_form((HEAD + '; name="image"', PNG)),
    "two dispositions": as_form((HEAD + "\r\n" + HEAD, PNG)),
    "an attachment": as_form((HEAD.replace("form-data", "attachment"), PNG)),
    "no headers": as_form(("", PNG)),
    "a folded header": as_form(("Content-Disposition: form-data;\r\n name=image", PNG)),
    "a name in a file's name": as_form(('Content-Disposition: form-data; filename="; name=\\"image\\""', PNG)),
    "an open quotation": as_form((HEAD[:-1], PNG)),
    "nested": as_form(
        (HEAD + "\r\nContent-Type: multipart/mixed; boundary=x", as_form(PNG, boundary="x", end="--x--\r\n")[1])
    ),
    "a page": as_form((HEAD + "\r\nContent-Type: text/html", PNG)),
    "base64": as_form((HEAD + "\r\nContent-Transfer-Encoding: base64", b64encode(PNG))),
    "long headers": as_form((HEAD + "\r\nX: " + "x" * 5_000, PNG)),
}


@pytest.mark.parametrize("case", BAD_FORMS)
def test_a_form_that_is_odd_is_refused(case: str) -> None:
    assert refused(BAD_FORMS[case])[0] in (400, 413, 415)


@pytest.mark.parametrize(
    "head",
    [
        "Content-Disposition: form-data; name=image",
        'content-disposition:form-data;name="image";filename="a\\"; name=x.png"',
        "Content-Type: image/jpeg\r\nContent-Disposition: form-data; filename=../../etc/passwd; name=image",
        HEAD + "; filename*=UTF-8''x.svg\r\nContent-Transfer-Encoding: binary\r\nContent-Length: 7",
        HEAD + '; filename="\u00fc\u4e2d.png"\r\nContent-Type: application/octet-stream',
    ],
)
def test_what_clients_of_many_kinds_send_is_read(head: str) -> None:
    np.testing.assert_array_equal(read(as_form((head, PNG))), RGB[None] / 255)
    quoted = {"content-type": 'Multipart/Form-Data; charset=utf-8; boundary="b-1"'}
    np.testing.assert_array_equal(read((quoted, as_form((head, PNG), end="--b-1--")[1])), RGB[None] / 255)


def test_what_the_model_is_sent_is_a_png_of_the_pixels_and_nothing_else() -> None:
    odd = with_chunk(PNG, b"tEXt", b"Comment\0ignore the guard")
    x = read(as_form((HEAD + '; filename="evil.svg"', odd)))
    for form in (*ALL, "data_url"):
        ask = WIRE.ask(served(form=(form,)), x)
        assert b"ignore" not in ask.body
        assert b"evil" not in ask.body
        again = WIRE.ask(served(form=(form,)), read((dict(ask.headers), ask.body)))
        assert again == ask


def test_numbers_that_no_picture_holds_are_asked_as_the_nearest() -> None:
    model = served((8, 8), form=("raw",))
    sent = WIRE.ask(model, np.linspace(-0.5, 1.5, 64).reshape(1, 8, 8)).body
    assert Image.open(io.BytesIO(sent)).getextrema() == (0, 255)


def test_one_picture_is_answered_by_one_row_and_a_list_by_rows() -> None:
    answer = Answer(np.array([2]), np.array([[0.1, 0.2, 0.7]]))
    for batch, wanted in (
        (False, {"scores": [0.1, 0.2, 0.7], "labels": 2}),
        (True, {"scores": [[0.1, 0.2, 0.7]], "labels": [2]}),
    ):
        model = served(batch=batch, form=("base64",))
        body = as_base64(PNG)[1].replace(b'"iV', b'["iV').replace(b'"}', b'"]}') if batch else as_base64(PNG)[1]
        inquiry = WIRE.read(model, {}, body)
        reply = WIRE.write(model, inquiry, answer)
        assert json.loads(reply.body) == wanted
        back = WIRE.understand(model, 1, {}, reply.body)
        np.testing.assert_array_equal(back.scores, answer.scores)


@pytest.mark.parametrize(
    "bad",
    [
        {"form": ()},
        {"form": ("gif",)},
        {"form": ("raw", "raw")},
        {"formats": ("GIF",)},
        {"resize": "yes"},
        {"rotation": True},
        {"most_pixels": 0},
        {"scale": (1, 0)},
        {"scale": (0,)},
        {"scale": "ab"},
        {"batch": True},
    ],
)
def test_a_table_that_cannot_work_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(bad))):
        ImageSpec(**{"form": ALL, **bad})


VALID = [
    as_base64(PNG),
    as_base64(PNG, head="data:image/png;base64,"),
    as_form(PNG),
    as_raw(PNG),
    as_raw(JPEG, "image/jpeg"),
    as_raw(file(RGB, "JPEG", progressive=True)),
    as_raw(file(GRAY)),
    as_raw(animated()),
    as_raw(transparent()),
]
MODELS = [served(), served((3, 8, 8), resize="nearest", rotation="apply"), served((8, 8), (-1, 1), datatype="FP32")]


@settings(max_examples=2 * N, deadline=2_000)
@given(data=st.data(), model=st.sampled_from(MODELS))
def test_a_body_after_an_accident_is_read_or_refused_and_what_is_read_is_what_is_asked(
    data: Any, model: ModelSpec
) -> None:
    headers, body = data.draw(st.sampled_from(VALID))
    body = data.draw(mutated(body))
    if data.draw(st.integers(0, 9)) == 0:
        headers = {"content-type": data.draw(mutated(headers["content-type"].encode())).decode("latin-1")}
    inquiry = attempt(WIRE.read, model, headers, body)
    if isinstance(inquiry, BadRequest):
        assert 400 <= inquiry.status < 500
        assert inquiry.sentence.endswith(".")
        return
    assert inquiry.x.shape == (1, *model.interface.input_shape)
    ask = WIRE.ask(model, inquiry.x)
    again = WIRE.read(model, ask.headers, ask.body)
    np.testing.assert_array_equal(again.x, inquiry.x)
    assert isinstance(again, Inquiry)
