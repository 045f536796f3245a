"""A threshold or a quota in a policy's text: changed where it stands, and nothing else.

Every way to write it that is found in the stage is tried, and the one is taken after which the file says what it should
and is otherwise the same.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator

from portcullis_ml.core.errors import InputError

__all__ = ["with_quota", "with_threshold"]

STAGE = re.compile(r"^\s*\[\[\s*guard\s*\]\]", re.M)
GIVEN = re.compile(r"(\bthreshold\s*=\s*)[-+\w.]+")
ROWS = re.compile(r"^(\s*rows\s*=\s*)[\d_]+.*$", re.M)
TABLE = re.compile(r"^\s*\[\s*guard\.detector\s*\].*$", re.M)


def with_threshold(text: str, stage: int, threshold: float) -> str:
    """The policy's text with this threshold for the detector of stage number `stage`, the first being 0.

    InputError where it cannot be written without changing more; the text is TOML that has such a stage."""
    wanted = copy.deepcopy(tomllib.loads(text))
    wanted["guard"][stage]["detector"]["threshold"] = threshold
    for changed in _ways(text, stage, repr(threshold)):
        try:
            if tomllib.loads(changed) == wanted:
                return changed
        except tomllib.TOMLDecodeError:
            continue
    raise InputError(
        f"The threshold of stage {stage + 1} cannot be written into this policy without changing more of it. Write "
        f"threshold = {threshold!r} into its detector by hand."
    )


def with_quota(text: str, rows: int, per: int, comment: str) -> str:
    """The policy's text with a quota of so many rows in `per` seconds: that of the same window changed, or a new first
    stage. `comment` stands above it, line by line. InputError where it cannot be written without changing more."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"The policy is no TOML: {error}. Mend it first; portcullis check names the line.") from error
    stages = tree.get("guard", [])
    same = [i for i, s in enumerate(stages) if s.get("unit") == "quota" and s.get("per", 86_400) == per]
    said = "".join(f"# {line}\n" for line in comment.splitlines())
    heads = [found.start() for found in STAGE.finditer(text)]
    wanted = copy.deepcopy(tree)
    if same:
        wanted["guard"][same[0]]["rows"] = rows
        begin, end = ([*heads, len(text), len(text)][i] for i in (same[0], same[0] + 1))
        ways = [f"{text[: m.start()]}{m[1]}{rows}{text[m.end() :]}" for m in ROWS.finditer(text, begin, end)]
        ways = [f"{changed[:begin]}\n{said}{changed[begin:].lstrip()}" for changed in ways]
    else:
        wanted["guard"] = [{"unit": "quota", "rows": rows, "per": per}, *stages]
        at = heads[0] if heads else len(text)
        stage = f'{said}[[guard]]\nunit = "quota"\nrows = {rows}\nper = {per}\n'
        ways = [f"{text[:at].rstrip()}\n\n{stage}\n{text[at:].lstrip()}".rstrip() + "\n"]
    for changed in ways:
        if tomllib.loads(changed) == wanted:
            return changed
    raise InputError(
        f"The quota cannot be written into this policy without changing more of it. Write rows = {rows} and "
        f"per = {per} into its quota by hand."
    )


def _ways(text: str, stage: int, threshold: str) -> Iterator[str]:
    """The text with a threshold changed or added in this stage, at every place where one could stand."""
    heads = [found.start() for found in STAGE.finditer(text)]
    begin, end = (heads[stage], [*heads, len(text)][stage + 1]) if stage < len(heads) else (0, len(text))
    for found in GIVEN.finditer(text, begin, end):
        yield text[: found.start()] + found[1] + threshold + text[found.end() :]
    for found in TABLE.finditer(text, begin, end):
        yield f"{text[: found.end()]}\nthreshold = {threshold}{text[found.end() :]}"
    for at in (i for i in range(begin, end) if text[i] == "}"):
        yield f"{text[:at].rstrip()}, threshold = {threshold} {text[at:]}"
