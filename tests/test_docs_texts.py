"""The page on texts: its blocks run in their order, and what they say is the model's own."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from portcullis_ml.cli.app import app

pytest.importorskip("skops")
PAGE = Path(__file__).parents[1] / "docs" / "texts.md"


def test_the_blocks_of_the_page_on_texts_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    made: dict[str, Any] = {}
    outputs = []
    for language, block in re.findall(r"```(python|sh)\n(.*?)```", PAGE.read_text(), re.S):
        if language == "python":
            exec(compile(block, PAGE.name, "exec"), made)
            continue
        result = CliRunner().invoke(app, shlex.split(block)[1:])
        assert result.exit_code == 0, result.output
        outputs.append(result.stdout)
    sys.modules.pop("service", None)
    right = made["model"].score(made["texts"][100:200], made["labels"][100:200])
    assert len(outputs) == 4
    assert all(f"{right:.1%} of 100 test rows" in outputs[i] for i in (0, 1, 3))
    assert (tmp_path / "portcullis-audit" / "report.html").exists()
