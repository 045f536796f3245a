"""The ledger on disk: paid answers survive kills, torn writes and full disks, and are never paid twice."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portcullis_ml.bench.ledger import DiskFull, FileLedger
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Answer

from .toys import INTERFACE, Count, Counting, questions

TESTS = str(Path(__file__).parents[1])


def ask(path: Path, x: np.ndarray, cuts: list[int]) -> tuple[np.ndarray, int]:
    """All of x in batches that end at the cuts; the scores, and how many rows the victim answered."""
    victim = Counting()
    with FileLedger(path, columns=2) as ledger:
        oracle = LocalOracle(victim, INTERFACE, budget=len(x), ledger=ledger)
        bounds = [0, *sorted({c for c in cuts if 0 < c < len(x)}), len(x)]
        answers = [oracle.query(x[a:b]) for a, b in itertools.pairwise(bounds)]
    return np.concatenate([a.scores for a in answers]), victim.rows


def test_a_second_run_pays_for_nothing_whatever_the_batches(tmp_path):
    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(1, 19)), st.lists(st.integers(1, 19)))
    def check(first, second):
        path = tmp_path / "ledger.bin"
        path.unlink(missing_ok=True)
        x = questions(20)
        before, paid = ask(path, x, first)
        after, again = ask(path, x, second)
        assert (paid, again) == (20, 0)
        np.testing.assert_array_equal(before, after)

    check()


def test_a_longer_second_run_pays_for_the_rest_only(tmp_path):
    x = questions(20)
    ask(tmp_path / "l", x[:13], [5])
    scores, paid = ask(tmp_path / "l", x, [9])
    assert paid == 7
    np.testing.assert_array_equal(scores, Counting().scores(x))


@pytest.mark.parametrize("cut", [1, 20, 90, 170, 250])
def test_a_torn_tail_costs_the_last_batch_only(tmp_path, cut):
    x = questions(20)
    path = tmp_path / "l"
    ask(path, x, [10])
    with FileLedger(path) as ledger:
        assert ledger.rows == 20
    os.truncate(path, path.stat().st_size - cut)
    scores, paid = ask(path, x, [10])
    assert paid == 10
    np.testing.assert_array_equal(scores, Counting().scores(x))


def test_zeros_that_were_set_aside_before_a_crash_are_no_frames(tmp_path):
    x, path = questions(20), tmp_path / "l"
    ask(path, x[:10], [])
    with path.open("ab") as file:
        file.write(bytes(500))
    assert ask(path, x, [10])[1] == 10


def test_a_damaged_frame_in_the_middle_is_an_error_not_a_loss(tmp_path):
    path = tmp_path / "l"
    ask(path, questions(20), [10])
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"l is damaged after 0 paid rows. Move it away"):
        FileLedger(path)
    assert path.read_bytes() == bytes(data)


def test_other_questions_are_refused_before_anything_is_paid(tmp_path):
    ask(tmp_path / "l", questions(20), [])
    with pytest.raises(InputError, match="expected to hold the questions that are asked now"):
        ask(tmp_path / "l", questions(20, seed=1), [])


def test_another_file_is_not_taken_for_a_ledger(tmp_path):
    (tmp_path / "l").write_text("a,b\n1,2\n" * 10)
    with pytest.raises(InputError, match="expected to be a ledger"):
        FileLedger(tmp_path / "l")
    assert (tmp_path / "l").read_text().startswith("a,b")


def test_two_runs_cannot_share_one(tmp_path):
    with FileLedger(tmp_path / "l"), pytest.raises(InputError, match="in use by another run"):
        FileLedger(tmp_path / "l")


def test_labels_only_and_omitted_inputs_come_back_as_they_were(tmp_path):
    x = np.array([[0.0, np.nan, 1.0], [np.nan, 1.0, 0.0]])
    with FileLedger(tmp_path / "l") as ledger:
        ledger.record(x, Answer(np.array([1, -1])))
    with FileLedger(tmp_path / "l") as ledger:
        answer = ledger.recall(x)
    assert answer is not None
    assert answer.labels.tolist() == [1, -1]
    assert answer.scores is None


def test_a_guard_meets_the_recalled_rows_again(tmp_path):
    """A resumed client has the same past: a guard that counts rows ends at the same count."""
    x = questions(20)
    seen = []
    for _ in range(2):
        stage = Count()
        guard = Guard(stage, key=bytes(16))
        with FileLedger(tmp_path / "l") as ledger:
            LocalOracle(Counting(), INTERFACE, budget=20, guard=guard, ledger=ledger).query(x)
        seen.append(guard.store.load(("thief", "0-count")).rows)
    assert seen == [20, 20]


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from bench.toys import INTERFACE, Logging, questions
from portcullis_ml.bench.ledger import FileLedger
from portcullis_ml.core.oracle import LocalOracle

victim = Logging(Path({log!r}), {die_at})
oracle = LocalOracle(victim, INTERFACE, budget=60, ledger=FileLedger({path!r}))
for i in range(0, 60, 7):
    oracle.query(questions(60)[i : i + 7])
"""


def test_killed_and_started_again_no_row_is_paid_twice(tmp_path):
    path, log = tmp_path / "l", tmp_path / "log"
    for die_at, code in ((10, -9), (25, -9), (10**9, 0)):
        program = KILLED.format(tests=TESTS, die_at=die_at, log=str(log), path=str(path))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
    answered = log.read_text().split()
    assert len(answered) == 60
    assert len(set(answered)) == 60


FULL = """
import resource, sys
sys.path.insert(0, {tests!r})
from bench.toys import INTERFACE, Counting, questions
from portcullis_ml.bench.ledger import DiskFull, FileLedger
from portcullis_ml.core.oracle import LocalOracle

resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
victim = Counting()
oracle = LocalOracle(victim, INTERFACE, budget=200, ledger=FileLedger({path!r}, columns=2))
try:
    for i in range(0, 200, 10):
        oracle.query(questions(200)[i : i + 10])
except DiskFull as error:
    print(victim.rows, error)
"""


def test_a_full_disk_stops_before_paying_and_loses_nothing(tmp_path):
    path = tmp_path / "ledger.bin"
    program = FULL.format(tests=TESTS, path=str(path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    paid, _, sentence = done.stdout.strip().partition(" ")
    assert 0 < int(paid) < 200, done.stderr
    assert sentence == (
        f"There is no room left on the disk for ledger.bin; {paid} paid rows are safe. "
        "Make room and run the same command again: it goes on from there."
    )
    scores, rest = ask(path, questions(200), list(range(10, 200, 10)))
    assert rest == 200 - int(paid)
    np.testing.assert_array_equal(scores, Counting().scores(questions(200)))


def test_a_write_that_fails_leaves_whole_frames(tmp_path, monkeypatch):
    """Where room cannot be set aside, the frame that does not fit is cut off again."""
    monkeypatch.delattr(os, "posix_fallocate")
    x, path = questions(20), tmp_path / "l"
    with FileLedger(path) as ledger:
        ledger.record(x[:10], Answer(np.zeros(10, np.int64)))
        end = path.stat().st_size

        def half(fd: int, data: bytes, at: int) -> int:
            if at > end:
                raise OSError(28, "No space left on device")
            return real(fd, data[:5], at)

        real = os.pwrite
        monkeypatch.setattr(os, "pwrite", half)
        with pytest.raises(DiskFull, match="10 paid rows are safe"):
            ledger.record(x[10:], Answer(np.zeros(10, np.int64)))
        monkeypatch.undo()
    assert path.stat().st_size == end


def test_what_is_recorded_is_on_the_disk_before_anybody_sees_it(tmp_path, monkeypatch):
    path, x = tmp_path / "l", questions(4)
    with FileLedger(path, columns=2) as ledger:
        calls = []
        pwrite, fsync = os.pwrite, os.fsync
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: calls.append(("write", fd)) or pwrite(fd, data, at))
        monkeypatch.setattr(os, "fsync", lambda fd: calls.append(("sync", fd)) or fsync(fd))
        ledger.record(x, Answer(np.zeros(4, np.int64), Counting().scores(x)))
        assert [kind for kind, _ in calls] == ["write", "sync"]
        assert len({fd for _, fd in calls}) == 1
    with FileLedger(path, columns=2) as again:
        assert again.rows == 4
