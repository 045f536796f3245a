"""What a policy has on disk: refused by line when it is not there or not fit, seen by whoever compares policies."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.asgi import ALICE, URL, FakeUpstream, Here, call, question
from tests.gateway.harness import Softmax, policy_of, policy_text
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import InputError
from portcullis_ml.gateway.policy.explain import explained
from portcullis_ml.gateway.policy.policy import Policy, PolicyError, parse_policy
from portcullis_ml.gateway.querylog import QueryLogFile, read_log
from portcullis_ml.gateway.replay import replay
from portcullis_ml.gateway.server import Server

MODEL = Softmax()
X = np.array([[0.1, 0.2, 0.3, 0.4]])
ROUNDING = '[[guard]]\nunit = "rounding"\n'
FILE = '[[guard]]\nunit = "tests.gateway.units:FromFile"\nfile = "{file}"\n'
STAGE = FILE.format(file="decimals.json")


def write(folder: Path, text: str = "[1, 2, 3]", name: str = "decimals.json") -> str:
    """Write the artifact; the SHA-256 of it."""
    (folder / name).write_text(text)
    return hashlib.sha256(text.encode()).hexdigest()


def policy(folder: Path, stages: str = STAGE, more: str = "") -> Policy:
    return policy_of(MODEL, "http://127.0.0.1:1", folder, stages, more)


async def test_a_stage_reads_its_file_beside_the_policy(tmp_path: Path) -> None:
    write(tmp_path)
    here = Here(tmp_path, STAGE)
    status, _, tree = await here.infer(X)
    assert status == 200
    (full,) = MODEL.scores(X)
    assert tree["outputs"][1]["data"] == [np.round(s, d) for s, d in zip(full, (1, 2, 3), strict=True)]


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        (FILE.format(file="nothing.json"), "there is none"),
        (FILE.format(file="empty"), "there is none"),
        (
            FILE.format(file="decimals.json@sha256:" + "0" * 64),
            "was expected to hold what has the SHA-256 0000",
        ),
        (FILE.format(file="words.json"), "A list of decimals was expected"),
        (FILE.format(file="two.json"), "decimals for 3 classes; got 2"),
        (
            '[[guard]]\nunit = "tests.gateway.units:FromFile"\nfile = { unit = "tests.gateway.units:Learns" }\n',
            "FromFile.file must name what tests.gateway.units:Learns has trained",
        ),
        ('[[guard]]\nunit = "tests.gateway.units:Doubts"\n', "reads explanations; this API has none"),
    ],
)
def test_what_is_not_there_or_not_fit_is_refused_with_the_line_of_its_stage(
    stage: str, sentence: str, tmp_path: Path
) -> None:
    write(tmp_path, '"words"', "words.json")
    write(tmp_path, "[1, 2]", "two.json")
    write(tmp_path)
    (tmp_path / "empty").mkdir()
    stages = ROUNDING + stage
    text = policy_text(MODEL, "http://127.0.0.1:1", tmp_path, stages)
    with pytest.raises(PolicyError, match=sentence) as error:
        policy(tmp_path, stages)
    assert error.value.line == text.splitlines().index("[[guard]]", text.splitlines().index("[[guard]]") + 1) + 1
    (tmp_path / "p.toml").write_text(text)
    for verb in (["check", str(tmp_path / "p.toml")], ["serve", "--policy", str(tmp_path / "p.toml")]):
        told = CliRunner().invoke(app, verb)
        assert told.exit_code == 2
        assert f"line {error.value.line}: " in " ".join(told.output.split())


def test_a_file_inside_a_watch_is_found_and_bound_too(tmp_path: Path) -> None:
    sha = write(tmp_path)
    inner = '{ unit = "tests.gateway.units:FromFile", file = "decimals.json" }'
    stage = f'[[guard]]\nunit = "watch"\ndetector = {{ unit = "tests.gateway.units:At" }}\nthen = {inner}\n'
    found = policy(tmp_path, stage)
    assert f"(sha256 {sha[:12]})" in " ".join(explained(found))
    write(tmp_path, "[1]")
    with pytest.raises(PolicyError, match="got 1"):
        policy(tmp_path, stage)


def test_check_names_each_artifact_with_the_head_of_its_hash(tmp_path: Path) -> None:
    sha = write(tmp_path)
    (tmp_path / "p.toml").write_text(policy_text(MODEL, "http://127.0.0.1:1", tmp_path, STAGE))
    told = CliRunner().invoke(app, ["check", str(tmp_path / "p.toml")])
    assert told.exit_code == 0
    assert f"{tmp_path}/decimals.json (sha256 {sha[:12]})" in told.output.replace("\n", "")
    assert sha not in told.output


def test_a_policys_digest_covers_what_its_files_hold_and_only_that(tmp_path: Path) -> None:
    text = policy_text(MODEL, "http://127.0.0.1:1", tmp_path, ROUNDING)
    assert parse_policy(text, folder=tmp_path).digest == hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    write(tmp_path)
    first = policy(tmp_path).digest
    write(tmp_path, "[1, 2, 4]")
    second = policy(tmp_path).digest
    write(tmp_path)
    assert (policy(tmp_path).digest, second != first) == (first, True)


def test_a_file_that_changes_after_the_policy_was_read_is_refused_at_the_start(tmp_path: Path) -> None:
    write(tmp_path)
    read = policy(tmp_path)
    write(tmp_path, "[3, 3, 3]")
    with pytest.raises(InputError, match="Bring the old content back"):
        read.guard()


async def test_a_changed_file_is_a_changed_stage_and_a_moved_one_is_not(tmp_path: Path) -> None:
    write(tmp_path)
    here = Here(tmp_path, STAGE)
    await here.infer(X)
    name = "0-tests.gateway.units:FromFile"
    write(tmp_path, name="moved.json")
    here.streams.fold.use(policy(tmp_path, FILE.format(file="moved.json")).guard())
    assert here.streams.open["alice"].states[name].rows == 1
    write(tmp_path, "[1, 2, 4]")
    here.streams.fold.use(policy(tmp_path).guard())
    assert name not in here.streams.open["alice"].states


async def test_replay_says_that_a_log_was_written_under_other_artifacts(tmp_path: Path) -> None:
    write(tmp_path)
    log = QueryLogFile(tmp_path / "log", queries=True)
    here = Here(tmp_path, STAGE, querylog=log)
    for x in (X, -X, 2 * X):
        await here.infer(x)
    log.close()
    lines = list(read_log(tmp_path / "log"))
    assert replay(lines, here.policy).logged_under == []
    write(tmp_path, "[1, 2, 4]")
    changed = policy(tmp_path)
    assert replay(lines, changed).logged_under == [here.policy.digest]
    (tmp_path / "p.toml").write_text(policy_text(MODEL, "http://127.0.0.1:1", tmp_path, STAGE))
    verb = ["replay", str(tmp_path / "log"), "--policy", str(tmp_path / "p.toml")]
    told = " ".join(CliRunner().invoke(app, verb).output.split())
    assert f"written under the policy {here.policy.digest}; this is {changed.digest}" in told
    assert json.loads(CliRunner().invoke(app, [*verb, "--json"]).output)["logged_under"] == [here.policy.digest]


async def until(what: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not what():
            await asyncio.sleep(0.005)


async def test_a_hangup_sees_a_changed_file_and_keeps_the_old_policy_where_it_is_bad(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path)
    server = Server(policy(tmp_path), upstream=FakeUpstream(MODEL), reread=lambda: policy(tmp_path))

    async def shown() -> list[float]:
        status, _, body = await call(server.gate, "POST", URL, question(X), ALICE)
        assert status == 200
        return json.loads(body)["outputs"][1]["data"]  # type: ignore[no-any-return]

    task = asyncio.create_task(server())
    await server.started.wait()
    try:
        full, first = MODEL.scores(X)[0], server.policy.digest
        assert await shown() == [np.round(s, d) for s, d in zip(full, (1, 2, 3), strict=True)]
        write(tmp_path, "[1, 2]")
        server.reload()
        await until(lambda: "the policy was not exchanged" in caplog.text)
        assert "decimals for 3 classes; got 2" in caplog.text
        assert server.policy.digest == first
        assert await shown() == [np.round(s, d) for s, d in zip(full, (1, 2, 3), strict=True)]
        write(tmp_path, "[4, 4, 4]")
        server.reload()
        await until(lambda: server.policy.digest != first)
        assert await shown() == np.round(full, 4).tolist()
    finally:
        server.stop()
        await task


async def test_a_policy_whose_upstream_cannot_be_used_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def read(decimals: int, token: str = "") -> Policy:
        stage = ROUNDING + f"decimals = {decimals}\n"
        return policy(tmp_path, stage, f'[upstream]\nurl = "http://127.0.0.1:1"\n{token}')

    bad = read(2, f'token_file = "{tmp_path}/nothing"\n')
    server = Server(read(1), reread=lambda: bad)
    task = asyncio.create_task(server())
    await server.started.wait()
    try:
        server.reload()
        await until(lambda: "the policy was not exchanged" in caplog.text)
        (stage,) = server.streams.fold.guard.stages
        assert dataclasses.asdict(stage)["decimals"] == 1  # type: ignore[call-overload]
    finally:
        server.stop()
        await task


def test_an_artifact_is_read_where_the_setting_says_it_is_one(tmp_path: Path) -> None:
    sha = write(tmp_path)
    (stage,) = policy(tmp_path, FILE.format(file=f"decimals.json@sha256:{sha}")).stages
    assert stage.file == Artifact(f"{tmp_path}/decimals.json", sha)  # type: ignore[attr-defined]
