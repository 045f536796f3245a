"""The audit's verdict in sentences: what a thief gets, what the best defense changes, what must not be concluded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portcullis_ml.core.types import Estimate
from portcullis_ml.report.by_measure import said
from portcullis_ml.report.caveats import caveats
from portcullis_ml.report.measured import constant_said, loss_word, measure_word, reaches, short_of
from portcullis_ml.report.numbers import count, listed, percent, points
from portcullis_ml.report.pairs import Pair
from portcullis_ml.report.results import GRADES, NOISE, NONE, STRANGER, Audit
from portcullis_ml.report.saved import bill, labelled
from portcullis_ml.report.thieves import Thief

__all__ = ["Verdict", "beyond", "points_of", "threat", "verdict_of"]


@dataclass(frozen=True)
class Verdict:
    """The audit's verdict. `kind` is "stolen", "no gain" (labels by hand would give as good a copy),
    "withheld" or "nothing"; `caveats` are what the reader must know with it."""

    kind: str
    headline: str
    lead: str = ""
    detail: Sequence[str] = ()
    caveats: Sequence[str] = ()


def verdict_of(audit: Audit) -> Verdict:
    """How cheaply this model can be stolen, and what the best defense changes."""
    strongest = audit.strongest
    if strongest is None:
        return _nothing(audit)
    if not audit.steals(strongest.attack):
        return _withheld(audit)
    if audit.free:
        return _no_gain(audit, strongest, audit.free)
    opening = f"{reaches(audit, strongest, 'a stranger')}."
    detail = [*_by_hand(audit), *_details(audit), *_measured(audit)]
    return Verdict("stolen", opening, _defended(audit), detail, list(caveats(audit)))


def _by_hand(audit: Audit) -> Iterable[str]:
    """What the same rows labelled by hand would give, and what the queries saved."""
    if audit.own is None or audit.strongest is None:
        return
    free = audit.own.measures[audit.measure]
    saved = bill(audit.strongest.queries, labelled(audit.own), audit.prices, audit.gain)
    gets = "explains" if audit.numbers else "reaches"
    yield f"Whoever labels the same data by hand {gets} {percent(free)} without a query. {saved}".rstrip()
    if more := said(audit):
        yield more


def _measured(audit: Audit) -> Iterable[str]:
    """By which measure the verdict goes, and why, where that was chosen."""
    if audit.chosen.get("name") == audit.measure:
        yield f"Measured by {measure_word(audit)}. {audit.chosen['why']}"


def _no_gain(audit: Audit, strongest: Thief, own: Pair) -> Verdict:
    """The same data with its own labels makes as good a copy without the API: labels are what a thief saves."""
    free = own.measures[audit.measure]
    defended, labels = _defended(audit), labelled(own)
    more, word = said(audit), measure_word(audit)
    by_hand = count(labels, "label") + " written by hand" if labels else "labels written by hand"
    return Verdict(
        "no gain",
        f"{reaches(audit, strongest, 'a stranger')}; {by_hand} would give {percent(free)}.",
        f"{bill(strongest.queries, labels, audit.prices, audit.gain)} That the copy is better than one from labels by "
        f"hand is not shown by {word}. {more}".strip(),
        [
            f"For a thief who cannot label the data: {defended[0].lower()}{defended[1:]}",
            *_details(audit),
            *_measured(audit),
        ],
        [*caveats(audit), "To see what the API gives away, audit with a pool whose labels a thief would not have."],
    )


def threat(tag: Any) -> str:
    """The threat-model tag of a record, as people read it."""
    if not isinstance(tag, Mapping):
        return str(tag or "not stated")
    words = {"answers": "sees {}", "data": "has {}", "queries": "pays for {} queries"}
    stated = {k: v for k, v in tag.items() if k not in ("accounts", "knows_defense", "authorised_by")}
    parts = [words.get(k, k.replace("_", " ") + ": {}").format(v) for k, v in stated.items()]
    if "accounts" in tag:
        parts.append(count(int(tag["accounts"]), "account"))
    if "knows_defense" in tag:
        parts.append("knows the defense" if tag["knows_defense"] else "does not know the defense")
    return " · ".join(parts)


def _defended(audit: Audit) -> str:
    best = audit.best
    tried = [d for d in audit.defenses if d != NONE]
    if not tried:
        return "No defense was tried."
    if best is None:
        return f"Behind {listed(tried)} no attack left a copy to measure."
    left = audit.worst(best)
    assert left is not None
    if not audit.helps:
        several = f"None of the {len(tried)} defenses tried holds thieves back: the best, {best}, leaves"
        one = f"The one defense tried, {best}, does not hold thieves back: it leaves"
        shown = f"{several if len(tried) > 1 else one} them at {percent(left.copy)}."
        if audit.judged(best):
            return shown
        return f"Behind {best} only attacks left a copy that fail without it, too: what it holds back cannot be told."
    cost = audit.cost(best)
    price = (
        f"costs honest clients {_price(cost, loss_word(audit), audit.keeps_labels(best))} and"
        if cost
        else "(what it costs honest clients was not measured)"
    )
    unasked = ", no more than someone has who never asks" if left.failed else ""
    if audit.worth(best):
        return f"The best defense here, {best}, {price} holds thieves at {percent(left.copy)}{unasked}."
    if not audit.spares(best):
        price = f"{price.removesuffix(' and')}, {beyond(audit, best)}, and"
    return f"No defense here is worth its price: {best} {price} holds thieves at {percent(left.copy)}{unasked}."


def beyond(audit: Audit, defense: str) -> str:
    """ "which may be up to 3.6 points, where 1 point is the most that a recommendation may cost"."""
    lost = audit.most_lost(defense)
    assert lost is not None  # or it would spare them
    most = f"{100 * lost:.1f} points"
    return f"which may be up to {most}, where {points_of(audit.cap)} is the most that a recommendation may cost"


def points_of(share: float) -> str:
    """ "1 point", "0.5 points"."""
    value = f"{100 * share:.4g}"
    return f"{value} point{'s' * (value != '1')}"


def _price(cost: Estimate, of: str, keeps_labels: bool) -> str:
    """ "0.3 points of accuracy", or what can be said of a loss that rounds to nothing."""
    if round(100 * cost.value, 1) <= 0 and (keeps_labels or round(100 * cost.high, 1) <= 0):
        return f"no {of}"
    return points(cost).replace(" [", f" of {of} [")


def _details(audit: Audit) -> Iterable[str]:
    strongest = audit.strongest
    assert strongest is not None
    if strongest.attack == STRANGER:
        yield _stranger(audit, strongest)
    else:
        who = f"{strongest.words}, which asks uniform noise" if strongest.attack == NOISE else strongest.words
        yield f"The strongest attack is {who}.{_half_way(audit, strongest)}"
    if audit.unasked and audit.baseline and audit.baseline.measures[audit.measure] == audit.unasked:
        yield f"Someone who never asks, and always gives {constant_said(audit)}, has {percent(audit.unasked)}."
    elif audit.baseline:
        yield f"A thief who learns nothing from the API gets {percent(audit.baseline.measures[audit.measure])}."
    if audit.best and audit.helps:
        held = audit.worst(audit.best)
        assert held is not None
        if not held.failed:
            yield f"Behind {audit.best} the worst attacker is {held.words}."


def _stranger(audit: Audit, stranger: Thief) -> str:
    """The plain stranger is the worst attacker: no attack of the audit is as good."""
    how = f", {stranger.how}" if stranger.how else ""
    said = f"The strongest is a plain stranger{how}, who asks about what there is and fits a stock model"
    others = [attack for attack in audit.columns if attack != STRANGER]
    found = [thief for attack in others if (thief := audit.thief(attack, NONE))]
    attack = max(found, key=lambda thief: thief.copy.value, default=None)
    if attack is None:
        return f"{said}; no attack of this audit left a copy."
    return f"{said}; the best attack here, {attack.words}, reaches {percent(attack.copy)}."


def _half_way(audit: Audit, strongest: Thief) -> str:
    """After how few queries the attack had nine tenths of what it gained."""
    curve = strongest.pair.curve(audit.measure)
    if strongest.how or len(curve) < 3 or not audit.baseline:
        return ""
    start, end = audit.baseline.measures[audit.measure].value, curve[-1][1].value
    early = next((q for q, e in curve if e.value >= start + 0.9 * (end - start)), curve[-1][0])
    return f" It has nine tenths of its gain after {count(early, 'query')}." if early < curve[-1][0] else ""


def _withheld(audit: Audit) -> Verdict:
    strongest, blind = audit.strongest, audit.baseline
    assert strongest is not None
    assert blind is not None
    base = blind.measures[audit.measure]
    return Verdict(
        "withheld",
        "Verdict withheld: undefended, the attacks do not steal.",
        f"With {count(strongest.queries, 'query')} the best of them, {strongest.words}, reaches "
        f"{short_of(audit, strongest.own)} {_interval(strongest.own)}, and a thief who learns nothing from the API "
        f"{percent(base)}.",
        ["What a defense changes cannot be seen where nothing is stolen.",
         "Try a larger --budget, other --attacks or a pool closer to the victim's own data."],
        list(caveats(audit))[:1] if len(audit.seeds) < 5 else [],
    )  # fmt: skip


def _nothing(audit: Audit) -> Verdict:
    ran = [p for p in audit.pairs.values() if p.defense == NONE] or list(audit.pairs.values())
    if not ran:
        return Verdict("nothing", "No attack was run, so there is nothing to say.")
    if audit.worst(NONE) is None and any(audit.worst(d) for d in audit.defenses):
        return Verdict(
            "withheld",
            "Verdict withheld: no attack left a copy of the undefended model.",
            "There is nothing to compare the defended ones with.",
            [f"{p.attack}: {p.outcome}. {p.reason}" for p in ran],
        )
    if any(p.done for p in ran):
        return Verdict(
            "nothing",
            "The copies that were made could not be graded.",
            f"None of the records holds one of {listed(GRADES, 'or')}.",
        )
    outcomes = listed(sorted({p.outcome for p in ran}))
    return Verdict(
        "nothing",
        f"No attack left a copy of this model: {outcomes}.",
        "That is no proof that it cannot be stolen.",
        [f"{p.attack}: {p.outcome}. {p.reason}" for p in ran],
    )


def _interval(e: Estimate) -> str:
    return percent(e)[percent(e).index("[") :]
