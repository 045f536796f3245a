"""Proof of ownership: a secret key, a commitment published before, and an examination that a stranger can repeat.

A `Scheme` marks a model or its answers. Its owner publishes `key.commit()`; later they reveal the key, and anyone can
check that it is the committed one, and what a suspect behind an API answers to the marked questions.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, ClassVar, Generic, Literal, TypeVar, final

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.errors import NotApplicable, ParameterError, ProofError
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.oracle import LocalOracle, Oracle
from portcullis_ml.core.state import pack
from portcullis_ml.core.types import Interface, Learner, Model, Rows

__all__ = ["Commitment", "Evidence", "Key", "MarkLog", "Scheme"]


@dataclass(frozen=True)
class Commitment:
    """What is published: binds its owner to one key, and tells nothing of it."""

    scheme: str
    sha256: str

    def verify(self, key: Key) -> None:
        """Raise ProofError unless this is the key that was committed to."""
        if key.commit() != self:
            raise ProofError(f"This key is not the one that the commitment {self.sha256[:12]}... was made to.")


@dataclass(frozen=True)
class Key:
    """The owner's secret. A scheme's own key adds fields that `core.state.pack` can write; `secret` hides them all."""

    secret: bytes
    scheme: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if len(self.secret) < 32:
            raise ParameterError("Key.secret", "at least 32 secret bytes", f"{len(self.secret)} bytes")

    def commit(self) -> Commitment:
        """The commitment to every bit of this key: SHA-256 of what `pack` writes."""
        return Commitment(self.scheme, hashlib.sha256(self.scheme.encode() + b"\0" + pack(self)).hexdigest())


@dataclass(frozen=True)
class MarkLog:
    """What a served mark has written down, each entry bound to all before it by a chain of SHA-256."""

    entries: tuple[bytes, ...] = ()
    head: str = hashlib.sha256(b"").hexdigest()  # the chain's last link; publish it to date the entries

    def append(self, entry: bytes) -> MarkLog:
        return MarkLog((*self.entries, entry), _link(self.head, entry))

    def verify(self) -> None:
        """Raise ProofError unless the entries lead to the head."""
        if reduce(_link, self.entries, MarkLog().head) != self.head:
            raise ProofError(f"The log's {len(self.entries)} entries do not lead to its head {self.head[:12]}....")


def _link(head: str, entry: bytes) -> str:
    return hashlib.sha256(bytes.fromhex(head) + entry).hexdigest()


@dataclass(frozen=True)
class Evidence:
    """What an examination found.

    matches, n      marked questions that the suspect answers as marked, of how many answered
    null            in words, what an innocent model is taken to do, from which the p-value follows
    p_value         of so many matches or more under that null; below `level`, the suspect is convicted
    accused, tried  of the innocent reference models under the same examination: convicted, and in all
    lacking         one sentence: why nothing can be said, and what would suffice; "" where that is not so
    assumed         what must be true for the p-value to mean what it says, a sentence each
    """

    matches: int
    n: int
    null: str
    p_value: float
    accused: int = 0
    tried: int = 0
    queries: int = 0
    level: float = 1e-3
    lacking: str = ""
    assumed: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Literal["derived", "not shown", "inconclusive"]:
        return "derived" if self.p_value < self.level else "inconclusive" if self.lacking else "not shown"


K = TypeVar("K", bound=Key)


class Scheme(ABC, Generic[K]):
    """A way to mark and to prove; a frozen dataclass that inherits it holds the settings."""

    name: ClassVar[str] = ""
    marks: ClassVar[Literal["model", "answers", "nothing"]] = "model"  # by `embed`, by `defense`, or as it is
    level: ClassVar[float] = 1e-3  # the p-value below which a model is convicted
    least: ClassVar[int] = 0  # innocent models without which nothing is claimed

    @abstractmethod
    def mint(
        self, secret: bytes, interface: Interface, victim: Model | None = None, rows: Sequence[Rows | None] = ()
    ) -> K:
        """A key for models of this interface, a function of 32 secret bytes (`secrets.token_bytes(32)`); where nothing
        is marked, also of the victim and of rows (those that it was trained on, those that it was not)."""

    def embed(
        self, key: K, learner: Learner, rows: Rows, start: Model | None = None, *, rng: np.random.Generator
    ) -> Model:
        """A marked model, where the mark is trained in: from scratch, or from a trained model on."""
        raise NotApplicable(f"{self.name} marks {self.marks}, not models: no training brings its mark in.")

    def defense(self, key: K) -> Defense[Any]:
        """The stage of a guard that marks, where answers are marked as they are served."""
        raise NotApplicable(f"{self.name} marks {self.marks}, not answers: it has no stage.")

    def log(self, state: Any) -> MarkLog:
        """What a served mark has written down of one client, from the state of its stage."""
        return MarkLog()

    @abstractmethod
    def examine(
        self, key: K, suspect: Harvest, interface: Interface, log: MarkLog, rng: np.random.Generator
    ) -> Evidence:
        """Ask the suspect about the marked questions: matches, n, null and p-value, from its answers alone."""

    def weigh(self, found: Evidence, innocent: Sequence[Evidence], learnt: Sequence[bool] = ()) -> Evidence:
        """The evidence in the light of innocent models; `learnt` are those that are known to have the owner's rows."""
        return replace(found, accused=sum(e.p_value < self.level for e in innocent), tried=len(innocent))

    @final
    def __call__(
        self,
        key: K,
        suspect: Oracle,
        reference: Sequence[Model] = (),
        *,
        commitment: Commitment,
        rng: np.random.Generator,
        log: MarkLog = MarkLog(),
        learnt: Sequence[bool] = (),
    ) -> Evidence:
        """Check key and log against what was published, examine the suspect, then every innocent reference model.

        Raises ProofError, before anything is asked, where a link does not hold.
        """
        commitment.verify(key)
        log.verify()
        harvest = Harvest(suspect)
        found = self.examine(key, harvest, suspect.interface, log, rng)
        oracles = [LocalOracle(model, suspect.interface, budget=max(harvest.paid, 1)) for model in reference]
        innocent = [self.examine(key, Harvest(oracle), suspect.interface, log, rng) for oracle in oracles]
        return replace(self.weigh(found, innocent, learnt), queries=harvest.paid)
