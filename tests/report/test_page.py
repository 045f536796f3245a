"""The page is one valid file that needs no network, keeps what records say in its place, and can be read aloud."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.report.fakes import META, audit, control, estimate, honest, record, without_copy

from portcullis_ml.report import render, write_report

VOID = {"meta", "br", "hr", "img", "input", "link", "col", "wbr"}


class Walk(HTMLParser):
    """Checks that tags are balanced, and gathers what the tests ask about."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> names an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def walk(page: str) -> Walk:
    parser = Walk()
    parser.feed(page)
    parser.close()
    assert parser.open == [], f"left open: {parser.open}"
    parser.text = parser.text.replace("\N{NO-BREAK SPACE}", " ")
    return parser


@cache
def ordinary() -> str:
    return render(audit(), META)


STRANGE: dict[str, list[dict[str, Any]]] = {
    "nothing at all": [],
    "no defenses": [record("knockoff", "none"), control("no_api", 0.1)],
    "one seed": audit(seeds=1, attacks=("knockoff",))[:3],
    "nothing stolen": [record("a", "none", final_agreement=0.1), record("a", "x"), control("no_api", 0.1)],
    "all refused": [without_copy(record("a", d), "refused", "The quota is used up.") for d in ("none", "x")],
    "nothing applies": [without_copy(record("a", d), "not applicable", "a needs probs.") for d in ("none", "x")],
    "regression": [
        record("equation_solving", "none") | {"measures": {"r2": estimate(0.9)}, "curve": [], "classes": []}
    ],
    "honest clients only": [honest("none", 0.0), honest("x", 0.01, 0.1)],
    "attacks that only ran defended": [record("a", "x"), record("b", "y")],
    "many classes": [record("a", "none") | {"classes": [estimate(0.5), None] * 22}],
    "copies better than the victim": [record("a", "none") | {"classes": [estimate(0.9) | {"value": 1.3, "high": 1.9}]}],
    "many attacks": [record(f"attack_{i}", "none") for i in range(11)],
    "alarms on the first row": [record("a", "watch", alarms=[{"stage": "0", "row": 1, "suspicion": 1.0}])],
}


@pytest.mark.parametrize("case", STRANGE)
def test_every_page_is_whole(case: str) -> None:
    page = walk(render(STRANGE[case], {}))
    assert Counter(tag for tag, _ in page.elements)["h1"] == 1
    assert "inf" not in page.text.lower().split()
    assert "nan" not in page.text.lower().split()
    assert "None" not in page.text


def test_the_ordinary_page_is_valid_small_and_whole() -> None:
    page = walk(ordinary())
    assert len(ordinary().encode()) < 600_000
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    inside = {(a.get("href") or "")[1:] for a in page.all("a")}
    assert inside <= set(ids)
    assert {"speed", "matrix", "cost", "detection", "recovery", "controls", "flags", "ran"} <= inside


def test_nothing_is_loaded_from_anywhere() -> None:
    page = walk(ordinary())
    assert not page.all("script")
    assert not page.all("link")
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith("#"), f"<{tag} {name}={attributes.get(name)}>"
    assert "http:" not in ordinary()
    assert "https:" not in ordinary()
    assert not re.search(r"url\((?!#)|@import", ordinary())


def test_references_inside_drawings_resolve_and_are_their_own() -> None:
    page = walk(ordinary())
    ids = {a["id"] for _, a in page.elements if a.get("id")}
    asked = set(re.findall(r"url\(#([^)]+)\)", ordinary())) | {(a["href"] or "")[1:] for a in page.all("use")}
    assert asked
    assert asked <= ids


def test_every_drawing_has_a_text_alternative_or_is_ornament() -> None:
    drawings = walk(ordinary()).all("svg")
    assert len(drawings) > 8
    for a in drawings:
        assert a.get("aria-hidden") == "true" or (a.get("role") == "img" and len(a.get("aria-label") or "") > 20)


def test_every_drawing_takes_its_colors_from_the_page() -> None:
    """Any color that is written out would stand still when the page turns dark."""
    drawings = re.findall(r"<svg.*?</svg>", ordinary(), flags=re.DOTALL)
    for drawing in drawings:
        assert not re.search(r"#[0-9a-fA-F]{6}\b", drawing)
        assert "var(--" in drawing
    defined = set(re.findall(r"(--[a-z0-9-]+):", ordinary()))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", ordinary())) <= defined


def test_every_figure_has_its_numbers_in_a_table() -> None:
    tables = [a for tag, a in walk(ordinary()).elements if a.get("role") == "region"]
    names = {a["aria-label"] for a in tables}
    assert {
        "Agreement by number of queries",
        "First alarms",
        "Utility against theft",
        "Recovery of every class",
        "Attack by defense",
        "Controls",
        "Every cell that was run",
    } <= names


def test_what_records_say_is_never_taken_for_html() -> None:
    evil = "<script>alert('x')</script>\"'>&$\\frac$"
    records = audit(seeds=1, attacks=("knockoff",))
    for r in records:
        r["defense"] = r["defense"].replace("label_only", evil)
        r["attack"] = r["attack"].replace("knockoff", f"{evil}2")
        r["cell"]["victim"] = {"name": evil, "sha256": evil}
        r["flags"] = [{"id": evil, "detail": evil}]
        r["threat_model"] = {evil: evil}
        r["versions"] = {evil: evil}
    records.append(without_copy(record(evil, "none"), "failed", evil))
    meta = {key: evil for key in ("title", "command", "deployed", "started", "device")}
    page = walk(render(records, {**meta, "data": {"split": evil}, "interface": {"classes": [evil] * 10}}))
    assert not page.all("script")
    assert evil in page.text


def test_the_answer_stands_before_everything_else() -> None:
    page = ordinary()
    assert page.index("<h1>") < page.index("<table") < page.index('id="speed"')
    assert "With 1,600 queries a stranger reaches" in walk(page).text


def test_cells_without_a_copy_are_explained_on_hover_and_in_text() -> None:
    page = walk(ordinary())
    why = "equation_solving needs a linear model; this API serves digits-cnn."
    assert any(a.get("title") == why for a in page.all("abbr"))
    assert f"equation_solving: not applicable. {why}" in page.text


def test_a_better_copy_on_the_way_is_not_passed_over() -> None:
    made = record("a", "x", final_agreement=0.3)
    made["curve"][0]["measures"]["agreement"] = estimate(0.63)
    text = walk(render([made], {})).text
    assert "a, x: had a better copy earlier, 63% [60, 66] after 50 queries" in text


def test_flags_say_when_why_and_what_to_do() -> None:
    text = walk(ordinary()).text
    for words in META["flag_texts"]["pool_overlaps_training"].values():
        assert words in text
    assert "knockoff, no defense: 12 of 449 rows" in text
    said = [{"id": "few_seeds", "where": "audit", "detail": "3 seeds"}]
    assert "the whole audit: 3 seeds" in walk(render([], {**META, "flags": said})).text


def test_what_was_run_is_told() -> None:
    text = walk(ordinary()).text
    for shown in (META["command"], META["data"]["split"], "torch 2.13.0", "3 (0, 1, 2)", "sees probs", "2 min 41 s"):
        assert shown in text


def test_the_deployed_and_the_best_defense_are_marked() -> None:
    tags = re.findall(r'<span class="tag (\w+)">', ordinary())
    assert sorted(tags) == ["best", "deployed"]


def test_the_same_records_make_the_same_page() -> None:
    assert render(STRANGE["regression"], META) == render(STRANGE["regression"], META)


def test_the_page_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a folder with spaces" / "report.html"
    assert write_report(STRANGE["no defenses"], META, path) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_recovered_rows_stand_beside_the_training_rows() -> None:
    picture = list(range(0, 256, 4))
    leak = {"shape": [8, 8], "found": 3, "recovered": [picture], "training": [picture[::-1]], "closer": 2}
    leak |= {"difference": 0.012, "unseen": 0.2, "random": 0.4}
    walked = walk(render([record("kernel", "none", notes={"leak": leak})], META))
    shown = [i for i in walked.all("img") if "row" in (i["alt"] or "")]
    assert [i["alt"] for i in shown] == ["Recovered row 1", "The training row that it matches, 1"]
    assert all((i["src"] or "").startswith("data:image/png;base64,") for i in shown)
    assert shown[0]["src"] != shown[1]["src"]
    assert "off by 1.2% of an input's range" in walked.text
    assert "2 of them are nearer" in walked.text


def test_without_the_training_set_recovered_rows_stand_alone() -> None:
    leak = {"shape": [3], "found": 1, "recovered": [[0, 128, 255]], "training": None}
    walked = walk(render([record("kernel", "none", notes={"leak": leak})], META))
    assert len(walked.all("img")) == 1
    assert "Give --train FILE" in walked.text


@pytest.mark.parametrize(
    ("fitted", "words"),
    [
        ({"network": 0.41, "boosted": 0.62}, "trained: boosted trees 0.6, network 0.4"),
        ({"boosted labels": 1.03}, "trained: boosted trees on labels"),
        ({"constant": 1.0}, "trained: one answer for every row"),
        (
            ["picture_flat, mirrored", "picture_pooled", "picture_pooled"],
            "trained: picture flat, mirrored; picture pooled",
        ),
    ],
)
def test_what_a_learner_chose_stands_in_the_cell_of_its_attack(fitted: Any, words: str) -> None:
    other = record("copycat", "none")
    page = walk(render([record("knockoff", "none", notes={"chosen": {"fitted": fitted}}), other]))
    assert page.text.count("trained: ") == 1
    assert words in page.text


def test_seeds_that_chose_otherwise_are_said_to_have_done_so() -> None:
    seeds = [
        record("knockoff", "none", seed=s, notes={"chosen": {"fitted": {name: 1.0}}})
        for s, name in enumerate(["linear", "kernel"])
    ]
    assert "trained by the first seed: linear" in walk(render(seeds)).text
