"""docs/pipeline.md: the steps of its workflow and of its hook, read out of the page and run on a tiny model."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import yaml
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression

from portcullis_ml.evidence.envelope import new_key

PAGE = Path(__file__).parents[2] / "docs" / "pipeline.md"
WORKFLOW, HOOKS = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S))
JOB: dict[str, Any] = WORKFLOW["jobs"]["theft"]
STEPS = {step["name"]: step for step in JOB["steps"] if "run" in step}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository as the page describes it: model, rows, public key; and `portcullis` on the path."""
    folder = tmp_path_factory.mktemp("checkout")
    x, y = make_blobs(600, n_features=4, centers=3, cluster_std=4.0, random_state=0)
    skops.io.dump(LogisticRegression(max_iter=500).fit(x[::3], y[::3]), folder / "model.skops")
    np.savez(folder / "test.npz", x=x[1::3], y=y[1::3])
    np.savez(folder / "pool.npz", x=x[2::3])
    new_key(folder / "signing.key")
    (folder / "signing.key").rename(folder / "secret")
    program = folder / "bin" / "portcullis"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nfrom portcullis_ml.cli import main\nif __name__ == '__main__':\n    main()\n"
    )
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
        patch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
        patch.setenv("PORTCULLIS_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield folder


def run(name: str, checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """One step as a runner takes it: by bash, which stops at the first command that fails."""
    env = {**os.environ, **JOB["env"], **environment}
    return subprocess.run(
        ["bash", "-e", "-c", STEPS[name]["run"]], cwd=checkout, env=env, capture_output=True, text=True, timeout=300
    )


def test_the_workflow_fails_over_its_limit_and_leaves_evidence(checkout: Path) -> None:
    assert list(STEPS) == ["install", "audit", "summary", "evidence"]
    assert all(STEPS[name]["if"] == "always()" for name in ("summary", "evidence"))
    done = run("audit", checkout)
    assert done.returncode == 3, done.stdout + done.stderr
    assert run("summary", checkout).returncode == 0
    assert "theft_over_limit" in (checkout / "summary.md").read_text()
    done = run("evidence", checkout, SIGNING_KEY=(checkout / "secret").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the key that you named" in done.stdout
    assert "Run again to the same values: " in done.stdout
    assert not (checkout / "signing.key").exists()
    uploads = [step["with"] for step in JOB["steps"] if "upload" in step.get("uses", "")]
    assert all((checkout / (u.get("path") or u["sarif_file"])).is_file() for u in uploads)
    done = run("audit", checkout, LIMIT="1.0")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_hook_runs_what_it_says(checkout: Path) -> None:
    (hook,) = HOOKS["repos"][0]["hooks"]
    assert all(re.search(hook["files"], name) for name in ("model.skops", "test.npz", "pool.npz"))
    assert not re.search(hook["files"], "README.md")
    done = subprocess.run(shlex.split(hook["entry"]), cwd=checkout, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "is above the limit of 90.0%" in re.sub(r"\s+", " ", done.stdout)
