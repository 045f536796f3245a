"""Every server and client that nobody here wrote, with the gate between them and without.

    python benchmarks/gateway/matrix.py --environments FOLDER      # FOLDER/mlserver, FOLDER/triton, FOLDER/mlflow

Environments: `mlserver` (mlserver, mlserver-sklearn, tritonclient[http]), `triton` (nvidia-pytriton, which brings real
Triton; Linux with glibc 2.35 or newer), `mlflow` (mlflow, scikit-learn). Clients: tritonclient with JSON and with
binary tensors, and curl. A cell says "same" when the scores agree with those of the model to 1e-5.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
KEY = "matrix"
READY = {"mlserver": "/v2/models/digits/ready", "triton": "/v2/models/digits/ready", "mlflow": "/ping"}
PACKAGES = {"mlserver": ["mlserver", "tritonclient"], "triton": ["nvidia-pytriton"], "mlflow": ["mlflow"]}
UPSTREAM = {
    "mlserver": 'protocol = "v2"\nscores = "predict_proba"\n',
    "triton": 'protocol = "v2"\nbinary = true\n',
    "mlflow": 'protocol = "invocations"\n',
}
POLICY = """
key_file = "guard.key"
[upstream]
url = "{url}"
{upstream}
[model]
name = "digits"
input_shape = [64]
classes = 10
datatype = "FP32"
[listen]
port = {port}
protocols = ["v2", "v1", "invocations"]
[admin]
port = 0
[state]
url = "sqlite:///{folder}/state.db"
[clients]
key = [{{ client = "c", sha256 = "{digest}" }}]
"""


def free() -> int:
    """The first of three free ports in a row, or so it seems."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait(url: str, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise SystemExit(f"{url} did not come up in {seconds:g} s")


@contextmanager
def model_server(server: str, python: Path, folder: Path) -> Iterator[str]:
    """One of `servers` with the Python of its environment, ready: its address. What it says goes to folder/log."""
    lib = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
                         capture_output=True, text=True).stdout.strip()  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"LD_LIBRARY_PATH": lib, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    url = f"http://127.0.0.1:{(port := free())}"
    with (folder / "log").open("w") as log:
        command = [python, str(HERE / "servers.py"), server, str(folder), str(port)]
        running = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        wait(url + READY[server])
        yield url
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)


@contextmanager
def gate(policy: Path, port: int) -> Iterator[str]:
    """`portcullis serve` under a policy that listens on this port: its address."""
    command = [sys.executable, "-c", "from portcullis_ml.cli import main; main()", "serve", "--policy", str(policy)]
    with policy.with_suffix(".log").open("w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait(f"{url}/v2/health/live", 120)
        yield url
    finally:
        running.terminate()
        running.wait(30)


def curl(url: str, path: str, tree: object, key: str | None) -> dict[str, object]:
    """One POST with curl: the scores or the error."""
    command = ["curl", "-s", "-m", "20", "-X", "POST", url + path, "-H", "content-type: application/json"]
    command += ["-H", f"x-api-key: {key}"] if key else []
    text = subprocess.run([*command, "-d", json.dumps(tree)], capture_output=True, text=True).stdout
    try:
        found = json.loads(text)
        if "predictions" in found:
            return {"scores": found["predictions"]}
        scores = next(o for o in found["outputs"] if o["datatype"].startswith("FP"))
        return {"scores": np.reshape(scores["data"], (-1, 10)).tolist()}
    except (ValueError, KeyError, StopIteration):
        return {"error": text[:90]}


def verdict(found: dict[str, object], truth: np.ndarray) -> str:
    if "error" in found:
        text = str(found["error"])
        status = re.match(r"\[(\d+)\]", text)  # tritonclient puts the status first
        return f"error {status[1]}" if status else f"error: {text.splitlines()[0]}"
    scores = np.asarray(found["scores"], float)
    if scores.shape != truth.shape:
        return f"shape {scores.shape}"
    return "same" if np.abs(scores - truth).max() < 1e-5 else f"differs by {np.abs(scores - truth).max():.2g}"


def ask_all(url: str, server: str, client: Path, x: np.ndarray, truth: np.ndarray, through: bool) -> dict[str, str]:
    """What each client gets from this address; a server is asked directly only in a protocol that it speaks."""
    key = KEY if through else None
    name, scores = ("input", "probabilities") if through or server == "triton" else ("predict", "predict_proba")
    found = {}
    if through or server != "mlflow":
        for kind in ("JSON", "binary"):
            words = [client, str(HERE / "matrix_client.py"), url, kind, scores, "FP32", name, key or ""]
            done = subprocess.run(words, input=json.dumps(x.tolist()), capture_output=True, text=True)
            found[f"tritonclient, {kind}"] = verdict(json.loads(done.stdout or '{"error": "no output"}'), truth)
        tensor = {"name": name, "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
        tree = {"inputs": [tensor], "outputs": [{"name": scores}]}
        found["curl, v2"] = verdict(curl(url, "/v2/models/digits/infer", tree, key), truth)
    if through or server == "mlflow":
        found["curl, /invocations"] = verdict(curl(url, "/invocations", {"inputs": x.tolist()}, key), truth)
    if through:
        found["curl, v1"] = verdict(curl(url, "/v1/models/digits:predict", {"instances": x.tolist()}, key), truth)
    return found


def versions(server: str, python: Path) -> str:
    """The packages of an environment that matter here."""
    code = (
        "import sys; from importlib.metadata import version as v; print(', '.join(f'{p} {v(p)}' for p in sys.argv[1:]))"
    )
    return subprocess.run([python, "-c", code, *PACKAGES[server]], capture_output=True, text=True).stdout.strip()


def rows_of(server: str, environments: Path) -> dict[str, tuple[str, str]]:
    """client -> (what it gets directly, what it gets through the gate)."""
    from sklearn.datasets import load_digits

    from portcullis_ml.gateway.policy.clients import hashed
    from servers import model

    classifier = model()
    x = (load_digits().data[1200:1204] / 16.0).astype(np.float32)
    truth = classifier.predict_proba(x.astype(float))
    folder, port = Path(tempfile.mkdtemp()), free()
    np.savez(folder / "weights.npz", coef=classifier.coef_, intercept=classifier.intercept_)
    (folder / "guard.key").write_text("00" * 32)
    client = environments / "mlserver" / "bin" / "python"
    with model_server(server, environments / server / "bin" / "python", folder) as url:
        text = POLICY.format(url=url, upstream=UPSTREAM[server], port=port, folder=folder, digest=hashed(KEY))
        (folder / "p.toml").write_text(text)
        with gate(folder / "p.toml", port) as through:
            direct = ask_all(url, server, client, x, truth, through=False)
            guarded = ask_all(through, server, client, x, truth, through=True)
    return {kind: (direct.get(kind, "not spoken"), word) for kind, word in guarded.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--servers", default="mlserver,triton,mlflow")
    a = parser.parse_args()
    print("$ python benchmarks/gateway/matrix.py --environments FOLDER")
    curls = subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout.split()[:2]
    print(", ".join([versions(s, a.environments / s / "bin" / "python") for s in a.servers.split(",")]
                    + [" ".join(curls)]))  # fmt: skip
    print("| server | client | direct | through the gate |\n| --- | --- | --- | --- |")
    for server in a.servers.split(","):
        for client, (direct, guarded) in rows_of(server, a.environments).items():
            print(f"| {server} | {client} | {direct} | {guarded} |", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    main()
