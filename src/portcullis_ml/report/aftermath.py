"""What the API gives away of its training data, what the copies are good for, and what marks prove of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portcullis_ml.core.types import Estimate
from portcullis_ml.repetitions import across
from portcullis_ml.report.markup import Child, Html, el, join, table
from portcullis_ml.report.numbers import count, percent
from portcullis_ml.report.pairs import Pair, estimate
from portcullis_ml.report.results import NONE, Audit

__all__ = ["copies", "marks", "privacy", "proofs", "sentences", "then_of", "used"]

NOT_RECORDED = "after how many questions is not recorded"
NOT = {"not applicable": "n/a"}
EVASION = "evasion"  # how the names of such links begin; it says nothing of the training data
ITSELF = (" on the marked victim", " on the victim itself")  # behind a mark's name: that model was examined, no copy

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
    spec: Mapping[str, Any] | None = None  # the unit's description, of what somebody asked for

    def on_api(self, audit: Audit, defense: str) -> Pair | None:
        """The same attack on the API itself, behind that defense."""
        own = (p for (_, d), p in audit.privacy.items() if d == defense)
        return next((p for p in own if self.spec and p.records[0]["cell"]["attack"] == self.spec), None)

    @property
    def measures(self) -> dict[str, Estimate]:
        names = dict.fromkeys(name for link in self.found for name in link["measures"])
        lists = {n: [e for link in self.found if (e := estimate(link["measures"].get(n)))] for n in names}
        return {n: across(es) for n, es in lists.items() if es}

    @property
    def notes(self) -> list[Mapping[str, Any]]:
        """What an examination left, of every seed."""
        return [found["notes"] for found in self.found if "p_value" in found["notes"]]

    @property
    def to_convict(self) -> tuple[int, int] | None:
        """(about, at most) after how many questions such a suspect is convicted, the most of all seeds; None where no
        number is shown to suffice, or none was recorded."""
        found = [(n.get("queries_to_convict"), n.get("queries_to_convict_at_most")) for n in self.notes]
        whole = [(about, most) for about, most in found if about is not None and most is not None]
        if not whole or len(whole) < len(found):
            return None
        return max(about for about, _ in whole), max(most for _, most in whole)

    @property
    def reason(self) -> str:
        return next((link["reason"] for link in self.found if link["reason"]), "")


def privacy(audit: Audit) -> Html | None:
    """Attacks on the training data through the API, behind every defense."""
    rows: list[list[Child]] = [
        [
            attack,
            _words(defense),
            _measures(pair.measures) or _why(pair.outcome, pair.reason),
            f"{pair.queries:,}",
            len(pair.done),
        ]
        for (attack, defense), pair in audit.privacy.items()
        if not attack.startswith(EVASION)
    ]
    if not rows:
        return None
    sentence = (
        "Candidates are rows that the victim was trained on and as many that it was not; an attack says of each how "
        "likely it is a member. Chance finds 1% of the members at 1% false accusations, and an area of 50%."
    )
    head = ["Attack", "Defense", "Measured", "Queries", "Seeds"]
    return join([el("p", sentence), table(head, rows, "What the API gives away of its data", class_="stack")])


def copies(audit: Audit) -> Html | None:
    """Every link of every chain, beside the same attack on the API itself: a row for each measure."""
    rows = [row for pair in audit.pairs.values() for link in _links(pair) for row in _of_link(audit, pair, link)]
    if not rows:
        return None
    sentence = (
        "The copy is asked without limits, and costs no further queries: the bill is that of the theft. Beside it "
        "stands the same attack on the API itself, behind the same defense, which may pay as many queries; evasion "
        "searches there by the answers, as it has no gradients, and what its queries do not reach counts as not fooled."
    )
    head = ["Then, on which copy", "Measured", "Queries", "On the copy", "On the API", "Seeds"]
    return join([el("p", sentence), table(head, rows, "What the copy is good for", class_="stack")])


def _of_link(audit: Audit, pair: Pair, link: _Link) -> Iterator[list[Child]]:
    beside, own = link.on_api(audit, pair.defense), link.measures
    there = {} if beside is None else beside.measures
    names = [name for name in (*own, *(n for n in there if n not in own)) if name in WORDS]
    theft = [el("div", link.name), el("small", f"{pair.attack}, {_words(pair.defense)}")]
    asked = [el("div", f"{pair.queries:,}"), el("small", f"API: {beside.queries:,}") if beside else None]
    for name in names or [""]:
        here = _figure(own[name]) if name in own else link.reason
        api = _figure(there[name]) if name in there else beside.reason if beside and not there else ""
        yield [theft, WORDS.get(name, ""), asked, here, api, len(link.found)]


def _figure(e: Estimate) -> Child:
    return [el("div", percent(e, 1)), el("small", f"n = {e.n:,} {e.unit}")]


def marks(audit: Audit) -> Html | None:
    """What the examination of copies proves, for every mark and attack."""
    rows: list[list[Child]] = []
    for (attack, mark), pair in audit.marked.items():
        copy = pair.measures.get(audit.measure)
        cost = audit.cost(mark)
        agrees = percent(copy, 1) if copy else _why(pair.outcome, pair.reason)
        lost = "?" if cost is None else f"{100 * cost.value:.1f} points"
        if not pair.done:
            rows.append([attack, mark, agrees, "", "", "", "", ""])
        for link in _examined(pair):
            found = [_counted(link, "matches"), _p_value(link), _questions(link), _counted(link, "false_claims")]
            rows.append([attack, link.name, "" if link.name.endswith(ITSELF) else agrees, *found, lost])
    if not rows:
        return None
    sentence = (
        "A copy is examined by its answers alone. The p-value is the chance that a model that owes the mark nothing "
        "answers as many marked questions as marked; of several seeds the largest is shown. Questions are those after "
        f"which such a suspect is convicted{_level(audit)}: by the share of matches measured here, and at most by its "
        "95% lower bound. False claims are of innocent models that were put to the same questions."
    )
    sentence = " ".join([sentence, *_nulls(audit)])
    head = ["Theft", "Mark", "Copy agrees", "As marked", "p-value", "Questions", "False claims", "Clients lose"]
    said = [el("p", el("b", line)) for line in proofs(audit)]
    return join([*said, el("p", sentence), table(head, rows, "What the marks prove", class_="stack")])


def proofs(audit: Audit) -> list[str]:
    """For every mark a sentence: of what it would prove that it is stolen, after how many questions."""
    found: dict[str, list[_Link]] = {}
    for (_, mark), pair in audit.marked.items():
        found.setdefault(mark, []).extend(link for link in _examined(pair) if link.notes)
    return [_proof(mark, links) for mark, links in found.items() if links]


NULLS = {
    "owner": "The innocent models that a copy is compared with learnt the owner's own rows with other seeds: what they "
    "give as well proves nothing.",
    "pool": "The innocent models that a copy is compared with learnt the thief's rows, as the owner's are not known "
    "(--train): a mark that is read off the model may then accuse a model that honestly learnt the owner's rows.",
}


def _nulls(audit: Audit) -> list[str]:
    """What the innocent models of these records learnt, a sentence each."""
    notes = [note for pair in audit.marked.values() for link in _examined(pair) for note in link.notes]
    found = {str(note.get("innocents_learnt", "")) for note in notes}
    return [sentence for rows, sentence in NULLS.items() if rows in found]


def _level(audit: Audit) -> str:
    """The p-value below which these records convict, where all say the same."""
    notes = [note for pair in audit.marked.values() for link in _examined(pair) for note in link.notes]
    found = {note.get("level") for note in notes}
    level = next(iter(found)) if len(found) == 1 else None
    return "" if level is None else f" (p < {level:g})"


def _proof(mark: str, links: Sequence[_Link]) -> str:
    if not any("queries_to_convict" in note for link in links for note in link.notes):
        why = _questions(links[0])
        return (why if why.startswith(mark) else f"{mark}: {why}").removesuffix(".") + "."
    copies = [link for link in links if not link.name.endswith(ITSELF)]
    proven = [link.to_convict for link in copies if link.to_convict]
    copied = "copy" if len(copies) == 1 else "copies"
    said = f"{mark} would prove the theft of {len(proven)} of {len(copies)} stolen {copied}"
    if proven:
        said += f", after {_about(*_worst(proven))}"
    elif lacking := next((str(note["lacking"]) for link in copies for note in link.notes if note.get("lacking")), ""):
        said += f" ({lacking.removesuffix('.')})"
    whole = [link for link in links if link.name.endswith(ITSELF)]
    itself = [link.to_convict for link in whole if link.to_convict]
    if whole and len(itself) == len(whole):
        said += f"; of the model itself, taken as it is, after {_about(*_worst(itself))}"
    elif whole:
        said += "; it is not shown to prove even the model itself, taken as it is"
    return f"{said}."


def _worst(found: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return max(about for about, _ in found), max(most for _, most in found)


def _about(about: int, most: int) -> str:
    return f"about {count(about, 'question')} ({most:,} at most)"


def _examined(pair: Pair) -> list[_Link]:
    return [link for link in _links(pair) if link.kind == "ownership"]


def _counted(link: _Link, name: str) -> str:
    """A share of the questions, or of the innocent models, and of how many."""
    e = link.measures.get(name)
    return f"{percent(e, 1)} of {e.n:,}" if e else ""


def _questions(link: _Link) -> str:
    """After how many questions such a suspect is convicted, in words."""
    if link.to_convict:
        about, most = link.to_convict
        counted = [found["measures"]["matches"] for found in link.found if "matches" in found["measures"]]
        asked = max((int(e["n"]) for e in counted), default=most)
        return f"about {about:,}, {most:,} at most" + (f"; {asked:,} were asked here" if most > asked else "")
    if any("queries_to_convict" in note for note in link.notes):
        return "no number is shown to suffice"
    return next((str(note["lacking"]) for note in link.notes if note.get("lacking")), NOT_RECORDED)


def sentences(audit: Audit) -> list[str]:
    """The same, a line each, for a terminal."""
    found = [
        f"Privacy: {attack}, {_words(defense)}: {_line(pair.measures) or _why(pair.outcome, pair.reason)}"
        for (attack, defense), pair in audit.privacy.items()
        if not attack.startswith(EVASION)
    ]
    found += [
        f"Mark {mark}, {attack}: {_why(pair.outcome, pair.reason)}"
        for (attack, mark), pair in audit.marked.items()
        if not pair.done
    ]
    for (attack, defense), pair in audit.marked.items():
        for link in _links(pair):
            said = _line(link.measures) or _why(link.found[0]["outcome"], link.reason)
            proof = f", p-value {_p_value(link)}; questions: {_questions(link)}" if link.kind == "ownership" else ""
            found.append(f"Copy of {attack}, {_words(defense)}, then {link.name}: {said}{proof}")
    return found + [f"If it is stolen anyway: {line}" for line in proofs(audit)]


def used(audit: Audit) -> tuple[list[list[str]], list[str]]:
    """What the copies are good for, for a terminal: a row for every link, and what the figures are.

    A row is the theft, the defense, the link, and one figure on the copy and on the API. The sentences below the rows
    say what each figure is, and why others are not there.
    """
    rows, said = [], dict[str, None]()
    for (attack, defense), pair in audit.pairs.items():
        for link in _links(pair):
            beside, own = link.on_api(audit, defense), link.measures
            there = {} if beside is None else beside.measures
            known = [name for name in own if name in WORDS]
            name = next((name for name in known if name in there), next(iter(known), ""))
            on_api = "" if beside is None else _one(there, name, beside.outcome)
            rows.append([attack, defense, link.name, _one(own, name, link.found[0]["outcome"]), on_api])
            said |= {f"{link.name}: {WORDS[name]}": None} if name else {}
            said |= {line: None for line in (link.reason, beside.reason if beside else "") if line}
    return rows, list(said)


def _one(measures: Mapping[str, Estimate], name: str, outcome: str) -> str:
    if name in measures:
        return percent(measures[name])
    return "" if outcome == "done" else NOT.get(outcome, outcome)


def then_of(pair: Pair, audit: Audit) -> list[dict[str, Any]]:
    """The links behind an attack and a defense, for programs."""
    return [
        {
            "name": link.name,
            "kind": link.kind,
            "reason": link.reason,
            "measures": _plain(link.measures),
            "on_api": _figures(link.on_api(audit, pair.defense)),
            "p_value": _p_value(link) if link.kind == "ownership" else None,
            "questions_to_convict": link.to_convict,
        }
        for link in _links(pair)
    ]


def _figures(pair: Pair | None) -> dict[str, Any] | None:
    if pair is None:
        return None
    return {
        "queries": pair.queries,
        "outcome": pair.outcome,
        "reason": pair.reason,
        "measures": _plain(pair.measures),
    }


def _plain(measures: Mapping[str, Estimate]) -> dict[str, list[float]]:
    return {name: [e.value, e.low, e.high] for name, e in measures.items()}


def _line(measures: Mapping[str, Estimate]) -> str:
    return ", ".join(f"{WORDS[name]} {percent(e)}" for name, e in measures.items() if name in WORDS)


def _why(outcome: str, reason: str) -> str:
    return f"{'does not apply' if outcome == 'not applicable' else outcome}. {reason}"


def _links(pair: Pair) -> list[_Link]:
    chains = [r.get("then") or () for r in pair.done]
    longest = max(chains, key=len, default=())
    asked = [*(pair.done[0]["cell"].get("then") or ())] if pair.done else []
    asked += [None] * len(longest)  # the examination of a mark was not asked for by name
    return [
        _Link(link["name"], link["kind"], [chain[i] for chain in chains if len(chain) > i], asked[i])
        for i, link in enumerate(longest)
    ]


def _p_value(link: _Link) -> str:
    """The largest of all seeds, and whether it says anything."""
    notes = link.notes
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
