"""The files of an audit beside report.html: for pull requests, and for pipelines that read test results or findings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from portcullis_ml.report.raised import Limit
    from portcullis_ml.report.results import Audit

__all__ = ["FILES", "formats", "write_formats"]

FILES = {"html": "report.html", "md": "report.md", "junit": "junit.xml", "sarif": "report.sarif", "oscal": "oscal.json"}


def formats(words: str) -> tuple[str, ...]:
    """The formats that --format names. ParameterError for another word."""
    from portcullis_ml.core.errors import ParameterError

    asked = tuple(dict.fromkeys(word.strip().lower() for word in words.split(",") if word.strip()))
    for word in asked:
        if word not in FILES:
            raise ParameterError("--format", f"some of {', '.join(FILES)}, separated by commas", word)
    return asked


def write_formats(
    asked: tuple[str, ...], audit: Audit, meta: Mapping[str, Any], limit: Limit | None, out: Path
) -> None:
    """Write each of them into the folder of the results; report.html stands there already."""
    from portcullis_ml.report.junit import junit
    from portcullis_ml.report.markdown import markdown
    from portcullis_ml.report.oscal import oscal
    from portcullis_ml.report.sarif import sarif

    texts = {
        "md": lambda: markdown(audit, meta, limit),
        "junit": lambda: junit(audit, meta, limit),
        "oscal": lambda: oscal(audit, meta, limit),
        "sarif": lambda: sarif(audit, meta, limit, uri=_uri(out / FILES["html"])),
    }
    for word in asked:
        if word in texts:
            (out / FILES[word]).write_text(texts[word](), encoding="utf-8")


def _uri(path: Path) -> str:
    """Relative to where the command runs, as pipelines want it; absolute on another drive."""
    try:
        return quote(Path(os.path.relpath(path)).as_posix())
    except ValueError:
        return path.resolve().as_uri()
