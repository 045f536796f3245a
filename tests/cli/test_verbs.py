"""The command line, verb by verb: what it prints, what it leaves behind, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import portcullis_ml
from bench.experiments import write
from portcullis_ml.cli.app import app
from portcullis_ml.cli.progress import Watcher, left

VICTIM = "bench.experiments:victim"


def call(*words: object):
    return CliRunner().invoke(app, [str(w) for w in words])


def small(folder: Path = Path()) -> list[str]:
    """Options of the smallest audit that has everything."""
    files = write(folder)
    where = ["--victim", VICTIM, "--test", files["test"], "--pool", files["pool"], "--train", files["train"]]
    what = ["--attacks", "equation_solving,knockoff", "--defenses", "rounding(decimals=1)", "--budget", "20,60"]
    return [*where, *what, "--seeds", "1", "--jobs", "0", "--epochs", "2"]


def test_version_and_help():
    assert call("--version").output == f"portcullis {portcullis_ml.__version__}\n"
    top = call("--help").output
    for verb in ("audit", "extract", "prepare", "list", "bench"):
        assert verb in top
    assert "portcullis audit --victim model.onnx" in call("audit", "--help").output


def test_the_console_script_finds_an_object_in_the_current_folder(tmp_path):
    """Run as a user runs it: by the installed script, whose own folder is what Python would search."""
    (tmp_path / "shop.py").write_text("from bench.experiments import victim\n")
    files = write(tmp_path)
    script = "import sys; from portcullis_ml.cli import main; sys.path.remove(''); main()"
    words = ["audit", "--victim", "shop:victim", "--test", files["test"], "--attacks", "equation_solving"]
    sizes = ["--budget", "20", "--seeds", "1", "--jobs", "0"]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words), *sizes],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_an_audit_ends_with_the_path_of_its_report(tmp_path):
    result = call("audit", *small())
    assert result.exit_code == 0, result.output
    assert result.output.rstrip().endswith(str(Path("portcullis-audit/report.html").resolve()))
    for word in ("none", "label_only", "rounding(decimals=1) (deployed)", "control no_api", "honest clients lose"):
        assert word in result.output
    text = Path("portcullis-audit/report.html").read_text()
    assert "100%" in text
    meta = json.loads(Path("portcullis-audit/meta.json").read_text())
    assert meta["deployed"] == "rounding(decimals=1)"
    assert meta["budgets"] == [20, 60]


def test_many_attacks_stand_as_letters_and_nothing_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    more = ["--attacks", "copycat,retraining(surrogate=tree)"]  # given again: tried beside the others
    result = call("audit", *small(), *more)
    assert result.exit_code == 0, result.output
    for line in (
        " = retraining(surrogate=tree)",
        "F = plain_stranger",
        "n/a: the attack needs",
        "cost: points of accuracy",
    ):
        assert line in result.output
    rows = result.output[result.output.index("Agreement with the victim") :].splitlines()
    assert rows[1].split() == ["defense", "A", "B", "C", "D", "worst", "cost"]
    assert max(map(len, rows[1:8])) <= 80


def test_json_holds_the_same_and_a_second_run_runs_nothing(tmp_path):
    first = call("audit", *small(), "--json")
    assert first.exit_code == 0, first.output
    output = json.loads(first.stdout)
    assert output["worst_undefended"]["attack"] == "equation_solving"
    assert output["worst_undefended"]["agreement"][0] == 1.0
    assert output["failed"] is False
    lines = Path(output["records"]).read_bytes()
    again = json.loads(call("audit", *small(), "--json").stdout)
    assert Path(output["records"]).read_bytes() == lines
    assert again["rows"] == output["rows"]


@pytest.mark.parametrize(("limit", "code"), [(0.2, 3), (1.0, 0)])
def test_fail_over_looks_at_the_worst_attacker_behind_the_deployed_guard(limit, code):
    result = call("audit", *small(), "--fail-over", limit)
    assert result.exit_code == code, result.output
    assert "Behind rounding(decimals=1) the worst attacker is " in result.output
    assert ("not above the limit" in result.output) == (code == 0)


def test_fail_over_measures_the_guard_that_is_said_to_be_deployed():
    options = [*small(), "--fail-over", "0.99"]
    assert call("audit", *options, "--deployed", "none").exit_code == 3  # equation solving copies it exactly
    assert call("audit", *options, "--deployed", "label_only").exit_code == 0


def test_a_limit_that_nothing_was_measured_against_does_not_pass():
    result = call("audit", *small(), "--deployed", "block", "--fail-over", "0.5")
    assert result.exit_code == 2
    assert "--fail-over needs an attack that made a copy behind block; none did." in result.stderr


def test_a_plain_stranger_is_measured_where_no_attack_applies():
    options = [*small(), "--deployed", "label_only", "--fail-over", "0.5"]
    options[options.index("equation_solving,knockoff")] = "equation_solving"
    result = call("audit", *options)
    assert result.exit_code == 3
    assert re.search(r"Behind label_only the worst attacker is (plain_stranger|random_queries) with", result.stdout)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--budget", "0"], "budget must be at least 1 query; got 0."),
        (["--budget", "many"], "--budget must be whole numbers, separated by commas; got 'many'."),
        (["--attacks", "knokoff"], "Did you mean knockoff"),
        (["--defenses", "rounding(decimals=99)"], "Rounding.decimals must be"),
        (["--victim", "model.pkl"], "is a pickle or may hide one, and is not read."),
        (["--victim", "model.onnx"], "There is no file model.onnx."),
        (["--victim", "no_such_module:x"], "there is no module 'no_such_module'"),
        (["--test", "nowhere.npz"], "The test set was expected in nowhere.npz; there is no such file."),
        (["--device", "abacus"], "--device must be cpu, or cuda where PyTorch finds a GPU; got 'abacus'."),
        (["--answers", "vibes"], "answers must be one of labels, top_k, probs; got 'vibes'."),
        (["--victim", "bench.experiments:nan_victim"], "The model must return finite scores"),
        (["--victim", "bench.experiments:logits_victim"], "The model must return probabilities that sum to one"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(options, sentence):
    result = call("audit", *small(), *options)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.splitlines()[-1].startswith("portcullis: ")
    assert "Traceback" not in result.output


def test_files_without_a_victim_are_a_mistake():
    result = call("audit", "--test", "test.npz")
    assert result.exit_code == 2
    assert "belong to a victim of yours; got none. Add --victim." in result.stderr


def test_a_folder_that_cannot_be_written(tmp_path):
    Path("file").write_text("")
    result = call("audit", *small(), "--out", "file/out")
    assert result.exit_code == 2
    assert "The results cannot be written to" in result.stderr


def test_extract_leaves_a_surrogate_and_its_transfer_set(tmp_path):
    files = write(Path())
    options = ["--victim", VICTIM, "--test", files["test"], "--budget", "8", "--json"]
    result = call("extract", "equation_solving", *options)
    assert result.exit_code == 0, result.output
    output = json.loads(result.stdout)
    assert output["record"]["measures"]["agreement"]["value"] == 1
    with np.load(output["transfer_set"]) as kept:
        assert kept["x"].shape == (8, 4)
    assert output["surrogate"].endswith(".npz")
    shown = call("extract", "equation_solving", *options[:-1])
    assert "equation_solving: 100.0% agreement with 8 queries" in shown.output
    audited = call("audit", *small(), "--victim", output["surrogate"])
    assert audited.exit_code == 0, audited.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["equation_solving", "--budget", "4"], "is failed. equation_solving needs 5 queries for 4 inputs"),
        (["knockoff"], "knockoff is not applicable. knockoff needs a pool of natural inputs; this attacker has none."),
        (["equation_solving", "--answers", "labels"], "is not applicable. equation_solving needs probs"),
        (["equation_solving", "--budget", "0"], "budget must be at least 1 query; got 0."),
    ],
)  # fmt: skip
def test_an_attack_that_cannot_run_says_why(words, sentence):
    files = write(Path())
    result = call("extract", *words, "--victim", VICTIM, "--test", files["test"])
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_list_shows_what_things_need():
    shown = call("list").output
    for word in (
        "extraction",
        "knockoff",
        "pool, learner",
        "jb_top3",
        "rounding",
        "prada",
        "grad_cam",
        "digits_cnn",
        "prada-mnist",
    ):
        assert word in shown
    labels = json.loads(call("list", "extraction", "--answers", "labels", "--json").stdout)["extraction"]
    names = {row["name"] for row in labels}
    assert "copycat" in names
    assert "equation_solving" not in names
    assert all(row["answers"] == "labels" for row in labels)
    result = call("list", "defences")
    assert result.exit_code == 2
    assert "Did you mean defenses" in result.stderr


def test_the_list_says_what_a_training_needs():
    rows = json.loads(call("list", "hardening", "--json").stdout)["hardening"]
    (row,) = [row for row in rows if row["name"] == "outlier_exposure"]
    assert (row["name"], row["needs"]) == ("outlier_exposure", ["outside rows", "labels"])
    assert "domain_filter" in call("list", "recipes").output


def test_the_list_covers_every_catalog():
    found = json.loads(call("list", "--json").stdout)
    for wing in ("extraction", "defenses", "detectors", "recipes", "hardening", "ownership", "privacy"):
        catalog = __import__(f"portcullis_ml.{wing}", fromlist=["CATALOG"]).CATALOG
        assert set(catalog) <= {row["name"] for row in found[wing]}
        assert all(row.get("what") or row.get("missing") for row in found[wing])
    assert all(row["what"] for row in found["explainers"])


def test_an_api_that_explains_is_another_api_and_its_answers_are_kept(tmp_path):
    files = write(tmp_path)
    words = ["extract", "knockoff", "--victim", VICTIM, "--test", files["test"], "--pool", files["pool"]]
    words += ["--budget", "20", "--epochs", "2", "--out", tmp_path / "out", "--json"]
    plain, explained = (json.loads(call(*words, *more).stdout) for more in ([], ["--explain", "gradient_x_input"]))
    assert plain["record"]["cell"] != explained["record"]["cell"]
    with np.load(plain["transfer_set"]) as kept:
        assert "explanation" not in kept
    with np.load(explained["transfer_set"]) as kept:
        assert kept["explanation"].shape == kept["x"].shape == (20, 4)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("grad_cam", "grad_cam explains a convolutional network in PyTorch; this victim is a SoftmaxRegression."),
        ("gradcam", "Did you mean grad_cam"),
    ],
)
@pytest.mark.parametrize("verb", [("audit",), ("extract", "knockoff")])
def test_a_victim_that_cannot_be_explained_is_refused_before_anything_runs(tmp_path, verb, word, sentence):
    files = write(tmp_path)
    more = ["--test", files["test"], "--explain", word, "--out", tmp_path / "out"]
    result = call(*verb, "--victim", VICTIM, *more)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_protocol_offers_the_nearest():
    result = call("bench", "run", "prada-mnst")
    assert result.exit_code == 2
    assert "Did you mean prada-mnist" in result.stderr


def test_a_protocol_gets_its_options_and_its_table_is_kept(monkeypatch):
    result = call("bench", "run", "cli.test_verbs:protocol", "--quick", "--out", "there", "--jobs", "1", "--data", "d")
    assert result.exit_code == 0, result.output
    assert result.stdout == "there d True 1 cpu\n"
    assert Path("there/table.md").read_text() == "there d True 1 cpu"


def protocol(run):
    run.out.mkdir()
    return f"{run.out} {run.data} {run.quick} {run.jobs} {run.device}"


def test_a_mistake_of_our_own_is_no_verdict_and_shows_its_lines(monkeypatch):
    def broken(run):
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr("cli.test_verbs.protocol", broken)
    result = call("bench", "run", "cli.test_verbs:protocol", "--out", "there")
    assert result.exit_code == 70
    assert "nobody foresaw this" in result.stderr
    assert "a mistake of Portcullis' own" in result.stderr


def test_time_left_in_words():
    assert left(None) == "time left: not known yet"
    assert [left(s) for s in (0.2, 45, 600, 10_000)] == [
        "nearly done",
        "about 45 s left",
        "about 10 min left",
        "about 2.8 h left",
    ]


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys):
    from bench.toys import cell
    from portcullis_ml.bench.run import Progress

    watcher = Watcher()
    watcher(Progress("started", cell("knockoff"), 0, 1, 3, None))
    watcher(Progress("ended", cell("knockoff"), 30, 3, 3, 0.0, "done"))
    assert capsys.readouterr().err == "3 of 3 cells, nearly done. Now: knockoff | none | 30 queries | seed 0\n"


def test_progress_on_a_terminal_shows_the_cell_its_queries_and_the_time_left():
    import io

    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TextColumn

    from bench.toys import cell
    from portcullis_ml.bench.run import Progress

    page = io.StringIO()
    columns = (TextColumn("{task.description}"), TextColumn("{task.fields[note]}"))
    with Bars(*columns, console=Console(file=page, force_terminal=True, width=120)) as bars:
        watcher = Watcher(bars)
        watcher(Progress("started", cell("knockoff"), 0, 0, 2, None))
        watcher(Progress("paid", cell("knockoff"), 21, 0, 2, 30.0))
        bars.refresh()
        watcher(Progress("ended", cell("knockoff"), 30, 1, 2, 12.0, "done"))
    assert "knockoff | none | seed 0 21 of 30 queries" in page.getvalue()
    assert "about 12 s left" in page.getvalue()


def test_importing_the_command_line_imports_nothing_heavy():
    heavy = {"torch", "sklearn", "scipy", "matplotlib", "onnx"}
    code = f"import sys; import portcullis_ml.cli.app; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_without_torch_the_default_audits_a_scikit_learn_victim(monkeypatch):
    for module in ("experiment", "run_audit"):
        monkeypatch.setattr(f"portcullis_ml.bench.{module}.has_torch", lambda: False)
    result = call("audit", "--quick", "--budget", "70", "--defenses", "none", "--jobs", "0", "--json")
    assert result.exit_code == 0, result.output
    output = json.loads(result.stdout)
    assert output["victim"]["name"] == "logistic on digits"
    assert output["worst_undefended"]["attack"] == "equation_solving"
    assert output["worst_undefended"]["agreement"][0] == 1.0
    assert {row["attack"] for row in output["rows"]} >= {"knockoff", "copycat", "no_api", "own_labels", "shuffled"}


def test_a_killed_audit_goes_on_with_the_same_command(tmp_path):
    """The real thing: a process with a worker, killed as soon as three cells are done, then run to its end."""
    words = [sys.executable, "-c", "from portcullis_ml.cli import main; main()", "audit", *small(), "--jobs", "1"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    records = Path("portcullis-audit/records.jsonl")
    while not records.exists() or records.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = records.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("report.html")
    assert records.read_bytes().startswith(before)
    ids = [json.loads(line)["id"] for line in records.read_text().splitlines()]
    assert len(ids) == len(set(ids))


def test_a_full_disk_ends_an_audit_in_one_sentence(tmp_path):
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        "from portcullis_ml.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "audit", *small()], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("portcullis: There is no room left on the disk for ")
    assert "Traceback" not in done.stderr
