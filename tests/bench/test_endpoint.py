"""A victim that is a running API: the figures of the model itself, no row asked twice, one sentence for the rest."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.gateway.harness import Softmax, interface_of, running
from typer.testing import CliRunner

from portcullis_ml.bench import experiment
from portcullis_ml.cli.app import app
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.protocols.wire import ModelSpec

VICTIM = Softmax()
HERE = "tests.bench.test_endpoint:VICTIM"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Softmax]]:
    """The address of a model, and the model: how many rows it was asked stands there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORTCULLIS_CACHE", str(tmp_path / "cache"))
    x = np.random.default_rng(1).uniform(-3, 3, (120, 4))
    np.savez("test.npz", x=x, y=VICTIM.scores(x).argmax(axis=1))
    model = Softmax()
    with running(ModelServer(model, ModelSpec(name="m", interface=interface_of(model)))) as url:
        yield url, model


def call(verb: str, victim: str, *words: str) -> dict:
    told = CliRunner().invoke(app, [verb, "--victim", victim, "--test", "test.npz", *words, "--json"])
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


def audit(victim: str, out: str, *words: str) -> dict:
    small = ["--attacks", "equation_solving", "--defenses", "rounding(decimals=1)", "--budget", "20,60"]
    return call("audit", victim, *small, "--seeds", "1", "--jobs", "0", "--epochs", "2", "--out", out, *words)


def test_an_audit_of_an_api_is_the_audit_of_its_model(api: tuple[str, Softmax]) -> None:
    url, model = api
    there = audit(url, "there", "--model-name", "m")
    here = audit(HERE, "here")
    for found in (there, here):  # the exact attack: whatever it draws, the copy is the model
        row = next(r for r in found["rows"] if (r["attack"], r["defense"]) == ("equation_solving", "none"))
        assert row["measures"]["agreement"] == [1.0, pytest.approx(0.97, abs=0.01), 1.0]
        assert row["measures"]["tv_natural"][0] == pytest.approx(0, abs=1e-6)
    assert any(f"The victim is the API at {url} (v2), on this machine." in note for note in there["notes"])
    asked = model.asked
    experiment._load.cache_clear()  # as in another process
    again = audit(url, "again", "--model-name", "m")
    assert again["headline"] == there["headline"]
    assert model.asked == asked + 16  # whether it still answers as it did; everything else is kept


MAPPING = """[model.mapping]
path = "/score"
rows = "$.input.rows"
scores = "$.result.scores"
labels = "$.result.animal"
"""


@pytest.fixture
def homemade(api: tuple[str, Softmax]) -> Iterator[str]:
    """The address of a home-made server that answers scores and words, which `api.toml` describes."""
    Path("api.toml").write_text(MAPPING)
    options = tomllib.loads(MAPPING)["model"]["mapping"]
    names = ("wolf", "cat", "dog")
    served = ModelSpec(name="m", interface=interface_of(VICTIM), options=options, class_names=names)
    with running(ModelServer(Softmax(), served, protocols=("mapping",))) as url:
        yield url


def test_a_home_made_api_is_described_by_a_file(homemade: str) -> None:
    x = np.random.default_rng(1).uniform(-3, 3, (120, 4))
    np.savez("test.npz", x=x, y=np.array(["wolf", "cat", "dog"])[VICTIM.scores(x).argmax(axis=1)])
    there = audit(homemade, "there", "--protocol", "api.toml", "--classes", "wolf,cat,dog")
    row = next(r for r in there["rows"] if (r["attack"], r["defense"]) == ("equation_solving", "none"))
    assert row["measures"]["agreement"] == [1.0, pytest.approx(0.97, abs=0.01), 1.0]
    words = ("--protocol", "api.toml", "--classes", "wolf,cat,dog", "--answers", "labels")
    found = call("inspect", homemade, *words)["understood"]
    assert found["test rows"]["taken"].startswith("120; 100.0% answered as labelled")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("rows =", "cannot be read"),
        ('rwos = "$.x"', "it has rwos"),
        ('rows = "x"', 'written "$.key"'),
        ('scores = "$.a"\nlabels = "$.a.b"', "another place than that of scores"),
        (MAPPING.replace("$.result.scores", "$.nothing").replace("$.result.animal", "$.none"), "must answer $.nothing"),
        (MAPPING, "answers classes as words"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_does_not_describe_the_api_is_one_sentence(homemade: str, text: str | None, said: str) -> None:
    if text is None:
        Path("api.toml").unlink()
    else:
        Path("api.toml").write_text(text)
    told = CliRunner().invoke(
        app, ["inspect", "--victim", homemade, "--test", "test.npz", "--protocol", "api.toml", "--model-name", "m"]
    )
    assert told.exit_code == 2
    assert said in " ".join(told.stderr.split())


def test_the_commands_of_the_page_run(api: tuple[str, Softmax]) -> None:
    page = (Path(__file__).parents[2] / "docs/bring-your-own-model.md").read_text()
    section = page.partition("## An API that is running")[2]
    Path("api.toml").write_text(re.findall(r"^```toml\n(.*?)^```", section, re.M | re.S)[0])
    options = tomllib.loads(Path("api.toml").read_text())["model"]["mapping"]
    served = ModelSpec(name="m", interface=interface_of(VICTIM), options=options, class_names=("cat", "dog", "wolf"))
    commands = "".join(re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)).splitlines()
    assert len(commands) == 3
    with running(ModelServer(Softmax(), served, protocols=("mapping",))) as homemade:
        for command in commands:
            url = homemade if "api.toml" in command else api[0]
            words = shlex.split(command.replace("http://127.0.0.1:8080", url))
            told = CliRunner().invoke(app, words[1:])
            assert told.exit_code == 0, told.output
            assert "answered as labelled" in told.output


def test_what_the_api_says_of_itself_is_read(api: tuple[str, Softmax]) -> None:
    found = call("inspect", api[0], "--model-name", "m")["understood"]
    assert found["victim"]["taken"].endswith("the API at that address")
    assert found["classes"]["taken"].startswith("3")
    assert found["test rows"]["taken"].startswith("120; 100.0% answered as labelled")


def test_labels_alone_are_the_most_that_such_an_api_gives(api: tuple[str, Softmax]) -> None:
    there = audit(api[0], "labels", "--model-name", "m", "--answers", "labels")
    assert there["worst_undefended"]["attack"] != "equation_solving"


@pytest.mark.parametrize(
    ("victim", "words", "said"),
    [
        ("http://192.0.2.1:9", [], "Say who allowed this test, in writing: --authorized-by"),
        ("http://127.0.0.1:9", [], "did not answer"),
        ("URL", ["--model-name", "other"], "404"),
        ("URL", ["--model-name", "m", "--api-key", "none.txt"], "expected to hold one API key"),
        ("URL", ["--model-name", "m", "--classes", "a,b"], "--classes must name the victim's 3 classes"),
        (HERE, ["--per-second", "3"], "belong to an API"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(
    api: tuple[str, Softmax], monkeypatch: pytest.MonkeyPatch, victim: str, words: list[str], said: str
) -> None:
    monkeypatch.setattr("portcullis_ml.gateway.oracle.time.sleep", lambda _: None)
    given = ["inspect", "--victim", victim.replace("URL", api[0]), "--test", "test.npz", *words]
    told = CliRunner().invoke(app, given)
    assert told.exit_code == 2
    assert said in told.stderr.replace("\n", " ")


def test_an_api_whose_model_was_changed_is_not_mixed_with_the_old_one(api: tuple[str, Softmax]) -> None:
    url, model = api
    call("inspect", url, "--model-name", "m")
    model.w = model.w[:, ::-1].copy()
    experiment._load.cache_clear()  # as in another process
    told = CliRunner().invoke(app, ["inspect", "--victim", url, "--test", "test.npz", "--model-name", "m"])
    assert told.exit_code == 2
    assert "answers otherwise than when it was asked before" in told.stderr


def test_a_verb_that_needs_the_model_itself_says_so() -> None:
    told = CliRunner().invoke(
        app, ["watermark", "mint", "known_errors", "--victim", "http://127.0.0.1:9", "--test", "t.npz"]
    )
    assert told.exit_code == 2
    assert "takes a model in your hands" in told.stderr
