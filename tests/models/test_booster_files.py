"""Boosted models from files of their own libraries, against those libraries' own predictions.

CI has CatBoost; what needs XGBoost or LightGBM is marked slow and run by `make everyday`.
"""

import builtins
import json
import sys

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_wine
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import InputError
from portcullis_ml.models.kinds import are_trees
from portcullis_ml.models.load import load_model

WINE = load_wine(return_X_y=True)
CANCER = load_breast_cancer(return_X_y=True)
SETTINGS = {"xgboost": {"n_jobs": 1}, "lightgbm": {"n_jobs": 1, "verbose": -1, "min_child_samples": 2}}

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries that are not ours


def fitted(package, x, y, kind="Classifier", **more):
    """A model of that library with its own interface, and the function that writes it."""
    library = pytest.importorskip(package)
    if package == "catboost":
        model = getattr(library, f"CatBoost{kind}")(
            iterations=8, verbose=0, thread_count=1, allow_writing_files=False, **more
        ).fit(x, y)
        return model, model.save_model
    name = "XGB" if package == "xgboost" else "LGBM"
    model = getattr(library, name + kind)(n_estimators=8, **SETTINGS[package], **more).fit(x, y)
    return model, (model if package == "xgboost" else model.booster_).save_model


def files(*names):
    """(package, file name) of every kind of file, or of these."""
    every = [("xgboost", "m.json"), ("xgboost", "m.ubj"), ("lightgbm", "m.txt"), ("lightgbm", "m.model")]
    params = [pytest.param(package, name, marks=pytest.mark.slow) for package, name in every]
    return [p for p in (*params, pytest.param("catboost", "m.cbm")) if not names or p.values[1] in names]


HEADS = [p.values for p in files()]  # what is told by a file's first bytes needs no library


@pytest.mark.parametrize(("package", "name"), files())
@pytest.mark.parametrize("rows", [WINE, CANCER], ids=["three classes", "two classes"])
def test_a_file_answers_as_its_library_does(tmp_path, package, name, rows):
    x, y = rows
    model, save = fitted(package, x, y)
    save(str(tmp_path / name))
    taken = load_model(str(tmp_path / name), input_shape=x.shape[1:])
    assert taken.n_classes == y.max() + 1
    np.testing.assert_allclose(taken.scores(x), model.predict_proba(x), atol=1e-6)
    assert are_trees(taken)


@pytest.mark.parametrize(("package", "name"), files("m.json", "m.txt", "m.cbm"))
def test_a_regression_is_one(tmp_path, package, name):
    x, y = WINE
    model, save = fitted(package, x, y.astype(float), "Regressor")
    save(str(tmp_path / name))
    taken = load_model(str(tmp_path / name), input_shape=x.shape[1:])
    assert taken.n_classes == 0
    np.testing.assert_allclose(taken.scores(x)[:, 0], model.predict(x), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["binary:logitraw", "binary:logistic", "multi:softmax"])
def test_an_xgboost_file_without_a_number_of_classes_or_probabilities(tmp_path, objective):
    xgboost = pytest.importorskip("xgboost")
    x, y = WINE if objective.startswith("multi") else CANCER
    more = {"num_class": 3} if objective.startswith("multi") else {}
    booster = xgboost.train({"objective": objective, "nthread": 1, **more}, xgboost.DMatrix(x, y), 8)
    booster.save_model(tmp_path / "m.json")
    taken = load_model(str(tmp_path / "m.json"), input_shape=x.shape[1:])
    margins = booster.predict(xgboost.DMatrix(x), output_margin=True)
    p = np.exp(margins) / np.exp(margins).sum(axis=1, keepdims=True) if more else 1 / (1 + np.exp(-margins))
    np.testing.assert_allclose(taken.scores(x) if more else taken.scores(x)[:, 1], p, atol=1e-6)


@pytest.mark.slow
def test_xgboost_stops_where_its_estimator_would(tmp_path):
    x, y = CANCER
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=3, **SETTINGS["xgboost"])
    model.fit(x[::2], y[::2], eval_set=[(x[1::2], 1 - y[1::2])], verbose=False)  # it can only get worse
    model.save_model(tmp_path / "m.json")
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    taken = load_model(str(tmp_path / "m.json"), input_shape=x.shape[1:])
    np.testing.assert_allclose(taken.scores(x), model.predict_proba(x), atol=1e-6)


@pytest.mark.slow
def test_lightgbm_with_an_objective_of_its_own_asks_for_softmax(tmp_path):
    lightgbm = pytest.importorskip("lightgbm")
    x, y = CANCER

    def logistic(scores, data):
        p = 1 / (1 + np.exp(-scores))
        return p - data.get_label(), p * (1 - p)

    booster = lightgbm.train({"objective": logistic, "verbose": -1, "num_threads": 1}, lightgbm.Dataset(x, y), 8)
    booster.save_model(tmp_path / "m.txt")
    with pytest.raises(InputError, match=r"an objective of its own.* say --softmax"):
        load_model(str(tmp_path / "m.txt"), input_shape=x.shape[1:])
    taken = load_model(str(tmp_path / "m.txt"), input_shape=x.shape[1:], softmax=True)
    np.testing.assert_allclose(taken.scores(x)[:, 1], 1 / (1 + np.exp(-booster.predict(x))), atol=1e-9)


def table(tmp_path):
    """Words, numbers that are categories, and a number; the word None is a category, and some cells are empty."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    color = rng.choice(["red", "None", "blue, dark"], 300)
    code = rng.choice([5, 7, 12], 300)
    size = rng.normal(size=300).round(3)
    y = ((color == "red") ^ (code == 7)).astype(int)
    frame = pandas.DataFrame({"color": color, "code": code, "size": size})
    asked = frame.copy()
    asked["extra"] = "x"  # a column that the victim does not take
    asked.loc[asked.index[:7], "extra"] = ""
    asked["label"] = np.where(y, "yes", "no")
    asked.to_csv(tmp_path / "test.csv", index=False)
    return frame, np.where(y, "yes", "no"), y


@pytest.mark.parametrize(("package", "name"), files("m.json", "m.ubj", "m.txt", "m.cbm"))
def test_a_table_keeps_its_words(tmp_path, package, name):
    frame, words, y = table(tmp_path)
    given = frame.copy()
    if package == "catboost":
        given["code"] = given["code"].astype(str)
        model, save = fitted(package, given, words, cat_features=["color", "code"])
    else:
        given["color"], given["code"] = given["color"].astype("category"), given["code"].astype("category")
        more = {"enable_categorical": True} if package == "xgboost" else {"min_data_per_group": 1}
        model, save = fitted(package, given, y, **more)
    save(str(tmp_path / name))
    arguments = ["inspect", "--victim", str(tmp_path / name), "--test", str(tmp_path / "test.csv"), "--target", "label"]
    arguments += [] if package == "catboost" else ["--classes", "no,yes"]
    found = CliRunner().invoke(app, [*arguments, "--json"])
    assert found.exit_code == 0, found.output
    understood = json.loads(found.stdout)["understood"]
    right = (model.predict(given).astype(str) == (words if package == "catboost" else y.astype(str))).mean()
    assert right > 0.9
    assert f"300; {right:.1%} answered as labelled" in understood["test rows"]["taken"]
    assert understood["inputs"]["taken"].startswith("a table of 3 columns, 2 of words")
    assert understood["classes"]["taken"] == "2, in this order: no, yes"


@pytest.mark.slow
def test_an_empty_category_is_asked_and_a_row_without_a_number_is_counted(tmp_path):
    frame, _, y = table(tmp_path)
    given = frame.assign(color=frame["color"].astype("category"), code=frame["code"].astype("category"))
    given.loc[:9, "color"] = None
    model, save = fitted("xgboost", given, y, enable_categorical=True)
    save(str(tmp_path / "m.json"))
    asked = given.assign(label=np.where(y, "yes", "no"))
    asked.loc[20:24, "size"] = np.nan
    asked.to_csv(tmp_path / "test.csv", index=False)
    arguments = ["--test", str(tmp_path / "test.csv"), "--target", "label", "--classes", "no,yes", "--json"]
    found = CliRunner().invoke(app, ["inspect", "--victim", str(tmp_path / "m.json"), *arguments])
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    kept = np.r_[0:20, 25:300]
    right = (model.predict(given.iloc[kept]) == y[kept]).mean()
    assert f"295; {right:.1%} answered as labelled" in document["understood"]["test rows"]["taken"]
    assert any("lost 5 of 300 rows, which lack a value in size" in note for note in document["notes"])


# what is refused


@pytest.mark.parametrize(("package", "name"), HEADS)
def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch, package, name):
    heads = {"xgboost": b'{"learner": {}}', "lightgbm": b"tree\n", "catboost": b"CBM1"}
    (tmp_path / name).write_bytes(heads[package])
    importing = builtins.__import__
    monkeypatch.delitem(sys.modules, package, raising=False)

    def without(wanted, *more):
        if wanted == package:
            raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted)
        return importing(wanted, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        InputError, match=f"is read by {package}, which is not installed. Install it: pip install {package}"
    ):
        load_model(str(tmp_path / name), input_shape=(3,))


@pytest.mark.parametrize(("package", "name"), HEADS)
def test_another_file_is_named(tmp_path, package, name):
    (tmp_path / name).write_bytes(b"age,income\n1,2\n")
    with pytest.raises(
        InputError, match=rf"{name} was expected to be a model of .*; it begins otherwise. Write it again"
    ):
        load_model(str(tmp_path / name), input_shape=(3,))


@pytest.mark.parametrize(("package", "name"), files())
def test_a_file_that_is_cut_short_is_named(tmp_path, package, name):
    _, save = fitted(package, *WINE)
    save(str(tmp_path / name))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        InputError, match=rf"{name} (was expected to be a model of .*cannot read it|ends before its trees do)"
    ):
        load_model(str(tmp_path / name), input_shape=(13,))


def test_xgboosts_former_format_is_named(tmp_path):
    (tmp_path / "m.model").write_bytes(b"binf" + bytes(40))
    with pytest.raises(InputError, match="XGBoost's former binary format; write it again"):
        load_model(str(tmp_path / "m.model"), input_shape=(3,))


@pytest.mark.slow
def test_trees_that_point_outside_themselves_are_refused(tmp_path):
    _, save = fitted("lightgbm", *WINE)
    save(str(tmp_path / "m.txt"))
    text = (tmp_path / "m.txt").read_text()
    (line,) = [x for x in text.split("\nTree=1")[0].splitlines() if x.startswith("left_child=")]
    for wrong in ("0", "99", "-99"):  # round for ever, no such node, no such leaf
        (tmp_path / "bad.txt").write_text(text.replace(line, " ".join(["left_child=" + wrong, *line.split()[1:]]), 1))
        with pytest.raises(InputError, match="a tree that points outside itself"):
            load_model(str(tmp_path / "bad.txt"), input_shape=(13,))
    _, save = fitted("xgboost", *WINE)
    save(str(tmp_path / "m.json"))
    for key, wrong in (("left_children", 0), ("right_children", 10_000), ("split_indices", 10_000)):
        document = json.loads((tmp_path / "m.json").read_text())
        document["learner"]["gradient_booster"]["model"]["trees"][0][key][0] = wrong
        (tmp_path / "bad.json").write_text(json.dumps(document))
        with pytest.raises(InputError, match=r"points outside itself|cannot read it"):
            load_model(str(tmp_path / "bad.json"), input_shape=(13,))
