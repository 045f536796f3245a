"""The policy that an audit writes: observed, with clients told apart, and no alarm that acts on a guess."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.report import write_with_key
from portcullis_ml.report.policy import policy_text

WATCH = """\
[[guard]]
unit = "watch"
detector = { unit = "DETECTOR", threshold = 4.0 }
then = { unit = "block", reason = "# of questions" }

[[guard]]
unit = "rounding"
decimals = 1"""


def seen(*shape: int) -> dict[str, Any]:
    return {"input_shape": list(shape), "n_classes": 3}


@pytest.mark.parametrize(
    ("detector", "shape", "then"),
    [
        ("prada", (20,), "log"),
        ("prada_normality", (20,), "log"),
        ("prada", (28, 28), "block"),
        ("prada_normality", (3, 32, 32), "block"),
        ("low_confidence", (28, 28), "log"),
    ],
)
def test_a_watch_only_logs_where_its_default_is_not_known_to_hold(
    detector: str, shape: tuple[int, ...], then: str
) -> None:
    text = policy_text(WATCH.replace("DETECTOR", detector), "a model", seen(*shape), "# head")
    tree = tomllib.loads(text)
    assert [stage["unit"] for stage in tree["guard"]] == ["watch", "rounding"]
    assert tree["guard"][0]["then"]["unit"] == then
    assert tree["guard"][0]["detector"] == {"unit": detector, "threshold": 4.0}
    assert ("only logs until its threshold fits your own clients" in text) == (then == "log")
    assert 'unit = "block", reason = "# of questions"' in text


def test_a_watch_without_a_consequence_would_block_and_logs_first() -> None:
    stage = '[[guard]]\nunit = "watch"\ndetector = {unit = "coverage", evaluation = "set"}\n'
    text = policy_text(f"{stage}\n# or\n{stage}", "a model", seen(4), "# head")
    assert [watch["then"] for watch in tomllib.loads(text)["guard"]] == [{"unit": "log"}] * 2


def test_the_policy_is_observed_and_asks_for_a_name_of_every_client(tmp_path: Path) -> None:
    text = policy_text(WATCH.replace("DETECTOR", "prada"), "a model", seen(20), "# head")
    tree = tomllib.loads(text)
    assert tree["mode"] == "observe"
    assert "each needs a name of its own" in text
    assert text.index("# key = [") < text.index('anonymous = "shared"')
    assert tomllib.loads(text.replace("# key", "key"))["clients"]["key"][0]["client"] == "alice"
    write_with_key(text, tmp_path / "portcullis.toml")
    said = CliRunner().invoke(app, ["check", str(tmp_path / "portcullis.toml")]).output.replace("\n", " ")
    assert "Decisions are observed only" in said
    assert "watches with prada, which has not been calibrated on your own traffic" in said
    assert "Everyone without a name is one client" in said
