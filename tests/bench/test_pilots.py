"""Pilots: when they end, who is tried, and what is said where nothing reaches the target."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bench.experiments import spec
from portcullis_ml.bench.pilots import PilotOptions, run_pilots
from portcullis_ml.bench.records import read_records
from portcullis_ml.bench.run_audit import AuditOptions
from portcullis_ml.core.errors import AttackFailed, InputError


def options(folder: Path, **changes: Any) -> PilotOptions:
    about: dict[str, Any] = {"attacks": ("knockoff",), "learner": "sklearn", "answers": "labels", "budgets": (150,)}
    own = {name: changes.pop(name) for name in list(changes) if name in ("target", "minutes")}
    audit = AuditOptions(spec=spec(folder), defenses=(), **(about | changes))
    return PilotOptions(audit=audit, **({"target": 0.9, "minutes": 0.1} | own))


def test_runs_are_added_near_the_crossing_until_the_interval_is_sharp(tmp_path: Path) -> None:
    found = run_pilots(options(tmp_path), out=tmp_path / "out")
    worst = found.worst
    assert worst.queries is not None
    assert worst.queries.low <= worst.queries.value <= worst.queries.high
    assert found.constant < 0.9
    made = [r for r in read_records(tmp_path / "out" / "records.jsonl") if r["attack"] == worst.attack]
    there = [r["queries"] for r in made if r["measures"]["agreement"]["value"] >= 0.9]
    assert worst.least == min(there)
    paid = [r["queries"] for r in read_records(tmp_path / "out" / "records.jsonl") if r["attack"] == worst.attack]
    assert sum(worst.queries.value / 2 < q < worst.queries.value * 2 for q in paid) > len(paid) / 2
    if found.why == "sharp":
        assert worst.queries.high / worst.queries.low <= 1.25**2 + 1e-9


def test_labels_alone_are_not_solved_for(tmp_path: Path) -> None:
    assert not run_pilots(options(tmp_path), out=tmp_path / "out").worst.exact


def test_a_target_beyond_every_attack_is_never_reached(tmp_path: Path) -> None:
    few = options(tmp_path, target=0.9999, budgets=(30,), learner="sklearn(estimator=tree)")
    found = run_pilots(few, out=tmp_path / "out")
    assert found.worst.best < 0.9999
    assert found.worst.queries is None or found.worst.queries.high == math.inf
    assert found.why in ("never reached", "most runs made", "time spent")


def test_pilots_end_when_their_time_is_spent(tmp_path: Path) -> None:
    with pytest.raises(AttackFailed, match="No pilot made a copy"):
        run_pilots(options(tmp_path, minutes=1e-9), out=tmp_path / "out")
    assert len(read_records(tmp_path / "out" / "records.jsonl")) == 1  # the control that asks nothing


def test_a_target_that_a_constant_reaches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Whoever asks nothing already has"):
        run_pilots(options(tmp_path, target=0.2), out=tmp_path / "out")
