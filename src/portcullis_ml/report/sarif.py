"""`report.sarif`: flags and the limit of `--fail-over` as results of a static analysis.

OASIS. "Static Analysis Results Interchange Format (SARIF) Version 2.1.0", 2020. A rule is a flag of docs/flags.md under
its own name; a limit that was exceeded is the rule `theft_over_limit`, the only one of level "error". An audit has no
lines of source, so a result lies at the report, and says in a logical location which attack and defense it is about.
Security frameworks stand as taxonomies (section 3.19.3), each with the entries on which the audit has something to say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from portcullis_ml import __version__
from portcullis_ml.report.frameworks import THEFT, Entry, Mapped, mapped, pinned, unchecked
from portcullis_ml.report.raised import OVER, Finding, Limit, findings
from portcullis_ml.report.results import Audit
from portcullis_ml.report.verdict import verdict_of

__all__ = ["sarif"]

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LIMIT_TEXT = {
    "title": "A copy is better than the limit allows",
    "raised_if": "the worst attacker behind the guard in use agrees with the victim more often than --fail-over says, "
    "or no attack made a copy behind it",
    "why": "The model can be copied through its API more closely than was decided to be acceptable.",
    "what_to_do": "Take the recommended defense if there is one, show less of each answer, or decide on another limit.",
}


def sarif(audit: Audit, meta: Mapping[str, Any], limit: Limit | None = None, uri: str = "report.html") -> str:
    """The whole file as JSON; `uri` is where the report lies, relative to the repository."""
    texts = {OVER: LIMIT_TEXT, **(meta.get("flag_texts") or {})}
    found = findings(audit, meta, limit)
    texts |= {f.rule: {"title": f.rule.replace("_", " ")} for f in found if f.rule not in texts}
    places = {rule: n for n, rule in enumerate(texts)}
    entries = mapped(audit, meta, limit)
    taxonomies = _taxonomies(entries)
    techniques = [m.entry for m in entries if m.entry.id in THEFT]
    run = {
        "tool": {
            "driver": {
                "name": "Portcullis",
                "version": __version__,
                "rules": [_rule(name, text, techniques) for name, text in texts.items()],
                "supportedTaxonomies": [{"name": t["name"], "index": n} for n, t in enumerate(taxonomies)],
            }
        },
        "taxonomies": taxonomies,
        "invocations": [
            {"executionSuccessful": audit.strongest is not None, "commandLine": str(meta.get("command", ""))}
        ],
        "results": [_result(f, places[f.rule], uri) for f in found],
        "properties": {"headline": verdict_of(audit).headline, "verdict": verdict_of(audit).kind},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _taxonomies(entries: Sequence[Mapped]) -> list[dict[str, Any]]:
    """A taxonomy for every framework, with the entries on which this audit has something to say."""
    found = []
    for name, held in pinned().items():
        taxa = [
            {
                "id": m.entry.id,
                "name": m.entry.name,
                "shortDescription": {"text": m.entry.name + unchecked(m.entry)},
                "properties": {"said": m.said, "about": list(m.about), **({"state": m.state} if m.state else {})},
            }
            for m in entries
            if m.entry.framework == name
        ]
        if taxa:
            about = {"name": held["name"], "version": held["version"], "informationUri": held["source"]}
            found.append({**about, "shortDescription": {"text": held["note"]}, "isComprehensive": False, "taxa": taxa})
    return found


def _rule(name: str, text: Mapping[str, Any], techniques: Sequence[Entry]) -> dict[str, Any]:
    said = {k: str(text[k]) for k in ("raised_if", "why", "what_to_do") if text.get(k)}
    rule: dict[str, Any] = {
        "id": name,
        "shortDescription": {"text": f"{text['title']}."},
        "defaultConfiguration": {"level": "error" if name == OVER else "warning"},
    }
    if said:
        full = [f"Raised if {said['raised_if']}."] if "raised_if" in said else []
        rule["fullDescription"] = {"text": " ".join([*full, said.get("why", "")]).strip()}
        rule["help"] = {"text": said.get("what_to_do") or said.get("why") or full[0]}
    if name == OVER and techniques:
        rule["relationships"] = [_relationship(technique) for technique in techniques]
    return rule


def _relationship(technique: Entry) -> dict[str, Any]:
    """A limit on theft that was exceeded is relevant to each technique of theft."""
    component = {"name": pinned()[technique.framework]["name"]}
    return {"target": {"id": technique.id, "toolComponent": component}, "kinds": ["relevant"]}


def _result(finding: Finding, rule: int, uri: str) -> dict[str, Any]:
    digest = hashlib.sha256(f"{finding.rule}|{finding.where}".encode()).hexdigest()
    return {
        "ruleId": finding.rule,
        "ruleIndex": rule,
        "level": "error" if finding.fails else "warning",
        "message": {"text": finding.text},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}},
                "logicalLocations": [{"fullyQualifiedName": finding.where}],
            }
        ],
        "partialFingerprints": {"finding/v1": digest},
    }
