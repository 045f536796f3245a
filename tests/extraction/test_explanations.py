"""An attack that reads explanations: a toy that holds an explaining API to the contract of every other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.extraction import Extraction, ExtractionAttack
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Answer, Array, Interface, Model, Request, Reveals
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.models.explain import explainer_named

from .toys import MemoryLedger, ToySoftmax, toy_victim

VICTIM = toy_victim()
EXPLAINED = explainer_named("gradient_x_input")(VICTIM)
LABELS = Interface(input_shape=VICTIM.input_shape, n_classes=3, reveals=Reveals.LABELS)
EXPLAINS = LABELS.revealing(explains=True)


@dataclass(frozen=True, kw_only=True)
class ReadWeights(ExtractionAttack):
    """Gradient x input of a linear model, divided by the input, is a row of its weights."""

    name: ClassVar[str] = "read_weights"
    needs: ClassVar[Needs] = Needs(explains=True)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        w = np.zeros((interface.n_classes, interface.n_inputs))
        while harvest.open:
            x = interface.uniform(10, rng)
            answer = harvest.ask(x)
            assert answer.explanation is not None
            assert answer.labels is not None
            w[answer.labels] = (answer.explanation / x[: len(answer)]).reshape(len(answer), -1)
        return ToySoftmax(w, -w.sum(axis=1) / 2, interface.input_shape)


def steal(oracle: LocalOracle) -> Extraction:
    return ReadWeights()(oracle, Knowledge(), rng=np.random.default_rng(0))


def test_explanations_beside_labels_alone_give_a_linear_model_away() -> None:
    result = steal(LocalOracle(EXPLAINED, EXPLAINS, budget=60))
    assert isinstance(result.model, ToySoftmax)
    assert result.answer.scores is None
    np.testing.assert_allclose(result.model.w, VICTIM.w, rtol=1e-12)


@pytest.mark.parametrize("shown", [LABELS, LABELS.revealing(reveals=Reveals.PROBS)])
def test_what_reads_explanations_is_not_applicable_where_the_api_gives_none(shown: Interface) -> None:
    oracle = LocalOracle(EXPLAINED, shown, budget=60)
    with pytest.raises(NotApplicable, match=r"read_weights needs explanations; this API gives none\."):
        steal(oracle)
    assert oracle.queries == 0


def test_it_is_not_applicable_either_where_the_guard_leaves_them_out() -> None:
    guard = Guard(DEFENSES.build("label_only"), key=bytes(16))
    with pytest.raises(NotApplicable, match="read_weights needs explanations"):
        steal(LocalOracle(EXPLAINED, guard.shown(EXPLAINS), budget=60, guard=guard))


def test_a_killed_run_is_told_the_explanations_again() -> None:
    whole, ledger = steal(LocalOracle(EXPLAINED, EXPLAINS, budget=60)), MemoryLedger()
    LocalOracle(EXPLAINED, EXPLAINS, budget=60, ledger=ledger).query(whole.x[:25])
    ledger.rewind()
    resumed = steal(LocalOracle(EXPLAINED, EXPLAINS, budget=60, ledger=ledger))
    assert len(ledger) == 60  # the first 25 were not asked and recorded again
    np.testing.assert_array_equal(resumed.answer.explanation, whole.answer.explanation)


def test_an_oracle_hands_out_the_same_explanations_however_the_rows_are_cut() -> None:
    x = EXPLAINS.uniform(50, np.random.default_rng(1))

    def asked(*cuts: int) -> Answer:
        oracle = LocalOracle(EXPLAINED, EXPLAINS, budget=50)
        return Answer.concat([oracle.query(part) for part in np.split(x, cuts)])

    def bits(found: Array | None) -> bytes:
        return b"" if found is None else found.tobytes()

    whole = asked()
    assert bits(whole.explanation)
    for cuts in ((1,), (7, 8, 33), tuple(range(1, 50))):
        assert bits(asked(*cuts).explanation) == bits(whole.explanation)


def test_a_guard_marks_rows_whose_explanation_it_withheld() -> None:
    x = EXPLAINS.uniform(5, np.random.default_rng(1))
    clean = Answer(VICTIM.scores(x).argmax(axis=1), None, np.ones((5, 2)))
    released = Guard(DEFENSES.build("label_only"), key=bytes(16)).release(Request("a", x), clean)
    assert released.altered.all()
