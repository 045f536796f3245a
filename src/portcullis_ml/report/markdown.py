"""`report.md`: the verdict, the matrix and the flags as Markdown, for a pull request or a ticket."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from portcullis_ml.report.frameworks import Mapped, about, mapped, unchecked, word
from portcullis_ml.report.measured import measure_word
from portcullis_ml.report.numbers import count, percent, points
from portcullis_ml.report.raised import Limit, findings
from portcullis_ml.report.recommend import settings
from portcullis_ml.report.results import NONE, Audit
from portcullis_ml.report.summary import summary
from portcullis_ml.report.verdict import verdict_of

__all__ = ["markdown"]


def markdown(audit: Audit, meta: Mapping[str, Any], limit: Limit | None = None) -> str:
    """The whole file."""
    verdict = verdict_of(audit)
    parts = [f"# Portcullis audit: {_text(str(meta.get('title') or 'the victim'))}", f"**{_text(verdict.headline)}**"]
    parts += [_text(verdict.lead)] if verdict.lead else []
    parts.append("\n".join(f"- **{w}** {_text(t)}" for w, t in summary(audit, meta, verdict, limit)))
    parts += [_text(" ".join(verdict.detail))] if verdict.detail else []
    parts += ["\n".join(f"- {_text(c)}" for c in verdict.caveats)] if verdict.caveats else []
    if audit.pairs:
        parts += ["## Every defense", _table(*_defenses(audit)), "## Attack by defense", _table(*_matrix(audit))]
    parts += ["## Flags", *_flags(audit, meta, limit)]
    if found := mapped(audit, meta, limit):
        parts += ["## Security frameworks", about(), _table(*_frameworks(found))]
    if text := settings(audit):
        parts += ["## Recommended settings for the gate", f"```toml\n{text}\n```"]
    if meta.get("command"):
        parts.append(f"Made by `{_code(str(meta['command']))}`. Brackets hold 95% intervals.")
    return "\n\n".join(parts) + "\n"


def _defenses(audit: Audit) -> tuple[list[str], list[list[str]]]:
    rows = []
    for defense in audit.defenses:
        worst, loss = audit.worst(defense), audit.cost(defense)
        price = "nothing" if defense == NONE else points(loss) if loss else "not measured"
        best = " (recommended)" if defense == audit.recommended else ""
        rows.append([_named(defense) + best, *([worst.words, percent(worst.copy)] if worst else ["nobody", ""]), price])
    return ["Defense", "Worst attacker", measure_word(audit).capitalize(), "Honest clients lose"], rows


def _matrix(audit: Audit) -> tuple[list[str], list[list[str]]]:
    rows = []
    for defense in audit.defenses:
        cells = []
        for attack in audit.columns:
            pair, copy = audit.cell(attack, defense), audit.stolen(attack, defense)
            cells.append(percent(copy) if copy else pair.outcome if pair else "")
        rows.append([_named(defense), *cells])
    return [f"{measure_word(audit).capitalize()} at {count(audit.budget, 'query')}", *audit.columns], rows


def _frameworks(found: Sequence[Mapped]) -> tuple[list[str], list[list[str]]]:
    rows = [[m.entry.id, m.entry.name + unchecked(m.entry), word(m), m.said] for m in found]
    return ["Id", "Name", "State", "What this audit says of it"], rows


def _flags(audit: Audit, meta: Mapping[str, Any], limit: Limit | None) -> Iterator[str]:
    """One line for each finding, the limit first; of each flag what to do."""
    found = findings(audit, meta, limit)
    if not found:
        yield "No flag was raised."
        return
    texts, lines = meta.get("flag_texts") or {}, []
    for rule in dict.fromkeys(f.rule for f in found):
        places = [f for f in found if f.rule == rule]
        more = f" And in {count(len(places) - 1, 'other place')}." if len(places) > 1 else ""
        advice = str((texts.get(rule) or {}).get("what_to_do", ""))
        mark = "**failed** " if places[0].fails else ""
        lines.append(f"- {mark}`{rule}` {_text(places[0].text)}{more} {_text(advice)}".rstrip())
    yield "\n".join(lines)


def _named(defense: str) -> str:
    return "no defense" if defense == NONE else defense


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_text(cell) for cell in line)} |" for line in lines)


def _text(words: str) -> str:
    """Words that Markdown takes as they are, on one line."""
    return re.sub(r"([\\`*_<>|#\[\]])", r"\\\1", " ".join(words.split())).replace(r"\[", "[").replace(r"\]", "]")


def _code(words: str) -> str:
    return " ".join(words.split()).replace("`", "'")
