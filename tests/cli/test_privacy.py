"""`portcullis privacy`: what it says, what it leaves behind, what it refuses, in sentences."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from tests.report.test_page import walk
from typer.testing import CliRunner

from portcullis_ml.bench.flags import FLAGS
from portcullis_ml.cli.app import app
from portcullis_ml.models.load import save_model
from portcullis_ml.models.sklearn import SklearnModel

DIGITS = load_digits()
ORDER = np.random.default_rng(0).permutation(1000)
X, Y = DIGITS.data[ORDER] / 16, DIGITS.target[ORDER]
NOISE = np.random.default_rng(1).random(1000) < 0.2
Y[NOISE] = np.random.default_rng(2).integers(10, size=int(NOISE.sum()))
FOREST = RandomForestClassifier(20, random_state=0).fit(X[:300], Y[:300])


def forest() -> SklearnModel:
    """A victim that overfits: a fifth of its rows have a random label."""
    return SklearnModel(FOREST, n_classes=10)


def straight() -> LinearRegression:
    return LinearRegression().fit(X[:50], Y[:50])


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    monkeypatch.setitem(sys.modules, "toy_forest", sys.modules[__name__])


def rows(name: str, start: int, stop: int, *, labels: bool = True, **changes) -> str:
    arrays = {"x": X[start:stop], **({"y": Y[start:stop]} if labels else {})}
    np.savez(f"{name}.npz", **{**arrays, **changes})
    return f"{name}.npz"


def call(*more: object, members: str = "", others: str = "", victim: str = "toy_forest:forest"):
    members, others = members or rows("in", 0, 300), others or rows("out", 300, 600)
    words = ["privacy", "--victim", victim, "--members", members, "--nonmembers", others, "--shadow-models", 4]
    return CliRunner().invoke(app, [str(w) for w in (*words, *more)])


def test_the_answer_comes_in_words_and_in_a_page():
    result = call("--pool", rows("pool", 600, 900), "--attacks", "rmia,gap,lira")
    assert result.exit_code == 0, result.output
    assert "Of 1,000 people in the training data a stranger can name " in result.output
    page = walk(Path("portcullis-privacy/report.html").read_text())
    for words in ("The most exposed rows", "member ", "without the model", "at 0.1%"):
        assert words in page.text
    assert [a["aria-label"] for a in page.all("svg") if a.get("aria-label", "").startswith("Curves")]


def test_json_has_leakpros_keys_and_agrees_with_itself():
    result = call("--pool", rows("pool", 600, 900), "--attacks", "rmia,gap", "--json")
    output = json.loads(result.stdout)
    assert [r["on"] for r in output["results"]] == ["api", "api", "innocent", "innocent"]
    rmia, *_ = output["results"]
    assert {"tpr", "fpr", "roc_auc", "fixed_fpr", "signal_values", "true_labels", "tp", "fp", "tn", "fn"} <= set(rmia)
    assert list(rmia["fixed_fpr"]) == ["TPR@10%FPR", "TPR@1%FPR", "TPR@0.1%FPR", "TPR@0%FPR"]
    signals, member = np.array(rmia["signal_values"]), np.array(rmia["true_labels"], bool)
    assert (len(signals), member.sum()) == (600, 300)
    assert rmia["rows"] == [*range(300), *range(300)]  # in the order of the files
    above = np.mean([(m > signals[~member]).mean() + (m == signals[~member]).mean() / 2 for m in signals[member]])
    assert rmia["roc_auc"] == pytest.approx(above)
    assert rmia["measures"]["auc"][1] > 0.9
    assert output["results"][2]["measures"]["auc"][1] < 0.5  # on the model without the candidates
    assert signals[rmia["exposed"][0]["row"]] == signals[member].max()
    assert {f["id"] for f in output["flags"]} == {"too_few_non_members", "threshold_on_evaluated_rows"}
    assert {f["id"] for f in output["flags"]} <= set(FLAGS)


def test_a_second_run_trains_and_runs_nothing():
    first = json.loads(call("--attacks", "lira,rmia", "--json").stdout)
    (kept,) = Path("portcullis-privacy").glob("shadows-*")
    before = {p: p.stat().st_mtime_ns for p in (*kept.iterdir(), Path(first["records"]))}
    again = json.loads(call("--attacks", "lira,rmia", "--json").stdout)
    assert again["results"] == first["results"]
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_shadow_models_that_were_kept_serve_the_same_rows_and_are_refused_for_others():
    first = json.loads(call("--attacks", "lira", "--json").stdout)["results"][0]
    (kept,) = Path("portcullis-privacy").glob("shadows-*")
    words = ("--attacks", f'lira(shadows="{kept}")', "--json", "--out", "again")
    result = call(*words)
    assert result.exit_code == 0, result.output
    same = json.loads(result.stdout)["results"][0]
    assert same["signal_values"] == first["signal_values"]
    assert not list(Path("again").glob("shadows-*"))
    others = {"members": rows("in2", 0, 200), "others": rows("out2", 400, 600)}
    (refused,) = json.loads(call(*words, **others).stdout)["results"]
    assert refused["outcome"] == "failed"
    assert "were trained with other rows than are audited, so they say nothing here." in refused["reason"]


@pytest.mark.parametrize(("limit", "code"), [(0.2, 3), (1.0, 0)])
def test_fail_over_looks_at_the_worst_attack_on_the_api(limit, code):
    result = call("--attacks", "rmia,gap", "--fail-over", limit)
    assert result.exit_code == code, result.output
    assert ("not above the limit" in result.output) == (code == 0)


def test_a_guard_is_attacked_by_who_knows_it_and_the_copy_without_it():
    copy = RandomForestClassifier(20, random_state=1).fit(X[600:900], Y[600:900])  # saw no member
    save_model(SklearnModel(copy), "copy.skops")
    words = ("--through", "rounding(decimals=1)", "--on", "copy.skops", "--attacks", "rmia", "--json")
    output = json.loads(call(*words).stdout)
    found = {r["on"]: r for r in output["results"]}
    assert found["api"]["through"] == "rounding(decimals=1)"
    assert found["api"]["measures"]["auc"][1] > 0.6
    assert found["copy"]["measures"]["auc"][1] < 0.5
    assert found["copy"]["through"] == "copy"


def test_labels_only_leave_what_labels_tell():
    output = json.loads(call("--answers", "labels", "--attacks", "gap,lira", "--json").stdout)
    gap, lira = output["results"]
    assert gap["outcome"] == "done"
    assert lira["outcome"] == "not applicable"
    assert "lira needs top_k; this API gives labels." in lira["reason"]


def test_members_chosen_by_class_and_another_source_are_flagged():
    twos = np.flatnonzero(Y[300:] == 2) + 300
    others = rows("out", 0, 0, x=X[twos] * 0.5, y=Y[twos])
    output = json.loads(call("--attacks", "gap", "--json", others=others).stdout)
    raised = {f["id"] for f in output["flags"]}
    assert {"members_by_class", "members_look_different", "no_innocent_control"} <= raised


@pytest.mark.parametrize(
    ("files", "options", "sentence"),
    [
        ({"others": ("out", 250, 600)}, [], "no row in common; 50 of 350 non-members are members too."),
        ({"members": ("in", 0, 300, {"labels": False})}, [], "the members have none. Save them with y"),
        ({"others": ("out", 300, 600, {"labels": False})}, [], "the non-members have none. Save them with y"),
        ({}, ["--fail-over", "0.1", "--fpr", "0.001"], "at least 1,000 non-members; there are 300."),
        ({}, ["--attacks", "lria"], "Did you mean rmia or lira"),
        ({}, ["--shadow-models", "5"], "an even number of at least 4; got 5."),
        ({}, ["--through", "outlier_exposure"], "a hardening makes another victim"),
        ({}, ["--on", "nothing.safetensors"], "nothing.safetensors"),
        ({"victim": "toy_forest:straight"}, [], "a regression has none"),
        ({"members": ("in", 0, 300, {"x": X[:300, :32]})}, [], "the inputs of the non-members, (64,); they have (32,)"),
        ({"members": ("in", 0, 300, {"y": np.r_[Y[:299], 10]})}, [], "the victim does not know the class '10'"),
    ],
)
def test_bad_input_is_one_sentence(files, options, sentence):
    given = {}
    for name, what in files.items():
        given[name] = what if isinstance(what, str) else rows(*what[:3], **(what[3] if len(what) > 3 else {}))
    result = call(*options, "--json", **given)
    assert result.exit_code == 2, result.output
    assert sentence.lower() in result.stderr.replace("\n", " ").lower()
    assert "Traceback" not in result.output


def test_one_class_only_is_refused():
    ones = np.flatnonzero(Y == 1)
    members = rows("in", 0, 0, x=X[ones[:40]], y=Y[ones[:40]])
    others = rows("out", 0, 0, x=X[ones[40:]], y=Y[ones[40:]])
    result = call(members=members, others=others)
    assert result.exit_code == 2
    assert "at least two classes; they show one" in result.stderr


def test_files_without_a_victim_and_a_victim_without_files_are_refused():
    runner = CliRunner()
    assert "got none. Add --victim." in runner.invoke(app, ["privacy", "--members", "a.npz"]).stderr
    assert "needs --members FILE" in runner.invoke(app, ["privacy", "--victim", "toy_forest:forest"]).stderr


def test_a_model_without_gradients_is_not_inverted_by_them():
    result = call("--attacks", "mi_face(by=gradients)")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "needs a model that can be differentiated; there is none. by=differences asks the API." in said


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (("job", "work"), "; the table has none. Did you mean"),
        (("yes", "perhaps"), "does not know the class 'perhaps'; it knows no, yes."),
        (("cook", "king"), "has never seen 'king' in column 'job'"),
    ],
)
@pytest.mark.parametrize("which", ["members", "others"])
def test_members_of_another_schema_are_refused(which, changed, sentence):
    files = {"members": people("in", 0, 200), "others": people("out", 200, 400)}
    path = Path(files[which])
    path.write_text(path.read_text().replace(*changed))
    result = call("--target", "rich", "--attacks", "gap", victim="toy_forest:pipeline", **files)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert "Traceback" not in result.output


def test_a_hidden_column_is_guessed_beside_imputation():
    rng = np.random.default_rng(0)
    gene, age, n = rng.integers(3, size=600), rng.random(600).round(3), 600
    dose = np.where(rng.random(n) < 0.9, gene == 2, rng.random(n) < 0.5)
    lines = [f"{a},g{g},{'high' if d else 'low'}" for a, g, d in zip(age, gene, dose, strict=True)]
    Path("people.csv").write_text("\n".join(["age,gene,dose", *lines]) + "\n")
    words = ["privacy", "--data", "people.csv", "--target", "dose", "--attacks", "attribute_inference(column=gene),gap"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "gene is guessed right for" in result.output.replace("\n", " ")
    page = walk(Path("portcullis-privacy/report.html").read_text())
    assert "Without the model" in page.text
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["results"][0]
    guessed, imputed, majority = (found["measures"][name][0] for name in ("guessed", "imputed", "majority"))
    assert guessed > majority
    assert found["measures"]["gain"][0] == pytest.approx(guessed - imputed)


def test_classes_are_rebuilt_and_shown_beside_members():
    words = ["privacy", "--attacks", "mi_face(iterations=3, classes=(0, 1))", "--budget", "500"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    page = walk(Path("portcullis-privacy/report.html").read_text())
    alts = [a["alt"] for a in page.all("img")]
    assert {"Rebuilt, class 0", "Mean of class 1", "Nearest member, class 1"} <= set(alts)


def people(name: str, start: int, stop: int) -> str:
    """A table of words and numbers, of which a forest learns rows by heart."""
    rng = np.random.default_rng(7)
    lines = ["age,job,town,rich"]
    for _ in range(stop):
        job, town = rng.choice(["cook", "smith", "clerk"]), rng.choice(["north", "south"])
        lines.append(f"{rng.random():.6f},{job},{town},{rng.choice(['no', 'yes'])}")
    Path(f"{name}.csv").write_text("\n".join([lines[0], *lines[1 + start :]]) + "\n")
    return f"{name}.csv"


def pipeline():
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    table = pandas.read_csv(people("fitted", 0, 200))
    encode = make_column_transformer((OneHotEncoder(), ["job", "town"]), remainder="passthrough")
    return make_pipeline(encode, RandomForestClassifier(20, random_state=0)).fit(
        table[["age", "job", "town"]], table["rich"]
    )


def test_a_pipeline_over_a_table_is_shadowed_by_its_own_kind():
    files = {"members": people("in", 0, 200), "others": people("out", 200, 400)}
    words = ("--pool", people("pool", 400, 600), "--target", "rich", "--attacks", "rmia,lira,label_only", "--json")
    result = call(*words, victim="toy_forest:pipeline", **files)
    assert result.exit_code == 0, result.output
    output = json.loads(result.stdout)
    rmia, lira, labels, *control = output["results"]
    assert min(r["measures"]["auc"][1] for r in (rmia, lira, labels)) > 0.6
    assert max(r["measures"]["auc"][1] for r in control) < 0.55
    assert list(Path("portcullis-privacy").glob("shadows-*"))
