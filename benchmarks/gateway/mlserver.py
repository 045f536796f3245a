"""The gate in front of MLServer, as a share of MLServer alone.

    python benchmarks/gateway/mlserver.py --mlserver-python PATH      # the Python of an environment with
                                                                      # mlserver and mlserver-sklearn

The model is a logistic regression of 784 inputs. The whole guard, with 2,000 samples of each class on record, is
asked the same questions as the server itself and as a pass-through on aiohttp that guards nothing, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
D = 784


def serve(folder: Path, port: int) -> None:
    """In the other environment: train, save, and become MLServer."""
    import joblib
    from images import images
    from sklearn.linear_model import LogisticRegression

    x, y = images(3_000, D, 1)
    joblib.dump(LogisticRegression(max_iter=100).fit(x, y), folder / "model.joblib")
    server = {"host": "127.0.0.1", "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2,
              "parallel_workers": 0, "debug": False}  # fmt: skip
    about = {"name": "m", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": "model.joblib"}}
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(about))
    os.execv(Path(sys.executable).parent / "mlserver", ["mlserver", "start", str(folder)])


def ready(url: str, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{url}/v2/models/m/ready", timeout=1)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise SystemExit("MLServer did not become ready.")


def main() -> None:
    from host import machine
    from throughput import Load, cpu, interval, middle, start, stop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mlserver-python", required=True)
    parser.add_argument("--requests", type=int, default=300, help="in a round, to each")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--stored", type=int, default=2_000)
    parser.add_argument("--port", type=int, default=18_080)
    a = parser.parse_args()
    print("$ python benchmarks/gateway/mlserver.py --mlserver-python PATH")
    print(machine())
    folder = Path(tempfile.mkdtemp())
    command = [a.mlserver_python, str(HERE / "mlserver.py"), "serve", str(folder), str(a.port)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with (folder / "log").open("wb") as log:
        model = subprocess.Popen(command, stdout=log, stderr=log, env=environment, text=True)
    url = f"http://127.0.0.1:{a.port}"
    ready(url)
    gate, gate_url = start("gates.py", "full", url, str(D), str(a.stored), "scores=predict_proba")
    bare, bare_url = start("gates.py", "bare", url, "aiohttp")
    same = {"d": D, "binary": False, "outputs": ["predict_proba"], "n": a.requests, "prepared": 2_000}
    ways = [("alone", url, gate), ("bare, aiohttp", bare_url, bare), ("behind the gate", gate_url, gate)]
    try:
        for connections in (1, 8):
            asked = {**same, "seed": connections, "connections": connections}  # other questions than before
            loads = [(name, Load(at, between, **asked)) for name, at, between in ways]
            found: dict[str, list[dict]] = {name: [] for name, _ in loads}
            for turn in range(-2, a.rounds):  # the first two warm up
                for name, asking in loads[turn % 3 :] + loads[: turn % 3]:
                    before = cpu(model)
                    run = asking.run()
                    if turn >= 0:
                        found[name].append({**run, "model_us": 1e6 * (cpu(model) - before) / a.requests})
            for _, asking in loads:
                asking.end()
            print(f"{connections} connections")
            for name, runs in found.items():
                m = {k: float(np.median([r[k] for r in runs])) for k in ("rps", "p50", "p99", "cpu_us", "model_us")}
                print(f"  {name:16} {m['rps']:6.0f} requests/s  p50 {m['p50']:6.2f} ms  p99 {m['p99']:6.2f} ms  "
                      f"processor time: gate {m['cpu_us']:5.0f} us, MLServer {m['model_us']:5.0f} us  "
                      f"{sum(r['bad'] for r in runs)} not 200")  # fmt: skip
            for first, second in (("behind the gate", "alone"), ("bare, aiohttp", "alone"),
                                  ("behind the gate", "bare, aiohttp")):  # fmt: skip
                ratios = [f["rps"] / s["rps"] for f, s in zip(found[first], found[second], strict=True)]
                print(f"  {first} / {second}: median {middle(ratios)} of throughput, mean {interval(ratios)}")
    finally:
        print(json.loads(stop(gate))["about"], "on record")
        stop(bare)
        stop(model)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(Path(sys.argv[2]), int(sys.argv[3]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    main()
