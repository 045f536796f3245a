"""The sections of the page, each from the same audit; a section with nothing to say is None."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from portcullis_ml.core.types import Estimate
from portcullis_ml.report import figures
from portcullis_ml.report.letters import letters
from portcullis_ml.report.markup import Html, disclosure, el, join, table
from portcullis_ml.report.measured import controls_said, measure_word, written
from portcullis_ml.report.numbers import clearly_below, count, listed, percent, points, span
from portcullis_ml.report.pairs import Pair
from portcullis_ml.report.results import NONE, Audit
from portcullis_ml.report.selected import how_selected
from portcullis_ml.report.thieves import Thief

__all__ = [
    "Section", "alarms", "controls", "glance", "honest", "matrix", "maybe", "named", "number", "ordered", "recovery",
    "speed", "words",
]  # fmt: skip

Section = Html | None
FAMILIES = {"boosted": "boosted trees", "constant": "one answer for every row"}  # the others are called what they are


def glance(audit: Audit, deployed: str | None = None) -> Section:
    """One line for every defense: who fares best behind it, how far they get, what it costs, when it noticed."""
    head = ["Defense", "Worst attacker", measure_word(audit).capitalize(), "Honest clients lose", "First alarm"]
    rows = []
    for defense in audit.defenses:
        worst, loss = audit.worst(defense), audit.cost(defense)
        first = figures.alarm_words(worst.pair) if worst and defense != NONE else ""
        tags = [("best", defense == audit.recommended), ("deployed", defense == deployed)]
        mark = join([el("span", word, class_=f"tag {word}") for word, true in tags if true], " ")
        price = "nothing" if defense == NONE else points(loss) if loss else "not measured"
        rows.append([
            join([named(defense), mark], " "),
            _attacker(audit, worst) if worst else "nobody left a copy",
            _bar(worst.copy) if worst else "none",
            price,
            (first if alarms(audit, defense) else "no detector") if worst else "",
        ])  # fmt: skip
    return table(head, rows, "Every defense and the attacker who fares best behind it", class_="glance stack")


def speed(audit: Audit) -> Section:
    """Agreement against queries, a panel for every defense."""
    if not any(p.done for p in audit.pairs.values()):
        return None
    panels = []
    for n, defense in enumerate(audit.defenses):
        title = el("figcaption", named(defense))
        panels.append(el("figure", title, figures.curves(audit, defense, f"curves-{n}")))
    victim = next((e for p in audit.pairs.values() if (e := p.measures.get("victim_accuracy"))), None)
    accurate = [(a, q, e) for (a, d), p in ordered(audit) if d == NONE for q, e in p.curve("accuracy")]
    if victim and accurate:
        title = el("figcaption", "accuracy, no defense")
        panels.append(el("figure", title, figures.accuracies(audit, victim, "accuracies")))
    points_ = [
        [f"{a}, {words(d)}", f"{q:,}", *number(e)] for (a, d), p in ordered(audit) for q, e in p.curve(audit.measure)
    ]
    if victim:
        points_ += [[f"{a}, {words(NONE)}, accuracy", f"{q:,}", *number(e)] for a, q, e in accurate]
    head = ["Attack and defense", "Queries", measure_word(audit).capitalize(), "Interval", "n"]
    return join([
        el("p", f"How good the copy is after so many queries. {_over(audit)} A cross marks where the guard shut "
           "the attacker out, the dotted level what a thief gets who learns nothing from the API."),
        el("p", sentence) if (sentence := _in_the_victims_terms(audit)) else None,
        figures.key(audit.thieves, marks=letters(audit)),
        el("div", panels, class_="panels"),
        disclosure("Numbers behind the curves", table(head, points_, f"{head[2]} by number of queries")),
    ])  # fmt: skip


def matrix(audit: Audit) -> Section:
    """Every attack against every defense, the worst attacker of each defense marked."""
    if not audit.pairs:
        return None
    rows = []
    for defense in audit.defenses:
        worst = audit.worst(defense)
        cells = [_cell(audit, a, defense, worst) for a in audit.columns]
        rows.append([named(defense), *cells])
    notes = [el("li", el("b", where), f": {what}") for where, what in _notes(audit)]
    return join([
        el("p", f"{_compared(audit)} at {count(audit.budget, 'query')}. "
           f"{_over(audit)} The attacker who fares best behind a defense is framed and "
           "marked ▲: a defense is worth what it does to them. Some attackers do better with less, with the labels "
           "only or with fewer queries: each counts in the way that serves them best, and the small print says so. "
           f"{how_selected(audit, NONE)}"),
        table(["Defense", *(_lettered(audit, a) for a in audit.columns)], rows, "Attack by defense", class_="matrix"),
        el("ul", notes, class_="notes") if notes else None,
        _everything(audit),
    ])  # fmt: skip


def _compared(audit: Audit) -> str:
    """What a figure of the matrix is."""
    if audit.numbers:
        return "Share of the variance of the victim's answers that the copy explains,"
    return f"{measure_word(audit).capitalize()} of the copy with the victim"


def _in_the_victims_terms(audit: Audit) -> str:
    """What share of the victim's accuracy the best copies reach: undefended, and from labels alone."""
    found = []
    for defense, words in ((NONE, "a copy"), ("label_only", "one from labels alone")):
        pairs = [p for (_, d), p in audit.pairs.items() if d == defense and "normalised_accuracy" in p.measures]
        if pairs:
            best = max(pairs, key=lambda p: p.measures["normalised_accuracy"].value)
            e = best.measures["normalised_accuracy"]
            reached = f"{e.value:.2f}x [{e.low:.2f}, {e.high:.2f}]"
            found.append(f"{words} reaches {reached} after {count(best.queries, 'query')} ({best.attack})")
    return f"Of the victim's accuracy {', '.join(found)}." if found else ""


def recovery(audit: Audit, labels: Sequence[str]) -> Section:
    """Which classes are lost: by the worst attacker, undefended and behind the best defense."""
    shown = [d for d in (NONE, audit.best) if d and (w := audit.worst(d)) and any(w.pair.classes)]
    if not shown:
        return None
    thieves = [(d, w) for d in shown if (w := audit.worst(d))]
    worsts = [w.pair for _, w in thieves]
    size = max(len(w.classes) for w in worsts)
    labels = [str(x) for x in labels][:size] + [str(i) for i in range(len(labels), size)]
    rows = [[labels[i], *(maybe(w.classes[i] if i < len(w.classes) else None) for w in worsts)]
            for i in range(size)]  # fmt: skip
    titles = [f"{w.attack}, {words(d)}" for d, w in thieves]
    return join([
        el("p", "How often the copy is right on a class, as a share of how often the victim is: at 100% it is as good, "
           "above that better. An average can hide a class that is wholly stolen, or wholly safe."),
        figures.key(titles, lines=False),
        el("figure", figures.recovery(audit, shown, labels, "recovery"), class_="scroll"),
        disclosure("Numbers behind the figure", table(["Class", *titles], rows, "Recovery of every class")),
    ])  # fmt: skip


def controls(audit: Audit) -> Section:
    """What the figures must be compared with."""
    cells: list[list[Any]] = []
    for p in audit.controls:
        what = controls_said(audit).get(p.attack, "")
        behind = what if p.defense == NONE else f"{what}, behind {p.defense}"
        cells.append([p.attack, behind, _grade(audit, p), f"{p.queries:,}"])
    for defense, name in ((NONE, "undefended"), ("label_only", "label only")):
        if worst := audit.worst(defense):
            where = "" if defense == NONE else f", behind {defense}"
            what = f"the strongest attacker, {worst.words}{where}"
            cells.append([name, what, _counted(worst.copy), f"{worst.queries:,}"])
    if not cells:
        return None
    sentence = (
        "A theft counts only above the rows that learn nothing from the API. They were run by themselves, with the "
        "same data and learner; the plain stranger, who fits a stock model, is a check of the attacks."
    )
    if not audit.controls:
        sentence = "No control was run: whether the API taught the thief anything cannot be told from this page."
    head = ["Row", "What it is", measure_word(audit).capitalize(), "Queries"]
    return join([el("p", sentence), table(head, cells, "Controls", class_="stack")])


def _grade(audit: Audit, pair: Pair) -> str:
    """The agreement of a control with its interval and n, or why there is none."""
    e = pair.measures.get(audit.measure)
    return _counted(e) if e else f"{pair.outcome}. {pair.reason}"


def _counted(e: Estimate) -> str:
    n = f"n = {e.n:,} {e.unit}".replace(" ", "\N{NO-BREAK SPACE}")
    return f"{percent(e, 1)}, {n}"


def _attacker(audit: Audit, thief: Thief) -> Html:
    """Who fares best, how, and whether that is more than nothing."""
    if thief.failed:
        return join(["someone who never asks", el("small", "no attacker got further")], " ")
    return join([_lettered(audit, thief.attack), el("small", thief.how) if thief.how else None], " ")


def _lettered(audit: Audit, attack: str) -> Html:
    """The attack behind its letter, the same on the whole page and in the terminal."""
    return join([el("b", letters(audit).get(attack, ""), class_="letter"), attack], " ")


def _everything(audit: Audit) -> Html:
    """Every measure of every attack against every defense."""
    names = list(dict.fromkeys(n for _, p in ordered(audit) for n in p.measures))
    rows = [
        [f"{a}, {words(d)}", *(el("td", written(n, p.measures.get(n)), class_="figure") for n in names), len(p.done)]
        for (a, d), p in ordered(audit)
        if p.done
    ]
    head = ["Attack and defense", *(n.replace("_", " ").capitalize() for n in names), "Seeds"]
    return disclosure("Every measure of every copy", table(head, rows, "Every measure of every copy"))


def _notes(audit: Audit) -> list[tuple[str, str]]:
    """(where, what) of every cell without a copy, every run that the guard ended or that went on for too long."""
    why: dict[tuple[str, str], list[str]] = {}
    for (attack, defense), p in ordered(audit):
        if p.outcome != "done":
            why.setdefault((attack, f"{p.outcome}. {p.reason}"), []).append(words(defense))
        elif p.ended_by_guard:
            note = f"shut out after {count(p.queries, 'query')} ({p.ended_by_guard}); the copy is what they had then."
            note += f" {late}" if (late := figures.late_words(p)) else ""
            why.setdefault((attack, note), []).append(words(defense))
        for queries, e in _peak(audit, p):
            note = f"had a better copy earlier, {percent(e)} after {count(queries, 'query')}: stopping then pays."
            why.setdefault((attack, note), []).append(words(defense))
    everywhere = len(audit.defenses) if len(audit.defenses) > 1 else 0
    return [
        (attack if len(where) == everywhere else f"{attack}, {listed(where)}", what)
        for (attack, what), where in why.items()
    ]


def _peak(audit: Audit, pair: Pair) -> list[tuple[int, Estimate]]:
    """Where on its way this attack had a clearly better copy than at its end: one point or none."""
    curve = pair.curve(audit.measure)
    best = max(curve, key=lambda point: point[1].value, default=None)
    return [best] if best and clearly_below(curve[-1][1], best[1]) else []


def _cell(audit: Audit, attack: str, defense: str, worst: Thief | None) -> Html:
    """A <td>: the agreement, or why there is none."""
    pair = audit.cell(attack, defense)
    if pair is None:
        return el("td", "not run", class_="void")
    e = pair.measures.get(audit.measure)
    if e is None:
        return el("td", el("abbr", pair.outcome, title=pair.reason or None), class_="void")
    top = worst is not None and not worst.failed and attack == worst.attack
    value = percent(e).partition(" [")[0]
    title = f"{count(len(pair.done), 'seed')}; {count(pair.queries, 'query')} paid"
    share = max(0.0, min(1.0, e.value))
    asides = [el("small", words) for words in _asides(audit, attack, defense, e)]
    return el("td", el("b", value, " ▲" if top else ""), el("small", span(e)), asides, title=title,
              class_="heat worst" if top else "heat", style=f"--share:{100 * share:.0f}%")  # fmt: skip


def _asides(audit: Audit, attack: str, defense: str, e: Estimate) -> list[str]:
    """What must be known with a figure of the matrix."""
    found = []
    pair = audit.cell(attack, defense)
    if audit.failed(attack, defense):
        why = "shut out" if pair and pair.ended_by_guard else "failed"
        found.append(f"{why}: below someone who never asks")
    elif audit.steals(attack) is False:
        found.append("does not steal undefended")
    better = audit.thief(attack, defense)
    if better and better.how and better.copy.value > e.value:
        found.append(f"{percent(better.copy)} {better.how}")
    if pair and (trained := _trained(pair)):
        found.append(trained)
    return found


def _trained(pair: Pair) -> str | None:
    """What the learner that chooses has fitted, with its share of the weights; of several seeds, what the first one."""
    chosen = [(r.get("notes") or {}).get("chosen") for r in pair.done]
    fits = [c["fitted"] for c in chosen if isinstance(c, Mapping) and c.get("fitted")]  # older records hold a word
    if not fits:
        return None
    first = fits[0]
    if isinstance(first, Mapping) and len(first) > 1:
        total = sum(first.values())
        order = sorted(first, key=lambda name: -first[name])
        parts = ", ".join(f"{_family(name)} {first[name] / total:.1f}" for name in order)
    else:
        parts = "; ".join(dict.fromkeys(_family(str(name)) for name in first))
    others = any(set(fit) != set(first) for fit in fits[1:])
    return f"trained{' by the first seed' if others else ''}: {parts}"


def _family(name: str) -> str:
    """ "boosted labels" in plain words."""
    family = name.removesuffix(" labels")
    return FAMILIES.get(family, family).replace("_", " ") + (" on labels" if family != name else "")


def _bar(e: Estimate) -> Html:
    share = max(0.0, min(1.0, e.value))
    return el("span", el("b", percent(e).partition(" [")[0]), " ", el("small", span(e)),
              class_="bar", style=f"--share:{100 * share:.0f}%")  # fmt: skip


def number(e: Estimate | None) -> list[Html]:
    """Value, interval and n, for three columns of a table."""
    if e is None:
        return [el("td", "not measured", colspan=3)]
    value, _, interval = percent(e, 1).partition(" [")
    return [el("td", text, class_="figure") for text in (value, f"[{interval}", f"{e.n:,} {e.unit}".strip())]


def maybe(e: Estimate | None) -> str:
    return percent(e, 1) if e else "not measured"


def honest(audit: Audit, defense: str, measure: str) -> Estimate | None:
    pair = audit.honest.get(defense)
    return pair.measures.get(measure) if pair else None


def alarms(audit: Audit, defense: str) -> bool:
    """Whether anything behind this defense can, or did, raise an alarm."""
    pairs = [p for (_, d), p in audit.pairs.items() if d == defense]
    stages: list[Mapping[str, Any]] = [s for p in pairs for r in p.records[:1] for s in r["cell"].get("defense") or ()]
    return any(s.get("unit") == "watch" or "detector" in s for s in stages) or any(any(p.alarms) for p in pairs)


def ordered(audit: Audit) -> list[tuple[tuple[str, str], Pair]]:
    keys = [(a, d) for d in audit.defenses for a in audit.columns]
    return [(key, pair) for key in keys if (pair := audit.cell(*key))]


def _over(audit: Audit) -> str:
    """What the intervals on this page are over."""
    if len(audit.seeds) == 1:
        return "There is one seed, and the 95% intervals are over the test rows."
    return f"Figures are means over {count(len(audit.seeds), 'seed')} with 95% intervals."


def named(defense: str) -> Html:
    """The guard's name, which may be broken behind a bracket, a comma or a plus."""
    if defense == NONE:
        return el("em", "no defense")
    return join(re.split(r"(?<=[(,+])", defense), el("wbr"))


def words(defense: str) -> str:
    return "no defense" if defense == NONE else defense
