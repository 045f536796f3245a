"""Text as documents, and strings planted in it.

    NAME        NAME.txt in the folder given, or in $PORTCULLIS_DATA
    PATH.txt    that file, UTF-8

Documents are what empty lines separate.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from portcullis_ml.core.errors import InputError

__all__ = ["load_documents", "plant"]

LIMIT = 256 * 2**20  # bytes


def load_documents(name: str, folder: str | Path | None = None, *, limit: int = LIMIT) -> list[str]:
    """The documents of a text. InputError where there is none, or nothing in it."""
    given = folder or os.environ.get("PORTCULLIS_DATA")
    path = Path(name) if name.endswith(".txt") else Path(given or ".") / f"{name}.txt"
    if not path.is_file():
        raise InputError(f"A text was expected at {path}; there is no such file. Name another, or its folder.")
    if path.stat().st_size > limit:
        raise InputError(f"A text of at most {limit:,} bytes was expected; {path} has {path.stat().st_size:,}.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"A text in UTF-8 was expected; {path} is not, at byte {error.start}.") from error
    documents = [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]
    if not documents:
        raise InputError(f"A text was expected; {path} is empty.")
    return documents


def plant(documents: Sequence[str], planted: Mapping[str, int], *, rng: np.random.Generator) -> list[str]:
    """The documents with each string as so many further documents, in random places.

    InputError where a string stands in the documents already: what is found of it would say nothing.
    """
    known = [text for text in planted if any(text in document for document in documents)]
    if known:
        raise InputError(
            f"Strings to plant were expected to be new; {known[0]!r} stands in the text already. Draw another."
        )
    new = [text for text, times in planted.items() for _ in range(times)]
    whole = [*documents, *new]
    places = np.concatenate([np.arange(len(documents)), rng.uniform(-0.5, len(documents) - 0.5, len(new))])
    return [whole[i] for i in np.argsort(places, kind="stable")]
