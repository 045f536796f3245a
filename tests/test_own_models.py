"""The blocks of docs/bring-your-own-model.md: each runs, and `inspect` names what its library's own calls give."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from portcullis_ml.cli.app import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "bring-your-own-model.md"
FIRST = "scikit-learn"  # whose rows the others use
WINE, DIGITS = "a table of 13 columns, all numbers", "pictures of 8 x 8, gray"
APART = ("xgboost", "lightgbm", "transformers")  # not in CI's environment: `make everyday`
HELD_OUT = "model.predict(x[1::2]), y[1::2]"
LOGITS = "network(rows[1::2]).argmax(1).numpy(), numbers[1::2]"

# heading -> the packages it needs, kinds of victim, what is asked of the library itself, and the inputs
BLOCKS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None, str]] = {
    "scikit-learn": ((), ("a scikit-learn estimator from a skops file",), HELD_OUT, WINE),
    "ONNX": ((), ("an ONNX graph",), HELD_OUT, WINE),
    "PyTorch": ((), ("weights of network:make",), None, WINE),
    "TorchScript and torch.export": (
        (),
        ("TorchScript", "a program of torch.export"),
        LOGITS,
        DIGITS + ", channels first",
    ),
    "XGBoost": (("xgboost",), ("an XGBoost model",), "booster.predict(x[1::2]), y[1::2]", WINE),
    "LightGBM": (("lightgbm",), ("a LightGBM model",), "forest.predict(x[1::2]), y[1::2]", WINE),
    "CatBoost": (("catboost",), ("a CatBoost model",), "cats.predict(x[1::2])[:, 0], y[1::2]", WINE),
    "Keras 3": (("keras",), ("a Keras model",), "dense.predict(x[1::2], verbose=0).argmax(1), y[1::2]", WINE),
    "Anything that Python can call": ((), ("a Python object (function)",), HELD_OUT, WINE),
    "A Hugging Face pipeline": (
        ("transformers",),
        ("a Python object (function)",),
        "__import__('hugging').ask(images.reshape(-1, 8, 8)[::20] * 15 / 255).argmax(1), numbers[::20]",
        DIGITS,
    ),
}


NUMBERS = "\n## Models that answer numbers\n"


def blocks() -> dict[str, list[tuple[str, str]]]:
    """heading -> (language, block)s, in the page's order."""
    found: dict[str, list[tuple[str, str]]] = {}
    heading = ""
    for bold, language, block in re.findall(
        r"^\*\*(.+?)\*\*|^```(python|sh)\n(.*?)^```", PAGE.read_text().split(NUMBERS)[0], re.S | re.M
    ):
        if bold:
            heading = bold
        else:
            found.setdefault(heading, []).append((language, block))
    return found


def test_every_block_of_the_page_is_run_here() -> None:
    assert list(blocks()) == list(BLOCKS)


@pytest.mark.filterwarnings("ignore")  # of libraries that are not ours
@pytest.mark.parametrize(
    "heading", [pytest.param(h, marks=[pytest.mark.slow] if set(BLOCKS[h][0]) & set(APART) else []) for h in BLOCKS]
)
def test_a_framework_is_understood(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages, kinds, own, inputs = BLOCKS[heading]
    if "keras" in packages:
        monkeypatch.setenv("KERAS_BACKEND", "torch")
    for package in packages:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    made: dict[str, Any] = {}
    found = []
    for language, block in [*blocks()[FIRST][:1], *blocks()[heading]]:
        if language == "python":
            exec(compile(block, PAGE.name, "exec"), made)
            continue
        for line in block.splitlines():
            result = CliRunner().invoke(app, [*shlex.split(line)[1:], "--json"])
            assert result.exit_code == 0, result.output
            found.append(json.loads(result.stdout)["understood"])
    assert [f["victim"]["taken"].partition(": ")[2] for f in found] == list(kinds)
    assert {f["inputs"]["taken"] for f in found} == {inputs}
    accuracies = {re.search(r"([\d.]+)% answered", f["test rows"]["taken"])[1] for f in found}  # type: ignore[index]
    if own is not None:
        answered, labels = eval(own, made)
        assert accuracies == {f"{100 * np.mean(answered == labels):.1f}"}
    for name in ("network", "service", "hugging"):
        sys.modules.pop(name, None)


def test_a_model_that_answers_numbers_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The section's blocks; R^2 is that of scikit-learn's own `score`."""
    monkeypatch.chdir(tmp_path)
    section = PAGE.read_text().split(NUMBERS)[1].split("\n## ")[0]
    ((_, code), (_, line)) = re.findall(r"^```(python|sh)\n(.*?)^```", section, re.S | re.M)
    made: dict[str, Any] = {}
    exec(compile(code, PAGE.name, "exec"), made)
    result = CliRunner().invoke(app, [*shlex.split(line)[1:], "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["understood"]
    r2 = made["regressor"].score(made["rows"][200:300], made["targets"][200:300])
    assert found["test rows"]["taken"].startswith(f"100; the victim explains {r2:.1%} of the variance")
    assert found["pool"]["taken"] == "142 rows, with targets"
