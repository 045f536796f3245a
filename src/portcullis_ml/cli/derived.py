"""Every file of a result bundle that follows from an audit's records, by the code that makes them for the audit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from portcullis_ml.cli.outcome import Outcome
from portcullis_ml.core.errors import InputError
from portcullis_ml.report import render
from portcullis_ml.report.markdown import markdown
from portcullis_ml.report.oscal import oscal
from portcullis_ml.report.results import audit_of
from portcullis_ml.report.sarif import sarif

__all__ = ["derived"]


def derived(records: list[dict[str, Any]], meta: Mapping[str, Any]) -> dict[str, bytes]:
    """name -> content. InputError where the meta data lacks something."""
    audit = audit_of(records, meta)
    try:
        outcome = Outcome(audit, meta, Path("report.html"), meta.get("fail_over"))
        numbers = outcome.to_json()
    except KeyError as error:
        raise InputError(f"meta.json was expected to hold {error}; it does not. Run the audit again.") from error
    limit = outcome.limit
    texts = {
        "report.json": json.dumps(numbers, indent=1, ensure_ascii=False),
        "report.html": render(records, {**meta, "limit": limit}),
        "report.md": markdown(audit, meta, limit),
        "report.sarif": sarif(audit, meta, limit),
        "oscal.json": oscal(audit, meta, limit),
    }
    return {name: text.encode() for name, text in texts.items()}
