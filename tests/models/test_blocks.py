"""Blocks: a batch equals its pieces bit for bit, and the probe finds where it would not."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Feature, Model
from portcullis_ml.models.blocks import BlockModel, Blocks
from portcullis_ml.models.function import FunctionModel
from portcullis_ml.models.networks import build_network
from portcullis_ml.models.onnx import OnnxModel
from portcullis_ml.models.sklearn import SklearnModel, table_pipeline
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.models.table import TableModel
from portcullis_ml.models.torch import TorchModel

PIXELS, DIGIT = load_digits(return_X_y=True)


def network(name, shape, classes):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return TorchModel(build_network(name, shape, classes), shape, classes)


def logistic():
    return LogisticRegression(max_iter=2000).fit(PIXELS, DIGIT)


def onnx():
    graph = to_onnx(logistic(), PIXELS[:1].astype(np.float32), options={"zipmap": False})
    return OnnxModel(graph.SerializeToString())


PLAIN = {
    "torch mlp": lambda: network("mlp", (64,), 10),
    "torch cnn": lambda: network("digits_cnn", (8, 8), 10),
    "torch cnn in colours": lambda: network("prada_gtsrb", (16, 16, 3), 5),
    "onnx": onnx,
    "scikit-learn": lambda: SklearnModel(logistic()),
    "softmax": lambda: SoftmaxRegression(np.random.default_rng(0).normal(size=(3, 64)), np.zeros(3)),
}


@pytest.fixture(scope="module", params=PLAIN)
def model(request):
    return BlockModel(PLAIN[request.param]())


def rows_for(model, n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *model.input_shape))


def in_pieces(score, x, cuts):
    return np.concatenate([score(part) for part in np.split(x, sorted(cuts))])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), n=st.integers(1, 150), seed=st.integers(0, 9))
def test_a_batch_equals_its_pieces(model, data, n, seed):
    x = rows_for(model, n, seed)
    cuts = data.draw(st.lists(st.integers(0, n), max_size=12))
    whole = model.scores(x)
    assert in_pieces(model.scores, x, cuts).tobytes() == whole.tobytes()
    assert in_pieces(model.scores, x, range(1, n)).tobytes() == whole.tobytes()


def test_blocks_change_nothing_but_last_bits(model, request):
    plain = PLAIN[request.node.callspec.params["model"]]()
    x = rows_for(model, 100)
    np.testing.assert_allclose(model.scores(x), plain.scores(x), rtol=1e-4, atol=1e-6)
    assert (model.input_shape, model.n_classes) == (plain.input_shape, plain.n_classes)
    assert isinstance(model, Model)


def test_two_probes_of_one_model_find_the_same(model, request):
    again = BlockModel(PLAIN[request.node.callspec.params["model"]]())
    x = rows_for(model, 70)
    assert again.blocks.sizes == model.blocks.sizes
    assert again.scores(x).tobytes() == model.scores(x).tobytes()


def test_another_process_gets_the_same_bits():
    code = f"""
import sys, numpy as np, torch
torch.set_num_threads({torch.get_num_threads()})
from test_blocks import PLAIN, BlockModel, rows_for
model = BlockModel(PLAIN["torch cnn"]())
sys.stdout.write(model.scores(rows_for(model, 70)).tobytes().hex())
"""
    here = BlockModel(PLAIN["torch cnn"]())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, env=environment)
    assert out.stdout == here.scores(rows_for(here, 70)).tobytes().hex()


def test_no_rows_have_no_scores(model):
    scores = model.scores(rows_for(model, 0))
    assert scores.shape == (0, model.n_classes)
    assert scores.dtype == model.scores(rows_for(model, 1)).dtype


@pytest.mark.parametrize("name", ["torch mlp", "torch cnn", "torch cnn in colours", "softmax"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy says that infinite numbers were multiplied
def test_neighbours_do_not_reach_a_row(name, value):
    model = BlockModel(PLAIN[name]())
    x = rows_for(model, 64)
    before = model.scores(x)
    x[1::2] = value
    after = model.scores(x)
    assert after[::2].tobytes() == before[::2].tobytes()
    assert in_pieces(model.scores, x, range(1, 64)).tobytes() == after.tobytes()  # one NaN among all bit patterns


def test_threads_score_at_the_same_time(model):
    x = rows_for(model, 200)
    whole = model.scores(x)
    with ThreadPoolExecutor(4) as pool:
        cuts = [range(k, 200, k) for k in (1, 3, 17, 64)] * 5
        for scores in pool.map(lambda c: in_pieces(model.scores, x, c), cuts):
            assert scores.tobytes() == whole.tobytes()


# the probe


def last_bit_up(scores, rows):
    """The scores with the last bit of these rows changed."""
    changed = scores.copy()
    changed[rows] = np.nextafter(scores[rows], np.inf)
    return changed


def sums(x):
    return x.sum(axis=1, keepdims=True)


def at_an_edge(x):
    """Rows that do not fill a tile of 6 are computed in another way, as some kernels do, but for blocks of up to 6."""
    whole = len(x) - len(x) % 6
    return last_bit_up(sums(x), slice(whole, None)) if whole else sums(x)


def beside_another(x):
    """From 5 rows on, a row's last bit follows the row before it."""
    return last_bit_up(sums(x), np.roll(x[:, 0] > 0, 1)) if len(x) > 4 else sums(x)


def from_16_rows(x):
    """Position and neighbours do not matter, but another kernel takes over at 16 rows."""
    return last_bit_up(sums(x), slice(None)) if len(x) >= 16 else sums(x)


def scaled_by_the_batch(x):
    return sums(x) / np.abs(x).max()


def only_when_a_neighbour_is_nan(x):
    return sums(x) + 0 * x.sum() if len(x) > 4 else sums(x)


@pytest.mark.parametrize(
    ("score", "sizes"),
    [
        (sums, (64, 16, 4, 1)),
        (at_an_edge, (4, 1)),
        (beside_another, (4, 1)),
        (from_16_rows, (64, 16)),
        (scaled_by_the_batch, (1,)),
        (only_when_a_neighbour_is_nan, (4, 1)),
    ],
)
def test_the_probe_keeps_sizes_that_are_exact_and_alike(score, sizes):
    blocks = Blocks(score, (5,))
    assert blocks.sizes == sizes
    x = np.random.default_rng(1).normal(size=(131, 5))
    assert in_pieces(blocks, x, range(1, 131)).tobytes() == blocks(x).tobytes()


def test_one_position_out_of_64_is_found():
    assert Blocks(lambda x: last_bit_up(sums(x), slice(37, 38)), (5,)).sizes == (16, 4, 1)


def test_candidates_can_be_given():
    assert Blocks(sums, (5,), sizes=(8,)).sizes == (8, 1)
    for bad in (0, 257):
        with pytest.raises(ParameterError, match=r"sizes must be ints in \[1, 256\]"):
            Blocks(sums, (5,), sizes=(64, bad))


def test_blocks_waste_less_than_half_where_smaller_ones_are_exact():
    seen = []
    blocks = Blocks(lambda x: seen.append(len(x)) or sums(x), (5,))
    for n, expected in ((1, [1]), (3, [4]), (9, [16]), (20, [16, 4]), (33, [64]), (130, [64, 64, 1, 1])):
        seen.clear()
        blocks(np.ones((n, 5)))
        assert seen == expected


@pytest.mark.parametrize("sizes", [(64, 16, 4, 1), (1,)])
def test_a_random_model_is_refused(sizes):
    rng = np.random.default_rng(0)
    model = FunctionModel(lambda x: rng.random((len(x), 2)), (3,), 2)
    with pytest.raises(InputError, match=r"this one gives the same row, alone, other scores another time\. Switch off"):
        BlockModel(model, sizes=sizes)


# what may be scored


def test_feature_maps_views_and_labels():
    x = np.random.default_rng(0).normal(size=(70, 4, 4))
    maps = Blocks(lambda x: x[:, 1:, :2], (4, 4))  # a view of what it was given
    np.testing.assert_array_equal(maps(x), x[:, 1:, :2])
    labels = Blocks(lambda x: x.reshape(len(x), -1).argmax(axis=1), (4, 4))(x)
    np.testing.assert_array_equal(labels, x.reshape(70, -1).argmax(axis=1))
    assert labels.dtype == np.int64


def test_nan_has_one_bit_pattern():
    def nan_signed_by_position(x):
        return np.copysign(np.full((len(x), 1), np.nan), 1 - 2 * (np.arange(len(x))[:, None] % 2))

    blocks = Blocks(lambda x: np.where(np.isnan(x[:, :1]), nan_signed_by_position(x), sums(x)), (5,))
    x = np.full((7, 5), np.nan)
    assert blocks.sizes == (64, 16, 4, 1)
    assert blocks(x).tobytes() == np.full((7, 1), np.nan).tobytes()


def test_every_block_begins_at_a_multiple_of_64_bytes():
    starts = []
    blocks = Blocks(lambda x: starts.append(x.ctypes.data) or sums(x), (5,))
    starts.clear()
    for n in range(1, 100):
        blocks(np.ones((n, 5)))
    assert {start % 64 for start in starts} == {0}


def test_rows_in_another_layout_get_the_same_bits(model):
    x = rows_for(model, 70)
    wide = np.repeat(x, 2, axis=0)
    for same in (np.asfortranarray(x), wide[::2], x[::-1].copy()[::-1]):
        assert model.scores(same).tobytes() == model.scores(x).tobytes()


def test_a_table_is_probed_with_rows_of_its_kind():
    features = (Feature("colour", values=("blue", "green", "red")), Feature("weight", 0.0, 10.0))
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.integers(3, size=100), rng.uniform(0, 10, 100)]).astype(float)
    table = TableModel(table_pipeline(features, LogisticRegression()).fit(x, x[:, 0] == 1), features)
    model = BlockModel(table, like=x[:30])
    assert in_pieces(model.scores, x, range(1, 100)).tobytes() == model.scores(x).tobytes()


def test_what_does_not_fit_gets_a_sentence():
    with pytest.raises(InputError, match=r"Rows of shape \(5,\) were expected; got an array of shape \(3, 1\)"):
        Blocks(sums, (5,))(np.zeros((3, 1)))
    with pytest.raises(
        InputError, match=r"float64 scores of shape \(64, 1\) for 64 rows; it gave float64 ones of shape"
    ):
        Blocks(lambda x: sums(x)[:3], (5,))
