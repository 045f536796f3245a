"""Published beside measured, as Markdown tables: medians with quartiles over repetitions, as the papers plot them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from portcullis_ml.core.types import Estimate
from portcullis_ml.measures.statistics import clopper_pearson, median_iqr

__all__ = ["attack_table", "detector_table", "document"]

Records = Sequence[Mapping[str, Any]]


def document(plan: Mapping[str, Any], facts: Mapping[str, Any], *tables: str) -> str:
    """The whole page, with the command that makes it."""
    quick = " --quick" if facts["quick"] else ""
    warning = (
        "**A quick look: fewer rows, repetitions and epochs. Its figures stand for nothing.**\n\n" if quick else ""
    )
    split = (
        f"Victim: {plan['victim']['network']}, {facts['victim_rows']:,} rows, {plan['victim']['epochs']} epochs, "
        f"test accuracy {100 * facts['victim_accuracy']:.1f}% (n={facts['test_rows']:,}). Adversary set: "
        f"{facts['adversary_rows']:,} rows. Agreement on {facts['exam_rows']:,} rows ({plan['agreement_on']})."
    )
    title = f"# {plan['protocol']} v{plan['version']}\n\n`portcullis bench run {plan['protocol']}{quick}`\n\n"
    return title + warning + split + "\n\n" + "\n\n".join(tables) + "\n"


def attack_table(plan: Mapping[str, Any], records: Records) -> str:
    """What was stolen: a row for every attack and strategy; percent, median [quartiles] over repetitions."""
    columns = [
        "macro_f_seeds",
        "macro_f",
        "macro_f_held_out",
        "transfer_seeds",
        "transfer",
        "transfer_noise",
        "untargeted",
    ]
    done = [r for r in records if r["cell"]["role"] == "attack" and r["outcome"] == "done"]
    columns = [c for c in TITLES if any(c in r["measures"] for r in done)]
    lines = [
        "Fidelity and transferability in percent: median [quartiles] over n repetitions (published, where known).",
        "",
        _line(["attack", "strategy", "queries", "n", *(TITLES[c] for c in columns)]),
        _line(["---"] * (4 + len(columns))),
    ]
    for row in plan["row"]:
        own = [r for r in done if r["attack"] == f"{row['name']} {row['strategy']}"]
        if not own:
            continue
        cells = []
        for column in columns:
            values = [r["measures"][column]["value"] for r in own if column in r["measures"]]
            cells.append(_percent(median_iqr(values)) + _published(row["published"].get(column)) if values else "")
        queries = sorted({r["queries"] for r in own})
        lines.append(_line([row["name"], row["strategy"], " ".join(f"{q:,}" for q in queries), str(len(own)), *cells]))
    return "\n".join(lines + _failures(records))


TITLES = {
    "macro_f_seeds": "F, seeds only",
    "macro_f": "F-agreement",
    "macro_f_held_out": "F, held-out rows",
    "transfer_seeds": "targeted, seeds only",
    "transfer": "targeted transfer",
    "transfer_noise": "noise of that size",
    "untargeted": "untargeted transfer",
}


def detector_table(plan: Mapping[str, Any], records: Records) -> str:
    """When each detector raised its alarm: queries until the first alarm, and chunks of 50 with an alarm."""
    detectors = list(plan["detectors"])
    thresholds = next(r["cell"]["extra"]["thresholds"] for r in records)
    limits = ", ".join(f"{d} {thresholds[d]:g}" for d in detectors)
    head = [
        "stream",
        "streams",
        *(f"{d}: first alarm" for d in detectors),
        *(f"{d}: chunks" for d in detectors),
        "40 accounts flagged",
    ]
    lines = [
        f"Detection. Thresholds ({limits}) were set on {plan['streams']['count']} honest streams from "
        f"{plan['streams']['calibration']} alone, a tenth above the loudest. First alarm: median [quartiles] in "
        "queries; chunks: share of chunks of 50 queries with an alarm, 95% Clopper-Pearson.",
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    published = {f"{r['name']} {r['strategy']}": r["published"].get("prada") for r in plan["row"]}
    for name in dict.fromkeys(r["attack"] for r in records if r["outcome"] == "done"):
        own = [r for r in records if r["attack"] == name and r["outcome"] == "done"]
        role = {"honest": " (honest)", "control": " (unseen thief)"}.get(own[0]["cell"]["role"], "")
        cells = [_first(own, d) + (_published(published.get(name), 1) if d == "prada" else "") for d in detectors]
        cells += [_chunks(own, d) for d in detectors]
        lines.append(
            _line(
                [name + role, str(len(own)), *cells, " / ".join(filter(None, (_accounts(own, d) for d in detectors)))]
            )
        )
    return "\n".join(lines)


def _first(own: Records, detector: str) -> str:
    rows = [next((a["row"] for a in r["alarms"] if a["stage"] == detector), math.inf) for r in own]
    estimate = median_iqr([float(row) for row in rows])
    seen = sum(map(math.isfinite, rows))
    if seen == 0:
        return "never"
    if not math.isfinite(estimate.value):
        return f"never in {len(own) - seen} of {len(own)}, earliest at {min(rows):.0f}"
    return f"{_row(estimate.value)} [{_row(estimate.low)}, {_row(estimate.high)}]" + f" in {seen} of {len(own)}" * (
        seen < len(own)
    )


def _row(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "never"


def _chunks(own: Records, detector: str) -> str:
    estimates = [r["measures"][f"chunks_{detector}"] for r in own]
    total = sum(e["n"] for e in estimates)
    return _percent(clopper_pearson(round(sum(e["value"] * e["n"] for e in estimates)), total)) + f" (n={total})"


def _accounts(own: Records, detector: str) -> str:
    estimates = [r["measures"][f"accounts_{detector}"] for r in own if f"accounts_{detector}" in r["measures"]]
    total = sum(e["n"] for e in estimates)
    return f"{detector} {100 * sum(e['value'] * e['n'] for e in estimates) / total:.1f}% of {total}" if total else ""


def _failures(records: Records) -> list[str]:
    bad = [r for r in records if r["outcome"] != "done"]
    return ["", f"{len(bad)} cells did not finish; the first says: {bad[0]['reason']}"] if bad else []


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _published(figure: float | list[float] | None, scale: float = 100) -> str:
    if figure is None:
        return ""
    shown = [f"{scale * f:.4g}" for f in (figure if isinstance(figure, list) else [figure])]
    return f" (published {' to '.join(shown)})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
