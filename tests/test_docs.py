"""The docs say what the code does: generated pages are fresh, links lead somewhere, figures have their commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
