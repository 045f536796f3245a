"""`portcullis bench leaderboard`: the page's attack is entered by its commands, and what disqualifies is not ranked."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from tests.report.fakes import META, audit

from portcullis_ml.catalog import resolve
from portcullis_ml.report.leaderboard import DISQUALIFIES, Entry, leaderboard
from portcullis_ml.report.results import read

from .conftest import audited, call

PAGE = (Path(__file__).parents[2] / "docs" / "leaderboard.md").read_text()
(MODULE,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
COMMANDS = re.findall(r"^portcullis .*$", PAGE, re.M)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PORTCULLIS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_the_attack_of_the_page_has_at_most_30_lines(desk: Path) -> None:
    assert len(MODULE.splitlines()) <= 30
    (desk / "short.py").write_text(MODULE)
    assert resolve("short:Halfway")(share=0.25).share == 0.25


@pytest.mark.slow
def test_the_attack_of_the_page_is_entered_by_its_commands(desk: Path) -> None:
    (desk / "halfway.py").write_text(MODULE)
    house = audited(desk, "--seeds", "3")
    assert call("bundle", house, "--new-key", "--key", "house.key", "-o", "house.zip").exit_code == 0
    board, enter, pack = COMMANDS
    for command in (enter, pack, board):
        more = ["--jobs", "0", "--epochs", "1"] if command == enter else []
        done = call(*shlex.split(command)[1:], *more)
        assert done.exit_code == 0, done.output
    assert "2 of 2 bundles ranked" in done.stdout
    page = (desk / "leaderboard.html").read_text()
    assert page.count('<section id="board-') == 1, "both entries stand on one board"
    assert "halfway:Halfway" in page
    assert "stranger" in page
    known = re.escape("verify-results stranger.zip --import halfway --rerun 3")
    assert re.search(known, PAGE)
    refused = call("verify-results", "stranger.zip", "--rerun", "99")
    assert "names code that is not Portcullis' own, halfway:Halfway" in refused.stderr


def test_a_bundle_that_does_not_hold_stops_the_command(desk: Path) -> None:
    Path("bad.zip").write_bytes(b"no zip")
    done = call("bench", "leaderboard", "bad.zip")
    assert done.exit_code == 2
    assert "is no whole zip file" in done.stderr
    assert not Path("leaderboard.html").exists()


FEW = {"id": "few_seeds", "where": "audit", "detail": ""}


def entry(name: str = "house", **meta: Any) -> Entry:
    """An entry whose only flag disqualifies nothing."""
    return Entry(name, "ab" * 32, read(audit()), META | {"flags": [FEW]} | meta)


def rank(page: str) -> list[tuple[str, str]]:
    """(defense, best attack) in the order of the first board."""
    first = page.partition("<tbody>")[2].partition("</tbody>")[0]
    cells = [re.sub(r"<[^>]+>", " ", row).split("  ") for row in first.split("<tr>")[1:]]
    return [tuple(part.strip() for part in [p for p in row if p.strip()][1:3]) for row in cells]  # type: ignore[misc]


def test_defenses_stand_in_the_order_of_their_best_attack() -> None:
    found = read(audit())
    expected = sorted(found.defenses, key=lambda d: max(
        t.copy.value for a in found.columns if (t := found.thief(a, d)) is not None))  # fmt: skip
    assert [d.replace("no defense", "none") for d, _ in rank(leaderboard([entry()]))] == expected


@pytest.mark.parametrize("flag", sorted(DISQUALIFIES))
def test_a_flag_takes_a_figure_or_the_whole_entry_out(flag: str) -> None:
    best = dict(rank(leaderboard([entry()])))["no defense"].split(",")[0]
    one = entry(flags=[{"id": flag, "where": f"{best} | none", "detail": ""}])
    page = leaderboard([one])
    assert dict(rank(page))["no defense"].split(",")[0] != best
    assert f"{best} behind no defense (house): {flag}" in page
    whole = entry(flags=[{"id": flag, "where": "audit", "detail": ""}])
    assert DISQUALIFIES[flag].split(",")[0] in whole.unfit
    assert 'id="board-1"' not in leaderboard([whole])


def test_a_quick_look_and_too_few_repetitions_are_not_ranked() -> None:
    assert entry(quick=True).unfit == "a quick look"
    few = Entry("few", "", read([r for r in audit() if r["cell"].get("seed", 0) == 0]), META)
    assert few.unfit == "1 repetition, and 3 are needed"
    assert entry().unfit == ""


def test_other_rows_are_another_board() -> None:
    other = audit()
    for record in other:
        record["cell"] = record["cell"] | {"data": {"name": "digits", "sha256": "f" * 16}}
    page = leaderboard([entry(), Entry("other", "", read(other), META | {"flags": [FEW]})])
    assert 'id="board-2"' in page


def test_the_page_says_what_is_needed_and_what_disqualifies() -> None:
    page = leaderboard([entry()])
    for words in ("At least 3 repetitions", *DISQUALIFIES):
        assert words in page
        assert words in PAGE or words.startswith("At least")


def test_names_are_escaped() -> None:
    assert "<script>" not in leaderboard([entry("<script>")])
