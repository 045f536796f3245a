"""`.ci/run` fails with a sentence where a test could run and would be skipped, and names skips that it cannot help."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EVERYTHING = ("redis-server", "chromium", "nginx")


def ran(tmp_path: Path, *present: str, root: bool = True, **environment: str) -> tuple[int, str]:
    """Exit status and output of the script where only the named programs exist and `apt-get` finds nothing."""
    programs, here = tmp_path / "bin", tmp_path / "clones" / "checkout" / ".ci"
    for folder in (programs, here):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / ".ci" / "run", here)
    for name in ("bash", "dirname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    scripts = {
        "make": 'echo "made $1 with data at ${PORTCULLIS_DATA:-nowhere}"',
        "id": f"echo {0 if root else 1000}",
        "apt-get": "exit 100",
        **{name: "exit 0" for name in present},
    }
    for name, text in scripts.items():
        (programs / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        [here / "run"], env={"PATH": str(programs), **environment}, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def test_with_everything_there_nothing_is_said_about_skips(tmp_path):
    (tmp_path / "data").mkdir()
    status, said = ran(tmp_path, *EVERYTHING, PORTCULLIS_DATA=str(tmp_path / "data"))
    assert status == 0
    assert said == "".join(f"made {word} with data at {tmp_path}/data\n" for word in ("check", "test", "servers"))


@pytest.mark.parametrize("missing", EVERYTHING)
def test_a_program_that_could_have_been_installed_is_a_failure(tmp_path, missing):
    status, said = ran(tmp_path, *(name for name in EVERYTHING if name != missing))
    assert status != 0
    assert f"{missing} is missing and apt-get could not install it: install it by hand" in said
    assert "made" not in said


def test_a_program_that_cannot_be_installed_is_said_and_the_tests_run(tmp_path):
    status, said = ran(tmp_path, "chromium", root=False)
    assert status == 0
    assert "redis-server is missing and cannot be installed here" in said
    assert "made test" in said


def test_data_beside_the_checkout_are_used_and_none_at_all_is_said(tmp_path):
    status, said = ran(tmp_path, *EVERYTHING)
    assert (status, "There is no folder with data sets" in said) == (0, True)
    assert "made test with data at nowhere" in said
    (tmp_path / "clones" / "shared" / "data").mkdir(parents=True)
    shutil.rmtree(tmp_path / "bin")
    assert f"made test with data at {tmp_path}/clones/shared/data" in ran(tmp_path, *EVERYTHING)[1]


def test_a_data_folder_that_is_not_there_is_a_failure(tmp_path):
    status, said = ran(tmp_path, *EVERYTHING, PORTCULLIS_DATA=str(tmp_path / "none"))
    assert status != 0
    assert "PORTCULLIS_DATA must name a folder with data sets; there is no folder" in said


def test_skips_are_printed_with_their_reasons():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "-rs" in options["addopts"].split()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("python", "folder"),
    [("python3", ".venv"), ("python3.13", ".venv-python3.13"), ("/elsewhere/python3.12", ".venv-python3.12")],
)
def test_each_python_has_an_environment_of_its_own(python, folder):
    command = ["make", "--dry-run", "--always-make", "test", f"PYTHON={python}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    assert f"{python} -m venv {folder}\n" in said
    assert f"{folder}/bin/python -m pytest" in said
    assert f"touch {folder}/.installed" in said
