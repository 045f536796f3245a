"""The protocols on models of text, on a small text."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portcullis_ml.bench.protocols import PROTOCOLS, canaries, memorization
from portcullis_ml.bench.protocols.plans import Run

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    words = ["king", "lord", "night", "house", "love", "Death"]
    (place / "play.txt").write_text("\n\n".join(" ".join(rng.choice(words, 9)) for _ in range(80)))
    return place


def plan_of(name: str, **changes: Any) -> dict[str, Any]:
    text = (resources.files("portcullis_ml.bench.protocols") / f"{name}.toml").read_text()
    return {**tomllib.loads(text), "data": "play", "characters": 2_000, "repetitions": 2, **changes}


SMALL = {"network": "gru", "units": 16, "window": 16}


@pytest.mark.parametrize(
    ("name", "protocol", "changes", "lines"),
    [
        (
            "canaries", canaries,
            {
                "points": [1, 2], "never": 4, "canaries": {"1": 2, "8": 2}, "network": {"toy": SMALL},
                "attack": {"unit": "canaries", "length": 4, "references": 100},
            },
            {"never": "| 8 |", "8": "| 4 |"},
        ),
        (
            "memorization", memorization,
            {
                "secrets": {"8": 2}, "words": 3, "notices": 3, "dashes": 2, "run": 5,
                "network": {"toy": {n: {**SMALL, "epochs": 1} for n in ("victim", "small", "medium")}},
                "less": {"toy": {"samples": 15}},
                "attack": {"unit": "memorization", "samples": 20, "length": 20, "prompt": 5},
            },
            {**dict.fromkeys(("perplexity", "small", "medium", "zlib", "lowercase", "window"), "|"), "8": "| 4 |"},
        ),
    ],
)  # fmt: skip
def test_a_protocol_prints_its_tables_and_runs_nothing_twice(
    name: str, protocol: Any, changes: dict[str, Any], lines: dict[str, str], folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    plan = plan_of(name, **changes)
    text = protocol.play(plan, Run(out=tmp_path, data=str(folder), jobs=0))
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("| ")}
    for head, part in lines.items():
        assert part in rows[head]
    assert "Not measured" not in text
    monkeypatch.setattr(protocol, "work", lambda *a, **k: pytest.fail("a finished cell was run again"))
    assert protocol.play(plan, Run(out=tmp_path, data=str(folder), jobs=0)) == text
    assert PROTOCOLS.load(name)


@pytest.mark.parametrize("name", ["canaries", "memorization"])
def test_the_quick_look_changes_settings_that_are_there(name: str) -> None:
    plan = plan_of(name)
    assert plan["quick"]["changes"].keys() <= plan.keys()
