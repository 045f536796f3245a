"""The docs say what the code does: generated pages are fresh, links lead somewhere, figures have their commands."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas
import pytest
import typer
from typer.testing import CliRunner

from portcullis_ml.bench.protocols import PROTOCOLS
from portcullis_ml.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = [p for folder in ("src", "benchmarks", "scripts") for p in sorted((ROOT / folder).rglob("*.py"))]
INSTALL = re.compile(
    r"\b(?:pip3? install|pipx (?:install|run)|uv (?:add|tool install)|uvx|conda install)\b([^\n`#&;|]*)"
)
FROM_INDEX = re.compile(r"portcullis(?:[-_.]ml)?(?:[\[=<>~!@].*)?[.,:)]*", re.I)  # a file would end in .whl
REQUIREMENT = re.compile(r"\bportcullis(?:[-_.]ml)?(?:\[[\w, -]*\]|\s?[=~>]=\s?\d)|pypi\.org/project/portcullis", re.I)


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "generate_docs.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run `make docs`: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_of_one_machine_stands_in_the_docs(page: Path) -> None:
    assert not re.search(r"/(work|tmp|home|root)/", page.read_text())


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S):
        exec(compile(block, "README.md", "exec"), {})
    queries, error = capsys.readouterr().out.split()
    assert int(queries) == 9
    assert float(error) < 1e-12


def test_the_readme_starts_with_what_it_does_and_two_commands() -> None:
    top = (ROOT / "README.md").read_text()[:1200]
    assert "make audit" in top
    assert "make test" in top


def test_the_pictures_of_the_readme_are_of_todays_looks() -> None:
    told = subprocess.run(
        [sys.executable, "scripts/make_pictures.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr


def from_an_index(text: str) -> list[str]:
    """What in a text would have a reader install a distribution called portcullis, or portcullis-ml, from an index."""
    words = [word for command in INSTALL.findall(text) for word in re.split(r"[\s'\"]+", command)]
    return [*filter(FROM_INDEX.fullmatch, words), *REQUIREMENT.findall(text)]


def test_nothing_sends_a_reader_to_an_index_for_portcullis() -> None:
    """On PyPI `portcullis` is another project, and the name `portcullis-ml` is not held yet."""
    files = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "Makefile", ROOT / ".ci" / "run", *CODE]
    found = {str(path.relative_to(ROOT)): from_an_index(path.read_text()) for path in files}
    assert not {name: hits for name, hits in found.items() if hits}


@pytest.mark.parametrize(
    "text",
    [
        "`pip install portcullis`",
        "$ pip install -q 'portcullis[audit]'",
        "RUN pip install --no-cache-dir portcullis-ml==0.2.0",
        "pipx install Portcullis.",
        "uv add portcullis_ml",
        "with the extra `portcullis[fast]`",
        "portcullis-ml[gateway]",
        "portcullis>=0.2",
        "https://pypi.org/project/portcullis/",
    ],
)
def test_a_distribution_from_an_index_is_found(text: str) -> None:
    assert from_an_index(text)


@pytest.mark.parametrize(
    "text",
    [
        "`pip install '.[audit]'`, then `portcullis audit`",
        'RUN pip install --no-cache-dir "$(ls portcullis_ml-*.whl)[gateway]"',
        "pip install ./portcullis_ml-0.2.0-py3-none-any.whl",
        "pip install . && portcullis list",
    ],
)
def test_a_checkout_and_a_wheel_are_no_index(text: str) -> None:
    assert not from_an_index(text)


FIGURES = [p for p in PAGES if re.search(r"\d ?%|\d\.\d+ \[", p.read_text()) and "decisions" not in p.parts]
COMMAND = re.compile(
    r"`(portcullis [^`]+|python (?:benchmarks|scripts)/[^`]+|make \w+)`|^ {4}(portcullis .+)$|^(portcullis .+)$", re.M
)


def commands_of(text: str) -> list[str]:
    text = re.sub(r"\\\n\s*", "", text)  # a line that goes on is one command
    return ["".join(found).split(" #")[0].strip() for found in COMMAND.findall(text)]


def is_there(command: str) -> bool:
    """Whether a command's verb, its options, its protocol or its script exist."""
    words = shlex.split(command)
    if words[0] == "make":
        return bool(re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M))
    if words[0] == "python":
        return (ROOT / words[1]).exists()
    group, left = typer.main.get_command(app), words[1:]
    while left and hasattr(group, "get_command") and not left[0].startswith("-"):
        found = group.get_command(click.Context(group), left.pop(0))
        if found is None:
            return False
        group = found
    known = {option for parameter in group.params for option in parameter.opts} | {"--help", "--version"}
    asked = {word.split("=")[0] for word in left if word.startswith("--") and word != "--"}
    return asked <= known and (words[1:3] != ["bench", "run"] or all(w in PROTOCOLS or w.isupper() for w in words[3:4]))


@pytest.mark.parametrize("page", FIGURES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_page_with_figures_names_commands_that_are_there(page: Path) -> None:
    commands = commands_of(page.read_text())
    assert commands, f"{page.name} has figures and no command that makes them"
    assert not [command for command in commands if not is_there(command)]


def test_every_published_experiment_has_a_page_that_the_list_links() -> None:
    linked = re.findall(r"\(results/([\w-]+)\.md\)", (ROOT / "docs/benchmarks.md").read_text())
    assert sorted(set(PROTOCOLS) - set(linked)) == []
    assert [name for name in linked if not (ROOT / f"docs/results/{name}.md").is_file()] == []


@pytest.mark.parametrize(
    "command",
    ["portcullis adit", "portcullis audit --budgget 5", "python benchmarks/none.py", "portcullis bench run nix"],
)
def test_a_command_that_is_not_there_is_found(command: str) -> None:
    assert commands_of(f"Made by `{command}`.") == [command]
    assert not is_there(command)


def test_the_tutorials_figures_are_those_of_its_benchmark() -> None:
    """`benchmarks/tutorial.py` wrote the file; the page's table says the same."""
    page = (ROOT / "docs" / "tutorial-pipeline.md").read_text()
    for line in (ROOT / "benchmarks" / "results" / "tutorial.txt").read_text().splitlines()[3:]:
        found = re.fullmatch(r"(.{24})(.{10})(\S+(?: \[\S+, \S+\])?)\s*(\S*)\s*(\S*)", line)
        assert found, line
        mean = found[3].replace(" [", "% [") if "[" in found[3] else found[3] + "%"
        assert mean in page, line


def small_adult(folder: Path) -> Path:
    """A table with the tutorial's columns: the incomes of 4,000 made-up people."""
    rng, n = np.random.default_rng(0), 4000
    words = {
        "workclass": 6,
        "education": 12,
        "marital_status": 6,
        "occupation": 12,
        "relationship": 5,
        "race": 4,
        "sex": 2,
    }
    columns = {name: rng.integers(k, size=n) for name, k in (words | {"native_country": 20}).items()}
    age, hours = rng.integers(17, 91, n), rng.integers(1, 100, n)
    gain = np.where(rng.random(n) < 0.9, 0, rng.lognormal(8, 1, n).clip(0, 99_999)).astype(int)
    logit = (columns["education"] - 6) / 3 + gain / 3000 + (hours - 50) / 20 - np.abs(age - 50) / 12 + columns["sex"]
    income = np.where(logit + rng.logistic(size=n) > 1, ">50K", "<=50K")
    named = {name: [f"{name}{code}" for code in codes] for name, codes in columns.items()}
    numbers = {"age": age, "education_num": columns["education"] + 1, "capital_gain": gain,
               "capital_loss": np.where(rng.random(n) < 0.95, 0, 1500), "hours_per_week": hours}  # fmt: skip
    split = np.where(np.arange(n) < 3000, "train", "test")
    pandas.DataFrame(named | numbers | {"income": income, "split": split}).to_csv(folder / "a.csv.gz", index=False)
    return folder / "a.csv.gz"


@pytest.mark.filterwarnings("ignore")  # scikit-learn on a small table
def test_the_tutorials_pipeline_is_taken_as_the_page_says(tmp_path: Path) -> None:
    """The page's own code, on a small table of the same columns; benchmarks/tutorial.py has the full figures."""
    tutorial = runpy.run_path(str(ROOT / "benchmarks" / "tutorial.py"))
    (tmp_path / "made").mkdir()
    experiment = tutorial["pipeline"](small_adult(tmp_path / "made"), tmp_path)
    for decimals in (None, 2):
        agreement, queries = tutorial["theft"](tutorial["ATTACKS"]["equation_solving"], experiment, decimals, 0)
        assert agreement >= 97
        assert queries <= tutorial["BUDGET"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


@pytest.fixture
def dated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time authority that saw everything on 1 January 2026; real tokens are read in tests/court/test_timestamp.py."""
    from portcullis_ml.court import timestamp, verdict

    anchor = timestamp.Anchor(timestamp.read_date("2026-01-01"), 1)
    monkeypatch.setattr(timestamp, "anchored", lambda *_: anchor)
    monkeypatch.setattr(verdict, "anchored", lambda *_: anchor)
    monkeypatch.setattr(timestamp, "roots_in", lambda _: ["a root"])
    monkeypatch.setattr(timestamp, "new_request", lambda _: b"a request")


def test_the_walk_through_of_ownership_does_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dated: None
) -> None:
    """Every command of the page in order, with a server on this machine as the suspect."""
    from tests.gateway.harness import running

    from portcullis_ml.gateway.modelserver import ModelServer

    page = ROOT / "docs" / "tutorial-ownership.md"
    monkeypatch.chdir(tmp_path)
    making, stealing = blocks(page, "python")
    exec(compile(making, page.name, "exec"), {})
    (tmp_path / "authority.pem").touch()
    thief: dict[str, Any] = {}
    exec(compile(stealing, page.name, "exec"), thief)
    mark, date, claim, judge, other = blocks(page, "sh")
    steps(mark + date, "")
    with running(ModelServer(*thief["served"]())) as url:
        steps(claim + judge + other, url)
    verdict = json.loads(Path("judge/portcullis-verify/verdict.json").read_text())
    assert (verdict["verdict"], verdict["evidence"]["n"]) == ("derived", 30)
    assert verdict["evidence"]["p_value"] < 1e-20


def test_the_walk_through_of_text_does_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of the page in order; the last model is asked through a function, as an API is."""
    page = ROOT / "docs" / "privacy" / "text.md"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    making, training, api = blocks(page, "python")
    plant, measure, ask = blocks(page, "sh")
    names: dict[str, Any] = {}
    exec(compile(making, page.name, "exec"), names)
    steps(plant, "")
    exec(compile(training, page.name, "exec"), names)
    steps(measure, "")
    assert "stands" in Path("portcullis-privacy/report.html").read_text()
    Path("api.py").write_text(api)
    steps(ask, "")
    sys.modules.pop("api")
    records = [json.loads(line) for line in Path("portcullis-privacy/records.jsonl").read_text().splitlines()]
    assert [r["outcome"] for r in records] == ["done"] * 3
    assert records[-1]["queries"] == (200 + 40) * 9


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the authority")
def test_who_has_no_time_authority_can_be_one_as_the_page_says(tmp_path: Path) -> None:
    pytest.importorskip("rfc3161_client")
    from portcullis_ml.court.timestamp import anchored, new_request, roots_in

    (authority,) = blocks(ROOT / "docs" / "tutorial-ownership.md", "bash")
    (tmp_path / "mark").mkdir()
    request = new_request(b"a commitment")
    (tmp_path / "mark" / "request.tsq").write_bytes(request)
    for line in authority.splitlines():
        subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, capture_output=True)
    token = (tmp_path / "token.tsr").read_bytes()
    assert anchored(b"a commitment", token, request, roots_in(tmp_path / "authority.pem")).serial > 0


def steps(text: str, url: str) -> None:
    """Run the lines of a page's shell block here; "# exit code N" behind a line says what it ends with."""
    for line in text.splitlines():
        words = shlex.split(line.replace("http://127.0.0.1:9000", url), comments=True)
        code = int(line.rpartition("# exit code ")[2]) if "# exit code " in line else 0
        if words[0] == "cd":
            os.chdir(words[1])
        elif words[0] == "curl":
            Path(words[words.index("-o") + 1]).write_bytes(b"a token")
        elif words[0] in ("cp", "mkdir"):
            subprocess.run(words, check=True)
        else:
            assert words[0] == "portcullis", line
            found = CliRunner().invoke(app, words[1:])
            assert found.exit_code == code, f"{line}\n{found.output}"
