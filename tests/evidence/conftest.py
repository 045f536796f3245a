"""One tiny audit of digits and its bundle, made once for all tests of this folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from portcullis_ml.cli.app import app


@dataclass(frozen=True)
class Case:
    """The audit's folder, the key that signs, its public half, and the bundle."""

    run: Path
    key: Path
    public: Path
    bundle: Path


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


def audited(folder: Path, *more: object) -> Path:
    """The folder of an audit of digits that takes seconds."""
    out = folder / "run"
    words = ["--data", "digits", "--attacks", "equation_solving", "--defenses", "rounding(decimals=1)"]
    sizes = ["--budget", "70", "--seeds", "1", "--jobs", "0", "--epochs", "1", "--fail-over", "1.0"]
    done = call("audit", *words, *sizes, "--out", out, *more)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("evidence")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTCULLIS_CACHE", str(folder / "cache"))
        run = audited(folder)
    key, bundle = folder / "signing.key", folder / "bundle.zip"
    done = call("bundle", run, "--key", key, "--new-key", "-o", bundle)
    assert done.exit_code == 0, done.output
    return Case(run, key, folder / "signing.pub", bundle)


@pytest.fixture
def case(made: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """The same, with a folder of results and a bundle that a test may change."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORTCULLIS_CACHE", str(made.run.parent / "cache"))
    shutil.copytree(made.run, tmp_path / "run")
    shutil.copy(made.bundle, tmp_path / "bundle.zip")
    return Case(tmp_path / "run", made.key, made.public, tmp_path / "bundle.zip")
