"""The report: one HTML file that says, in words first, how cheaply the model can be stolen.

The only package that draws. It reads records, plain dicts as `bench/records.py` describes them, and nothing else of
ours.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "render", "write_certificate", "write_policy", "write_privacy_report", "write_report", "write_text_report",
    "write_with_key",
]  # fmt: skip


def write_report(records: Iterable[Mapping[str, Any]], meta: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page to `path` and return the path. See `render` for `meta`."""
    target = Path(path)
    text = render(records, meta)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return target


def write_privacy_report(records: Iterable[Mapping[str, Any]], meta: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of `portcullis privacy` to `path` and return the path."""
    from portcullis_ml.report.privacy_page import privacy_page

    target = Path(path)
    target.write_text(privacy_page(list(records), meta), encoding="utf-8")
    return target


def write_text_report(records: Iterable[Mapping[str, Any]], meta: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of `portcullis privacy --text` to `path` and return the path."""
    from portcullis_ml.report.text_page import text_page

    target = Path(path)
    target.write_text(text_page(list(records), meta), encoding="utf-8")
    return target


def write_certificate(verdict: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of a verdict of `portcullis verify` to `path` and return the path."""
    from portcullis_ml.report.certificate import certificate

    target = Path(path)
    target.write_text(certificate(verdict), encoding="utf-8")
    return target


def write_policy(records: Iterable[Mapping[str, Any]], meta: Mapping[str, Any], path: str | Path) -> Path | None:
    """Write the recommended policy for the gate to `path`, and beside it a guard's secret unless one is there.

    None, and no file of an earlier run left behind, where nothing can be recommended."""
    from portcullis_ml.report.policy import HEAD, policy
    from portcullis_ml.report.results import audit_of

    target, text = Path(path), policy(audit_of(records, meta), meta)
    if text is None:
        if target.is_file() and target.read_text(encoding="utf-8").startswith(HEAD):
            target.unlink()
        return None
    write_with_key(text, target)
    return target


def write_with_key(text: str, path: Path) -> None:
    """Write a policy, and beside it a guard's secret unless one is there."""
    path.write_text(text, encoding="utf-8")
    key = path.with_name("guard.key")
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(secrets.token_bytes(32).hex() + "\n", encoding="ascii")


def render(records: Iterable[Mapping[str, Any]], meta: Mapping[str, Any] | None = None) -> str:
    """The page as text. Everything in `meta` may be left out:

    title, command, device, started     words, as they stand
    victim      {"name", "sha256", "accuracy": estimate}; read off the cells otherwise
    data        {"split": sentence, "test": rows, "pool": rows, "seeds": rows}
    interface   {"classes": [name, ...]}
    deployed    the defense that is in use today, marked in the tables
    cap         accuracy that honest clients may lose behind a recommended defense, a fraction; 0.01 otherwise
    measure     {"name", "why"}: by which measure the verdict goes; agreement otherwise
    quick       whether this was a quick look
    flags       [{"id", "where": "attack | defense", "detail"}]; read off the records otherwise
    flag_texts  id -> {"title", "raised_if", "why", "what_to_do"}
    seconds     the whole run by the clock
    notes       sentences for the end of the page
    """
    from portcullis_ml.report.page import page
    from portcullis_ml.report.results import audit_of

    about = meta or {}
    return page(audit_of(records, about), about)
