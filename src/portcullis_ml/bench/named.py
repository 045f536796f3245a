"""Units by the words in which people name them, as the plain descriptions that a cell keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from portcullis_ml.catalog import Catalog, split_outside
from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.ownership import Scheme
from portcullis_ml.core.privacy import PrivacyAttack
from portcullis_ml.core.recipes import Hardening
from portcullis_ml.core.settings import describe
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.hardening import CATALOG as HARDENING
from portcullis_ml.ownership import CATALOG as SCHEMES
from portcullis_ml.privacy import CATALOG as PRIVACY
from portcullis_ml.sequences import CATALOG as SEQUENCES

__all__ = [
    "KEEP_LABELS",
    "LABELS_ONLY",
    "NONE",
    "GuardSpec",
    "Spec",
    "attack_named",
    "by_name",
    "guard_named",
    "mark_named",
    "privacy_named",
    "sequence_named",
]

T = TypeVar("T")
NONE = "none"  # no defense
LABELS_ONLY = " (labels only)"  # behind the name of an attack that looks at the labels only
# remember nothing, and answer every row with the true label
KEEP_LABELS = ("deep_defense", "label_only", "label_preserving_noise", "log", "rounding", "temperature", "top_k")

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class GuardSpec:
    """The descriptions of a guard's stages, in order, and of the hardening that its victim is trained with, if any."""

    stages: tuple[Spec, ...] = ()
    hardening: Spec | None = None

    @property
    def known(self) -> tuple[Spec, ...]:
        """What an attacker who knows the guard is told of: the hardening first, then the stages."""
        return (*([self.hardening] if self.hardening else []), *self.stages)

    @property
    def keeps_labels(self) -> bool:
        """Whether every client gets the victim's own label for every row, whatever they asked before."""
        return self.hardening is None and all(stage["unit"] in KEEP_LABELS for stage in self.stages)


def attack_named(word: str) -> dict[str, Any]:
    """The description of "knockoff", "jacobian(k=7)", "my_package.module:Class" or a preset such as "jb_top3"."""
    return _named(ATTACKS, word, ExtractionAttack, "an attack")


def privacy_named(word: str) -> dict[str, Any]:
    """The description of a privacy attack."""
    return _named(PRIVACY, word, PrivacyAttack, "a privacy attack")


def sequence_named(word: str) -> dict[str, Any]:
    """The description of an attack on a model of text."""
    return describe(SEQUENCES.build(word))


def mark_named(word: str) -> dict[str, Any]:
    """The description of an ownership scheme."""
    return _named(SCHEMES, word, Scheme, "an ownership scheme")


def guard_named(word: str) -> GuardSpec:
    """The guard of "none", of "rounding(decimals=2) + top_k", or of "outlier_exposure + rounding" after a hardening."""
    if word.strip() in ("", NONE):
        return GuardSpec()
    parts = split_outside(word, "+")
    units = [(HARDENING if part.partition("(")[0].strip() in HARDENING else DEFENSES).build(part) for part in parts]
    if any(isinstance(unit, Hardening) for unit in units[1:]):
        raise ParameterError("a hardening", "the first part of a guard, since the victim is trained first", word)
    described = [describe(unit) for unit in units]
    if isinstance(units[0], Hardening):
        return GuardSpec(tuple(described[1:]), described[0])
    return GuardSpec(tuple(described))


def by_name(words: Iterable[str], named: Callable[[str], T]) -> dict[str, T]:
    """Each word with what it names, in order."""
    return {word: named(word) for word in words}


def _named(catalog: Catalog, word: str, kind: type, what: str) -> dict[str, Any]:
    unit = catalog.build(word)
    if not isinstance(unit, kind):
        article = "an" if kind.__name__[0] in "AE" else "a"
        raise ParameterError(what, f"{article} {kind.__name__}", type(unit).__name__)
    return describe(unit)
