"""What is published of a key, and the folder in which its owner keeps the rest.

    secret.key       the key, readable by its owner alone
    commitment.json  what is published: the scheme, the 2n commitments, the interface that the key is for
    log.jsonl        what was done with the key, append-only; log.head beside it
    request.tsq      what a time authority was asked, and
    token.tsr        what it answered
    signature.json   the owner's signature over commitment.json, where there is one

The exact bytes of commitment.json are what a time token is over; its SHA-256 is the commitment's name.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import InputError, NotApplicable, PortcullisError, ProofError
from portcullis_ml.core.settings import describe
from portcullis_ml.core.state import pack, unpack
from portcullis_ml.core.types import Feature, Interface
from portcullis_ml.court.log import Log, LogFile
from portcullis_ml.ownership import CATALOG
from portcullis_ml.ownership._pairs import Paired, PairsKey, VerificationKey

__all__ = ["Mark", "Published", "owners_alone", "read_bytes", "write_secret"]

FORMAT = "portcullis commitment 1"
LIMIT = 64 * 2**20  # bytes of a file that is read whole


@dataclass(frozen=True)
class Published:
    """commitment.json: `data` are its exact bytes."""

    data: bytes
    scheme: Paired[Any]
    vk: VerificationKey
    interface: Interface
    classes: tuple[str, ...] | None

    @classmethod
    def of(cls, scheme: Paired[Any], key: PairsKey, interface: Interface, classes: tuple[str, ...] | None) -> Published:
        written = {
            "format": FORMAT,
            "scheme": describe(scheme),
            "vk": key.vk().to_json(),
            "bounds": list(interface.bounds),
            "features": None if interface.features is None else [asdict(f) for f in interface.features],
            "classes": classes,
        }
        return cls.parse(json.dumps(written, indent=1, sort_keys=True).encode())

    @classmethod
    def parse(cls, data: bytes) -> Published:
        """What commitment.json says; InputError where it is none. A scheme must be one of the catalog: the file may
        come from a stranger, and another name would run code of their choosing."""
        try:
            found = json.loads(data)
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']!r}")
            features = found["features"] and tuple(_feature(f) for f in found["features"])
            vk = VerificationKey.from_json(found["vk"])
            low, high = found["bounds"]
            interface = Interface(
                input_shape=vk.input_shape, n_classes=vk.n_classes, bounds=(low, high), features=features
            )
            classes = None if found["classes"] is None else tuple(map(str, found["classes"]))
            return cls(data, _scheme(found["scheme"]), vk, interface, classes)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, PortcullisError):
                raise
            raise InputError(
                f"commitment.json was expected to be what `portcullis watermark mint` writes; it is not ({error})."
            ) from error

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def _feature(data: Mapping[str, Any]) -> Feature:
    return Feature(str(data["name"]), float(data["low"]), float(data["high"]), tuple(map(str, data["values"])))


def _scheme(description: Mapping[str, Any]) -> Paired[Any]:
    if description["unit"] not in CATALOG:
        raise InputError(f"A scheme of `portcullis list ownership` was expected; got {description['unit']!r}.")
    if not all(isinstance(value, int | float | str | None) for value in description.values()):
        raise InputError("A scheme's settings were expected to be numbers or words; commitment.json holds others.")
    found = CATALOG.build(description)
    if not isinstance(found, Paired):
        raise NotApplicable(f"{found.name} has no pairs of questions and answers to commit to.")
    return found


@dataclass(frozen=True)
class Mark:
    """The folder of a key."""

    path: Path

    @classmethod
    def create(
        cls,
        path: Path,
        scheme: Paired[Any],
        key: PairsKey,
        interface: Interface,
        classes: tuple[str, ...] | None,
        *,
        at: str,
        follows: Mark | None = None,
    ) -> Mark:
        """Write a new folder; InputError where something is there. Where the mark follows another, both logs say so:
        the older key stays good for copies of the models that carry it."""
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise InputError(f"A new or an empty folder was expected at {path}; something is there. Choose another.")
        path.mkdir(parents=True, exist_ok=True)
        mark, published = cls(path), Published.of(scheme, key, interface, classes)
        head = json.dumps({"format": "portcullis key 1", "scheme": describe(scheme)}).encode()
        write_secret(path / "secret.key", head + b"\n" + pack(key))
        (path / "commitment.json").write_bytes(published.data)
        entry = {"kind": "minted", "at": at, "commitment": published.sha256, "pairs": len(key)}
        mark.log_file.append(entry if follows is None else {**entry, "follows": follows.published().sha256})
        if follows is not None:
            follows.log_file.append({"kind": "rotated", "at": at, "to": published.sha256})
        return mark

    @property
    def log_file(self) -> LogFile:
        return LogFile(self.path / "log.jsonl")

    def published(self) -> Published:
        return Published.parse(read_bytes(self.path / "commitment.json"))

    def key(self) -> PairsKey:
        """The secret key; ProofError where it is not the committed one, InputError where others may read it."""
        path = self.path / "secret.key"
        data, published = read_bytes(path), self.published()
        owners_alone(path)
        _, _, packed = data.partition(b"\n")
        key = unpack(published.scheme.key, packed)
        if key.vk() != published.vk:
            raise ProofError(f"The key in {path} is not the one that commitment.json beside it was made of.")
        return key

    def shown(self, log: Log | None = None) -> set[int]:
        """The places of all pairs that were shown to anyone; none of them is ever shown again."""
        log = self.log_file.read() if log is None else log
        return {place for entry in log.of_kind("shown") for place in entry["places"]}


def owners_alone(path: Path) -> None:
    """Raise InputError where others than its owner may read a secret file."""
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise InputError(f"{path} can be read by others. If nobody has read it, run: chmod 600 {path}")


def write_secret(path: Path, data: bytes) -> None:
    """A new file that its owner alone may read, from its first moment on."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InputError(
            f"{path} is there already, and a secret is never written over. Choose another name."
        ) from error
    with os.fdopen(number, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_bytes(path: Path) -> bytes:
    """A whole file of at most LIMIT bytes; InputError where it cannot be read."""
    try:
        if path.stat().st_size > LIMIT:
            raise InputError(f"{path} holds more than {LIMIT:,} bytes, and is not read. Name the right file.")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Check the path and its permissions.") from error
