"""Every unit of the catalogs, served by the gate: what it answers online, and after a restart, is what it answers
offline, in JSON and binary.

A unit joins by itself: a defense with its lines in tests/defenses/toys.py (variants of it are tried in binary alone),
a detector in tests/detectors/toys.py, a hardening in tests/recipes/toys.py. One that the gate cannot serve gets a line
in `NOT_SERVED`, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.defenses import toys as defended
from tests.detectors.toys import setup_of
from tests.gateway.harness import KEYS, SECRET, alarms_of, gate, policy_of, running
from tests.recipes import toys as trainings

from portcullis_ml.core.errors import Refused
from portcullis_ml.core.guard import Defense, Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Answer, Array, Interface, Model
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.defenses.watch import Watch
from portcullis_ml.detectors import CATALOG as DETECTORS
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.protocols.wire import ModelSpec
from portcullis_ml.gateway.querylog import read_log
from portcullis_ml.gateway.replay import replay
from portcullis_ml.hardening import CATALOG as HARDENINGS
from portcullis_ml.report.recommend import toml

NOT_SERVED: dict[str, str] = {}  # name of a unit -> why no gate can serve it

BATCH, PIECE = 20, 7  # rows that the audit asks at once, and rows of one request to the gate


@dataclass(frozen=True)
class Case:
    """One unit with its settings, before which API it stands, and what it is asked."""

    interface: Interface
    model: Model
    stages: tuple[Defense[Any], ...]
    x: Array
    whole: bool = False  # whether what one request says and two say differs


@dataclass(frozen=True)
class Answers:
    """A model that answers as a toy does, and explains where the toy does."""

    input_shape: tuple[int, ...]
    n_classes: int
    answer: Callable[[Array], Answer]

    def scores(self, x: Array) -> Array:
        scores = self.answer(x).scores
        assert scores is not None
        return scores

    def explain(self, x: Array, classes: Array) -> Array:
        return np.sin(x + classes[:, None])


def of_defense(case: str) -> Case:
    name = case.partition("-")[0]
    settings = defended.VARIANTS.get(case, defended.REQUIRED.get(name, {}))
    api = replace(defended.API, explains=True)
    model = Answers(api.input_shape, api.n_classes, defended.answer_to)
    whole = name in ("priced", "proof_of_work")  # a request is priced by what was known before it
    return Case(api, model, (DEFENSES.load(name)(**settings),), defended.rows(60), whole)


def of_detector(name: str) -> Case:
    setup = setup_of(name)
    model = Answers(setup.api.input_shape, setup.api.n_classes, setup.answer_to)
    stage = Watch(DETECTORS.load(name)(**setup.settings()), then=DEFENSES.build("label_only"))
    return Case(setup.api, model, (stage,), setup.attack(400, 0))


def of_hardening(name: str) -> Case:
    victim = trainings.HARDENINGS[name]()(
        trainings.LEARNER, trainings.own(), trainings.foreign(), rng=np.random.default_rng(0)
    )
    x = np.concatenate([trainings.own(30, 5).x, trainings.foreign(30, 6)])
    return Case(trainings.API, victim, (DEFENSES.build("rounding(decimals=3)"),), x)


CASES = {
    **{f"defense {case}": of_defense for case in sorted({*DEFENSES, *defended.VARIANTS})},
    **{f"detector {name}": of_detector for name in DETECTORS},
    **{f"hardening {name}": of_hardening for name in HARDENINGS},
}
TRIED = [case for case in CASES if case.partition(" ")[2].partition("-")[0] not in NOT_SERVED]


@cache
def case_of(case: str) -> Case:
    return CASES[case](case.partition(" ")[2])


def asked(oracle: LocalOracle | HttpOracle, x: Array) -> list[tuple[Answer | None, bool]]:
    """What came for every batch, and whether the guard refused to go on there."""
    found: list[tuple[Answer | None, bool]] = []
    for start in range(0, len(x), BATCH):
        try:
            found.append((oracle.query(x[start : start + BATCH]), False))
        except Refused as refusal:
            found.append((refusal.answered, True))
    return found


def same(online: list[tuple[Answer | None, bool]], offline: list[tuple[Answer | None, bool]]) -> None:
    for (a, refused), (b, refused_there) in zip(online, offline, strict=True):
        assert refused == refused_there
        assert (a is None) == (b is None)
        for part in ("labels", "scores", "explanation"):
            shown, wanted = getattr(a, part, None), getattr(b, part, None)
            assert (shown is None) == (wanted is None), part
            if shown is not None:
                np.testing.assert_array_equal(shown, wanted, err_msg=part)


def oracle_of(url: str, case: Case, binary: bool) -> HttpOracle:
    return HttpOracle(
        url, interface=case.interface, budget=1_000, model="toy", served={"binary": binary},
        headers={"x-api-key": KEYS["thief"]}, rows_per_request=BATCH if case.whole else PIECE,
    )  # fmt: skip


def policy_for(case: Case, upstream: str, binary: bool, folder: Path) -> Any:
    model = f'[model]\nname = "toy"\ninput_shape = {list(case.interface.input_shape)}\n'
    model += f"classes = {case.interface.n_classes}\n"
    shown = "[answers]\nexplains = true\n" if case.interface.explains else ""
    to = f'[upstream]\nurl = "{upstream}"\nbinary = {str(binary).lower()}\n'
    to += 'explanation = "explanation"\n' if case.interface.explains else ""
    model += 'explanation = "explanation"\n' if case.interface.explains else ""
    log = f'[log]\npath = "{folder}/log"\nqueries = true\n'
    stages = "".join(toml(describe(stage)) + "\n" for stage in case.stages)
    return policy_of(case.model, upstream, folder, stages, model + shown + to + log)


@pytest.mark.parametrize(("name", "binary"), [(n, b) for n in TRIED for b in ((True,) if "-" in n else (False, True))])
def test_online_and_after_a_restart_is_offline(name: str, binary: bool, tmp_path: Path) -> None:
    case, online, found = case_of(name), [], None
    half = len(case.x) // (2 * BATCH) * BATCH
    served = ModelSpec(
        name="toy", interface=case.interface, explanation="explanation" if case.interface.explains else None
    )
    with running(ModelServer(case.model, served)) as upstream:
        policy = policy_for(case, upstream, binary, tmp_path)
        for x in (case.x[:half], np.concatenate([case.x[half:], case.x[:BATCH]])):  # the last rows were asked before
            with gate(policy) as server:
                oracle = oracle_of(server.url, case, binary)
                online += asked(oracle, x)
                oracle.close()
                found = [(a.stage, a.row, a.suspicion) for a in alarms_of(server)]
    offline = LocalOracle(
        case.model, case.interface, budget=1_000, guard=Guard(*case.stages, key=SECRET, quantum=policy.quantum)
    )
    same(online, asked(offline, np.concatenate([case.x, case.x[:BATCH]])))
    assert found == [(a.stage, a.row, a.suspicion) for a in offline.alarms]
    assert found or not name.startswith("detector")  # a detector's stream is the attack of its paper
    again = replay(read_log(tmp_path / "log"), policy)
    assert again.requests >= 3
    assert again.different == []


def test_a_unit_that_is_not_served_is_one_of_the_catalog_and_has_a_reason() -> None:
    names = {*DEFENSES, *DETECTORS, *HARDENINGS}
    tried = {case.partition(" ")[2].partition("-")[0] for case in TRIED}
    assert tried | set(NOT_SERVED) == names
    assert all(reason.strip() for reason in NOT_SERVED.values())
