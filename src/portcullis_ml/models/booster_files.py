"""Boosted models in files of their own libraries, read by them where they are installed.

    FILE.json, FILE.ubj    XGBoost: Booster.save_model
    FILE.txt, FILE.model   LightGBM: Booster.save_model
    FILE.cbm               CatBoost: save_model

Such a file holds trees and no code. It is parsed by the library's own compiled code, which trusts it: trees of XGBoost
and LightGBM are inspected first or before they are asked (see `booster_trees.py`), CatBoost's are not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import InputError
from portcullis_ml.models.booster import BoosterEstimator, Numbers
from portcullis_ml.models.booster_trees import inspect_lightgbm, inspect_xgboost

__all__ = ["BOOSTERS", "read_booster"]

BOOSTERS = {".json": "xgboost", ".ubj": "xgboost", ".txt": "lightgbm", ".model": "lightgbm", ".cbm": "catboost"}
CALLED = {"xgboost": "XGBoost", "lightgbm": "LightGBM", "catboost": "CatBoost"}
WRITE = {
    "xgboost": "booster.save_model('model.json')",
    "lightgbm": "booster.save_model('model.txt')",
    "catboost": "model.save_model('model.cbm')",
}
HEADS = {"lightgbm": b"tree", "catboost": b"CBM1"}  # XGBoost's are told by what they hold


def read_booster(path: Path) -> BoosterEstimator:
    """The model in a file whose suffix is one of `BOOSTERS`. InputError where it is none or the library is absent."""
    package = BOOSTERS[path.suffix.lower()]
    with path.open("rb") as file:
        head = file.read(4)
    if head == b"binf":
        raise InputError(
            f"{path} is in XGBoost's former binary format; write it again: booster.save_model('model.ubj')."
        )
    if not head.startswith(HEADS.get(package, b"{")):
        raise _other(path, package, "it begins otherwise")
    try:
        library = __import__(package)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path} is read by {package}, which is not installed. Install it: pip install {package}. "
            "Or export the model as .onnx."
        ) from error
    try:
        return READERS[package](path, library)
    except InputError:
        raise
    except Exception as error:  # each library has errors of its own, and a forged file meets many
        raise _other(path, package, f"{package} {library.__version__} cannot read it: {_first_line(error)}") from error


def _other(path: Path, package: str, why: str) -> InputError:
    return InputError(
        f"{path} was expected to be a model of {CALLED[package]} ({path.suffix}); {why}. "
        f"Write it again with {WRITE[package]}, by a version no later than the one here."
    )


def _several(path: Path) -> InputError:
    return InputError(
        f"{path} gives several labels at once; an audit takes one. Name a function that returns the probabilities of "
        "one label as module:object."
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^\[[\d:]+\] ", "", lines[0])[:160] if lines else type(error).__name__


def _xgboost(path: Path, library: Any) -> BoosterEstimator:
    booster = library.Booster(model_file=str(path))
    booster.set_param({"nthread": 1})
    learner = json.loads(booster.save_raw("json"))["learner"]
    model = learner["gradient_booster"].get("model", {})
    inspect_xgboost(model.get("trees", []), int(booster.num_features()), str(path))
    about, objective = learner["learner_model_param"], learner["objective"]["name"]
    classes, targets = int(about.get("num_class", 0)), int(about.get("num_target", 1))
    if targets > 1:
        raise _several(path)
    numbers: Numbers = "values"
    if objective.startswith("multi:") or objective == "binary:logitraw":
        numbers = "margins"
    elif objective.startswith("binary:") or objective == "reg:logistic":
        numbers = "probabilities"
    elif classes > 1:
        numbers = "unknown"
    attributes = booster.attributes()
    best = attributes.get("best_iteration") if "scikit_learn" in attributes else None  # its estimators stop there
    names, types = booster.feature_names or None, booster.feature_types

    def ask(codes: Any) -> Any:
        rows = library.DMatrix(codes, feature_names=names, feature_types=types, enable_categorical=True, nthread=1)
        until = (0, 0) if best is None else (0, int(best) + 1)
        return booster.predict(rows, output_margin=numbers == "margins", iteration_range=until)

    cats = model.get("cats", {}).get("enc", ())
    named = {j: held for j, entry in enumerate(cats) if (held := _xgboost_words(entry))}
    return BoosterEstimator(
        name=str(path), ask=ask, numbers=numbers, columns=max(classes, 1), width=int(booster.num_features()),
        booster_=booster, names=names, categories=named,
    )  # fmt: skip


def _xgboost_words(entry: dict[str, Any]) -> list[Any]:
    """The categories of one column: numbers as they are, words as bytes one after the other with where each ends."""
    if "offsets" not in entry:
        return list(entry["values"])
    text, ends = bytes(v % 256 for v in entry["values"]), entry["offsets"]
    return [text[a:b].decode() for a, b in pairwise(ends)]


def _lightgbm(path: Path, library: Any) -> BoosterEstimator:
    text = path.read_text(errors="replace")
    head = text.partition("\nTree=")[0]
    found = {key: value for key, _, value in (line.partition("=") for line in head.splitlines())}
    inspect_lightgbm(text, int(found["max_feature_idx"]) + 1, str(path))
    booster = library.Booster(model_file=str(path))
    objective, columns = found.get("objective", "").partition(" ")[0], booster.num_model_per_iteration()
    numbers: Numbers = "values"
    if objective in ("binary", "multiclass", "multiclassova", "cross_entropy"):
        numbers = "probabilities"
    elif columns > 1 or objective in ("", "custom", "none"):
        numbers = "unknown"
    names = booster.feature_name()
    coded = [j for j, info in enumerate(found.get("feature_infos", "").split()) if not info.startswith("[")]
    words = booster.pandas_categorical or []
    split = [j for j in coded if found["feature_infos"].split()[j] != "none"]
    placed = split if len(split) == len(words) else coded
    if words and len(placed) != len(words):
        raise InputError(
            f"{path} knows the words of {len(words)} columns and does not say which they are. Load it yourself and "
            "name it as module:object."
        )
    return BoosterEstimator(
        name=str(path), ask=lambda codes: booster.predict(codes, num_threads=1), numbers=numbers, columns=columns,
        width=booster.num_feature(), booster_=booster,
        names=None if all(name == f"Column_{j}" for j, name in enumerate(names)) else names,
        categories=dict(zip(placed, words, strict=False)),
    )  # fmt: skip


def _catboost(path: Path, library: Any) -> BoosterEstimator:
    booster = library.CatBoost()
    booster.load_model(str(path))
    if booster.get_text_feature_indices() or booster.get_embedding_feature_indices():
        raise InputError(
            f"{path} takes texts or embeddings; a table has numbers and categories. Name a function instead."
        )
    names, classes = booster.feature_names_, booster.classes_
    loss = str(booster.get_all_params().get("loss_function", ""))
    numbers: Numbers = "probabilities" if len(classes) > 1 or loss in ("Logloss", "CrossEntropy") else "values"
    if "MultiLogloss" in loss or "MultiCrossEntropy" in loss:
        raise _several(path)
    asked = "Probability" if numbers == "probabilities" else "RawFormulaVal"
    return BoosterEstimator(
        name=str(path), ask=lambda rows: booster.predict(rows, prediction_type=asked, thread_count=1), numbers=numbers,
        columns=max(len(classes), 1), width=len(names), booster_=booster, classes=classes if len(classes) else None,
        names=None if all(name == str(j) for j, name in enumerate(names)) else names,
        categories=dict.fromkeys(booster.get_cat_feature_indices()),
    )  # fmt: skip


READERS: dict[str, Callable[[Path, Any], BoosterEstimator]] = {
    "catboost": _catboost,
    "lightgbm": _lightgbm,
    "xgboost": _xgboost,
}
