"""Without torch the rest still works, and what needs it says which extra to install."""

import subprocess
import sys

import pytest


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_loading_and_victims_import_no_framework():
    heavy = "{'torch', 'onnxruntime', 'skops', 'safetensors'}"
    ran = python(
        "import sys, portcullis.models.load, portcullis.models.victims, portcullis.models.networks, "
        f"portcullis.models.sklearn, portcullis.data.splits; print(sorted({heavy} & set(sys.modules)))"
    )
    assert ran.stdout.strip() == "[]", ran.stderr


@pytest.mark.parametrize(
    ("code", "package"),
    [
        ("import portcullis.models.torch", "torch"),
        ("from portcullis.models.networks import build_network; build_network('mlp', (4,), 2)", "torch"),
        ("from portcullis.models.onnx import OnnxModel; OnnxModel(b'')", "onnxruntime"),
        ("from portcullis.models.load import save_model; save_model(type('M', (), {'estimator': 1})(), 'x')", "skops"),
    ],
)
def test_an_absent_package_names_its_extra(code, package):
    ran = python(f"import sys; sys.modules[{package!r}] = None\n{code}")
    assert f"needs {package}, which is not installed. Run: pip install 'portcullis[audit]'" in ran.stderr
