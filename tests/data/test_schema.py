"""Schemas: what is inferred, what a file corrects, what pipelines and exports are given, and what bad input gets."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from portcullis_ml.bench.experiment import ExperimentSpec
from portcullis_ml.bench.run_audit import AuditOptions, plan_of
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Feature, Interface, Reveals
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.data.schema import aligned, as_word, corrected, described, read_schema
from portcullis_ml.models.incomplete import IncompleteTable, sources
from portcullis_ml.models.load import load_model
from portcullis_ml.models.table import TableModel, encoders
from portcullis_ml.models.trusted import inspect_trees

pandas = pytest.importorskip("pandas")
skops_io = pytest.importorskip("skops.io")

AGE = Feature("age", low=18.0, high=80.0)
CITY = Feature("city", values=("Bonn", "Oslo", "Rome"))
GRADE = Feature("grade", low=1.0, high=4.0)
PAY = Feature("pay", low=-3.0, high=3.0)
COLUMNS = (AGE, CITY, GRADE, PAY)
X = np.array([[30.0, 0, 1, 0.5], [41.5, 2, 4, -1.0], [18.0, 1, 2, 0.0]])


def frame(n: int = 240, seed: int = 0):
    rng = np.random.default_rng(seed)
    made = {
        "age": rng.integers(18, 81, n),
        "city": rng.choice(["Rome", "Oslo", "Bonn"], n),
        "grade": rng.integers(1, 5, n),
        "pay": rng.normal(size=n).round(3),
    }
    table = pandas.DataFrame(made)
    return table, np.where((table.age > 45) ^ (table.city == "Rome"), "yes", "no")


def pipeline(last=None, encoder=None, dense=True):
    """One-hot words and numbers that are names, bins, scaled numbers: the recipes of the issue."""
    parts = [
        ("words", encoder or OneHotEncoder(handle_unknown="ignore", sparse_output=not dense), ["city", "grade"]),
        ("bins", KBinsDiscretizer(4, encode="onehot-dense", quantile_method="averaged_inverted_cdf"), ["age"]),
        ("numbers", StandardScaler(), ["pay"]),
    ]
    return make_pipeline(ColumnTransformer(parts), last or LogisticRegression())


def write_csv(path: Path, table, labels, label: str = "label") -> str:
    table.assign(**{label: labels}).to_csv(path, index=False)
    return str(path)


def test_a_schema_says_what_every_column_may_hold():
    lines = described([AGE, Feature("zip", values=tuple("abcdefgh"))])
    assert lines == [("age", "number", "18 to 80"), ("zip", "category", "a, b, c, d, e, f, ... (8 in all)")]


def test_a_file_corrects_ranges_kinds_and_values(tmp_path):
    file = tmp_path / "schema.toml"
    file.write_text(
        '[age]\nlow = 0\nhigh = 120\n[city]\nvalues = ["Rome", "Oslo", "Bonn", "Paris"]\n'
        '[grade]\nkind = "category"\n[pay]\ndrop = true\n'
    )
    x, features = corrected(X, COLUMNS, read_schema(file))
    assert [f.name for f in features] == ["age", "city", "grade"]
    assert (features[0].low, features[0].high) == (0.0, 120.0)
    assert features[1].values == ("Rome", "Oslo", "Bonn", "Paris")
    assert features[2].values == ("1", "2", "4")
    assert x.tolist() == [[30.0, 2.0, 0.0], [41.5, 0.0, 2.0], [18.0, 1.0, 1.0]]


def test_a_category_of_numbers_can_be_a_number_again():
    x, (feature,) = corrected(np.array([[1.0], [0.0]]), [Feature("n", values=("10", "7.5"))], {"n": {"kind": "number"}})
    assert x.tolist() == [[7.5], [10.0]]
    assert (feature.low, feature.high, feature.categorical) == (7.5, 10.0, False)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[agee]\nlow = 1", r"The schema speaks of a column 'agee'; the table has none. Did you mean 'age'"),
        ("[age]\nmin = 1", r"\[age\] may say drop, high, kind, low, values; it has the key 'min'"),
        ("age = 3", r"\[age\] may say .*; it has 3"),
        ('[age]\nkind = "word"', r'kind must be "number" or "category"; got .word.'),
        ("[age]\nlow = 90", "Column 'age': low must be below high; got 90 and 80"),
        ("[city]\nlow = 1", "Column 'city' is a category, which has values and no low or high"),
        ('[city]\nvalues = ["Rome", "Rome"]', "Column 'city': values must differ"),
        ('[city]\nvalues = ["Rome", "Bonn"]', r"The schema has never seen 'Oslo' in column 'city' \(1 of 3 rows\)"),
        ('[city]\nkind = "number"', "Column 'city' was expected to hold numbers; it holds 'Bonn'"),
        ("".join(f"[{c}]\ndrop = true\n" for c in ("age", "city", "grade", "pay")), "The schema drops every column"),
        ("age = ", r"was expected to be a schema in TOML; it cannot be read"),
    ],
)
def test_a_schema_that_does_not_fit_gets_a_sentence(tmp_path, text, sentence):
    file = tmp_path / "schema.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=sentence):
        corrected(X, COLUMNS, read_schema(file))


def test_a_schema_that_is_not_there_gets_a_sentence(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        read_schema(tmp_path / "none.toml")


def test_rows_are_aligned_by_name_and_coded_anew():
    want = (Feature("city", values=("Rome", "Oslo", "Bonn", "Paris")), AGE)
    assert aligned(X, COLUMNS, want).tolist() == [[2.0, 30.0], [0.0, 41.5], [1.0, 18.0]]
    with pytest.raises(InputError, match=r"The victim takes a column 'town'; the table has none"):
        aligned(X, COLUMNS, (Feature("town"),))
    with pytest.raises(InputError, match=r"The victim has never seen 'Oslo' in column 'city' \(1 of 3 rows\)"):
        aligned(X, COLUMNS, (Feature("city", values=("Rome", "Bonn")),))


def test_words_are_written_as_tables_write_them():
    assert [as_word(v) for v in (3.0, 2.5, "x", 4, np.float64(7))] == ["3", "2.5", "x", "4", "7"]


def test_two_columns_of_one_name_get_a_sentence(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,a\n1,2,3\n4,5,6\n")
    with pytest.raises(InputError, match=r"column names must differ; 'a' stands twice. Rename one of them"):
        load_dataset(str(tmp_path / "t.csv"))


# Pipelines


def test_a_pipeline_gets_the_columns_that_it_was_trained_on():
    table, labels = frame()
    fitted = pipeline().fit(table, labels)
    model = TableModel(fitted, (PAY, Feature("junk"), CITY, GRADE, AGE))  # another order, and one too many
    assert [f.name for f in model.features] == ["age", "city", "grade", "pay"]
    assert model.features[2].values == ("1", "2", "3", "4")  # the encoder says that these numbers are names
    assert (model.classes, model.n_classes) == (("no", "yes"), 2)
    x = aligned(*_coded(table), model.features)
    np.testing.assert_array_equal(model.scores(x), fitted.predict_proba(table))


def _coded(table):
    """The frame as the data room codes it: plain, column by column."""
    rows = [[float(a), float(CITY.values.index(c)), float(g), float(p)] for a, c, g, p in table.to_numpy(object)]
    return np.array(rows), COLUMNS


def test_columns_without_names_work_too():
    table, labels = frame()
    rows = table.to_numpy(object)
    parts = [
        ("words", OneHotEncoder(), [1, 2]),
        ("age", StandardScaler(), slice(0, 1)),
        ("pay", StandardScaler(), [-1]),
    ]
    fitted = make_pipeline(ColumnTransformer(parts), LogisticRegression()).fit(rows, labels)
    model = TableModel(fitted, COLUMNS)
    x = aligned(*_coded(table), model.features)
    np.testing.assert_array_equal(model.scores(x), fitted.predict_proba(rows))
    with pytest.raises(InputError, match=r"takes 4 columns without names; the table has 3: age, city, grade"):
        TableModel(fitted, COLUMNS[:3])


def test_encoders_are_found_behind_other_steps():
    table, labels = frame()
    mask = np.array([False, True, False, False])
    inner = make_pipeline(StandardScaler(), OneHotEncoder(handle_unknown="ignore"))
    parts = [("words", OrdinalEncoder(), mask), ("grade", inner, ["grade"])]
    fitted = ColumnTransformer(parts).fit(table, labels)
    found = dict(encoders(fitted, [0, 1, 2, 3]))
    assert found[1][0].tolist() == ["Bonn", "Oslo", "Rome"]
    assert found[1][1]  # others are refused
    assert not found[2][1]


def test_a_category_that_the_victim_has_never_seen():
    table, labels = frame()
    wide = Feature("city", values=("Bonn", "Oslo", "Paris", "Rome"))
    strict = pipeline(encoder=OneHotEncoder()).fit(table, labels)
    model = TableModel(strict, (AGE, wide, GRADE, PAY))
    assert model.features[1].values == ("Bonn", "Oslo", "Rome")
    with pytest.raises(InputError, match=r"has never seen 'Paris' in column 'city' \(1 of 1 rows\); it knows Bonn"):
        aligned(np.array([[30.0, 2.0, 1.0, 0.0]]), (AGE, wide, GRADE, PAY), model.features)
    lenient = TableModel(pipeline().fit(table, labels), (AGE, wide, GRADE, PAY))
    assert lenient.features[1].values == ("Bonn", "Oslo", "Rome", "Paris")
    assert np.isfinite(lenient.scores(np.array([[30.0, 3.0, 1.0, 0.0]]))).all()


def test_half_a_category_is_the_nearest_one():
    table, labels = frame()
    model = TableModel(pipeline().fit(table, labels), COLUMNS)
    rows = np.array([[30.0, 1.4, 0.0, 0.0], [30.0, 1.0, 0.0, 0.0], [30.0, 9.0, 0.0, 0.0], [30.0, 2.0, 0.0, 0.0]])
    scores = model.scores(rows)
    assert scores[0].tolist() == scores[1].tolist()
    assert scores[2].tolist() == scores[3].tolist()


def test_a_missing_column_and_a_refused_row_get_a_sentence():
    table, labels = frame()
    fitted = pipeline().fit(table, labels)
    with pytest.raises(InputError, match=r"The victim takes a column 'city'; the table has none"):
        TableModel(fitted, (AGE, Feature("cty", values=("a",)), GRADE, PAY))
    with pytest.raises(InputError, match=r"knows column 'city' as the categories Bonn, .*; the table holds numbers"):
        TableModel(fitted, (AGE, Feature("city"), GRADE, PAY))
    with pytest.raises(InputError, match=r"The pipeline was given 4 columns and refused them"):
        TableModel(fitted, COLUMNS).scores(np.full((1, 4), np.nan))


def test_files_of_pipelines_and_of_trees_are_read(tmp_path):
    table, labels = frame()
    for last in (LogisticRegression(), DecisionTreeClassifier(max_depth=4, random_state=0)):
        fitted = pipeline(last).fit(table, labels)
        skops_io.dump(fitted, tmp_path / "model.skops")
        model = load_model(str(tmp_path / "model.skops"), features=COLUMNS)
        x = aligned(*_coded(table), model.features)
        np.testing.assert_array_equal(model.scores(x), fitted.predict_proba(table))


def test_a_forged_tree_is_found_out():
    table, labels = frame()
    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(table[["age", "pay"]], labels)
    inspect_trees(make_pipeline(tree), "model.skops")
    state = tree.tree_.__getstate__()
    state["nodes"]["left_child"][0] = 10_000
    tree.tree_.__setstate__(state)
    with pytest.raises(InputError, match=r"model.skops holds a tree that points outside itself"):
        inspect_trees(make_pipeline(tree), "model.skops")


def test_an_export_with_an_input_for_every_column(tmp_path):
    skl2onnx = pytest.importorskip("skl2onnx")
    pytest.importorskip("onnxruntime")
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

    table, labels = frame()
    fitted = pipeline().fit(table, labels)
    types = [("pay", FloatTensorType([None, 1])), ("city", StringTensorType([None, 1]))]
    types += [("age", Int64TensorType([None, 1])), ("grade", Int64TensorType([None, 1]))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        graph = skl2onnx.to_onnx(fitted, initial_types=types, options={"zipmap": False})
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    model = load_model(str(tmp_path / "model.onnx"), features=COLUMNS)
    assert (model.n_classes, model.precision) == (2, "float32")
    x = aligned(*_coded(table), model.features)
    np.testing.assert_allclose(model.scores(x), fitted.predict_proba(table), atol=1e-6)
    with pytest.raises(InputError, match=r"The victim takes a column 'pay'; the table has none"):
        load_model(str(tmp_path / "model.onnx"), features=(AGE, CITY, GRADE))


# Incomplete queries


def test_an_omitted_input_of_a_regression_adds_nothing():
    table, labels = frame()
    fitted = pipeline().fit(table, labels)
    model = IncompleteTable(fitted, COLUMNS)
    rows = aligned(*_coded(table), model.features)
    np.testing.assert_array_equal(model.scores(rows), fitted.predict_proba(table))
    prepared, last = fitted[:-1], fitted[-1]
    assert list(sources(prepared, [0, 1, 2, 3])) == [1] * 3 + [2] * 4 + [0] * 4 + [3]
    for j, name in enumerate(("age", "city", "grade", "pay")):
        gone = rows[:5].copy()
        gone[:, j] = np.nan
        columns = np.asarray(prepared.transform(table[:5]))
        columns[:, np.array(list(sources(prepared, [0, 1, 2, 3]))) == j] = 0
        np.testing.assert_allclose(model.scores(gone), last.predict_proba(columns), err_msg=name)
    nothing = model.scores(np.full((1, 4), np.nan))
    np.testing.assert_allclose(nothing, last.predict_proba(np.zeros((1, 12))))


def test_a_tree_stops_where_its_input_is_omitted():
    table, labels = frame()
    tree = DecisionTreeClassifier(max_depth=4, random_state=0)
    fitted = pipeline(tree).fit(table, labels)
    model = IncompleteTable(fitted, COLUMNS)
    np.testing.assert_allclose(model.scores(np.full((1, 4), np.nan)), tree.tree_.value[0])
    shown = IncompleteTable(fitted, COLUMNS, shows="confidence")
    rows = aligned(*_coded(table), model.features)
    assert (shown.scores(rows).argmax(axis=1) == fitted.predict_proba(table).argmax(axis=1)).all()
    with pytest.raises(InputError, match=r"--answers leaves wants a decision tree .* ends in LogisticRegression"):
        IncompleteTable(pipeline().fit(table, labels), COLUMNS, shows="confidence")


# Scenes: what the audit makes of it


@pytest.fixture
def victim(tmp_path):
    table, labels = frame()
    skops_io.dump(pipeline().fit(table, labels), tmp_path / "model.skops")
    test, truth = frame(60, seed=1)
    write_csv(tmp_path / "test.csv", test.assign(id=range(60)), truth)
    return tmp_path


def test_a_victim_and_a_table_are_a_scene(victim):
    spec = ExperimentSpec(victim=str(victim / "model.skops"), test=str(victim / "test.csv"), target="label")
    experiment = spec.load()
    assert [f.name for f in experiment.interface.features] == ["age", "city", "grade", "pay"]
    assert experiment.classes == ("no", "yes")
    fitted = skops_io.load(victim / "model.skops", trusted=["numpy.dtype"])
    test, truth = frame(60, seed=1)
    rows = aligned(*_coded(test), experiment.interface.features)
    np.testing.assert_array_equal(experiment.model.scores(rows), fitted.predict_proba(test))
    labels = {row.tobytes(): label for row, label in zip(rows, truth, strict=True)}
    assert len(experiment.test_x) == 60
    assert [labels[row.tobytes()] for row in experiment.test_x] == [experiment.classes[c] for c in experiment.test_y]


def test_a_pool_may_hold_other_categories_and_classes(victim):
    pool, _ = frame(30, seed=2)
    rome = pool.city == "Rome"
    write_csv(victim / "pool.csv", pool[rome].assign(id=0), np.repeat("yes", rome.sum()))
    spec = ExperimentSpec(
        victim=str(victim / "model.skops"), test=str(victim / "test.csv"), pool=str(victim / "pool.csv"), target="label"
    )
    experiment = spec.load()
    assert set(experiment.pool[:, 1]) == {2.0}
    assert set(experiment.pool_labels) == {1}


def test_the_schema_of_a_scene_is_corrected(victim):
    (victim / "schema.toml").write_text("[age]\nlow = 0\nhigh = 130\n")
    paths = {"victim": str(victim / "model.skops"), "test": str(victim / "test.csv"), "target": "label"}
    experiment = ExperimentSpec(**paths, schema=str(victim / "schema.toml")).load()
    assert (experiment.interface.features[0].low, experiment.interface.features[0].high) == (0.0, 130.0)


def test_interfaces_are_post_processing_of_one_victim(victim):
    paths = {"victim": str(victim / "model.skops"), "test": str(victim / "test.csv"), "target": "label"}
    spec = ExperimentSpec(**paths, incomplete=True)
    options = AuditOptions(spec=spec, attacks=("equation_solving",), decimals=3, precision="float32", budgets=(50,))
    plan = plan_of(options, spec.load())
    assert plan.interface == {"reveals": "probs", "decimals": 3, "precision": "float32", "missing": True}
    with pytest.raises(ParameterError, match="--precision must be float64 or float32; got 'half'"):
        AuditOptions(spec=spec, precision="half")
    with pytest.raises(InputError, match="--answers leaves wants a decision tree"):
        ExperimentSpec(**paths, leaves=True).load()


def test_a_victim_that_never_varies_gets_a_sentence(victim):
    table, _ = frame()
    skops_io.dump(DecisionTreeClassifier().fit(table[["age"]], np.repeat("no", 240)), victim / "constant.skops")
    constant = DecisionTreeClassifier(max_depth=1).fit(table[["age"]], ["no", "yes"] * 120)
    constant.set_params().tree_.value[:] = 0.5
    skops_io.dump(constant, victim / "constant.skops")
    spec = ExperimentSpec(victim=str(victim / "constant.skops"), test=str(victim / "test.csv"), target="label")
    with pytest.raises(InputError, match=r"gives the same answer to every one of 160 rows, so any constant is a"):
        spec.load()


def test_a_regression_gets_a_sentence_where_targets_are_words(victim):
    table, _ = frame()
    skops_io.dump(LinearRegression().fit(table[["age", "pay"]], table.grade), victim / "line.skops")
    spec = ExperimentSpec(victim=str(victim / "line.skops"), test=str(victim / "test.csv"), target="label")
    with pytest.raises(InputError, match="must have numbers as targets, since the victim answers numbers"):
        spec.load()


def test_a_class_that_the_victim_does_not_know_gets_a_sentence(victim):
    test, truth = frame(60, seed=1)
    write_csv(victim / "test.csv", test, np.where(np.arange(60) < 3, "maybe", truth))
    spec = ExperimentSpec(victim=str(victim / "model.skops"), test=str(victim / "test.csv"), target="label")
    with pytest.raises(InputError, match="The victim does not know the class 'maybe'; it knows no, yes"):
        spec.load()


def test_a_column_of_numbers_here_and_words_there_gets_a_sentence(victim):
    pool, truth = frame(30, seed=2)
    write_csv(victim / "pool.csv", pool.assign(age="old", id=0), truth)
    paths = {"test": str(victim / "test.csv"), "pool": str(victim / "pool.csv"), "target": "label"}
    with pytest.raises(InputError, match="Column 'age' holds numbers in one table and words in another"):
        ExperimentSpec(victim=str(victim / "model.skops"), **paths).load()


def test_a_table_that_says_which_rows_are_for_testing_is_obeyed(victim):
    table, labels = frame(40, seed=3)
    split = np.where(np.arange(40) < 25, "train", "test")
    with gzip.open(victim / "both.csv.gz", "wt") as file:
        table.assign(label=labels, split=split).to_csv(file, index=False)
    both = str(victim / "both.csv.gz")
    experiment = ExperimentSpec(victim=str(victim / "model.skops"), test=both, pool=both, target="label").load()
    assert (len(experiment.test_x), len(experiment.pool)) == (15, 25)


def test_regression_answers_are_scores_without_labels():
    table, _ = frame()
    model = TableModel(LinearRegression().fit(table[["age", "pay"]], table.grade), (AGE, PAY))
    assert model.n_classes == 0
    from portcullis_ml.core.oracle import checked_answer

    interface = Interface(input_shape=(2,), task="regression", features=(AGE, PAY))
    answer = checked_answer(model, np.array([[20.0, 0.0], [60.0, 1.0]]), interface)
    assert answer.labels is None
    assert answer.only(interface.revealing(decimals=1)).scores.shape == (2, 1)
    assert answer.only(interface.revealing(reveals=Reveals.LABELS)).scores is not None
