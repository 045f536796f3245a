"""The page of measured curves: fidelity by queries for every attack, from the records that are kept."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from portcullis_ml.measures.statistics import median_iqr

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
FEW = 3  # repetitions below which a row's own 95% interval is shown
ABOUT = """# Measured: fidelity by queries

Agreement in percent with the victim on held-out rows and on uniform points, by what was paid: median [quartiles] over n
repetitions, below three the first one's 95% interval. No defense stands in between. Made from the records in
[benchmarks/results](../../benchmarks/results); the pages in [results](../results) have the settings, the published
figures and what they mean. Agreement on uniform points says little where the victim gives nearly all of them one class.
"""
Key = tuple[str, str, str, int]  # protocol, victim, way, budget


def measured() -> str:
    """The whole page, a section for each attack that has records."""
    found: dict[str, dict[Key, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for protocol, record in _records():
        cell = record["cell"]
        attack, _, victim = record["attack"].partition(" on ")
        title = cell["extra"].get("victim", {}).get("title") or victim or cell["names"].get("scene")
        title = title or "the protocol's victim"
        found[cell["attack"]["unit"]][protocol, title, attack, cell["budget"]].append(record)
    parts = [ABOUT]
    for unit in sorted(found):
        parts.append(f"\n## {unit}\n\n| protocol | victim | way | queries | n | held-out rows | uniform points |\n")
        parts.append("| --- " * 7 + "|\n")
        parts += [_line(key, found[unit][key]) for key in sorted(found[unit])]
    return "".join(parts)


def _records() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(RESULTS.glob("*/records.jsonl")):
        for line in file.read_text().splitlines():
            record = json.loads(line)
            bare = not (record["cell"].get("defense") or record["cell"].get("hardening"))
            bare = bare and "trained" not in record["cell"]["victim"]  # a group of models, each copied in one cell
            if (
                bare
                and record["outcome"] == "done"
                and record["role"] == "attack"
                and "agreement" in record["measures"]
            ):
                yield file.parent.name, record


def _line(key: Key, records: Sequence[dict[str, Any]]) -> str:
    protocol, victim, way, _ = key
    queries = median_iqr([float(r["queries"]) for r in records]).value
    shown = [_percent([r["measures"][m] for r in records if m in r["measures"]])
             for m in ("agreement", "agreement_uniform")]  # fmt: skip
    cells = [f"[{protocol}](../results/{protocol}.md)", victim, way, f"{queries:,.0f}", str(len(records)), *shown]
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |\n"


def _percent(measures: Sequence[dict[str, Any]]) -> str:
    if not measures:
        return "-"
    first = measures[0]
    value, low, high = first["value"], first["low"], first["high"]
    if len(measures) >= FEW:
        middle = median_iqr([m["value"] for m in measures])
        value, low, high = middle.value, middle.low, middle.high
    return f"{100 * value:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
