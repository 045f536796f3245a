"""Records: one JSON line for every finished cell, in `<out>/records.jsonl`.

Lines are only ever appended, each is on disk before the next cell is taken, and a line torn by a
crash is dropped on reading. When an id stands twice, the later line holds.

A record:

    id            the cell's hash, 16 hex digits
    cell          the cell itself (see cell.py): victim, data, interface, attack, defense, budget, seed, ...
    role          "attack" | "control" | "honest" | "privacy"
    attack        the attack as people write it: "knockoff", "jb_top3"; controls are named "no_api",
                  "own_labels", "random_queries", "plain_stranger", "shuffled"; an honest client is "honest". An attack
                  that looks at the labels only has " (labels only)" behind its name, and "uses" in its cell
    defense       the guard as people write it: "none", "label_only", "rounding(decimals=2) + top_k(k=1)"
    outcome       "done" | "not applicable" | "refused" | "failed"
    reason        one sentence unless done, else ""
    measures      name -> estimate, {"value", "low", "high", "n", "level", "unit"}; a fraction in [0, 1] unless said.
                  attack, control  agreement, macro_f_agreement, accuracy, agreement_uniform (R_unif on uniform
                                   points), tv_natural, tv_uniform, those of measures/fidelity.py (balanced_agreement,
                                   rank_correlation, ...; records made before them lack them) and, where they were
                                   asked for, transfer_*
                  privacy          tpr_at_1_percent, tpr_at_0.1_percent (members found at that false positive rate),
                                   ppv_at_prior_*, precision_of_top_100, balanced_accuracy, auc
                  honest           utility (accuracy kept behind the guard), accuracy (without the guard), tv (how far
                                   probabilities move), labels_changed, false_alarm (chunks of 50 rows with an alarm),
                                   unexplained (explanations withheld or changed), ...: see measures/utility.py
    classes       list, one estimate of recovery for every class (None where a class is not in the test set)
    curve         [{"queries": 100, "measures": {"agreement": estimate, ...}}, ...], by growing number of queries
    queries       rows paid for
    seconds       how long the cell took
    stopped       "done" | "budget" | the guard's reason
    alarms        [{"stage": "0-watch", "row": 71, "suspicion": 0.9}, ...]: first alarms, rows counted from 1
    flags         [{"id": "pool_overlaps_training", "detail": "12 of 400 rows"}, ...]: ids of flags.FLAGS
    threat_model  {"answers": "probs", "data": "pool of 600", "accounts": 1, "knows_defense": False, ...};
                  "outside_rows" says where the rows come from that its defense was trained with (see outside.py)
    versions      {"portcullis": ..., "python": ..., "numpy": ..., "torch": ...}
    notes         what the attack reports of its run; "right": a bit for every test row, in hexadecimal, whether the
                  copy agrees there; "right_on_the_way": the same for every point of the curve but the last; "asked":
                  pictures of the questions, see asked.py; of the control no_api "victim":
                  the victim's own class of every test row; of honest
                  clients "guard_seconds": an estimate, how long the guard took for an answer
    then          what was done with the copy, link by link: [{"name": "loss_threshold", "outcome", "reason",
                  "kind": "privacy" | "extraction" | "evasion" | "ownership", "measures", "notes"}, ...]; of an
                  examination "queries_to_convict" and "queries_to_convict_at_most", by the share of matches and by its
                  95% lower bound (null where no number would do)
    final         False when another run may fare better (a crash, an unreachable host): such a cell is run again

A measure without a value (NaN) is left out, an infinite bound is null: every line is strict JSON.

What is said of a run as a whole stands beside the records in `<out>/meta.json`, and is what the report is given:

    title         "digits", or the name of the victim's file
    command       the command line that makes it again
    victim        {"name", "sha256", "accuracy": estimate or null}
    data          {"name", "sha256", "split": sentence, "test": rows, "pool": rows, "seeds": rows}
    interface     {"reveals", "input_shape", "n_classes", "classes": [name, ...] or null, ...}
    deployed      the defense that `--fail-over` is measured under, as people write it
    fail_over     the limit of `--fail-over`, a fraction, or null
    experiment    the options that name victim and rows, as far as they are no folders of this machine
    cells         [{"id", "names"}, ...]: the records of this run, in order; the file may hold those of others
    cap           accuracy that honest clients may lose at most behind a defense that is recommended, as a fraction
    measure       {"name", "why"}: by which measure the verdict goes, and a sentence that says why; see measure.py
    quick         whether this was a quick look (fewer seeds and rows than a claim needs)
    started       ISO time;  seconds: on the clock;  seeds, budgets, jobs, device, versions
    authorised_by who says that the victim may be attacked
    flags         [{"id", "where", "detail"}, ...]: all that were raised, those that compare cells too; `where` is
                  "attack | defense", a defense, or "audit"
    flag_texts    id -> {"title", "raised_if", "why", "what_to_do"}, of every flag that there is
    notes         further sentences
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.ledger import disk_full, no_room
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Estimate

__all__ = ["Outcome", "Record", "RecordFile", "plain_estimate", "read_records", "versions"]

Outcome = Literal["done", "not applicable", "refused", "failed"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What became of one cell. The module's docstring says what every field holds."""

    cell: Cell
    outcome: Outcome = "done"
    reason: str = ""
    measures: Mapping[str, Estimate] = field(default_factory=dict)
    classes: tuple[Estimate | None, ...] = ()
    curve: tuple[tuple[int, Mapping[str, Estimate]], ...] = ()
    queries: int = 0
    seconds: float = 0.0
    stopped: str = "done"
    alarms: tuple[Mapping[str, Any], ...] = ()
    flags: tuple[Mapping[str, str], ...] = ()
    threat_model: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    then: tuple[Mapping[str, Any], ...] = ()
    final: bool = True

    def to_json(self) -> dict[str, Any]:
        named = {"attack": self.cell.attack_name, "defense": self.cell.defense_name, "role": self.cell.role}
        plain = {
            "measures": _measured(self.measures),
            "classes": [None if e is None or math.isnan(e.value) else plain_estimate(e) for e in self.classes],
            "curve": [{"queries": q, "measures": _measured(m)} for q, m in self.curve],
            "alarms": [dict(a) for a in self.alarms],
            "flags": [dict(f) for f in self.flags],
            "then": [{**link, "measures": _measured(link["measures"])} for link in self.then],
        }
        rest = ("outcome", "reason", "queries", "seconds", "stopped", "threat_model", "versions", "notes", "final")
        copied = {name: getattr(self, name) for name in rest}
        return {"id": self.cell.id, **named, "cell": self.cell.to_json(), **copied, **plain}


class RecordFile:
    """`records.jsonl` of a run: read once, then appended to, one line and one fsync for every record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records = {r["id"]: r for r in read_records(path)} if path.exists() else {}

    @property
    def finished(self) -> set[str]:
        """Ids that need not run again."""
        return {i for i, r in self._records.items() if r["final"]}

    def __getitem__(self, id: str) -> dict[str, Any]:
        return self._records[id]

    def __contains__(self, id: object) -> bool:
        return id in self._records

    def append(self, record: Mapping[str, Any]) -> None:
        """On return the line is on disk; on DiskFull the file is as it was."""
        line = json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with self.path.open("ab", buffering=0) as file:  # a buffer would be written again when a full file closes
            end = _after_last_line(self.path)
            file.truncate(end)
            try:
                while line:
                    line = line[file.write(line) or 0 :]
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(end)
                if no_room(error):
                    raise disk_full(self.path, f"{len(self._records)} records") from error
                raise
        self._records[record["id"]] = dict(record)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Every record in the file, the later one where an id stands twice; a torn last line is left out."""
    found: dict[str, dict[str, Any]] = {}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline was never finished
        try:
            record = json.loads(line)
            found[record["id"]] = {"final": True, **record}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path.name} was expected to hold one JSON record in every line; line {number} does not. Remove it."
            ) from error
    return list(found.values())


def plain_estimate(estimate: Estimate) -> dict[str, Any]:
    """An estimate as strict JSON: a bound that is not finite is null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(estimate).items()}


def _measured(measures: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: plain_estimate(e) for name, e in measures.items() if not math.isnan(e.value)}


def versions(packages: Iterable[str] = ("numpy", "scipy", "sklearn", "torch", "lightgbm", "xgboost")) -> dict[str, str]:
    """Of Portcullis, Python, this platform and those packages that are loaded: nothing is imported for it."""
    from portcullis_ml import __version__

    loaded = {p: sys.modules[p].__version__ for p in packages if p in sys.modules}
    return {"portcullis": __version__, "python": platform.python_version(), "machine": platform.machine(), **loaded}


def _after_last_line(path: Path) -> int:
    """Where the last whole line ends: a torn one behind it is overwritten."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        while size:
            step = min(size, 1 << 16)
            file.seek(size - step)
            found = file.read(step).rfind(b"\n")
            if found >= 0:
                return size - step + found + 1
            size -= step
    return 0
