"""Every server and client that nobody here wrote, with the gate between them and without.

    python benchmarks/gateway/matrix.py --environments /path/with/mlserver,triton,mlflow

Environments: `mlserver` (mlserver, mlserver-sklearn, tritonclient[http]), `triton` (nvidia-pytriton),
`mlflow` (mlflow, scikit-learn). A cell says "same" when the scores agree with those of the model to 1e-5.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
KEY = "matrix"
READY = {"mlserver": "/v2/models/digits/ready", "triton": "/v2/models/digits/ready", "mlflow": "/ping"}
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
        return f"error: {found['error']}"
    scores = np.asarray(found["scores"], float)
    if scores.shape != truth.shape:
        return f"shape {scores.shape}"
    return "same" if np.abs(scores - truth).max() < 1e-5 else f"differs by {np.abs(scores - truth).max():.2g}"


def ask_all(url: str, server: str, client: str, x: np.ndarray, truth: np.ndarray, gate: bool) -> dict[str, str]:
    """What each client gets from this address."""
    key = KEY if gate else None
    name, scores = ("input", "probabilities") if gate or server == "triton" else ("predict", "predict_proba")
    found = {}
    if gate or server != "mlflow":
        for kind in ("JSON", "binary"):
            words = [client, str(HERE / "matrix_client.py"), url, kind, scores, "FP32", name, key or ""]
            done = subprocess.run(words, input=json.dumps(x.tolist()), capture_output=True, text=True)
            found[f"tritonclient {kind}"] = verdict(json.loads(done.stdout or '{"error": "no output"}'), truth)
        tensor = {"name": name, "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
        tree = {"inputs": [tensor], "outputs": [{"name": scores}]}
        found["curl v2"] = verdict(curl(url, "/v2/models/digits/infer", tree, key), truth)
    if gate or server == "mlflow":
        found["curl /invocations"] = verdict(curl(url, "/invocations", {"inputs": x.tolist()}, key), truth)
    if gate:
        found["curl v1"] = verdict(curl(url, "/v1/models/digits:predict", {"instances": x.tolist()}, key), truth)
    return found


def main() -> None:
    from portcullis.gateway.clients import hashed

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--servers", default="mlserver,triton,mlflow")
    a = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from servers import model
    from sklearn.datasets import load_digits

    classifier = model()
    x = (load_digits().data[1200:1204] / 16.0).astype(np.float32)
    truth = classifier.predict_proba(x.astype(float))
    for server in a.servers.split(","):
        python = a.environments / server / "bin" / "python"
        folder, port = Path(tempfile.mkdtemp()), free()
        np.savez(folder / "weights.npz", coef=classifier.coef_, intercept=classifier.intercept_)
        lib = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
                             capture_output=True, text=True).stdout.strip()  # fmt: skip
        environment = {**os.environ, "LD_LIBRARY_PATH": lib, "PATH": f"{python.parent}:{os.environ['PATH']}"}
        log = (folder / "log").open("w")
        running = subprocess.Popen([python, str(HERE / "servers.py"), server, str(folder), str(port)],
                                   stdout=log, stderr=log, env=environment, start_new_session=True)  # fmt: skip
        (folder / "guard.key").write_text("00" * 32)
        url, gate_port = f"http://127.0.0.1:{port}", free()
        text = POLICY.format(url=url, upstream=UPSTREAM[server], port=gate_port, folder=folder, digest=hashed(KEY))
        (folder / "p.toml").write_text(text)
        gate = None
        try:
            wait(url + READY[server])
            command = [
                sys.executable,
                "-c",
                "from portcullis.cli import main; main()",
                "serve",
                "--policy",
                str(folder / "p.toml"),
            ]
            gate = subprocess.Popen(command, stdout=log, stderr=log)
            wait(f"http://127.0.0.1:{gate_port}/v2/health/live")
            client = str(a.environments / "mlserver" / "bin" / "python")
            for place, where in (("direct", url), ("through the gate", f"http://127.0.0.1:{gate_port}")):
                for kind, word in ask_all(where, server, client, x, truth, place != "direct").items():
                    print(f"{server:9s} {place:17s} {kind:20s} {word}", flush=True)
        finally:
            if gate:
                gate.terminate()
                gate.wait(20)
            os.killpg(running.pid, 15)
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, 9)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    main()
