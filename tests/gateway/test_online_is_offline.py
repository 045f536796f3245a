"""The flagship: what the audit says of a guard is true of the gate that serves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.gateway.harness import KEYS, SECRET, gate, policy_of, running

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.extraction.jacobian import Jacobian
from portcullis_ml.gateway.demo import INTERFACE, MlpLearner, digits_model, digits_rows
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle

WATCH = '[[guard]]\nunit = "watch"\ndetector = { unit = "prada", threshold = 1.5 }\n'  # low, so that it goes off
ROUNDING = '[[guard]]\nunit = "rounding"\ndecimals = 3\n'
STAGES = {
    "blocked": WATCH + 'then = { unit = "block" }\n' + ROUNDING,
    "labels": WATCH + 'then = { unit = "label_only" }\n',
    "quota": '[[guard]]\nunit = "quota"\nrows = 250\n' + WATCH + 'then = { unit = "label_only" }\n',
    "a model's": '[[guard]]\nunit = "tests.gateway.units:Slow"\nseconds = 0.0\n'
    + WATCH
    + 'then = { unit = "block" }\n',
    "other class": WATCH + 'then = { unit = "other_class" }\n',
}


def same_answers(a: Extraction, b: Extraction) -> None:
    assert a.queries == b.queries
    assert a.stopped == b.stopped
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(a.answer.labels, b.answer.labels)
    np.testing.assert_array_equal(a.answer.scores, b.answer.scores)
    probe = np.random.default_rng(5).random((50, 64))
    np.testing.assert_array_equal(a.model.scores(probe), b.model.scores(probe))


@pytest.fixture(scope="module")
def victim():  # type: ignore[no-untyped-def]
    return digits_model()


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
@pytest.mark.parametrize("stages", STAGES)
def test_the_same_attack_steals_the_same_model(victim, stages: str, binary: bool, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, served = victim
    x, _ = digits_rows()
    knowledge = Knowledge(seeds=x[1_200:1_300], learner=MlpLearner(iterations=25))
    attack = Jacobian(direction="away")
    with running(ModelServer(model, served)) as upstream:
        more = '[model]\nname = "digits"\ninput_shape = [64]\nclasses = 10\n'
        policy = policy_of(model, upstream, tmp_path, STAGES[stages], more)
        with gate(policy) as server:
            online = HttpOracle(
                server.url, interface=INTERFACE, budget=400, model="digits", served={"binary": binary},
                headers={"x-api-key": KEYS["thief"]}, rows_per_request=60,
            )  # fmt: skip
            over_http = attack(online, knowledge, rng=np.random.default_rng(3))
            online.close()
            alarms = [(a.stage, a.row, a.suspicion) for a in _alarms(server)]
    guard = Guard(*policy.stages, key=SECRET)
    offline = LocalOracle(model, INTERFACE, budget=400, guard=guard)
    same_answers(over_http, attack(offline, knowledge, rng=np.random.default_rng(3)))
    assert alarms == [(a.stage, a.row, a.suspicion) for a in offline.alarms]
    assert alarms  # or this test would say nothing about alarms


def _alarms(server) -> list:  # type: ignore[no-untyped-def]
    import sqlite3

    from portcullis_ml.core.guard import Alarm

    with sqlite3.connect(server.policy.state.url.removeprefix("sqlite:///")) as db:
        rows = db.execute("SELECT stage, client, row, suspicion, at FROM alarms").fetchall()
    db.close()
    return [Alarm(*row) for row in rows]
