"""What the reader must know with the verdict, such as few seeds, attacks that fail and failed cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from portcullis_ml.report.numbers import count, listed, percent
from portcullis_ml.report.results import NONE, Audit

__all__ = ["caveats"]


def caveats(audit: Audit) -> Iterable[str]:
    """What the reader must know with the verdict, a sentence each."""
    seeds = audit.seeds
    if len(seeds) == 1:
        yield "One seed was run: the intervals cover the test rows, not the attacker's luck. Give more with --seeds."
    elif len(seeds) < 5:
        yield f"{len(seeds)} seeds were run; intervals of so few are wide and rough."
    yield from _failures(audit)
    blind = [a for a in audit.attacks if audit.steals(a) is False and not audit.failed(a, NONE)]
    if blind:
        yield (
            f"{listed(blind)} {'does' if len(blind) == 1 else 'do'} not steal even undefended, "
            "so what a defense does to this cannot be judged."
        )
    if any(d != NONE for d in audit.defenses):
        tags = [r.get("threat_model") for r in audit.records]
        if not any(isinstance(t, Mapping) and t.get("knows_defense") for t in tags):
            yield "No attacker here knew the defense; one who does may fare better."
    matched = {p.defense for p in audit.pairs.values() if p.records[0]["cell"].get("regime") == "matched"} - audit.twins
    if matched:
        yield (
            f"{listed(sorted(matched))} {'was' if len(matched) == 1 else 'were'} trained with rows from the source of "
            "the thief's pool, which an owner seldom has. Give others with --outside."
        )
    failed = [p for p in audit.pairs.values() if any(r["outcome"] == "failed" for r in p.records)]
    if failed:
        where = listed(f"{p.attack} against {_guard(p.defense)}" for p in failed[:3])
        more = ", ..." if len(failed) > 3 else ""
        yield f"{count(len(failed), 'cell')} failed ({where}{more}): what they hide is unknown."


def _failures(audit: Audit) -> Iterable[str]:
    """Attacks whose copy is worse than what someone has who never asks: no defense is to be credited with that."""
    if audit.unasked is None:
        return
    never = f"the {percent(audit.unasked).split(' ')[0]} of someone who never asks"
    best = audit.worst(audit.best) if audit.best else None
    if audit.helps and best and best.failed:
        yield f"Behind {audit.best} no attack got past {never}: one that is made for it, or has many accounts, may."
    always = [a for a in audit.attacks if audit.failed(a, NONE)]
    if always:
        verb = "fails" if len(always) == 1 else "fail"
        yield f"{listed(always)} {verb} even undefended, below {never}, and no defense is credited with that."
    for defense in audit.defenses:
        found = [p for (a, d), p in audit.pairs.items() if d == defense != NONE and a not in always]
        found = [p for p in found if audit.failed(p.attack, defense) and not p.ended_by_guard]
        if found:
            shares = [f"{p.attack} ({percent(p.measures[audit.measure]).split(' ')[0]})" for p in found]
            yield f"Behind {defense} {listed(shares)} failed, below {never}, and the defense is not credited with that."


def _guard(defense: str) -> str:
    return "no defense" if defense == NONE else defense
