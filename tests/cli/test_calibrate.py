"""`portcullis calibrate`: logs and files in, thresholds in the policy and a record out."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.cli.policy_edit import with_threshold
from portcullis_ml.cli.traffic import Names, read_traffic
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Answer, Feature
from portcullis_ml.gateway.policy.policy import read_policy
from portcullis_ml.gateway.querylog import Line, QueryLogFile, read_log
from portcullis_ml.gateway.replay import replay

DAY, CLIENTS = 86_400.0, 30
POLICY = """\
mode = "observe"
key_file = "guard.key"

[model]
name = "m"
input_shape = [2]
classes = 2

[clients]
anonymous = "shared"

[[guard]]
unit = "quota"
rows = 100000

[[guard]]
unit = "watch"  # the thief's rows are doubtful
detector = { unit = "low_confidence", window = 10 }  # window of ten
then = { unit = "log" }
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "guard.key").write_text("00" * 32)
    (tmp_path / "guard.key").chmod(0o600)
    (tmp_path / "portcullis.toml").write_text(POLICY)
    return tmp_path / "portcullis.toml"


def asked(number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """20 rows of one client and the model's scores; a client in five is often answered with doubt."""
    sure = np.where(rng.random(20) < (0.5 if number % 5 == 0 else 0.1), 0.5, 0.9) - 1e-6
    return rng.random((20, 2)), np.stack([sure, 1 - sure], axis=1)


def write_log(folder: Path, queries: bool = True) -> Path:
    """Two days of every client, and somebody without a name whose every answer is doubtful."""
    rng, log, order = np.random.default_rng(0), QueryLogFile(folder, queries=queries), 0
    for number in range(CLIENTS + 1):
        for day in (3, 2):
            x, scores = asked(number, rng)
            name, order = f"client{number}", order + 1
            if number == CLIENTS:
                name, scores = "(anonymous)", np.full((20, 2), [0.4, 0.1])
            log.write(
                Line(
                    at=day * DAY + number, client=name, decision="answered", rows=20, seq=order, ended=order,
                    admitted=order, released=order, run="one", x=x, clean=Answer(scores.argmax(axis=1), scores),
                )
            )  # fmt: skip
    log.close()
    return folder


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, ["calibrate", *map(str, words)])


def test_a_log_sets_the_threshold_in_the_policy_and_check_believes_the_record(tmp_path: Path, policy: Path) -> None:
    log = write_log(tmp_path / "log")
    before = CliRunner().invoke(app, ["check", str(policy)])
    assert "Stage 2 watches with low_confidence, which has not been calibrated" in before.output.replace("\n", " ")
    done = run(log, "--policy", policy, "--rate", 0.2, "--write")
    assert done.exit_code == 0, done.output
    assert "30 clients, 1,200 rows, 1970-01-03 to 1970-01-04 (UTC)." in done.output
    record = json.loads((tmp_path / "portcullis.calibration.json").read_text())
    (entry,) = record["calibrated"]
    threshold = entry["detector"]["threshold"]
    assert (entry["chosen_on_clients"], entry["held_out"]["n"], entry["held_out_client_days"]) == (15, 15, 30)
    assert "client" not in json.dumps(record).replace("client_days", "").replace("clients", "")
    text = policy.read_text()
    assert f"threshold = {threshold}" in text
    assert text.replace(f", threshold = {threshold}", "") == POLICY
    after = CliRunner().invoke(app, ["check", str(policy)])
    assert "calibrated" not in after.output
    policy.write_text(text.replace("window = 10", "window = 11"))
    assert "has not been calibrated" in CliRunner().invoke(app, ["check", str(policy)]).output.replace("\n", " ")


def test_the_threshold_calls_as_many_as_the_gate_would(tmp_path: Path, policy: Path) -> None:
    log = write_log(tmp_path / "log")
    done = run(log, "--policy", policy, "--rate", 0.2, "--write", "--json")
    assert done.exit_code == 0, done.output
    threshold = json.loads(done.stdout)["calibrated"][0]["detector"]["threshold"]
    fates = replay(read_log(log), read_policy(policy)).fates
    stopped = {name for name, fate in fates.items() if fate.stopped_row is not None}
    loudest = {s.client: _loudest(s.answer) for s in read_traffic(log, Names())}
    assert stopped - {"(anonymous)"} == {name for name, most in loudest.items() if most > threshold}
    assert "(anonymous)" not in loudest


def _loudest(answer: Answer) -> float:
    assert answer.scores is not None
    doubtful = answer.scores.max(axis=1) < 0.5
    return max(doubtful[i : i + 10].mean() for i in range(0, len(doubtful), 10))


def test_too_few_clients_and_a_log_without_queries_are_one_sentence(tmp_path: Path, policy: Path) -> None:
    log = write_log(tmp_path / "log")
    few = run(log, "--policy", policy)
    assert few.exit_code == 2
    assert "needs 299 clients to set a threshold on and as many to check it with" in few.output.replace("\n", " ")
    bare = run(write_log(tmp_path / "bare", queries=False), "--policy", policy)
    assert "needs [log] queries = true" in bare.output.replace("\n", " ")
    neither = run(log)
    assert "Give either --policy FILE" in neither.output
    assert policy.read_text() == POLICY
    assert not (tmp_path / "portcullis.calibration.json").exists()


def test_files_of_every_form_are_the_same_streams(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    x, scores = rng.random((6, 2)).round(3), np.array([[0.25, 0.75], [0.5, 0.5]] * 3)
    who, at = ["a", "b"] * 3, [5.0, 4, 3, 2, 1, 0]
    np.savez(tmp_path / "t.npz", x=x, client=who, time=at, scores=scores)
    rows = zip(who, at, x.tolist(), scores.tolist(), strict=True)
    lines = [
        json.dumps({"client": c, "time": f"1970-01-01T00:00:{t:02.0f}", "x": r, "scores": s}) for c, t, r, s in rows
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    cells = [f"{c},{t},{r[0]},{r[1]},{s[0]},{s[1]}" for c, t, r, s in zip(who, at, x, scores, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["client,time,f,g,score_0,score_1", *cells]))
    for name in ("t.npz", "t.jsonl", "t.csv"):
        first, second = read_traffic(tmp_path / name, Names())
        assert (first.client, second.client) == ("a", "b")
        assert first.at.tolist() == [1, 3, 5]
        np.testing.assert_array_equal(first.x, x[[4, 2, 0]])
        np.testing.assert_array_equal(first.answer.scores, scores[[4, 2, 0]])
        np.testing.assert_array_equal(second.answer.labels, [0, 0, 0])


def test_words_of_a_table_are_the_codes_of_the_policy(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("label,colour,size,who,time\nyes,red,2,a,0\nno,blue,3,a,1\n")
    features = (Feature("size", 0, 9), Feature("colour", values=("blue", "red")))
    names = Names(client="who", classes=("no", "yes"), features=features)
    (stream,) = read_traffic(tmp_path / "t.csv", names)
    assert stream.x.tolist() == [[2, 1], [3, 0]]
    assert stream.answer.labels is not None
    assert stream.answer.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("time,label,f\n0,1,2\n", "no column 'client'; say what it is called with --client-column"),
        ("client,time,f\na,0,2\n", "no column 'label': detectors read what the model answered"),
        ("client,time,label,f\na,soon,1,2\n", "a time was expected"),
        ("client,time,label,f\na,0,1,red\n", "'f' was expected to hold numbers"),
    ],
)
def test_a_file_that_lacks_something_says_what(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    done = run(tmp_path / "t.csv", "--detectors", "prada")
    assert done.exit_code == 2
    assert sentence in done.output.replace("\n", " ")


def test_rows_of_another_shape_than_the_policys_are_refused(tmp_path: Path, policy: Path) -> None:
    (tmp_path / "t.csv").write_text("client,time,label,f\na,0,1,2\n")
    done = run(tmp_path / "t.csv", "--policy", policy)
    assert "Rows of shape (2,) were expected; the traffic holds rows of (1,)." in done.output.replace("\n", " ")


def test_without_a_policy_detectors_are_named_and_settings_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    held = [asked(number, rng) for number in range(40)]
    np.savez(
        "t.npz", x=np.concatenate([x for x, _ in held]), scores=np.concatenate([p for _, p in held]),
        client=np.repeat([f"c{i}" for i in range(40)], 20), time=np.zeros(800),
    )  # fmt: skip
    done = run("t.npz", "--detectors", "low_confidence(window=10)", "--rate", 0.2, "--leave-out", "c0")
    assert done.exit_code == 0, done.output
    (stage,) = tomllib.loads(done.output[done.output.index("[[guard]]") : done.output.index("The record")])["guard"]
    record = json.loads(Path("calibration.json").read_text())
    assert stage["detector"] == record["calibrated"][0]["detector"]
    assert record["clients"] == 39


@pytest.mark.parametrize(
    "stage",
    [
        'detector = { unit = "prada" }',
        'detector = { unit = "prada", threshold = 4, window = 20 } # threshold = 4',
        'detector = { unit = "prada", window = 20 }\nthen = { unit = "rounding", decimals = 1 }',
        '[guard.detector]\nunit = "prada"\nthreshold = 4.0  # as published',
        '[guard.detector]\nunit = "prada"',
    ],
)
def test_a_threshold_is_changed_where_it_stands(stage: str) -> None:
    text = (
        f'a = 1 # }}\n[[guard]]\nunit = "watch"\ndetector = {{ unit = "prada" }}\n[[guard]]\nunit = "watch"\n{stage}\n'
    )
    changed = with_threshold(text, 1, 5.5)
    assert tomllib.loads(changed)["guard"][1]["detector"]["threshold"] == 5.5
    assert tomllib.loads(changed)["guard"][0] == tomllib.loads(text)["guard"][0]
    assert changed.splitlines()[0] == text.splitlines()[0]


def test_a_policy_written_in_another_way_is_left_alone() -> None:
    text = 'guard = [\n{ unit = "watch", "detector" = { unit = "prada", "threshold" = 4 } },\n]\n'
    with pytest.raises(InputError, match=r"Write threshold = 5\.5 into its detector by hand"):
        with_threshold(text, 0, 5.5)
