"""The report for pull requests and pipelines: Markdown, JUnit XML, SARIF; and the first page that all share."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.report.fakes import META, audit, record, without_copy

from portcullis_ml.bench.flags import FLAGS
from portcullis_ml.report import render
from portcullis_ml.report.junit import junit
from portcullis_ml.report.markdown import markdown
from portcullis_ml.report.raised import Limit, findings
from portcullis_ml.report.results import Audit, read
from portcullis_ml.report.sarif import sarif
from portcullis_ml.report.verdict import verdict_of

DEPLOYED = "rounding(decimals=2)"
RAISED = [
    {"id": "few_seeds", "where": "audit", "detail": "3 seeds"},
    {"id": "labels_changed", "where": "honest | top_k(k=1)", "detail": "1.0% of honest rows"},
    {"id": "labels_changed", "where": "honest | top_k(k=1)", "detail": "1.0% of honest rows"},
]
TEXTS = {name: vars(flag) for name, flag in FLAGS.items()}
ABOUT: dict[str, Any] = META | {"flags": RAISED, "flag_texts": TEXTS, "command": "portcullis audit --fail-over .5"}


def held(limit: float) -> Limit:
    worst = read(audit()).worst(DEPLOYED)
    assert worst is not None
    return Limit(DEPLOYED, limit, worst)


@pytest.fixture(scope="module")
def audited() -> Audit:
    return read(audit())


def test_a_finding_is_said_once_and_the_limit_comes_first(audited: Audit) -> None:
    found = findings(audited, ABOUT, held(0.5))
    assert [f.rule for f in found] == ["theft_over_limit", "few_seeds", "labels_changed"]
    assert [f.fails for f in found] == [True, False, False]
    assert [f.rule for f in findings(audited, ABOUT, held(0.99))] == ["few_seeds", "labels_changed"]
    assert found[1].text == "Few seeds (the whole audit): 3 seeds."


# JUnit


def test_a_theft_over_the_limit_is_a_failure_and_a_flag_is_none(audited: Audit) -> None:
    top = ElementTree.fromstring(junit(audited, ABOUT, held(0.5)).encode())
    assert [top.get(name) for name in ("failures", "errors", "skipped")] == ["1", "0", "2"]
    (failure,) = top.iter("failure")
    assert failure.get("type") == "theft_over_limit"
    assert re.match(
        r"Behind rounding\(decimals=2\) the worst attacker is .* above the limit of 50.0%", failure.text or ""
    )
    skipped = [case.get("name") for case in top.iter("testcase") if case.find("skipped") is not None]
    assert skipped == ["few_seeds", "labels_changed"]
    assert len(list(top.iter("testcase"))) == 1 + len(FLAGS)
    for suite in top.iter("testsuite"):
        assert suite.get("tests") == str(len(suite.findall("testcase")))
        assert all(case.get("name") and case.get("classname") for case in suite)


@pytest.mark.parametrize("limit", [held(0.99), None])
def test_below_the_limit_or_without_one_nothing_fails(audited: Audit, limit: Limit | None) -> None:
    top = ElementTree.fromstring(junit(audited, ABOUT, limit).encode())
    assert (top.get("failures"), top.get("errors")) == ("0", "0")


def test_an_audit_that_made_no_copy_is_an_error() -> None:
    nothing = read([without_copy(record("knockoff", "none"), "failed", "no \x00 luck")])
    top = ElementTree.fromstring(junit(nothing, ABOUT, None).encode())
    assert (top.get("failures"), top.get("errors")) == ("0", "1")


# SARIF 2.1.0: what its schema requires of the objects that are used here, and the values that it allows.
REQUIRED = {
    "log": {"version", "runs"}, "run": {"tool"}, "driver": {"name"}, "rule": {"id"}, "result": {"message"},
    "message": {"text"}, "invocation": {"executionSuccessful"},
}  # fmt: skip
ALLOWED = {
    "log": {"$schema", "version", "runs"},
    "run": {"tool", "invocations", "results", "properties", "taxonomies"},
    "driver": {"name", "version", "rules", "supportedTaxonomies"},
    "rule": {"id", "shortDescription", "fullDescription", "help", "defaultConfiguration", "relationships"},
    "result": {"ruleId", "ruleIndex", "level", "message", "locations", "partialFingerprints"},
    "message": {"text"},
    "invocation": {"executionSuccessful", "commandLine"},
}
LEVELS = {"none", "note", "warning", "error"}


def conforms(kind: str, thing: dict[str, Any]) -> dict[str, Any]:
    assert REQUIRED[kind] <= set(thing) <= ALLOWED[kind], kind
    return thing


@pytest.mark.parametrize("limit", [held(0.5), held(0.99), None])
def test_sarif_holds_what_its_schema_requires(audited: Audit, limit: Limit | None) -> None:
    log = conforms("log", json.loads(sarif(audited, ABOUT, limit, uri="out/report.html")))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    conforms("run", run)
    driver = conforms("driver", run["tool"]["driver"])
    rules = [conforms("rule", rule) for rule in driver["rules"]]
    assert len({rule["id"] for rule in rules}) == len(rules)
    for rule in rules:
        for said in ("shortDescription", "fullDescription", "help"):
            assert conforms("message", rule[said])["text"].strip()
        assert rule["defaultConfiguration"]["level"] in LEVELS
    for result in run["results"]:
        conforms("result", result)
        assert conforms("message", result["message"])["text"]
        assert result["level"] in LEVELS
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"] == {"uri": "out/report.html"}
        assert location["physicalLocation"]["region"]["startLine"] >= 1
    assert [conforms("invocation", i)["executionSuccessful"] for i in run["invocations"]] == [True]


def test_sarif_rules_are_the_flags_page_and_only_the_limit_is_an_error(audited: Audit) -> None:
    (run,) = json.loads(sarif(audited, ABOUT, held(0.5)))["runs"]
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {*FLAGS, "theft_over_limit"}
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [
        ("theft_over_limit", "error"), ("few_seeds", "warning"), ("labels_changed", "warning"),
    ]  # fmt: skip
    marks = [r["partialFingerprints"]["finding/v1"] for r in run["results"]]
    assert len(set(marks)) == len(marks)
    again = json.loads(sarif(read(audit()), ABOUT, held(0.5)))["runs"][0]["results"]
    assert [r["partialFingerprints"]["finding/v1"] for r in again] == marks


# Markdown


def test_markdown_says_the_verdict_the_matrix_and_the_flags(audited: Audit) -> None:
    text = markdown(audited, ABOUT, held(0.5))
    assert verdict_of(audited).headline.replace("\N{NO-BREAK SPACE}", " ") in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for lines in tables:
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
        assert len(set(cells)) == 1, "every row has as many cells as the head"
    for lines in tables[:2]:
        assert len(lines) == 2 + len(audited.defenses)
    assert "- **failed** `theft_over_limit`" in text
    assert "`labels_changed`" in text
    assert 'unit = "watch"' in text
    assert "<" not in re.sub(r"\\<|```.*?```", "", text, flags=re.S)


def test_names_cannot_break_a_table(audited: Audit) -> None:
    text = markdown(audited, ABOUT | {"title": "a|b <script>\n# *bold*"}, None)
    assert text.startswith("# Portcullis audit: a\\|b \\<script\\> \\# \\*bold\\*\n")


# The first page


def test_the_first_page_says_question_cost_advice_and_certainty_before_the_engineers_part() -> None:
    page = render(audit(), ABOUT | {"limit": held(0.5)})
    first, _, rest = page.partition('id="engineer"')
    for words in ("The question", "What it costs a thief", "What to do", "How sure this is"):
        assert f"<dt>{words}</dt>" in first
    assert "<table" not in first
    assert "above the limit of 50.0%" in first
    assert "3 repetitions, judged on 450 test rows" in first
    assert '<ul class="caveats">' in rest
    assert len(re.sub(r"<[^>]+>", " ", first.partition("<main")[2]).split()) < 220, "it fits on one screen"


def test_a_table_whose_guard_watches_is_told_to_calibrate() -> None:
    def said(*shape: int) -> str:
        about = ABOUT | {"interface": META["interface"] | {"input_shape": list(shape)}}
        return render(audit(), about)

    assert read(audit()).recommended == "watch(prada_normality, other_class)"
    assert "lets its watch log only" in said(64)
    assert "lets its watch log only" not in said(8, 8)


def test_print_starts_the_engineers_part_on_a_page_of_its_own() -> None:
    style = render(audit(), ABOUT).partition("@media print")[2].partition("\n}")[0]
    assert "#engineer { break-before: page;" in style
    assert ".scroll { overflow: visible; }" in style
