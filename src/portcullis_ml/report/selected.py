"""How the worst attacker was selected, so that nobody takes the best of several for one that was chosen beforehand."""

from __future__ import annotations

from typing import Any

from portcullis_ml.report.numbers import count
from portcullis_ml.report.results import Audit

__all__ = ["how_selected", "selection"]


def selection(audit: Audit, defense: str) -> dict[str, Any] | None:
    """{"attackers", "ways", "halves"}: among how many attackers the worst one behind this defense is the best, in how
    many ways they were tried, and whether the ways were chosen on one half of the test rows and judged on the other.

    None where nobody left a copy.
    """
    ways = audit.ways.get(defense, [])
    if not ways:
        return None
    return {"attackers": len({way.attack for way in ways}), "ways": len(ways), "halves": all(w.right for w in ways)}


def how_selected(audit: Audit, defense: str) -> str:
    """A sentence on it; "" where there was nothing to select from."""
    found = selection(audit, defense)
    if found is None or found["ways"] < 2:
        return ""
    several = found["attackers"] > 1
    figures = f"the greatest of {count(found['attackers'], 'attacker')}' figures" if several else "that of one attacker"
    said = f"The worst attacker's figure is {figures}"
    said += ", which may be a little high by chance and is never corrected downwards. " if several else ". "
    if found["ways"] == found["attackers"]:
        return said.strip()
    if found["halves"]:
        return (
            f"{said}Each was tried in several ways ({found['ways']} in all: fewer queries, labels only); a way was "
            "chosen on one half of the test rows and judged on the other, so that luck does not count as skill."
        )
    return (
        f"{said}Each was tried in several ways ({found['ways']} in all), and the greatest figure was taken: there "
        "are no halves of the test rows to choose on one and judge on the other."
    )
