"""The table of docs/texts.md: which defenses and detectors of the catalogs work on texts, tried with each."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tests.defenses import toys as defended
from tests.detectors.toys import setup_of
from tests.gateway.harness import KEYS, SECRET, alarms_of, gate, running
from tests.gateway.test_text_gate import drawn
from tests.gateway.texts import CLASSES, INPUTS, policy, scores_of, served, victim

from portcullis_ml.core.errors import NotApplicable, PortcullisError, Refused
from portcullis_ml.core.guard import Defense, Guard
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import WITHHELD, Answer, Array, Request, Rows
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.defenses.log import Log
from portcullis_ml.defenses.out_of_domain import OutOfDomain
from portcullis_ml.defenses.watch import Watch
from portcullis_ml.detectors import CATALOG as DETECTORS
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.protocols.texts import Hashing, TextInput
from portcullis_ml.models.artifacts import write_artifact
from portcullis_ml.models.texts import TextInterface
from portcullis_ml.recipes.evaluation_set import EvaluationSet

PAGE = (Path(__file__).parents[2] / "docs" / "texts.md").read_text()


def said(kind: str) -> dict[str, str]:
    """Every unit -> the first word that the page's table says of it."""
    table = PAGE[PAGE.index("| stage |") :].partition("\n\n")[0].splitlines()[2:]
    found = {}
    for line in table:
        units, *words = line.strip("| ").split(" | ")
        word = re.match(r"yes|no|fitted", words[kind == "hashing"])
        assert word, line
        found |= dict.fromkeys(re.findall(r"`([a-z_]+)`", units.partition("(but for")[0]), word[0])
    return found


@pytest.mark.parametrize("kind", INPUTS)
def test_the_table_names_every_unit(kind: str) -> None:
    assert set(said(kind)) == {*DEFENSES, *DETECTORS}


def stage(name: str) -> Defense:
    """A unit of either catalog with its settings, as a stage of a guard."""
    if name in DEFENSES:
        return DEFENSES.load(name)(**defended.REQUIRED.get(name, {}))  # type: ignore[no-any-return]
    return Watch(DETECTORS.load(name)(**setup_of(name).settings()), then=Log())


def answered(guard: Guard, x: Array, texts: list[str], cut: int) -> Answer:
    parts = []
    for start in range(0, len(x), cut):
        request = Request("alice", x[start : start + cut], 0.0)
        scores = scores_of(texts[start : start + cut])
        try:
            guard.admit(request)
        except Refused:
            parts.append(Answer(np.full(len(scores), WITHHELD), np.full_like(scores, np.nan)))
            continue
        parts.append(guard.release(request, Answer(scores.argmax(axis=1), scores)).answer)
    return Answer.concat(parts)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", sorted([*DEFENSES, *DETECTORS]))
def test_a_unit_does_what_the_table_says(name: str, kind: str) -> None:
    spec, texts = served(INPUTS[kind]), drawn(40)
    x, word = spec.text.rows(texts), said(kind)[name]
    if word != "yes":
        with pytest.raises((NotApplicable, PortcullisError), match=r"takes texts|rows .*\((3|32),\)"):
            Guard(stage(name), key=SECRET, interface=spec.interface)
        return
    piece = 40 if name in ("priced", "proof_of_work") else 7  # these price a request by what was known before it
    whole, cut = (
        answered(Guard(stage(name), key=SECRET, interface=spec.interface), x, texts, n) for n in (40, piece)
    )  # fmt: skip
    assert whole.answered.any() or name == "block"
    np.testing.assert_array_equal(whole.labels, cut.labels)
    np.testing.assert_array_equal(whole.scores, cut.scores)


@pytest.mark.parametrize("kind", INPUTS)
def test_the_models_own_doubt_tells_foreign_texts(kind: str) -> None:
    spec, texts = served(INPUTS[kind]), drawn(40)
    guard = Guard(OutOfDomain(score="msp", threshold=0.5, then="block"), key=SECRET, interface=spec.interface)
    found = answered(guard, spec.text.rows(texts), texts, 40)
    np.testing.assert_array_equal(found.answered, scores_of(texts).max(axis=1) >= 0.5)


class LookedUp:
    """The model of texts, asked with their vectors."""

    def __init__(self, rows: Array, texts: list[str]) -> None:
        self.input_shape, self.n_classes = rows.shape[1:], CLASSES
        self._held = {row.tobytes(): text for row, text in zip(rows, texts, strict=True)}

    def scores(self, x: Array) -> Array:
        return scores_of([self._held[np.ascontiguousarray(row).tobytes()] for row in x])


def test_coverage_of_hashed_words_goes_off_at_the_gate_as_offline(tmp_path: Path) -> None:
    text, own, texts = TextInput(hashing=Hashing(dimensions=8)), drawn(120, 1), drawn(150, 2)
    rows = text.rows(own)
    labels = scores_of(own).argmax(axis=1)
    made = EvaluationSet()(LookedUp(rows, own), Rows(rows, labels), None, rng=np.random.default_rng(0))
    write_artifact(made, tmp_path / "evaluation")
    stages = (
        '[[guard]]\nunit = "watch"\ndetector = { unit = "coverage", evaluation = "evaluation", threshold = 5.0 }\n'
        'then = { unit = "label_only" }\n'
    )
    model, spec = victim()
    interface = TextInterface(n_classes=CLASSES)
    with running(ModelServer(model, spec)) as upstream:
        found = policy(upstream, tmp_path, stages, text='rows = { unit = "hashing", dimensions = 8 }\n')
        with gate(found) as server:
            oracle = HttpOracle(
                server.url, interface=interface, budget=150, model="m", headers={"x-api-key": KEYS["alice"]},
                rows_per_request=25,
            )  # fmt: skip
            online = oracle.query(interface.texts.add(texts))
            oracle.close()
            alarms = [(a.stage, a.row, a.suspicion) for a in alarms_of(server)]
    offline = found.guard()
    near = answered(offline, text.rows(texts), texts, 25)
    np.testing.assert_array_equal(online.labels, near.labels)
    np.testing.assert_array_equal(online.scores, near.scores)
    assert alarms, describe(found.stages[0])
    assert np.isnan(online.scores).any()
