"""Attacks with natural rows steal the same copy through the gate as from the same guard in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.gateway.harness import KEYS, SECRET, gate, policy_of, running

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.extraction.active_thief import ActiveThief
from portcullis_ml.extraction.copycat import Copycat
from portcullis_ml.extraction.knockoff import Knockoff
from portcullis_ml.extraction.swift_thief import SwiftThief
from portcullis_ml.gateway.demo import INTERFACE, MlpLearner, digits_model, digits_rows
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle

ROUNDING = '[[guard]]\nunit = "rounding"\ndecimals = 2\n'
ATTACKS: dict[str, ExtractionAttack] = {
    "adaptive knockoff": Knockoff(selection="adaptive", batch=32, clusters=4),
    "copycat": Copycat(batch=32),
    "active_thief": ActiveThief(rounds=2),
    "swift_thief": SwiftThief(rounds=2, contrast=1, projector=16),
}


def test_the_copy_is_that_of_the_guard_in_this_process(tmp_path: Path) -> None:
    model, served = digits_model()
    known = Knowledge(pool=digits_rows()[0][1_200:1_400], learner=MlpLearner(iterations=10))
    probe = np.random.default_rng(5).random((50, 64))
    more = '[model]\nname = "digits"\ninput_shape = [64]\nclasses = 10\n'
    with running(ModelServer(model, served)) as upstream:
        policy = policy_of(model, upstream, tmp_path, ROUNDING, more)
        with gate(policy) as server:
            for name, attack in ATTACKS.items():
                online = HttpOracle(
                    server.url, interface=INTERFACE, budget=120, model="digits", headers={"x-api-key": KEYS["thief"]},
                    rows_per_request=50,
                )  # fmt: skip
                far = attack(online, known, rng=np.random.default_rng(3))
                online.close()
                offline = LocalOracle(model, INTERFACE, budget=120, guard=Guard(*policy.stages, key=SECRET))
                near = attack(offline, known, rng=np.random.default_rng(3))
                assert far.queries == near.queries == 120, name
                np.testing.assert_array_equal(far.x, near.x, name)
                np.testing.assert_array_equal(far.model.scores(probe), near.model.scores(probe), name)
