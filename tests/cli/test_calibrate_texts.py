"""`portcullis calibrate` and `replay` from a log of questions whose rows are counted words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.types import Answer
from portcullis_ml.gateway.protocols.texts import Hashing
from portcullis_ml.gateway.querylog import Line, QueryLogFile

POLICY = """\
mode = "observe"
key_file = "guard.key"

[model]
name = "m"
classes = 2

[model.text]
rows = { unit = "hashing", dimensions = 16 }

[clients]
anonymous = "shared"

[[guard]]
unit = "watch"
detector = { unit = "prada", window = 10 }
then = { unit = "log" }
"""
WORDS = "win cash prize offer click now meeting report lunch monday team notes".split()


def test_thresholds_come_from_counted_words(tmp_path: Path) -> None:
    (tmp_path / "guard.key").write_text("00" * 32)
    (tmp_path / "portcullis.toml").write_text(POLICY)
    rng, log, hashing = np.random.default_rng(0), QueryLogFile(tmp_path / "log", queries=True), Hashing(dimensions=16)
    for number in range(30):
        texts = [" ".join(rng.choice(WORDS, 5)) for _ in range(40)]
        scores = np.full((40, 2), [0.9, 0.1])
        log.write(
            Line(
                at=86_400.0 + number, client=f"client{number}", decision="answered", rows=40, seq=number + 1,
                ended=number + 1, admitted=number + 1, released=number + 1, run="one", x=hashing.rows(texts),
                clean=Answer(scores.argmax(axis=1), scores),
            )
        )  # fmt: skip
    log.close()
    words = [str(tmp_path / "log"), "--policy", str(tmp_path / "portcullis.toml")]
    done = CliRunner().invoke(app, ["calibrate", *words, "--rate", "0.2", "--write"])
    assert done.exit_code == 0, done.output
    assert "30 clients, 1,200 rows" in done.output
    assert "threshold = " in (tmp_path / "portcullis.toml").read_text()
    done = CliRunner().invoke(app, ["replay", *words])
    assert done.exit_code == 0, done.output
    (tmp_path / "portcullis.toml").write_text(POLICY.replace("dimensions = 16", "dimensions = 32"))
    done = CliRunner().invoke(app, ["calibrate", *words])
    assert done.exit_code == 2
    assert "(16,)" in done.output
