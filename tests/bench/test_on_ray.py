"""Cells on a Ray cluster of two nodes: the same records, and nothing paid twice when a worker or a node is lost."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.on_ray import RayCluster, _on_gpu, write_at
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Progress, Workspace, run_cells
from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import InputError, MissingExtra, ParameterError
from portcullis_ml.core.oracle import LocalOracle

from .toys import INTERFACE, Logging, cell, work

TESTS = str(Path(__file__).parents[1])
CHANGES = {"seconds", "versions"}


@pytest.mark.parametrize("word", ["spark", "ray:", "ray://", "ray://host", "http://host:1"])
def test_other_words_than_ray_are_refused(word: str) -> None:
    with pytest.raises(ParameterError, match=r"--on must be ray, or ray://HOST:PORT; got"):
        RayCluster(word)


def test_without_ray_the_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"Running cells on Ray needs ray, which is not installed.*\[ray\]"):
        RayCluster()


def test_a_cell_on_a_gpu_is_known_and_names_no_number() -> None:
    assert not _on_gpu(partial(work, device="cpu"))
    assert _on_gpu(partial(work, device="cuda"))
    assert _on_gpu(cell("draw", learner={"network": "mlp", "device": "cuda"}))
    with pytest.raises(ParameterError, match="cuda beside --on ray, which chooses the GPU"):
        _on_gpu(cell("draw", device="cuda:1"))


def test_what_is_written_from_a_place_on_is_the_last_of_the_file(tmp_path: Path) -> None:
    write_at(tmp_path, "sub/ledger.bin", 0, b"first, and half of a sec")
    write_at(tmp_path, "sub/ledger.bin", 7, b"second")
    assert (tmp_path / "sub" / "ledger.bin").read_bytes() == b"first, second"


class Nodes:
    """A cluster of two nodes of one CPU each on this machine; this process belongs to the first."""

    def __init__(self, set_address: Callable[[str], None]) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        set_address(self.cluster.address)
        RayCluster()
        self.other = self.cluster.add_node(num_cpus=1)
        self.cluster.wait_for_nodes()


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    path = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    made = Nodes(partial(monkeypatch.setenv, "RAY_ADDRESS"))
    yield made
    ray.shutdown()
    made.cluster.shutdown()


def plain(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name not in CHANGES} for record in records]


pytestmark = pytest.mark.filterwarnings("default")  # Ray's own


@pytest.mark.slow
def test_records_are_those_of_this_machine_and_a_lost_worker_s_cell_is_run_again(nodes: Nodes, tmp_path: Path) -> None:
    log = tmp_path / "log"
    cells = [cell(what) for what in ("draw", "lacks", "refused", "fails", "bad input", "breaks")]
    cells += [cell("draw", seed) for seed in range(1, 4)]
    # The first start of each of these kills its worker.
    cells += [cell("ask", seed, log=str(log), die_at=15) for seed in range(2)]
    events: list[Progress] = []
    out = tmp_path / "out"
    away = run_cells(cells, work, out=out, jobs=RayCluster(), progress=events.append)
    answered = log.read_text().split()
    assert len(answered) == len(set(answered)) == 60
    here = run_cells(cells, work, out=tmp_path / "here", jobs=1)
    here = run_cells(cells, work, out=tmp_path / "here", jobs=1)  # what its killed worker left undone
    assert plain(away) == plain(here)
    assert os.listdir(out / "cells") == [cells[5].id]
    assert "ZeroDivisionError" in (out / "cells" / cells[5].id / "error.txt").read_text()
    assert {e.kind for e in events} == {"started", "paid", "ended"}
    lost = cell("die")
    (record,) = run_cells([lost], work, out=tmp_path / "lost", jobs=RayCluster())
    assert not record["final"]
    assert record["reason"].startswith("The workers that ran this cell were lost 3 times (last: ")
    with pytest.raises(InputError, match="want a GPU, and no node of the Ray cluster has one"):
        run_cells([cell("draw", device="cuda")], work, out=tmp_path / "gpu", jobs=RayCluster())
    graphics = nodes.cluster.add_node(num_cpus=1, num_gpus=1)
    nodes.cluster.wait_for_nodes()
    where = tmp_path / "where"
    run_cells([cell("draw", 9, device="cuda", where=str(where))], placed, out=tmp_path / "gpu", jobs=RayCluster())
    assert where.read_text() == graphics.node_id


def placed(cell: Cell, workspace: Workspace) -> Record:
    """Notes the node on which the cell runs."""
    import ray

    Path(cell.extra["where"]).write_text(ray.get_runtime_context().get_node_id())
    return Record(cell=cell)


def doomed(cell: Cell, workspace: Workspace) -> Record:
    """Asks 14 rows; on the doomed node it then waits for the end, on another it asks the other 16."""
    import ray

    victim = Logging(Path(cell.extra["log"]))
    with workspace.ledger(columns=2) as ledger:
        oracle = LocalOracle(victim, INTERFACE, budget=cell.budget, ledger=ledger)
        x = cell.rng("attack").uniform(size=(cell.budget, 3))
        for i in range(0, 14, 7):
            oracle.query(x[i : i + 7])
        while ray.get_runtime_context().get_node_id() == cell.extra["doomed"]:
            Path(cell.extra["log"] + ".waits").touch()
            workspace.report(oracle.queries, cell.budget)
            time.sleep(0.6)
        oracle.query(x[14:])
    return Record(cell=cell, queries=oracle.queries)


@pytest.mark.slow
def test_a_killed_node_s_cell_goes_on_elsewhere_and_pays_for_the_rest_only(nodes: Nodes, tmp_path: Path) -> None:
    log, killed = tmp_path / "log", []
    cells = [cell("ask", seed, log=f"{log}{seed}", doomed=nodes.other.node_id) for seed in range(4)]

    def watch(progress: Progress) -> None:
        if not killed and list(tmp_path.glob("*.waits")):
            killed.append(nodes.other)
            nodes.cluster.remove_node(nodes.other, allow_graceful=False)

    records = run_cells(cells, doomed, out=tmp_path / "out", jobs=RayCluster(), progress=watch)
    assert killed
    assert [(r["outcome"], r["queries"]) for r in records] == [("done", 30)] * 4
    for seed in range(4):
        answered = Path(f"{log}{seed}").read_text().split()
        assert len(answered) == len(set(answered)) == 30
    assert len((tmp_path / "out" / "records.jsonl").read_text().splitlines()) == 4
    assert run_cells(cells, doomed, out=tmp_path / "out", jobs=0) == records  # finished: nothing is asked
    json.dumps(records)


@pytest.mark.slow
def test_an_address_that_does_not_answer_is_one_sentence() -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with pytest.raises(InputError, match=r"No Ray cluster answers at ray://127\.0\.0\.1:9 \(.*\)\. Start one"):
        RayCluster("ray://127.0.0.1:9")


@pytest.mark.parametrize("verb", [["audit"], ["bench", "run", "adi"]])
def test_the_command_line_refuses_before_anything_is_loaded(
    verb: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "out"
    for word, sentence in (("ray", "needs ray, which is not installed"), ("spark", "--on must be ray, or ray://HOST")):
        result = CliRunner().invoke(app, [*verb, "--on", word, "--out", str(out)])
        assert result.exit_code == 2
        assert sentence in result.output
    assert not out.exists()


def test_an_api_at_an_address_is_asked_from_this_machine_only(tmp_path: Path) -> None:
    victim = ["--victim", "http://127.0.0.1:9", "--test", "test.npz", "--pool", "pool.npz"]
    result = CliRunner().invoke(app, ["audit", *victim, "--on", "ray", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "--on would ask from others" in result.output
