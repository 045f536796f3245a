"""Pictures of the docs are those that their commands draw from the kept figures."""

from __future__ import annotations

import runpy
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent


def test_the_picture_of_equivalence_is_fresh() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "equivalence_picture.py"))
    victim, rows = script["read"](script["SOURCE"].read_text())
    drawn = script["draw"](victim, rows)
    assert (victim, len(rows)) == (94.4, 6)
    assert rows[3][1] == (94.8, 94.4, 95.5)
    assert len(ElementTree.fromstring(drawn).findall(".//{*}circle")) == 18
    assert script["PICTURE"].read_text() == drawn, "python benchmarks/equivalence_picture.py"
