"""`portcullis check --live`: the policy held against what the model server tells and answers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.harness import Softmax, policy_of, policy_text, running, served_of
from tests.gateway.test_misfits import serving
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.types import Interface
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.protocols.v2_metadata import differences
from portcullis_ml.gateway.protocols.wire import ModelSpec
from portcullis_ml.gateway.server import Server

MODEL = Softmax()
ASKED = ModelSpec(name="m", interface=Interface(input_shape=(4,), n_classes=3), datatype="FP32", label=None)
INPUT = {"name": "input", "datatype": "FP32", "shape": [-1, 4]}
OUTPUT = {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}
LABEL = {"name": "predict", "datatype": "BYTES", "shape": [-1]}


@pytest.mark.parametrize(
    "told",
    [
        {"inputs": [INPUT], "outputs": [OUTPUT]},
        {"inputs": [{**INPUT, "shape": [4]}], "outputs": [{**OUTPUT, "shape": [3]}]},
        {"inputs": [{**INPUT, "shape": [-1, -1]}], "outputs": [{"name": "probabilities"}]},
        {"inputs": [], "outputs": []},
        {"inputs": None},
        {},
        [],
        {"inputs": ["input"], "outputs": "text"},
    ],
    ids=str,
)
def test_a_server_that_tells_what_the_policy_says_or_nothing_differs_in_nothing(told: Any) -> None:
    assert differences(ASKED, told) == []


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"inputs": [{**INPUT, "name": "x"}]}, "takes 'x'; the policy asks with 'input': see upstream.input"),
        ({"inputs": [INPUT, {"name": "mask"}]}, "takes 'input', 'mask'; the gate asks with one tensor"),
        ({"inputs": [{**INPUT, "datatype": "INT64"}]}, "is INT64; the policy says FP32: see [model] datatype"),
        ({"inputs": [{**INPUT, "shape": [-1, 64]}]}, "has shape [-1, 64]; the policy says rows of [4]"),
        ({"inputs": [{**INPUT, "shape": [-1, 2, 2]}]}, "see [model] input_shape"),
        ({"outputs": [LABEL]}, "answers 'predict'; the policy asks for 'probabilities': see upstream.scores"),
        ({"outputs": [LABEL, OUTPUT]}, "also answers 'predict', which the gate does not ask for and shows nobody"),
        ({"outputs": [{**OUTPUT, "shape": [-1, 10]}]}, "has shape [-1, 10]; the policy says 3 scores a row"),
    ],
)
def test_each_difference_is_a_sentence_that_names_the_key(told: Any, sentence: str) -> None:
    (said,) = differences(ASKED, told)
    assert sentence in said
    assert said.endswith(".")


def test_words_need_names_and_two_classes_may_be_one_column() -> None:
    labels = replace(ASKED, scores=None, label="predict")
    (said,) = differences(labels, {"outputs": [LABEL]})
    assert "holds words; name the classes" in said
    assert differences(replace(labels, class_names=("a", "b", "c")), {"outputs": [LABEL]}) == []
    two = replace(ASKED, interface=Interface(input_shape=(4,), n_classes=2))
    for shape in ([-1, 1], [-1], [-1, 2]):
        assert differences(two, {"outputs": [{**OUTPUT, "shape": shape}]}) == []


def checked_live(folder: Path, upstream: str, more: str = "") -> Any:
    path = folder / "p.toml"
    path.write_text(policy_text(MODEL, upstream, folder, "", more))
    return CliRunner().invoke(app, ["check", str(path), "--live"])


def test_check_asks_the_model_server_where_it_is_told_to(tmp_path: Path) -> None:
    with running(ModelServer(MODEL, served_of(MODEL, input="pixels"))) as url:
        wrong = checked_live(tmp_path, url)
        assert wrong.exit_code != 0
        assert "Note: The model takes 'pixels'; the policy asks with 'input': see upstream.input." in wrong.output
        assert "answered 400 to POST /v2/models/m/infer" in " ".join(wrong.output.split())
        right = checked_live(tmp_path, url, f'[upstream]\nurl = "{url}"\ninput = "pixels"\n')
    assert right.exit_code == 0, right.output
    assert "answers one row with scores (3), as the policy says." in right.output
    notes = [line for line in right.output.splitlines() if line.startswith("Note: The model")]
    assert notes == ["Note: The model also answers 'label', which the gate does not ask for and shows nobody."]
    gone = checked_live(tmp_path, "http://127.0.0.1:9")
    assert gone.exit_code != 0
    assert "cannot be reached" in " ".join(gone.output.split())


def test_check_finds_words_for_classes_in_protocols_without_metadata(tmp_path: Path) -> None:
    with serving(lambda path, tree: (200, {"predictions": ["cat"] * len(tree["inputs"])})) as url:
        table = f'[upstream]\nurl = "{url}"\nprotocol = "invocations"\nanswers = "labels"\n'
        wrong = checked_live(tmp_path, url, table)
        assert wrong.exit_code != 0
        assert "name all of them in the order" in " ".join(wrong.output.split())
        about = '[model]\nname = "m"\ninput_shape = [4]\nclasses = ["cat", "dog", "cow"]\nbounds = [-3.0, 3.0]\n'
        right = checked_live(tmp_path, url, table + about)
    assert (right.exit_code, "with a class alone" in right.output) == (0, True), right.output


async def test_a_reload_that_changes_the_models_table_asks_the_model_server_anew(tmp_path: Path) -> None:
    def policy(**names: str) -> Policy:
        about = "".join(f'{key} = "{name}"\n' for key, name in names.items())
        text = f'[model]\nname = "m"\ninput_shape = [4]\nclasses = 3\nbounds = [-3.0, 3.0]\n{about}'
        return policy_of(MODEL, "http://127.0.0.1:9", tmp_path, "", f"{text}[limits]\ndrain_s = 0.01\n")

    server = Server(policy())
    before = server.gate.upstream
    same, other = policy(), policy(scores="p")
    server.exchange(same, same.guard())
    assert server.gate.upstream is before
    server.exchange(other, other.guard())
    assert server.gate.upstream is not before
    await asyncio.sleep(0.05)
    server.started.set()
    server.stop()
    await server()
