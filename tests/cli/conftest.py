"""Every test of the command line has a folder of its own, a cache of its own, and the toys of the bench on its path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = str(Path(__file__).parents[1])


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORTCULLIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", TESTS)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("PORTCULLIS_DATA", raising=False)
    monkeypatch.syspath_prepend(TESTS)
    sys.modules.pop("bench.stages", None)
