"""The leaderboard: attacks by defenses, for every victim, as one static page made from result bundles.

A defense is ranked by the best attack that anybody has entered against it, so an entry can only lower a defense or
leave it where it is. What is compared has the same victim, rows, budget and measure, and shows the same of its answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portcullis_ml.report.frame import framed
from portcullis_ml.report.markup import Html, el, join, table
from portcullis_ml.report.measured import measure_word
from portcullis_ml.report.numbers import count, listed, percent
from portcullis_ml.report.raised import flags_raised
from portcullis_ml.report.results import NONE, Audit
from portcullis_ml.report.thieves import Thief

__all__ = ["DISQUALIFIES", "SEEDS", "Entry", "leaderboard"]

SEEDS = 3  # repetitions that an entry needs
DISQUALIFIES = {  # flag -> why a figure under it is not ranked
    "pool_overlaps_training": "the thief held rows that the victim was trained on",
    "randomised_answers": "the same question got different answers, so the figure hangs on how often it was asked",
    "test_was_queried": "test rows were asked, so agreement on them measures memory",
}


@dataclass(frozen=True)
class Entry:
    """One bundle: its name, the fingerprint of its signer, its audit and meta data."""

    name: str
    signer: str
    audit: Audit
    meta: Mapping[str, Any]

    @property
    def board(self) -> tuple[str, ...]:
        """What must be equal for figures to be compared."""
        cell: Mapping[str, Any] = self.audit.records[0]["cell"]
        shown = {k: v for k, v in cell["interface"].items() if v is not None}
        return (
            f"{cell['victim']['name']} ({cell['victim']['sha256']})",
            f"{cell['data']['name']} ({cell['data']['sha256']})",
            ", ".join(f"{k} {v}" for k, v in sorted(shown.items())),
            count(self.audit.budget, "query"),
            measure_word(self.audit),
        )

    @property
    def unfit(self) -> str:
        """Why the whole bundle is not ranked; "" where it is."""
        if self.meta.get("quick"):
            return "a quick look"
        if len(self.audit.seeds) < SEEDS:
            return f"{count(len(self.audit.seeds), 'repetition')}, and {SEEDS} are needed"
        whole = [f["id"] for f in flags_raised(self.audit, self.meta) if "|" not in f.get("where", "audit")]
        return listed(f"{id}: {DISQUALIFIES[id]}" for id in dict.fromkeys(whole) if id in DISQUALIFIES)

    def disqualified(self, attack: str, defense: str) -> str:
        """The flag for which this attack's figure behind this defense is not ranked; "" where it is."""
        where = f"{attack} | {defense}"
        raised = [f["id"] for f in flags_raised(self.audit, self.meta) if f.get("where") == where]
        return next((id for id in raised if id in DISQUALIFIES), "")


@dataclass(frozen=True)
class Figure:
    """How far an attack of an entry got behind a defense."""

    thief: Thief
    defense: str
    entry: Entry


def leaderboard(entries: Sequence[Entry]) -> str:
    """The whole document."""
    boards: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        if entry.audit.records and not entry.unfit:
            boards.setdefault(entry.board, []).append(entry)
    sections = [(f"board-{n}", board[0], _board(board, held)) for n, (board, held) in enumerate(boards.items(), 1)]
    sections += [("enter", "To enter", _rules()), ("entries", "Entries", _entries(entries))]
    headline = f"{count(len(boards), 'victim')} and {count(len(entries), 'bundle')}"
    lead = "A defense stands where the best attack that anybody entered against it leaves it: less is better for it."
    return framed("leaderboard", headline, lead, {}, sections)


def _board(board: tuple[str, ...], entries: Sequence[Entry]) -> Html:
    figures = [f for entry in entries for f in _figures(entry)]
    ranked = [f for f in figures if not f.entry.disqualified(f.thief.attack, f.defense)]
    best: dict[str, Figure] = {}
    for f in ranked:
        if f.defense not in best or f.thief.copy.value > best[f.defense].thief.copy.value:
            best[f.defense] = f
    order = sorted(best, key=lambda defense: best[defense].thief.copy.value)
    rows = [
        [str(n), _named(d), best[d].thief.words, percent(best[d].thief.copy, 1), f"{best[d].thief.queries:,}",
         best[d].entry.name]
        for n, d in enumerate(order, 1)
    ]  # fmt: skip
    head = ["Rank", "Defense", "Best-known attack", board[-1].capitalize(), "Queries", "Entered by"]
    about = f"Rows: {board[1]}. Shown: {board[2]}. {board[3].capitalize()}."
    parts = [el("p", about), table(head, rows, f"Defenses of {board[0]}", class_="stack"), _matrix(figures, order)]
    out = [f"{f.thief.attack} behind {_named(f.defense)} ({f.entry.name}): {flag}" for f in figures
           if (flag := f.entry.disqualified(f.thief.attack, f.defense))]  # fmt: skip
    if out:
        parts.append(el("p", "Not ranked: ", "; ".join(out), "."))
    return join(parts)


def _matrix(figures: Sequence[Figure], order: Sequence[str]) -> Html:
    """Every attack behind every defense: the best of all entries."""
    attacks = list(dict.fromkeys(f.thief.attack for f in figures))
    rows = []
    for defense in order:
        cells = []
        for attack in attacks:
            found = [f.thief.copy for f in figures if (f.thief.attack, f.defense) == (attack, defense)
                     and not f.entry.disqualified(attack, defense)]  # fmt: skip
            cells.append(percent(max(found, key=lambda e: e.value)) if found else "")
        rows.append([_named(defense), *cells])
    return table(["Defense", *attacks], rows, "Attacks by defenses", class_="stack")


def _figures(entry: Entry) -> Iterable[Figure]:
    for defense in entry.audit.defenses:
        for attack in entry.audit.columns:
            thief = entry.audit.thief(attack, defense)
            if thief is not None:
                yield Figure(thief, defense, entry)


def _rules() -> Html:
    needed = [
        "A bundle of portcullis bundle, whose signature holds and whose numbers follow from its records.",
        f"At least {SEEDS} repetitions, and no --quick.",
        "The same victim and rows (by fingerprint), answers, budget and measure as the board that it enters.",
        "An attack of your own is a module beside the bundle, so that its cells can be run again.",
    ]
    out = [f"{id}: {why}." for id, why in DISQUALIFIES.items()]
    return join([
        el("p", "What is needed:"), el("ul", [el("li", s) for s in needed]),
        el("p", "What disqualifies a figure, or the whole entry where the flag is of the whole audit:"),
        el("ul", [el("li", s) for s in out]),
    ])  # fmt: skip


def _entries(entries: Sequence[Entry]) -> Html:
    rows = [
        [e.name, el("code", e.signer[:16]), str(e.meta.get("started") or ""), e.unfit or "ranked",
         el("code", str(e.meta.get("command") or ""))]
        for e in entries
    ]  # fmt: skip
    return table(["Bundle", "Signed by", "Begun", "State", "Command"], rows, "Entries", class_="stack")


def _named(defense: str) -> str:
    return "no defense" if defense == NONE else defense
