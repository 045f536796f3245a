"""What a JSON body may hold, counted in its bytes before anything is made of it.

A parser makes an object of each value, list and key, whatever the model's input looks like. With 900,000 lists in 3.6
MB it takes as long as hundreds of other requests, none of which is served meanwhile. Each of those objects costs the
body a comma, a bracket, a brace, a colon or a quotation mark, and counting these takes a few milliseconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from portcullis_ml.core.types import Interface
from portcullis_ml.gateway.protocols.parts import Part
from portcullis_ml.gateway.protocols.strict import BadRequest

__all__ = ["Room", "claimed_room", "fits", "room"]

SLACK = 1_024  # of each, for what stands around the rows
AROUND = 16  # more for each part: its name, shape, datatype and parameters
SMALL = 64 << 10  # bytes of a body that costs little whatever it holds: what it claims is not looked for
CLAIM = re.compile(rb'"shape"\s*:\s*\[([0-9, \t\r\n]{1,200})\]')
MARKS = re.compile(r"[\[{:,]")


class Room(NamedTuple):
    """The most that a body may hold, and the rows that it is said of."""

    commas: int
    lists: int
    keys: int
    rows: int
    shape: tuple[int, ...]
    claimed: bool = False  # by the body itself

    @property
    def about(self) -> str:
        return f"{self.rows} x {' x '.join(map(str, self.shape))} numbers"


def room(interface: Interface, rows: int, *, claimed: bool = False, parts: Sequence[Part] = ()) -> Room:
    """Room for so many rows, in whatever way a protocol writes them: as lists, as records with the names of the
    columns, or in parts. Names and words may hold commas and brackets too."""
    shape, names = interface.input_shape, [f.name for f in interface.features or ()] or [p.name for p in parts]
    words = [p.words for p in parts] or [f.values for f in interface.features or ()]
    marks = sum(len(MARKS.findall(name)) for name in names)
    for known in words:  # one of them stands in a row, and counts as a key
        marks += max((1 + len(MARKS.findall(word)) + word.count('"') for word in known), default=0)
    lists = sum(math.prod(s[:i]) for s in ([p.shape or (1,) for p in parts] or [shape]) for i in range(len(s)))
    around = SLACK + math.prod(shape) + marks + AROUND * len(parts)
    return Room(
        commas=rows * (math.prod(shape) + lists + marks + 1) + around,
        lists=rows * (lists + marks + 1) + around,
        keys=rows * (len(names) + marks + 1) + around,
        rows=rows,
        shape=shape,
        claimed=claimed,
    )


def claimed_room(interface: Interface, most: Room, body: bytes) -> Room:
    """Room for what a large body's only "shape" claims, if that is less than `most`."""
    if len(body) <= SMALL:
        return most
    found = CLAIM.search(body, max(body.find(b'"shape"'), 0))
    if found is None or body.find(b'"shape"', found.end()) >= 0:
        return most
    try:
        numbers = math.prod(int(n) for n in found[1].split(b",", 32))
    except ValueError:  # it is refused where it is read
        return most
    rows = -(-numbers // math.prod(interface.input_shape))
    return room(interface, rows, claimed=True) if 0 < rows < most.rows else most


def fits(body: bytes, most: Room) -> None:
    """BadRequest if the body holds more than there is room for: it cannot be what it claims, or what is served here."""
    if len(body) <= SLACK:
        return
    many = body.count(b",") > most.commas
    other = body.count(b"[") > most.lists or body.count(b"{") > most.lists
    other = other or body.count(b":") > most.keys or body.count(b'"') > 2 * most.keys
    if (many or other) and most.claimed:
        raise BadRequest(f'The body must hold what "shape" says, {most.about}; it holds more.')
    if other:
        raise BadRequest(f"The body must hold at most {most.about}; it holds more lists, keys or texts than they have.")
    if many:
        raise BadRequest(f"The body must hold at most {most.about}; it holds more.", 413)
