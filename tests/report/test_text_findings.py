"""The answer of `portcullis privacy --text` in words: what counts as clear, and what is said where nothing does."""

from __future__ import annotations

import pytest

from portcullis_ml.report.text_findings import exposures, precisions, text_findings, worst_exposure

META = {"match": 50}
NOTHING = {0: (1.4, 0.9, 1.9)}


def found(value: float, low: float, high: float, n: int = 20) -> dict:
    return {"value": value, "low": low, "high": high, "n": n}


def canaries(means: dict[int, tuple[float, float, float]]) -> dict:
    measures = {}
    for times, mean in means.items():
        for way in ("by_extrapolation", "by_sampling"):
            measures[f"exposure_{way}_{times}"] = found(*mean)
    return record("canaries", measures, {"null": 1.4427, "secrets": 29.9})


def samples(strategy: str, **shares: tuple[float, float, float]) -> dict:
    measures = {f"{ranking}_100": found(*share, n=100) for ranking, share in shares.items()}
    kept = {ranking: [] for ranking in shares}
    attack = {"unit": "memorization", "strategy": strategy}
    return record("memorization", {**measures, "all": found(0.01, 0, 0.02)}, {"kept": kept}, attack)


def record(name: str, measures: dict, notes: dict, attack: dict | None = None) -> dict:
    return {
        "attack": name, "cell": {"attack": attack or {"unit": name}}, "measures": measures, "notes": notes,
        "outcome": "done", "reason": "",
    }  # fmt: skip


def test_the_fewest_repetitions_that_are_clear_are_told_and_the_strongest_beside_them():
    said = text_findings([canaries({**NOTHING, 1: (2, 1, 3), 2: (8, 6, 10), 4: (20, 18, 22)})], META)
    assert said.headline == (
        "A secret that stands twice in the text is among the likeliest 1 in 256 [64,\N{NO-BREAK SPACE}1,024] of its "
        "form to whoever asks the model; by chance it would be 1 in 3."
    )
    assert said.lead.startswith(
        "That is 8.0 [6.0,\N{NO-BREAK SPACE}10.0] bits in the mean of 20 canaries; 20.0 [18.0,\N{NO-BREAK SPACE}22.0] "
        "where they stand 4 times. With 29.9 bits nothing is left to guess."
    )


def test_all_of_a_secret_is_told_as_such():
    said = text_findings([canaries({**NOTHING, 1: (31, 28, 34)})], META)
    assert said.headline.startswith("A secret that stands once in the text is the likeliest of all 1,001,836,546")


def test_what_canaries_that_were_never_planted_show_too_is_no_finding():
    means = {0: (4.0, 3.0, 5.0), 1: (3.5, 2.5, 4.5)}
    assert text_findings([canaries(means)], META).headline.startswith("No planted secret clearly stands out")
    assert text_findings([canaries({**means, **NOTHING})], META).headline.startswith("A secret that stands once")


def test_the_best_ranking_is_told_with_how_many_were_tried():
    drawn = [samples("top", zlib=(0.4, 0.3, 0.5), window=(0.1, 0, 0.2)), samples("prompts", zlib=(0.2, 0.1, 0.3))]
    assert text_findings(drawn, META).headline == (
        "Of the 100 samples that look most like training text, 40% [30,\N{NO-BREAK SPACE}50] repeat 50 characters or "
        "more of a single document: drawn by top and ranked by zlib, the best of 3 rankings."
    )
    nothing = [samples("top", zlib=(0, 0, 0.04))]
    assert text_findings(nothing, META).headline.endswith("none repeats 50 characters or more of a single document.")


def test_where_nothing_was_measured_the_reasons_are_told():
    failed = {**record("canaries", {}, {}), "outcome": "not applicable", "reason": "canaries needs a text."}
    said = text_findings([failed], META)
    assert (said.headline, said.lead) == ("Nothing could be measured on this model.", "canaries needs a text.")
    assert worst_exposure([failed]) is None
    assert exposures([failed]) == []
    assert precisions([failed])[1] == []


def test_the_worst_exposure_is_that_of_planted_canaries():
    assert worst_exposure([canaries({0: (9, 8, 10), 1: (2, 1, 3), 8: (7, 6, 8)})]) == (8, pytest.approx(7))
