"""Canaries beside a text: drawn, planted, counted, written and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from portcullis_ml.bench.planted import PlantedCanaries, canary_file, write_planted
from portcullis_ml.core.errors import InputError
from portcullis_ml.data.text import load_documents
from portcullis_ml.sequences.canaries import Canaries

FORM = Canaries(prefix="code ", length=5, references=200)
DOCUMENTS = [f"document {i} of the house" for i in range(20)]


def drawn(documents: list[str] = DOCUMENTS, seed: int = 0) -> tuple[PlantedCanaries, list[str]]:
    return PlantedCanaries.drawn(FORM, documents, (1, 3), 2, rng=np.random.default_rng(seed))


def test_each_number_of_repetitions_has_as_many_canaries_and_the_rest_is_left_out() -> None:
    canaries, whole = drawn()
    assert canaries.counted(whole).tolist() == [1, 1, 3, 3, 0, 0, 0, 0]
    assert [d for d in whole if d in DOCUMENTS] == DOCUMENTS


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    canaries, whole = drawn()
    text, beside = write_planted(canaries, whole, tmp_path / "planted.txt")
    assert load_documents(str(text)) == whole
    assert beside == canary_file(text)
    measured = PlantedCanaries.read(beside, Canaries(references=500))
    assert measured == PlantedCanaries(Canaries(prefix="code ", length=5, references=500), canaries.texts)
    with pytest.raises(InputError, match="is there already, and canaries are drawn once"):
        write_planted(canaries, whole, text)


def test_canaries_that_stand_there_already_are_refused() -> None:
    never = drawn()[0].texts[-1]
    with pytest.raises(InputError, match="stands in the text already"):
        drawn([*DOCUMENTS, never])


def test_a_text_without_a_canary_is_refused() -> None:
    with pytest.raises(InputError, match="none of the 8 stands in it"):
        drawn()[0].counted(DOCUMENTS)


@pytest.mark.parametrize("content", ["{", "[]", '{"canaries": {}}', '{"canaries": {"prefix": "a"}, "texts": ["a"]}'])
def test_a_file_that_holds_no_canaries_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "planted.canaries.json"
    path.write_text(content)
    with pytest.raises(InputError, match="as `portcullis privacy --plant` writes them"):
        PlantedCanaries.read(path, FORM)


def test_a_canary_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "planted.canaries.json"
    path.write_text('{"canaries": {"prefix": "a", "symbols": "01", "length": 2}, "texts": ["a01", "a01"]}')
    with pytest.raises(InputError, match="it has none, or one twice"):
        PlantedCanaries.read(path, FORM)
