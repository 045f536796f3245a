"""A threshold in a policy's text: changed where it stands, and nothing else.

Every way to write it that is found in the stage is tried, and the one is taken after which the file says what it should
and is otherwise the same.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator

from portcullis_ml.core.errors import InputError

__all__ = ["with_threshold"]

STAGE = re.compile(r"^\s*\[\[\s*guard\s*\]\]", re.M)
GIVEN = re.compile(r"(\bthreshold\s*=\s*)[-+\w.]+")
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
