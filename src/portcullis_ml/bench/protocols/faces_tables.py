"""The protocols on faces as Markdown: what the judge recognizes, what pictures look like, the contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from portcullis_ml.bench.protocols.contact_sheet import write_sheet
from portcullis_ml.bench.protocols.defended_tables import markdown
from portcullis_ml.measures.statistics import mean_over_seeds

__all__ = ["comparison", "drawn", "mean", "named"]

Records = Sequence[Mapping[str, Any]]
SHARES = {
    "recognized": "recognized by the judge",
    "nearest_mean": "own mean is nearest",
    "nearest_row": "nearest photograph is the person's",
}
LIKENESS = {"own_mean": "correlation with the own mean", "other_means": "with the others' means"}


def named(records: Records) -> dict[str, Records]:
    """The finished records of every row, in the order of the rows."""
    names = dict.fromkeys(r["attack"] for r in records)
    return {name: [r for r in records if r["attack"] == name and r["outcome"] == "done"] for name in names}


def comparison(title: str, records: Records) -> str:
    """A section with a row for every attack; the judge's and the victim's accuracy above it."""
    rows = named(records)
    done = [own for own in rows.values() if own]
    if not done:
        return f"## {title}\n"
    quality = "; ".join(
        f"{words} {mean(done[0], m, 100)}%"
        for m, words in {"victim_accuracy": "accuracy of the model on the judge's rows",
                         "judge_accuracy": "of the judge on the model's"}.items()
    )  # fmt: skip
    lines = [
        [name, bill(own), *(mean(own, m, 100) for m in SHARES), *(mean(own, m) for m in LIKENESS), ended(own)]
        for name, own in rows.items()
        if own
    ]
    head = ["", "queries", *(f"{words}, %" for words in SHARES.values()), *LIKENESS.values(), "descents ended by"]
    return (
        f"## {title}\n\nMeans [95% interval] over {len(done[0])} repetitions of all classes; {quality}.\n\n"
        + markdown(head, lines)
    )


def drawn(records: Records, path: Path) -> str:
    """Write the contact sheet of the first repetition; the words beneath it say what its rows are."""
    rows = [r for r in records if r["outcome"] == "done" and "pictures" in r["notes"]]
    if not rows:
        return ""
    write_sheet([r["notes"]["pictures"] for r in rows], path)
    said = "; ".join(f"{i}. {r['attack']}" for i, r in enumerate(rows, 1))
    return f"\n\n`{path.name}`, rows from the top: {said}. Every picture takes the whole range from black to white."


def mean(own: Records, measure: str, scale: float = 1.0) -> str:
    values = [r["measures"][measure]["value"] for r in own if measure in r["measures"]]
    if not values:
        return ""
    within = (0.0, 1.0) if scale == 100 else (-1.0, 1.0)
    e = mean_over_seeds(values, within=within)
    if scale == 100:
        return f"{100 * e.value:.0f} [{100 * e.low:.0f}, {100 * e.high:.0f}]"
    return f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"


def bill(own: Records) -> str:
    """Queries, the least and the greatest of the repetitions."""
    found = sorted({r["queries"] for r in own})
    return f"{found[0]:,}" + (f" to {found[-1]:,}" if len(found) > 1 else "")


def ended(own: Records) -> str:
    """What stopped how many descents."""
    sums: dict[str, int] = {}
    for r in own:
        for why, count in r["notes"].get("ended_by", {}).items():
            sums[why] = sums.get(why, 0) + count
    return ", ".join(f"{why} {count}" for why, count in sorted(sums.items()))
