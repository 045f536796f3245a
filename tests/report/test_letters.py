"""One lettering everywhere, plots whose marks lie together, and alarms within a request of many rows."""

import re

from tests.report.fakes import META, audit, control, estimate, honest, record

from portcullis_ml.report import figures
from portcullis_ml.report.detection_section import WHY_LATER
from portcullis_ml.report.heard import heard
from portcullis_ml.report.letters import letters, numbers
from portcullis_ml.report.page import page
from portcullis_ml.report.results import NONE, read


def test_a_letter_means_the_same_attack_in_matrix_legend_and_first_table() -> None:
    found = read(audit())
    marks = letters(found)
    assert list(marks) == found.columns
    assert list(marks.values()) == ["A", "B", "C", "D", "E"]
    text = page(found, META)
    for attack, letter in marks.items():
        places = re.findall(rf'class="letter">(\w+)</b>\s*{re.escape(attack)}', text)
        assert set(places) == {letter}, (attack, places)
        assert len(places) >= 1
    assert re.search(r"<th[^>]*><b class=\"letter\">A</b> ?knockoff", text)  # the matrix' head
    assert f"{letters(found)['jb_top3']}  jb_top3" in text  # the timeline's axis


def test_more_attacks_than_letters_go_on_with_numbers() -> None:
    found = read([record(f"attack{i:02}", NONE, final_agreement=0.9 - i / 100) for i in range(28)])
    assert list(letters(found).values())[-3:] == ["Z", "A1", "B1"]


def test_defenses_have_numbers_so_that_no_letter_means_two_things() -> None:
    found = read(audit())
    assert numbers(found)[NONE] == "0"
    drawn = figures.pareto(found, "pareto")
    assert drawn is not None
    assert [number for number, _ in drawn[1]] == [numbers(found)[d] for _, d in drawn[1]]


def test_marks_that_lie_together_share_one_label() -> None:
    records = [record("a", d, final_agreement=v) for d, v in ((NONE, 0.9), ("x", 0.9), ("y", 0.9), ("z", 0.3))]
    for made in records:
        made["measures"]["agreement"] = estimate(0.3 if made["defense"] == "z" else 0.9)
        made["curve"] = []
    costs = [honest(d, lost) for d, lost in ((NONE, 0.0), ("x", 0.0), ("y", 0.0), ("z", 0.03))]
    drawn = figures.pareto(read([*records, *costs]), "pareto")
    assert drawn is not None
    labels = re.findall(r"<text[^>]*>(\d[^<]*)</text>", str(drawn[0]))
    assert "0\N{EN DASH}2" in labels


def test_what_was_paid_for_behind_an_alarm_is_explained_where_it_stands() -> None:
    guard = "watch(prada, block)"
    row = {"stage": "0-watch", "row": 150, "suspicion": 0.2}
    shut = record("papernot", guard, queries=260, stopped="this client was blocked", alarms=[row])
    found = read([record("papernot", NONE), shut, control("no_api", 0.1)])
    pair = found.pairs["papernot", guard]
    sentence = (
        "The alarm came at query 150, within a request of many rows: those behind it were paid for as well, and not"
    )
    assert figures.late_words(pair).startswith(sentence)
    text = page(found, META)
    assert heard(found) == [f"{guard}: first alarm of papernot after 150 queries (1 of 1 seed)."]
    assert sentence in text
    assert WHY_LATER in text
    loud = record("papernot", guard, queries=300, alarms=[row])  # an alarm that shuts nobody out
    assert figures.late_words(read([loud]).pairs["papernot", guard]) == ""
    last = record("papernot", guard, queries=150, stopped="this client was blocked", alarms=[row])
    assert figures.late_words(read([last]).pairs["papernot", guard]) == ""
