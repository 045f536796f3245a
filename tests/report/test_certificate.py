"""The certificate: the verdict in words first, every check with its result, and nothing beyond the verdict."""

from __future__ import annotations

import copy
from html.parser import HTMLParser
from typing import Any

import pytest

from portcullis_ml.report.certificate import certificate, fewest

VERDICT: dict[str, Any] = {
    "verdict": "derived",
    "sentence": "The suspect descends from the committed model: 19 of 20 marked questions are answered as marked "
    "(p = 1.4e-18).",
    "anchor": {"at": "2026-01-01T00:00:00+00:00", "serial": 7},
    "evidence": {
        "matches": 19, "n": 20, "null": "an innocent model answers a marked question as marked with chance 0.1",
        "p_value": 1.4e-18, "accused": 0, "tried": 3, "queries": 25, "level": 1e-3, "lacking": "",
        "assumed": ["The answers of the key were drawn uniformly."],
        "notes": {"null_chance": 0.1, "innocent_shares": [0.05, 0.1, 0.15]}, "verdict": "derived",
    },
    "bundle": "b" * 64, "commitment": "c" * 64, "scheme": "backdoor", "suspect": "http://127.0.0.1:9000",
    "nonce": "9f2c61d4", "pairs_shown": 20, "pairs_committed": 90, "suspect_asked": "http://127.0.0.1:9000",
    "authorized_by": "the court", "signature": {"key": "5" * 64, "named": True},
    "checked_at": "2026-03-01T10:00:00+00:00", "program": "portcullis 0.2",
}  # fmt: skip


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(VERDICT), **changes}


class Balance(HTMLParser):
    """Which elements stand open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def test_a_conviction_shows_what_it_rests_on() -> None:
    page = certificate(VERDICT)
    balance = Balance()
    balance.feed(page)
    assert not balance.open
    assert "<h1>The suspect descends from the committed model.</h1>" in page
    assert "19 of 20 marked questions are answered as marked" in page
    assert page.count("holds</td>") == 3
    assert f"by the key that the verifier named, {'5' * 64}" in page
    assert "a key that the verifier did not name" in certificate(changed(signature={"key": "5" * 64, "named": False}))
    assert "the bundle does not say whose it is" in certificate(changed(signature=None))
    assert "--share:95.0%" in page
    assert f"--share:{100 * fewest(20, 0.1, 1e-3) / 20:.1f}%" in page
    assert "0 of 3 innocent models accused" in page
    for said in (
        "The answers of the key were drawn uniformly.",
        "2026-01-01 00:00:00 UTC",
        "b" * 64,
        "c" * 64,
        "the court",
    ):
        assert said in page
    assert "http-equiv" not in page
    assert "<script" not in page
    assert "src=" not in page


def test_the_fewest_matches_that_convict_are_the_fewest() -> None:
    from scipy.stats import binom

    needed = fewest(20, 0.1, 1e-3)
    assert needed is not None
    assert binom.sf(needed - 1, 20, 0.1) < 1e-3 <= binom.sf(needed - 2, 20, 0.1)
    assert fewest(2, 0.5, 1e-3) is None


@pytest.mark.parametrize(
    ("word", "sentence", "headline", "result"),
    [
        (
            "false",
            "The claim does not hold: The bundle opens no pair.",
            "The claim does not hold.",
            "one does not hold",
        ),
        ("unanchored", "The claim is unanchored, and so not valid. No token.", "not valid.", "not before the suspect"),
    ],
)
def test_a_claim_that_fails_convicts_nobody(word: str, sentence: str, headline: str, result: str) -> None:
    page = certificate(changed(verdict=word, sentence=sentence, evidence=None, anchor=None))
    assert f"{headline}</h1>" in page
    assert f"{result}</td>" in page
    assert "not reached</td>" in page
    assert "descends" not in page
    assert "The answers</h2>" not in page


def test_a_bundle_that_could_not_be_read_has_a_certificate_too() -> None:
    page = certificate({"verdict": "false", "sentence": "The claim does not hold: Line 2 of the log is cut."})
    assert "Line 2 of the log is cut." in page


def test_what_a_bundle_says_is_no_html() -> None:
    page = certificate(changed(suspect="<script>alert(1)</script>", nonce='"><img src=x>'))
    assert "<script" not in page
    assert "<img" not in page


def test_the_release_stands_beside_the_date_that_it_was_held_against() -> None:
    page = certificate(changed(released="2026-02-01T00:00:00+00:00"))
    assert "committed to on or before 2026-01-01 00:00:00 UTC; suspect released on 2026-02-01 00:00:00 UTC" in page
