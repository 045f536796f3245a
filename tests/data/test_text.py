"""Documents of a text, and strings planted among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError
from portcullis_ml.data.text import load_documents, plant


def test_documents_are_what_empty_lines_separate(tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text("one\ntwo\n\n \nthree\n\n")
    assert load_documents("play", tmp_path) == ["one\ntwo", "three"]
    assert load_documents(str(tmp_path / "play.txt")) == ["one\ntwo", "three"]


@pytest.mark.parametrize(
    ("content", "match"), [(b"\n \n", "is empty"), (b"a\xff", "not, at byte 1"), (b"a" * 99, "at most 50 bytes")]
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "play.txt").write_bytes(content)
    with pytest.raises(InputError, match=match):
        load_documents("play", tmp_path, limit=50)


def test_a_text_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        load_documents("play", tmp_path)


def test_planted_strings_are_further_documents_in_places_of_their_own() -> None:
    documents = [f"d{i}" for i in range(20)]
    whole = plant(documents, {"one": 1, "three": 3}, rng=np.random.default_rng(0))
    assert [text for text in whole if text in documents] == documents
    assert (whole.count("one"), whole.count("three")) == (1, 3)
    assert whole[:20] != documents


def test_a_string_that_stands_in_the_text_already_cannot_be_planted() -> None:
    with pytest.raises(InputError, match="'code 12' stands in the text already"):
        plant(["the code 12345"], {"code 12": 1}, rng=np.random.default_rng(0))
