"""The policy's table of groups: which accounts the gate may take for one principal by what they ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portcullis_ml.catalog import resolve
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.guard import Detector
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Interface

__all__ = ["GROUPS", "Groups", "groups_of"]

OWN = ("seen", "rows", "every_s", "detector")
LINKAGE = ("near", "flat", "rate", "alpha", "window", "around", "cap", "total")  # settings of the linkage test
MEMORY = 1 << 30  # bytes of rows that are kept for comparison, at most
GROUPS = (*OWN, *LINKAGE)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """What is done about accounts that are linked by what they ask."""

    seen: str = "off"  # "log" tells of campaigns, "block" blocks every account of one as well
    rows: int = 100  # of a linked group, beyond which it is called a campaign
    every_s: float = 30.0  # between two tests
    detector: Detector[Any] | None = None  # that calls a linked group by its accounts' questions in order of time
    linkage: Any = None  # the test, None where `seen` is "off"

    def __post_init__(self) -> None:
        check(self, "seen", '"off", "log" or "block"', lambda v: v in ("off", "log", "block"))
        check(self, "rows", "an int of at least 1", lambda v: type(v) is int and v >= 1)
        check(self, "every_s", "a number of at least 0.01", lambda v: type(v) in (int, float) and v >= 0.01)


def groups_of(table: Mapping[str, Any], interface: Interface, folder: Path) -> Groups:
    """The settings in [groups], for a model whose undefended answers have this interface. Raises ParameterError, whose
    parameter is the key that is wrong."""
    own = {key: table[key] for key in ("seen", "rows", "every_s") if key in table}
    found = Groups(**own)
    if found.seen == "off":
        if unused := [key for key in table if key != "seen"]:
            raise ParameterError(unused[0], 'left out while seen is "off"', table[unused[0]])
        return found
    if interface.text and (lengths := [key for key in ("near", "flat") if key in table]):
        raise ParameterError(lengths[0], "left out: between texts there are no distances", table[lengths[0]])
    settings = {key: table[key] for key in LINKAGE if key in table}
    linkage = resolve("portcullis_ml.detectors.linkage:CATALOG").build({"unit": "linkage", **settings})
    most = MEMORY // (4 * interface.n_inputs)
    if linkage.total > most:
        raise ParameterError(
            "total", f"at most {most} for rows of {interface.n_inputs} numbers (a gigabyte)", linkage.total
        )
    return Groups(**own, linkage=linkage, detector=_detector(table, interface, folder))


def _detector(table: Mapping[str, Any], interface: Interface, folder: Path) -> Detector[Any] | None:
    if "detector" not in table:
        return None
    found = resolve("portcullis_ml.detectors:CATALOG").build(table["detector"], folder=folder)
    if not isinstance(found, Detector):
        raise InputError(f'detector must be a detector such as {{ unit = "prada" }}; got {table["detector"]!r}.')
    return found.bind(interface)
