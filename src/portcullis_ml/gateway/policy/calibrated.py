"""Which of a policy's detectors `portcullis calibrate` has set, by the record that it keeps beside the policy.

A record speaks of a detector with the very settings that it was calibrated with: who edits one calibrates again. What
a detector reads from a file is known by the file's content, wherever it lies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from portcullis_ml.core.artifacts import WRITTEN
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.settings import describe
from portcullis_ml.gateway.policy.policy import Policy

__all__ = ["record_beside", "uncalibrated", "watches"]


def record_beside(policy: str | Path) -> Path:
    """portcullis.toml -> portcullis.calibration.json"""
    return Path(policy).with_suffix(".calibration.json")


def uncalibrated(policy: Policy, path: str | Path) -> Iterator[str]:
    """A sentence for every watch whose detector, as it is set, stands in no record beside the policy."""
    known = _recorded(record_beside(path))
    for number, stage in enumerate(policy.stages, 1):
        for watch in watches(describe(stage)):
            detector = watch["detector"]
            if _known(detector) not in known:
                yield _said(number, watch, Path(path).name)


def _said(number: int, watch: Mapping[str, Any], file: str) -> str:
    """What an uncalibrated detector does to honest clients, and how to calibrate it."""
    name = watch["detector"]["unit"]
    if "then" not in watch:
        return (
            f"Stage {number} charges by {name}, which has not been calibrated on your own traffic as it is set: honest "
            f"clients may pay more. portcullis calibrate LOG --detectors {name} says what threshold fits them."
        )
    then = "" if watch["then"]["unit"] == "log" else ' Until then let it only log: then = { unit = "log" }.'
    return (
        f"Stage {number} watches with {name}, which has not been calibrated on your own traffic as it is set: honest "
        f"clients may be called. portcullis calibrate LOG --policy {file} --write sets it.{then}"
    )


def watches(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every watch in a stage as `core.settings.describe` writes it, those inside other units included."""
    if "detector" in tree:
        yield tree
    for value in tree.values():
        if isinstance(value, Mapping):
            yield from watches(value)


def _recorded(path: Path) -> list[Mapping[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [_known(entry["detector"]) for entry in found["calibrated"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} was expected to be a record of portcullis calibrate; it cannot be read.") from error


def _known(detector: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with files by their hashes alone."""
    written = {key: WRITTEN.fullmatch(value) if isinstance(value, str) else None for key, value in detector.items()}
    return {key: found["sha256"] if (found := written[key]) else value for key, value in detector.items()}
