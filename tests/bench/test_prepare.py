"""What an audit trains before its cells run: once, on the owner's rows, known by its content."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from portcullis_ml.bench.audit_cell import audit_cell
from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.experiment import ExperimentSpec
from portcullis_ml.bench.named import attack_named, guard_named
from portcullis_ml.bench.outside import checked_regimes
from portcullis_ml.bench.prepare import needs_outside, prepare_cells
from portcullis_ml.bench.run_audit import AuditOptions, run_audit
from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.report.verdict import threat

from .experiments import __name__ as HELPERS
from .experiments import cell_for, truth, victim, workspace, write

FILTERED = "out_of_domain(filter=domain_filter(epochs=2))"
HARDENED = "outlier_exposure(weight=1.0)"


@dataclass(frozen=True)
class Here:
    """Files of a victim with its own rows, a pool and rows from elsewhere."""

    spec: ExperimentSpec
    folder: Path


@pytest.fixture
def here(tmp_path):
    rng = np.random.default_rng(5)
    train, outside = rng.uniform(size=(80, 4)), 1 + rng.uniform(size=(60, 4))
    paths = write(tmp_path, train_x=train, train_y=truth(train))
    np.savez(tmp_path / "outside.npz", x=outside)
    return Here(ExperimentSpec(victim=f"{HELPERS}:victim", **paths), tmp_path)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Hardened victims of a few epochs."""
    from portcullis_ml.models.torch import TorchLearner

    def learner(shape, **kind):
        return TorchLearner(network="mlp", epochs=4)

    for module in ("experiment", "run_audit"):
        monkeypatch.setattr(f"portcullis_ml.bench.{module}.learner_for", learner)


def audited(here, *defenses, out="out", spec=None, **settings):
    options = AuditOptions(
        spec=spec or here.spec, attacks=("knockoff",), defenses=defenses, budgets=(30,), seeds=1, **settings
    )
    trained: list[str] = []
    records, meta = run_audit(
        options, out=here.folder / out, jobs=0, training=lambda what, done, steps: trained.append(what)
    )
    return records, meta, sorted(set(trained))


def of(records, defense, role="attack"):
    own = [r for r in records if r["defense"] == defense and r["role"] == role]
    (record,) = [r for r in own if not r["cell"]["uses"] and (role != "attack" or r["attack"] == "knockoff")]
    return record


class TestRegimes:
    def test_both_regimes_are_two_rows_that_say_what_they_are(self, here):
        spec = replace(here.spec, outside=str(here.folder / "outside.npz"))
        records, meta, trained = audited(here, FILTERED, spec=spec, regimes=("held_out", "matched"))
        assert trained == ["domain_filter [held out], seed 0", "domain_filter [matched], seed 0"]
        shown = {"matched": "no row in common (matched)", "held_out": "another source than the thief's pool (held out)"}
        for regime, name in (("matched", f"{FILTERED} [matched]"), ("held_out", f"{FILTERED} [held out]")):
            for role in ("attack", "honest"):
                record = of(records, name, role)
                assert record["outcome"] == "done"
                assert record["cell"]["regime"] == regime
                assert record["threat_model"]["outside_rows"].endswith(shown[regime])
            assert "outside rows: from" in threat(of(records, name)["threat_model"])
        assert "outside_rows" not in of(records, "label_only")["threat_model"]
        assert meta["deployed"] == f"{FILTERED} [held out]"
        assert f"({'outside.npz'}), from another source" in " ".join(meta["notes"])

    def test_in_the_matched_regime_the_thief_holds_half_of_the_pool_in_every_cell(self, here):
        records, meta, _ = audited(here, FILTERED)
        assert meta["data"]["pool"] == 75
        assert {r["threat_model"]["data"].partition(" and")[0] for r in records if r["role"] == "attack"} == {
            "a pool of 75"
        }
        whole, divided = here.spec.load(), replace(here.spec, divided=True).load()
        mine = {row.tobytes() for row in divided.outside["matched"].x}
        left = {row.tobytes() for row in divided.pool}
        assert not mine & left
        assert mine | left == {row.tobytes() for row in whole.pool}
        assert whole.names["data"] != divided.names["data"]

    def test_an_audit_that_trains_nothing_with_outside_rows_keeps_its_pool_and_its_cells(self, here):
        plain = AuditOptions(spec=here.spec, defenses=("rounding",))
        assert plain.spec == here.spec
        assert AuditOptions(spec=here.spec, defenses=(FILTERED,)).spec.divided
        assert AuditOptions(spec=here.spec, defenses=(f"{HARDENED} + rounding",)).spec.divided
        elsewhere = replace(here.spec, outside="x.npz")
        assert AuditOptions(spec=elsewhere, defenses=(FILTERED,)).regimes == ("held_out",)
        assert not AuditOptions(spec=elsewhere, defenses=(FILTERED,)).spec.divided

    def test_groups_of_the_pool_stay_together(self):
        from portcullis_ml.data.splits import halves

        groups = np.repeat(np.arange(20), 5)
        first, second = halves(100, groups, rng=np.random.default_rng(0))
        assert sorted([*first, *second]) == list(range(100))
        assert not set(groups[first]) & set(groups[second])
        with pytest.raises(InputError, match="At least 2 rows"):
            halves(1, rng=np.random.default_rng(0))

    def test_words_for_regimes(self):
        assert checked_regimes(["held out", "Matched"]) == ("matched", "held_out")
        with pytest.raises(ParameterError, match="--regimes must be matched, held_out or both; got 'any'"):
            checked_regimes(["any"])

    def test_outside_rows_that_are_the_pool_are_flagged(self, here):
        spec = replace(here.spec, outside=here.spec.pool)
        _, meta, _ = audited(here, FILTERED, spec=spec)
        (flag,) = [f for f in meta["flags"] if f["id"] == "outside_is_the_pool"]
        assert flag["where"] == "audit"
        assert flag["detail"].startswith("150 of 150 outside rows")


class TestTraining:
    def test_a_second_run_finds_what_the_first_has_trained(self, here):
        first, _, trained = audited(here, FILTERED)
        assert trained == ["domain_filter [matched], seed 0"]
        again, _, nothing = audited(here, FILTERED)
        assert nothing == []
        assert [r["id"] for r in again] == [r["id"] for r in first]
        (folder,) = (here.folder / "out" / "artifacts").iterdir()
        written = of(first, FILTERED)["cell"]["defense"][0]["filter"]
        assert written == str(Artifact.at(str(folder)))

    def test_the_content_decides_the_cells_id_and_the_place_does_not(self, here):
        first, _, _ = audited(here, FILTERED)
        elsewhere, _, _ = audited(here, FILTERED, out="elsewhere")
        assert of(elsewhere, FILTERED)["id"] == of(first, FILTERED)["id"]
        assert of(elsewhere, FILTERED)["cell"]["defense"] != of(first, FILTERED)["cell"]["defense"]
        assert of(elsewhere, FILTERED)["measures"] == of(first, FILTERED)["measures"]

    def test_the_folder_says_what_was_trained_on_what(self, here):
        audited(here, FILTERED)
        (folder,) = (here.folder / "out" / "artifacts").iterdir()
        about = json.loads((folder / "about.json").read_text())
        assert about["recipe"] == "domain_filter"
        assert about["settings"] == {"unit": "domain_filter", "epochs": 2}
        assert about["rows"]["name"] == "train.npz"
        assert (about["rows"]["n"], about["outside"]["n"]) == (80, 75)
        assert about["outside"]["name"].startswith("half of the pool of ")
        assert (about["regime"], about["seed"]) == ("matched", 0)
        assert about["versions"]["portcullis"]
        assert about["victim"] == {k: here.spec.load().names["victim"][k] for k in ("name", "sha256")}
        assert str(here.folder) not in json.dumps(about)

    def test_each_seed_has_a_training_of_its_own(self, here):
        cells = [cell_for(here.spec, attack_named("knockoff"), defense=guard_named(FILTERED).stages, seed=s)
                 for s in (0, 1, 0)]  # fmt: skip
        spec = replace(here.spec, divided=True)
        made = prepare_cells(cells, spec, regimes=("matched",), out=here.folder / "o", watch=lambda *_: None)
        filters = [cell.defense[0]["filter"] for cell in made.cells]
        assert filters[0] == filters[2] != filters[1]

    def test_what_cannot_be_trained_leaves_cells_that_do_not_apply(self, here):
        bare = replace(here.spec, train=None)
        records, _, trained = audited(here, FILTERED, HARDENED, spec=bare)
        assert trained == []
        for name, unit in ((FILTERED, "domain_filter"), (HARDENED, "outlier_exposure")):
            for role in ("attack", "honest"):
                record = of(records, name, role)
                assert record["outcome"] == "not applicable"
                assert record["reason"].startswith(f"{unit} is trained on the victim's own rows; there are none.")
        assert of(records, "label_only")["outcome"] == "done"
        none = replace(here.spec, pool=None)
        records, _, _ = audited(here, FILTERED, spec=none, out="no-pool")
        assert "needs outside rows" in of(records, FILTERED, "honest")["reason"]

    def test_wrong_rows_end_the_audit_in_a_sentence(self, here):
        np.savez(here.folder / "wide.npz", x=np.zeros((9, 7)))
        with pytest.raises(InputError, match=r"Outside rows must have the inputs of the victim, \(4,\); wide\.npz"):
            audited(here, FILTERED, spec=replace(here.spec, outside=str(here.folder / "wide.npz")))
        train = np.random.default_rng(0).uniform(size=(30, 4))
        np.savez(here.folder / "train.npz", x=train, y=np.full(30, 7))
        with pytest.raises(InputError, match=r"Training labels must lie in 0\.\.2, .* got 7\.\.7"):
            replace(here.spec, divided=True).load()


class TestHardening:
    def test_a_hardened_victim_is_attacked_and_its_cost_is_measured_beside_the_plain_one(self, here):
        records, _, trained = audited(here, HARDENED, f"{HARDENED} + rounding(decimals=1)")
        assert trained == ["outlier_exposure [matched], seed 0"]
        alone, rounded = (of(records, name) for name in (HARDENED, f"{HARDENED} + rounding(decimals=1)"))
        assert alone["cell"]["hardening"]["unit"] == "outlier_exposure"
        assert alone["cell"]["hardening"] == rounded["cell"]["hardening"]
        assert (alone["cell"]["defense"], rounded["cell"]["defense"][0]["unit"]) == ([], "rounding")

        spec = replace(here.spec, divided=True)
        hardened = spec.load(alone["cell"]["hardening"]["artifact"])
        plain = spec.load()
        labels = hardened.model.scores(plain.test_x).argmax(axis=1)
        honest = of(records, HARDENED, "honest")["measures"]
        accuracy = (victim.scores(plain.test_x).argmax(axis=1) == plain.test_y).mean()
        assert honest["accuracy"]["value"] == pytest.approx(accuracy)
        assert honest["utility"]["value"] == pytest.approx((labels == plain.test_y).mean())
        assert honest["accuracy_drop"]["value"] == pytest.approx(accuracy - (labels == plain.test_y).mean())
        assert honest["accuracy_drop"]["value"] > 0  # four epochs do not make as good a victim

    def test_agreement_is_with_the_model_that_is_served(self, here):
        records, _, _ = audited(here, HARDENED)
        hardening = of(records, HARDENED)["cell"]["hardening"]
        constant = cell_for(here.spec, {"unit": "no_api"}, budget=0, role="control", hardening=hardening)
        record = audit_cell(constant, workspace(here.folder), spec=here.spec)
        x = here.spec.load().test_x
        shares = [
            np.bincount(model.scores(x).argmax(axis=1)).max() / len(x)
            for model in (here.spec.load(hardening["artifact"]).model, victim)
        ]
        assert record.measures["agreement"].value == pytest.approx(shares[0])
        assert shares[0] != shares[1]

    def test_a_recipe_behind_a_hardening_is_trained_on_the_hardened_victim(self, here):
        audited(here, f"{HARDENED} + {FILTERED}")
        folders = (here.folder / "out" / "artifacts").glob("domain_filter-*/about.json")
        (about,) = (json.loads(path.read_text()) for path in folders)
        assert about["victim"]["name"] == f"{HELPERS}:victim, outlier_exposure"

    def test_it_stands_first_and_is_trained_before_a_single_attack(self, here):
        assert guard_named(f"{HARDENED} + rounding").hardening == {"unit": "outlier_exposure", "weight": 1.0}
        assert guard_named("rounding").hardening is None
        with pytest.raises(ParameterError, match="a hardening must be the first part of a guard"):
            guard_named(f"rounding + {HARDENED}")
        cell = cell_for(here.spec, attack_named("knockoff"), hardening=guard_named(HARDENED).hardening)
        with pytest.raises(InputError, match=r"Run `portcullis prepare outlier_exposure \.\.\.` and give"):
            audit_cell(cell, workspace(here.folder), spec=here.spec)

    def test_the_folder_of_a_hardened_victim_is_a_victim_known_by_its_content(self, here):
        audited(here, HARDENED)
        (folder,) = (here.folder / "out" / "artifacts").iterdir()
        artifact = Artifact.at(str(folder))
        for name in (str(folder), str(artifact)):
            experiment = replace(here.spec, victim=name).load()
            assert experiment.names["victim"] == {"name": folder.name, "sha256": artifact.sha256}
        (folder / "about.json").write_text("{}")
        with pytest.raises(InputError, match="was expected to hold what has the SHA-256"):
            replace(here.spec, victim=str(artifact), outside=None, rows=9).load()


def test_what_is_to_be_trained_is_found_within_units():
    assert needs_outside(guard_named(f"rounding + {FILTERED}").stages)
    assert needs_outside([guard_named(HARDENED).hardening])
    assert not needs_outside(guard_named("watch(detector=prada, then=label_only)").stages)
    assert not needs_outside([{"unit": "outlier_exposure", "artifact": "somewhere"}])


def test_new_fields_of_a_cell_leave_the_ids_of_older_ones_alone():
    cell = Cell(victim={}, data={}, interface={}, attack={"unit": "knockoff"})
    assert replace(cell, regime="", hardening=None).id == cell.id
    assert len({cell.id, replace(cell, regime="matched").id, replace(cell, hardening={"unit": "h"}).id}) == 3
    one, two = ({"unit": "h", "artifact": f"{place}@sha256:{'0' * 64}"} for place in ("here", "there"))
    assert replace(cell, hardening=one).id == replace(cell, hardening=two).id
