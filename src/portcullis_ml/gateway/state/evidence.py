"""What an alarm rests on: a reason code, one sentence of what it means, and the figures at that moment.

A detector says its code and its sentence itself (`code`, `means`); they are stable, so that a rule that a team writes
for one of them goes on meaning the same. A detector of somebody else's that says none is called by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from portcullis_ml.core.guard import Alarm, Defense, Detector

__all__ = ["AlarmRecord", "accounts_of", "code_of", "codes_of", "means_of", "read", "recorded",
           "written"]  # fmt: skip

LISTED = 20  # accounts of a principal in an alarm's evidence, those with the most rows


@dataclass(frozen=True)
class AlarmRecord(Alarm):
    """An alarm with its evidence, JSON throughout; empty where an earlier version wrote it down."""

    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> str:
        return str(self.evidence.get("code", ""))


def written(alarm: Alarm) -> str:
    """An alarm's evidence as text, to be kept beside it."""
    evidence = alarm.evidence if isinstance(alarm, AlarmRecord) else {}
    return orjson.dumps(dict(evidence)).decode()


def read(text: str | None) -> dict[str, Any]:
    """What `written` wrote; nothing where there is none."""
    found: dict[str, Any] = orjson.loads(text) if text else {}
    return found


def codes_of(alarms: Iterable[Alarm]) -> str:
    """The codes of alarms, with a comma between them; nothing of those that have none."""
    return ",".join(a.code for a in alarms if isinstance(a, AlarmRecord))


def code_of(detector: Detector[Any]) -> str:
    """The reason code of a detector's alarms, such as PRADA_NORMALITY."""
    name = detector.name or type(detector).__name__
    return str(getattr(detector, "code", "") or re.sub(r"\W+", "_", name).upper())


def means_of(detector: Detector[Any]) -> str:
    """What its alarms mean, in one sentence."""
    name = detector.name or type(detector).__name__
    return str(getattr(detector, "means", "") or f"The suspicion of the detector {name} rose above its threshold.")


def accounts_of(accounts: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """The accounts of a principal, those with the most rows first: rows answered, their share, first and last time."""
    total = sum(rows for rows, _, _ in accounts.values()) or 1
    found = sorted(accounts.items(), key=lambda item: (-item[1][0], item[0]))
    return [
        {"account": name, "rows": int(rows), "share": round(rows / total, 4), "since": since, "last": last}
        for name, (rows, since, last) in found
    ]


def recorded(
    alarm: Alarm, stage: Defense[Any], settings: str, rows: int, accounts: Mapping[str, list[float]]
) -> AlarmRecord:
    """The alarm with its evidence. `settings` is the fingerprint of its stage's, `rows` are those that were answered,
    the alarming request's included."""
    detector, held = stage.detectors()[0], accounts_of(accounts)
    evidence = {
        "code": code_of(detector),
        "means": means_of(detector),
        "detector": detector.name or type(detector).__name__,
        "threshold": float(detector.threshold),
        "settings": settings,
        "rows": rows,
        "since": min((a["since"] for a in held), default=alarm.at),
        "last": max((a["last"] for a in held), default=alarm.at),
        "accounts": held[:LISTED],
        "account_count": len(held),
    }
    return AlarmRecord(alarm.stage, alarm.client, alarm.row, alarm.suspicion, alarm.at, evidence)
