"""The policy's tables [model.image] and [upstream.image]: how clients send pictures, and how the model server is sent
them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.gateway.policy.names import is_path
from portcullis_ml.gateway.policy.settings import UpstreamTable
from portcullis_ml.gateway.policy.toml_positions import made
from portcullis_ml.gateway.protocols import CATALOG as PROTOCOLS
from portcullis_ml.gateway.protocols.image_spec import FORMS, ImageSpec, layout_of, levels_of
from portcullis_ml.gateway.protocols.picture_bodies import keys_of
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import DTYPE, ModelSpec, whole

__all__ = ["UPSTREAM", "about_pictures", "image_spec", "pictured", "sent_as"]

UPSTREAM = ("path", "form", "field", "batch")  # that [upstream.image] may say


def image_spec(table: Any) -> ImageSpec:
    """The table [model.image]. Raises ParameterError, whose parameter is the key that is wrong."""
    form = table.get("form") if isinstance(table, Mapping) else None
    spec = made(ImageSpec, {**table, "form": [form]} if isinstance(form, str) else table)
    if not is_path(spec.path):
        raise ParameterError("path", "a path such as /predict, without ?, # or %", spec.path)
    keys_of(spec)
    if "multipart" in spec.form and not (spec.field.isascii() and spec.field.isprintable()):
        raise ParameterError("field", "the name of a part, in printable ASCII", spec.field)
    return spec


def sent_as(served: ModelSpec, asked: ModelSpec, upstream: UpstreamTable | None) -> ModelSpec:
    """The model as the model server knows it, with what [upstream.image] says otherwise of how it is sent pictures."""
    spec, own = served.options.get("image"), (upstream.image if upstream else None) or {}
    if not isinstance(own, Mapping) or not set(own) <= set(UPSTREAM):
        raise ParameterError("image", f"a table of some of {', '.join(UPSTREAM)}", own)
    if spec is None:
        return asked
    if not isinstance(own.get("form", ""), str):
        raise ParameterError("form", f"one of {', '.join(FORMS)}", own["form"])
    form = own.get("form", spec.form[0])
    plain = {"batch": False} if form == "raw" else {}  # a whole body holds one
    sent = image_spec({**{key: getattr(spec, key) for key in UPSTREAM}, **plain, **own, "form": form})
    merged = dataclasses.replace(spec, **{key: getattr(sent, key) for key in UPSTREAM})
    return dataclasses.replace(asked, options={**asked.options, "image": merged})


def pictured(served: ModelSpec, upstream: UpstreamTable | None, protocols: tuple[str, ...]) -> ModelSpec:
    """The model as clients see it, held against its input where pictures are spoken of. Raises ParameterError, or
    MissingExtra without Pillow."""
    spec, sends = served.options.get("image"), upstream is not None and upstream.protocol == "pictures"
    if "pictures" in protocols or sends:
        PROTOCOLS.load("pictures")
        if spec is None:
            raise ParameterError("image", "a table [model.image] for the protocol pictures", spec)
    if spec is None:
        return served
    _fits(served, spec)
    for name in protocols:
        if "pictures" in protocols and name != "pictures" and PROTOCOLS.load(name)().route("POST", spec.path, served):
            raise ParameterError("path", f"a path of its own; this one belongs to the protocol {name}", spec.path)
    return dataclasses.replace(served, levels=spec.scale or served.interface.bounds) if sends else served


def _fits(served: ModelSpec, spec: ImageSpec) -> None:
    """Refuse an input that is no picture, and one that cannot hold a picture's levels."""
    interface = served.interface
    layout_of(interface.input_shape)
    low, high = scale = spec.scale or interface.bounds
    if not interface.bounds[0] <= low < high <= interface.bounds[1]:
        raise ParameterError("scale", f"within the model's bounds {list(interface.bounds)}", list(scale))
    dtype = DTYPE[served.datatype]
    try:
        if dtype.kind in "iub":
            whole(levels_of(scale[0], scale[1]), dtype, served.datatype)
    except BadRequest:
        raise ParameterError(
            "scale", f"two numbers 255 apart, so that each level is a whole number of {served.datatype}", list(scale)
        ) from None


def about_pictures(served: ModelSpec, asked: ModelSpec, upstream: UpstreamTable | None) -> Iterator[str]:
    """What `portcullis check` says of pictures."""
    spec = served.options.get("image")
    if spec is None:
        return
    height, width, channels, _ = layout_of(served.interface.input_shape)
    size = "refused" if spec.resize == "refuse" else f"brought to it ({spec.resize})"
    many = "a list of pictures" if spec.batch else "one picture"
    low, high = spec.scale or served.interface.bounds
    yield (
        f"A question at {spec.path} is {many} as {' or '.join(spec.form)} ({' or '.join(spec.formats)}, at most "
        f"{spec.most_pixels:,} pixels); one of another size than {width} x {height} is {size}. It is inspected as "
        f"{'gray' if channels == 1 else 'RGB'} pixels from {low:g} to {high:g}."
    )
    if upstream is not None and upstream.protocol == "pictures":
        sent = asked.options["image"]
        yield (
            f"The model server is sent a PNG that the gate makes of exactly these pixels, as {sent.form[0]} at "
            f"{sent.path}{'' if sent.batch else ', one a question'}; nothing else of a client's file reaches it."
        )
