"""Write the pages of docs/ that follow from the code: catalog, flags, command line, curves of the attacks.

python scripts/generate_docs.py           writes them
python scripts/generate_docs.py --check   exits with 1 where one is stale (a test runs this)
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from attack_curves import measured

from portcullis_ml.bench.flags import FLAGS
from portcullis_ml.catalog import FACTS, Catalog, resolve
from portcullis_ml.cli.listing import WINGS as CATALOGS

DOCS = Path(__file__).parent.parent / "docs"
WINGS = {
    "extraction": "Extraction attacks",
    "defenses": "Defenses",
    "detectors": "Detectors",
    "explainers": "Explainers",
    "recipes": "Recipes",
    "hardening": "Hardening",
    "ownership": "Ownership",
    "privacy": "Privacy attacks",
    "sequences": "Attacks on models of text",
    "hidden_data": "Data hidden in models",
}
HEAD = "<!-- Written by scripts/generate_docs.py. Change the code, then run `make docs`. -->\n\n"
VERBS = [
    "audit",
    "plan",
    "inspect",
    "extract",
    "privacy",
    "screen",
    "prepare",
    "serve",
    "check",
    "calibrate",
    "replay",
    "demo",
    "list",
    *(
        f"watermark {verb}"
        for verb in ("keygen", "mint", "embed", "commit", "bundle", "innocents", "trace", "rotate", "list")
    ),
    "verify",
    "bundle",
    "verify-results",
    *(f"keys {verb}" for verb in ("make", "list", "rotate", "revoke")),
    "bench",
    "bench leaderboard",
]


def catalog() -> str:
    parts = [
        "# Catalog\n\nEvery unit by name: the file, the word on the command line and the label in reports.\n\n"
        + units()
    ]
    for wing, title in WINGS.items():
        entries: Catalog = resolve(CATALOGS[wing])
        if entries:
            parts.append(f"\n## {title}\n")
        parts.append(tried_by_default(entries))
        for name in entries:
            parts.append(unit(name, entries.load(name), entries[name]))
    return HEAD + "".join(parts)


def tried_by_default(entries: Catalog) -> str:
    """The table of what an audit tries where nobody names a unit of this wing."""
    if not entries.defaults:
        return ""
    rows = [
        f"| {d.kind} | `{d.word}` | {', '.join(f'*{fact}*' for fact in d.where) or 'always'} |"
        for d in entries.defaults
    ]
    used = sorted({fact.removeprefix("no ") for d in entries.defaults for fact in d.where})
    meaning = "; ".join(f"*{fact}*: {FACTS[fact]}" for fact in used)
    head = "\nAn audit without names tries one of every kind, the first whose conditions hold:\n\n"
    return head + "\n".join(["| kind | unit | where |", "| --- | --- | --- |", *rows]) + f"\n\n{meaning}.\n"


def unit(name: str, cls: Any, path: str) -> str:
    module = sys.modules[path.partition(":")[0]]
    text = inspect.getdoc(module) or ""
    lines = [f"\n### {name}\n\n{cleaned(text)}\n"]
    settings = [setting for setting in fields(cls) if setting.init]
    if settings:
        lines.append("\n| setting | default | meaning |\n| --- | --- | --- |\n")
        source = inspect.getsource(cls)
        for setting in settings:
            found = re.search(rf"^    {setting.name}: [^\n#]*?(?:#\s*(.*))?$", source, re.M)
            meaning = (found.group(1) or "") if found else ""
            default = "required" if setting.default is MISSING else f"`{setting.default!r}`"
            if setting.default_factory is not MISSING:
                default = f"`{setting.default_factory.__name__}()`"
            lines.append(f"| `{setting.name}` | {default} | {meaning} |\n")
    return "".join(lines)


def cleaned(text: str) -> str:
    """The docstring as Markdown: aligned paragraphs ("Threat model   ...") become a code block, others stay prose."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(f"```\n{p}\n```" if re.search(r"\S {3,}\S", p) else p for p in paragraphs).replace("<", "&lt;")


def flags() -> str:
    parts = ["# Flags\n\nWhat the report warns of: anything that flatters a defense or overstates a claim.\n"]
    for name, flag in FLAGS.items():
        parts.append(
            f"\n## {name}\n\n*{flag.title}.*\n\n- **Raised if** {flag.raised_if}.\n- **Why it matters** {flag.why}\n"
            f"- **What to do** {flag.what_to_do}\n"
        )
    return HEAD + "".join(parts)


def command_line() -> str:
    os.environ |= {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "_TYPER_FORCE_DISABLE_TERMINAL": "1"}
    from typer.testing import CliRunner

    from portcullis_ml.cli.app import app

    parts = ["# The command line\n"]
    for verb in VERBS:
        shown = CliRunner().invoke(app, [*verb.split(), "--help"], prog_name="portcullis", terminal_width=100)
        # The default of --jobs is this machine's number of cores, which is no business of the page.
        output = re.sub(r"(Processes at work.*?)\[default: (\d+)\]", lambda m: m[0].replace(m[2], "N"), shown.output)
        text = "\n".join(line.rstrip() for line in output.strip("\n").splitlines())
        parts.append(f"\n## portcullis {verb}\n\n```\n{text}\n```\n")
    return HEAD + "".join(parts)


def curves() -> str:
    return HEAD.replace("Change the code", "Run a protocol, keep its records") + measured()


def units() -> str:
    """All units by name, one row for each wing."""
    rows = ["| | units |", "| --- | --- |"]
    for wing, title in WINGS.items():
        names = ", ".join(f"[{name}](#{name})" for name in resolve(CATALOGS[wing]))
        if names:
            rows.append(f"| {title} | {names} |")
    return "\n".join(rows) + "\n"


PAGES = {
    "attacks/measured.md": curves,
    "catalog.md": catalog,
    "flags.md": flags,
    "cli.md": command_line,
}


def main() -> int:
    stale = []
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text)
    if stale:
        print(("stale: " if "--check" in sys.argv else "written: ") + ", ".join(stale))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
