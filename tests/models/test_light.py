"""Without torch the rest still works, and what needs it says which extra to install."""

import subprocess
import sys

import pytest


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_loading_and_victims_import_no_framework():
    heavy = "{'torch', 'onnxruntime', 'skops', 'safetensors'}"
    ran = python(
        "import sys, portcullis_ml.models.load, portcullis_ml.models.victims, portcullis_ml.models.networks, "
        f"portcullis_ml.models.sklearn, portcullis_ml.data.splits; print(sorted({heavy} & set(sys.modules)))"
    )
    assert ran.stdout.strip() == "[]", ran.stderr


@pytest.mark.parametrize(
    ("code", "package", "extra"),
    [
        ("import portcullis_ml.models.torch", "torch", "audit"),
        ("from portcullis_ml.models.networks import build_network; build_network('mlp', (4,), 2)", "torch", "audit"),
        ("from portcullis_ml.models.onnx import OnnxModel; OnnxModel(b'')", "onnxruntime", "audit"),
        (
            "from portcullis_ml.models.load import save_model; save_model(type('M', (), {'estimator': 1})(), 'x')",
            "skops",
            "audit",
        ),
        ("from portcullis_ml.gateway.guarded import Guarded", "orjson", "gateway"),
        ("import portcullis_ml.gateway.server", "uvicorn", "gateway"),
    ],
)
def test_an_absent_package_names_its_extra(code, package, extra):
    ran = python(f"import sys; sys.modules[{package!r}] = None\n{code}")
    advice = f"needs {package}, which is not installed. Install Portcullis with its extra {extra!r}: "
    how = f"pip install '.[{extra}]' in a checkout, or pip install 'FILE.whl[{extra}]' with its wheel."
    assert f"{advice}{how}" in ran.stderr
