"""ODIN and the Mahalanobis distance against plain twins, one row at a time, and the scale on which both are shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from portcullis_ml.core.artifacts import Artifact, Contents
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.types import Interface, Rows
from portcullis_ml.defenses.out_of_domain import OutOfDomain
from portcullis_ml.models.artifacts import unpack_arrays, write_artifact
from portcullis_ml.models.foreign import MahalanobisScore, OdinScore, Scale, network_bytes
from portcullis_ml.models.networks import build_network
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.models.torch import TorchLearner, TorchModel
from portcullis_ml.recipes.class_means import ClassMeans
from portcullis_ml.recipes.odin_step import OdinStep

API = Interface(input_shape=(6,), n_classes=4)


def rows(n: int, seed: int, low: float = 0.0) -> np.ndarray:
    return low + np.random.default_rng(seed).random((n, 6))


def classes(x: np.ndarray) -> np.ndarray:
    return 2 * (x[:, 0] > 0.5).astype(np.int64) + (x[:, 1] > 0.5)


@pytest.fixture(scope="module")
def victim() -> TorchModel:
    x = rows(400, 0)
    return TorchLearner(network="table_mlp", epochs=20).fit(x, np.eye(4)[classes(x)], rng=np.random.default_rng(0))


def test_odin_is_that_of_the_paper_one_row_at_a_time(victim: TorchModel) -> None:
    x, width, temperature, step = rows(20, 1), np.arange(1.0, 7.0), 50.0, 0.01
    found = OdinScore(victim, width, temperature, step)(x)
    for row, score in zip(x, found, strict=True):
        t = torch.tensor(row[None], dtype=torch.float32, requires_grad=True)
        logits = victim.module(t)[0] / temperature
        (-torch.log_softmax(logits, 0)[logits.argmax()]).backward()
        moved = torch.tensor(row) - step * torch.tensor(width) * torch.sign(t.grad[0].double())
        with torch.no_grad():
            p = torch.softmax(victim.module(moved[None].float())[0].double() / temperature, 0)
        assert score == pytest.approx(-p.max().item(), abs=1e-7)
    assert not np.allclose(found, OdinScore(victim, width, temperature, 0.0)(x), atol=1e-6)


def test_the_mahalanobis_distance_is_that_of_the_paper_one_row_at_a_time(victim: TorchModel) -> None:
    x, y = rows(300, 2), classes(rows(300, 2))
    taken: list[np.ndarray] = []
    layers = [m for m in victim.module.modules() if isinstance(m, torch.nn.Linear)]
    handle = layers[-1].register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].double().numpy()))
    asked = rows(15, 3)
    victim.scores(x)
    victim.scores(asked)
    handle.remove()
    h, ours = taken
    means = [h[y == c].mean(axis=0) for c in range(4)]
    shared = sum(np.outer(row - means[c], row - means[c]) for row, c in zip(h, y, strict=True)) / len(h)
    inverse = np.linalg.pinv(shared, rcond=1e-10, hermitian=True)
    plain = [min((row - m) @ inverse @ (row - m) for m in means) for row in ours]
    np.testing.assert_allclose(MahalanobisScore.fit(victim, x, y)(asked), plain, rtol=1e-6)


def test_on_the_scale_a_share_of_the_owners_rows_is_above_one_half() -> None:
    scores = np.random.default_rng(0).normal(size=1000)
    scale = Scale.of(scores, 0.05)
    assert (scale(scores) > 0.5).mean() == pytest.approx(0.05, abs=0.002)
    assert scale(np.array([np.median(scores)]))[0] == pytest.approx(0.05)
    assert (np.diff(scale(np.sort(scores))) >= 0).all()
    assert Scale.of(np.ones(9), 0.1)(np.array([0.9, 1.1])).tolist() == [0.0, 1.0]  # all rows alike


@pytest.mark.parametrize(("recipe", "kind"), [(OdinStep(share=0.1), "odin"), (ClassMeans(share=0.1), "mahalanobis")])
def test_what_it_flags_of_own_and_of_foreign_rows(victim: TorchModel, recipe, kind: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    own = rows(600, 4)
    between = np.where(np.arange(6) < 2, 0.5 + 0.02 * (rows(300, 5) - 0.5), rows(300, 6))  # where four classes meet
    outside = between if kind == "odin" else rows(300, 5, low=1.5)
    contents = recipe(victim, Rows(own, classes(own)), outside, rng=np.random.default_rng(0))
    bound = OutOfDomain(score=kind, filter=write_artifact(contents, tmp_path / "it")).bind(API)
    fresh = bound._score(rows(1000, 7))
    assert (fresh > 0.5).mean() == pytest.approx(0.1, abs=0.05)
    assert (bound._score(outside) > 0.5).mean() > 0.8


def test_odins_notes_count_rows_that_did_not_choose_the_step(victim: TorchModel) -> None:
    own = rows(200, 4)
    contents = OdinStep()(victim, Rows(own), rows(101, 5, low=1.0), rng=np.random.default_rng(0))
    assert contents.about["outside_rows"]["of"] == 50
    assert contents.about["step"] == unpack_arrays(contents.files["odin.safetensors"])["settings"][1]
    plain = OdinStep(most=0, temperature=1)(victim, Rows(own), rows(101, 5), rng=np.random.default_rng(0))
    assert plain.about["step"] == 0


def test_victims_without_gradients_or_a_name_are_refused_in_a_sentence(victim: TorchModel) -> None:
    linear = SoftmaxRegression(np.zeros((4, 6)), np.zeros(4))
    for recipe in (OdinStep(), ClassMeans()):
        with pytest.raises(NotApplicable, match=rf"^{recipe.name} needs .* PyTorch .* another SoftmaxRegression\.$"):
            recipe(linear, Rows(rows(20, 0)), rows(20, 1), rng=np.random.default_rng(0))
    with pytest.raises(NotApplicable, match="another TorchModel"):
        network_bytes(TorchModel(victim.module, (6,), 4), "odin_step")
    several = TorchModel(build_network("one_of_3_table_mlp", (6,), 4), (6,), 4, network="one_of_3_table_mlp")
    with pytest.raises(NotApplicable, match="needs a network with one last layer of 4 units; this one has 3"):
        ClassMeans()(several, Rows(rows(20, 0), np.arange(20) % 4), None, rng=np.random.default_rng(0))
    for recipe, said in ((OdinStep(), "2 outside rows at least; got 1"), (ClassMeans(), "2 classes at least")):
        with pytest.raises(InputError, match=said):
            recipe(victim, Rows(rows(20, 0), np.zeros(20, np.int64)), rows(1, 1), rng=np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["odin", "mahalanobis"])
def test_an_artifact_that_does_not_fit_is_refused_in_a_sentence(victim: TorchModel, kind: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    recipe = OdinStep() if kind == "odin" else ClassMeans()
    own = rows(100, 4)
    files = dict(recipe(victim, Rows(own, classes(own)), rows(20, 1), rng=np.random.default_rng(0)).files)
    file = f"{kind}.safetensors"

    def written(name: str, **changed: bytes | None) -> Artifact:
        kept = {**files, **{n.replace("_", "."): data for n, data in changed.items()}}
        return write_artifact(Contents({n: d for n, d in kept.items() if d is not None}), tmp_path / name)

    def refused(words: str, artifact: Artifact, api: Interface = API) -> None:
        with pytest.raises(InputError, match=words):
            OutOfDomain(score=kind, filter=artifact).bind(api)

    whole = written("whole")
    refused(r"a victim that takes rows of \(9,\) and knows 4 classes; this one takes \(6,\)", whole,
            Interface(input_shape=(9,), n_classes=4))  # fmt: skip
    refused(rf"must hold {file}, as {recipe.name} writes it", written("no", **{file.replace(".", "_"): None}))
    refused("victim.safetensors was expected to hold safetensors; it cannot be read",
            written("cut", victim_safetensors=files["victim.safetensors"][:99]))  # fmt: skip
    refused("whole safetensors file", written("short", **{file.replace(".", "_"): files[file][:20]}))
    weights = files["victim.safetensors"]
    refused("lacks an array or holds one of another size", written("other", **{file.replace(".", "_"): weights}))
    with pytest.raises(NotApplicable, match="out_of_domain needs whole rows"):
        OutOfDomain(score=kind, filter=whole).bind(API.revealing(missing=True))
