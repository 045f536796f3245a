"""JSON services of FastAPI, LitServe, BentoML and MLflow behind the gate, by the blocks of their pages.

Each is asked directly and through the gate, with what its page says: the answers are equal. An attack meets the guard
as it does offline, the quota holds, and what is wrong is refused by the gate in a sentence.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from tests.gateway.harness import SECRET, gate
from tests.servers.environments import free_port, python_of, serving
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import Refused
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Answer, Array, Interface, Reveals
from portcullis_ml.extraction.equation_solving import EquationSolving
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.policy import Policy, parse_policy

pytestmark = pytest.mark.servers

PAGES = Path(__file__).parents[2] / "docs" / "gateway" / "in-front-of"
FLOWERS = [[5.1, 3.5, 1.4, 0.2], [6.0, 3.0, 5.0, 2.0], [5.9, 3.0, 4.2, 1.5]]
ANNA, BERT = {"age": 61, "city": "Bern", "member": True}, {"age": 19, "city": "Basel", "member": False}
COLUMNS = ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)")


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (PAGES / f"{page}.md").read_text(), re.M | re.S)


def policy_of(page: str, name: str) -> str:
    """The policy in the block with this name: the page's whole one, with its own tables in the place of that one's."""
    whole, *others = blocks(page, "toml")
    if whole.startswith(f"# {name}"):
        return whole
    own = next(block for block in others if block.startswith(f"# {name}"))
    tables = set(re.findall(r"^\[([\w.]+)\]", own, re.M))
    kept = [t for t in re.split(r"^(?=\[)", whole, flags=re.M) if not re.match(rf"\[({'|'.join(tables)})[\].]", t)]
    return "".join(kept) + own


@dataclass
class Case:
    """One route of one server: questions as clients write them, and how a direct answer is read."""

    page: str
    policy: str
    path: str
    questions: list[Any]
    wrong: list[Any]
    rows: Callable[[Array], list[Any]]  # rows -> bodies of direct questions
    scores: Callable[[Any], list[list[float]]]  # a direct answer -> scores of its rows
    shown: dict[str, Any] = field(default_factory=dict)  # of the interface that an attacker knows
    apart: Callable[[Any], Any] = lambda tree: tree  # what of a direct answer goes through the gate


def people(x: Array) -> list[dict[str, Any]]:
    return [{"age": a, "city": ("Bern", "Basel")[int(c)], "member": bool(m)} for a, c, m in x.tolist()]


def binary(found: list[dict[str, Any]]) -> list[list[float]]:
    return [[1 - r["score"], r["score"]] if r["label"] == "yes" else [r["score"], 1 - r["score"]] for r in found]


def onehot(k: int, p: float = 1.0) -> list[float]:
    return [p if i == k else (1 - p) / 2 for i in range(3)]


SPECIES = ("setosa", "versicolor", "virginica")
CASES = {
    "fastapi, a flat row": Case(
        "fastapi", "flat.toml", "/predict", [{"features": row} for row in FLOWERS],
        [{"features": FLOWERS}, {"features": [1, 2, 3]}, {"features": [1, 2, 3, "4"]}, {"row": [1, 2, 3, 4]}, [1]],
        lambda x: [{"features": row} for row in x.tolist()],
        lambda said: [[said["probabilities"][name] for name in SPECIES]],
    ),
    "fastapi, objects by name": Case(
        "fastapi", "people.toml", "/approve", [[ANNA, BERT], [BERT]],
        [ANNA, [], [{**ANNA, "city": "Paris"}], [{**ANNA, "age": "61"}], [{**ANNA, "member": 1}], [{"age": 61}],
         [{**ANNA, "age": 61.5}], [{**ANNA, "more": 1}]],
        lambda x: [[person] for person in people(x)], lambda said: binary(said["results"]),
    ),
    "fastapi, one number": Case(
        "fastapi", "churn.toml", "/churn", [ANNA, BERT], [[ANNA], {**ANNA, "age": None}, {}, 1],
        people, lambda said: [[1 - said["score"], said["score"]]],
    ),
    "litserve": Case(
        "litserve", "portcullis.toml", "/predict", [{"input": row} for row in FLOWERS],
        [{"input": FLOWERS}, {"input": [1]}, {"input": "x"}, {"input": FLOWERS[0], "more": 1}],
        lambda x: [{"input": row} for row in x.tolist()], lambda said: [said["output"]],
    ),
    "bentoml": Case(
        "bentoml", "portcullis.toml", "/classify", [{"rows": FLOWERS}, {"rows": FLOWERS[:1], "tag": "a"}],
        [{"rows": FLOWERS[0]}, {"rows": []}, {"rows": FLOWERS, "tag": ["a"]}, {"rows": FLOWERS, "other": 1}],
        lambda x: [{"rows": [row]} for row in x.tolist()],
        lambda said: [onehot(SPECIES.index(r["species"]), r["score"]) for r in said],
        {"reveals": Reveals.TOP_K, "k": 1},
        lambda said: [{key: row[key] for key in ("species", "score")} for row in said],
    ),
    "mlflow, a tensor": Case(
        "mlflow", "iris.toml", "/invocations", [{"inputs": FLOWERS}, {"instances": FLOWERS[:1]}],
        [{"inputs": FLOWERS[0]}, {"inputs": [[1, 2, 3]]}, {"inputs": FLOWERS, "params": {}}, {"rows": FLOWERS}],
        lambda x: [{"inputs": [row]} for row in x.tolist()], lambda said: said["predictions"],
    ),
    "mlflow, columns": Case(
        "mlflow", "species.toml", "/invocations",
        [{"dataframe_records": [dict(zip(COLUMNS, row, strict=True)) for row in FLOWERS]},
         {"dataframe_split": {"columns": list(COLUMNS), "data": FLOWERS}}],
        [{"dataframe_records": [{"sepal length (cm)": 1}]}, {"dataframe_records": [{"other": 1}]}],
        lambda x: [{"dataframe_records": [dict(zip(COLUMNS, row, strict=True))]} for row in x.tolist()],
        lambda said: [onehot(int(k)) for k in said["predictions"]],
        {"reveals": Reveals.LABELS},
    ),
}  # fmt: skip


def command(page: str, port: int, case: str, folder: Path) -> list[str]:
    """How a page's console block starts its server, with the environment's own Python."""
    line = next(c for c in blocks(page, "console")[0].splitlines() if "8080" in c and "portcullis" not in c)
    words = shlex.split(line.removeprefix("$ ").replace("8080", str(port)))
    python = python_of("litserve" if page == "fastapi" else page)
    if page == "mlflow":
        subprocess.run([python, "save.py"], cwd=folder, check=True, capture_output=True)
        words[words.index("iris")] = CASES[case].policy.removesuffix(".toml")
    return ["env", f"PATH={Path(python).parent}:{os.environ['PATH']}", *words]


READY = {"fastapi": "/docs", "litserve": "/health", "bentoml": "/readyz", "mlflow": "/ping"}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """The address of a case's server, which is started when it is first asked for."""
    running: dict[str, str] = {}

    with contextlib.ExitStack() as stack:

        def address(case: str) -> str:
            page = CASES[case].page
            key = case if page == "mlflow" else page  # whose servers have one model each
            if key not in running:
                folder, port = tmp_path_factory.mktemp(page), free_port()
                (source,) = blocks(page, "python")
                (folder / source.splitlines()[0].removeprefix("# ")).write_text(source)
                url = f"http://127.0.0.1:{port}"
                stack.enter_context(serving(command(page, port, case, folder), folder, url + READY[page]))
                running[key] = url
            return running[key]

        yield address


def post(url: str, tree: Any) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(tree).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def policy(case: str, url: str, folder: Path, rows: int = 500, more: str = "") -> Policy:
    text = policy_of(CASES[case].page, CASES[case].policy).replace("http://127.0.0.1:8080", url)
    assert "rows = 500" in text
    text = text.replace("rows = 500", f"rows = {rows}") + more
    (folder / "guard.key").write_text(SECRET.hex())
    (folder / CASES[case].policy).write_text(text)
    changes = {"listen.port": 0, "admin.port": 0, "state.url": f"sqlite:///{folder / f'{rows}.db'}"}
    return parse_policy(text, folder=folder, changes=changes)


@pytest.mark.parametrize("case", CASES)
def test_through_the_gate_the_answer_is_the_servers_own(case: str, servers: Any, tmp_path: Path) -> None:
    held, url = CASES[case], servers(case)
    with gate(policy(case, url, tmp_path)) as server:
        for wrong in held.wrong:  # before the gate knows any row that the model takes, and below after
            assert_refused(post(server.url + held.path, wrong), wrong)
        for question in held.questions:
            assert post(url + held.path, question)[0] == 200
            status, said = post(server.url + held.path, question)
            assert (status, said) == (200, held.apart(post(url + held.path, question)[1]))
        for wrong in held.wrong:
            assert_refused(post(server.url + held.path, wrong), wrong)
        assert post(f"{server.url}/v1/chat/completions", {"messages": []})[0] == 404


def assert_refused(came: tuple[int, Any], wrong: Any) -> None:
    status, said = came
    assert 400 <= status < 500, (wrong, came)
    assert str(said.get("error") or said.get("message")).endswith("."), (wrong, came)


class Direct:
    """The model as the server tells it to whoever asks it directly, one row at a time."""

    def __init__(self, case: Case, url: str, interface: Interface) -> None:
        self.case, self.url = case, url + case.path
        self.input_shape, self.n_classes = interface.input_shape, interface.n_classes

    def scores(self, x: Array) -> Array:
        found = [post(self.url, body) for body in self.case.rows(x)]
        assert {status for status, _ in found} == {200}
        return np.concatenate([self.case.scores(said) for _, said in found])


@pytest.mark.parametrize("case", CASES)
def test_an_attack_through_the_gate_meets_what_it_meets_offline(case: str, servers: Any, tmp_path: Path) -> None:
    held, url = CASES[case], servers(case)
    found = policy(case, url, tmp_path, 9, '\n[[guard]]\nunit = "rounding"\ndecimals = 2\n')
    interface = found.served.interface.revealing(**held.shown)
    names, protocol = found.served.class_names, str(tmp_path / held.policy)
    x = np.floor(interface.uniform(12, np.random.default_rng(1)))
    with gate(found) as server:
        online = HttpOracle(
            server.url, interface=interface, budget=12, served={"class_names": names}, rows_per_request=1,
            protocol="invocations" if held.page == "mlflow" else protocol,
        )  # fmt: skip
        over_http, refused = answers_to(x, online)
        online.close()
    guard = Guard(*found.stages, key=SECRET, interface=found.asked.interface)
    offline = LocalOracle(Direct(held, url, interface), interface, budget=12, guard=guard)
    here, reason = answers_to(x, offline)
    assert len(over_http) == len(here) == 9
    assert refused == reason != ""
    for a, b in zip(over_http, here, strict=True):
        np.testing.assert_array_equal(a.labels, b.labels)
        if b.scores is not None:  # where one number is told of two classes, the other's is what is missing to 1
            np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=1e-15)


def answers_to(x: Array, oracle: Any) -> tuple[list[Answer], str]:
    """The answers to row after row until the guard refuses, and its reason."""
    found = []
    for row in x:
        try:
            found.append(oracle.query(row[None]))
        except Refused as refusal:
            return found, refusal.reason
    return found, ""


def test_an_attack_steals_a_service_by_its_policys_file(servers: Any, tmp_path: Path) -> None:
    """The service itself, without a gate: the file that describes it to the gate describes it to an attacker."""
    url = servers("fastapi, a flat row")
    found = policy("fastapi, a flat row", url, tmp_path)
    with gate(found) as server:
        copies = []
        for address in (url, server.url):
            oracle = HttpOracle(
                address, interface=found.served.interface, budget=25, protocol=str(tmp_path / "flat.toml"),
                served={"class_names": found.served.class_names},
            )  # fmt: skip
            copies.append(EquationSolving(oversample=5.0)(oracle, Knowledge(), rng=np.random.default_rng(0)).model)
            oracle.close()
    probe = found.served.interface.uniform(30, np.random.default_rng(2))
    np.testing.assert_allclose(copies[0].scores(probe), copies[1].scores(probe), atol=1e-9)


def test_the_pages_file_tells_an_audit_how_to_speak_to_the_service(
    servers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTCULLIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    url = servers("fastapi, a flat row")
    policy("fastapi, a flat row", url, tmp_path)
    iris = load_iris()
    np.savez("test.npz", x=iris.data, y=iris.target_names[iris.target])
    (command,) = blocks("fastapi", "console")[1].splitlines()
    words = shlex.split(command.removeprefix("$ portcullis ").replace("http://127.0.0.1:8080", url))
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert "97.3% answered as labelled" in " ".join(told.output.split())


@pytest.mark.parametrize("case", CASES)
def test_the_commands_of_the_page_work(case: str, servers: Any, tmp_path: Path) -> None:
    held, url = CASES[case], servers(case)
    policy(case, url, tmp_path)
    told = CliRunner().invoke(app, ["check", str(tmp_path / held.policy), "--live"])
    assert told.exit_code == 0, told.output
    lines = blocks(held.page, "console")[0].splitlines()
    assert any(line.startswith("$ portcullis check") and "--live" in line for line in lines)
    curl = next(line.removeprefix("$ ") for line in lines if line.startswith("$ curl"))
    if held.path in curl and held.policy in "\n".join(lines):
        with gate(policy(case, url, tmp_path)) as server:
            words = shlex.split(curl.replace("http://127.0.0.1:8000", server.url))
            said = json.loads(subprocess.run([*words, "-s"], check=True, capture_output=True).stdout)
        assert "error" not in said
