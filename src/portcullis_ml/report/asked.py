"""What the thieves asked, as pictures by round and answered class, and which groups of a pool a bandit turned to."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from portcullis_ml.report import drawing as ink
from portcullis_ml.report.leaks import picture, picture_shape
from portcullis_ml.report.markup import Html, disclosure, el, join, table
from portcullis_ml.report.results import NONE, Audit

__all__ = ["asked"]

LINES = 6  # groups whose chances are drawn: those that end with the greatest
WIDTH = 380


def asked(audit: Audit, labels: Sequence[str]) -> Html | None:
    """A part for every attack on the undefended API that left pictures or a bandit's choices; the first seed."""
    parts = []
    for n, attack in enumerate(audit.attacks):
        pair = audit.cell(attack, NONE)
        notes: Mapping[str, Any] = next((r["notes"] for r in pair.done if _has(r.get("notes"))), {}) if pair else {}
        sheet = [_shown(notes["asked"], labels)] if notes.get("asked") else []
        bandit = [_bandit(notes["bandit"], f"bandit-{n}")] if notes.get("bandit") else []
        if sheet or bandit:
            parts.append(join([el("h3", attack), *sheet, *bandit]))
    if not parts:
        return None
    return join([
        el("p", "What was sent to the undefended API, of the first seed: one picture of every class that was answered "
           "in each part of the run (of texts, the first of every class), and how many there were."),
        *parts,
    ])  # fmt: skip


def _has(notes: Mapping[str, Any] | None) -> bool:
    return bool(notes) and bool(notes.get("asked") or notes.get("bandit"))  # type: ignore[union-attr]


def _shown(note: Mapping[str, Any], labels: Sequence[str]) -> Html:
    if "texts" not in note:
        return _sheet(note, labels)
    rows = [[_named(part["class"], labels), f"{part['n']:,}", el("ul", [el("li", t) for t in part["texts"]])]
            for part in note["texts"]]  # fmt: skip
    return el("div", table(["Answered", "Questions", "The first of them"], rows, "Texts asked"), class_="scroll")


def _sheet(note: Mapping[str, Any], labels: Sequence[str]) -> Html:
    shape, rounds = picture_shape(note["shape"]), note["rounds"]
    classes = sorted({int(c) for part in rounds for c in part["counts"]})
    head = ["Answered", *(f"{part['first']:,} to {part['last']:,}" for part in rounds)]
    rows = []
    for c in classes:
        cells: list[Any] = [_named(c, labels)]
        for part in rounds:
            row, n = part["pictures"].get(str(c)), part["counts"].get(str(c), 0)
            image = _drawn(row, shape, f"A question that was answered {_named(c, labels)}") if row else None
            cells.append(join([x for x in (image, el("span", f"{n:,}")) if x is not None], " "))
        rows.append(cells)
    surest = [
        join([_drawn(s["row"], shape, f"Answered {_named(s['class'], labels)}"),
              el("span", f" {_named(s['class'], labels)}, {100 * s['score']:.0f}%")])
        for s in note.get("surest") or ()
    ]  # fmt: skip
    return join([
        el("div", table(head, rows, "Questions by part of the run and answered class"), class_="asked scroll"),
        disclosure("What the victim was surest about", el("ul", [el("li", s) for s in surest], class_="asked"))
        if surest
        else None,
    ])  # fmt: skip


def _drawn(row: str, shape: tuple[int, ...], alt: str) -> Html:
    return picture(np.frombuffer(base64.b64decode(row), np.uint8).tolist(), shape, alt)


def _named(c: int, labels: Sequence[str]) -> str:
    return str(labels[c]) if c < len(labels) else str(c)


def _bandit(note: Mapping[str, Any], name: str) -> Html:
    """How the chances of the pool's groups went: lines for the greatest at the end, numbers for all."""
    groups, chances = [str(g) for g in note["groups"]], np.array(note["chances"])
    order = [int(i) for i in np.argsort(-chances[-1], kind="stable")]
    summary = ", ".join(f"{groups[i]} {100 * chances[-1, i]:.0f}%" for i in order[:LINES])

    def paint(axes: Any) -> None:
        for n, i in enumerate(order[:LINES]):
            axes.plot(range(len(chances)), 100 * chances[:, i], ls=ink.DASHES[n % len(ink.DASHES)],
                      marker=ink.MARKERS[n % len(ink.MARKERS)], color=ink.series(n))  # fmt: skip
        axes.axhline(100 / len(groups), color=ink.PLAIN, lw=1.2, ls=(0, (2, 2)))
        axes.annotate("even", (1, 100 / len(groups)), (0, 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", ha="right", color=ink.PLAIN, fontsize=10)  # fmt: skip
        axes.set_ylim(0)
        axes.set_xticks([0, len(chances) - 1], ["start", "end"])

    from portcullis_ml.report.figures import key

    rows = [[groups[i], f"{100 * chances[0, i]:.1f}%", f"{100 * chances[-1, i]:.1f}%"] for i in order]
    return join([
        el("p", f"Which of the pool's {len(groups)} groups the bandit turned to: chance of each, in percent."),
        key([groups[i] for i in order[:LINES]]),
        el("figure", ink.draw(name, f"The bandit's chances at the end: {summary}.", WIDTH, 210, paint)),
        disclosure("Numbers behind the figure", table(["Group", "At first", "At the end"], rows, "Chance of a group")),
    ])  # fmt: skip
