"""Classifiers of strings that ship inside wheels are audited as they come: run where they are installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from portcullis_ml.extraction.knockoff import Knockoff

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PACKAGES = {"alt-profanity-check": "profanity_check", "magika": "magika", "py3langid": "py3langid"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_a_victim_from_a_wheel_answers_as_it_does_by_itself_and_is_stolen_from(name, tmp_path, monkeypatch):
    pytest.importorskip(PACKAGES[name])
    if "PORTCULLIS_DATA" not in os.environ:
        pytest.skip("its texts are made of tinyshakespeare.txt in $PORTCULLIS_DATA")
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "wheels", raising=False)
    import wheels  # type: ignore[import-not-found]

    monkeypatch.setattr(wheels, "TEST", 60)
    monkeypatch.setattr(wheels, "POOL", 60)
    experiment = wheels.experiment_of(name, tmp_path)
    texts = experiment.interface.texts.of(experiment.test_x[:20])
    asked = getattr(wheels, wheels.VICTIMS[name][0])(texts)
    scores = experiment.model.scores(experiment.test_x[:20])
    if name == "magika":
        assert [experiment.interface.words[c] for c in scores.argmax(axis=1)] == asked
    else:
        assert np.allclose(scores if scores.shape[1] > 2 else scores[:, 1], asked)
    shown = wheels.VICTIMS[name][2][0]
    labels = experiment.model.scores(experiment.test_x).argmax(axis=1)
    constant = np.bincount(labels).max() / len(labels)
    assert wheels.agreed(Knockoff(), experiment, shown, 60, 0).value >= constant - 0.15
