"""One lettering of the attacks for the whole audit: A is the same attack in the terminal, the matrix and every plot.

Defenses have numbers, so that no letter stands for two things.
"""

from __future__ import annotations

from portcullis_ml.report.results import Audit

__all__ = ["letters", "numbers"]


def letters(audit: Audit) -> dict[str, str]:
    """attack -> its letter: the most successful attack is A; the controls that count as attacks come last."""
    return {attack: _letter(i) for i, attack in enumerate(audit.columns)}


def numbers(audit: Audit) -> dict[str, str]:
    """defense -> its number: 0 is no defense, then from the weakest to the strongest."""
    return {defense: str(i) for i, defense in enumerate(audit.defenses)}


def _letter(i: int) -> str:
    """A, B, ... Z, A1, B1, ..."""
    return chr(ord("A") + i % 26) + (str(i // 26) if i >= 26 else "")
