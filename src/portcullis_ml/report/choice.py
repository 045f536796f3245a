"""Which defense to take: for each, what honest clients lose, what thieves keep, and one sentence of advice."""

from __future__ import annotations

from collections.abc import Iterator

from portcullis_ml.core.types import Estimate
from portcullis_ml.repetitions import across
from portcullis_ml.report.markup import Child, Html, el, join, table
from portcullis_ml.report.measured import loss_word, measure_word, written
from portcullis_ml.report.numbers import clearly_below, percent, points, span
from portcullis_ml.report.pairs import estimate
from portcullis_ml.report.results import HELD_OUT, MATCHED, NONE, Audit
from portcullis_ml.report.sections import named
from portcullis_ml.report.verdict import beyond, points_of

__all__ = ["advice", "answer", "offered", "which_defense"]

GAP = 0.1  # of agreement between thieves' pools that were matched and held out: more is warned of


def which_defense(audit: Audit) -> Html | None:
    """The section; None where no defense was tried."""
    names = offered(audit)
    if not names:
        return None
    rows: list[list[Child]] = [
        [
            [named(_title(audit, name)), el("p", advice(audit, name))],
            [_line(*fact) for fact in _lost(audit, name)],
            [_line(*fact) for fact in _kept(audit, name)],
        ]
        for name in names
    ]
    free = audit.worst_copy(NONE)
    without = f" Without a defense that is {percent(free)}." if free else ""
    said = (
        f"What a thief keeps is the {measure_word(audit)} of the best copy with your model.{without} A defense is "
        "recommended only if it clearly holds the worst attacker back, takes more from thieves than from honest "
        f"clients, and costs those no more than {points_of(audit.cap)} of {loss_word(audit)} at the upper end of the "
        "interval."
    )
    head = ["Defense", "An honest client loses", "A thief keeps"]
    return join([
        el("p", el("b", answer(audit))),
        el("p", said, class_="detail"),
        table(head, rows, "What every defense costs and what it is worth", class_="choice stack"),
    ])  # fmt: skip


def offered(audit: Audit) -> list[str]:
    """The defenses, the recommended one first, then by what thieves keep; one for both pools where two were tried."""
    names = [d for d in audit.defenses if d != NONE and d not in audit.twins]
    kept = {d: e.value if (e := audit.worst_copy(d)) else 2.0 for d in names}
    return sorted(names, key=lambda d: (d != audit.recommended, kept[d]))


def answer(audit: Audit) -> str:
    """The recommendation for the whole audit, in one sentence."""
    if audit.recommended and audit.free:
        return (
            f"No defense helps against whoever labels the same data by hand; against others take {audit.recommended}."
        )
    if audit.recommended:
        return f"Take {audit.recommended}: its settings stand on this page, and in portcullis.toml beside it."
    strongest = audit.strongest
    if strongest is None or not audit.steals(strongest.attack):
        return "No defense can be recommended: nothing was stolen without one, so none can be judged."
    return "No defense is worth it here."


def advice(audit: Audit, defense: str) -> str:
    """What to make of one defense, in a sentence or two."""
    return " ".join([_judgment(audit, defense), *_warnings(audit, defense)])


def _judgment(audit: Audit, defense: str) -> str:
    held, free, strongest = audit.worst_copy(defense), audit.worst_copy(NONE), audit.strongest
    if held is None:
        return "No attack left a copy behind it, so what it is worth cannot be told."
    if free is None or strongest is None or not audit.steals(strongest.attack) or not audit.judged(defense):
        return "What it is worth cannot be told: nothing was stolen without it by those who were tried behind it."
    if not audit.helps_with(defense):
        naive = audit.naive(defense)
        if naive and clearly_below(naive.copy, free):
            return "Not worth it: it holds back only those who do not know it."
        return "Not worth it: thieves do not clearly keep less than without it."
    if not audit.pays(defense):
        return "Not worth it: it takes more from honest clients than from thieves."
    if not audit.spares(defense):
        return f"Not recommended: it has a price for honest clients, {beyond(audit, defense)}."
    if defense != audit.recommended:
        return f"It helps, but {audit.recommended} is the better choice: it holds thieves lower, or as low for less."
    return f"Recommended: thieves keep {_short(held)} instead of {_short(free)}."


def _warnings(audit: Audit, defense: str) -> Iterator[str]:
    """What the judgment rests on that may not hold elsewhere."""
    matched, held_out = _pools(audit, defense)
    if matched and held_out and abs(matched.value - held_out.value) > GAP:
        yield "How much it holds back depends on what it was trained with: see both pools."
    if not audit.helps_with(defense):
        return
    if matched and not held_out:
        yield "Its rows came from the thief's own source, which an owner seldom has; it may hold less elsewhere."
    if audit.most_lost(defense) is None:
        yield "What honest clients lose was not measured: measure it before you enforce it."
    if audit.knowing(defense) is None:
        yield "Nobody who knows it was tried."


def _title(audit: Audit, defense: str) -> str:
    """The defense, without its regime where both stand in this row."""
    base = defense.removesuffix(HELD_OUT)
    return base if base + MATCHED in audit.twins else defense


def _lost(audit: Audit, defense: str) -> Iterator[tuple[str, Child]]:
    """(what, how much) of all that an honest client loses."""
    pair, cost = audit.honest.get(defense), audit.cost(defense)
    measures = pair.measures if pair else {}
    yield loss_word(audit), _counted(cost, points(cost)) if cost else "not measured"
    before, after = measures.get("clean_calibration"), measures.get("served_calibration")
    if before:
        shown = f"{percent(before, 1)} to {percent(after, 1)}" if after else "no scores are shown"
        yield "calibration error", shown
    if moved := measures.get("moved"):
        yield "answers moved, in the target's units", written("moved", moved)
    if refused := measures.get("refused"):
        yield "questions refused", percent(refused, 1) if refused.value else f"none {span(refused, 1)}"
    if taken := _seconds(audit, defense):
        yield "time a question", _milliseconds(taken)
    if unexplained := measures.get("unexplained"):
        yield "explanations withheld or changed", percent(unexplained, 1)


def _kept(audit: Audit, defense: str) -> Iterator[tuple[str, Child]]:
    """(who, how much) of what thieves keep, and with which rows the defense was trained."""
    naive, knowing = audit.naive(defense), audit.knowing(defense)
    yield "who does not know it", _counted(naive.copy if naive else None)
    yield "who knows it", _counted(knowing.copy) if knowing else "not tried"
    matched, held_out = _pools(audit, defense)
    if matched or held_out:
        yield "matched: trained with rows of the thief's source", _counted(matched) if matched else "not tried"
        yield "held out: trained with rows from elsewhere", _counted(held_out) if held_out else "not tried"


def _pools(audit: Audit, defense: str) -> tuple[Estimate | None, Estimate | None]:
    """What the worst attacker keeps where outside rows and pool were matched, and where they were held out."""
    base = defense.removesuffix(HELD_OUT)
    if base + MATCHED in audit.twins:
        return audit.worst_copy(base + MATCHED), audit.worst_copy(defense)
    regime = next((r["cell"].get("regime") for r in audit.records if r["defense"] == defense), "")
    kept = audit.worst_copy(defense)
    return (kept if regime == "matched" else None), (kept if regime == "held_out" else None)


def _seconds(audit: Audit, defense: str) -> Estimate | None:
    """How long the guard took for an answer; of several seeds the mean."""
    pair = audit.honest.get(defense)
    found = [estimate((r.get("notes") or {}).get("guard_seconds")) for r in pair.done] if pair else []
    known = [e for e in found if e]
    return across(known) if known else None


def _milliseconds(e: Estimate) -> str:
    value, low, high = (f"{1000 * v:.2g}" for v in (e.value, e.low, e.high))
    return f"{value} ms more [{low},\N{NO-BREAK SPACE}{high}]"


def _line(what: str, how_much: Child) -> Html:
    return el("div", el("small", f"{what}: "), how_much)


def _counted(e: Estimate | None, said: str = "") -> Child:
    """A figure with its interval, and in small print of how many."""
    if e is None:
        return "no copy"
    return join([said or percent(e), el("small", f"n = {e.n:,} {e.unit}".replace(" ", "\N{NO-BREAK SPACE}"))], " ")


def _short(e: Estimate) -> str:
    return percent(e).partition(" [")[0]
