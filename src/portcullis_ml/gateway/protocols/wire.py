"""What a wire protocol is: bytes in, rows out; an answer in, bytes out; and the same towards the upstream.

A protocol has two halves that share one dialect. `read` and `write` face the client, `ask` and
`understand` face the model server. Nothing here opens a socket, so a protocol is tested with bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import orjson

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer, Array, Floats, Interface
from portcullis_ml.gateway.protocols.claims import Room, room
from portcullis_ml.gateway.protocols.datatypes import DTYPE, DTYPES, whole
from portcullis_ml.gateway.protocols.described import Described, object_of
from portcullis_ml.gateway.protocols.image_spec import nearest_levels
from portcullis_ml.gateway.protocols.number_lists import LARGE
from portcullis_ml.gateway.protocols.parts import Part, as_the_model_reads, cut
from portcullis_ml.gateway.protocols.strict import finite, moderate, single
from portcullis_ml.gateway.protocols.texts import TextInput

__all__ = [
    "DTYPE",
    "DTYPES",
    "NOTHING",
    "REMAINING",
    "Ask",
    "Carried",
    "Inquiry",
    "ModelSpec",
    "Reply",
    "Wire",
    "whole",
]

Headers = Mapping[str, str]  # lower-case names

REMAINING = "x-ratelimit-remaining"  # the header that says how many rows a quota still has for the client


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model as one side of the gate knows it: its name on the wire and the tensors that go in and out."""

    name: str
    interface: Interface
    version: str = ""
    datatype: str = "FP64"  # what the model reads; every question is brought to it before it is inspected
    input: str = "input"
    parts: tuple[Part, ...] = ()  # what a row consists of, where one side of the gate has an input for each
    several: bool = False  # whether this side has an input for each part, and not one for the whole row
    scores: str | None = "probabilities"  # the output tensor; None for a model that gives labels only
    label: str | None = "label"
    class_names: tuple[str | int, ...] = ()  # what the classes are called on the wire; none means 0 to n - 1
    explanation: str | None = None  # the output tensor that explains the answer, where there is one
    explanation_shape: tuple[int, ...] | None = None  # of one row's explanation; None is the input's
    max_rows: int = 1024
    withheld: Literal["null", "one_hot"] = "null"  # how scores that are not shown are written
    binary: bool = False  # towards an upstream: speak the binary tensor extension
    options: Mapping[str, Any] = field(default_factory=dict)  # of the protocol: paths of a mapping, "image" of pictures
    text: TextInput | None = None  # where the model takes texts: how they are read, and become rows
    levels: tuple[float, float] | None = None  # what 0 and 255 are to a model that is sent 8-bit pixels and no numbers
    beside: tuple[tuple[str, str, str], ...] = ()  # (name, version, protocol) of what the same gate serves besides

    @property
    def id(self) -> str:
        """What tells it from others that the same gate serves, as it stands in routes: "digits/versions/2"."""
        return f"{self.name}/versions/{self.version}" if self.version else self.name

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The names of the output tensors."""
        return tuple(name for name in (self.label, self.scores, self.explanation) if name)

    @property
    def tensor(self) -> tuple[str, tuple[int, ...]]:
        """The datatype of the input tensor, and the shape of a row in it."""
        return (self.datatype, self.interface.input_shape) if self.text is None else ("BYTES", (1,))

    @property
    def explained(self) -> tuple[int, ...]:
        """The shape of one row's explanation."""
        return self.interface.input_shape if self.explanation_shape is None else self.explanation_shape

    @cached_property
    def most(self) -> Room:
        """The most that a question's body may hold."""
        return room(self.interface, self.max_rows, parts=self.parts)

    @cached_property
    def made(self) -> dict[str, Any]:
        """What a protocol makes of this once, by the protocol's name."""
        return {}

    @property
    def plain_question(self) -> tuple[Array, Carried]:
        """A row that is nothing special, with which a model is tried, and what goes on beside it."""
        if self.text is None:
            return self.plain_row, NOTHING
        return self.text.rows([self.text.tried]), Carried(texts=(self.text.tried,))

    @property
    def plain_row(self) -> Array:
        """(1, *input_shape) a row in the middle of the bounds, and of the first category where a feature has some. The
        middle between whole numbers is one too, as the column may hold no others."""
        interface = self.interface
        row = np.full(interface.n_inputs, sum(interface.bounds) / 2)
        if interface.features is not None:
            row = np.array([0.0 if f.categorical else _middle(f.low, f.high) for f in interface.features])
        row = np.concatenate([np.floor(v) if p.whole else v for p, v in cut(self.parts, row[None])] or [row], axis=None)
        return row.reshape(1, *interface.input_shape)

    def inspected(self, x: Floats, sent: str = "") -> Floats:
        """x as the model will see it: cast to the datatype in which it was `sent`, then to the model's, and finite."""
        if self.parts:
            x = as_the_model_reads(self.parts, single(x) if sent == "FP32" else x, missing=self.interface.missing)
            return finite(x, "The input", missing=self.interface.missing)
        if self.levels is not None:
            x = nearest_levels(x, self.levels)
        good = moderate(x)
        if "FP32" in (sent, self.datatype):
            x = x.astype(np.float32, copy=False) if good else single(x)
        if self.datatype not in ("FP32", "FP64", sent):
            dtype, good = DTYPE[self.datatype], False
            if dtype.kind in "iub":
                x = whole(x, dtype, self.datatype)
            with np.errstate(over="ignore"):
                x = x.astype(dtype)
        x = x if self.datatype == "FP32" else x.astype(np.float64, copy=False)
        return x if good else finite(x, "The input", missing=self.interface.missing)


def _middle(low: float, high: float) -> float:
    return (low + high) // 2 if low % 1 == high % 1 == 0 else (low + high) / 2


@dataclass(frozen=True)
class Carried:
    """What of a question goes on to the model and does not stand in its rows: whoever reads it has checked it."""

    texts: tuple[str, ...] | None = None  # one a row, where a row is made of a text and cannot be turned back
    extras: Mapping[str, Any] = field(default_factory=dict)  # keys that the policy lists, with their values


NOTHING = Carried()


class Inquiry(NamedTuple):
    """A question as read: rows, and how the client wants them answered."""

    x: Floats  # (n, *input_shape) as the model sees it: float32 where that is what it reads, else float64
    id: str | None = None
    binary: tuple[str, ...] = ()  # output tensors wanted as raw bytes
    outputs: tuple[str, ...] = ()  # output tensors asked for by name; none means all
    shape: str = ""  # a protocol's own note on how to answer
    carried: Carried = NOTHING


class Reply(NamedTuple):
    """What goes out: a status, headers and a body."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)


class Ask(NamedTuple):
    """What is posted to the upstream."""

    path: str
    body: bytes
    headers: Mapping[str, str]


class Wire(ABC):
    """One protocol, both halves."""

    name: ClassVar[str] = ""
    health: ClassVar[frozenset[str]] = frozenset()  # the words for `tell` whose answer is 503 while nothing is served
    at_once: ClassVar[int] = LARGE  # bytes of a body that is read on the event loop; longer ones are read beside it
    common: ClassVar[frozenset[str]] = frozenset()  # the words for `tell` whose routes name no model
    explains: ClassVar[bool] = False  # whether it has a place for explanations
    parts: ClassVar[bool] = False  # whether it has a place for each part of a row
    carries: ClassVar[frozenset[str]] = frozenset()  # fields of `Carried` that it reads from clients and sends on

    @abstractmethod
    def route(self, method: str, path: str, served: ModelSpec) -> str | None:
        """The kind of a request on the list of allowed routes: "infer", or a word for `tell`. None for all else."""

    @abstractmethod
    def routes(self, served: ModelSpec) -> tuple[Described, ...]:
        """That list, described."""

    def ready_paths(self, served: ModelSpec) -> tuple[str, ...]:
        """The routes on which an upstream says whether it is ready, the model's own first."""
        return ()

    def most_rows(self, served: ModelSpec) -> int:
        """How many rows a question may hold at most."""
        return served.max_rows

    def given(self, served: ModelSpec) -> Interface:
        """The interface of the model's own answers as this protocol writes them, where it leaves out scores."""
        return served.interface

    @abstractmethod
    def read(self, served: ModelSpec, headers: Headers, body: bytes) -> Inquiry:
        """The question in a body, or BadRequest."""

    @abstractmethod
    def write(self, served: ModelSpec, inquiry: Inquiry, answer: Answer) -> Reply:
        """The answer for the client."""

    @abstractmethod
    def tell(self, served: ModelSpec, what: str) -> Reply:
        """Health and metadata, from what the gate knows; the upstream is not asked."""

    @abstractmethod
    def ask(self, served: ModelSpec, x: Floats, carried: Carried = NOTHING) -> Ask:
        """The question for the upstream (or, from an oracle, for a gate). Of `carried` it sends what it `carries`."""

    @abstractmethod
    def understand(self, served: ModelSpec, n: int, headers: Headers, body: bytes) -> Answer:
        """The upstream's answer for n rows; Unreachable if it is none."""

    def curl_file(self, served: ModelSpec) -> str | None:
        """The options with which curl sends a file as a question; None where a question is text."""
        return None

    def about(self, served: ModelSpec) -> str | None:
        """Where the upstream says what its model takes and gives; None where the protocol has no such place."""
        return None

    def described(self, body: bytes) -> Any:
        """What the upstream says there; Unreachable where it cannot be read."""
        return parsed(body)

    def differences(self, served: ModelSpec, told: Any) -> list[str]:
        """In sentences, how that differs from what the policy says."""
        return []

    def refusal(self) -> dict[str, Any]:
        """What `refuse` writes, described."""
        return object_of(("error",), error={"type": "string"})

    def refuse(self, status: int, sentence: str) -> Reply:
        """An error as this protocol writes it."""
        return Reply(orjson.dumps({"error": sentence}), status)


def shown_scores(served: ModelSpec, answer: Answer) -> Array | None:
    """(n, c) the scores as they are written: withheld ones NaN, or one-hot where the policy says so."""
    if served.withheld == "null" or not served.interface.n_classes or answer.labels is None:
        return answer.scores
    scores = np.full((len(answer), served.interface.n_classes), np.nan) if answer.scores is None else answer.scores
    return one_hot_where_withheld(scores, answer)


def one_hot_where_withheld(scores: Array, answer: Answer) -> Array:
    """Rows without any score become one-hot at their label; single withheld scores become 0."""
    labels = answer.labels
    if labels is None or not np.isnan(scores).any():
        return scores
    known = labels >= 0
    filled = np.where(known[:, None], np.nan_to_num(scores), scores)
    bare = np.flatnonzero(known & np.isnan(scores).all(axis=1))
    filled[bare, labels[bare]] = 1.0
    return filled


def parsed(body: bytes) -> Any:
    """JSON from the upstream, or Unreachable."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Unreachable("The model server must answer JSON; it sent something else.") from None
