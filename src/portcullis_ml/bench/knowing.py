"""Which attackers know which defense: those that an audit runs by itself beside it, told its settings and not its key.

A defense is as good as its worst attacker, and the worst is often one who was made for it. Every unit of a guard is in
one of two tables: `ATTACKERS` names the attacks, `NONE_NEEDED` says why a unit has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from portcullis_ml.bench.named import GuardSpec

__all__ = ["ATTACKERS", "NONE_NEEDED", "attackers_of"]

# a unit of a guard (a defense, a detector, a hardening) -> attacks as people write them
ATTACKERS: dict[str, tuple[str, ...]] = {
    "adaptive_misinformation": ("least_likely",),
    "dawn": ("averaging",),
    "diverse_ensemble": ("averaging",),
    "noise": ("averaging", "d_dae"),
    "out_of_domain": ("averaging",),
    "prediction_poisoning": ("d_dae",),
    "private_answers": ("averaging", "d_dae"),
    "random_vertex": ("averaging", "d_dae"),
    "reverse_sigmoid": ("d_dae",),
}

NONE_NEEDED: dict[str, str] = {
    "block": "It answers nothing, so there is nothing to undo; what sets it off has attackers of its own.",
    "label_only": "It hides what cannot be guessed back; attacks on labels are tried everywhere.",
    "log": "It changes nothing.",
    "other_class": "It is served after an alarm; who stays below the alarm never meets it.",
    "outlier_exposure": "It trains a victim that is unsure elsewhere; every attack meets that victim's own answers.",
    "quota": "It counts rows, and every attacker here has one account; the flag one_account says so.",
    "rounding": "equation_solving and retraining read rounded answers as intervals without being told.",
    "top_k": "It hides what cannot be guessed back; attacks on labels are tried everywhere.",
    "watch": "What it holds has attackers of its own.",
}


def attackers_of(guard: GuardSpec) -> list[str]:
    """The attacks that know some unit of this guard, as people write them, each once."""
    found = [word for unit in _units(guard.known) for word in ATTACKERS.get(unit, ())]
    return list(dict.fromkeys(found))


def _units(description: Any) -> Iterator[str]:
    """The names of all units in a description, those within others included."""
    if isinstance(description, Mapping):
        if "unit" in description:
            yield str(description["unit"])
        description = list(description.values())
    for part in description if isinstance(description, list | tuple) else ():
        yield from _units(part)
