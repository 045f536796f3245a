"""The log: what was changed, cut or swapped in it is noticed; an entry proves that it stands there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from portcullis_ml.core.errors import InputError, ProofError
from portcullis_ml.court.log import EMPTY, Log, LogFile, chosen

ENTRIES = [{"kind": "minted", "n": 0}, {"kind": "shown", "places": [3, 1]}, {"kind": "shown", "places": [2]}]


@pytest.fixture
def file(tmp_path: Path) -> LogFile:
    log = LogFile(tmp_path / "log.jsonl")
    for entry in ENTRIES:
        log.append(entry)
    return log


def test_a_log_is_read_as_it_was_written(file: LogFile) -> None:
    log = file.read()
    assert list(log.entries) == ENTRIES
    assert log == Log.read(log.text())
    assert log.of_kind("shown") == ENTRIES[1:]
    assert LogFile(file.path.with_name("other.jsonl")).read().head == EMPTY


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_changed_entry_is_noticed(file: LogFile, place: int) -> None:
    lines = file.path.read_text().splitlines()
    found = json.loads(lines[place])
    found["entry"]["kind"] = "nothing"
    lines[place] = json.dumps(found)
    file.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ProofError, match=f"Entry {place + 1} of the log does not follow"):
        file.read()


def test_a_log_cut_short_is_noticed(file: LogFile) -> None:
    whole = file.path.read_text()
    file.path.write_text("".join(line + "\n" for line in whole.splitlines()[:2]))
    with pytest.raises(ProofError, match="2 entries do not lead to its head: it was cut short"):
        file.read()
    file.path.write_text(whole[:-9])
    with pytest.raises(ProofError, match="2 entries do not lead to its head"):
        file.read()
    with pytest.raises(ProofError):
        file.append({"kind": "shown", "places": [9]})
    file.path.write_text(whole)
    file.path.with_suffix(".head").unlink()
    with pytest.raises(InputError, match="Bring both back"):
        file.append({"kind": "shown", "places": [9]})


def test_a_crash_while_an_entry_is_written_leaves_a_log_that_goes_on(file: LogFile) -> None:
    """Killed within the line: it was never acknowledged. Killed before the head is written: the entry stands."""
    whole, head = file.path.read_text(), file.path.with_suffix(".head")
    file.path.write_text(whole + '{"entry": {"kind": "sho')
    assert list(file.read().entries) == ENTRIES
    grown = file.append({"kind": "shown", "places": [7]})
    assert file.read() == grown
    before = head.read_text()
    last = file.append({"kind": "shown", "places": [8]})
    head.write_text(before)
    assert file.read() == last
    assert file.append({"kind": "shown", "places": [9]}).entries[:-1] == last.entries


def test_whoever_has_seen_a_head_notices_another_log(file: LogFile) -> None:
    seen = file.read().head
    grown = file.append({"kind": "shown", "places": [4]})
    grown.goes_on_from(seen)
    forked = Log(tuple(ENTRIES[:2]), grown.links[:2]).grown({"kind": "shown", "places": [5]})
    with pytest.raises(ProofError, match="is none of this log's"):
        forked.goes_on_from(seen)


def test_an_entry_proves_that_it_stands_in_the_log(file: LogFile) -> None:
    log = file.read()
    for place in range(3):
        proof = log.prove(place)
        proof.verify(log.head)
        for wrong in (
            replace(proof, entry={**proof.entry, "kind": "other"}),
            replace(proof, before="00" * 32),
            replace(proof, after=(*proof.after, "11" * 32)),
        ):
            with pytest.raises(ProofError, match="does not stand in the log"):
                wrong.verify(log.head)


def test_a_challenge_puts_places_in_an_order_of_its_own() -> None:
    available = list(range(50))
    one, other = chosen(available, b"a" * 32, 10), chosen(available, b"b" * 32, 10)
    assert one == chosen(available, b"a" * 32, 10) != other
    assert one[:5] == chosen(available, b"a" * 32, 5)
    assert set(one) <= set(available)
    assert len(set(one)) == 10
