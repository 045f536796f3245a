"""DeepDefense in the gate: answers and explanations are those of the guard, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.gateway.harness import KEYS, SECRET, gate, policy_of, running, served_of
from tests.recipes.toys import VICTIM, deep

from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Rows
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.models.artifacts import write_artifact
from portcullis_ml.models.explain import explainer_named
from portcullis_ml.recipes.misdirection import Misdirection

X = np.random.default_rng(0).random((7, 4))


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_online_is_offline(binary: bool, tmp_path: Path) -> None:
    network = deep(VICTIM.w, VICTIM.b)
    write_artifact(Misdirection()(network, Rows(X), None, rng=np.random.default_rng(0)), tmp_path / "network")
    model = explainer_named("gradient_x_input")(network, like=X)
    served = served_of(model, explanation="why")
    served = replace(served, interface=replace(served.interface, explains=True))
    stages = '[[guard]]\nunit = "deep_defense"\nnetwork = "network"\nexplanation = "gradient_x_input"\nsteps = 4\n'
    more = '[model]\nname = "m"\ninput_shape = [4]\nclasses = 3\nexplanation = "why"\n[answers]\nexplains = true\n'
    with running(ModelServer(model, served)) as url:
        policy = policy_of(model, url, tmp_path, stages, f'{more}[upstream]\nurl = "{url}"\nexplanation = "why"\n')
        with gate(policy) as server:
            online = HttpOracle(
                server.url, interface=served.interface, budget=20, model="m", rows_per_request=3,
                served={"binary": binary, "explanation": "why"}, headers={"x-api-key": KEYS["thief"]},
            )  # fmt: skip
            found = online.query(X)
            online.close()
    guard = Guard(*policy.stages, key=SECRET)
    offline = LocalOracle(model, served.interface, budget=20, guard=guard).query(X)
    for one, other in zip(vars(found).values(), vars(offline).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(found.scores, network.scores(X))
    assert not np.array_equal(found.explanation, model.explain(X, found.labels))
