"""The self-test: every limit of a policy is reached once, and one that never bites is named with its reason."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.harness import Softmax, gate, policy_of, policy_text
from tests.gateway.test_principals import ACME, clients, key
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.types import Interface
from portcullis_ml.defenses.quota import Quota
from portcullis_ml.gateway import selftest
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.selftest import tried, written_down

QUOTA = '[[guard]]\nunit = "quota"\nrows = 5000\nper = 86400\n'
LIMITS = "[limits]\nper_client = 3\nin_flight = 7\nrows = 50\nbody_bytes = 10000\nrequests_per_minute = 600\n"


def watch(then: str) -> str:
    return f'[[guard]]\nunit = "watch"\ndetector = {{ unit = "prada" }}\nthen = {{ {then} }}\n'


def told(folder: Path, stages: str = "", more: str = "", top: str = "") -> dict[str, str]:
    """What is said of each limit, by its name before the first colon."""
    policy = policy_of(Softmax(), "http://127.0.0.1:1", folder, stages, more, top)
    return dict(str(limit).split(": ", 1) for limit in tried(policy))


def test_every_limit_is_reached_and_bites(tmp_path: Path) -> None:
    assert told(tmp_path, QUOTA + watch('unit = "block"') + watch('unit = "label_only"'), LIMITS) == {
        "stage 1, quota of 5,000 rows a day": "row 5,001 is refused, and the next window's first is taken",
        "stage 2, watch (prada) and then block": "once its alarm is set, the next request is refused",
        "stage 3, watch (prada) and then label_only": "once its alarm is set, answers change",
        "an operator's block": "the next request is refused",
        "requests_per_minute": "request 101 at once has to wait",
        "bytes_per_minute": "after 178,956,971 bytes at once the next request has to wait",
        "per_client": "request 4 at once is refused",
        "in_flight": "request 8 of all clients at once is refused",
        "body_bytes": "a body of 10,001 bytes is refused",
        "rows": "a question of 51 rows is refused",
    }


@pytest.mark.parametrize(
    "more",
    [
        ACME,
        clients(key("a"), principal='["key_prefix"]'),
        clients(key("a"), principal='["key_prefix"]', more="key_prefix = 12"),
        clients(key("a"), principal='["key_prefix", "address"]', more='key_prefix = "/"'),
        clients(key("a"), principal='["address"]', more='forwarded = { trusted = ["10.0.0.0/8"] }'),
    ],
)
def test_a_second_account_of_the_same_principal_is_refused_too(more: str, tmp_path: Path) -> None:
    found = told(tmp_path, QUOTA + watch('unit = "block"'), more)
    for name in ("stage 1, quota of 5,000 rows a day", "stage 2, watch (prada) and then block", "an operator's block",
                 "per_client"):  # fmt: skip
        assert "refused, of a second account of the same principal too" in found[name]


@pytest.mark.parametrize(
    ("stages", "more", "limit", "why"),
    [
        (QUOTA.replace("5000", "99999999"), "[limits]\nrequests_per_minute = 60\nrows = 10\n", 
         "stage 1, quota of 99,999,999 rows a day",
         "limits.requests_per_minute and limits.rows let through 864,100 rows in that time at most"),
        (QUOTA + QUOTA.replace("5000", "40000").replace("86400", "100000"), "",
         "stage 2, quota of 40,000 rows in 100000 seconds",
         "another quota (quota of 5,000 rows a day) lets through 15,000 rows in that time at most"),
        (QUOTA + QUOTA.replace("rows = 5000\nper = 86400", "rows = 4000\nper = 1e9"), "",
         "stage 1, quota of 5,000 rows a day", ""),
        (watch('unit = "log"'), "", "stage 1, watch (prada) and then log",
         "it changes nothing of what everybody is shown"),
        (watch('unit = "label_only"'), '[answers]\nreveals = "labels"\n', "stage 1, watch (prada) and then label_only",
         "it changes nothing of what everybody is shown"),
        (watch('unit = "rounding", decimals = 3'), "[answers]\ndecimals = 2\n",
         "stage 1, watch (prada) and then rounding",
         "it changes nothing of what everybody is shown"),
        ("", "[limits]\nrequests_per_minute = inf\n", "requests_per_minute", "it is inf"),
        ("", "[limits]\nbytes_per_minute = inf\n", "bytes_per_minute", "it is inf"),
        ("", "[limits]\nper_client = 9\nin_flight = 9\n", "per_client", "in_flight stops all clients together at 9"),
        ("", "[limits]\nbody_bytes = 100\n", "rows", "a body of body_bytes cannot hold 1,025 rows"),
    ],
)  # fmt: skip
def test_a_limit_that_never_bites_is_named(stages: str, more: str, limit: str, why: str, tmp_path: Path) -> None:
    found = told(tmp_path, stages, more)[limit]
    assert found == f"never bites because {why}" if why else found.startswith("row 5,001 is refused")


def test_in_observe_mode_no_stage_bites_and_rates_do(tmp_path: Path) -> None:
    found = told(tmp_path, QUOTA + watch('unit = "block"'), top='mode = "observe"')
    names = [name for name, words in found.items() if 'mode = "observe"' in words]
    assert len(names) == 3
    assert "an operator's block" in names
    assert found["requests_per_minute"] == "request 10,001 at once has to wait"


@pytest.mark.parametrize(
    ("stages", "more", "limit", "why"),
    [
        (watch('unit = "dawn"'), "", "stage 1, watch (prada) and then dawn", "it changes a share of the answers only"),
        ("", "[limits]\nrequests_per_minute = 1e9\n", "requests_per_minute", "166,666,666 may come at once"),
        ("", "[limits]\nin_flight = 60000\nper_client = 59999\n", "per_client", "it is more than 50,000"),
        ("", "[limits]\nin_flight = 60000\n", "in_flight", "it is more than 50,000"),
        ("", "[limits]\nrows = 99999\n", "rows", "a question of 100,000 rows is 400,000 numbers long"),
    ],
)
def test_what_would_take_long_is_said(stages: str, more: str, limit: str, why: str, tmp_path: Path) -> None:
    assert told(tmp_path, stages, more)[limit] == f"not tried: {why}"


def test_a_limit_that_is_broken_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of the self-test can fail."""
    policy = policy_of(Softmax(), "http://127.0.0.1:1", tmp_path, QUOTA + watch('unit = "block"'), ACME)
    monkeypatch.setattr(Quota, "admit", lambda self, request, state: None)
    assert "row 5,001 was let through" in str(tried(policy)[0])
    monkeypatch.setattr(selftest, "pair", lambda policy: ("one", "two"))  # as if the links linked nothing
    assert [t.bites for t in tried(policy)[1:3]] == [False, False]

    def failing(self: Quota, request: Any, state: Any) -> None:
        raise ZeroDivisionError("a bug in a stage")

    monkeypatch.setattr(Quota, "admit", failing)
    assert str(tried(policy)[0]) == "stage 1: not tried, as it raised ZeroDivisionError: a bug in a stage"


def test_a_large_quota_of_large_rows_takes_no_time(tmp_path: Path) -> None:
    policy = policy_of(Softmax(), "http://127.0.0.1:1", tmp_path, QUOTA.replace("5000", "50000000"))
    pictures = Interface(input_shape=(3, 224, 224), n_classes=10)
    large: Policy = replace(policy, served=replace(policy.served, interface=pictures))
    begin = time.perf_counter()
    found = {str(limit).partition(":")[0]: limit for limit in tried(large)}
    assert time.perf_counter() - begin < 5.0  # a tenth of a second on a quiet machine
    assert found["stage 1, quota of 50,000,000 rows a day"].bites
    assert found["rows"].bites is False


def test_check_says_a_line_for_each_and_the_gate_writes_one_record(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(policy_text(Softmax(), "http://127.0.0.1:1", tmp_path, QUOTA, LIMITS))
    lines = [line for line in CliRunner().invoke(app, ["check", str(path)]).output.splitlines() if "Self-test" in line]
    assert len(lines) == 8
    assert lines[0] == (
        "Self-test: stage 1, quota of 5,000 rows a day: row 5,001 is refused, and the next window's first is taken."
    )
    command = [sys.executable, "-c", "from portcullis_ml.cli import main; main()", "serve", "--policy", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as started:
        assert started.stderr is not None
        records = (json.loads(line) for line in started.stderr if line.startswith("{"))
        record = next(r for r in records if r["message"] == "the limits were tried")
        started.terminate()
    assert (len(record["bite"]), record["never"], record["not_tried"]) == (8, [], [])


def test_the_self_test_of_a_running_gate_leaves_no_trace(tmp_path: Path) -> None:
    with gate(policy_of(Softmax(), "http://127.0.0.1:1", tmp_path, QUOTA)) as server:
        assert all(limit.bites for limit in tried(server.policy))
        assert not server.streams.open
        assert not server.gate.callers.running


@pytest.mark.parametrize(("top", "level"), [("", "INFO"), ('mode = "observe"', "WARNING")])
def test_a_record_of_limits_that_never_bite_is_a_warning(
    top: str, level: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "portcullis.gate"):
        written_down(policy_of(Softmax(), "http://127.0.0.1:1", tmp_path, QUOTA, top=top))
    assert [(r.levelname, r.message) for r in caplog.records] == [(level, "the limits were tried")]
