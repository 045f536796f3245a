"""Pictures of what a copy gave away of the training set: recovered rows beside the training rows themselves."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from portcullis_ml.report.markup import Html, el, join
from portcullis_ml.report.numbers import count
from portcullis_ml.report.results import NONE, Audit

__all__ = ["leaks", "picture", "picture_shape"]

SIDE = 72  # CSS pixels of a picture
SQUARE = 49  # flat rows of at least so many inputs, a square number, are taken to be pictures


def leaks(audit: Audit) -> Html | None:
    """A gallery for every attack and defense whose copy holds training rows; the first seed is shown."""
    parts = []
    for (attack, defense), pair in audit.pairs.items():
        leak = next((r["notes"]["leak"] for r in pair.done if (r.get("notes") or {}).get("leak")), None)
        if leak:
            parts.append(_gallery(f"{attack}, {'no defense' if defense == NONE else defense}", leak))
    if not parts:
        return None
    sentence = "A kernel model is a sum over rows that it was trained on, and whoever copies it holds them. "
    return join([el("p", sentence + "The best matched are shown, of the first seed."), *parts])


def _gallery(title: str, leak: Mapping[str, Any]) -> Html:
    recovered, training = leak.get("recovered") or [], leak.get("training") or []
    shape = picture_shape(leak["shape"])
    pairs = []
    for i, row in enumerate(recovered):
        pictures = [picture(row, shape, f"Recovered row {i + 1}")]
        if training:
            pictures.append(picture(training[i], shape, f"The training row that it matches, {i + 1}"))
        pairs.append(el("div", pictures, class_="pair"))
    return join([
        el("h3", title),
        el("p", _sentence(leak)),
        el("p", "Left: recovered from the API's answers. Right: the victim's own training row.", class_="detail")
        if training else None,
        el("div", pairs, class_="leaks"),
    ])  # fmt: skip


def _sentence(leak: Mapping[str, Any]) -> str:
    n = count(int(leak["found"]), "row")
    if "difference" not in leak:
        return f"{n} with weight were recovered. Give --train FILE to see them beside the training set."
    share = [f"{100 * leak[word]:.1f}%" for word in ("difference", "unseen", "random")]
    return (
        f"{n} with weight were recovered. Matched one to one with the training set they are off by {share[0]} of an "
        f"input's range at the median; as many rows that the victim never saw by {share[1]}, random points by "
        f"{share[2]}. {leak['closer']} of them are nearer to their training row than any of those unseen rows is."
    )


def picture_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """(height, width) or (height, width, 3) of the picture that a row is drawn as."""
    if len(shape) == 3 and shape[2] != 3:
        return (shape[0], shape[1] * shape[2])
    if len(shape) > 1:
        return tuple(shape)
    side = math.isqrt(shape[0])
    return (side, side) if side * side == shape[0] >= SQUARE else (1, shape[0])


def picture(row: Sequence[int], shape: tuple[int, ...], alt: str) -> Html:
    """The row as an image within the page, a pixel for an input."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    pixels = np.array(row, np.uint8).reshape(shape)
    imsave(file, pixels, format="png", cmap="gray", vmin=0, vmax=255)
    data = base64.b64encode(file.getvalue()).decode()
    height = SIDE if shape[0] > 1 else SIDE // 4
    return el("img", src=f"data:image/png;base64,{data}", alt=alt, width=SIDE, height=height)
