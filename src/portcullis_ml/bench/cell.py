"""A cell: one experiment of a grid, written down so completely that its hash can be its name.

Everything that decides the outcome is in the cell as plain JSON, so that a finished cell is never
run again, an unfinished one is picked up where it stood, and adding a cell moves no other. Where
files lie on this machine is not in it: a victim or a data set is named by the hash of its content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from portcullis_ml.catalog import identity
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.randomness import derive

__all__ = ["MEASURES", "Cell", "Role", "fingerprint"]

MEASURES = 1  # the version of how cells are measured; a new one makes every cell a new cell

# Fields added since ids were first made: left out of an id where empty.
LATER = ("hardening", "knows_defense", "mark", "regime", "then", "uses")

Role = Literal["attack", "control", "honest", "privacy"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One attack on one guarded victim, with one budget and one seed.

    victim     {"name": ..., "sha256": ...}: what is attacked
    data       {"name": ..., "sha256": ...}: the rows of the thief, the honest client and the test
    interface  {"reveals": "probs", ...}: what the API shows; {"explains": true, "explainer": a unit's description} too
    attack     a unit's description, {"unit": "knockoff", ...}; for an honest client {"unit": "honest"}
    defense    the guard's stages in order, each a unit's description; [] is no defense
    budget     rows that may be paid for
    seed       of everything that the attacker draws; the victim stays the same
    learner    the description of the thief's training procedure, or None
    hardening  how the victim was trained that is really served, {"unit": ..., "artifact": "PATH@sha256:HEX"}; or None
    regime     where the outside rows come from that something in this cell was trained with: "matched" (the source of
               the thief's pool) or "held_out" (another source); "" where there are none
    role       "attack"; "control" for a row that only puts others into proportion; "honest" for a client who means
               well; "privacy" for an attack on the training data through the same API
    knows_defense  whether the attacker is told the guard's settings, all but its key
    uses       what the attacker looks at of each answer: "labels", or "" for all that is shown. The guard and what the
               API shows are the same
    mark       the description of an ownership scheme with which the victim or its answers are marked, or None
    then       further units, in order: the copy that one link makes is the victim of the next (see `links.py`)
    extra      whatever else a protocol varies
    names      {"attack": ..., "defense": ...} as people write them; not part of the identity
    """

    victim: Mapping[str, Any]
    data: Mapping[str, Any]
    interface: Mapping[str, Any]
    attack: Mapping[str, Any]
    defense: tuple[Mapping[str, Any], ...] = ()
    budget: int = 1
    seed: int = 0
    learner: Mapping[str, Any] | None = None
    hardening: Mapping[str, Any] | None = None
    regime: str = ""
    role: Role = "attack"
    measures: int = MEASURES
    extra: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    knows_defense: bool = False
    uses: Literal["", "labels"] = ""
    mark: Mapping[str, Any] | None = None
    then: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.budget < 0:
            raise ParameterError("Cell.budget", "0 or more queries", self.budget)
        if self.uses not in ("", "labels"):
            raise ParameterError("Cell.uses", "'labels' or ''", self.uses)
        try:
            json.dumps(asdict(self), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ParameterError("a cell", "plain JSON throughout", str(error)) from error

    @property
    def id(self) -> str:
        """16 hex digits of the content's hash."""
        content = {k: v for k, v in asdict(self).items() if k != "names" and (v or k not in LATER)}
        text = json.dumps(identity(content), sort_keys=True, separators=(",", ":"))
        text = text.replace('"portcullis_ml.', '"portcullis.')  # ids were made under the package's former name
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def attack_name(self) -> str:
        return self.names.get("attack") or str(self.attack.get("unit", "?"))

    @property
    def defense_name(self) -> str:
        return self.names.get("defense") or " + ".join(str(d.get("unit", "?")) for d in self.defense) or "none"

    def __str__(self) -> str:
        return f"{self.attack_name} | {self.defense_name} | {self.budget:,} queries | seed {self.seed}"

    def rng(self, *words: str) -> np.random.Generator:
        """A generator for one purpose within this cell; no other cell has the same."""
        return derive(self.seed, self.id, *words)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"defense": [dict(d) for d in self.defense], "then": [dict(u) for u in self.then]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cell:
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise InputError(f"A cell has the keys {', '.join(sorted(known))}; this one also has {unknown[0]!r}.")
        return cls(**{**data, "defense": tuple(data.get("defense", ())), "then": tuple(data.get("then", ()))})


def fingerprint(*parts: Path | np.ndarray | str | None) -> str:
    """16 hex digits of the content of files, arrays and words, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        elif isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part).encode())
        digest.update(b"\x1f")
    return digest.hexdigest()
