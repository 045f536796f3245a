"""`portcullis plan`: a linear model, a network, what is written into a policy, and bad input."""

from __future__ import annotations

import json
import pickle
import tomllib
from pathlib import Path

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier
from typer.testing import CliRunner

from bench.experiments import write
from portcullis_ml.cli.app import app
from portcullis_ml.cli.policy_edit import with_quota
from portcullis_ml.core.errors import InputError
from portcullis_ml.models.sklearn import SklearnModel

VICTIM = "bench.experiments:victim"


def call(*words: object):
    return CliRunner().invoke(app, ["plan", *[str(w) for w in words]])


def files() -> list[str]:
    made = write(Path())
    return ["--test", made["test"], "--pool", made["pool"]]


def test_a_linear_model_is_settled_by_d_plus_1_rows() -> None:
    done = call("--victim", VICTIM, *files(), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (worst,) = told["reaches"]
    assert (worst["attack"], worst["queries"]["value"], worst["exact"]) == ("equation_solving", 5, True)
    assert told["limits"] == []
    assert told["said"][1].startswith("No limit helps: 5 rows")


def bent(folder: Path) -> Path:
    """A network that no equation gives away, its labels and rows, as a module here."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(900, 4))
    y = (np.sin(7 * x[:, 0]) + x[:, 1] > 0.6).astype(int)
    (folder / "bent.py").write_text(
        "import pickle\nfrom pathlib import Path\nvictim = pickle.loads(Path('bent.pkl').read_bytes())\n"
    )

    model = SklearnModel(MLPClassifier((16,), solver="lbfgs", max_iter=5_000, random_state=0).fit(x[:400], y[:400]))
    (folder / "bent.pkl").write_bytes(pickle.dumps(model))
    np.savez(folder / "test.npz", x=x[400:650], y=y[400:650])
    np.savez(folder / "pool.npz", x=x[650:])
    return folder


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(bent(tmp_path))
    return ["--victim", "bent:victim", "--test", "test.npz", "--pool", "pool.npz", "--attacks", "knockoff",
            "--learner", "sklearn(estimator=forest, trees=20)", "--minutes", "0.3"]  # fmt: skip


def test_a_network_gets_limits_that_go_into_a_policy_and_a_second_run_asks_nothing(network, tmp_path) -> None:
    done = call(*network, "--accounts", "1,10", "--price-per-query", "0.5", "--write", "p.toml")
    assert done.exit_code == 0, done.output
    assert "knockoff" in done.stdout
    assert "No such copy is expected within 365 days" in " ".join(done.stdout.split())
    records = (tmp_path / "portcullis-plan" / "records.jsonl").read_bytes()
    told = json.loads(call(*network, "--accounts", "1,10", "--json").stdout)
    assert (tmp_path / "portcullis-plan" / "records.jsonl").read_bytes() == records
    reach = told["reaches"][0]["queries"]
    assert reach["low"] <= reach["value"] <= reach["high"]
    one, ten = told["limits"]
    assert one["per"]["total"]["rows"] == np.ceil(reach["low"]) - 1
    assert ten["per"]["total"]["rows"] == one["per"]["total"]["rows"] // 10
    text = (tmp_path / "p.toml").read_text()
    (stage,) = tomllib.loads(text)["guard"]
    assert stage == {"unit": "quota", "rows": one["per"]["total"]["rows"], "per": 3_153_600_000}
    assert f"costs {reach['value'] * 0.5:,.2f}" in text
    assert CliRunner().invoke(app, ["check", "p.toml"]).exit_code == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--target", "1.2"], "--target must be a fidelity above 0 and below 1"),
        (["--target", "0"], "--target must be a fidelity above 0 and below 1"),
        (["--accounts", "1,0"], "--accounts must be whole numbers of at least 1"),
        (["--accounts", "one"], "--accounts must be whole numbers of at least 1"),
        (["--days", "0"], "--days must be at least 1"),
        (["--minutes", "0"], "--minutes must be a number above 0"),
        (["--principal-rows-per", "hour"], "--principal-rows-per must be day, month or total"),
        (["--measure", "auc_agreement"], "--measure must be agreement or balanced_agreement"),
        (["--target", "0.3"], "Whoever asks nothing already has"),
        (["--write", "p.toml"], "There is no limit to write"),
    ],
)
def test_bad_input_is_one_sentence(words, sentence) -> None:
    done = call("--victim", VICTIM, *files(), *words)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.output


def test_an_address_needs_a_budget() -> None:
    done = call("--victim", "http://127.0.0.1:9", *files())
    assert done.exit_code == 2
    assert "Say with --budget N" in done.stderr


POLICY = '# mine\n[clients]\nanonymous = "shared"\n\n[[guard]]\nunit = "rounding"  # kept\n'


def test_a_quota_is_written_first_and_changed_where_it_stands() -> None:
    once = with_quota(POLICY, 20, 86_400, "why")
    assert [s["unit"] for s in tomllib.loads(once)["guard"]] == ["quota", "rounding"]
    assert "# mine" in once
    assert "# kept" in once
    assert "# why" in once
    twice = with_quota(once, 30, 86_400, "because")
    assert [s.get("rows") for s in tomllib.loads(twice)["guard"]] == [30, None]
    assert "# because" in twice
    both = with_quota(twice, 500, 2_592_000, "a month")
    assert [s.get("rows") for s in tomllib.loads(both)["guard"]] == [500, 30, None]


def test_a_policy_that_is_no_toml_is_left_alone() -> None:
    with pytest.raises(InputError, match="The policy is no TOML"):
        with_quota("[[guard", 1, 1, "")
