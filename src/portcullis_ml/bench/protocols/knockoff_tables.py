"""The studies of Knockoff as Markdown: published rows above measured ones, and differences paired by repetition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from portcullis_ml.bench.protocols.defended_tables import markdown
from portcullis_ml.core.types import Estimate
from portcullis_ml.measures.statistics import mean_over_seeds

__all__ = ["sections"]

Plan = Mapping[str, Any]
Record = Mapping[str, Any]
Own = Mapping[tuple[str, str], Sequence[Record]]  # (row, column) -> the records of its repetitions
CELLS = (
    "A cell: accuracy of the copy over that of its victim, mean [95% t interval over n repetitions], and in brackets "
    "the copy's accuracy and its agreement with the victim in percent, means. Rows in italics are published figures."
)


def sections(plan: Plan, records: Sequence[Record]) -> Iterator[str]:
    """A section for every table of the study, with what was measured so far."""
    yield CELLS
    for number, table in enumerate(plan["table"]):
        own: dict[tuple[str, str], list[Record]] = {}
        for r in records:
            names = r["cell"]["names"]
            if names["table"] == str(number) and r["outcome"] == "done":
                own.setdefault((names["row"], names["column"]), []).append(r)
        yield f"## {table['title']}"
        if "about" in table:
            yield table["about"].strip()
        if not own:
            continue
        yield _matrix(plan, table, own)
        if compared := list(_compared(table, own)):
            yield "Differences between recoveries, paired by repetition [95% t interval]:"
            yield markdown(["difference", "", "n", "the interval"], compared)
        first = str(table["columns"][0])
        for row in (row for row in table.get("by_class", ()) if (row, first) in own):
            yield f"Class by class, {row}, first column: percent, means over repetitions."
            yield _by_class(table, own[row, first])


def _matrix(plan: Plan, table: Plan, own: Own) -> str:
    columns = [str(c) for c in table["columns"]]
    titles = table.get("column_titles", {})
    rows = []
    for published in table.get("published", ()):
        figures = [published.get(c, "") for c in ("victim", *columns)]
        rows.append([f"*{published['name']}*", *(f"*{figure}*" if figure else "" for figure in figures)])
    for name in dict.fromkeys(row for row, _ in own):
        done = {c: own[name, c] for c in columns if (name, c) in own}
        accuracy = _mean([r for records in done.values() for r in records], "victim_accuracy")
        rows.append([name, f"{100 * accuracy:.1f}", *(_cell(done[c]) if c in done else "" for c in columns)])
    return markdown([table.get("rows_are", ""), "victim", *(titles.get(c, c) for c in columns)], rows)


def _cell(records: Sequence[Record]) -> str:
    e = mean_over_seeds([r["measures"]["recovery"]["value"] for r in records], within=(0.0, float("inf")))
    others = "; ".join(f"{100 * _mean(records, name):.1f}" for name in ("accuracy", "agreement"))
    return f"{e.value:.2f}x [{e.low:.2f}, {e.high:.2f}] ({others}) n={e.n}"


def _mean(records: Sequence[Record], measure: str) -> float:
    return float(sum(r["measures"][measure]["value"] for r in records) / len(records))


def _compared(table: Plan, own: Own) -> Iterator[list[str]]:
    """Columns against one another in every row, and rows against one another in every column."""
    rows, columns = dict.fromkeys(row for row, _ in own), [str(c) for c in table["columns"]]
    pairs = [(f"{plus} less {less}: {row}", (row, plus), (row, less))
             for plus, less in table.get("compare_columns", ()) for row in rows]  # fmt: skip
    pairs += [(f"{plus} less {less}: {column}", (plus, column), (less, column))
              for plus, less in table.get("compare_rows", ()) for column in columns]  # fmt: skip
    for title, plus, less in pairs:
        if plus in own and less in own and (e := _paired(own[plus], own[less])).n:
            where = "is above 0" if e.low > 0 else "is below 0" if e.high < 0 else "holds 0: not settled"
            yield [title, f"{e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}]", str(e.n), where]


def _paired(plus: Sequence[Record], less: Sequence[Record]) -> Estimate:
    first, second = ({r["cell"]["seed"]: r["measures"]["recovery"]["value"] for r in own} for own in (plus, less))
    return mean_over_seeds([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])


def _by_class(table: Plan, records: Sequence[Record]) -> str:
    """Every class's accuracy in victim and copy, and the ratio; recoveries of the means, with the spread of seeds."""
    known: Mapping[str, Sequence[float]] = table.get("published_classes", {})
    names = records[0]["notes"]["class_names"]
    rows = []
    for i, name in enumerate(names):
        victim, copy = ([r["notes"][f"{who}_by_class"][i] for r in records] for who in ("victim", "copy"))
        ratios = [c / v for c, v in zip(copy, victim, strict=True) if v]
        e = mean_over_seeds(ratios, within=(0.0, float("inf")))
        measured = [f"{100 * sum(who) / len(who):.1f}" for who in (victim, copy)]
        published = (
            [f"{known[name][0]} -> {known[name][1]} ({known[name][2]}x)"] if name in known else [""] * bool(known)
        )
        rows.append([name, *published, *measured, f"{e.value:.2f}x [{e.low:.2f}, {e.high:.2f}] n={e.n}"])
    head = ["class", *(["published"] if known else []), "victim", "copy", "recovery"]
    return markdown(head, rows)
