"""Published attacks over HTTP against the gate in front of MLServer, and what the offline audit says of the same guard.

    python benchmarks/gateway/attacks.py --environments /path/with/mlserver --seeds 3

The victim is scikit-learn's logistic regression on its digits. Each attack runs once through `LocalOracle` and once
through the gate, with the same generator: the row of the first alarm must be the same. Honest clients send the held-out
digits in an order of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

from portcullis.core.errors import Refused
from portcullis.core.extraction import Knowledge
from portcullis.core.guard import Guard
from portcullis.core.oracle import LocalOracle
from portcullis.extraction.jacobian import PRESETS
from portcullis.gateway.clients import hashed
from portcullis.gateway.demo import INTERFACE, MlpLearner, digits_rows
from portcullis.gateway.oracle import HttpOracle
from portcullis.gateway.policy import parse_policy
from portcullis.gateway.server import Server
from portcullis.measures.statistics import clopper_pearson
from portcullis.models.sklearn import SklearnModel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
ATTACKS = ("jb_top3", "papernot", "jb_self")
POLICY = """
key_file = "guard.key"
quantum = 0.0625
[upstream]
url = "{url}"
scores = "predict_proba"
input = "predict"
[model]
name = "digits"
input_shape = [64]
classes = 10
[listen]
port = 0
[admin]
port = 0
[state]
url = "sqlite:///{folder}/state.db"
[clients]
key = [{keys}]
[[guard]]
unit = "watch"
detector = {{ unit = "prada", threshold = {threshold} }}
then = {{ unit = "block" }}
[[guard]]
unit = "rounding"
decimals = 3
"""


def main() -> None:
    from matrix import READY, free, wait
    from servers import model

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=1_600)
    parser.add_argument("--honest", type=int, default=5)
    parser.add_argument("--threshold", type=float, default=3.0)
    a = parser.parse_args()
    folder, port = Path(tempfile.mkdtemp()), free()
    python = a.environments / "mlserver" / "bin" / "python"
    log = (folder / "log").open("w")
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    command = [python, str(HERE / "servers.py"), "mlserver", str(folder), str(port)]
    running = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    names = [f"{attack}-{seed}" for attack in ATTACKS for seed in range(a.seeds)]
    names += [f"honest-{i}" for i in range(a.honest)]
    keys = ", ".join(f'{{ client = "{n}", sha256 = "{hashed(n)}" }}' for n in names)
    (folder / "guard.key").write_text("00" * 32)
    text = POLICY.format(url=f"http://127.0.0.1:{port}", folder=folder, keys=keys, threshold=a.threshold)
    policy = parse_policy(text, folder=folder)
    try:
        wait(f"http://127.0.0.1:{port}{READY['mlserver']}")
        server, stop = serve(policy)
        compare(server, policy, SklearnModel(model()), a)
        stop()
    finally:
        os.killpg(running.pid, signal.SIGKILL)


def serve(policy):  # type: ignore[no-untyped-def]
    """A gate in a thread, and what ends it."""
    made, ready = [], threading.Event()

    async def run() -> None:
        made.append((Server(policy), asyncio.get_running_loop()))
        task = asyncio.create_task(made[0][0]())
        await made[0][0].started.wait()
        ready.set()
        await task

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    ready.wait()

    def stop() -> None:
        made[0][1].call_soon_threadsafe(made[0][0].stop)
        thread.join()

    return made[0][0], stop


def compare(server, policy, victim, a) -> None:  # type: ignore[no-untyped-def]
    x, y = digits_rows()
    own = np.arange(1_200, len(x))
    seeds = np.concatenate([x[own[y[own] == digit][:10]] for digit in range(10)])
    knowledge = Knowledge(seeds=seeds, learner=MlpLearner(iterations=25))
    stopped = same = 0
    for name in ATTACKS:
        for seed in range(a.seeds):
            client = f"{name}-{seed}"
            offline = LocalOracle(victim, INTERFACE, budget=a.budget, guard=Guard(*policy.stages, key=policy.key,
                                                                                 quantum=policy.quantum))  # fmt: skip
            PRESETS[name](offline, knowledge, rng=np.random.default_rng(seed))
            online = HttpOracle(server.url, interface=INTERFACE, budget=a.budget, model="digits",
                                headers={"x-api-key": client}, rows_per_request=1_024)  # fmt: skip
            found = PRESETS[name](online, knowledge, rng=np.random.default_rng(seed))
            online.close()
            rows = [[alarm.row for alarm in oracle] for oracle in (offline.alarms, alarms_of(server, client))]
            stopped += bool(rows[1])
            same += rows[0] == rows[1]
            print(f"{client:12s} alarm offline at row {rows[0]}, through the gate {rows[1]}; ended by: {found.stopped}")
    n = len(ATTACKS) * a.seeds
    print(f"stopped {stopped} of {n}: {clopper_pearson(stopped, n)}; the same row offline and online {same} of {n}")
    hurt = 0
    for i in range(a.honest):
        oracle = HttpOracle(server.url, interface=INTERFACE, budget=len(x), model="digits",
                            headers={"x-api-key": f"honest-{i}"}, rows_per_request=32)  # fmt: skip
        try:
            oracle.query(x[np.random.default_rng(100 + i).permutation(len(x))])
        except Refused:
            hurt += 1
        oracle.close()
    print(f"honest clients of {len(x)} queries hurt: {hurt} of {a.honest}: {clopper_pearson(hurt, a.honest)}")


def alarms_of(server, client):  # type: ignore[no-untyped-def]
    import sqlite3

    from portcullis.core.guard import Alarm

    db = sqlite3.connect(server.policy.state.url.removeprefix("sqlite:///"))
    rows = db.execute("SELECT stage, client, row, suspicion, at FROM alarms WHERE client = ?", (client,)).fetchall()
    db.close()
    return [Alarm(*row) for row in rows]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    main()
