"""The figures of the report, each as (drawing, numbers): what a figure shows also stands in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from portcullis_ml.core.types import Estimate
from portcullis_ml.report import drawing as ink
from portcullis_ml.report.letters import letters, numbers
from portcullis_ml.report.markup import Html, el, join
from portcullis_ml.report.measured import loss_word
from portcullis_ml.report.numbers import count, percent, points
from portcullis_ml.report.pairs import Pair
from portcullis_ml.report.results import NONE, Audit

__all__ = ["accuracies", "alarm_words", "curves", "key", "late_words", "pareto", "recovery", "timeline"]

WIDTH = 380
TOUCH = 0.025  # of an axis: marks that are nearer cover each other


def key(names: Sequence[str], lines: bool = True, marks: Mapping[str, str] | None = None) -> Html:
    """Which color, shape and dash means what: one legend for all panels; `marks` are letters before the names."""
    marked = [join([el("b", (marks or {}).get(name, ""), class_="letter") if marks else None, name]) for name in names]
    return el("ul", [el("li", _swatch(i, lines), name) for i, name in enumerate(marked)], class_="key")


def curves(audit: Audit, defense: str, name: str) -> Html:
    """Agreement against queries behind one defense, a line for every attack."""
    lines = [(i, a, _curve(audit, a, defense)) for i, a in enumerate(audit.thieves)]
    lines = [(i, a, c) for i, a, c in lines if c]
    base = audit.baseline.measures[audit.measure] if audit.baseline else None
    summary = "; ".join(f"{a} reaches {percent(c[-1][1])} after {count(c[-1][0], 'query')}" for _, a, c in lines)

    def paint(axes: Any) -> None:
        for i, attack, curve in lines:
            _line(axes, i, curve)
            if (pair := audit.cell(attack, defense)) and pair.ended_by_guard:
                axes.plot(*_end(curve), "x", ms=11, mew=1.6, color=ink.STRONG)
        if base:
            axes.axhline(base.value, color=ink.PLAIN, lw=1.2, ls=(0, (2, 2)))
            axes.annotate("without the API", (1, base.value), (0, 3), xycoords=("axes fraction", "data"),
                          textcoords="offset points", ha="right", color=ink.PLAIN, fontsize=10)  # fmt: skip
        _shares(axes, [e for _, _, c in lines for _, e in c])
        axes.set_xlim(0, max(audit.budget, 1) * 1.03)
        axes.set_xlabel("queries paid for")
        _thousands(axes)

    return ink.draw(
        name, f"{audit.measure} against queries, {_undefended(defense)}: {summary or 'no copy'}.", WIDTH, 236, paint
    )


def accuracies(audit: Audit, victim: Estimate, name: str) -> Html:
    """Accuracy against queries on the undefended API, a line for every attack, with the victim's as a level."""
    lines = [(i, a, pair.curve("accuracy")) for i, a in enumerate(audit.thieves) if (pair := audit.cell(a, NONE))]
    lines = [(i, a, c) for i, a, c in lines if c]
    summary = "; ".join(f"{a} reaches {percent(c[-1][1])} after {count(c[-1][0], 'query')}" for _, a, c in lines)

    def paint(axes: Any) -> None:
        for i, _, curve in lines:
            _line(axes, i, curve)
        axes.axhline(victim.value, color=ink.PLAIN, lw=1.2, ls=(0, (2, 2)))
        axes.annotate("the victim", (1, victim.value), (0, 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", ha="right", color=ink.PLAIN, fontsize=10)  # fmt: skip
        _shares(axes, [victim, *(e for _, _, c in lines for _, e in c)])
        axes.set_xlim(0, max(audit.budget, 1) * 1.03)
        axes.set_xlabel("queries paid for")
        _thousands(axes)

    return ink.draw(name, f"Accuracy against queries; the victim has {percent(victim)}. {summary}.", WIDTH, 236, paint)


def timeline(audit: Audit, defense: str, name: str) -> Html:
    """When the alarm came: a line for every attack from its first query to its last, a mark for every seed's alarm."""
    pairs = {a: pair for a in audit.thieves if (pair := audit.cell(a, defense)) and pair.queries}
    attacks, marks = list(pairs), letters(audit)

    def paint(axes: Any) -> None:
        for y, attack in enumerate(reversed(attacks)):
            pair, i = pairs[attack], audit.thieves.index(attack)
            axes.plot([0, pair.queries], [y, y], color=ink.FAINT, lw=5, solid_capstyle="round")
            rows = [row for row in pair.alarms if row is not None]
            axes.plot(
                rows, [y] * len(rows), ink.MARKERS[i % len(ink.MARKERS)], color=ink.series(i), ms=8, mec=ink.SURFACE
            )
            at, side = (max(rows), 1) if rows and max(rows) < 0.8 * audit.budget else (pair.queries, -1)
            axes.annotate(_when(rows) or "no alarm", (at, y), (6 * side * bool(rows), 5), textcoords="offset points",
                          ha="left" if side > 0 else "right", fontsize=10,
                          color=ink.STRONG if rows else ink.PLAIN)  # fmt: skip
        axes.set_yticks(range(len(attacks)), [f"{marks[a]}  {_short(a)}" for a in reversed(attacks)])
        axes.tick_params(axis="y", length=0, labelcolor=ink.STRONG)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.6, len(attacks) - 0.3)
        axes.set_xlim(0, max(audit.budget, 1) * 1.03)
        axes.set_xlabel("queries")
        _thousands(axes)

    left = 30 + 6.4 * max((len(_short(a)) for a in attacks), default=0)
    alt = "; ".join(f"{a}: {alarm_words(pairs[a])}" for a in attacks)
    return ink.draw(name, f"First alarms behind {defense}. {alt}.", WIDTH, 58 + 32 * len(attacks), paint, left=left)


def alarm_words(pair: Pair) -> str:
    """ "after 71 queries (3 of 3 seeds)"."""
    rows = pair.alarms
    rang = [row for row in rows if row is not None]
    if not rang:
        return "no alarm"
    noun = "query" if max(rang) == 1 else "queries"
    return f"after {_when(rang)} {noun} ({len(rang)} of {count(len(rows), 'seed')})"


def late_words(pair: Pair) -> str:
    """Why more was paid for than was asked before the alarm, where the alarm shut the attacker out; "" elsewhere."""
    rows = [row for row in pair.alarms if row is not None]
    if not rows or not pair.ended_by_guard or max(rows) >= pair.queries:
        return ""
    return (
        f"The alarm came at query {_when(rows)}, within a request of many rows: those behind it were paid for as well, "
        "and not answered."
    )


def _when(rows: Sequence[int]) -> str:
    """ "71", or "71 to 77"; "" for no rows."""
    return " to ".join(f"{row:,}" for row in sorted({min(rows), max(rows)})) if rows else ""


def pareto(audit: Audit, name: str) -> tuple[Html, list[tuple[str, str]]] | None:
    """Theft against cost: (drawing, [(number, defense)]), or None where no cost was measured.

    Defenses whose marks lie together share one label, so that no two leader lines cross a mark.
    """
    found = [(d, audit.cost(d), audit.worst(d)) for d in audit.defenses]
    spots = [(d, c, w.copy) for d, c, w in found if c and w]
    if len(spots) < 2:
        return None
    front = {d for d, c, e in spots if not any(_beats((c2, e2), (c, e)) for _, c2, e2 in spots)}
    numbered = numbers(audit)
    labels = _together(spots, numbered)

    def paint(axes: Any) -> None:
        stairs = sorted((c.value * 100, e.value) for d, c, e in spots if d in front)
        axes.step(*zip(*stairs, strict=True), where="post", color=ink.FAINT, lw=1.6)
        for d, c, e in spots:
            color = ink.series(0) if d in front else ink.PLAIN
            axes.errorbar(c.value * 100, e.value, [[e.value - e.low], [e.high - e.value]],
                          [[100 * (c.value - c.low)], [100 * (c.high - c.value)]],
                          color=color, fmt="none", elinewidth=1, alpha=0.55)  # fmt: skip
            axes.plot(c.value * 100, e.value, "o" if d in front else "s", color=color, ms=7, mec=ink.SURFACE)
        _shares(axes, [e for _, _, e in spots])
        axes.set_xlabel(f"{loss_word(audit)} lost by honest clients, points")
        axes.margins(x=0.08)
        for (label, c, e), y in zip(labels, _spread([e.value for _, _, e in labels], gap=0.062), strict=True):
            axes.annotate(label, (c.value * 100, e.value), (1.04, y), textcoords=("axes fraction", "data"),
                          va="center", fontsize=12, fontweight="bold", color=ink.STRONG,
                          arrowprops={"arrowstyle": "-", "color": ink.FAINT, "shrinkA": 2, "shrinkB": 5})  # fmt: skip

    right = 24 + 9 * max(len(label) for label, _, _ in labels)
    summary = "; ".join(f"{numbered[d]} {d}: {percent(e)} stolen for {points(c)}" for d, c, e in spots)
    return ink.draw(name, f"Theft against cost. {summary}.", WIDTH, 290, paint, right=right), [
        (numbered[d], d) for d, _, _ in spots
    ]


def recovery(audit: Audit, defenses: Sequence[str], labels: Sequence[str], name: str) -> Html:
    """How much of every class the worst attacker recovers, behind each of these defenses."""
    shown = [(d, w.pair.classes) for d in defenses if (w := audit.worst(d)) and w.pair.classes]
    classes = max(len(c) for _, c in shown)
    longest = max((len(_short(x, 12)) for x in labels), default=1)
    width = max(WIDTH, min(2 * WIDTH, 70 + 26 * classes))

    def paint(axes: Any) -> None:
        for i, (_, recovered) in enumerate(shown):
            shift = (i - (len(shown) - 1) / 2) * 0.24
            known = [(j + shift, e) for j, e in enumerate(recovered) if e]
            low, high = [e.value - e.low for _, e in known], [e.high - e.value for _, e in known]
            axes.errorbar([x for x, _ in known], [e.value for _, e in known], [low, high], fmt=ink.MARKERS[i],
                          color=ink.series(i), elinewidth=1.2, ms=6)  # fmt: skip
        _shares(axes, [e for _, c in shown for e in c if e])
        step = 1 if classes <= 22 else 5
        axes.set_xticks(range(0, classes, step), [_short(x, 12) for x in labels[::step]], rotation=90 * (longest > 3))
        axes.grid(axis="x", visible=False)
        axes.set_xlim(-0.6, classes - 0.4)
        axes.set_xlabel("class")

    summary = "; ".join(f"{_undefended(d)}, from {_range(c)}" for d, c in shown)
    below = 42 if longest <= 3 else 36 + 7 * longest
    return ink.draw(name, f"Recovery of every class. {summary}.", width, 208 + below, paint, below=below)


def _range(recovered: Sequence[Estimate | None]) -> str:
    values = [e.value for e in recovered if e]
    return f"{min(values):.0%} to {max(values):.0%}" if values else "nothing"


def _undefended(defense: str) -> str:
    return "with no defense" if defense == NONE else f"behind {defense}"


def _curve(audit: Audit, attack: str, defense: str) -> list[tuple[int, Estimate]]:
    pair = audit.cell(attack, defense)
    return pair.curve(audit.measure) if pair else []


def _line(axes: Any, i: int, curve: Sequence[tuple[int, Estimate]]) -> None:
    x = [q for q, _ in curve]
    color = ink.series(i)
    axes.fill_between(x, [e.low for _, e in curve], [e.high for _, e in curve], color=color, alpha=0.16, lw=0)
    y = [e.value for _, e in curve]
    dash = ink.DASHES[i % len(ink.DASHES)]
    axes.plot(x, y, marker=ink.MARKERS[i % len(ink.MARKERS)], ls=dash, color=color, mec=ink.SURFACE, mew=0.6)
    if len(curve) == 1:  # a band needs two points
        e = curve[0][1]
        axes.plot([x[0], x[0]], [e.low, e.high], color=color, lw=1.2)


def _end(curve: Sequence[tuple[int, Estimate]]) -> tuple[int, float]:
    return curve[-1][0], curve[-1][1].value


def _shares(axes: Any, estimates: Sequence[Estimate]) -> None:
    """From 0 to 100%, or as far above as ratios go."""
    if all(0 <= e.value <= 10 for e in estimates):
        top = max([1.0, *(min(e.high, 1.5 * e.value) for e in estimates)])
        axes.set_ylim(0, 1.04 * top)
        step = 0.25 if top < 1.6 else round(top) / 4
        marks = [step * i for i in range(int(top / step) + 1)]
        axes.set_yticks(marks, [f"{100 * m:.0f}{'%' if m == marks[-1] else ''}" for m in marks])


def _thousands(axes: Any) -> None:
    axes.xaxis.set_major_locator(_locator())
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")


def _locator() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, integer=True)


Spot = tuple[str, Estimate, Estimate]  # a defense or a label, what it costs, what thieves keep


def _together(spots: Sequence[Spot], numbered: Mapping[str, str]) -> list[Spot]:
    """One label for all marks that cover each other, at the first of them."""
    wide = max(c.value for _, c, _ in spots) - min(c.value for _, c, _ in spots)
    groups: list[list[Spot]] = []
    for d, c, e in spots:
        near = (
            g for g in groups if abs(g[0][1].value - c.value) <= TOUCH * wide and abs(g[0][2].value - e.value) <= TOUCH
        )
        group = next(near, None)
        groups.append([(d, c, e)]) if group is None else group.append((d, c, e))
    return [(_ranges(sorted(int(numbered[d]) for d, _, _ in g)), *g[0][1:]) for g in groups]


def _ranges(found: Sequence[int]) -> str:
    """ "0-2, 5" for 0, 1, 2, 5, with a true dash."""
    runs: list[list[int]] = []
    for n in found:
        runs[-1].append(n) if runs and n == runs[-1][-1] + 1 else runs.append([n])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}\N{EN DASH}{r[-1]}" for r in runs)


def _beats(one: tuple[Estimate, Estimate], other: tuple[Estimate, Estimate]) -> bool:
    pairs = [(a.value, b.value) for a, b in zip(one, other, strict=True)]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """The heights in the same order, moved as little as keeps them `gap` apart and below 1."""
    order = sorted(range(len(heights)), key=lambda i: -heights[i])
    placed: dict[int, float] = {}
    top = max(1.0, max(heights))
    for i in order:
        placed[i] = min(heights[i], top)
        top = placed[i] - gap
    return [placed[i] for i in range(len(heights))]


def _short(name: object, most: int = 20) -> str:
    """The name, cut to what a drawing has room for; the tables have it whole."""
    text = " ".join(str(name).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _swatch(i: int, line: bool) -> Html:
    def paint(axes: Any) -> None:
        dash = ink.DASHES[i % len(ink.DASHES)] if line else ""
        axes.plot([0, 1, 2], [0, 0, 0], ls=dash, color=ink.series(i), lw=2)
        axes.plot([1], [0], ink.MARKERS[i % len(ink.MARKERS)], color=ink.series(i), ms=7)
        axes.set_axis_off()

    drawing = ink.draw(f"swatch-{i}-{line:d}", "", 34, 14, paint, left=2, right=2, below=2)
    return Html(drawing.replace('role="img" aria-label=""', 'aria-hidden="true"'))
