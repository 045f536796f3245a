"""The protocols on defenses as Markdown: what was published in brackets beside what was measured here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from portcullis_ml.core.types import Estimate
from portcullis_ml.measures.statistics import mean_over_seeds, median_iqr

__all__ = ["document", "markdown", "page"]

Plan = Mapping[str, Any]
Record = Mapping[str, Any]
MATCHED, HELD_OUT = " [matched]", " [held out]"
FLAG = 0.10  # points between matched and held out from which a defense is said to hang on its outside rows
HONEST = {
    "accuracy": "accuracy without",
    "utility": "accuracy with",
    "accuracy_drop": "lost",
    "labels_changed": "labels changed",
    "l1": "L1 distance",
    "clean_calibration": "ECE without",
    "served_calibration": "ECE with",
}
RAW = ("l1", "distance", "entropy", "angle")  # figures that are no shares


def document(plan: Plan, records: Sequence[Record], *, quick: bool) -> str:
    """The whole page of a protocol on defenses."""
    return page(plan, [section for scene in plan["scene"] for section in _scene(plan, scene, records)], records, quick)


def page(plan: Plan, sections: Sequence[str], records: Sequence[Record], quick: bool) -> str:
    """A page: the command that makes it, what it is about, its sections, and why cells have no figure."""
    head = f"# {plan['protocol']} v{plan['version']}\n\n`portcullis bench run {plan['protocol']}{' --quick' * quick}`"
    warning = ["**A quick look: fewer rows, repetitions and epochs. Its figures stand for nothing.**"] * quick
    return "\n\n".join([head, *warning, plan["about"].strip(), *sections, *_failures(records)]) + "\n"


def _scene(plan: Plan, scene: str, records: Sequence[Record]) -> Iterator[str]:
    done = [r for r in records if r["cell"]["names"]["scene"] == scene and r["outcome"] == "done"]
    settings, budget = plan["scene"][scene], plan["budget"]
    yield f"## {settings['title']}"
    yield (
        f"Victim: {settings.get('victim', {}).get('network', plan['victim']['network'])}, {settings['victim_rows']:,} "
        f"rows; {settings['test_rows']:,} test rows judge. The pool: {settings['pool_rows']:,} rows of "
        f"{settings['pool']}. Outside rows: {settings['outside_rows']:,} others of {settings['pool']} (matched) or "
        f"{settings['outside_rows']:,} of {settings['outside']} (held out). {budget:,} queries each."
    )
    if not done:
        return
    yield "Accuracy of the copy in percent, median [quartiles] over n repetitions (published, where known):"
    yield _copies(plan, scene, done, "accuracy", published=True)
    yield "Agreement of the copy with the model that is served:"
    yield _copies(plan, scene, done, "agreement")
    if any(r["measures"]["altered"]["value"] for r in done if r["attack"] in plan["attackers"]):
        yield "Questions of each attacker that were answered otherwise than without the defense, in percent:"
        yield _copies(plan, scene, done, "altered")
    yield (
        "Honest clients, in percent (L1 apart); the 95% interval of the test rows, or of the trainings where there are "
        "several:"
    )
    yield _measures(done, "honest", HONEST)
    if facts := [r for r in done if r["attack"] == "facts"]:
        for kind, titles in plan["facts"].items():
            own = [r for r in facts if r["cell"]["attack"]["of"] == kind]
            if own:
                yield plan["facts_about"][kind]
                yield _measures(own, "facts", titles)
    yield "Each defense in one line:"
    yield _summary(plan, done)


def _copies(plan: Plan, scene: str, done: Sequence[Record], measure: str, *, published: bool = False) -> str:
    attackers = [a for a in plan["attackers"] if any(r["attack"] == a for r in done)]
    rows = []
    for defense in _defenses(done):
        cells = []
        for attacker in attackers:
            values = _values(done, defense, attacker, measure)
            known = _published(plan, scene, defense, attacker) if published else ""
            cells.append(f"{_percent(median_iqr(values))} n={len(values)}{known}" if values else "")
        rows.append([defense, *cells])
    return markdown(["defense", *(f"{a} ({plan['attackers'][a]['kind']})" for a in attackers)], rows)


def _published(plan: Plan, scene: str, defense: str, attacker: str) -> str:
    for row in plan["row"]:
        if row.get("name", row["defense"]) == defense.partition(" [")[0] and scene in row["scenes"]:
            if (figure := row.get("published", {}).get(scene, {}).get(attacker)) is not None:
                return f" (published {figure})"
    return ""


def _measures(records: Sequence[Record], attack: str, titles: Mapping[str, str]) -> str:
    """A row for each defense: the record's own interval, or the interval of several trainings."""
    rows = []
    for defense in _defenses(records):
        own = [r for r in records if r["defense"] == defense and r["attack"] == attack]
        if own:
            rows.append([defense, *(_several(own, name) for name in titles)])
    return markdown(["defense", *titles.values()], rows)


def _several(own: Sequence[Record], name: str) -> str:
    estimates = [r["measures"][name] for r in own if name in r["measures"]]
    if not estimates:
        return ""
    shown: Callable[[Estimate], str] = _plain if name in RAW else _percent
    if len(estimates) == 1:
        value, low, high = (math.nan if estimates[0][k] is None else estimates[0][k] for k in ("value", "low", "high"))
        return shown(Estimate(value, low, high, estimates[0]["n"]))
    mean = mean_over_seeds([e["value"] for e in estimates], within=(-1.0, 1.0) if name not in RAW else (0.0, 360.0))
    return f"{shown(mean)} n={len(estimates)}"


def _summary(plan: Plan, done: Sequence[Record]) -> str:
    """Honest cost, the best naive attacker, the best knowing one, and how far matched and held out are apart."""
    kinds = {kind: [a for a, how in plan["attackers"].items() if how["kind"] == kind] for kind in ("naive", "knowing")}
    rows = []
    for defense in _defenses(done):
        honest = [r for r in done if r["defense"] == defense and r["attack"] == "honest"]
        best = [_best(done, defense, kinds[kind]) for kind in ("naive", "knowing")]
        if honest and any(best):
            rows.append([defense, _several(honest, "accuracy_drop"), *best, _gap(plan, done, defense)])
    head = [
        "defense",
        "honest accuracy lost",
        "best naive copy",
        "best knowing copy",
        "held out less matched, greatest of the naive",
    ]
    return markdown(head, rows)


def _best(done: Sequence[Record], defense: str, attackers: Sequence[str]) -> str:
    found = {a: values for a in attackers if (values := _values(done, defense, a, "accuracy"))}
    if not found:
        return ""
    name = max(found, key=lambda a: median_iqr(found[a]).value)
    return f"{_percent(median_iqr(found[name]))} ({name}, n={len(found[name])})"


def _gap(plan: Plan, done: Sequence[Record], defense: str) -> str:
    """Points of accuracy that a naive attacker gains where the outside rows are of another source: the most of any."""
    if not defense.endswith(HELD_OUT):
        return ""
    found: dict[str, Estimate] = {}
    for attacker in (a for a, how in plan["attackers"].items() if how["kind"] == "naive"):
        held_out = _by_seed(done, defense, attacker)
        matched = _by_seed(done, defense.removesuffix(HELD_OUT) + MATCHED, attacker)
        if both := sorted(held_out.keys() & matched.keys()):
            found[attacker] = mean_over_seeds([held_out[s] - matched[s] for s in both], within=(-1.0, 1.0))
    if not found:
        return ""
    name = max(found, key=lambda a: abs(found[a].value))
    flag = ", **flag: depends on its outside rows**" * (abs(found[name].value) > FLAG)
    return f"{_percent(found[name])} ({name}, n={found[name].n}){flag}"


def _by_seed(done: Sequence[Record], defense: str, attacker: str) -> dict[int, float]:
    own = [r for r in done if r["defense"] == defense and r["attack"] == attacker]
    return {r["cell"]["seed"]: r["measures"]["accuracy"]["value"] for r in own}


def _values(done: Sequence[Record], defense: str, attacker: str, measure: str) -> list[float]:
    own = [r for r in done if r["defense"] == defense and r["attack"] == attacker]
    return [r["measures"][measure]["value"] for r in own if measure in r["measures"]]


def _defenses(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(r["defense"] for r in records))


def _failures(records: Sequence[Record]) -> list[str]:
    """Why cells have no figure, each reason once."""
    reasons: dict[str, list[str]] = {}
    for r in records:
        if r["outcome"] != "done":
            reasons.setdefault(f"{r['outcome']}: {r['reason']}", []).append(f"{r['attack']} behind {r['defense']}")
    lines = [f"- {why} ({', '.join(dict.fromkeys(who))})" for why, who in reasons.items()]
    return ["Not measured:\n\n" + "\n".join(lines)] if lines else []


def _percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"


def _plain(e: Estimate) -> str:
    return f"{e.value:.3g} [{e.low:.3g}, {e.high:.3g}]"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [list(head), ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
