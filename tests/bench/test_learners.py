"""A learner that somebody names trains the copies of an audit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from portcullis_ml.bench.experiment import ExperimentSpec
from portcullis_ml.bench.run_audit import AuditOptions, run_audit
from portcullis_ml.core.errors import InputError, ParameterError


def options(learner: str, **more: object) -> AuditOptions:
    return AuditOptions(
        spec=ExperimentSpec(rows=200),
        learner=learner,
        attacks=("knockoff",),
        defenses=(),
        budgets=(60,),
        seeds=1,
        **more,
    )


def test_the_named_learner_trains_the_copies(tmp_path: Path) -> None:
    records, meta = run_audit(options("network(network=digits_cnn, epochs=2, shift=1)"), out=tmp_path, jobs=0)
    assert any(r["attack"] == "knockoff" and r["outcome"] == "done" for r in records)
    assert "trains digits_cnn for 2 epochs" in json.dumps(meta)


def test_a_wrong_learner_is_found_out_before_anything_is_loaded() -> None:
    with pytest.raises(ParameterError, match="learners name must be one of those in `portcullis list learners`"):
        options("pretraned")
    with pytest.raises(InputError, match="There is no backbone 'resnet'"):
        options("pretrained(backbone=resnet)")
    with pytest.raises(ParameterError, match=r"--epochs must be left out beside --learner; got 3\. Write epochs=N"):
        options("network", epochs=3)
