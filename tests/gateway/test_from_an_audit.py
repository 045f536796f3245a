"""The page docs/gateway/from-an-audit.md, from top to bottom: a new user's way from an audit to a guarded gate."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.gateway.harness import gate, running
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Answer, Model, Request
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.policy import Policy, parse_policy
from portcullis_ml.models.load import load_model

PAGE = Path(__file__).parents[2] / "docs" / "gateway" / "from-an-audit.md"
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", PAGE.read_text(), re.S)
STAGES = {
    "audit": None,
    "poisoning": "prediction_poisoning",
    "misinformation": "adaptive_misinformation",
    "filtered": "out_of_domain",
    "ensemble": None,
}  # folder of a policy -> its stage


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """Where everything on the page has run, and what each command said."""
    said: dict[str, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        where = tmp_path_factory.mktemp("page")
        patch.chdir(where)
        for kind, text in BLOCKS:
            if kind == "python":
                exec(compile(text, PAGE.name, "exec"), {})
                continue
            for command in re.findall(r"^\$ portcullis (.*)$", text, re.M):
                done = CliRunner().invoke(app, [*shlex.split(command), *["--jobs", "1"] * command.startswith("audit")])
                assert done.exit_code == 0, f"{command}: {done.output}{done.exception}"
                said[command] = done.output
        yield where, said


def policy_in(folder: Path, upstream: str) -> Policy:
    """As it was written, but for the addresses and that it enforces."""
    text = (folder / "portcullis.toml").read_text().replace("http://127.0.0.1:8080", upstream)
    text = text.replace('mode = "observe"', 'mode = "enforce"') + "\n[listen]\nport = 0\n[admin]\nport = 0\n"
    return parse_policy(text + f'[state]\nurl = "sqlite:///{folder}/state.db"\n', folder=folder)


@pytest.mark.parametrize("name", STAGES)
def test_check_explains_what_each_policy_does(folder: tuple[Path, dict[str, str]], name: str) -> None:
    said = folder[1][f"check {name}/portcullis.toml"]
    assert "Decisions are observed only" in said
    if stage := STAGES[name]:
        words = stage.replace("_", " ")
        assert f"Stage 1: {words} (" in said
        assert f"  {words} costs the honest client: " in said
        assert f"  {words} does not stop: " in said


@pytest.mark.parametrize("name", STAGES)
def test_the_gate_serves_each_policy_as_the_audit_would(folder: tuple[Path, dict[str, str]], name: str) -> None:
    where = folder[0]
    victim: Model = load_model(str(where / ("hardened/model.onnx" if name == "ensemble" else "model.skops")))
    x = np.random.default_rng(3).random((20, 4))
    with running(ModelServer(victim, policy_in(where / name, "http://127.0.0.1:1").served)) as upstream:
        policy = policy_in(where / name, upstream)
        with gate(policy) as server:
            oracle = HttpOracle(server.url, interface=policy.shown, budget=100, model=policy.served.name)
            online = oracle.query(x)
            oracle.close()
    if STAGES[name]:
        assert [stage.name for stage in policy.stages] == [STAGES[name]]
    interface = policy.served.interface
    key = bytes.fromhex((where / name / "guard.key").read_text())
    guard = Guard(*policy.stages, key=key, quantum=policy.quantum, interface=interface)
    offline = guard.release(Request("x", x), Answer.of(victim.scores(x), interface)).answer.only(policy.shown)
    np.testing.assert_array_equal(online.labels, offline.labels)
    assert (online.scores is None) == (offline.scores is None)
    if online.scores is not None and offline.scores is not None:
        np.testing.assert_array_equal(online.scores, offline.scores)


def test_a_policy_is_never_written_over(folder: tuple[Path, dict[str, str]]) -> None:
    where = folder[0]
    command = f"prepare random_surrogate --victim {where}/model.skops --train {where}/train.npz --out {where}/more"
    done = CliRunner().invoke(app, [*shlex.split(command), "--policy", str(where / "audit" / "portcullis.toml")])
    assert "A new file was expected at" in done.output.replace("\n", " ")
    assert not (where / "more").exists()
