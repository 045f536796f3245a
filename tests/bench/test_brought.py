"""A victim that somebody brought: its words, classes, outputs and units are understood, or a sentence says what not."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest

from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.core.errors import InputError

pd = pytest.importorskip("pandas")
skops_io = pytest.importorskip("skops.io")
torch = pytest.importorskip("torch")
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: E402

RNG = np.random.default_rng(0)
N = 300
W = np.array([[1.0, -1, 2], [0.5, 2, -1], [-2, 0, 1], [1, 1, -1]])
X = RNG.normal(size=(N, 4))


@pytest.fixture
def named(monkeypatch):
    """A function that names a Python object as module:object."""

    def name(value: Any) -> str:
        module = types.ModuleType(f"victims_{len(sys.modules)}")
        module.v = value
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return f"{module.__name__}:v"

    return name


def load(victim: Any, test: Any, **more: Any) -> Experiment:
    return ExperimentSpec(victim=str(victim), test=str(test), **more).load()


def accuracy(experiment: Experiment) -> float:
    return float((experiment.model.scores(experiment.test_x).argmax(axis=1) == experiment.test_y).mean())


def pipeline(words: list[str], **options: Any) -> Any:
    columns = ColumnTransformer([("c", OneHotEncoder(**options), words), ("n", StandardScaler(), ["w"])])
    return make_pipeline(columns, LogisticRegression(C=100))


def frame(**columns: Any) -> Any:
    return pd.DataFrame(columns | {"w": RNG.normal(size=N).round(3)})


@pytest.mark.parametrize("word", ["None", "NA", "", "?", "null"])
def test_a_word_that_the_encoder_knows_is_no_missing_value(tmp_path, word):
    table = frame(alley=RNG.choice([word, "Gravel", "Paved"], N, p=[0.9, 0.05, 0.05]))
    y = np.where((table.alley != word) | (table.w > 1), "yes", "no")
    skops_io.dump(pipeline(["alley"]).fit(table, y), tmp_path / "m.skops")
    table.assign(label=y).to_csv(tmp_path / "t.csv", index=False)
    experiment = load(tmp_path / "m.skops", tmp_path / "t.csv", target="label")
    assert len(experiment.test_x) == N
    assert accuracy(experiment) > 0.98
    assert not any("lost" in note for note in experiment.notes)


def test_a_missing_value_that_the_encoder_knows(tmp_path):
    table = frame(alley=RNG.choice(np.array([np.nan, "Gravel", "Paved"], object), N))
    y = np.where(table.alley.isna(), "yes", "no")
    skops_io.dump(pipeline(["alley"]).fit(table, y), tmp_path / "m.skops")
    table.assign(label=y).to_csv(tmp_path / "t.csv", index=False)
    experiment = load(tmp_path / "m.skops", tmp_path / "t.csv", target="label")
    assert len(experiment.test_x) == N
    assert accuracy(experiment) == 1.0


def test_columns_that_are_not_taken_cost_no_row_and_what_is_lost_is_said(tmp_path):
    table = frame(alley=RNG.choice(["Gravel", "Paved"], N))
    y = np.where(table.alley == "Paved", "yes", "no")
    skops_io.dump(pipeline(["alley"]).fit(table, y), tmp_path / "m.skops")
    gaps = table.assign(zone="NA", label=y)
    gaps.loc[:49, "w"] = np.nan
    gaps.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "s.toml").write_text("[zone]\ndrop = true\n")
    for schema in (None, str(tmp_path / "s.toml")):
        experiment = load(tmp_path / "m.skops", tmp_path / "t.csv", target="label", schema=schema)
        assert len(experiment.test_x) == N - 50
        assert any("The test rows lost 50 of 300 rows, which lack a value in w" in note for note in experiment.notes)


@pytest.mark.parametrize("codes", [(0, 1), (2, 10), (1, 2, 10)])
def test_classes_are_compared_as_numbers(tmp_path, codes):
    table = frame(c=RNG.choice(["a", "b", "c"], N))
    y = np.array(codes)[((table.c == "a").astype(int) + (table.w > 0)).clip(0, len(codes) - 1)]
    model = pipeline(["c"]).fit(table, y.astype(float))
    skops_io.dump(model, tmp_path / "m.skops")
    for written in (y, y.astype(float), y.astype(str)):
        table.assign(label=written).to_csv(tmp_path / "t.csv", index=False)
        ExperimentSpec.load.__globals__["_load"].cache_clear()
        experiment = load(tmp_path / "m.skops", tmp_path / "t.csv", target="label", pool=str(tmp_path / "t.csv"))
        assert accuracy(experiment) == model.score(table, y) > 0.9
        assert np.array_equal(experiment.pool_labels, experiment.test_y)


def test_truth_values_are_one_class_however_they_are_written(tmp_path):
    table = frame(c=RNG.choice(["a", "b"], N))
    y = (table.c == "a").to_numpy()
    skops_io.dump(pipeline(["c"]).fit(table, y), tmp_path / "m.skops")
    for j, written in enumerate((y, y.astype(int), np.where(y, "true", "false"))):
        table.assign(label=written).to_csv(tmp_path / f"{j}.csv", index=False)
        assert accuracy(load(tmp_path / "m.skops", tmp_path / f"{j}.csv", target="label")) == 1.0


def test_no_class_in_common_is_an_error_that_names_both(tmp_path):
    table = frame(c=RNG.choice(["a", "b"], N))
    y = (table.c == "a").astype(int)
    skops_io.dump(pipeline(["c"]).fit(table, y), tmp_path / "m.skops")
    table.assign(label=np.where(y, "good", "bad")).to_csv(tmp_path / "t.csv", index=False)
    spec = {"victim": tmp_path / "m.skops", "test": tmp_path / "t.csv", "target": "label"}
    with pytest.raises(InputError, match=r"no class in common: the victim knows 0, 1, the rows are labelled bad, good"):
        load(**spec)
    assert accuracy(load(**spec, classes="bad,good")) == 1.0
    assert accuracy(load(**spec, classes="good,bad")) == 0.0
    with pytest.raises(InputError, match=r"--classes must name the victim's 2 classes, each once; got 1: bad\."):
        load(**spec, classes="bad")


def test_labels_of_arrays_are_classes_where_the_victim_has_them_and_columns_where_not(tmp_path):
    y = (X @ W).argmax(axis=1)
    for j, classes in enumerate((np.array([2.0, 5.0, 7.0]), np.array([1, 2, 3]))):
        skops_io.dump(LogisticRegression(C=100).fit(X, classes[y]), tmp_path / f"{j}.skops")
        np.savez(tmp_path / f"as_classes{j}.npz", x=X, y=classes[y].astype(int))
        np.savez(tmp_path / f"as_columns{j}.npz", x=X, y=y)
        for how in ("as_classes", "as_columns"):
            assert accuracy(load(tmp_path / f"{j}.skops", tmp_path / f"{how}{j}.npz")) > 0.95


def test_a_victim_that_does_not_name_its_classes(tmp_path, named):
    y = (X @ W).argmax(axis=1)
    table = pd.DataFrame(X, columns=list("abcd"))
    victim = named(torch.nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        sys.modules[victim.partition(":")[0]].v.weight[:] = torch.tensor(W.T)
    for j, (words, order) in enumerate((("xyz", None), (("2", "10", "30"), None), (("0", "1", "2"), None))):
        table.assign(label=np.array(list(words))[y]).to_csv(tmp_path / f"{j}.csv", index=False)
        experiment = load(victim, tmp_path / f"{j}.csv", target="label", classes=order)
        assert accuracy(experiment) == 1.0
        assert any("does not name its classes" in note for note in experiment.notes)
    table.assign(label=np.array(["wolf", "cat", "dog"])[y]).to_csv(tmp_path / "animals.csv", index=False)
    with pytest.raises(InputError, match=r"cat, dog, wolf is not their order: \d+% of the rows .* would be 100%"):
        load(victim, tmp_path / "animals.csv", target="label")
    assert accuracy(load(victim, tmp_path / "animals.csv", target="label", classes="wolf,cat,dog")) == 1.0


@pytest.mark.parametrize("codes", [("01234", "10115"), ("1234567", "7654321"), ("1e5", "2e5"), ("1.0", "1.00")])
def test_text_stays_text(tmp_path, codes):
    skl2onnx = pytest.importorskip("skl2onnx")
    types_ = pytest.importorskip("skl2onnx.common.data_types")
    table = frame(zip=RNG.choice([*codes, "80331"], N))
    y = np.where(table.zip == codes[0], "y", "n")
    model = pipeline(["zip"], handle_unknown="ignore").fit(table, y)
    skops_io.dump(model, tmp_path / "m.skops")
    inputs = [("zip", types_.StringTensorType([None, 1])), ("w", types_.FloatTensorType([None, 1]))]
    graph = skl2onnx.to_onnx(model, initial_types=inputs, options={id(model): {"zipmap": False}})
    (tmp_path / "m.onnx").write_bytes(graph.SerializeToString())
    table.assign(label=y).to_csv(tmp_path / "t.csv", index=False)
    for victim in ("m.skops", "m.onnx"):
        assert accuracy(load(tmp_path / victim, tmp_path / "t.csv", target="label")) == 1.0


def test_the_schema_can_say_what_is_text(tmp_path, named):
    pytest.importorskip("pandas")

    def victim(x: np.ndarray) -> np.ndarray:
        return np.eye(2)[(x[:, 0] == 0).astype(int)]  # the code of "01234", the first of the schema's values

    zips = RNG.choice(["01234", "10115"], N)
    frame(zip=zips).assign(label=np.where(zips == "01234", 1, 0)).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "s.toml").write_text('[zip]\nvalues = ["01234", "10115"]\n')
    experiment = load(named(victim), tmp_path / "t.csv", target="label", schema=str(tmp_path / "s.toml"))
    assert experiment.interface.features[0].values == ("01234", "10115")
    assert accuracy(experiment) == 1.0


@pytest.mark.parametrize("zipmap", [True, False, "columns"])
@pytest.mark.parametrize("names", [("b", "a", "c"), (10, 2, 30)])
def test_zipmaps_in_all_their_forms(tmp_path, zipmap, names):
    skl2onnx = pytest.importorskip("skl2onnx")
    y = np.array(names)[(X @ W).argmax(axis=1)]
    model = LogisticRegression(C=100).fit(X, y)
    graph = skl2onnx.to_onnx(model, X[:1].astype(np.float32), options={id(model): {"zipmap": zipmap}})
    (tmp_path / "m.onnx").write_bytes(graph.SerializeToString())
    pd.DataFrame(X, columns=list("abcd")).assign(label=y).to_csv(tmp_path / "t.csv", index=False)
    experiment = load(tmp_path / "m.onnx", tmp_path / "t.csv", target="label")
    assert accuracy(experiment) == pytest.approx(model.score(X, y), abs=0.01)
    assert experiment.classes == tuple(map(str, model.classes_))


def two_outputs(path: Any, names: tuple[str, str], *, softmax: bool = True, swapped: bool = False) -> None:
    """An ONNX graph of probabilities (or logits) of 3 columns beside 8 numbers of another layer."""
    onnx = pytest.importorskip("onnx")
    h, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = [
        onnx.numpy_helper.from_array(w.astype(np.float32), n) for w, n in ((W, "w"), (RNG.normal(size=(4, 8)), "e"))
    ]
    nodes = [h.make_node("MatMul", ["x", "w"], ["z"]), h.make_node("MatMul", ["x", "e"], [names[1]])]
    nodes.append(h.make_node("Softmax" if softmax else "Identity", ["z"], [names[0]]))
    outputs = [h.make_tensor_value_info(n, kind, ["n", k]) for n, k in zip(names, (3, 8), strict=True)]
    graph = h.make_graph(
        nodes, "g", [h.make_tensor_value_info("x", kind, ["n", 4])], outputs[:: -1 if swapped else 1], weights
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("names", [("probabilities", "features"), ("out", "other")])
def test_scores_beside_embeddings(tmp_path, names, swapped):
    two_outputs(tmp_path / "m.onnx", names, swapped=swapped)
    np.savez(tmp_path / "t.npz", x=X, y=(X @ W).argmax(axis=1))
    experiment = load(tmp_path / "m.onnx", tmp_path / "t.npz")
    assert (experiment.model.n_classes, accuracy(experiment)) == (3, 1.0)
    assert any(f"{names[0]} was read" in note for note in experiment.notes)
    asked = load(tmp_path / "m.onnx", tmp_path / "t.npz", output=names[1], softmax=True)
    assert asked.model.n_classes == 8
    with pytest.raises(InputError, match=r"has no output 'nothing' to read; it has"):
        load(tmp_path / "m.onnx", tmp_path / "t.npz", output="nothing")


def test_logits_beside_embeddings_are_chosen_by_the_test_labels(tmp_path):
    two_outputs(tmp_path / "m.onnx", ("out", "other"), softmax=False)
    np.savez(tmp_path / "t.npz", x=X, y=(X @ W).argmax(axis=1))
    experiment = load(tmp_path / "m.onnx", tmp_path / "t.npz", softmax=True)
    assert (experiment.model.n_classes, accuracy(experiment)) == (3, 1.0)


@pytest.mark.parametrize("kind", ["tuple", "mapping"])
def test_outputs_of_python_objects(tmp_path, named, kind):
    def answer(x: np.ndarray) -> Any:
        p = np.eye(3)[(x @ W).argmax(axis=1)]
        return (x @ np.ones((4, 8)), p) if kind == "tuple" else {"embedding": x @ np.ones((4, 8)), "scores": p}

    np.savez(tmp_path / "t.npz", x=X, y=(X @ W).argmax(axis=1))
    with_words = load(named(answer), tmp_path / "t.npz", output="1" if kind == "tuple" else "scores")
    assert (with_words.model.n_classes, accuracy(with_words)) == (3, 1.0)


class Named:
    """A model with a method that other models have a mapping by the name of."""

    input_shape, n_classes = (4,), 3

    def outputs(self, x: np.ndarray) -> np.ndarray:
        return np.eye(3)[(x @ W).argmax(axis=1)]

    scores = outputs


def test_a_method_called_outputs_is_no_list_of_outputs(tmp_path, named):
    np.savez(tmp_path / "t.npz", x=X, y=(X @ W).argmax(axis=1))
    assert accuracy(load(named(Named()), tmp_path / "t.npz")) == 1.0


class Twice(torch.nn.Module):
    """A linear module that ends in a softmax of its own, and gives its input beside that."""

    def forward(self, x: Any) -> Any:
        return {"hidden": x[:, :1], "probs": torch.softmax(3 * x @ torch.tensor(W, dtype=torch.float32), 1)}


def test_probabilities_are_not_passed_through_a_softmax_again(tmp_path, named):
    np.savez(tmp_path / "t.npz", x=X, y=(X @ W).argmax(axis=1))
    expected = np.exp(3 * X @ W) / np.exp(3 * X @ W).sum(axis=1, keepdims=True)
    weight = torch.tensor(3 * W.T, dtype=torch.float32)
    for last in (torch.nn.Softmax(dim=1), torch.nn.LogSoftmax(dim=1), torch.nn.Identity()):
        linear = torch.nn.Linear(4, 3, bias=False)
        linear.weight.data = weight.clone()
        experiment = load(named(torch.nn.Sequential(linear, last)), tmp_path / "t.npz")
        np.testing.assert_allclose(experiment.model.scores(experiment.test_x), expected, atol=1e-5)
        said = any("sum to 1 and were taken as probabilities" in note for note in experiment.notes)
        assert said == isinstance(last, torch.nn.Softmax)
    experiment = load(named(Twice()), tmp_path / "t.npz")
    np.testing.assert_allclose(experiment.model.scores(experiment.test_x), expected, atol=1e-5)


def test_softmax_by_mistake_on_an_onnx_model_of_probabilities(tmp_path):
    two_outputs(tmp_path / "m.onnx", ("probabilities", "features"))
    np.savez(tmp_path / "t.npz", x=X, y=(X @ W).argmax(axis=1))
    right, mistaken = (load(tmp_path / "m.onnx", tmp_path / "t.npz", softmax=s).model.scores(X) for s in (False, True))
    np.testing.assert_array_equal(right, mistaken)
    assert any(
        "--softmax was not needed" in note for note in load(tmp_path / "m.onnx", tmp_path / "t.npz", softmax=True).notes
    )


@pytest.mark.parametrize("last", [torch.nn.Sigmoid(), torch.nn.Identity()])
def test_one_column_is_a_binary_classifier(tmp_path, named, last):
    linear = torch.nn.Linear(4, 1, bias=False)
    linear.weight.data = torch.tensor(W[:, :1].T, dtype=torch.float32)
    y = (X @ W[:, 0] > 0).astype(int)
    np.savez(tmp_path / "t.npz", x=X, y=y)
    experiment = load(named(torch.nn.Sequential(linear, last)), tmp_path / "t.npz")
    assert accuracy(experiment) == 1.0
    np.testing.assert_allclose(experiment.model.scores(X)[:, 1], 1 / (1 + np.exp(-X @ W[:, 0])), atol=1e-6)


@pytest.mark.parametrize("wants", [1.0, 255.0])
@pytest.mark.parametrize("kept", ["uint8", "float 0 to 1", "float 0 to 255"])
def test_pixels_go_in_as_the_victim_takes_them(tmp_path, named, wants, kept):
    pixels = RNG.integers(0, 256, (N, 6, 6)).astype(np.uint8)
    flat = pixels.reshape(N, -1) / 255

    def victim(x: np.ndarray) -> np.ndarray:
        bright = x.reshape(len(x), -1).mean(axis=1) > wants * np.median(flat.mean(axis=1))
        return np.eye(2)[bright.astype(int)]

    y = victim(wants * pixels / 255).argmax(axis=1)
    x = {"uint8": pixels, "float 0 to 1": pixels / 255, "float 0 to 255": pixels.astype(float)}[kept]
    np.savez(tmp_path / "t.npz", x=x, y=y)
    experiment = load(named(victim), tmp_path / "t.npz")
    assert accuracy(experiment) == 1.0
    right_as_kept = (wants == 1.0) == (kept != "float 0 to 255")
    assert any("Pixels go into the victim" in note for note in experiment.notes) != right_as_kept


def test_histogram_boosting_that_takes_categories_from_the_frame(tmp_path, named):
    from sklearn.ensemble import HistGradientBoostingClassifier

    table = frame(color=RNG.choice(["red", "green", "blue"], N))
    y = np.where((table.color == "red") ^ (table.w > 0), "yes", "no")
    typed = table.astype({"color": "category"})
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", max_iter=30).fit(typed, y)
    table.assign(label=y).to_csv(tmp_path / "t.csv", index=False)
    experiment = load(named(model), tmp_path / "t.csv", target="label")
    assert accuracy(experiment) == model.score(typed, y)
    assert experiment.interface.features[0].values == ("blue", "green", "red")
    assert not any("has no encoder" in note for note in experiment.notes)


@pytest.mark.parametrize("kind", ["neighbours", "ball tree", "voting", "stacking", "boosting", "calibrated", "process"])
def test_everyday_estimators_are_read_from_skops(tmp_path, kind):
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import HistGradientBoostingClassifier, StackingClassifier, VotingClassifier
    from sklearn.gaussian_process import GaussianProcessClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.tree import DecisionTreeClassifier

    y = (X @ W).argmax(axis=1)
    x = np.column_stack([X[:, :3], y]) if kind == "boosting" else X
    model = {
        "neighbours": lambda: KNeighborsClassifier(),
        "ball tree": lambda: KNeighborsClassifier(algorithm="ball_tree", metric="manhattan"),
        "voting": lambda: VotingClassifier(
            [("a", DecisionTreeClassifier()), ("b", LogisticRegression())], voting="soft"
        ),
        "stacking": lambda: StackingClassifier([("a", DecisionTreeClassifier())]),
        "boosting": lambda: HistGradientBoostingClassifier(categorical_features=[3], max_iter=5),
        "calibrated": lambda: CalibratedClassifierCV(LogisticRegression()),
        "process": lambda: GaussianProcessClassifier(),
    }[kind]().fit(x, y)
    skops_io.dump(model, tmp_path / "m.skops")
    np.savez(tmp_path / "t.npz", x=x, y=y)
    experiment = load(tmp_path / "m.skops", tmp_path / "t.npz")
    np.testing.assert_allclose(experiment.model.scores(x), model.predict_proba(x), atol=1e-12)


def test_a_pool_of_pictures_is_grouped_by_its_folders(tmp_path, named) -> None:
    from PIL import Image

    from portcullis_ml.models.function import FunctionModel

    for i in range(6):
        (tmp_path / "pool" / f"kind {i % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), 40 * i).save(tmp_path / "pool" / f"kind {i % 2}" / f"{i}.png")
    (tmp_path / "pool" / "broken.png").write_bytes(b"no")
    x = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "test.npz", x=x, y=np.arange(30) % 3)
    bright = FunctionModel(lambda x: np.eye(3)[(x[:, 0, 0] * 2.99).astype(int)], input_shape=(8, 8), n_classes=3)
    experiment = ExperimentSpec(
        victim=named(bright), test=str(tmp_path / "test.npz"), pool=str(tmp_path / "pool")
    ).load()
    assert experiment.pool is not None
    assert experiment.pool.shape == (6, 8, 8)
    assert sorted(set(experiment.pool_groups)) == ["kind 0", "kind 1"]
    assert experiment.pool_labels is None
    assert any("6 of 7 pictures were read. 1 could not be: broken.png" in note for note in experiment.notes)
