"""Model servers that nobody here wrote, started with a digits model; run with the Python of their own environment.

python servers.py mlserver FOLDER PORT | triton FOLDER PORT | mlflow FOLDER PORT
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def model():  # type: ignore[no-untyped-def]
    """The same classifier in every environment: trained on scikit-learn's digits."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    x, y = load_digits(return_X_y=True)
    return LogisticRegression(max_iter=300).fit(x[:1200] / 16.0, y[:1200])


def mlserver(folder: Path, port: int) -> None:
    import joblib

    if not (folder / "model.joblib").exists():  # whoever starts this may have put another one there
        joblib.dump(model(), folder / "model.joblib")
    server = {"host": "127.0.0.1", "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2,
              "parallel_workers": 0, "debug": False}  # fmt: skip
    about = {"name": "digits", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": "model.joblib"}}
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(about))
    os.execv(Path(sys.executable).parent / "mlserver", ["mlserver", "start", str(folder)])


def triton(folder: Path, port: int) -> None:
    import numpy as np
    from pytriton.decorators import batch
    from pytriton.model_config import ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    weights = np.load(folder / "weights.npz")

    @batch
    def infer(input):  # type: ignore[no-untyped-def]
        z = input.astype(np.float64) @ weights["coef"].T + weights["intercept"]
        z = np.exp(z - z.max(axis=1, keepdims=True))
        return {"probabilities": (z / z.sum(axis=1, keepdims=True)).astype(np.float32)}

    config = TritonConfig(
        http_address="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2, log_verbose=0
    )
    with Triton(config=config) as server:
        server.bind(
            model_name="digits", infer_func=infer, config=ModelConfig(max_batch_size=1024),
            inputs=[Tensor(name="input", dtype=np.float32, shape=(64,))],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(10,))],
        )  # fmt: skip
        server.serve()


def mlflow(folder: Path, port: int) -> None:
    import mlflow.sklearn

    mlflow.sklearn.save_model(model(), folder / "model", pyfunc_predict_fn="predict_proba")
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder / "model"), "-p", str(port),
               "--env-manager", "local", "--host", "127.0.0.1"]  # fmt: skip
    sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    {"mlserver": mlserver, "triton": triton, "mlflow": mlflow}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
