"""The audit of whoever brings nothing is a scene; whoever says anything of victim, thief or defenses gets their own."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from portcullis_ml.bench.experiment import ExperimentSpec
from portcullis_ml.bench.run_audit import AuditOptions
from portcullis_ml.bench.showcase import ATTACKS, BUDGETS, EXACT, showcase

PLAIN = ExperimentSpec(data="digits", rows=20_000)


def test_whoever_brings_nothing_sees_the_scene() -> None:
    found = showcase(AuditOptions(spec=PLAIN, seeds=5, seed=3, price_per_label=0.1))
    assert found.attacks == ATTACKS
    assert found.budgets == BUDGETS
    assert found.spec == replace(PLAIN, trained="sklearn(c=1.0)", rows=EXACT)
    assert (found.seeds, found.seed, found.price_per_label) == (5, 3, 0.1)
    assert showcase(AuditOptions(spec=PLAIN, quick=True)).budgets == (EXACT,)


@pytest.mark.parametrize(
    "said",
    [
        {"attacks": ("knockoff",)},
        {"defenses": ()},
        {"budgets": (100,)},
        {"answers": "labels"},
        {"decimals": 2},
        {"deployed": "label_only"},
        {"learner": "sklearn"},
        {"epochs": 3},
        {"then": ("membership",)},
        {"marks": ("backdoor",)},
        {"privacy": ("gap",)},
        {"spec": replace(PLAIN, victim="model.onnx", data=None)},
        {"spec": replace(PLAIN, outside="other.npz")},
        {"spec": replace(PLAIN, explain="gradient_x_input")},
    ],
)
def test_whoever_says_anything_gets_their_own_audit(said: dict[str, Any]) -> None:
    options = AuditOptions(**({"spec": PLAIN} | said))
    assert showcase(options) is options


def test_the_scenes_victim_is_solved_with_as_many_queries_as_it_has_pixels_and_one() -> None:
    from portcullis_ml.core.attack import Knowledge
    from portcullis_ml.core.oracle import LocalOracle
    from portcullis_ml.extraction import CATALOG

    experiment = showcase(AuditOptions(spec=PLAIN)).spec.load()
    assert experiment.pool is not None
    assert len(experiment.pool) == EXACT == experiment.test_x[0].size + 1
    oracle = LocalOracle(experiment.model, experiment.interface, budget=EXACT)
    copy = CATALOG.build("equation_solving")(oracle, Knowledge(), rng=np.random.default_rng(100)).model
    assert oracle.left == 0
    labels = (m.scores(experiment.test_x).argmax(axis=1) for m in (experiment.model, copy))
    assert np.array_equal(*labels)
