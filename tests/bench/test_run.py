"""Running cells: the same results however they are run, errors as records, and resuming after anything."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from portcullis_ml.bench.records import read_records
from portcullis_ml.bench.run import run_cells
from portcullis_ml.core.errors import InputError, ParameterError

from .toys import cell, work

TESTS = str(Path(__file__).parents[1])


def values(records: list[dict]) -> list[float]:
    return [r["measures"]["agreement"]["value"] for r in records]


def test_neither_processes_nor_order_nor_company_change_a_result(tmp_path):
    cells = [cell("draw", seed) for seed in range(5)]
    here = values(run_cells(cells, work, out=tmp_path / "a", jobs=0))
    assert values(run_cells(cells, work, out=tmp_path / "b", jobs=2)) == here
    assert values(run_cells(cells[::-1], work, out=tmp_path / "c", jobs=0)) == here[::-1]
    assert values(run_cells(cells[3:4], work, out=tmp_path / "d", jobs=0)) == here[3:4]
    assert len(set(here)) == 5


def test_global_generators_are_left_alone(tmp_path):
    np_before, before = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    run_cells([cell("draw")], work, out=tmp_path, jobs=0)
    assert np.random.get_state()[1].tolist() == np_before  # noqa: NPY002
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("what", "outcome", "final"),
    [
        ("lacks", "not applicable", True),
        ("poor", "not applicable", True),
        ("refused", "refused", True),
        ("fails", "failed", True),
        ("bad input", "failed", False),
        ("breaks", "failed", False),
    ],
)
def test_an_error_is_a_record_with_its_sentence(tmp_path, what, outcome, final):
    (record,) = run_cells([cell(what)], work, out=tmp_path, jobs=0)
    assert (record["outcome"], record["final"]) == (outcome, final)
    assert record["reason"].endswith(".")
    if what == "breaks":
        assert record["reason"].startswith("ZeroDivisionError: division by zero.")
        assert "in work" in (tmp_path / "cells" / record["id"] / "error.txt").read_text()


def test_a_finished_cell_is_never_run_again_and_its_folder_is_gone(tmp_path):
    log = tmp_path / "log"
    cells = [cell("ask", seed, log=str(log)) for seed in range(2)]
    events = []
    first = run_cells(cells, work, out=tmp_path / "out", jobs=0, progress=events.append)
    assert not list((tmp_path / "out" / "cells").iterdir())
    assert [e.kind for e in events][-1] == "ended"
    assert any(e.kind == "paid" and e.paid == 21 for e in events)
    assert run_cells(cells, work, out=tmp_path / "out", jobs=0) == first
    assert len(log.read_text().split()) == 60


def test_a_worker_that_is_killed_costs_one_record_and_the_next_run_pays_for_the_rest_only(tmp_path):
    log = tmp_path / "log"
    cells = [cell("ask", log=str(log), die_at=15), cell("draw")]
    failed, drawn = run_cells(cells, work, out=tmp_path / "out", jobs=1)
    assert (failed["outcome"], drawn["outcome"]) == ("failed", "done")
    assert failed["reason"].startswith("The process that ran this cell died (exit code -9)")
    done, again = run_cells(cells, work, out=tmp_path / "out", jobs=1)
    assert (done["outcome"], done["queries"]) == ("done", 30)
    assert again == drawn
    answered = log.read_text().split()
    assert len(answered) == len(set(answered)) == 30


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from bench.toys import cell, work
from portcullis_ml.bench.run import run_cells
if __name__ == "__main__":
    cells = [cell("slow", seed, seconds=0 if seed < 2 else {seconds}, log={log!r}) for seed in range(4)]
    run_cells(cells, work, out=Path({out!r}), jobs=2)
"""


def listening() -> None:
    """Tests that run in the background of a shell inherit a SIGINT that is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_goes_on_where_it_stood(tmp_path, by):
    out, log, script = tmp_path / "out", tmp_path / "log", tmp_path / "run.py"
    script.write_text(RUN.format(tests=TESTS, seconds=60, log=str(log), out=str(out)))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=listening,
    )
    records = out / "records.jsonl"
    try:
        while not records.exists() or records.read_bytes().count(b"\n") < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(by)
        assert process.wait(120) != 0
    finally:
        process.kill()
        process.wait()
    assert len(read_records(records)) == 2
    cells = [cell("slow", seed, seconds=0 if seed < 2 else 60, log=str(log)) for seed in range(4)]
    again = run_cells(cells[:2], work, out=out, jobs=0)  # finished: nothing sleeps, nothing is asked
    assert [r["queries"] for r in again] == [30, 30]
    assert len(log.read_text().split()) == 60


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from bench.toys import cell, work
from portcullis_ml.bench.run import run_cells
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
    try:
        run_cells([cell("ask", budget=300, log={log!r})], work, out=Path({out!r}), jobs={jobs})
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize("jobs", [0, 1])
def test_a_full_disk_ends_the_run_in_a_sentence_and_the_cell_is_resumed(tmp_path, jobs):
    out, script = tmp_path / "out", tmp_path / "run.py"
    log = Path("/dev/null")
    script.write_text(FULL.format(tests=TESTS, limit=6000, log=str(log), out=str(out), jobs=jobs))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("DiskFull There is no room left on the disk for ledger.bin; "), done.stderr
    assert "go on" in done.stdout or "goes on from there" in done.stdout
    assert not (out / "records.jsonl").exists()
    (record,) = run_cells([cell("ask", budget=300, log=str(log))], work, out=out, jobs=0)
    assert record["queries"] == 300


def test_one_run_at_a_time_in_a_folder(tmp_path):
    def nosy(cell, workspace):
        with pytest.raises(InputError, match="Another run is writing to"):
            run_cells([cell], work, out=tmp_path, jobs=0)
        return work(cell, workspace)

    run_cells([cell("draw")], nosy, out=tmp_path, jobs=0)


def test_settings_are_checked(tmp_path):
    with pytest.raises(ParameterError, match="jobs must be 0 or more processes; got -1"):
        run_cells([], work, out=tmp_path, jobs=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="The results cannot be written to"):
        run_cells([], work, out=tmp_path / "file" / "out", jobs=0)


def test_records_say_what_they_ran_on(tmp_path):
    run_cells([cell("draw")], work, out=tmp_path, jobs=0)
    line = json.loads((tmp_path / "records.jsonl").read_text())
    assert set(line["versions"]) >= {"portcullis", "python", "numpy"}
    assert line["seconds"] >= 0
    assert os.listdir(tmp_path / "cells") == []
