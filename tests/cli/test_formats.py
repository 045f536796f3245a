"""Which files an audit leaves in its folder, and that pipelines get the same verdict from each."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from .test_verbs import call, small

OUT = Path("portcullis-audit")


def test_every_file_fails_where_the_command_does() -> None:
    done = call("audit", *small(), "--fail-over", 0.2, "--format", "html,md,junit,sarif")
    assert done.exit_code == 3, done.output
    top = ElementTree.parse(OUT / "junit.xml").getroot()
    assert (top.get("failures"), top.get("errors")) == ("1", "0")
    (run,) = json.loads((OUT / "report.sarif").read_text())["runs"]
    errors = [r for r in run["results"] if r["level"] == "error"]
    assert [r["ruleId"] for r in errors] == ["theft_over_limit"]
    assert errors[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "portcullis-audit/report.html"
    sentence = "Behind rounding(decimals=1) the worst attacker is "
    for name in ("report.md", "report.html", "junit.xml", "report.sarif"):
        assert sentence in (OUT / name).read_text(), name
    calm = call("audit", *small(), "--fail-over", 1.0, "--format", "junit,sarif")
    assert calm.exit_code == 0, calm.output
    assert ElementTree.parse(OUT / "junit.xml").getroot().get("failures") == "0"
    (run,) = json.loads((OUT / "report.sarif").read_text())["runs"]
    assert "theft_over_limit" not in [r["ruleId"] for r in run["results"]]


def test_an_unknown_format_is_found_out_before_anything_runs() -> None:
    done = call("audit", *small(), "--format", "md,pdf")
    assert done.exit_code == 2
    assert (
        "--format must be some of html, md, junit, sarif, oscal, separated by commas; got 'pdf'"
        in done.output.replace("\n", " ")
    )
    assert not OUT.exists()
