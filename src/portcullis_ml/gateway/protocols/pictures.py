"""Home-made vision services: pictures as base64 in JSON, as multipart/form-data or as the whole body.

Each picture is decoded within limits and inspected as pixels. The model server is sent a PNG that the gate has made of
exactly these pixels, so a file's metadata, further frames or trailing bytes, and what another decoder would make of it,
never reach the model. Answers are JSON with scores and labels at the paths of [model.mapping].

    [model.image]
    path = "/predict"
    form = ["base64", "multipart"]
    field = "image"
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import orjson

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.types import Answer, Floats, Interface
from portcullis_ml.gateway.protocols.described import Described, object_of, some
from portcullis_ml.gateway.protocols.image_spec import ImageSpec, layout_of, pixels_of, rows_of
from portcullis_ml.gateway.protocols.mapped_answer import described_answer, read_answer, written_answer
from portcullis_ml.gateway.protocols.mapping import JsonPath
from portcullis_ml.gateway.protocols.mapping_table import MappingTable, table_of
from portcullis_ml.gateway.protocols.picture_bodies import body_of, files_in, keys_of
from portcullis_ml.gateway.protocols.picture_files import decoded, png
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import NOTHING, Ask, Carried, Headers, Inquiry, ModelSpec, Reply, Wire, parsed

__all__ = ["Pictures"]

NUMBERS = 1 << 22  # in a question at most: a file may be a thousandth of what its pixels are


class Pictures(Wire):
    """A server that takes pictures and answers a JSON object with scores in it."""

    name: ClassVar[str] = "pictures"
    explains: ClassVar[bool] = True
    at_once: ClassVar[int] = 0  # a picture of a few bytes may have millions of pixels

    def route(self, method: str, path: str, served: ModelSpec) -> str | None:
        return "infer" if method == "POST" and path == _spec(served).path else None

    def routes(self, served: ModelSpec) -> tuple[Described, ...]:
        spec = _spec(served)
        text = {"type": "string", "contentEncoding": "base64"}
        file = {"type": "string", "format": "binary"}
        tree: dict[str, Any] = some(text, 1, self.most_rows(served)) if spec.batch else text
        for key in reversed(keys_of(spec)):
            tree = object_of((key,), **{key: tree})
        name = spec.field.removeprefix("$.")
        form = object_of((name,), **{name: some(file, 1, self.most_rows(served)) if spec.batch else file})
        kinds: dict[str, Any] = {"multipart/form-data": form} if "multipart" in spec.form else {}
        if "raw" in spec.form:
            kinds |= {f"image/{kind.lower()}": file for kind in spec.formats}
        answer = described_answer(_table(served), served)
        body = tree if {"base64", "data_url"} & set(spec.form) else None
        return (Described("post", spec.path, "Ask the model about a picture", answer, body, kinds),)

    def most_rows(self, served: ModelSpec) -> int:
        most = min(served.max_rows, NUMBERS // served.interface.n_inputs)
        return max(most, 1) if _spec(served).batch else 1

    def given(self, served: ModelSpec) -> Interface:
        return JsonPath().given(served)

    def curl_file(self, served: ModelSpec) -> str | None:
        spec = _spec(served)
        if spec.form[0] == "multipart":
            return f"-F {spec.field.removeprefix('$.')}=@picture.png"
        return "-H 'content-type: image/png' --data-binary @picture.png" if spec.form[0] == "raw" else None

    def read(self, served: ModelSpec, headers: Headers, body: bytes) -> Inquiry:
        spec, shape = _spec(served), served.interface.input_shape
        layout = layout_of(shape)
        files = files_in(headers, body, spec, self.most_rows(served))
        most = spec.most_pixels // len(files)
        pixels = np.stack([decoded(file, spec, layout, most) for file in files])
        return Inquiry(served.inspected(rows_of(pixels, shape, _scale(served))))

    def write(self, served: ModelSpec, inquiry: Inquiry, answer: Answer) -> Reply:
        tree = written_answer(_table(served), served, answer)
        return Reply(orjson.dumps(tree, option=orjson.OPT_SERIALIZE_NUMPY))

    def tell(self, served: ModelSpec, what: str) -> Reply:
        raise BadRequest("There is nothing here.", 404)

    def ask(self, served: ModelSpec, x: Floats, carried: Carried = NOTHING) -> Ask:
        """As PNG of the nearest levels: what lies between two of them, or beyond the last, no picture can hold."""
        spec = _spec(served)
        files = [png(pixels) for pixels in pixels_of(x, served.interface.input_shape, _scale(served))]
        kind, body = body_of(files, spec)
        return Ask(spec.path, body, {"content-type": kind})

    def understand(self, served: ModelSpec, n: int, headers: Headers, body: bytes) -> Answer:
        return read_answer(_table(served), served, n, parsed(body))


def _spec(served: ModelSpec) -> ImageSpec:
    spec = served.options.get("image")
    if not isinstance(spec, ImageSpec):
        raise ParameterError("[model.image]", "a table for the protocol pictures", spec)
    return spec


def _scale(served: ModelSpec) -> tuple[float, float]:
    return _spec(served).scale or served.interface.bounds


def _table(served: ModelSpec) -> MappingTable:
    """Where the parts of an answer stand, which is a list of rows where a question is a list of pictures."""
    found: MappingTable | None = served.made.get("pictures")
    if found is None:
        found = served.made["pictures"] = replace(table_of(served), batch=_spec(served).batch)
    return found
