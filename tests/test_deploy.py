"""The container file and the Kubernetes manifests: linted, and of one mind with the gate and its policy."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from portcullis_ml.gateway.policy.policy import Policy, read_policy
from portcullis_ml.gateway.policy.warn import warnings

DEPLOY = Path(__file__).parent.parent / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def named(kind: str, name: str) -> dict[str, Any]:
    return next(d for p in MANIFESTS for d in documents(p) if (d["kind"], d["metadata"]["name"]) == (kind, name))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_the_manifests_are_what_kubernetes_takes(path: Path, version: str) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_wrong_manifest_would_be_refused() -> None:
    gate = named("StatefulSet", "portcullis")
    gate["spec"]["replica"] = gate["spec"].pop("replicas")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(gate, "1.29", strict=True)


def lint(text: str) -> subprocess.CompletedProcess[str]:
    hadolint = Path(sys.executable).with_name("hadolint")
    return subprocess.run([hadolint, "-"], input=text, capture_output=True, text=True)


def test_the_container_file_is_linted() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    told = lint(text)
    assert told.returncode == 0, told.stdout
    assert lint(text.replace("USER 65534", "USER root")).returncode != 0


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/guard.key").write_text("00" * 32)
    (tmp_path / "portcullis.toml").write_text(named("ConfigMap", "portcullis")["data"]["portcullis.toml"])
    return read_policy(tmp_path / "portcullis.toml")


def test_the_manifests_fit_the_policy_that_they_mount(policy: Policy) -> None:
    pod = named("StatefulSet", "portcullis")["spec"]["template"]["spec"]
    (gate,) = pod["containers"]
    assert {p["name"]: p["containerPort"] for p in gate["ports"]} == {
        "http": policy.listen.port,
        "operators": policy.admin.port,
    }
    mounts = {m["mountPath"] for m in gate["volumeMounts"]}
    for place in (
        policy.state.url.removeprefix("sqlite:///"),
        policy.clients.keys_file,
        policy.log and policy.log.path,
    ):
        assert str(Path(str(place)).parent) in mounts
    assert pod["terminationGracePeriodSeconds"] > policy.limits.drain_s
    assert not policy.enforced  # nobody is refused before somebody has looked
    assert not [note for note in warnings(policy) if "Nobody is named" in note]


def test_the_probes_ask_routes_of_the_operators_port() -> None:
    from portcullis_ml.gateway.admin import app

    routes = set(re.findall(r'Route\("(/[a-z]+)"', Path(app.__file__).read_text()))
    (gate,) = named("StatefulSet", "portcullis")["spec"]["template"]["spec"]["containers"]
    probes = [gate[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert {p["port"] for p in probes} == {"operators"}
    assert {p["path"] for p in probes} == {"/healthz", "/readyz"} <= routes


def test_only_the_gate_reaches_the_model() -> None:
    rule = named("NetworkPolicy", "model-only-by-the-gate")["spec"]
    allowed = [peer["podSelector"]["matchLabels"] for entry in rule["ingress"] for peer in entry["from"]]
    assert allowed == [named("StatefulSet", "portcullis")["spec"]["selector"]["matchLabels"]]
