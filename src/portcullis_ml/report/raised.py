"""What an audit has to warn of or to fail for, as plain findings that the page and the files for pipelines share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from portcullis_ml.report.numbers import percent
from portcullis_ml.report.results import NONE, Audit
from portcullis_ml.report.thieves import Thief

__all__ = ["OVER", "Finding", "Limit", "findings", "flags_raised", "where_said"]

OVER = "theft_over_limit"  # the rule that --fail-over checks


@dataclass(frozen=True)
class Finding:
    """One flag at one place, or the limit that was exceeded: its rule, where, one sentence, and whether it fails."""

    rule: str
    where: str
    text: str
    fails: bool = False


@dataclass(frozen=True)
class Limit:
    """What `--fail-over` asked: the guard in use, the limit, and the worst attacker behind it if one made a copy."""

    deployed: str
    limit: float
    worst: Thief | None

    @property
    def passed(self) -> bool:
        """Whether somebody made a copy, and the worst one's figure is not above the limit."""
        return self.worst is not None and self.worst.copy.value <= self.limit

    @property
    def sentence(self) -> str:
        """The worst attacker beside the limit: which figure is compared, and whether it is close."""
        guard = "Without a defense" if self.deployed == NONE else f"Behind {self.deployed}"
        if self.worst is None:
            return f"{guard} no attack made a copy, so nothing can be held against the limit of {self.limit:.1%}."
        copy, sign = self.worst.copy, "not above" if self.passed else "above"
        near = copy.low <= self.limit <= copy.high
        return (
            f"{guard} the worst attacker is {self.worst.words} with {percent(copy, 1)}. The figure itself, not an end "
            f"of its interval, is {sign} the limit of {self.limit:.1%}."
            f"{' The limit lies inside the interval: other seeds may say otherwise.' if near else ''}"
        )


def flags_raised(audit: Audit, meta: Mapping[str, Any]) -> list[dict[str, str]]:
    """The flags of the run, or where it names none, those of its cells: {"id", "where", "detail"} each."""
    cells = [
        {"id": f["id"], "where": f"{r['attack']} | {r['defense']}", "detail": f.get("detail") or ""}
        for r in audit.records
        for f in r.get("flags") or ()
    ]
    return [dict(f) for f in meta.get("flags") or cells]


def where_said(place: str) -> str:
    """ "knockoff | none" as people read it."""
    return "the whole audit" if place == "audit" else place.replace(" | none", ", no defense").replace(" | ", ", ")


def findings(audit: Audit, meta: Mapping[str, Any], limit: Limit | None) -> list[Finding]:
    """The limit if it was exceeded, then every flag at every place, each once."""
    found = [Finding(OVER, limit.deployed, limit.sentence, fails=True)] if limit and not limit.passed else []
    texts = meta.get("flag_texts") or {}
    for f in flags_raised(audit, meta):
        where = where_said(f.get("where", "audit"))
        title = str((texts.get(f["id"]) or {}).get("title") or f["id"].replace("_", " "))
        text = f"{title} ({where})" + (f": {f['detail']}." if f.get("detail") else ".")
        found.append(Finding(f["id"], where, text))
    return list(dict.fromkeys(found))
