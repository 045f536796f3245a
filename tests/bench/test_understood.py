"""What `inspect` and the head of an audit say of a victim: every point as it is, with the option that changes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.experiments import write
from portcullis_ml.bench.experiment import ExperimentSpec
from portcullis_ml.bench.understood import understood
from portcullis_ml.cli.app import app
from portcullis_ml.report.results import Audit

RNG = np.random.default_rng(0)


def colours(x):
    """Of pictures with their channels first, which colour is strongest; pixels go from 0 to 255."""
    share = np.maximum(x.mean(axis=(2, 3)) - 20, 0.1)  # pixels of 0 to 1 are all dark to it
    return share / share.sum(axis=1, keepdims=True)


def points(spec: ExperimentSpec) -> dict[str, tuple[str, str]]:
    return {p.about: (p.taken, p.change) for p in understood(spec, spec.load())}


def test_pictures_say_their_layout_scale_and_accuracy(tmp_path: Path) -> None:
    x = RNG.integers(0, 200, size=(90, 3, 6, 5)).astype(np.uint8)
    y = np.arange(90) % 3
    x[np.arange(90), y] += 50
    y[:9] = (y[:9] + 1) % 3  # a tenth is labelled wrong
    np.savez(tmp_path / "test.npz", x=x, y=y)
    np.savez(tmp_path / "pool.npz", x=x[:40])
    found = points(
        ExperimentSpec(
            victim="bench.test_understood:colours", test=str(tmp_path / "test.npz"), pool=str(tmp_path / "pool.npz")
        )
    )
    assert found["victim"][0] == "bench.test_understood:colours: a Python object (function)"
    assert found["inputs"] == ("pictures of 6 x 5, 3 colours, channels first", "--test")
    assert found["values"][0] == "0 to 1; the victim gets them times 255"
    assert found["classes"] == ("3, by their numbers: 0 to 2", "--classes")
    assert found["test rows"] == ("90; 90.0% answered as labelled; the rarest class has 30", "--test")
    assert found["pool"] == ("40 rows, without labels", "--pool")
    assert found["training rows"][0].startswith("not given")


@pytest.mark.parametrize(("words", "code"), [((), 0), (("--strict-pool",), 2)])
def test_a_file_of_the_pool_that_cannot_be_read_is_counted_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = RNG.integers(0, 200, size=(30, 3, 6, 5)).astype(np.uint8), np.arange(30) % 3
    x[np.arange(30), y] += 50
    np.savez("test.npz", x=x, y=y)
    Path("pool").mkdir()
    for i in range(4):
        Image.fromarray(RNG.integers(0, 255, size=(6, 5, 3)).astype(np.uint8)).save(f"pool/{i}.png")
    Path("pool/broken.png").write_bytes(b"no picture")
    given = ["--victim", "bench.test_understood:colours", "--test", "test.npz", "--pool", "pool", *words]
    told = CliRunner().invoke(app, ["inspect", *given])
    assert told.exit_code == code, told.output
    said = " ".join((told.stderr if code else told.output).split())
    assert ("broken.png in pool cannot be read" if code else "1 could not be: broken.png") in said


def test_a_victim_that_was_trained_here_names_the_data_set_as_what_changes_it(tmp_path: Path) -> None:
    found = points(ExperimentSpec(data="digits", cache=str(tmp_path)))
    assert found["victim"][0].endswith("trained here, since no --victim was given")
    assert found["classes"] == ("10, in this order: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9", "")
    assert found["test rows"][1] == "--data"
    assert "0 of the pool are among them" in found["training rows"][0]


def test_an_audit_begins_with_what_inspect_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = write(tmp_path)
    where = ["--victim", "bench.experiments:victim", "--test", str(files["test"]), "--pool", str(files["pool"])]
    told = CliRunner().invoke(app, ["inspect", *where])
    assert told.exit_code == 0, told.output
    small = ["--attacks", "equation_solving", "--defenses", "rounding(decimals=1)", "--budget", "20"]
    audit = CliRunner().invoke(app, ["audit", *where, *small, "--seeds", "1", "--jobs", "0"])
    assert audit.stdout.startswith(told.stdout)
    found = json.loads(CliRunner().invoke(app, ["inspect", *where, "--json"]).stdout)
    assert set(found["understood"]) == {
        "victim", "inputs", "values", "classes", "answers", "test rows", "pool", "training rows",
    }  # fmt: skip


def test_a_victim_that_is_not_there_is_one_sentence() -> None:
    told = CliRunner().invoke(app, ["inspect", "--victim", "nothing.onnx", "--test", "none.npz"])
    assert told.exit_code == 2
    assert len(told.stderr.strip().splitlines()) == 1


def test_an_audit_that_made_no_copy_ends_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = write(tmp_path)
    where = ["--victim", "bench.experiments:victim", "--test", str(files["test"])]
    small = ["--attacks", "equation_solving", "--defenses", "rounding(decimals=1)", "--budget", "20"]
    monkeypatch.setattr(Audit, "strongest", None)
    told = CliRunner().invoke(app, ["audit", *where, *small, "--seeds", "1", "--jobs", "0", "--json"])
    assert told.exit_code == 2
    assert "No attack made a copy" in told.stderr
    assert Path("portcullis-audit/report.html").exists()
