"""Everyday victims, one function each: it writes the file or the module, and asks the library about the test rows.

A function takes a folder that it may write to and returns a `Victim`. What it imports beside scikit-learn, NumPy and
PyTorch stands in `VICTIMS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["ROWS", "VICTIMS", "Kind", "Victim", "write_rows"]


class Victim(NamedTuple):
    """What --victim and further options say, whose rows it takes, and what its own library answers to the test rows."""

    spec: str
    rows: str
    own: np.ndarray  # (n,) numbers of classes
    options: tuple[str, ...] = ()


class Kind(NamedTuple):
    """packages that must be there, and the function that makes the victim."""

    packages: tuple[str, ...]
    make: Callable[[Path], Victim]


TRAIN, POOL, TEST = (
    (lambda n: np.arange(n) % 4 < 2),
    (lambda n: np.arange(n) % 4 == 2),
    (lambda n: np.arange(n) % 4 == 3),
)


@cache
def rows_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and their classes: 569 of 30 numbers, 1,797 of 64 numbers, or the same as 8-bit pictures."""
    from sklearn.datasets import load_breast_cancer, load_digits

    if name == "cancer":
        return load_breast_cancer(return_X_y=True)
    x, y = load_digits(return_X_y=True)
    if name == "digits":
        return x, y
    return (x * 15).astype(np.uint8).reshape((-1, 1, 8, 8) if name == "channels first" else (-1, 8, 8, 1)), y


@cache
def people() -> Any:
    """1,200 made-up people: words, whole numbers that are categories, numbers, and a label."""
    import pandas

    rng, n = np.random.default_rng(0), 1200
    work = rng.choice(["None", "office", "small shop", "field"], n)
    zone = rng.choice([3, 7, 12], n)
    hours, age = rng.integers(10, 60, n), rng.integers(18, 80, n)
    z = 2 * (work == "office") - 1.5 * (work == "None") + (zone == 7) + (hours - 35) / 8 - np.abs(age - 50) / 20
    label = np.where(z + rng.logistic(scale=0.3, size=n) > 0, "yes", "no")
    return pandas.DataFrame({"work": work, "zone": zone, "hours": hours, "age": age, "label": label})


ROWS = ("cancer", "digits", "channels first", "channels last", "people")


def write_rows(folder: Path) -> None:
    """The test rows and the pool of every kind, as files."""
    for name in ROWS[:4]:
        x, y = rows_of(name)
        for part, chosen in (("test", TEST(len(x))), ("pool", POOL(len(x)))):
            np.savez(folder / f"{name}-{part}.npz", x=x[chosen], y=y[chosen])
    table = people()
    for part, chosen in (("test", TEST(len(table))), ("pool", POOL(len(table)))):
        table[chosen].to_csv(folder / f"people-{part}.csv", index=False)


def of_estimator(
    folder: Path, name: str, rows: str, model: Any, write: Callable[[Any, str], Any] | None = None
) -> Victim:
    """A model with scikit-learn's interface, fitted, written and asked; by skops unless said otherwise."""
    x, y = rows_of(rows)
    model.fit(x[TRAIN(len(x))], y[TRAIN(len(x))])
    (write or dumped)(model, str(folder / name))
    return Victim(name, rows, np.asarray(model.predict(x[TEST(len(x))])).reshape(-1))


def dumped(model: Any, path: str) -> None:
    import skops.io

    skops.io.dump(model, path)


def logistic(folder: Path) -> Victim:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return of_estimator(folder, "logistic.skops", "cancer", make_pipeline(StandardScaler(), LogisticRegression()))


def stacking(folder: Path) -> Victim:
    from sklearn.ensemble import RandomForestClassifier, StackingClassifier
    from sklearn.neighbors import KNeighborsClassifier

    model = StackingClassifier(
        [("near", KNeighborsClassifier()), ("forest", RandomForestClassifier(30, random_state=0))], cv=3
    )
    return of_estimator(folder, "stacking.skops", "cancer", model)


def typed() -> tuple[Any, Any, Any]:
    """The table with its categories as pandas' own, the rows that train, and those that test."""
    table = people()
    x = table.drop(columns="label")
    x = x.assign(work=x["work"].astype("category"), zone=x["zone"].astype("category"))
    return x, TRAIN(len(x)), TEST(len(x))


def histogram(folder: Path) -> Victim:
    from sklearn.ensemble import HistGradientBoostingClassifier

    x, train, test = typed()
    model = HistGradientBoostingClassifier(max_iter=40, categorical_features="from_dtype", random_state=0)
    model.fit(x[train], people()["label"][train])
    dumped(model, str(folder / "histogram.skops"))
    return Victim("histogram.skops", "people", (model.predict(x[test]) == "yes").astype(int))


def forest_onnx(folder: Path) -> Victim:
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    def written(model: Any, path: str) -> None:
        Path(path).write_bytes(to_onnx(model, rows_of("cancer")[0][:1].astype(np.float32)).SerializeToString())

    return of_estimator(folder, "forest.onnx", "cancer", RandomForestClassifier(30, random_state=0), written)


def network(rows: str, end: str = "") -> Any:
    """A small network of PyTorch, trained; `end` adds a softmax, or makes one sigmoid column of two classes."""
    import torch

    x, y = rows_of(rows)
    train = TRAIN(len(x))
    scale = 255.0 if x.dtype == np.uint8 else x[train].std(axis=0) + 1e-9
    inputs, labels = torch.tensor(x[train] / scale, dtype=torch.float32), torch.tensor(y[train])
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        layers = [
            torch.nn.Flatten(),
            torch.nn.Linear(inputs[0].numel(), 32),
            torch.nn.ReLU(),
            torch.nn.Linear(32, int(y.max()) + 1),
        ]
        module = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(inputs), labels).backward()
        optimizer.step()
    if x.dtype != np.uint8:  # the scale goes into the first layer: the victim takes rows as they are
        module[1].weight.data /= torch.tensor(scale, dtype=torch.float32)
    if end == "sigmoid":
        last, one = module[3], torch.nn.Linear(32, 1)
        one.weight.data, one.bias.data = (last.weight[1:] - last.weight[:1]).data, (last.bias[1:] - last.bias[:1]).data
        return torch.nn.Sequential(*module[:3], one, torch.nn.Sigmoid()).eval()
    return torch.nn.Sequential(*module, torch.nn.Softmax(1)).eval() if end == "softmax" else module.eval()


def asked(module: Any, rows: str) -> np.ndarray:
    """The classes that a module gives for the test rows; pictures go in as 0 to 1."""
    import torch

    x = rows_of(rows)[0]
    x = x[TEST(len(x))] / (255.0 if x.dtype == np.uint8 else 1.0)
    with torch.inference_mode():
        out = module(torch.tensor(x, dtype=torch.float32)).numpy()
    return (out[:, 0] > 0.5).astype(int) if out.shape[1] == 1 else out.argmax(axis=1)


def torchscript(folder: Path) -> Victim:
    import torch

    module = network("channels first")
    torch.jit.trace(module, torch.zeros(2, 1, 8, 8)).save(str(folder / "pictures.pt"))
    return Victim("pictures.pt", "channels first", asked(module, "channels first"))


def sigmoid(folder: Path) -> Victim:
    import torch

    module = network("cancer", "sigmoid")
    torch.jit.script(module).save(str(folder / "sigmoid.pt"))
    return Victim("sigmoid.pt", "cancer", asked(module, "cancer"))


def exported(folder: Path) -> Victim:
    import torch

    module = network("channels first", "softmax")
    shapes = ({0: torch.export.Dim("rows")},)
    torch.export.save(
        torch.export.export(module, (torch.zeros(3, 1, 8, 8),), dynamic_shapes=shapes), folder / "pictures.pt2"
    )
    return Victim("pictures.pt2", "channels first", asked(module, "channels first"))


def weights(folder: Path) -> Victim:
    from safetensors.torch import save_file

    module = network("channels first")
    save_file(module.state_dict(), folder / "pictures.safetensors")
    (folder / "own_network.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))\n"
    )
    return Victim("pictures.safetensors@own_network:make", "channels first", asked(module, "channels first"))


def whole_onnx(folder: Path) -> Victim:
    """A graph that takes the pixels as 8-bit whole numbers, as PyTorch exports networks that scale them themselves."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    module = network("channels first")
    parts = {"w1": module[1].weight, "b1": module[1].bias, "w2": module[3].weight, "b2": module[3].bias}
    held = [numpy_helper.from_array(v.detach().numpy(), k) for k, v in parts.items()]
    held.append(numpy_helper.from_array(np.float32(255), "top"))
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), helper.make_node("Div", ["f", "top"], ["s"]),
        helper.make_node("Flatten", ["s"], ["flat"]), helper.make_node("Gemm", ["flat", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]), helper.make_node("Gemm", ["r", "w2", "b2"], ["logits"], transB=1),
    ]  # fmt: skip
    given = helper.make_tensor_value_info("x", TensorProto.UINT8, [None, 1, 8, 8])
    found = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 10])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], [found], held), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    onnx.save(model, folder / "whole.onnx")
    return Victim("whole.onnx", "channels first", asked(module, "channels first"), ("--softmax",))


def xgboost_json(folder: Path) -> Victim:
    import xgboost

    return of_estimator(folder, "digits.json", "digits", xgboost.XGBClassifier(n_estimators=30, n_jobs=1), saved)


def saved(model: Any, path: str) -> None:
    getattr(model, "booster_", model).save_model(path)


def xgboost_words(folder: Path) -> Victim:
    import xgboost

    x, train, test = typed()
    y = (people()["label"] == "yes").astype(int)
    model = xgboost.XGBClassifier(n_estimators=40, n_jobs=1, enable_categorical=True).fit(x[train], y[train])
    model.save_model(folder / "people.ubj")
    return Victim("people.ubj", "people", model.predict(x[test]), ("--classes", "no,yes"))


def lightgbm_text(folder: Path) -> Victim:
    import lightgbm

    return of_estimator(
        folder, "digits.txt", "digits", lightgbm.LGBMClassifier(n_estimators=30, n_jobs=1, verbose=-1), saved
    )


def lightgbm_words(folder: Path) -> Victim:
    import lightgbm

    x, train, test = typed()
    y = (people()["label"] == "yes").astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=40, n_jobs=1, verbose=-1).fit(x[train], y[train])
    model.booster_.save_model(str(folder / "people.txt"))
    return Victim("people.txt", "people", model.predict(x[test]), ("--classes", "no,yes"))


def catboost_words(folder: Path) -> Victim:
    import catboost

    table = people()
    x, train, test = table.drop(columns="label").astype({"zone": str}), TRAIN(len(table)), TEST(len(table))
    model = catboost.CatBoostClassifier(iterations=60, verbose=0, thread_count=1, allow_writing_files=False)
    model.fit(x[train], table["label"][train], cat_features=["work", "zone"])
    model.save_model(str(folder / "people.cbm"))
    return Victim("people.cbm", "people", (model.predict(x[test]) == "yes").astype(int))


def keras_network(end: str | None) -> Any:
    import keras

    x, y = rows_of("channels last")
    train = TRAIN(len(x))
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation=end),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=end is None)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(x[train].astype(np.float32), y[train], epochs=8, verbose=0)
    return model, model.predict(x[TEST(len(x))].astype(np.float32), verbose=0).argmax(axis=1)


def keras_file(folder: Path) -> Victim:
    model, own = keras_network("softmax")
    model.save(folder / "pictures.keras")
    return Victim("pictures.keras", "channels last", own)


def saved_model(folder: Path) -> Victim:
    model, own = keras_network(None)
    model.export(folder / "saved", verbose=False)
    return Victim("saved", "channels last", own)


def function(folder: Path) -> Victim:
    """A function that gives logits."""
    module = network("cancer")
    layers = {"w1": module[1].weight, "b1": module[1].bias, "w2": module[3].weight, "b2": module[3].bias}
    np.savez(folder / "layers.npz", **{k: v.detach().numpy() for k, v in layers.items()})
    (folder / "own_function.py").write_text(
        "import numpy as np\n\nheld = np.load('layers.npz')\n\n\ndef ask(x):\n"
        "    return np.maximum(x @ held['w1'].T + held['b1'], 0) @ held['w2'].T + held['b2']\n"
    )
    return Victim("own_function:ask", "cancer", asked(module, "cancer"), ("--softmax",))


def pipeline(folder: Path) -> Victim:
    """A small image classifier of Hugging Face behind its own pipeline."""
    import torch
    from PIL import Image
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil
    from transformers import pipeline as made

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        vit = ViTForImageClassification(
            ViTConfig(image_size=8, patch_size=4, num_labels=10, initializer_range=1.0, **small)
        )
        x, y = rows_of("channels last")
        train = TRAIN(len(x))
        rows = torch.tensor(x[train] / 127.5 - 1, dtype=torch.float32).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
        optimizer = torch.optim.Adam(vit.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            vit(pixel_values=rows, labels=torch.tensor(y[train])).loss.backward()
            optimizer.step()
    vit.eval().save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder / "vit")
    (folder / "own_pipeline.py").write_text(
        "import numpy as np\nfrom PIL import Image\nfrom transformers import pipeline\n\n"
        "classify = pipeline('image-classification', model='vit')\n\n\ndef ask(x):\n"
        "    pictures = [Image.fromarray(p[:, :, 0]).convert('RGB') for p in np.rint(x * 255).astype(np.uint8)]\n"
        "    found = [{a['label']: a['score'] for a in row} for row in classify(pictures, top_k=10, batch_size=64)]\n"
        "    return np.array([[row[f'LABEL_{j}'] for j in range(10)] for row in found])\n"
    )
    pictures = [Image.fromarray(p[:, :, 0]).convert("RGB") for p in x[TEST(len(x))]]
    found = made("image-classification", model=str(folder / "vit"))(pictures, top_k=1, batch_size=64)
    return Victim(
        "own_pipeline:ask", "channels last", np.array([int(row[0]["label"].partition("_")[2]) for row in found])
    )


VICTIMS = {
    "scikit-learn pipeline, .skops": Kind(("skops",), logistic),
    "scikit-learn stacking of neighbours and a forest, .skops": Kind(("skops",), stacking),
    "scikit-learn histogram boosting on words, .skops": Kind(("skops", "pandas"), histogram),
    "ONNX forest with a ZipMap, by skl2onnx": Kind(("onnxruntime", "skl2onnx"), forest_onnx),
    "ONNX network of 8-bit pictures that gives logits, --softmax": Kind(("onnx", "onnxruntime", "torch"), whole_onnx),
    "PyTorch weights and a factory, .safetensors": Kind(("torch", "safetensors"), weights),
    "TorchScript, pictures, .pt": Kind(("torch",), torchscript),
    "TorchScript, one sigmoid column, .pt": Kind(("torch",), sigmoid),
    "torch.export, pictures, .pt2": Kind(("torch",), exported),
    "XGBoost, ten classes, .json": Kind(("xgboost",), xgboost_json),
    "XGBoost, a table with words, .ubj": Kind(("xgboost", "pandas"), xgboost_words),
    "LightGBM, ten classes, .txt": Kind(("lightgbm",), lightgbm_text),
    "LightGBM, a table with words, .txt": Kind(("lightgbm", "pandas"), lightgbm_words),
    "CatBoost, a table with words, .cbm": Kind(("catboost", "pandas"), catboost_words),
    "Keras, pictures, .keras": Kind(("keras",), keras_file),
    "TensorFlow SavedModel, pictures that give logits": Kind(("tensorflow", "keras"), saved_model),
    "function that gives logits, --softmax": Kind(("torch",), function),
    "Hugging Face image pipeline in a function": Kind(("transformers", "torch"), pipeline),
}
