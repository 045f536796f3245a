"""An audit of an API that explains its answers: other cells, and explanations that are paid for once."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace

import numpy as np
import pytest

from portcullis_ml.bench.audit_cell import audit_cell
from portcullis_ml.bench.ledger import OVERHEAD, FileLedger
from portcullis_ml.bench.named import attack_named, guard_named, mark_named, privacy_named
from portcullis_ml.bench.run_audit import AuditOptions, plan_of, shown_as
from portcullis_ml.bench.single import extract_to
from portcullis_ml.core.attack import Needs
from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.settings import describe
from portcullis_ml.models.constant import ConstantModel
from portcullis_ml.models.explain import ExplainedModel, Explainer, explainer_named
from portcullis_ml.models.sklearn import SklearnLearner

from .experiments import cell_for, spec, victim, workspace
from .toys import INTERFACE, Counting, questions

WORD = "gradient_x_input"
SHOWN = {"reveals": "probs", "explains": True, "explainer": {"unit": WORD}}
EXPLAINS = INTERFACE.revealing(explains=True)


@dataclass(frozen=True, kw_only=True)
class Reader(ExtractionAttack):
    """Asks until its budget is spent, and returns a constant."""

    name = f"{__name__}:Reader"
    needs = Needs(explains=True)

    def steal(self, harvest, interface, knowledge, rng):
        while harvest.open:
            assert harvest.ask(interface.uniform(min(7, harvest.left), rng)).explanation is not None
        return ConstantModel(interface.input_shape, np.eye(interface.n_classes)[0])


@dataclass(frozen=True, kw_only=True)
class Unsteady(Defense[None]):
    """Noise from a live generator, in the explanation alone."""

    def release(self, request, answer, clean, state, noise):
        return replace(answer, explanation=np.random.default_rng().normal(size=answer.explanation.shape))


@dataclass(frozen=True, kw_only=True)
class Halves(Explainer):
    """Half of a row, whatever the model."""

    def prepare(self, model):
        return lambda x, classes: x / 2


@pytest.fixture
def here(tmp_path):
    return replace(spec(tmp_path), explain=WORD)


# what a cell says


def test_a_cell_says_that_its_api_explains_and_how(here):
    plain, explained = (plan_of(AuditOptions(spec=s), s.load()) for s in (replace(here, explain=None), here))
    assert plain.interface == {"reveals": "probs"}
    assert explained.interface == SHOWN
    assert shown_as("labels", explain="grad_cam(upsample=True)") == {
        "reveals": "labels",
        "explains": True,
        "explainer": {"unit": "grad_cam", "layer": None, "upsample": True},
    }
    assert {*explained.attacks} - {*plain.attacks} == {"gradient_matching"}  # it reads explanations
    both = (plain, replace(explained, attacks=plain.attacks))
    ids = [{c.id for c in plan.cells()} for plan in both]
    assert len(ids[0]) == len(ids[1])
    assert not ids[0] & ids[1]


def test_labels_beside_explanations_are_put_beside_labels_alone(here):
    for explain, defenses in ((None, ["none"]), (WORD, ["none", "label_only"])):
        options = AuditOptions(spec=replace(here, explain=explain), answers="labels", defenses=())
        cells = plan_of(options, options.spec.load()).cells()
        assert sorted({c.defense_name for c in cells}, reverse=True) == defenses


def test_a_victim_keeps_its_name_and_its_scores(here):
    plain, explained = replace(here, explain=None).load(), here.load()
    assert (plain.interface.explains, explained.interface.explains) == (False, True)
    assert plain.names == explained.names
    np.testing.assert_array_equal(explained.model.scores(plain.test_x), victim.scores(plain.test_x))


def test_what_cannot_be_explained_is_refused(here):
    for changes, sentence in (
        ({"explain": "grad_cam"}, "grad_cam explains a convolutional network in PyTorch; this victim is a Softmax"),
        ({"incomplete": True}, "incomplete wants a scikit-learn pipeline"),
    ):
        with pytest.raises(InputError, match=sentence):
            replace(here, **changes).load()
    with pytest.raises(ParameterError, match="Did you mean gradient_x_input"):
        AuditOptions(spec=replace(here, victim="no.such:thing", explain="gradient_input"))


def test_an_audit_without_a_victim_explains_the_one_that_it_trains(tmp_path):
    from portcullis_ml.bench.experiment import ExperimentSpec

    experiment = ExperimentSpec(explain="grad_cam", cache=str(tmp_path)).load()
    assert isinstance(experiment.model, ExplainedModel)
    assert experiment.model.explanation_shape == (3, 3)
    with pytest.raises(ParameterError, match="Did you mean grad_cam"):
        ExperimentSpec(explain="gradcam", cache=str(tmp_path / "no training")).load()
    assert not (tmp_path / "no training").exists()


# what a cell does


def test_a_cell_that_explains_is_another_than_one_that_does_not(here, tmp_path):
    attack = {"unit": f"{__name__}:Reader"}
    plain, explained = (cell_for(here, attack, interface=shown, budget=20) for shown in ({"reveals": "probs"}, SHOWN))
    assert plain.id != explained.id
    with pytest.raises(NotApplicable, match="needs explanations; this API gives none"):
        audit_cell(plain, workspace(tmp_path / "plain"), spec=here)
    record = audit_cell(explained, workspace(tmp_path / "explained"), spec=here)
    assert record.queries == 20
    assert record.threat_model["answers"] == "probs and explanations"


def test_a_cell_that_explains_needs_a_victim_that_does(here, tmp_path):
    cell = cell_for(here, {"unit": f"{__name__}:Reader"}, interface=SHOWN)
    with pytest.raises(InputError, match="said to explain its answers, and the model cannot"):
        audit_cell(cell, workspace(tmp_path / "w"), spec=replace(here, explain=None))


def test_a_victim_that_was_trained_with_a_mark_explains_too(tmp_path):
    rng = np.random.default_rng(3)
    labelled = spec(tmp_path, train_x=rng.uniform(size=(200, 4)), train_y=rng.integers(3, size=200))
    own = replace(labelled, explain=f"{__name__}:Halves")
    cell = cell_for(
        own,
        {"unit": f"{__name__}:Reader"},
        interface=shown_as("probs", explain=own.explain),
        mark=mark_named("tests.ownership.toys:Trained"),
        learner=describe(SklearnLearner(estimator="tree")),
    )
    record = audit_cell(cell, workspace(tmp_path / "w"), spec=own)
    assert record.queries == 60
    assert [link["kind"] for link in record.then] == ["ownership"] * 2


def test_an_attack_on_the_training_data_of_an_api_that_explains(tmp_path):
    rng = np.random.default_rng(3)
    train = {"train_x": rng.uniform(size=(200, 4)), "train_y": rng.integers(3, size=200)}
    own = replace(spec(tmp_path, **train, test_y=rng.integers(3, size=120)), explain=WORD)
    cell = cell_for(own, privacy_named("loss_threshold"), role="privacy", interface=SHOWN)
    assert audit_cell(cell, workspace(tmp_path / "w"), spec=own).queries == 60


def test_behind_label_only_nothing_is_explained(here, tmp_path):
    cell = cell_for(here, {"unit": f"{__name__}:Reader"}, interface=SHOWN, defense=guard_named("label_only").stages)
    with pytest.raises(NotApplicable, match="needs explanations; this API gives none"):
        audit_cell(cell, workspace(tmp_path / "w"), spec=here)


def test_honest_clients_of_an_api_that_explains(here, tmp_path):
    def honest(*defense):
        return audit_cell(
            cell_for(here, {"unit": "honest"}, interface=SHOWN, defense=defense, budget=0, role="honest", learner=None),
            workspace(tmp_path / "w"),
            spec=here,
        )

    assert honest().flags == ()
    rounded = honest(*guard_named("rounding(decimals=1)").stages).measures
    assert (rounded["altered"].value, rounded["unexplained"].value) == (1, 0)
    assert honest(*guard_named("label_only").stages).measures["unexplained"].value == 1
    unsteady = honest({"unit": f"{__name__}:Unsteady"})
    assert [flag["id"] for flag in unsteady.flags] == ["randomised_answers"]


def test_the_transfer_set_holds_the_explanations(here, tmp_path):
    cell = cell_for(here, attack_named("knockoff"), interface=SHOWN, budget=30)
    _, files = extract_to(cell, here, tmp_path / "out")
    with np.load(files["transfer_set"]) as kept:
        np.testing.assert_allclose(kept["explanation"], victim.w[kept["labels"]] * kept["x"], rtol=1e-12)


# the ledger


class Explained(Counting):
    """Explains the rows that it counts, by an image for each."""

    def explain(self, x, classes):
        return np.sin(x[:, :1, None] + classes[:, None, None] + np.arange(12).reshape(3, 4))


def ask(path, x, cuts):
    """All of x in batches that end at the cuts; the explanations, and how many rows the victim answered."""
    model = Explained()
    with FileLedger(path, columns=2 + 12) as ledger:
        oracle = LocalOracle(model, EXPLAINS, budget=len(x), ledger=ledger)
        answers = [oracle.query(x[a:b]) for a, b in itertools.pairwise([0, *cuts, len(x)])]
    return np.concatenate([a.explanation for a in answers]), model.rows


def test_a_second_run_is_told_the_explanations_and_pays_for_the_rest_only(tmp_path):
    x = questions(20)
    before, paid = ask(tmp_path / "l", x[:13], [5])
    after, rest = ask(tmp_path / "l", x, [9, 15])
    assert (paid, rest) == (13, 7)
    assert before.shape == (13, 3, 4)
    assert after[:13].tobytes() == before.tobytes()
    np.testing.assert_array_equal(after, Explained().explain(x, Counting().scores(x).argmax(axis=1)))


def test_a_torn_tail_loses_the_explanations_of_the_last_batch_only(tmp_path):
    x, path = questions(20), tmp_path / "l"
    whole, _ = ask(path, x, [10])
    os.truncate(path, path.stat().st_size - 50)
    again, paid = ask(path, x, [10])
    assert paid == 10
    assert again.tobytes() == whole.tobytes()


def test_room_is_set_aside_for_explanations_before_anything_is_paid(tmp_path):
    x, path = questions(500), tmp_path / "l"
    with FileLedger(path, columns=2 + 12) as ledger:
        oracle = LocalOracle(Explained(), EXPLAINS, budget=500, ledger=ledger)
        assert ledger.recall(x) is None
        room = path.stat().st_size
        oracle.query(x)
        assert room - 2 * OVERHEAD < path.stat().st_size <= room


def test_a_cell_sets_room_aside_for_its_explainer(here, tmp_path, monkeypatch):
    asked = []

    def noted(path, *, columns):
        asked.append(columns)
        return FileLedger(path, columns=columns)

    monkeypatch.setattr("portcullis_ml.bench.run.FileLedger", noted)
    for shown in ({"reveals": "probs"}, SHOWN):
        audit_cell(
            cell_for(here, attack_named("knockoff"), interface=shown), workspace(tmp_path / str(asked)), spec=here
        )
    assert asked == [3, 3 + 4]
    assert explainer_named(WORD)(victim).explanation_shape == (4,)
