"""`junit.xml`: the audit as test results, for a pipeline that shows those.

The suite `theft` holds `--fail-over`: a failure where the worst attacker behind the guard in use is above the limit, an
error where no attack made a copy to judge. The suite `flags` holds a case for every flag that there is: a flag that was
raised is skipped, which pipelines show and do not fail for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from portcullis_ml.report.raised import OVER, Limit, findings
from portcullis_ml.report.results import Audit
from portcullis_ml.report.verdict import verdict_of

__all__ = ["junit"]

FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML does not have


def junit(audit: Audit, meta: Mapping[str, Any], limit: Limit | None = None) -> str:
    """The whole file, UTF-8."""
    seconds = f"{float(meta.get('seconds') or 0):.3f}"
    top = ElementTree.Element("testsuites", name="portcullis audit", time=seconds)
    theft = _suite(top, "theft", seconds)
    case = _case(theft, "theft", _clean(limit.deployed) if limit else "no limit", seconds)
    verdict = verdict_of(audit)
    if audit.strongest is None or (limit and limit.worst is None):
        _said(case, "error", "no_copy", limit.sentence if limit else verdict.headline)
    elif limit and not limit.passed:
        _said(case, "failure", OVER, limit.sentence)
    said = [verdict.headline, verdict.lead, limit.sentence if limit else "No limit was given with --fail-over."]
    ElementTree.SubElement(case, "system-out").text = _clean("\n".join(filter(None, said)))
    flags = _suite(top, "flags", "0")
    found = [f for f in findings(audit, meta, None) if not f.fails]
    for rule in sorted({*(meta.get("flag_texts") or {}), *(f.rule for f in found)}):
        case = _case(flags, "flags", rule, "0")
        places = [f.text for f in found if f.rule == rule]
        if places:
            _said(case, "skipped", "", "\n".join(places))
    for suite in (theft, flags):
        _count(suite)
    _count(top)
    ElementTree.indent(top)
    return ElementTree.tostring(top, encoding="unicode", xml_declaration=True) + "\n"


def _suite(top: ElementTree.Element, name: str, seconds: str) -> ElementTree.Element:
    return ElementTree.SubElement(top, "testsuite", name=name, time=seconds)


def _case(suite: ElementTree.Element, kind: str, name: str, seconds: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=f"portcullis.{kind}", name=name, time=seconds)


def _said(case: ElementTree.Element, what: str, kind: str, words: str) -> None:
    words = _clean(words)
    about = {"message": words.splitlines()[0]} | ({"type": kind} if kind else {})
    ElementTree.SubElement(case, what, about).text = words


def _count(suite: ElementTree.Element) -> None:
    """How many cases there are, and how many ended in which way."""
    suite.set("tests", str(len(list(suite.iter("testcase")))))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(len(list(suite.iter(tag)))))


def _clean(words: str) -> str:
    return FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", words)
