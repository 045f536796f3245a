"""What a user installs: sdist and wheel, each in an empty environment, run from a folder that is not the checkout.

Packages come from pip's index at the versions of constraints.txt; where it cannot be reached these tests fail.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from portcullis_ml.catalog import OPTIONAL

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
KINDS = ("sdist", "wheel")

SHOP = """\
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

x, y = load_digits(return_X_y=True)
model = LogisticRegression(max_iter=1_000).fit(x[:900] / 16, y[:900])
"""
NETS = """\
import torch

torch.manual_seed(0)
model = torch.nn.Linear(64, 10)
"""
LAZY = """\
def model():
    import torch

    return torch.nn.Linear(64, 10)
"""
POLICY = """\
key_file = "guard.key"
[upstream]
url = "http://127.0.0.1:8080"
[model]
name = "digits"
input_shape = [64]
classes = 10
[clients]
anonymous = "shared"
[[guard]]
unit = "rounding"
decimals = 2
"""
SMALL = (
    "--test test.npz --attacks equation_solving,knockoff --pool test.npz --defenses rounding(decimals=2) "
    "--budget 65 --epochs 1 --quick --jobs 0 --json"
).split()


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and the folder from which its commands are run."""

    folder: Path
    cwd: Path

    def install(self, *words: str) -> None:
        """pip writes no bytecode: Python compiles the modules that are imported, and most are not."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.folder / "bin" / "python"), "install"]
        must([*pip, "--quiet", "--no-compile", "-c", str(CONSTRAINTS), *words], self.cwd)

    def python(self, code: str) -> str:
        return must([str(self.folder / "bin" / "python"), "-c", code], self.cwd)

    def portcullis(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run([str(self.folder / "bin" / "portcullis"), *words], self.cwd)


def run(command: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Without the variables by which Python and Portcullis would find files of this checkout or of this user."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PORTCULLIS"))}
    env |= {"PORTCULLIS_CACHE": str(cwd / "cache"), "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def must(command: Sequence[str], cwd: Path) -> str:
    """What the command printed; it has to succeed."""
    done = run(command, cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def tracked() -> list[str]:
    """The checkout's files as git knows them; of any owner, since CI may run as another user."""
    names = must(["git", "-c", "safe.directory=*", "ls-files", "-z"], ROOT).split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{"sdist": path, "wheel": path}, built from a copy of the tracked files."""
    place = tmp_path_factory.mktemp("folder with spaces")
    for name in tracked():
        (place / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / "copy" / name)
    must([sys.executable, "-m", "hatchling", "build", "-d", str(place / "dist")], place / "copy")
    (sdist,), (wheel,) = (place / "dist").glob("*.tar.gz"), (place / "dist").glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    """An empty environment, and beside it a folder with victims, rows and a policy."""
    folder, cwd = tmp_path / "environment", tmp_path / "elsewhere"
    cwd.mkdir()
    x, y = load_digits(return_X_y=True)
    np.savez(cwd / "test.npz", x=x[900:] / 16, y=y[900:])
    texts = {"shop.py": SHOP, "nets.py": NETS, "lazy.py": LAZY, "portcullis.toml": POLICY, "guard.key": "5a" * 32}
    for name, text in texts.items():
        (cwd / name).write_text(text)
    must([sys.executable, "-m", "venv", "--without-pip", str(folder)], cwd)
    yield Environment(folder, cwd)
    shutil.rmtree(folder)  # with PyTorch it holds more than a gigabyte


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def required(requirements: Sequence[str]) -> set[str]:
    """The names that they begin with, as an index spells them."""
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower().replace("_", "-") for line in requirements}


def audits(environment: Environment, victim: str) -> None:
    """A real audit ends with a report, and with a copy that agrees everywhere, as nothing stood in the way."""
    done = environment.portcullis("audit", "--victim", victim, *SMALL)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["worst_undefended"][told["measure"]["name"]][0] == 1.0
    assert "</html>" in Path(environment.cwd, told["report"]).read_text()


def test_the_archives_hold_the_tracked_files_and_nothing_else(archives: dict[str, Path]) -> None:
    with tarfile.open(archives["sdist"]) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert inside == {*tracked(), "PKG-INFO"}
    with zipfile.ZipFile(archives["wheel"]) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == {name.removeprefix("src/") for name in tracked() if name.startswith("src/")}
    assert {"portcullis_ml/report/page.css", "portcullis_ml/gateway/admin/pages/page.html"} < inside
    assert "portcullis_ml/bench/protocols/prada_mnist.toml" in inside


def test_the_wheel_declares_the_extras_and_every_requirement_has_a_pin(archives: dict[str, Path]) -> None:
    found = metadata(archives["wheel"])
    assert found["Name"] == "portcullis-ml"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    declared = {
        "audit",
        "gateway",
        "court",
        "grpc",
        "model-signing",
        "otel",
        "private",
        "pretrained",
        "ray",
        "fast",
        "dev",
        "all",
        "everyday",
    }
    assert set(found.get_all("Provides-Extra", [])) == set(extras) == declared
    lines = found.get_all("Requires-Dist", [])
    of = {extra: required([line for line in lines if f"extra == '{extra}'" in line]) for extra in extras}
    assert set(OPTIONAL) <= of["audit"], "messages send users to this extra for these packages"
    assert of["all"] == of["audit"] | of["gateway"] | of["court"] | of["grpc"]
    assert "portcullis-ml" not in set().union(*of.values()), "the index has no distribution of this name"
    assert required(lines) <= required(CONSTRAINTS.read_text().splitlines())


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_installation_audits_and_names_the_extra_for_what_it_cannot_do(
    kind: str, archives: dict[str, Path], environment: Environment
) -> None:
    environment.install(str(archives[kind]))
    absent = ("portcullis", "torch", "aiohttp")  # `portcullis` is the import package of another project
    found = environment.python(f"from importlib.util import find_spec; print([find_spec(n) for n in {absent}])")
    assert found.strip() == "[None, None, None]"
    assert Path(environment.python("import portcullis_ml as p; print(p.__file__)")).is_relative_to(environment.folder)
    listed = environment.portcullis("list")
    assert listed.returncode == 0
    assert {"equation_solving", "prada-mnist", "rounding"} <= set(listed.stdout.split())
    audits(environment, "shop:model")

    audit = ("audit", "--test", "test.npz", "--victim")
    asked = {
        (*audit, "nets:model"): "audit",
        (*audit, "lazy:model"): "audit",
        ("serve",): "gateway",
        ("check", "portcullis.toml"): "gateway",
        ("replay", "log", "--policy", "portcullis.toml"): "gateway",
        ("demo", "attack"): "gateway",
        ("audit", "--on", "ray"): "ray",
    }
    for words, extra in asked.items():
        done = environment.portcullis(*words)
        assert done.returncode == 2, words
        assert "Traceback" not in done.stderr, words
        sentence = done.stderr.splitlines()[-1]
        assert re.match("portcullis: .* needs (torch|aiohttp|ray), which is not installed.", sentence), words
        assert f"pip install '.[{extra}]' in a checkout, or pip install 'FILE.whl[{extra}]'" in sentence, words


def test_a_wheel_with_its_extras_works_where_their_packages_are_installed(
    archives: dict[str, Path], environment: Environment
) -> None:
    """The quick form of the slow tests below: the packages are those of the Python that runs this test."""
    environment.install("--no-deps", str(archives["wheel"]))
    (site,) = environment.folder.glob("lib/python*/site-packages")
    (site / "shared.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    environment.install("--no-index", f"{archives['wheel']}[all,fast]")  # fails unless the extras' packages are there
    assert Path(environment.python("import portcullis_ml as p; print(p.__file__)")).is_relative_to(environment.folder)
    audits(environment, "nets:model")
    checks(environment)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_extra_audit_audits_a_network(kind: str, archives: dict[str, Path], environment: Environment) -> None:
    (torch,) = re.findall(r"^torch==.*$", CONSTRAINTS.read_text(), re.M)
    environment.install(torch)  # first and alone, as in the Makefile: else pip may fetch gigabytes of CUDA packages
    environment.install(f"{archives[kind]}[audit]")
    audits(environment, "nets:model")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_extra_gateway_checks_a_policy(kind: str, archives: dict[str, Path], environment: Environment) -> None:
    environment.install(f"{archives[kind]}[gateway]")
    checks(environment)
    audits(environment, "shop:model")


def checks(environment: Environment) -> None:
    done = environment.portcullis("check", "portcullis.toml")
    assert done.returncode == 0, done.stderr
    assert "Stage 1: rounding (decimals 2" in done.stdout
