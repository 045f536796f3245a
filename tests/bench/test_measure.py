"""By which measure a verdict goes: by how the victim's classes share the rows, by request, and with older records."""

from typing import Any

import pytest

from portcullis_ml.bench.measure import FEW, checked_measure, measure_of
from portcullis_ml.core.errors import InputError, ParameterError

ALL = ("agreement", "balanced_agreement", "rank_correlation", "auc_agreement")


def graded(constant: float, n: int = 1000, names: tuple[str, ...] = ALL, **changes: Any) -> dict[str, Any]:
    e = {"value": 0.9, "low": 0.8, "high": 0.95, "n": n, "level": 0.95, "unit": "rows"}
    measures = dict.fromkeys(names, e) | {"constant": e | {"value": constant}}
    return {"role": "attack", "outcome": "done", "measures": measures, "notes": {}, **changes}


def chosen(constant: float, n_classes: int = 2, **changes: Any) -> dict[str, str]:
    found = measure_of([graded(constant, **changes)], None, n_classes)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("constant", "n_classes", "name"),
    [
        (0.5, 2, "agreement"),
        (0.66, 2, "agreement"),
        (0.67, 2, "balanced_agreement"),
        (0.11, 10, "agreement"),
        (0.39, 10, "agreement"),
        (0.41, 10, "balanced_agreement"),
        (1 - FEW / 1000, 2, "balanced_agreement"),
        (1 - (FEW - 1) / 1000, 2, "rank_correlation"),
        (1.0, 2, "rank_correlation"),
    ],
)
def test_the_measure_goes_by_how_the_victims_classes_share_the_rows(constant: float, n_classes: int, name: str) -> None:
    assert chosen(constant, n_classes)["name"] == name


def test_the_reason_names_the_class_and_its_share() -> None:
    control = graded(0.8, role="control", notes={"victim": [0, 0, 0, 0, 1]})
    found = measure_of([graded(0.8), control], None, 2, ("repaid", "lost"))
    assert found is not None
    assert found["why"].startswith("Your model gives 80% of the test rows the class 'repaid', so plain agreement would")
    assert "that is most frequent" in chosen(0.8)["why"]


def test_records_from_before_a_measure_was_there_are_compared_by_agreement() -> None:
    """A run that is resumed may hold both; one measure must hold for all of them."""
    found = measure_of([graded(0.8), graded(0.8, names=("agreement",))], None, 2)
    assert found is not None
    assert found["name"] == "agreement"
    assert "from before it was measured. (1 of 2)" in found["why"]


def test_a_measure_that_was_asked_for_holds_for_every_copy_or_is_an_error() -> None:
    found = measure_of([graded(0.5)], "rank_correlation", 2)
    assert found == {"name": "rank_correlation", "why": "It was asked for with --measure."}
    with pytest.raises(InputError, match=r"1 of 2 have none.*another --out"):
        measure_of([graded(0.5), graded(0.5, names=("agreement",))], "rank_correlation", 2)
    with pytest.raises(ParameterError, match="--measure"):
        checked_measure("rank")


def test_nothing_is_chosen_where_nothing_was_graded() -> None:
    assert measure_of([], None, 2) is None
    assert measure_of([graded(0.5, names=("r2",))], None, 2) is None
    assert measure_of([graded(0.5, role="honest")], None, 2) is None
