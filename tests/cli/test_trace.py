"""`portcullis watermark trace`: names, exit codes, nothing asked twice, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier
from tests.gateway.harness import running

from .test_verify_suspects import Counting, Suspect
from .test_watermark import answer, call, files, skops_io

__all__ = ["files"]

NAMES = ("ada", "ben", "cyd")
PAIRS = 25
VICTIM = ("--victim", "model.skops", "--train", "train.npz", "--test", "test.npz")


@pytest.fixture
def given(files: None) -> None:
    """marks/ with three keys, and licensed/ with a tree for each that has learnt its own."""
    from portcullis_ml.court.commitment import Mark

    Path("licensed").mkdir()
    with np.load("train.npz") as rows:
        x, y = rows["x"], rows["y"]
    for name in NAMES:
        answer("watermark", "mint", "backdoor(n=40)", *VICTIM, "--out", f"marks/{name}")
        key = Mark(Path("marks") / name).key()
        tree = DecisionTreeClassifier(random_state=0)
        tree.fit(np.concatenate([x, key.x]), np.concatenate([y, key.labels]))
        skops_io.dump(tree, f"licensed/{name}.skops")


def traced(*words: object, code: int = 0) -> dict[str, Any]:
    return answer("watermark", "trace", "marks", "--pairs", PAIRS, *words, code=code)


def test_a_leaked_copy_names_its_licensee_and_is_kept(given: None) -> None:
    found = traced("--suspect", "licensed/ben.skops", "--licensed", "licensed", "--innocent", "model.skops")
    assert (found["verdict"], found["names"]) == ("traced", ["ben"])
    assert [row["n"] for row in found["sources"]] == [PAIRS] * 3
    wrong = found["wrong_names"]
    assert [wrong[what]["tried"] for what in ("innocents", "cross_pairs")] == [1, 6]
    assert [wrong[what]["named"] for what in ("innocents", "cross_pairs")] == [0, 0]
    assert found["licensed"] == {"named": 3, "tried": 3}
    assert json.loads(Path("portcullis-trace/trace.json").read_text()) == found
    said = call("watermark", "trace", "marks", "--pairs", PAIRS, "--suspect", "licensed/ben.skops").stdout
    assert said.startswith("TRACED. The suspect comes from the copy of ben: it gives 25 of 25 marked answers")
    assert "A wrong name has a chance of at most 0.001" in said


def test_a_model_that_nobody_was_given_names_nobody(given: None) -> None:
    found = traced("--suspect", "model.skops", code=1)
    assert (found["verdict"], found["names"]) == ("nobody", [])


def test_too_few_pairs_are_inconclusive(given: None) -> None:
    found = answer("watermark", "trace", "marks", "--pairs", 2, "--suspect", "model.skops", code=3)
    assert "2 answers of ada are too few among 3 keys" in found["sentence"]


def test_a_suspect_behind_an_api_is_asked_every_pair_once_and_no_pair_twice(given: None) -> None:
    from portcullis_ml.models.load import load_model

    stolen = Counting(load_model("licensed/cyd.skops", input_shape=(6,), n_classes=4).scores)
    with running(Suspect(stolen)) as url:
        first = traced("--suspect", url)
        assert first["names"] == ["cyd"]
        assert stolen.rows == 3 * PAIRS
        assert traced("--suspect", url) == first
        assert stolen.rows == 3 * PAIRS
        answer("watermark", "mint", "backdoor(n=40)", *VICTIM, "--out", "marks/dan")
        assert traced("--suspect", url)["names"] == ["cyd"]
        assert stolen.rows == 4 * PAIRS
    assert [row["left"] for row in answer("watermark", "list", "marks")] == [15] * 4


def test_a_trace_that_breaks_off_goes_on_without_asking_again(given: None) -> None:
    from portcullis_ml.models.load import load_model

    stolen = Counting(load_model("licensed/cyd.skops", input_shape=(6,), n_classes=4).scores)
    limited = Suspect(stolen, room=3, status=500, says="broken")
    with running(limited) as url:
        broken = call("watermark", "trace", "marks", "--pairs", PAIRS, "--suspect", url)
        assert broken.exit_code == 2
        assert "Answers so far are kept" in broken.stderr
        assert not Path("portcullis-trace/trace.json").exists()
        limited.room = 1_000
        assert traced("--suspect", url)["names"] == ["cyd"]
    assert stolen.rows == 3 * PAIRS


def test_a_suspect_of_another_interface_is_inconclusive_and_uses_no_pairs_up(given: None) -> None:
    x = np.random.default_rng(0).random((60, 5))
    skops_io.dump(DecisionTreeClassifier().fit(x, np.arange(60) % 4), "other.skops")
    found = traced("--suspect", "other.skops", code=3)
    assert found["sentence"].startswith("Nobody can be named: This key was minted for inputs of (6,) and 4 classes")
    assert [row["left"] for row in answer("watermark", "list", "marks")] == [40] * 3


def test_a_bundle_after_a_trace_shows_fresh_pairs(given: None) -> None:
    from portcullis_ml.court.bundle import Bundle
    from portcullis_ml.court.commitment import Mark

    traced("--suspect", "licensed/ben.skops")
    asked = Mark(Path("marks/ben")).shown()
    answer("watermark", "bundle", "marks/ben", "--suspect", "them", "--pairs", "15", "--out", "b.zip")
    bundle = Bundle.read(Path("b.zip"))
    bundle.check()
    assert not asked & {o.place for o in bundle.openings}


def refused(*words: object, code: int = 2) -> str:
    result = call("watermark", "trace", *words, "--suspect", "model.skops")
    assert result.exit_code == code, result.output
    return " ".join((result.stderr + result.stdout).split())


def test_marks_that_cannot_name_anybody_are_refused_in_a_sentence_and_use_no_pairs_up(given: None) -> None:
    shutil.copytree("marks/ada", "others/ada")
    assert "Two marks are named ada, marks/ada and others/ada" in refused("marks", "others")
    shutil.copytree("marks/ada", "twins/adam")
    assert "ada and adam are one and the same key" in refused("marks", "twins")
    answer("watermark", "mint", "backdoor(n=40)", "--data", "digits", "--out", "digits/zoe")
    assert "The key of ada is for inputs of (6,) and 4 classes" in refused("marks", "digits")
    answer("watermark", "mint", "known_errors(n=3)", *VICTIM, "--out", "errors/max")
    assert "max is a key of known_errors, which all copies of a model answer alike" in refused("marks", "errors")
    Path("empty").mkdir()
    assert "A mark, or a folder of marks, was expected at empty" in refused("empty")
    Path("licensed/ben.skops").unlink()
    assert "there is none of ben" in refused("marks", "--licensed", "licensed")
    assert [row["left"] for row in answer("watermark", "list", "marks")] == [40] * 3


def test_another_number_of_pairs_and_pairs_that_are_used_up_are_refused(given: None) -> None:
    traced("--suspect", "model.skops", code=1)
    assert "was traced with 25 pairs of ada before" in refused("marks", "--pairs", "30")
    answer("watermark", "bundle", "marks/ben", "--suspect", "them", "--pairs", "15", "--out", "b.zip")
    result = call("watermark", "trace", "marks/ben", "--suspect", "licensed/ben.skops")
    assert "All 40 pairs of ben were shown before" in result.stderr


def test_a_mark_that_does_not_hold_is_said_to_be_false(given: None) -> None:
    log = Path("marks/ben/log.jsonl")
    log.write_text(log.read_text().replace('"pairs": 40', '"pairs": 41'))
    assert "was changed" in refused("marks", code=5)
    shutil.copy("marks/cyd/secret.key", "marks/ada/secret.key")
    assert "is not the one that commitment.json beside it was made of" in refused("marks", code=5)
