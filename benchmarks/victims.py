"""Every everyday victim that can be built here: what Portcullis measures beside what plain library calls give.

    python benchmarks/victims.py [--only WORD] [--out docs/victims.md]

A victim is built with its own library, `portcullis inspect` says what it is taken for, and `portcullis extract` steals
it once (knockoff, a pool of the same kind, a random forest as the copy, seed 0). Beside the two figures stand two
without Portcullis: the labels that the library itself gives for the test rows against their true labels, and against
those that the copy gives when it is read by skops. A kind whose library is absent says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from victims_made import TEST, VICTIMS, Victim, people, rows_of, write_rows

BUDGET = 300
COLUMNS = ("victim", "taken for", "n", "accuracy", "by its library", "agreement of the copy", "by hand")


class Row(NamedTuple):
    """One victim: shares of n test rows, each as Portcullis says and as plain calls give; `absent` names packages."""

    name: str
    taken: str = ""
    n: int = 0
    accuracy: float = 0.0
    own_accuracy: float = 0.0
    agreement: dict[str, float] | None = None
    own_agreement: float = 0.0
    absent: str = ""

    def cells(self) -> list[str]:
        if self.agreement is None:
            return [self.name, f"not installed: {self.absent}", *["-"] * 5]
        found = self.agreement
        span = f"{100 * found['value']:.1f}% [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
        mine = [
            f"{100 * self.accuracy:.1f}%",
            f"{100 * self.own_accuracy:.1f}%",
            span,
            f"{100 * self.own_agreement:.1f}%",
        ]
        return [self.name, self.taken, str(self.n), *mine]

    @property
    def same(self) -> bool:
        """Whether both figures are those of the plain calls, to the row."""
        shares = [(self.accuracy, self.own_accuracy), (self.agreement or {"value": 0.0})["value"], self.own_agreement]
        return abs(shares[0][0] - shares[0][1]) < 1e-9 and abs(shares[1] - shares[2]) < 1e-9  # type: ignore[index, operator]


def told(*words: str) -> dict[str, Any]:
    """What a command prints as JSON."""
    found = CliRunner().invoke(app, [*words, "--json"])
    if found.exit_code:
        raise SystemExit(f"portcullis {' '.join(words)}\n{found.output}")
    return json.loads(found.stdout)  # type: ignore[no-any-return]


def measured(name: str, victim: Victim) -> Row:
    """The victim's row, in the folder that holds its files."""
    suffix = "csv" if victim.rows == "people" else "npz"
    given = [
        "--victim",
        victim.spec,
        "--test",
        f"{victim.rows}-test.{suffix}",
        "--pool",
        f"{victim.rows}-pool.{suffix}",
    ]
    given += [*(["--target", "label"] if suffix == "csv" else []), *victim.options]
    inspected = told("inspect", *given)
    out = f"out-{len(list(Path().glob('out-*')))}"
    learner = ["--learner", "sklearn(estimator=forest)"]
    stolen = told("extract", "knockoff", *given, "--budget", str(BUDGET), *learner, "--out", out)
    measures = stolen["record"]["measures"]
    if suffix == "csv":
        table = people()
        test = table[TEST(len(table))]
        y = (test["label"] == "yes").to_numpy().astype(int)
        x = coded(test, inspected["columns"])
    else:
        x, y = (part[TEST(len(part))] for part in rows_of(victim.rows))
        x = x / 255.0 if x.dtype == np.uint8 else x
    copy = by_hand(stolen["surrogate"], x.reshape(len(x), -1))
    return Row(
        name, inspected["understood"]["victim"]["taken"].partition(": ")[2], len(y),
        measures["victim_accuracy"]["value"], float((victim.own == y).mean()),
        measures["agreement"], float((copy == victim.own).mean()),
    )  # fmt: skip


def coded(table: Any, columns: list[dict[str, Any]]) -> np.ndarray:
    """A table as its copy takes it: of each column its number, or the place of its word among those that are named."""
    parts = []
    for column in columns:
        values = table[column["name"]]
        words = [w.strip() for w in column["values"].split(",")] if column["kind"] == "category" else []
        parts.append(values.astype(str).map({w: j for j, w in enumerate(words)}) if words else values)
    return np.column_stack(parts).astype(float)


def by_hand(path: str, x: np.ndarray) -> np.ndarray:
    """The copy's labels, without Portcullis."""
    import skops.io

    return np.asarray(skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path)).predict(x))


def table_of(rows: list[Row]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    said = []
    for name in (
        "scikit-learn",
        "onnxruntime",
        "torch",
        "xgboost-cpu",
        "lightgbm",
        "catboost",
        "keras",
        "tensorflow-cpu",
        "transformers",
    ):
        try:
            said.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(said)


HEAD = """# Every kind of victim, measured twice

Written by `python benchmarks/victims.py --out docs/victims.md`, here with {versions}.

Each victim is built by its own library on half of the rows, is taken for what `portcullis inspect` says, and is
stolen once by `portcullis extract knockoff --budget {budget}` (a pool of the same kind, a random forest as the copy,
one seed; the interval is of the n test rows). *By its library* is the accuracy of the labels that the library's own
predict gives for the same rows; *by hand* compares these with the labels of the copy, read by skops alone. Each pair
must be the same to the row: {same} of {done} are{missed}. The copies are small on purpose; how well a victim can be
stolen is the audit's question. How to bring each kind: [bring your own model](bring-your-own-model.md).

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="kinds whose name holds this word")
    parser.add_argument("--out", type=Path, help="write the page there; printed otherwise")
    asked = parser.parse_args()
    out = asked.out.resolve() if asked.out else None
    if importlib.util.find_spec("tensorflow") is None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        sys.path.insert(0, name)
        write_rows(folder)
        for kind, (packages, make) in VICTIMS.items():
            if asked.only.lower() not in kind.lower():
                continue
            absent = [package for package in packages if importlib.util.find_spec(package) is None]
            rows.append(Row(kind, absent=", ".join(absent)) if absent else measured(kind, make(folder)))
            print(" | ".join(rows[-1].cells()), file=sys.stderr, flush=True)
        os.chdir("/")
    done = [row for row in rows if row.agreement is not None]
    same = [row for row in done if row.same]
    missed = "" if len(same) == len(done) else f"; not {', '.join(r.name for r in done if not r.same)}"
    page = (
        HEAD.format(versions=versions(), budget=BUDGET, same=len(same), done=len(done), missed=missed)
        + table_of(rows)
        + "\n"
    )
    if out is None:
        print(page)
    else:
        out.write_text(page)


if __name__ == "__main__":
    main()
