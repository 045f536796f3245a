"""Marked questions with the answers that prove, and the 2n commitments to them that are published.

`PairsKey` is the marking key mk, and stays secret; `VerificationKey` is vk, and is published. An `Opening` shows one
question, its answer and their two salts, and nothing of the others: whoever holds vk checks it by hashing twice.

    Com(m; r) = SHA-256(tag || len(m) || m || r)

The tag holds the kind ("t" for a question, "L" for its answer) and the place, so that no opening fits another place.
The salts are 32 bytes each, drawn from the secret by HMAC. Without them, trying every class would find an answer.
A scheme whose key is such pairs is `Paired`: a court can commit to its key, open parts of it and judge the answers.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError, ProofError
from portcullis_ml.core.ownership import Commitment, Evidence, K, Key, Scheme
from portcullis_ml.core.types import Answer, Array, Interface, Labels

__all__ = ["Opening", "Paired", "PairsKey", "VerificationKey", "commit_to", "drawn", "must_fit"]

TAG = b"portcullis commitment 1"


def drawn(secret: bytes, *words: object) -> bytes:
    """32 bytes for one purpose: HMAC-SHA256 of the words. Who knows those of one purpose knows none of another's."""
    return hmac.new(secret, "\x1f".join(map(str, words)).encode(), hashlib.sha256).digest()


def commit_to(kind: str, place: int, message: bytes, salt: bytes) -> str:
    """The commitment to a message at a place, in hexadecimal digits."""
    head = TAG + kind.encode() + place.to_bytes(8, "big") + len(message).to_bytes(8, "big")
    return hashlib.sha256(head + message + salt).hexdigest()


def question_bytes(x: Array) -> bytes:
    """A row (*input_shape) as bytes: its shape, then little-endian float64."""
    return repr(tuple(x.shape)).encode() + np.ascontiguousarray(x + 0.0, "<f8").tobytes()


def answer_bytes(label: int) -> bytes:
    return int(label).to_bytes(8, "big")


@dataclass(frozen=True)
class Opening:
    """One pair shown: its place in the key, the question (*input_shape), the answer, and the salts of the two."""

    place: int
    x: Array
    label: int
    salts: tuple[bytes, bytes]

    def to_json(self) -> dict[str, Any]:
        salts = [salt.hex() for salt in self.salts]
        return {"place": self.place, "x": self.x.tolist(), "label": self.label, "salts": salts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Opening:
        """The opening in a bundle; InputError where it is none."""
        try:
            first, second = (bytes.fromhex(salt) for salt in data["salts"])
            return cls(int(data["place"]), np.array(data["x"], np.float64), int(data["label"]), (first, second))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"An opening was expected to hold place, x, label and two salts; it does not ({error}). "
                "Ask the owner for the bundle again."
            ) from error


@dataclass(frozen=True)
class VerificationKey:
    """vk: what is published of a key. It binds its owner to every pair, and tells none of them."""

    scheme: str
    input_shape: tuple[int, ...]
    n_classes: int
    questions: tuple[str, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def check(self, openings: Iterable[Opening]) -> None:
        """Raise ProofError unless every opening is what was committed to at its place, and no place comes twice."""
        seen: set[int] = set()
        for opening in openings:
            place = opening.place
            if not 0 <= place < len(self) or place in seen:
                raise ProofError(f"Opening {place} is not one of the {len(self)} committed pairs, or comes twice.")
            seen.add(place)
            found = (
                commit_to("t", place, question_bytes(opening.x), opening.salts[0]),
                commit_to("L", place, answer_bytes(opening.label), opening.salts[1]),
            )
            for is_now, was, what in zip(
                found, (self.questions[place], self.labels[place]), ("question", "answer"), strict=True
            ):
                if not hmac.compare_digest(is_now, was):
                    raise ProofError(f"The {what} of opening {place} is not the one that was committed to.")

    def to_json(self) -> dict[str, Any]:
        return {
            "scheme": self.scheme,
            "input_shape": list(self.input_shape),
            "n_classes": self.n_classes,
            "questions": list(self.questions),
            "labels": list(self.labels),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> VerificationKey:
        """The vk in a file; InputError where it is none."""
        try:
            found = cls(
                str(data["scheme"]), tuple(int(n) for n in data["input_shape"]), int(data["n_classes"]),
                tuple(map(str, data["questions"])), tuple(map(str, data["labels"])),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"A verification key was expected; this is none ({error}). Name the vk file.") from error
        if len(found.questions) != len(found.labels) or not found.questions:
            raise InputError("A verification key holds as many commitments to answers as to questions; this does not.")
        return found


def must_fit(input_shape: tuple[int, ...], n_classes: int, interface: Interface) -> None:
    """Raise NotApplicable unless a suspect of this interface takes such questions and knows such answers."""
    if (interface.input_shape, interface.n_classes) != (tuple(input_shape), n_classes):
        raise NotApplicable(
            f"This key was minted for inputs of {tuple(input_shape)} and {n_classes} classes; the suspect takes "
            f"{interface.input_shape} and has {interface.n_classes}. Only a key of its own interface can be shown."
        )


@dataclass(frozen=True)
class PairsKey(Key):
    """mk: marked questions x (n, *input_shape) and the answers (n,) that a marked model gives."""

    x: Array
    labels: Labels
    n_classes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.x) != len(self.labels) or len(self.x) == 0:
            raise ParameterError("a key", "one answer for each of its questions", (len(self.x), len(self.labels)))

    def __len__(self) -> int:
        return len(self.x)

    def commit(self) -> Commitment:
        """The commitment to vk, and so to every pair and to the secret that the salts come from."""
        return Commitment(self.scheme, self.vk().sha256)

    def vk(self) -> VerificationKey:
        """What is published: 2n commitments."""
        opened = self.open(range(len(self)))
        return VerificationKey(
            self.scheme,
            tuple(self.x.shape[1:]),
            int(self.n_classes),
            tuple(commit_to("t", o.place, question_bytes(o.x), o.salts[0]) for o in opened),
            tuple(commit_to("L", o.place, answer_bytes(o.label), o.salts[1]) for o in opened),
        )

    def fits(self, interface: Interface) -> None:
        """Raise NotApplicable unless a suspect of this interface can be asked the questions."""
        must_fit(self.x.shape[1:], self.n_classes, interface)

    def open(self, places: Sequence[int]) -> list[Opening]:
        """The openings of the pairs at these places."""
        return [
            Opening(
                i,
                self.x[i],
                int(self.labels[i]),
                (drawn(self.secret, "salt", "t", i), drawn(self.secret, "salt", "L", i)),
            )
            for i in map(int, places)
        ]


class Paired(Scheme[K]):
    """A scheme whose key is pairs of a question and an answer."""

    key: ClassVar[type[PairsKey]] = PairsKey  # what `mint` makes
    assumed: ClassVar[tuple[str, ...]] = ()
    unless_learnt: ClassVar[tuple[str, ...]] = ()  # of those, what holds until innocent models learnt the owner's rows

    @abstractmethod
    def counted(self, labels: Labels, answer: Answer, n_classes: int) -> Evidence:
        """The evidence in these answers to the pairs at the head of `labels` (n,), before innocent models are seen."""

    def assuming(self, learnt: Sequence[bool]) -> tuple[str, ...]:
        """What is assumed with innocent models of which these are known to have learnt the owner's rows."""
        if not self.unless_learnt or sum(learnt) < max(self.least, 1):
            return self.assumed
        said = (
            f"{sum(learnt)} of {len(learnt)} innocent models learnt the owner's training rows with seeds of their own; "
            "whoever made them says so."
        )
        return (*(sentence for sentence in self.assumed if sentence not in self.unless_learnt), said)
