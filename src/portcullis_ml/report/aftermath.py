"""What the API gives away of its training data, what the copies are good for, and what marks prove of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portcullis_ml.core.types import Estimate
from portcullis_ml.report.markup import Child, Html, el, join, table
from portcullis_ml.report.numbers import across, percent
from portcullis_ml.report.pairs import Pair, estimate
from portcullis_ml.report.results import NONE, Audit

__all__ = ["copies", "marks", "privacy", "sentences", "then_of"]

WORDS = {
    "agreement": "agrees with the victim",
    "auc": "area under the curve",
    "tpr_at_1_percent": "members found at 1% false accusations",
    "tpr_at_0.1_percent": "members found at 0.1% false accusations",
    "guessed": "members whose hidden column is guessed right",
    "imputed": "the same without the model",
    "nearest_mean": "rebuilt inputs that resemble their own class most",
    "recognized": "rebuilt inputs that a classifier trained apart recognizes",
    "precision_of_top_100": "members among the 100 most suspected",
    "fooled": "examples that fool the victim",
    "noise": "noise of the same size that does",
    "matches": "marked questions answered as marked",
    "false_claims": "innocent models convicted",
}


@dataclass(frozen=True)
class _Link:
    """One link of the chain behind an attack and a defense, over all seeds."""

    name: str
    kind: str
    found: Sequence[Mapping[str, Any]]

    @property
    def measures(self) -> dict[str, Estimate]:
        names = dict.fromkeys(name for link in self.found for name in link["measures"])
        lists = {n: [e for link in self.found if (e := estimate(link["measures"].get(n)))] for n in names}
        return {n: across(es) for n, es in lists.items() if es}

    @property
    def reason(self) -> str:
        return next((link["reason"] for link in self.found if link["reason"]), "")


def privacy(audit: Audit) -> Html | None:
    """Attacks on the training data through the API, behind every defense."""
    if not audit.privacy:
        return None
    rows: list[list[Child]] = [
        [
            attack,
            _words(defense),
            _measures(pair.measures) or _why(pair.outcome, pair.reason),
            f"{pair.queries:,}",
            len(pair.done),
        ]
        for (attack, defense), pair in audit.privacy.items()
    ]
    sentence = (
        "Candidates are rows that the victim was trained on and as many that it was not; an attack says of each how "
        "likely it is a member. Chance finds 1% of the members at 1% false accusations, and an area of 50%."
    )
    head = ["Attack", "Defense", "Measured", "Queries", "Seeds"]
    return join([el("p", sentence), table(head, rows, "What the API gives away of its data", class_="stack")])


def copies(audit: Audit) -> Html | None:
    """Every link of every chain."""
    rows: list[list[Child]] = [
        [attack, _words(defense), link.name, _measures(link.measures) or link.reason, len(link.found)]
        for (attack, defense), pair in audit.pairs.items()
        for link in _links(pair)
    ]
    if not rows:
        return None
    sentence = "The copy is asked without limits, and costs no further queries: the bill is that of the theft."
    head = ["Theft", "Defense", "Then", "Measured", "Seeds"]
    return join([el("p", sentence), table(head, rows, "What the copy is good for", class_="stack")])


def marks(audit: Audit) -> Html | None:
    """What the examination of copies proves, for every mark and attack."""
    rows: list[list[Child]] = []
    for (attack, mark), pair in audit.marked.items():
        copy = pair.measures.get(audit.measure)
        cost = audit.cost(mark)
        agrees = percent(copy, 1) if copy else _why(pair.outcome, pair.reason)
        lost = "?" if cost is None else f"{100 * cost.value:.1f} points"
        if not pair.done:
            rows.append([attack, mark, agrees, "", "", ""])
        for link in _links(pair):
            if link.kind == "ownership":
                rows.append([attack, link.name, agrees, _measures(link.measures), _p_value(link), lost])
    if not rows:
        return None
    sentence = (
        "A copy is examined by its answers alone. The p-value is the chance that a model that owes the mark nothing "
        "answers as many marked questions as marked; of several seeds the largest is shown."
    )
    head = ["Theft", "Mark", "Copy", "Measured", "p-value", "Honest clients lose"]
    return join([el("p", sentence), table(head, rows, "What the marks prove", class_="stack")])


def sentences(audit: Audit) -> list[str]:
    """The same, a line each, for a terminal."""
    found = [
        f"Privacy: {attack}, {_words(defense)}: {_line(pair.measures) or _why(pair.outcome, pair.reason)}"
        for (attack, defense), pair in audit.privacy.items()
    ]
    found += [
        f"Mark {mark}, {attack}: {_why(pair.outcome, pair.reason)}"
        for (attack, mark), pair in audit.marked.items()
        if not pair.done
    ]
    for (attack, defense), pair in (*audit.pairs.items(), *audit.marked.items()):
        for link in _links(pair):
            said = _line(link.measures) or _why(link.found[0]["outcome"], link.reason)
            proof = f", p-value {_p_value(link)}" if link.kind == "ownership" else ""
            found.append(f"Copy of {attack}, {_words(defense)}, then {link.name}: {said}{proof}")
    return found


def then_of(pair: Pair) -> list[dict[str, Any]]:
    """The links behind an attack and a defense, for programs."""
    return [
        {
            "name": link.name,
            "kind": link.kind,
            "reason": link.reason,
            "measures": {name: [e.value, e.low, e.high] for name, e in link.measures.items()},
            "p_value": _p_value(link) if link.kind == "ownership" else None,
        }
        for link in _links(pair)
    ]


def _line(measures: Mapping[str, Estimate]) -> str:
    return ", ".join(f"{WORDS[name]} {percent(e)}" for name, e in measures.items() if name in WORDS)


def _why(outcome: str, reason: str) -> str:
    return f"{'does not apply' if outcome == 'not applicable' else outcome}. {reason}"


def _links(pair: Pair) -> list[_Link]:
    chains = [r.get("then") or () for r in pair.done]
    longest = max(chains, key=len, default=())
    return [
        _Link(link["name"], link["kind"], [chain[i] for chain in chains if len(chain) > i])
        for i, link in enumerate(longest)
    ]


def _p_value(link: _Link) -> str:
    """The largest of all seeds, and whether it says anything."""
    notes = [found["notes"] for found in link.found if "p_value" in found["notes"]]
    unsaid = any(note.get("verdict") == "inconclusive" for note in notes)
    return f"{max(note['p_value'] for note in notes):.2g}{' (inconclusive)' * unsaid}" if notes else "?"


def _measures(measures: Mapping[str, Estimate]) -> list[Html]:
    """A line for each measure."""
    return [
        el("div", f"{WORDS.get(name, name.replace('_', ' '))}: {percent(e, 1)}, n = {e.n:,} {e.unit}")
        for name, e in measures.items()
        if name in WORDS or len(measures) <= 4
    ]


def _words(defense: str) -> str:
    return "no defense" if defense == NONE else defense
