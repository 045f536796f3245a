"""Records: one strict JSON line each, torn lines tolerated, later lines hold."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from portcullis_ml.bench.ledger import DiskFull
from portcullis_ml.bench.records import Record, RecordFile, plain_estimate, read_records
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Estimate

from .toys import cell


def record(seed: int = 0, **changes: object) -> dict:
    return Record(cell=cell("knockoff", seed), **changes).to_json()


def test_a_record_is_strict_json_and_leaves_out_what_was_not_measured():
    nothing, open_ended = Estimate(math.nan, 0, 1, 0), Estimate(1.0, 0.5, math.inf, 3)
    line = record(measures={"a": nothing, "b": open_ended}, classes=(nothing, None, open_ended))
    assert set(line["measures"]) == {"b"}
    assert line["measures"]["b"]["high"] is None
    assert line["classes"][:2] == [None, None]
    json.dumps(line, allow_nan=False)
    assert plain_estimate(Estimate(0.5, 0.4, 0.6, 9)) == {
        "value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "level": 0.95, "unit": "",
    }  # fmt: skip


def test_what_is_appended_is_read_back(tmp_path):
    file = RecordFile(tmp_path / "records.jsonl")
    for seed in range(3):
        file.append(record(seed))
    assert [r["cell"]["seed"] for r in read_records(tmp_path / "records.jsonl")] == [0, 1, 2]
    assert RecordFile(tmp_path / "records.jsonl").finished == {record(s)["id"] for s in range(3)}


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_torn_line_is_dropped_and_overwritten(tmp_path, cut):
    path = tmp_path / "records.jsonl"
    file = RecordFile(path)
    for seed in range(3):
        file.append(record(seed))
    os.truncate(path, path.stat().st_size - cut)
    file = RecordFile(path)
    assert file.finished == {record(s)["id"] for s in range(2)}
    file.append(record(7))
    assert [r["cell"]["seed"] for r in read_records(path)] == [0, 1, 7]


def test_a_line_that_is_no_record_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"id": "a"}\nhello\n')
    with pytest.raises(InputError, match="one JSON record in every line; line 2 does not"):
        RecordFile(path)


def test_a_cell_that_may_fare_better_is_not_finished_and_the_later_line_holds(tmp_path):
    file = RecordFile(tmp_path / "r")
    file.append(record(outcome="failed", final=False))
    assert file.finished == set()
    file.append(record())
    assert [r["outcome"] for r in read_records(tmp_path / "r")] == ["done"]
    assert RecordFile(tmp_path / "r").finished == {record()["id"]}


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from bench.test_records import record
from portcullis_ml.bench.records import RecordFile
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
file = RecordFile(Path({path!r}))
try:
    for seed in range(100):
        file.append(record(seed))
except Exception as error:
    print(seed, type(error).__name__, error)
"""


def test_a_full_disk_leaves_whole_lines(tmp_path):
    path = tmp_path / "records.jsonl"
    program = FULL.format(tests=str(Path(__file__).parents[1]), path=str(path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    kept, kind, sentence = done.stdout.strip().split(" ", 2)
    assert kind == DiskFull.__name__, done.stderr
    assert sentence.startswith(f"There is no room left on the disk for records.jsonl; {kept} records are safe.")
    assert len(read_records(path)) == int(kept) > 0
