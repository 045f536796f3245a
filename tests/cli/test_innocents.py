"""`portcullis watermark innocents`: models that learnt the owner's rows, and what a verdict says of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tests.models.toys_of_learners import WrongClasses

from portcullis_ml.cli import innocent_models
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Rows
from portcullis_ml.court.innocents import MANIFEST, Innocents, rows_sha256
from portcullis_ml.models.load import load_model

from .test_watermark import VICTIM, answer, call, dated, files, skops_io, verify

__all__ = ["dated", "files"]

MAKE = ("watermark", "innocents", *VICTIM)
UNKNOWN = "no innocent model is known to have learnt them"


def shown(scheme: str, *words: object, code: int, folder: str = "innocents", suspect: str = "model.skops") -> Any:
    """The verdict on a suspect under a fresh key of the scheme, with the innocent models of a folder."""
    for name in ("mark", "portcullis-verify"):
        shutil.rmtree(name, ignore_errors=True)
    answer("watermark", "mint", scheme, *VICTIM, "--out", "mark")
    answer("watermark", "commit", "mark", "--token", "token.tsr", "--roots", "roots.pem")
    Path("b.zip").unlink(missing_ok=True)
    answer("watermark", "bundle", "mark", "--suspect", "them", "--nonce", "n", *words, "--out", "b.zip")
    return verify("--nonce", "n", "--innocent", folder, suspect=suspect, code=code)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """(what the command said, the folder that it wrote), for the files of `files`."""
    here, folder = Path.cwd(), tmp_path_factory.mktemp("made")
    os.chdir(folder)
    try:
        files.__wrapped__()
        return answer(*MAKE, "--out", "innocents"), folder / "innocents"
    finally:
        os.chdir(here)


@pytest.fixture
def made(files: None, made_once: tuple[dict[str, Any], Path]) -> dict[str, Any]:
    """The folder innocents/ beside the files, and what the command said of it."""
    shutil.copytree(made_once[1], "innocents")
    return made_once[0]


def test_models_that_learnt_the_owners_rows_are_in_the_folder_and_the_verdict_says_so(
    made: dict[str, Any], dated: None
) -> None:
    assert (made["models"], made["learnt_the_owners_rows"]) == (20, 20)
    manifest = json.loads(Path("innocents", MANIFEST).read_text())
    with np.load("train.npz") as rows:
        assert manifest["owner"] == {"rows": 300, "sha256": rows_sha256(Rows(rows["x"], rows["y"]))}
        x, y = rows["x"], rows["y"]
    assert manifest["learner"]["unit"] == "the victim's own estimator"
    models = [load_model(f"innocents/{entry['file']}") for entry in manifest["models"]]
    assert len({m.scores(x).tobytes() for m in models}) == 20, "two seeds gave the same model"
    assert min(np.mean(m.scores(x).argmax(axis=1) == y) for m in models) > 0.95, "they know the rows by heart"
    verdict = shown("known_errors", "--pairs", 3, code=3)
    assert verdict["innocents"] == {"models": 20, "learnt_the_owners_rows": 20, "owners_rows": made["owners_rows"]}
    assert verdict["evidence"]["tried"] == 20
    said = " ".join(verdict["evidence"]["assumed"])
    assert "20 of 20 innocent models learnt the owner's training rows" in said
    assert UNKNOWN not in said
    assert "20 of 20 innocent models learnt" in Path("portcullis-verify/certificate.html").read_text()


def test_without_the_manifest_nobody_knows_what_the_models_learnt(made: dict[str, Any], dated: None) -> None:
    Path("innocents", MANIFEST).unlink()
    verdict = shown("known_errors", "--pairs", 3, code=3)
    assert verdict["innocents"] == {"models": 20, "learnt_the_owners_rows": 0, "owners_rows": []}
    said = " ".join(verdict["evidence"]["assumed"])
    assert UNKNOWN in said
    assert "learnt the owner's training rows with seeds" not in said


def test_too_few_that_learnt_the_owners_rows_change_nothing_in_what_is_assumed(
    made: dict[str, Any], dated: None
) -> None:
    manifest = json.loads(Path("innocents", MANIFEST).read_text())
    manifest["models"][0]["learnt"] = "others"
    Path("innocents", MANIFEST).write_text(json.dumps(manifest))
    verdict = shown("known_errors", "--pairs", 3, code=3)
    assert verdict["innocents"]["learnt_the_owners_rows"] == 19
    assert UNKNOWN in " ".join(verdict["evidence"]["assumed"])


def test_other_rows_give_as_many_models_of_another_kind(files: None, dated: None) -> None:
    rng = np.random.default_rng(7)
    x = rng.random((300, 6))
    np.savez("other.npz", x=x, y=((x[:, 0] + x[:, 1] > 1) * 2 + (x[:, 2] > 0.5)).astype(int))
    found = answer(*MAKE, "--pool", "other.npz", "--out", "innocents")
    assert (found["models"], found["learnt_the_owners_rows"]) == (40, 20)
    assert found["trained_on"] == {"owner": 300, "others": 300}
    assert "overlap" not in found
    verdict = shown("dataset_inference(rows=50)", "--pairs", 300, code=3, suspect="innocents/owner-000.skops")
    assert "not even a model that knows all private rows would be convicted" in verdict["sentence"]
    assert verdict["evidence"]["tried"] == 40
    assert "none of the private rows" not in " ".join(verdict["evidence"]["assumed"])


def test_rows_that_are_the_owners_as_well_are_counted(made: dict[str, Any]) -> None:
    with np.load("train.npz") as rows:
        np.savez("other.npz", x=rows["x"][:50], y=rows["y"][:50])
    found = answer(*MAKE, "--pool", "other.npz", "--learner", "sklearn(estimator=tree)", "--out", "both")
    assert found["overlap"].startswith("50 rows of --pool are the owner's as well")


def test_a_run_that_was_interrupted_goes_on_and_gives_the_same_models(made: dict[str, Any], monkeypatch) -> None:
    Path("innocents").rename("whole")
    trained, done = innocent_models._trained, []

    def breaks_off(*words: Any) -> Any:
        if len(done) == 3:
            raise InputError("Somebody pulled the plug.")
        done.append(words[-1])
        return trained(*words)

    monkeypatch.setattr(innocent_models, "_trained", breaks_off)
    assert "pulled the plug" in call(*MAKE, "--out", "innocents").stderr
    assert len(json.loads(Path("innocents", MANIFEST).read_text())["models"]) == 3
    monkeypatch.setattr(innocent_models, "_trained", lambda *words: done.append(words[-1]) or trained(*words))
    answer(*MAKE, "--out", "innocents")
    assert len(done) == len(set(done)) == 20
    with np.load("test.npz") as rows:
        x = rows["x"]
    for name in ("owner-001.skops", "owner-019.skops"):
        one, other = (load_model(f"{folder}/{name}").scores(x) for folder in ("whole", "innocents"))
        assert (one == other).all()


def test_a_learner_of_another_kind_than_the_victims_is_taken_by_its_word(files: None) -> None:
    found = answer(*MAKE, "--learner", "sklearn(estimator=tree)", "--out", "innocents")
    assert json.loads(Path("innocents", MANIFEST).read_text())["learner"]["estimator"] == "tree"
    assert found["models"] == 20


def test_a_learner_without_chance_is_said_to_give_one_model(files: None) -> None:
    """The victim's own estimator, fitted again to the same rows, is the victim."""
    with np.load("train.npz") as rows:
        skops_io.dump(LogisticRegression().fit(rows["x"], rows["y"]), "model.skops")
    assert "no scheme can tell a copy" in answer(*MAKE, "--out", "innocents")["note"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*MAKE, "--n", 19), "--n must be at least 20, since schemes claim nothing with fewer innocent models; got 19"),
        (("watermark", "innocents", *VICTIM[:2], "--test", "test.npz"), "Give --train FILE with their classes"),
        ((*MAKE, "--learner", "nobody"), "nobody"),
        ((*MAKE, "--learner", "portcullis_ml.ownership.backdoor:Backdoor"), "expected to name a learner"),
        ((*MAKE, "--learner", f"{WrongClasses.__module__}:WrongClasses"), "and 4 classes was expected of the learner"),
        ((*MAKE, "--pool", "unlabelled.npz"), "Models learn the rows of --pool with their classes; these have none"),
        ((*MAKE, "--out", "full"), "full holds other files. Name a new or an empty folder."),
    ],
)
def test_bad_input_is_one_sentence(files: None, words: tuple[object, ...], said: str) -> None:
    np.savez("unlabelled.npz", x=np.random.default_rng(0).random((50, 6)))
    Path("full").mkdir()
    Path("full", "notes.txt").write_text("mine")
    result = call(*words)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not list(Path().glob("*/*-000.skops"))


def test_a_folder_of_other_settings_is_not_gone_on_with(made: dict[str, Any]) -> None:
    assert "of other rows or settings" in call(*MAKE, "--seed", 1, "--out", "innocents").stderr


def test_folders_of_models_are_taken_as_they_are(files: None) -> None:
    for name in ("a/one.skops", "a/two.skops", "b/model.skops"):
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy("model.skops", name)
    Path("a/notes.txt").write_text("no model")
    found = Innocents.of(["a", "b", "model.skops"])
    assert found.names == ("a/one.skops", "a/two.skops", "b", "model.skops")
    assert found.learnt == (False,) * 4
    Path("empty").mkdir()
    with pytest.raises(InputError, match="Innocent models were expected in empty; it holds none"):
        Innocents.of(["empty"])


@pytest.mark.parametrize("spoilt", ["changed", "gone", "unreadable", "of unknown rows"])
def test_a_folder_that_is_not_what_its_manifest_says_is_refused(made: dict[str, Any], spoilt: str) -> None:
    model, manifest = Path("innocents/owner-004.skops"), Path("innocents", MANIFEST)
    if spoilt == "changed":
        model.write_bytes(Path("model.skops").read_bytes())
    elif spoilt == "gone":
        model.unlink()
    elif spoilt == "unreadable":
        manifest.write_text("{")
    else:
        manifest.write_text(manifest.read_text().replace('"learnt": "owner"', '"learnt": "mine"', 1))
    with pytest.raises(InputError, match="Make the folder again"):
        Innocents.of(["innocents"])
