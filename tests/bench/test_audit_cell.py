"""What a cell of an audit does, on a softmax regression that can be copied exactly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from portcullis_ml.bench import stranger
from portcullis_ml.bench.audit_cell import audit_cell
from portcullis_ml.bench.controls import most_frequent
from portcullis_ml.bench.experiment import ExperimentSpec, learner_for, network_for
from portcullis_ml.bench.named import attack_named, guard_named
from portcullis_ml.bench.single import extract_to
from portcullis_ml.bench.stranger import PlainStranger
from portcullis_ml.bench.target import guard_of, knowledge_of, target_of
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import AttackFailed, NotApplicable
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Answer, Interface, Reveals
from portcullis_ml.models.function import FunctionModel
from portcullis_ml.models.load import load_model
from portcullis_ml.models.softmax import SoftmaxRegression

from .experiments import cell_for, spec, truth, victim, workspace

RANDOM = {"unit": "portcullis_ml.bench.controls:RandomQueries"}


pictured = SoftmaxRegression(victim.w, victim.b, input_shape=(2, 2))


@dataclass(frozen=True, kw_only=True)
class Live(Defense[None]):
    """What a defense must not do: noise from a live generator, and wrong labels."""

    def release(self, request, answer, clean, state, noise):
        scores = np.random.default_rng().dirichlet(np.ones(3), size=len(request))
        return Answer(scores.argmax(axis=1), scores)


@pytest.fixture
def here(tmp_path):
    return spec(tmp_path)


def run(here, tmp_path, attack, defense="none", **changes):
    cell = cell_for(here, attack, defense=guard_named(defense).stages, **changes)
    return audit_cell(cell, workspace(tmp_path / cell.id), spec=here)


def test_equation_solving_makes_a_perfect_copy(here, tmp_path):
    record = run(here, tmp_path, attack_named("equation_solving"), budget=10)
    assert record.queries == 10
    for name in ("agreement", "macro_f_agreement", "agreement_uniform", "accuracy"):
        assert record.measures[name].value == 1
    assert record.measures["tv_natural"].value < 1e-9
    assert record.measures["agreement_uniform"].n == 10_000
    assert [e.value for e in record.classes] == [1.0, 1.0, 1.0]
    assert record.threat_model["answers"] == "probs"
    json.dumps(record.to_json(), allow_nan=False)


def test_the_curve_ends_where_the_attack_ends(here, tmp_path):
    record = run(here, tmp_path, attack_named("knockoff"))
    assert record.curve[-1][0] == record.queries == 60
    assert record.curve[-1][1]["agreement"] == record.measures["agreement"]


def test_the_same_cell_gives_the_same_record_and_another_seed_another(here, tmp_path):
    first, again = (run(here, tmp_path / str(i), RANDOM).to_json() for i in range(2))
    assert first == again
    assert (
        run(here, tmp_path, RANDOM, seed=1).measures["tv_natural"] != run(here, tmp_path, RANDOM).measures["tv_natural"]
    )


def test_what_an_attack_lacks_is_said_before_it_asks(here, tmp_path):
    with pytest.raises(NotApplicable, match="equation_solving needs probs; this API gives labels"):
        run(here, tmp_path, attack_named("equation_solving"), "label_only")
    with pytest.raises(AttackFailed, match="needs 5 queries"):
        run(here, tmp_path, attack_named("equation_solving"), budget=4)


def test_a_thief_reads_off_what_the_guard_shows(here):
    experiment = here.load()
    for word, reveals, k in (
        ("label_only", Reveals.LABELS, 1),
        ("top_k(k=2)", Reveals.TOP_K, 2),
        ("rounding(decimals=3)", Reveals.PROBS, 1),
    ):
        guard = guard_of(cell_for(here, RANDOM, defense=guard_named(word).stages), experiment.interface)
        seen = guard.shown(experiment.interface)
        assert (seen.reveals, seen.k) == (reveals, k)


def test_controls_that_never_ask(here, tmp_path):
    nothing = run(here, tmp_path, {"unit": "no_api"}, budget=0, role="control")
    share = np.bincount(truth(here.load().test_x)).max() / 120
    assert nothing.measures["agreement"].value == pytest.approx(share)
    assert nothing.queries == 0
    with pytest.raises(NotApplicable, match="own_labels needs a pool with labels"):
        run(here, tmp_path, {"unit": "own_labels"}, budget=0, role="control")


@pytest.mark.parametrize(("attack", "budget"), [({"unit": "no_api"}, 0), ({"unit": "equation_solving"}, 60)])
def test_a_record_says_which_classes_the_victim_never_gives(here, tmp_path, attack, budget):
    assert "never_predicted" not in run(here, tmp_path, attack, budget=budget).notes
    quiet = spec(tmp_path, victim="tests.bench.experiments:reticent")
    record = audit_cell(cell_for(quiet, attack, budget=budget), workspace(tmp_path / "quiet"), spec=quiet)
    assert record.notes["never_predicted"] == [2]
    assert np.isnan(record.classes[2].value)  # nothing is known of a class that it never gets right


def test_own_labels_learn_from_the_pool_alone(tmp_path):
    pool = np.random.default_rng(1).uniform(size=(150, 4))
    labelled = spec(tmp_path, pool_x=pool, pool_y=truth(pool))
    record = run(labelled, tmp_path, {"unit": "own_labels"}, budget=0, role="control")
    assert record.measures["agreement"].value > 0.85
    assert record.queries == 0


def test_shuffled_answers_teach_nothing(here, tmp_path):
    honest = run(here, tmp_path, attack_named("knockoff"))
    shuffled = {"unit": "portcullis_ml.bench.controls:Shuffled", "of": attack_named("knockoff")}
    record = run(here, tmp_path, shuffled, role="control")
    assert record.queries == 60
    assert record.measures["agreement"].high < honest.measures["agreement"].low
    assert len(record.curve) == 1


def test_shuffled_needs_what_its_attack_needs(tmp_path):
    here = spec(tmp_path)
    bare = here.__class__(**{**here.__dict__, "pool": None})
    shuffled = {"unit": "portcullis_ml.bench.controls:Shuffled", "of": attack_named("knockoff")}
    with pytest.raises(NotApplicable, match="knockoff needs a pool"):
        run(bare, tmp_path, shuffled, role="control")


def test_constant_is_the_most_frequent_class(here):
    model = most_frequent(np.array([2, 2, 0]), here.load().interface)
    assert model.scores(np.zeros((2, 4))).tolist() == [[0, 0, 1], [0, 0, 1]]


def test_honest_clients_pay_what_the_guard_costs(here, tmp_path):
    free = run(here, tmp_path, {"unit": "honest"}, budget=0, role="honest", learner=None)
    assert free.measures["utility"].value == free.measures["accuracy"].value == 1
    assert free.measures["labels_changed"].value == 0
    assert free.flags == ()
    watched = run(
        here, tmp_path, {"unit": "honest"}, "watch(detector=prada_normality, then=block)", budget=0, role="honest"
    )
    assert watched.measures["false_alarm"].unit == "clients"  # chunks of one client are not independent
    assert watched.measures["false_alarm"].n == watched.threat_model["accounts"]
    taken = watched.notes["guard_seconds"]
    assert 0 <= taken["low"] <= taken["value"] <= taken["high"]  # one slow question widens it to 0
    assert taken["value"] > 0
    assert (taken["n"], taken["unit"]) == (len(here.load().test_x), "questions")


def test_flags_of_a_cell(here, tmp_path):
    test_x = here.load().test_x
    (tmp_path / "leaky").mkdir()
    leaky = spec(tmp_path / "leaky", pool_x=np.concatenate([test_x[:30], test_x[:30] + 1e-3]))
    flags = {f["id"]: f["detail"] for f in run(leaky, tmp_path, attack_named("knockoff")).flags}
    assert flags == {"test_was_queried": "30 of 60 rows"}
    unspent = run(here, tmp_path, attack_named("equation_solving"), budget=50)
    assert [f["id"] for f in unspent.flags] == ["budget_not_spent"]
    watched = run(here, tmp_path, attack_named("knockoff"), "watch(detector=prada, then=log)")
    assert [f["id"] for f in watched.flags] == ["one_account"]


def test_a_guard_that_draws_live_noise_and_changes_labels_is_flagged(here, tmp_path):
    defense = ({"unit": f"{__name__}:Live"},)
    cell = cell_for(here, {"unit": "honest"}, defense=defense, budget=0, role="honest", learner=None)
    flags = {f["id"] for f in audit_cell(cell, workspace(tmp_path), spec=here).flags}
    assert flags == {"labels_changed", "randomised_answers"}


def test_an_extraction_is_kept_as_files(here, tmp_path):
    cell = cell_for(here, attack_named("knockoff"), budget=40)
    record, files = extract_to(cell, here, tmp_path / "out")
    assert record["outcome"] == "done"
    copy = load_model(files["surrogate"], input_shape=(4,), n_classes=3)
    with np.load(files["transfer_set"]) as kept:
        assert kept["x"].shape == (40, 4)
        np.testing.assert_allclose(kept["scores"], victim.scores(kept["x"]), atol=1e-12)
    x = here.load().test_x
    assert (copy.scores(x).argmax(axis=1) == truth(x)).mean() == pytest.approx(record["measures"]["agreement"]["value"])
    assert extract_to(cell, here, tmp_path / "out") == (record, files)


STRANGER = {"unit": "portcullis_ml.bench.controls:PlainStranger"}


def test_a_plain_stranger_steals_and_says_which_model(here, tmp_path):
    record = run(here, tmp_path, STRANGER, budget=300, role="control")
    assert record.queries == 300
    assert record.measures["agreement"].value > 0.9
    assert set(record.notes["chosen"]["fitted"]) <= {"boosted", "network"}
    assert run(here, tmp_path, STRANGER, "label_only", budget=300, role="control").measures["agreement"].value > 0.75


def test_a_plain_stranger_with_one_answer_or_one_class_has_a_constant(here, tmp_path):
    for budget in (1, 3):
        assert run(here, tmp_path, STRANGER, budget=budget, role="control").queries == budget


def test_a_plain_stranger_asks_about_the_pool_first(here, tmp_path):
    experiment, asked = here.load(), []
    for budget in (40, 300):
        oracle = LocalOracle(victim, experiment.interface, budget=budget)
        known = Knowledge(pool=experiment.pool)
        asked.append(PlainStranger()(oracle, known, rng=np.random.default_rng(0)).x)
    pool = {row.tobytes() for row in experiment.pool}
    assert all(row.tobytes() in pool for row in asked[0])
    assert [row.tobytes() in pool for row in asked[1]] == [i < len(pool) for i in range(300)]
    alone = PlainStranger(pool=False)(
        LocalOracle(victim, experiment.interface, budget=40), known, rng=np.random.default_rng(0)
    )
    assert not any(row.tobytes() in pool for row in alone.x)


@pytest.mark.parametrize("shape", [(8, 8), (5, 7, 3), (40, 33, 1)])
def test_a_plain_stranger_fits_a_network_to_pictures(shape):
    door = Interface(input_shape=shape, n_classes=2)
    bright = FunctionModel(lambda x: np.eye(2)[(x.reshape(len(x), -1)[:, 0] > 0.5).astype(int)], shape, 2)
    state = torch.random.get_rng_state()
    copies = [
        PlainStranger(epochs=12)(LocalOracle(bright, door, budget=260), Knowledge(), rng=np.random.default_rng(0)).model
        for _ in range(2)
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    x = door.uniform(50, np.random.default_rng(1))
    np.testing.assert_array_equal(copies[0].scores(x), copies[1].scores(x))
    assert copies[0].scores(x).shape == (50, 2)
    alone = PlainStranger(epochs=1)(LocalOracle(bright, door, budget=1), Knowledge(), rng=np.random.default_rng(0))
    assert alone.queries == 1


def test_an_attacker_who_uses_labels_sees_the_labels_of_the_defended_answers(here, tmp_path):
    """The guard is the same: only what the attacker looks at is narrowed."""
    labels = run(here, tmp_path, attack_named("retraining"), "rounding(decimals=1)", uses="labels")
    bare = run(here, tmp_path, attack_named("retraining"), "label_only")
    assert labels.threat_model["answers"] == "labels, and throws the rest away"
    assert labels.queries == bare.queries
    watched = "watch(detector=prada, then=block)"
    cell = cell_for(here, attack_named("retraining"), defense=guard_named(watched).stages, uses="labels")
    target = target_of(cell, here)
    assert target.interface.reveals == Reveals.LABELS
    with workspace(tmp_path / "w").ledger(columns=target.columns) as ledger:
        answer = target.oracle(cell, ledger).query(here.load().test_x[:5])
    assert answer.scores is None
    np.testing.assert_array_equal(answer.labels, truth(here.load().test_x[:5]))
    with pytest.raises(NotApplicable, match="this API gives labels"):
        run(here, tmp_path, attack_named("equation_solving"), uses="labels")


def test_a_plain_stranger_owes_nothing_to_the_attacks_that_it_checks():
    source = Path(stranger.__file__).read_text()
    assert "models.auto" not in source
    assert "models.families" not in source
    assert "extraction." not in source.replace("core.extraction", "")


def test_copies_say_on_which_test_rows_they_agree_at_the_end_and_on_the_way(here, tmp_path):
    for defense in ("none", "label_only"):
        record = run(here, tmp_path, attack_named("retraining(rounds=3)"), defense)
        rounds = [*record.notes["right_on_the_way"], record.notes["right"]]
        assert len(rounds) == len(record.curve) > 1
        for found, (_, measures) in zip(rounds, record.curve, strict=True):
            right = np.unpackbits(np.frombuffer(bytes.fromhex(found), np.uint8))[:120]
            assert right.mean() == pytest.approx(measures["agreement"].value)


def test_a_learner_that_chooses_is_told_the_columns_and_says_what_it_chose(here, tmp_path):
    learner = {"unit": "portcullis_ml.models.auto:AutoLearner"}
    record = run(here, tmp_path, attack_named("knockoff"), learner=learner)
    assert record.notes["chosen"]["fitted"]
    cell = cell_for(here, RANDOM, learner=learner)
    assert knowledge_of(cell, here.load()).learner.interface == here.load().interface


def test_a_learner_that_chooses_among_networks_says_what_it_chose(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("test", "pool"):
        np.savez(tmp_path / f"{name}.npz", x=rng.uniform(size=(70, 2, 2)), y=np.zeros(70, np.int64))
    here = ExperimentSpec(
        victim=f"{__name__}:pictured", test=str(tmp_path / "test.npz"), pool=str(tmp_path / "pool.npz")
    )
    learner = describe(learner_for((8, 8), epochs=1))
    assert learner["unit"] == "portcullis_ml.models.auto_pictures:AutoPictures"
    record = run(here, tmp_path, attack_named("knockoff"), learner=learner)
    assert len(record.notes["chosen"]["fitted"]) == 3
    assert record.notes["chosen"]["rows"] == record.queries
    json.dumps(record.notes)


def test_attacks_that_follow_gradients_keep_the_published_network():
    plain = learner_for((8, 8), gradients=True)
    assert (type(plain).__name__, plain.network, plain.epochs) == ("TorchLearner", "digits_cnn", 50)
    assert network_for((28, 28), epochs=60).network == "prada_mnist"
    assert network_for((32, 32, 3)).network == "prada_gtsrb"
    assert network_for((7,)).network == "table_mlp"
    assert type(learner_for((7,))).__name__ == "AutoLearner"
