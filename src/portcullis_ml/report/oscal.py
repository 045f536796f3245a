"""`oscal.json`: the audit as assessment results, in the field names of NIST's OSCAL 1.2.1.

NIST. "Open Security Controls Assessment Language, assessment results model", version 1.2.1. Every entry of a framework
on which the audit has something to say is an observation; a requirement with a state is a finding, too. There is no
assessment plan in OSCAL behind an audit, so `import-ap` points to the command line in the back matter. Identifiers
follow from the content: the same records give the same file.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from portcullis_ml import __version__
from portcullis_ml.report.frameworks import Mapped, about, mapped, pinned, unchecked
from portcullis_ml.report.raised import Limit
from portcullis_ml.report.results import Audit
from portcullis_ml.report.verdict import verdict_of

__all__ = ["OSCAL", "oscal"]

OSCAL = "1.2.1"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:portcullis:oscal")
UNKNOWN_TIME = "1970-01-01T00:00:00+00:00"  # OSCAL requires a time, and old records name none


def oscal(audit: Audit, meta: Mapping[str, Any], limit: Limit | None = None, uri: str = "report.html") -> str:
    """The whole file as JSON; `uri` is where the report lies, relative to this file."""
    found = mapped(audit, meta, limit)
    run = "|".join(sorted(str(r["id"]) for r in audit.records))
    at, plan = _time(meta), _id("plan", run)
    observations = [_observation(m, run, at, uri) for m in found]
    links = {m.entry.id: o["uuid"] for m, o in zip(found, observations, strict=True)}
    whole = {
        "uuid": _id("results", run),
        "metadata": {
            "title": f"Portcullis audit: {meta.get('title') or 'the victim'}",
            "last-modified": at,
            "version": str(meta.get("started") or "unknown"),
            "oscal-version": OSCAL,
            "remarks": about(),
            "props": [{"name": "program", "value": f"portcullis-{__version__}"}],
        },
        "import-ap": {"href": f"#{plan}"},
        "results": [_result(audit, found, observations, links, run, at)],
        "back-matter": {"resources": [_plan(plan, meta), *_sources()]},
    }
    return json.dumps({"assessment-results": whole}, indent=2, ensure_ascii=False) + "\n"


def _result(
    audit: Audit,
    found: list[Mapped],
    observations: list[dict[str, Any]],
    links: Mapping[str, str],
    run: str,
    at: str,
) -> dict[str, Any]:
    verdict = verdict_of(audit)
    reviewed: dict[str, Any] = {"control-selections": [{"include-all": {}}]}
    if ids := [{"control-id": m.entry.id} for m in found if m.state]:
        reviewed = {"control-selections": [{"include-controls": ids}]}
    result = {
        "uuid": _id("result", run),
        "title": "Extraction through the prediction API",
        "description": f"{verdict.headline} {verdict.lead}".strip(),
        "start": at,
        "reviewed-controls": reviewed,
    }
    findings = [_finding(m, links[m.entry.id], run) for m in found if m.state]
    return result | ({"observations": observations} if found else {}) | ({"findings": findings} if findings else {})


def _observation(m: Mapped, run: str, at: str, uri: str) -> dict[str, Any]:
    return {
        "uuid": _id("observation", run, m.entry.id),
        "title": f"{m.entry.id} {m.entry.name}{unchecked(m.entry)}",
        "description": m.said,
        "methods": ["TEST"],
        "types": ["finding" if m.state else "control-objective"],
        "relevant-evidence": [{"href": uri, "description": "The report of the audit, and the records beside it."}],
        "collected": at,
    }


def _finding(m: Mapped, observation: str, run: str) -> dict[str, Any]:
    return {
        "uuid": _id("finding", run, m.entry.id),
        "title": f"{m.entry.id} {m.entry.name}",
        "description": m.said,
        "target": {"type": "objective-id", "target-id": m.entry.id, "status": {"state": m.state}},
        "related-observations": [{"observation-uuid": observation}],
    }


def _plan(id: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    return {"uuid": id, "title": "The command", "description": str(meta.get("command") or "not recorded")}


def _sources() -> list[dict[str, Any]]:
    return [
        {
            "uuid": _id("source", name),
            "title": f"{held['name']} {held['version']}",
            "description": held["note"] or held["name"],
            "rlinks": [{"href": held["source"]}],
        }
        for name, held in pinned().items()
    ]


def _time(meta: Mapping[str, Any]) -> str:
    """When the audit began, with a time zone, as OSCAL wants it."""
    started = str(meta.get("started") or UNKNOWN_TIME)
    return started if started[-6:-5] in ("+", "-") or started.endswith("Z") else f"{started}+00:00"


def _id(*parts: str) -> str:
    return str(uuid.uuid5(NAMESPACE, "\x1f".join(parts)))
