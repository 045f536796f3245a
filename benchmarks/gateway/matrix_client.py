"""Asks a server with tritonclient and prints how it went, as JSON; needs an environment with tritonclient[http]."""

from __future__ import annotations

import json
import sys

import numpy as np


def ask(url: str, binary: bool, scores: str, dtype: str, name: str, key: str | None) -> str:
    import tritonclient.http as http

    x = np.asarray(json.load(sys.stdin), np.float32 if dtype == "FP32" else np.float64)
    tensor = http.InferInput(name, list(x.shape), dtype)
    tensor.set_data_from_numpy(x, binary_data=binary)
    wanted = [http.InferRequestedOutput(scores, binary_data=binary)]
    try:
        client = http.InferenceServerClient(url.removeprefix("http://"))
        answer = client.infer("digits", [tensor], outputs=wanted, headers={"x-api-key": key} if key else None)
        return json.dumps({"scores": answer.as_numpy(scores).tolist()})
    except Exception as error:
        return json.dumps({"error": str(error)[:90]})


if __name__ == "__main__":
    url, binary, scores, dtype, name, key = sys.argv[1:]
    print(ask(url, binary == "binary", scores, dtype, name, key or None))
