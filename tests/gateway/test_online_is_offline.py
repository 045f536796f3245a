"""The flagship: what the audit says of a guard is true of the gate that serves it."""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tests.gateway.harness import KEYS, SECRET, Softmax, alarms_of, asked, gate, policy_of, running, served_of
from tests.gateway.test_models import further, main_policy

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Rows
from portcullis_ml.extraction.jacobian import Jacobian
from portcullis_ml.gateway.demo import INTERFACE, MlpLearner, digits_model, digits_rows
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.policy import read_policy
from portcullis_ml.gateway.querylog import read_log
from portcullis_ml.gateway.replay import replay
from portcullis_ml.models.artifacts import write_artifact
from portcullis_ml.models.torch import TorchLearner
from portcullis_ml.recipes import CATALOG as RECIPES

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
    "odin": WATCH + 'then = { unit = "out_of_domain", score = "odin", filter = "{odin_step}" }\n',
    "coverage": '[[guard]]\nunit = "watch"\n'
    'detector = { unit = "coverage", evaluation = "{evaluation_set}", threshold = 0.001 }\n'
    'then = { unit = "label_only" }\n',
    "trained": WATCH + 'then = { unit = "out_of_domain", filter = "{domain_filter}" }\n'
    '[[guard]]\nunit = "watch"\n'
    'detector = { unit = "extraction_monitor", evaluation = "{evaluation_set}", every = 20 }\n'
    'then = { unit = "label_only" }\n'
    '[[guard]]\nunit = "watch"\ndetector = { unit = "hardness", steps = "{training_steps}" }\n'
    'then = { unit = "rounding" }\n'
    '[[guard]]\nunit = "watch"\ndetector = { unit = "low_confidence" }\n'
    'then = { unit = "top_k" }\n',
    "call_rate": '[[guard]]\nunit = "watch"\n'
    'detector = { unit = "call_rate", threshold = 200 }\nthen = { unit = "block" }\n',
    "mahalanobis": '[[guard]]\nunit = "watch"\n'
    'detector = { unit = "mahalanobis", fitted = "{class_means}", threshold = 0.01, above = 0.3 }\n'
    'then = { unit = "out_of_domain", score = "mahalanobis", filter = "{class_means}", then = "fixed" }\n',
}


@cache
def fitted(recipe: str) -> str:
    """The folder of what this recipe makes of a network that knows the digits."""
    x, y = digits_rows()
    rng = np.random.default_rng(0)
    victim = TorchLearner(network="table_mlp", epochs=3).fit(x[:600], np.eye(10)[y[:600]], rng=rng)
    contents = RECIPES.build(recipe)(victim, Rows(x[:600], y[:600]), rng.random((100, 64)), rng=rng)
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_artifact(contents, Path(folder) / recipe).path


def with_artifacts(stages: str) -> str:
    """Stages with a folder in the place of "{recipe}"."""
    return re.sub(r"\{(\w+)\}", lambda found: fitted(found[1]), stages)


def same_answers(a: Extraction, b: Extraction) -> None:
    assert a.queries == b.queries
    assert a.stopped == b.stopped
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(a.answer.labels, b.answer.labels)
    np.testing.assert_array_equal(a.answer.scores, b.answer.scores)
    assert (a.answer.explanation is None) == (b.answer.explanation is None)
    if a.answer.explanation is not None:
        np.testing.assert_array_equal(a.answer.explanation, b.answer.explanation)
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
        policy = policy_of(model, upstream, tmp_path, with_artifacts(STAGES[stages]), more)
        with gate(policy) as server:
            online = HttpOracle(
                server.url, interface=INTERFACE, budget=400, model="digits", served={"binary": binary},
                headers={"x-api-key": KEYS["thief"]}, rows_per_request=60,
            )  # fmt: skip
            over_http = attack(online, knowledge, rng=np.random.default_rng(3))
            online.close()
            alarms = [(a.stage, a.row, a.suspicion) for a in alarms_of(server)]
    guard = Guard(*policy.stages, key=SECRET)
    offline = LocalOracle(model, INTERFACE, budget=400, guard=guard)
    same_answers(over_http, attack(offline, knowledge, rng=np.random.default_rng(3)))
    assert alarms == [(a.stage, a.row, a.suspicion) for a in offline.alarms]
    assert alarms  # or this test would say nothing about alarms


def test_a_further_model_is_stolen_as_it_is_behind_its_guard_alone(victim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Beside another model with another shape and guard, which the thief asks at the same time."""
    model, served = victim[0], replace(victim[1], name="acme/digits")
    beside = Softmax()
    x, _ = digits_rows()
    knowledge = Knowledge(seeds=x[1_200:1_300], learner=MlpLearner(iterations=25))
    attack = Jacobian(direction="away")
    with running(ModelServer(model, served)) as upstream, running(ModelServer(beside, served_of(beside))) as other:
        file = further(tmp_path, "digits", model, upstream, 'name = "acme/digits"', "", STAGES["quota"])
        policy = read_policy(main_policy(tmp_path, other, file, stages='[[guard]]\nunit = "rounding"\ndecimals = 1\n'))
        with gate(policy) as server:
            online = HttpOracle(
                server.url, interface=INTERFACE, budget=400, model="acme/digits",
                headers={"x-api-key": KEYS["thief"]}, rows_per_request=60,
            )  # fmt: skip
            assert asked(server.url, KEYS["thief"]) == 200
            over_http = attack(online, knowledge, rng=np.random.default_rng(3))
            assert asked(server.url, KEYS["thief"]) == 200
            online.close()
            alarms = [(a.stage, a.row, a.suspicion) for a in alarms_of(server, 1)]
            assert alarms_of(server) == []
    (one,) = policy.models
    offline = LocalOracle(model, INTERFACE, budget=400, guard=Guard(*one.stages, key=one.key))
    same_answers(over_http, attack(offline, knowledge, rng=np.random.default_rng(3)))
    assert alarms == [(a.stage, a.row, a.suspicion) for a in offline.alarms]
    assert alarms


class Explained:
    """The victim, and why: numbers that take all 53 bits."""

    def __init__(self, model) -> None:  # type: ignore[no-untyped-def]
        self.input_shape, self.n_classes, self.scores = model.input_shape, model.n_classes, model.scores

    def explain(self, x: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return np.sin((classes[:, None] + 1.0) * x - 0.3)


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
@pytest.mark.parametrize("then", ["block", "label_only", "other_class"])
def test_explanations_go_through_the_gate_as_they_do_through_the_guard(  # type: ignore[no-untyped-def]
    victim, then: str, binary: bool, tmp_path: Path
) -> None:
    model, explaining = Explained(victim[0]), replace(INTERFACE, explains=True)
    x, _ = digits_rows()
    knowledge = Knowledge(seeds=x[1_200:1_300], learner=MlpLearner(iterations=25))
    attack = Jacobian(direction="away")
    served = replace(victim[1], interface=explaining, explanation="saliency")
    stages = '[[guard]]\nunit = "tests.gateway.units:Doubts"\n' + WATCH + f'then = {{ unit = "{then}" }}\n'
    more = (
        '[model]\nname = "digits"\ninput_shape = [64]\nclasses = 10\nexplanation = "why"\n[answers]\nexplains = true\n'
    )
    with running(ModelServer(model, served)) as upstream:
        to = f'[upstream]\nurl = "{upstream}"\nexplanation = "saliency"\nbinary = {str(binary).lower()}\n'
        log = f'[log]\npath = "{tmp_path}/log"\nqueries = true\n'
        policy = policy_of(model, upstream, tmp_path, stages, more + to + log)
        with gate(policy) as server:
            online = HttpOracle(
                server.url, interface=explaining, budget=400, model="digits",
                served={"binary": binary, "explanation": "why"},
                headers={"x-api-key": KEYS["thief"]}, rows_per_request=60,
            )  # fmt: skip
            over_http = attack(online, knowledge, rng=np.random.default_rng(3))
            online.close()
            alarms = [(a.stage, a.row, a.suspicion) for a in alarms_of(server)]
    offline = LocalOracle(model, explaining, budget=400, guard=Guard(*policy.stages, key=SECRET))
    same_answers(over_http, attack(offline, knowledge, rng=np.random.default_rng(3)))
    assert over_http.answer.explanation is not None
    assert alarms == [(a.stage, a.row, a.suspicion) for a in offline.alarms]
    assert alarms
    again = replay(read_log(tmp_path / "log"), policy)
    assert again.requests >= 3
    assert again.different == []
