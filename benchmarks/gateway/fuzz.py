"""Schemathesis against a gate: every route of every protocol, from the gate's own OpenAPI description.

    pip install schemathesis
    python benchmarks/gateway/fuzz.py --examples 1000

A digits-sized model behind a gate with a quota, PRADA and rounding. Schemathesis (MIT) makes bodies that fit the
description and bodies that do not, and looks for errors of the server, answers that the description does not know
and bad bodies that were taken. Afterwards the gate's own counters say how many requests failed, and whether a good
question is still answered.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

from portcullis_ml.core.types import Interface
from portcullis_ml.gateway.demo import start_model_server
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.clients import new_key

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "ignored_auth",
)  # fmt: skip; not "unsupported_method": a method that is not on the list is a 404 here, as every other route is
POLICY = """
key_file = "guard.key"
[upstream]
url = "{upstream}"
[model]
name = "digits"
input_shape = [64]
classes = 10
[listen]
port = 0
protocols = ["v2", "v1", "invocations", "mapping"]
[admin]
port = 0
[clients]
key = [{{ client = "fuzzer", sha256 = "{digest}" }}]
[[guard]]
unit = "quota"
rows = 1000000000
per = 86400
[[guard]]
unit = "watch"
detector = {{ unit = "prada", threshold = 3.0 }}
then = {{ unit = "label_only" }}
[[guard]]
unit = "rounding"
decimals = 3
[state]
url = "sqlite:///{folder}/state.db"
"""


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("--examples", type=int, default=1000, help="of each operation and phase")
    wanted.add_argument("--seed", type=int, default=1)
    wanted.add_argument("--schemathesis", default="schemathesis", help="the program, where it is not on the path")
    args = wanted.parse_args()
    print("$ python benchmarks/gateway/fuzz.py", *sys.argv[1:], flush=True)
    model, upstream = start_model_server()
    with tempfile.TemporaryDirectory() as folder:
        key, digest = new_key()
        (Path(folder) / "guard.key").write_text("ab" * 32)
        policy = Path(folder) / "p.toml"
        policy.write_text(POLICY.format(upstream=upstream, digest=digest, folder=folder))
        command = [sys.executable, "-c", "from portcullis_ml.cli import main; main()", "serve", "--policy", str(policy)]
        gate = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert gate.stdout
            told = dict[str, str]()
            while "token" not in told and (line := gate.stdout.readline()):
                word, _, about = line.partition(" ")
                told[word] = about.strip()
            url, admin, token = told["gate"], told["dashboard"], told["token"]
            description = Path(folder) / "openapi.json"
            description.write_text(fetch(f"{admin}/openapi.json", token))
            start = time.monotonic()
            code = fuzz(args, description, url, key)
            after(url, admin, token, key, time.monotonic() - start)
        finally:
            gate.terminate()
            log = [json.loads(line) for line in gate.communicate()[1].splitlines() if line[:1] == "{"]
            model.terminate()
            model.wait()
    errors = [line for line in log if line["level"] == "error"]
    print(f"errors in the gate's log    {len(errors)}", *errors[:3], sep="\n")
    sys.exit(code or bool(errors))


def fuzz(args: argparse.Namespace, description: Path, url: str, key: str) -> int:
    settings = description.with_name("schemathesis.toml")
    settings.write_text('[checks]\nnegative_data_rejection.expected-statuses = ["4xx"]\n')  # 413 for too many rows
    command = [
        args.schemathesis, "--config-file", str(settings), "run", str(description), "--url", url,
        "--header", f"x-api-key: {key}",
        "--checks", ",".join(CHECKS), "--mode", "all", "--phases", "coverage,fuzzing", "--request-timeout", "10",
        "--max-examples", str(args.examples), "--seed", str(args.seed), "--continue-on-failure",
        "--generation-database", "none", "--no-color", "--suppress-health-check", "all", "--workers", "1",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        for line in running.stdout:  # the same on every machine, so that it can be kept
            print(line.replace(str(description.parent), "(temporary)"), end="", flush=True)
    return running.returncode


def after(url: str, admin: str, token: str, key: str, seconds: float) -> None:
    """What the gate counted, and whether it still answers."""
    print(f"seconds                     {seconds:.0f}")
    for line in fetch(f"{admin}/metrics", token).splitlines():
        if line.startswith(("portcullis_requests_total", "portcullis_rows_total", "portcullis_requests_in_flight")):
            print(line)
    interface = Interface(input_shape=(64,), n_classes=10)
    oracle = HttpOracle(url, interface=interface, budget=1, model="digits", headers={"x-api-key": key})
    print("a good question afterwards  class", oracle.query(np.zeros((1, 64))).labels)


def fetch(url: str, token: str) -> str:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    main()
