from dataclasses import dataclass

import pytest

from portcullis_ml.catalog import Catalog, resolve
from portcullis_ml.core.errors import InputError, MissingExtra, ParameterError
from portcullis_ml.core.settings import check, describe
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction import CATALOG as ATTACKS


@dataclass(frozen=True, kw_only=True)
class Thing:
    size: int = 3
    inner: object = None

    def __post_init__(self) -> None:
        check(self, "size", "an int in [0, 12]", lambda v: 0 <= v <= 12)


ME = "tests.core.test_settings:Thing"
THINGS = Catalog("things", {"thing": f"{__name__}:Thing"})


@pytest.mark.parametrize("bad", [-1, 13, "many", None, float("nan")])
def test_check_names_the_setting_the_expectation_and_the_value(bad: object) -> None:
    with pytest.raises(ParameterError, match=r"Thing.size must be an int in \[0, 12\]; got"):
        Thing(size=bad)  # type: ignore[arg-type]


def test_a_unit_survives_describe_and_build() -> None:
    unit = Thing(size=5, inner=Thing(size=1))
    assert THINGS.build(describe(unit)) == unit


@pytest.mark.parametrize(
    ("text", "decimals"), [("rounding", None), ("rounding(decimals=3)", 3), (" rounding ( decimals = 3 )", 3)]
)
def test_units_are_written_as_words(text: str, decimals: int | None) -> None:
    unit = DEFENSES.build(text)
    assert type(unit).__name__ == "Rounding"
    assert decimals is None or unit.decimals == decimals


def test_nested_units_are_written_as_words() -> None:
    watch = DEFENSES.build("watch(detector=prada(threshold=7), then=label_only)")
    assert watch.detector.threshold == 7
    assert type(watch.then).__name__ == "LabelOnly"
    assert DEFENSES.build(describe(watch)) == watch


@pytest.mark.parametrize("text", ["rounding(", "rounding(2)", "rounding(**x)", "rounding(decimals=__import__('os'))"])
def test_only_literals_and_units_are_read(text: str) -> None:
    with pytest.raises(ParameterError):
        DEFENSES.build(text)


def test_a_setting_that_is_a_word_needs_no_quotes() -> None:
    bare, quoted = (ATTACKS.build(f"retraining(strategy={w})") for w in ("line_search", "'line_search'"))
    assert bare == quoted
    with pytest.raises(ParameterError, match=r"Retraining.strategy must be"):
        ATTACKS.build("retraining(strategy=sideways)")


def test_a_wrong_name_offers_the_nearest() -> None:
    with pytest.raises(ParameterError, match=r"Did you mean rounding"):
        DEFENSES.load("roundin")


PRESET = Catalog("things", {"thing": f"{__name__}:Thing"}, presets={"large": "thing(size=12, inner=rounding)"})


def test_a_preset_is_a_name_for_an_entry_with_settings() -> None:
    assert PRESET.build("large") == PRESET.build({"unit": "large"}) == PRESET.build("thing(size=12, inner=rounding)")
    assert PRESET.build(" large (size=11)") == PRESET.build("thing(size=11, inner=rounding)")
    assert list(PRESET) == ["thing"]


def test_presets_are_offered_for_a_wrong_name() -> None:
    with pytest.raises(ParameterError, match=r"Did you mean large\?"):
        PRESET.build("larg")
    with pytest.raises(ParameterError, match=r"Did you mean large or thing\?"):
        PRESET.build("xyz")


def test_a_wrong_setting_lists_the_right_ones() -> None:
    with pytest.raises(ParameterError, match="decimals"):
        DEFENSES.build("rounding(digits=2)")


def test_resolve_says_what_is_missing() -> None:
    with pytest.raises(InputError, match="no module 'nowhere'"):
        resolve("nowhere:Thing")
    with pytest.raises(InputError, match="has no 'Nothing'"):
        resolve("portcullis_ml.core.types:Nothing")


def test_an_absent_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "wants_skops.py").write_text("import skops.nothing_of_this_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtra, match=r"pip install '\.\[audit\]'"):
        resolve("wants_skops:Thing")


def test_describe_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(ParameterError, match="a number, text"):
        describe(Thing(inner=object()))


def test_a_unit_is_found_under_the_packages_former_name():
    assert DEFENSES.load("portcullis.defenses.rounding:Rounding") is DEFENSES.load("rounding")


def test_a_setting_without_a_default_that_is_not_given_is_named():
    with pytest.raises(ParameterError, match=r"prediction_poisoning\.surrogate must be given"):
        DEFENSES.build("prediction_poisoning(eps=0.5)")


@pytest.mark.parametrize("thing", [DEFENSES.load("rounding"), object(), "rounding"])
def test_only_a_unit_is_described(thing: object) -> None:
    with pytest.raises(ParameterError, match="a unit: an instance"):
        describe(thing)
