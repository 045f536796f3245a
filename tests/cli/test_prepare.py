"""`portcullis prepare`: what it leaves behind, the words it prints, and what bad input gets."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.experiments import truth, write
from portcullis_ml.cli.app import app
from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.models.load import load_model

VICTIM = "bench.experiments:victim"


def call(*words: object):
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(3)
    train = rng.uniform(size=(80, 4))
    paths = write(tmp_path, train_x=train, train_y=truth(train))
    np.savez("outside.npz", x=1 + rng.uniform(size=(60, 4)))
    np.savez("one_class.npz", x=train, y=np.zeros(80, np.int64))
    np.savez("bare.npz", x=train)
    np.savez("wide.npz", x=np.zeros((9, 7)))
    return paths


def words(files, unit="domain_filter(epochs=3)", *more):
    return ["prepare", unit, "--victim", VICTIM, "--train", files["train"], "--outside", "outside.npz", *more]


def test_a_recipe_is_trained_and_an_audit_and_a_policy_take_its_words(files):
    result = call(*words(files, "domain_filter(epochs=3)", "--out", "filter"))
    assert result.exit_code == 0, result.output
    artifact = Artifact.at("filter")
    assert f"artifact: {artifact}" in result.stdout
    (option,) = re.findall(r"^--defenses .*$", result.stdout, re.M)
    policy = tomllib.loads(result.stdout.partition("In a policy:\n")[2])
    assert policy == {"guard": [{"unit": "out_of_domain", "filter": str(artifact)}]}
    where = ["--victim", VICTIM, "--test", files["test"], "--pool", files["pool"], "--attacks", "knockoff"]
    small = ["--budget", "20", "--seeds", "1", "--jobs", "0", "--epochs", "2", "--json"]
    audit = call("audit", *where, *small, *shlex.split(option))
    assert audit.exit_code == 0, audit.output
    rows = {row["defense"]: row["outcome"] for row in json.loads(audit.stdout)["rows"]}
    assert rows[shlex.split(option)[1]] == "done"
    records = [json.loads(line) for line in Path("portcullis-audit/records.jsonl").read_text().splitlines()]
    said = {r["threat_model"].get("outside_rows") for r in records if r["defense"] == shlex.split(option)[1]}
    assert said == {"outside.npz, used before this audit and not compared with the pool"}


def test_what_a_detector_takes_is_written_as_a_watch(files):
    result = call(*words(files, "training_steps(epochs=20, window=10)", "--out", "steps"))
    assert result.exit_code == 0, result.output
    artifact = Artifact.at("steps")
    (option,) = re.findall(r"^--defenses .*$", result.stdout, re.M)
    stage = DEFENSES.build(shlex.split(option)[1])
    assert stage.detector.steps == artifact
    (policy,) = tomllib.loads(result.stdout.partition("In a policy:\n")[2])["guard"]
    assert DEFENSES.build(policy) == stage


def test_an_artifact_that_several_units_take_is_written_for_each(files):
    result = call(*words(files, "evaluation_set(rows=60)", "--out", "set", "--json"))
    assert result.exit_code == 0, result.output
    use = json.loads(result.stdout)["use"]
    artifact = Artifact.at("set")
    stages = [DEFENSES.build(shlex.split(line)[1]) for line in use["audit"].splitlines()]
    assert [stage.detector.name for stage in stages] == ["coverage", "extraction_monitor"]
    assert [stage.detector.evaluation for stage in stages] == [artifact, artifact]
    assert [DEFENSES.build(policy) for policy in tomllib.loads(use["policy"])["guard"]] == stages


def test_the_setting_that_goes_with_an_artifact_is_written_too(files):
    from portcullis_ml.cli.prepare import _as_setting

    folder = str(Artifact.at(files["train"]))
    use = _as_setting("class_means", folder)
    stages = [DEFENSES.build(shlex.split(line)[1]) for line in use["audit"].splitlines()]
    assert [DEFENSES.build(policy) for policy in tomllib.loads(use["policy"])["guard"]] == stages
    assert (stages[0].name, stages[0].score) == ("out_of_domain", "mahalanobis")
    assert stages[1].detector.name == "mahalanobis"


def test_the_same_seed_writes_the_same_and_another_seed_another(files):
    found = [
        json.loads(call(*words(files, "domain_filter(epochs=3)", "--json", "--out", out, "--seed", seed)).stdout)
        for out, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert found[0]["sha256"] == found[1]["sha256"] != found[2]["sha256"]
    assert found[0]["about"]["outside"] == {"name": "outside.npz", "n": 60} | {
        "sha256": found[1]["about"]["outside"]["sha256"]
    }
    assert found[0]["use"]["policy"].startswith('[[guard]]\nunit = "out_of_domain"\nfilter = ')


def test_a_hardened_victim_is_taken_wherever_a_victim_is(files):
    result = call(*words(files, "outlier_exposure", "--out", "hard"))
    assert result.exit_code == 0, result.output
    assert "For a model server:\nhard/model.onnx" in result.stdout
    (option,) = re.findall(r"^--victim .*$", result.stdout, re.M)
    x = np.random.default_rng(0).uniform(size=(20, 4))
    np.testing.assert_allclose(load_model("hard").scores(x), load_model("hard/model.onnx").scores(x), atol=1e-4)
    stolen = call("extract", "knockoff", *shlex.split(option), "--test", files["test"], "--pool", files["pool"],
                  "--budget", "20", "--epochs", "2", "--json")  # fmt: skip
    assert stolen.exit_code == 0, stolen.output
    assert json.loads(stolen.stdout)["record"]["cell"]["victim"]["sha256"] == Artifact.at("hard").sha256


@pytest.mark.parametrize(
    ("unit", "more", "sentence"),
    [
        ("domain_filtr", [], "got 'domain_filtr'. Did you mean domain_filter"),
        ("rounding", [], "must be one of those in `portcullis list recipes` or `portcullis list hardening`"),
        ("domain_filter(epochs=0)", [], "DomainFilter.epochs must be an int of at least 1; got 0."),
        ("domain_filter", ["--out", "full"], "A new or an empty folder was expected at full; something is there."),
        ("domain_filter", ["--outside", "nowhere.npz"], "The file of outside rows was expected in nowhere.npz"),
        ("domain_filter", ["--outside", "nowhere"], "There is no data set 'nowhere'"),
        ("domain_filter", ["--outside", "wide.npz"], "Outside rows must have the inputs of the victim, (4,); wide.npz"),
        ("domain_filter", ["--train", "nowhere.npz"], "The training set was expected in nowhere.npz; there is no such"),
        ("outlier_exposure", ["--train", "one_class.npz"], "rows of 2 classes at least; got one class."),
        ("outlier_exposure", ["--train", "bare.npz"], "needs the true classes of the victim's rows"),
        ("domain_filter", ["--victim", "nowhere.onnx"], "There is no file nowhere.onnx."),
        ("domain_filter", ["--victim", "full"], "full was expected to hold one of model.safetensors, model.skops"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(files, unit, more, sentence):
    Path("full").mkdir()
    Path("full/old").write_text("here")
    result = call(*words(files, unit, *more))
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.splitlines()[-1].startswith("portcullis: ")
    assert not Path("portcullis-prepared").exists()


def test_rows_that_are_missing_are_named(files):
    result = call("prepare", "domain_filter", "--victim", VICTIM, "--train", files["train"])
    assert result.exit_code == 2
    assert (
        "domain_filter needs outside rows, unlike the victim's; there are none. Give --outside FILE." in result.stderr
    )
    result = call("prepare", "domain_filter", "--victim", VICTIM, "--data", "digits", "--outside", "outside.npz")
    assert result.exit_code == 2


def test_an_audit_of_both_regimes_names_them_in_its_table(files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")  # so that no name is folded
    result = call(
        "audit", "--victim", VICTIM, "--test", files["test"], "--pool", files["pool"], "--train", files["train"],
        "--outside", "outside.npz", "--regimes", "matched,held_out", "--attacks", "knockoff", "--budget", "20",
        "--defenses", "out_of_domain(filter=domain_filter(epochs=2))", "--seeds", "1", "--jobs", "0", "--epochs", "2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for name in ("[matched]", "[held out]"):
        assert f"out_of_domain(filter=domain_filter(epochs=2)) {name}" in result.output
    assert "(deployed)" in result.output
    assert "Training domain_filter [held out], seed 0: 2 of 2 steps" in result.stderr
    assert "[held out]" in Path("portcullis-audit/report.html").read_text()
    result = call("audit", "--regimes", "any")
    assert result.exit_code == 2
    assert "--regimes must be matched, held_out or both; got 'any'." in result.stderr
