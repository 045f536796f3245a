"""The Tramèr protocols as Markdown: what was published in brackets beside what was measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from portcullis_ml.core.types import Estimate
from portcullis_ml.measures.statistics import median_iqr

__all__ = ["document"]

Records = Sequence[Mapping[str, Any]]
FEW = 3  # repetitions below which quartiles say nothing, and the rows' own interval is shown


def document(plan: Mapping[str, Any], records: Records, *, quick: bool) -> str:
    """The whole page, with the command that makes it."""
    flag = " --quick" if quick else ""
    warning = "**A quick look: few victims, one repetition, fewer points. Its figures stand for little.**\n\n"
    return (
        f"# {plan['protocol']} v{plan['version']}\n\n`portcullis bench run {plan['protocol']}{flag}`\n\n"
        f"{warning if quick else ''}{plan['about'].strip()}\n\n"
        f"Agreement in percent on held-out rows (1 - R_test) and on {plan['points']:,} uniform points (1 - R_unif); "
        "R^TV is the mean total variation there. Median [quartiles] over n repetitions; below three repetitions the "
        f"95% interval of the first. Published figures in brackets.\n\n{_table(plan, records)}\n"
    )


def _table(plan: Mapping[str, Any], records: Records) -> str:
    head = ["victim", "inputs", "classes", "attack", "API", "queries", "n", "1 - R_test", "1 - R_unif", "R^TV_unif",
            "seconds", "remarks"]  # fmt: skip
    lines = [_line(head), _line(["---"] * len(head))]
    for row in plan["row"]:
        sizes = row.get("alpha") or row["budget"]
        for name in row["on"]:
            own = [r for r in records if r["attack"] == f"{row['name']} on {name}"]
            repetitions = row.get("repetitions", plan["repetitions"])
            for i, size in enumerate(sizes):
                same = own[i * repetitions : (i + 1) * repetitions]
                remarks = row.get("published", {}).get(name, [])
                lines.append(_row(plan, row, name, size, same, remarks[i] if i < len(remarks) else {}))
    return "\n".join(lines)


def _row(
    plan: Mapping[str, Any],
    row: Mapping[str, Any],
    name: str,
    size: float,
    records: Records,
    published: Mapping[str, Any],
) -> str:
    done = [r for r in records if r["outcome"] == "done"]
    spec = plan["victims"][name]
    attack = row["name"] + (f", alpha {size:g}" if "alpha" in row else "")
    shows = ", ".join(f"{v} {k}".replace("True ", "") if k != "reveals" else v for k, v in _shown(row).items())
    if not done:
        why = records[0] if records else {"outcome": "not run", "reason": ""}
        gap = [""] * 6
        return _line([spec["title"], "", "", attack, shows, *gap, f"{why['outcome']}: {why['reason']}"])
    queries = median_iqr([float(r["queries"]) for r in done])
    shown = [f"{queries.value:,.0f}{_told(published.get('queries'), '{:,}')}", str(len(done))]
    shown += [
        _percent(done, key) + _told(published.get(key), "{:.2f}", 100) for key in ("agreement", "agreement_uniform")
    ]
    shown += [_distance(done) + _told(published.get("tv_uniform"), "{:.0e}")]
    seconds = median_iqr([r["notes"]["seconds"] for r in done]).value
    d, c = done[0]["notes"]["d"], done[0]["notes"]["classes"]
    return _line(
        [spec["title"], str(d), str(c or "-"), attack, shows, *shown, f"{seconds:.1f}", _remarks(done, records)]
    )


def _shown(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"reveals": "probs", **row.get("interface", {})}


def _percent(done: Records, key: str) -> str:
    found = [r["measures"][key] for r in done if key in r["measures"]]
    if not found:
        return "withheld"
    if len(found) < FEW:
        e = found[0]
        return f"{100 * e['value']:.2f} [{100 * e['low']:.2f}, {100 * e['high']:.2f}]"
    estimate = median_iqr([e["value"] for e in found])
    return f"{100 * estimate.value:.2f} [{100 * estimate.low:.2f}, {100 * estimate.high:.2f}]"


def _distance(done: Records) -> str:
    found: list[float] = [r["measures"]["tv_uniform"]["value"] for r in done if "tv_uniform" in r["measures"]]
    if not found:
        return "-"
    estimate: Estimate = median_iqr(found)
    spread = f" [{estimate.low:.0e}, {estimate.high:.0e}]" if len(found) >= FEW else ""
    return f"{estimate.value:.1e}{spread}"


def _told(figure: Any, pattern: str, scale: float = 1) -> str:
    """The published figure in brackets; words stand as they are."""
    if figure is None:
        return ""
    return f" ({figure})" if isinstance(figure, str) else f" ({pattern.format(scale * figure)})"


def _remarks(done: Records, records: Records) -> str:
    notes = done[0]["notes"]
    remarks = []
    if notes.get("classes_on_uniform") == 1:
        remarks.append("the victim is constant on uniform points")
    if "victim_leaves" in notes:
        remarks.append(f"{notes['victim_leaves']} leaves")
    if "victim_thresholds" in notes:
        remarks.append(f"{notes['victim_thresholds']:,} thresholds")
    if "explained" in notes:
        held_out, uniform = (median_iqr([r["notes"]["explained"][i] for r in done]).value for i in (0, 1))
        remarks.append(f"R^2 {held_out:.4f} held-out, {uniform:.4f} uniform")
    if any(r["notes"].get("complete") for r in done):
        steps = median_iqr([r["notes"]["steps"] for r in done if r["notes"].get("complete")]).value
        remarks.append(f"complete in {sum(r['notes']['complete'] for r in done)} of {len(done)}, {steps:,.0f} steps")
    if "family" in notes:
        remarks.append(f"told as {notes['family']}")
    if stopped := {r["stopped"] for r in done} - {"done", "budget"}:
        remarks.append(f"stopped: {', '.join(sorted(stopped))}")
    if len(done) < len(records):
        bad = next(r for r in records if r["outcome"] != "done")
        remarks.append(f"{len(records) - len(done)} of {len(records)} {bad['outcome']}: {bad['reason']}")
    return "; ".join(remarks)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
