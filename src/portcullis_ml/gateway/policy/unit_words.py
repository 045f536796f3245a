"""A stage or a detector in words, as `portcullis check` and the dashboard say them."""

from __future__ import annotations

from typing import Any

from portcullis_ml.core.artifacts import WRITTEN

__all__ = ["named_limit", "unit_in_words"]

CHARGES = {
    "priced": "charge each client by what {} says of them",
    "proof_of_work": "ask work for each question by what {} says of its client",
}


def unit_in_words(tree: dict[str, Any]) -> str:
    """A unit as `core.settings.describe` writes it, in words: "watch each client with prada (threshold 5.0); ..."."""
    if tree["unit"] == "watch":
        return (
            f"watch each client with {unit_in_words(tree['detector'])}; from an alarm on, {unit_in_words(tree['then'])}"
        )
    if tree["unit"] == "quota":
        return f"at most {tree['rows']} rows " + _window(tree["per"])
    if tree["unit"] in CHARGES:
        return f"{CHARGES[tree['unit']].format(unit_in_words(tree['detector']))}: {_charge(tree)}"
    settings = ", ".join(f"{k} {_value(v)}" for k, v in tree.items() if k != "unit" and v is not None)
    return f"{tree['unit'].replace('_', ' ')}{f' ({settings})' if settings else ''}"


def named_limit(quota: Any) -> str:
    """A stage `quota` as people say it: "quota of 5,000 rows a day"."""
    words = {None: "for life", 1: "a second", 60: "a minute", 3_600: "an hour", 86_400: "a day"}
    return f"quota of {quota.rows:,} rows {words.get(quota.per) or f'in {quota.per:g} seconds'}"


def _charge(tree: dict[str, Any]) -> str:
    rises = f"{tree['factor']:g} times that at the threshold and at most {tree['most']:g} times"
    if tree["unit"] == "priced":
        return f"{tree['price']:g} a row of a credit of {tree['credit']:g} {_window(tree['per'])}, {rises}"
    begins = f"{tree['seconds']:g} s a row above a suspicion of {tree['normal']:g}"
    return f"{begins}, {rises}, at {tree['hashes_per_s']:g} hashes a second"


def _window(per: float | None) -> str:
    return "for life" if per is None else f"in {per:g} seconds"


def _value(value: Any) -> Any:
    """An artifact by its path and the first digits of its hash, everything else as it is."""
    found = WRITTEN.fullmatch(value) if isinstance(value, str) else None
    return f"{found['path']} (sha256 {found['sha256'][:12]})" if found else value
