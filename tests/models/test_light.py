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
    ("code", "package"),
    [
        ("import portcullis_ml.models.torch", "torch"),
        ("from portcullis_ml.models.networks import build_network; build_network('mlp', (4,), 2)", "torch"),
        ("from portcullis_ml.models.onnx import OnnxModel; OnnxModel(b'')", "onnxruntime"),
        (
            "from portcullis_ml.models.load import save_model; save_model(type('M', (), {'estimator': 1})(), 'x')",
            "skops",
        ),
    ],
)
def test_an_absent_package_names_its_extra(code, package):
    ran = python(f"import sys; sys.modules[{package!r}] = None\n{code}")
    advice = (
        "which is not installed. Install Portcullis with its extra 'audit': pip install '.[audit]' in its checkout."
    )
    assert f"needs {package}, {advice}" in ran.stderr
