"""Scenes: whose rows are whose, and what bad input gets."""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import pytest

from portcullis_ml.bench.experiment import ExperimentSpec
from portcullis_ml.bench.rows import read_rows
from portcullis_ml.bench.run_audit import AuditOptions, plan_of, run_audit
from portcullis_ml.core.errors import InputError, ParameterError

from .experiments import __name__ as HELPERS
from .experiments import spec, truth, write


def test_the_rows_of_files_are_kept_apart(tmp_path):
    experiment = spec(tmp_path).load()
    assert (len(experiment.test_x), len(experiment.pool), experiment.overlap) == (120, 150, 0)
    assert experiment.interface.input_shape == (4,)
    assert experiment.interface.n_classes == 3
    assert "Nobody but you knows where they come from" in experiment.splits


def test_the_embedded_digits_are_split_three_ways(tmp_path, monkeypatch):
    monkeypatch.setattr("portcullis_ml.bench.experiment.has_torch", lambda: False)
    experiment = ExperimentSpec(data="digits", cache=str(tmp_path)).load()
    rows = [{row.tobytes() for row in part} for part in (experiment.pool, experiment.test_x)]
    assert not rows[0] & rows[1]
    assert len(experiment.classes) == 10
    assert experiment.names["victim"]["name"] == "logistic on digits"
    assert (experiment.model.scores(experiment.test_x).argmax(axis=1) == experiment.test_y).mean() > 0.9


def test_a_victim_of_yours_on_a_data_set(tmp_path):
    """The thief gets the training rows, and whether the victim saw them is not known."""
    x = np.random.default_rng(0).uniform(size=(60, 4))
    np.savez(tmp_path / "d.npz", x_train=x[:40], y_train=truth(x[:40]), x_test=x[40:], y_test=truth(x[40:]))
    experiment = ExperimentSpec(victim=f"{HELPERS}:victim", data=str(tmp_path / "d.npz")).load()
    assert (len(experiment.pool), len(experiment.test_x), experiment.overlap) == (40, 20, None)
    assert "the thief holds the 40 training rows" in experiment.splits


def test_seeds_are_shared_out_among_the_classes(tmp_path):
    pool = np.random.default_rng(3).uniform(size=(300, 4))
    labelled = spec(tmp_path, pool_x=pool, pool_y=np.repeat([0, 1, 2], 100)).load()
    order = {row.tobytes(): label for row, label in zip(pool, labelled.pool_labels, strict=True)}
    seeds = labelled.draw_seeds(30, np.random.default_rng(0))
    assert np.bincount([order[row.tobytes()] for row in seeds]).tolist() == [10, 10, 10]
    other = labelled.draw_seeds(30, np.random.default_rng(1))
    assert not np.array_equal(seeds, other)
    assert replace(labelled, pool=None, pool_labels=None).draw_seeds(30, np.random.default_rng(0)) is None
    unlabelled = replace(labelled, pool_labels=None).draw_seeds(30, np.random.default_rng(0))
    assert len({row.tobytes() for row in unlabelled}) == 30


X = np.random.default_rng(0).uniform(size=(20, 4))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"test_y": np.zeros(7, int)}, r"needs one label for each row, .*; test.npz holds 120 rows"),
        ({"test_y": np.full(120, 0.5)}, "have labels such as 0.5, which are no classes, and the victim answers"),
        ({"test_y": np.full(120, 9)}, r"Test labels must lie in 0..2, .* got 9..9"),
        ({"pool_x": np.empty((0, 4))}, r"The pool was expected to hold at least one row; pool.npz holds none"),
        ({"pool_x": np.full((5, 4), np.nan)}, r"The pool must be finite; pool.npz holds NaN or infinity"),
        ({"pool_x": np.zeros((5, 7))}, r"The pool must have the inputs of the test set; got \(7,\) and \(4,\)"),
        ({"pool_x": np.zeros(5)}, r"The pool must be numbers of shape \(n, ...\)"),
        ({"test_x": X[:, :3], "test_y": None, "pool_x": X[:, :3]}, r"takes inputs of \(4,\); the test rows are \(3,\)"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_get_a_sentence(tmp_path, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        spec(tmp_path, **changes).load()


@pytest.mark.parametrize(
    ("victim", "sentence"),
    [
        ("nan_victim", "The model must return finite scores; row 0 of the batch has NaN or infinity"),
        ("logits_victim", "The model must return probabilities that sum to one; one row sums to 6"),
    ],
)
def test_a_victim_that_cannot_answer_is_found_out_before_the_audit(tmp_path, victim, sentence):
    with pytest.raises(InputError, match=sentence):
        spec(tmp_path, victim=f"{HELPERS}:{victim}").load()


def test_files_that_are_not_what_they_say(tmp_path):
    (tmp_path / "pool.txt").write_text("1 2 3")
    with pytest.raises(InputError, match=r"The pool was expected as .npz, .npy or .csv; got pool.txt"):
        read_rows("pool", tmp_path / "pool.txt")
    with pytest.raises(InputError, match="there is no such file"):
        read_rows("pool", tmp_path / "nowhere.npz")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(InputError, match=r"torn.npz was expected to hold plain arrays; it cannot be read"):
        read_rows("pool", tmp_path / "torn.npz")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="Write it again with"):
        read_rows("pool", tmp_path / "objects.npy")
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(InputError, match="expected to hold an array x; it holds none"):
        read_rows("pool", tmp_path / "empty.npz")


def test_labels_of_the_wrong_length_and_a_pool_without_rows(tmp_path):
    np.savez(tmp_path / "short.npz", x=X, y=np.arange(len(X) - 1))
    with pytest.raises(InputError, match=r"one label for each row, .*; short.npz holds 20 rows and labels"):
        read_rows("test set", tmp_path / "short.npz")
    np.savez(tmp_path / "bare.npz", x=X[:0])
    with pytest.raises(InputError, match=r"The pool was expected to hold at least one row; bare.npz holds none"):
        read_rows("pool", tmp_path / "bare.npz")


def test_arrays_and_tables_are_read(tmp_path):
    np.save(tmp_path / "pool.npy", (X * 255).astype(np.uint8))
    assert read_rows("pool", tmp_path / "pool.npy").x.max() <= 1
    np.savez(tmp_path / "set.npz", x_train=X, x_test=X[:5], y_test=np.arange(5))
    assert len(read_rows("pool", tmp_path / "set.npz", part="train")) == 20
    assert read_rows("test set", tmp_path / "set.npz").y.tolist() == [0, 1, 2, 3, 4]
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write(
            "size,colour,kind\n" + "".join(f"{i},{'red' if i % 2 else 'blue'},{'ab'[i % 2]}\n" for i in range(30))
        )
    rows = read_rows("test set", tmp_path / "t.csv.gz", target="kind")
    assert (rows.classes, rows.x.shape) == (("a", "b"), (30, 2))
    assert rows.features[1].values == ("blue", "red")


def test_a_table_without_a_schema_gets_the_range_of_every_column(tmp_path):
    x = np.random.default_rng(0).uniform([0, -5, 0, 100], [1, 5, 1, 200], size=(50, 4))
    experiment = spec(tmp_path, test_x=x, test_y=None, pool_x=x + 0.0).load()
    assert experiment.interface.low.tolist() == x.min(axis=0).tolist()
    assert experiment.interface.high.tolist() == x.max(axis=0).tolist()


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="A victim needs rows to be judged on; got none"):
        ExperimentSpec(victim=f"{HELPERS}:victim").load()


def test_a_pool_that_overlaps_the_training_set_is_flagged_and_an_unchecked_one_too(tmp_path):
    paths = write(tmp_path, pool_x=X, train_x=np.concatenate([X[:6], X[:6] + 1]))
    overlapping = ExperimentSpec(victim=f"{HELPERS}:victim", **paths)
    settings = {"attacks": ("knockoff",), "defenses": (), "budgets": (10,), "seeds": 1}
    _, meta = run_audit(AuditOptions(spec=overlapping, **settings), out=tmp_path / "a", jobs=0)
    told = {f["id"]: f["detail"] for f in meta["flags"] if f["where"] == "audit"}
    assert told["pool_overlaps_training"] == "6 of 20 rows"
    _, meta = run_audit(AuditOptions(spec=replace(overlapping, train=None), **settings), out=tmp_path / "b", jobs=0)
    assert "pool_not_checked" in {f["id"] for f in meta["flags"]}
    assert set(meta["flag_texts"]) >= {f["id"] for f in meta["flags"]}


def test_a_wish_is_checked_before_anything_is_loaded(tmp_path):
    nowhere = ExperimentSpec(victim="no.such:thing")
    for settings, sentence in (
        ({"budgets": (0,)}, "budget must be at least 1 query; got 0"),
        ({"attacks": ("knokoff",)}, "Did you mean knockoff"),
        ({"defenses": ("roundng",)}, "Did you mean rounding"),
        ({"deployed": "roundng"}, "Did you mean rounding"),
        ({"seeds": 0}, "seeds must be at least 1; got 0"),
    ):
        with pytest.raises(ParameterError, match=sentence):
            AuditOptions(spec=nowhere, **settings)


def test_what_is_not_said_is_chosen(tmp_path):
    here = spec(tmp_path)
    plan = plan_of(AuditOptions(spec=here), here.load())
    assert plan.budgets == (12, 33, 100)  # 150 rows of a pool, rounded down to one digit
    assert list(plan.seeds) == [0, 1, 2]
    assert tuple(plan.attacks)[:4] == ("equation_solving", "retraining", "retraining(strategy=uniform)", "knockoff")
    quick = plan_of(AuditOptions(spec=here, quick=True), here.load())
    assert (max(quick.budgets), list(quick.seeds)) == (50, [0])
    assert plan_of(AuditOptions(spec=here, budgets=(7, 9)), here.load()).budgets == (7, 9)
    assert AuditOptions(spec=here).in_use == "watch(detector=prada_normality, then=block)"
    assert AuditOptions(spec=here, defenses=()).in_use == "none"
    assert AuditOptions(spec=here, defenses=("top_k",), deployed="rounding").guards == ("top_k", "rounding")
