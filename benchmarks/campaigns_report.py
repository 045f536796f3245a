"""The tables of `campaigns.py` from its records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from portcullis_ml.measures.statistics import clopper_pearson

WORDS = {
    "account": "each account's detector",
    "principal": "policy-linked principal",
    "seen": "links that are seen",
    "rate": "`call_rate`, each account",
    "rate, principal": "`call_rate`, principal",
}
Record = dict[str, Any]
Key = tuple[str, str, int, str]


def tables(records: list[Record]) -> Iterator[str]:
    """All tables, least favourable rows first."""
    cells: dict[Key, list[Record]] = defaultdict(list)
    for r in records:
        if "attack" in r:
            cells[r["attack"], r["variant"], r["accounts"], r["order"]].append(r)
    yield f"{len(cells)} campaigns, n seeds each. Settings: {settings(records)}"
    yield ""
    yield from aim(cells)
    yield ""
    yield from campaigns(cells)
    yield ""
    yield from curves(cells)
    yield ""
    yield from honest(records, cells)


def settings(records: list[Record]) -> str:
    held = next(r for r in records if "linkage" in r)
    said = {k: held["linkage"][k] for k in ("near", "flat", "rate", "alpha", "window", "cap")} | held["thresholds"]
    return ", ".join(f"{k} {v:.4g}" for k, v in said.items()) + f", rows {held['rows']}."


def half(record: Record) -> tuple[float, int]:
    """Half of what the undefended copy agrees on in the end, and the first row of the curve that reaches it."""
    curve = {n: record["curve"][str(n)] for n in (10, 20, 30, 50, 75, 100, 200, 400, 800, 1_600)}
    goal = curve[max(curve)] / 2
    return goal, min(n for n, a in curve.items() if a >= goal)


def aim(cells: dict[Key, list[Record]]) -> Iterator[str]:
    """Was a campaign of 64 accounts called before what gives half of the undefended agreement?"""
    yield "| 64 accounts | n | half of the undefended agreement | reached at row | answered beside seen links | aim |"
    yield "| --- | --- | --- | --- | --- | --- |"
    found = []
    for (attack, variant, accounts, order), held in cells.items():
        if accounts == 64:
            goals, rows = zip(*map(half, held), strict=True)
            answered = [r["by"]["seen"]["rows"] for r in held]
            never = sum(n == 1_600 for n in answered)
            called = "never" if never == len(held) else f"{span(answered)}{f', {never} never' if never else ''}"
            met = all(n < row for n, row in zip(answered, rows, strict=True))
            line = f"| {attack}, {variant}, {order} | {len(held)} | {span(goals, percent)} | {span(rows)} | {called} |"
            found.append((np.mean(answered), f"{line} {'reached' if met else 'missed'} |"))
    yield from (line for _, line in sorted(found, key=lambda f: (-f[0], f[1])))


def campaigns(cells: dict[Key, list[Record]]) -> Iterator[str]:
    """Rows answered of 1,600, and what the copy agrees on then, by defender."""
    yield "Rows answered of 1,600 (mean, in brackets the least and the most), and what the copy agrees on then (mean):"
    yield ""
    yield f"| thief | accounts | order | n | undefended | {' | '.join(WORDS.values())} |"
    yield "|" + " --- |" * (len(WORDS) + 5)
    found = []
    for (attack, variant, accounts, order), held in cells.items():
        end = np.mean([r["curve"]["1600"] for r in held])
        parts = [f"{attack}, {variant}", str(accounts), order if accounts > 1 else "", str(len(held)), percent(end)]
        for name in WORDS:
            rows, agrees = ([r["by"][name][what] for r in held] for what in ("rows", "agrees"))
            parts.append(f"{span(rows)}: {percent(np.mean(agrees))}")
        seen = np.mean([r["by"]["seen"]["rows"] for r in held])
        found.append((-seen, attack, variant, accounts, order, f"| {' | '.join(parts)} |"))
    yield from (line for *_, line in sorted(found))


def curves(cells: dict[Key, list[Record]]) -> Iterator[str]:
    """The undefended copy by rows, over the seeds."""
    rows = ("10", "20", "50", "100", "200", "400", "800", "1600")
    yield f"| undefended copy after rows | n | {' | '.join(rows)} |"
    yield "|" + " --- |" * (len(rows) + 2)
    of_thief: dict[tuple[str, str], dict[int, Record]] = defaultdict(dict)
    for (attack, variant, _, _), held in sorted(cells.items()):
        of_thief[attack, variant] |= {r["seed"]: r["curve"] for r in held}
    for (attack, variant), of_seed in of_thief.items():
        parts = [percent(np.mean([curve[n] for curve in of_seed.values()])) for n in rows]
        yield f"| {attack}, {variant} | {len(of_seed)} | {' | '.join(parts)} |"


def honest(records: list[Record], cells: dict[Key, list[Record]]) -> Iterator[str]:
    """How many honest clients were linked or called: without a thief, beside one, and pairs that do belong together."""
    alone = [r for r in records if "population" in r]
    clients = 10 * len(alone)
    yield "| honest clients | linked or called | of | exact 95% interval | at most, at 95% |"
    yield "| --- | --- | --- | --- | --- |"
    beside = [r for held in cells.values() for r in held]
    rows = [
        ("linked by what is seen, no thief", sum(len(r["linked"]) for r in alone), clients),
        ("called by links that are seen, no thief", sum(len(r["seen"]) for r in alone), clients),
        ("populations of ten in which anyone is called", sum(bool(r["seen"]) for r in alone), len(alone)),
        ("called by their own detector, no thief", sum(len(r["account"]) for r in alone), clients),
        ("called by `call_rate`, no thief", sum(len(r["rate"]) for r in alone), clients),
        (
            "clients called beside at least one thief",
            len({(r["seed"], who) for r in beside for who in r["called"]}),
            10 * len({r["seed"] for r in beside}),
        ),
        ("linked beside a thief, by campaign", sum(len(r["honest"]) for r in beside), 10 * len(beside)),
        ("called beside a thief, by campaign", sum(len(r["called"]) for r in beside), 10 * len(beside)),
    ]
    for words, count, n in rows:
        e, top = clopper_pearson(count, n), clopper_pearson(count, n, sided="upper")
        yield f"| {words} | {count} | {n} | [{100 * e.low:.2f}%, {100 * e.high:.2f}%] | {100 * top.high:.2f}% |"
    alike = [r for r in records if "alike" in r]
    for kind in ("one clock", "one camera", "one pipeline"):
        for what in ("linked", "called"):
            count = sum(r[kind][what] for r in alike)
            e = clopper_pearson(count, len(alike))
            name = f"pairs that share {kind}, {what}"
            yield f"| {name} | {count} | {len(alike)} | [{100 * e.low:.1f}%, {100 * e.high:.1f}%] | |"


def span(values: Any, say: Callable[[float], str] = lambda v: f"{v:,.0f}") -> str:
    """The mean, and in brackets the least and the greatest where they differ."""
    low, mean, high = min(values), float(np.mean(values)), max(values)
    return say(mean) if low == high else f"{say(mean)} [{say(low)}, {say(high)}]"


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"
