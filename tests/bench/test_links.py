"""What is done with the copy, what attacks know, and what marks prove: cells of an audit beyond the theft itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from html import unescape
from typing import ClassVar

import numpy as np
import pytest
from tests.report.fakes import META, audit

from portcullis_ml.bench.audit_cell import audit_cell
from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.grid import Plan
from portcullis_ml.bench.links import directly, link_named, links_named
from portcullis_ml.bench.named import attack_named, by_name, guard_named, mark_named, privacy_named
from portcullis_ml.core.attack import Needs
from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import describe
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.report import render
from portcullis_ml.report.aftermath import sentences, then_of, used
from portcullis_ml.report.results import read

from .experiments import cell_for, spec, workspace
from .test_grid import PLAN

TREE = describe(SklearnLearner(estimator="tree"))
SERVED = by_name(["tests.ownership.toys:Served"], mark_named)
KNOWING = "tests.bench.test_links:Knowing"


@dataclass(frozen=True, kw_only=True)
class Knowing(ExtractionAttack):
    """Made for rounding: notes what it was told of the guard."""

    name: ClassVar[str] = KNOWING
    needs: ClassVar[Needs] = Needs(learner=True, pool=True, defense=("rounding",))

    def steal(self, harvest, interface, knowledge, rng):
        harvest.notes["told"] = list(knowledge.defense)
        harvest.ask(knowledge.pool)
        return knowledge.learner.fit(harvest.x, harvest.targets(), rng=rng)


@pytest.fixture
def here(tmp_path):
    rng = np.random.default_rng(3)
    x = rng.uniform(size=(200, 4))
    return spec(tmp_path, train_x=x, train_y=rng.integers(3, size=200), test_y=rng.integers(3, size=120))


@pytest.fixture
def unknown(tmp_path):
    """The victim's training rows have no classes here, and nor does the thief's pool."""
    return spec(tmp_path, test_y=np.random.default_rng(3).integers(3, size=120))


def run(here, tmp_path, cell: Cell):
    return audit_cell(cell, workspace(tmp_path / cell.id), spec=here)


def test_a_chain_is_one_cell_with_one_bill(here, tmp_path):
    links = tuple(link_named(w) for w in ("knockoff(batch=20)", "loss_threshold", "evasion(per_class=2, steps=2)"))
    record = run(here, tmp_path, cell_for(here, attack_named("equation_solving"), budget=60, then=links))
    assert [(x["name"], x["kind"], x["outcome"]) for x in record.then] == [
        ("knockoff", "extraction", "done"),
        ("loss_threshold", "privacy", "done"),
        ("evasion (targeted)", "evasion", "done"),  # the second copy has no gradients; a network learns it
    ]
    assert record.queries <= 60
    assert 0.3 < record.then[1]["measures"]["auc"].value < 0.7
    assert record.then[0]["measures"]["agreement"].value > 0.5
    json.dumps(record.to_json(), allow_nan=False)


def test_the_copy_of_one_link_is_the_victim_of_the_next(here, tmp_path):
    first = cell_for(here, attack_named("equation_solving"), budget=60, then=(link_named("equation_solving"),))
    assert run(here, tmp_path, first).then[0]["measures"]["agreement"].value == 1
    poor = replace(first, attack=attack_named("knockoff"), budget=20, learner=TREE)
    assert run(here, tmp_path, poor).then[0]["measures"]["agreement"].value < 1


def test_a_link_that_fails_says_why_and_the_next_goes_on(here, tmp_path):
    links = (link_named("representers"), link_named("loss_threshold"))
    record = run(here, tmp_path, cell_for(here, attack_named("equation_solving"), then=links))
    assert record.then[0]["outcome"] == "not applicable"
    assert "reads kernel models" in record.then[0]["reason"]
    assert record.then[1]["outcome"] == "done"


def test_a_privacy_attack_meets_the_guard_and_pays(here, tmp_path):
    cell = cell_for(here, privacy_named("loss_threshold"), role="privacy", defense=guard_named("label_only").stages)
    record = run(here, tmp_path, cell)
    assert record.queries == 60 == record.notes["candidates"]
    assert record.threat_model["answers"] == "labels"
    assert {"auc"} <= set(record.measures)


def test_without_training_rows_nothing_is_said_of_privacy(tmp_path):
    bare = replace(spec(tmp_path), train=None)
    cell = cell_for(bare, privacy_named("loss_threshold"), role="privacy")
    with pytest.raises(NotApplicable, match="--train FILE"):
        run(bare, tmp_path, cell)


def test_an_attacker_who_knows_is_told_the_settings_and_never_the_key(here, tmp_path):
    cell = cell_for(here, attack_named(KNOWING), defense=guard_named("rounding(decimals=1)").stages)
    with pytest.raises(NotApplicable, match="needs to know of a guard with rounding; this attacker knows of none"):
        run(here, tmp_path, cell)
    record = run(here, tmp_path, replace(cell, knows_defense=True))
    assert record.notes["told"] == [{"unit": "rounding", "decimals": 1, "renormalise": False}]
    assert record.threat_model["knows_defense"] is True


def test_an_attacker_who_knows_runs_beside_the_defenses_that_it_is_made_for():
    guards = by_name(["rounding", "watch(detector=prada, then=rounding)"], guard_named)
    plan = replace(PLAN, attacks=by_name(["knockoff", KNOWING], attack_named), defenses=guards)
    cells = [c for c in plan.cells() if c.attack["unit"] == KNOWING and c.seed == 0]
    assert {c.defense_name for c in cells} == {"none", "label_only", *guards}  # asked for, so no guard is left out
    assert {(c.attack_name, c.knows_defense) for c in cells} == {(f"{KNOWING} (told the guard)", True)}


def test_new_fields_leave_the_ids_of_other_cells_alone():
    (cell,) = [c for c in PLAN.cells() if c.seed == 0 and c.role == "honest" and c.defense_name == "none"]
    assert replace(cell, knows_defense=False, then=(), mark=None).id == cell.id
    others = {replace(cell, knows_defense=True).id, replace(cell, then=({"unit": "x"},)).id}
    assert len({cell.id, *others, replace(cell, mark={"unit": "m"}).id}) == 4
    assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell


@pytest.mark.parametrize("word", ["tests.ownership.toys:Trained", "tests.ownership.toys:Served"])
def test_a_marked_victims_copy_is_examined(here, tmp_path, word):
    cell = cell_for(here, attack_named("knockoff"), budget=150, learner=TREE, mark=mark_named(word))
    record = run(here, tmp_path, cell)
    on_copy, *on_victim = record.then
    assert on_copy["kind"] == "ownership"
    assert on_copy["measures"]["matches"].n > 0
    assert on_copy["notes"]["level"] == 1e-3
    assert len(on_victim) == (word.endswith("Trained"))  # whether a mark that is trained in took at all
    if on_victim:
        assert on_victim[0]["notes"]["p_value"] < 0.05  # sixty epochs of a small network learn some of the triggers
    else:
        assert on_copy["notes"]["p_value"] < 1e-6  # wrong answers that were served are in the transfer set
    honest = run(here, tmp_path, replace(cell, role="honest", attack={"unit": "honest"}, budget=0))
    assert honest.measures["labels_changed"].value > 0  # beside the plain victim, where the marked one was trained anew


def test_a_scheme_without_its_innocent_models_is_inconclusive_in_records_and_report(unknown, tmp_path):
    """Neither the victim's rows nor the thief's have classes, so that no innocent model can be trained."""
    names = {"attack": "knockoff", "defense": "known_errors"}
    mark = mark_named("known_errors")
    cell = cell_for(unknown, attack_named("knockoff"), budget=100, learner=TREE, mark=mark, names=names)
    record = run(unknown, tmp_path, cell)
    on_copy, on_victim = record.then
    assert on_victim["measures"]["matches"].value == 1
    assert on_copy["notes"]["innocents_learnt"] == ""
    assert {link["notes"]["verdict"] for link in (on_copy, on_victim)} == {"inconclusive"}
    assert "needs 20 innocent models to compare with, and 0 were given" in on_copy["notes"]["lacking"]
    lines = sentences(read([json.loads(json.dumps(record.to_json()))]))
    assert any("p-value 1 (inconclusive)" in line for line in lines)


@pytest.mark.parametrize("rows", ["owner", "pool"])
def test_innocent_models_learn_the_owners_rows_where_they_are_known(tmp_path, rows):
    """Then the verdict of a mark that is read off the model does not assume that nobody else has them."""
    rng = np.random.default_rng(3)
    x, y = rng.uniform(size=(200, 4)), rng.integers(3, size=200)
    known = {"train_x": x, "train_y": y} if rows == "owner" else {"pool_x": x, "pool_y": y}
    here = spec(tmp_path, test_y=rng.integers(3, size=120), **known)
    mark, names = mark_named("known_errors"), {"attack": "knockoff", "defense": "known_errors"}
    record = run(here, tmp_path, cell_for(here, attack_named("knockoff"), learner=TREE, mark=mark, names=names))
    on_copy, on_victim = record.then
    assert on_copy["measures"]["false_claims"].n == 20
    assert {link["notes"]["innocents_learnt"] for link in (on_copy, on_victim)} == {rows}
    said = " ".join(on_copy["notes"]["assumed"])
    assert ("20 of 20 innocent models learnt the owner's training rows" in said) == (rows == "owner")
    assert ("no innocent model is known to have learnt them" in said) == (rows == "pool")
    page = unescape(render([*audit(), json.loads(json.dumps(record.to_json()))], META))
    assert ("learnt the owner's own rows with other seeds" in page) == (rows == "owner")
    assert ("a model that honestly learnt the owner's rows" in page) == (rows == "pool")


@pytest.mark.parametrize(
    ("word", "convicts"),
    [("known_errors", True), ("conferrable(n=30, copies=2, epochs=10)", True), ("dataset_inference(rows=40)", False)],
)
def test_a_scheme_that_marks_nothing_says_what_it_proves_of_copy_and_victim(tmp_path, word, convicts):
    """The victim was never trained on rows of these classes, which are drawn: so its rows tell nothing of it."""
    rng = np.random.default_rng(3)
    drawn = {f"{name}_y": rng.integers(3, size=n) for name, n in (("train", 200), ("test", 120), ("pool", 150))}
    here, scheme = spec(tmp_path, train_x=rng.uniform(size=(200, 4)), **drawn), word.partition("(")[0]
    names = {"attack": "knockoff", "defense": word}
    cell = cell_for(here, attack_named("knockoff"), budget=100, learner=TREE, mark=mark_named(word), names=names)
    record = run(here, tmp_path, cell)
    on_copy, on_victim = record.then
    assert (on_copy["name"], on_victim["name"]) == (scheme, f"{scheme} on the victim itself")
    assert {link["measures"]["false_claims"].n for link in record.then} == {20}
    assert (on_victim["notes"]["verdict"] == "derived") == convicts
    said = sentences(read([json.loads(json.dumps(record.to_json()))]))
    itself = (
        "of the model itself, taken as it is, after about" if convicts else "not shown to prove even the model itself"
    )
    assert any(line.startswith("If it is stolen anyway: ") and itself in line for line in said)


def test_marks_of_dawn_are_in_a_copy_and_say_nothing_without_innocent_models(unknown, tmp_path):
    mark = mark_named("dawn(rate=0.2, planes=24)")
    record = run(unknown, tmp_path, cell_for(unknown, attack_named("knockoff"), budget=150, learner=TREE, mark=mark))
    (on_copy,) = record.then
    assert on_copy["measures"]["matches"].n > 10
    assert on_copy["measures"]["matches"].value > 0.8
    assert "dawn needs 20 innocent models" in on_copy["notes"]["lacking"]


def test_a_plan_crosses_marks_and_privacy_with_the_rest():
    privacy = by_name(["loss_threshold"], privacy_named)
    plan = replace(PLAN, marks=SERVED, privacy=privacy, then=list(privacy.values()), seeds=[0])
    cells = plan.cells()
    assert {c.attack_name for c in cells if c.mark and c.role == "attack"} == {"knockoff", "jb_top3"}
    assert {c.defense_name for c in cells if c.role == "privacy"} == {"none", "label_only", "rounding(decimals=2)"}
    assert {c.budget for c in cells if c.then} == {40}
    assert all(c.role == "attack" for c in cells if c.then)


@pytest.mark.parametrize(
    ("named", "word"), [(privacy_named, "knockoff2"), (mark_named, "portcullis_ml.defenses.block:Block")]
)
def test_a_wrong_word_is_refused(named, word):
    with pytest.raises(ParameterError):
        named(word)


def test_the_report_shows_what_came_of_it(here, tmp_path):
    links = (link_named("loss_threshold"), link_named("representers"))
    cells = [
        cell_for(here, attack_named("knockoff"), then=links),
        cell_for(here, privacy_named("loss_threshold"), role="privacy"),
        cell_for(here, attack_named("knockoff"), learner=TREE, mark=mark_named("tests.ownership.toys:Served"),
                 names={"attack": "knockoff", "defense": "served toy"}),
    ]  # fmt: skip
    records = [json.loads(json.dumps(run(here, tmp_path, cell).to_json())) for cell in cells]
    audit = read(records)
    assert list(audit.marked) == [("knockoff", "served toy")]
    assert list(audit.pairs) == [("knockoff", "none")]
    page = render(records)
    for words in ("What the copy is good for", "What the API gives away of its data", "What the marks prove",
                  "area under the curve", "p-value", "representers reads kernel models"):  # fmt: skip
        assert words in page
    lines = sentences(audit)
    assert any(line.startswith("Privacy: loss_threshold, no defense: area under the curve ") for line in lines)
    rows, said = used(audit)
    assert [row[2:4] for row in rows] == [["loss_threshold", rows[0][3]], ["representers", "n/a"]]
    assert any(line.startswith("representers reads kernel models") for line in said)
    assert any(line.startswith("Copy of knockoff, served toy, then") and "p-value" in line for line in lines)


def test_a_plan_needs_no_learner_for_a_served_mark():
    plan = Plan(**{**PLAN.__dict__, "learner": None, "own_labels": False, "marks": SERVED})
    assert all(c.learner is None for c in plan.cells())


def test_attacks_with_shadow_models_run_on_the_api_and_on_the_copy(here, tmp_path):
    """Shadows are trained as the victim was, as far as that is known; the copy is asked without its guard."""
    links = (link_named("lira(models=4)"), link_named("label_only"))
    copied = run(here, tmp_path, cell_for(here, attack_named("equation_solving"), budget=60, then=links))
    assert [link["outcome"] for link in copied.then] == ["done", "done"]
    cell = cell_for(here, privacy_named("rmia(models=4)"), role="privacy", defense=guard_named("rounding").stages)
    served = run(here, tmp_path, replace(cell, knows_defense=True))
    assert served.notes["shadows"] == 4
    assert served.queries <= 60
    assert list(served.measures)[-1] == "auc"


def test_a_scikit_learn_victim_is_shadowed_by_its_own_estimator(here):
    from sklearn.tree import DecisionTreeClassifier

    from portcullis_ml.bench.leakage import shadow_learner
    from portcullis_ml.models.sklearn import EstimatorLearner, SklearnModel

    experiment = here.load()
    tree = SklearnModel(DecisionTreeClassifier().fit(experiment.test_x, experiment.test_y))
    assert isinstance(shadow_learner(replace(experiment, model=tree)), EstimatorLearner)
    assert not isinstance(shadow_learner(experiment), EstimatorLearner)


def test_a_copy_is_inverted_and_what_comes_back_is_judged_by_class(here, tmp_path):
    links = (link_named("mi_face(iterations=20)"),)
    record = run(here, tmp_path, cell_for(here, attack_named("equation_solving"), budget=60, then=links))
    (link,) = record.then
    assert link["outcome"] == "done"
    assert link["measures"]["nearest_mean"].n == 3
    assert "leak" not in link["notes"]  # a typical input of a class is no training row


def test_a_chain_may_name_risks_and_carries_examples_both_ways(here, tmp_path):
    words = ("membership", "inversion(iterations=20)", "evasion(steps=2)", "evasion(goal=untargeted, steps=2)")
    cell = cell_for(here, attack_named("equation_solving"), budget=60, then=tuple(link_named(w) for w in words))
    record = run(here, tmp_path, cell)
    assert [(x["name"], x["outcome"]) for x in record.then] == [
        ("loss_threshold", "done"), ("mi_face", "done"),
        ("evasion (targeted)", "done"), ("evasion (untargeted)", "done"),
    ]  # fmt: skip
    assert [x["notes"]["goal"] for x in record.then[2:]] == ["targeted", "untargeted"]


def test_evasion_names_both_goals_and_every_link_is_tried_on_the_api_too(tmp_path):
    from portcullis_ml.bench.run_audit import AuditOptions

    words = ("membership", "evasion", "knockoff")
    options = AuditOptions(spec=spec(tmp_path), then=words, privacy=("gap",))
    units = options.named_units
    goals = [link.get("goal") for link in units["then"]]
    assert goals == [None, "targeted", "untargeted", None]
    assert list(units["privacy"]) == ["loss_threshold", "evasion (targeted)", "evasion (untargeted)", "gap"]


def test_evasion_on_the_api_meets_the_guard_and_pays(here, tmp_path):
    (link,) = (x for x in links_named("evasion") if x["goal"] == "untargeted")
    cell = cell_for(here, link, role="privacy", budget=40, defense=guard_named("quota(rows=25)").stages)
    record = run(here, tmp_path, cell)
    assert record.measures["fooled"].n > 0
    assert record.queries == 25
    assert record.stopped not in ("done", "budget")


def test_a_link_stands_beside_the_same_attack_on_the_api(here, tmp_path):
    words = ("loss_threshold", "evasion(goal=untargeted, steps=2)")
    links = tuple(link_named(w) for w in words)
    names = {"attack": "equation_solving", "defense": "none"}
    cells = [cell_for(here, attack_named("equation_solving"), budget=60, then=links, names=names)]
    for name, link in directly(links).items():
        own = {"attack": name, "defense": "none"}
        cells.append(cell_for(here, link, role="privacy", budget=60, names=own))
    audit = read([json.loads(json.dumps(run(here, tmp_path, cell).to_json())) for cell in cells])
    pair = audit.pairs["equation_solving", "none"]
    on_api = [link["on_api"] for link in then_of(pair, audit)]
    assert [set(found["measures"]) & {"auc", "fooled"} for found in on_api] == [{"auc"}, {"fooled"}]
    assert all(found["queries"] <= 60 for found in on_api)
    rows, said = used(audit)
    assert [row[:3] for row in rows] == [["equation_solving", "none", name] for name in directly(links)]
    assert all("%" in row[3] and "%" in row[4] for row in rows)
    assert said[-1] == "evasion (untargeted): examples that fool the victim"
    assert not any(line.startswith("Privacy: evasion") for line in sentences(audit))
