"""What every hardening keeps, over the whole catalog: a new file is tested before its author writes a test."""

from __future__ import annotations

import json
import random
import re
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from portcullis_ml.core.artifacts import Contents
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.recipes import Hardening
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Model
from portcullis_ml.hardening import CATALOG
from portcullis_ml.models.artifacts import write_artifact
from portcullis_ml.models.export import model_files
from portcullis_ml.models.load import load_model
from portcullis_ml.models.onnx import OnnxModel
from recipes.toys import HARDENINGS, LEARNER, foreign, own

NAMES = list(CATALOG)


def toy_of(name: str) -> Hardening:
    assert name in HARDENINGS, f"{name} has no toy: add a line for it to HARDENINGS in tests/recipes/toys.py"
    return HARDENINGS[name]()


EXTRAS = {"private_training": "opacus"}  # what some need that not every installation for development has


@pytest.fixture
def toy(name: str) -> Hardening:
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    return toy_of(name)


def trained(toy: Hardening, seed: int = 0) -> Model:
    return toy(LEARNER, own(), foreign(), rng=np.random.default_rng(seed))


def test_every_toy_stands_for_a_hardening() -> None:
    assert sorted(HARDENINGS) == NAMES
    assert all(toy_of(name).name == name for name in NAMES)


def test_a_hardening_without_a_toy_is_told_what_to_add() -> None:
    with pytest.raises(AssertionError, match=r"no_such has no toy: add a line for it to HARDENINGS in tests/recipes"):
        toy_of("no_such")


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_one_rng_one_model(self, toy: Hardening) -> None:
        first = trained(toy)
        torch.rand(3)  # whatever the global generators say
        np.testing.assert_array_equal(trained(toy).scores(own().x), first.scores(own().x))

    def test_it_is_a_classifier_of_the_rows(self, toy: Hardening) -> None:
        model, fresh = trained(toy), own(200, 9)
        assert model.n_classes == 3
        assert tuple(model.input_shape) == (4,)
        assert (model.scores(fresh.x).argmax(axis=1) == fresh.y).mean() > np.bincount(fresh.y).max() / 200 + 0.1

    def test_global_generators_are_left_alone(self, toy: Hardening) -> None:
        before = (random.getstate(), repr(np.random.get_state(legacy=False)), torch.get_rng_state())  # noqa: NPY002
        trained(toy)
        assert random.getstate() == before[0]
        assert repr(np.random.get_state(legacy=False)) == before[1]  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[2])

    def test_what_is_missing_is_said_in_a_sentence(self, toy: Hardening) -> None:
        name, rng = toy.name, np.random.default_rng(0)
        with pytest.raises(NotApplicable, match=f"^{name} .* there are none. Give --train FILE.$"):
            toy(LEARNER, None, foreign(), rng=rng)
        if toy.needs_outside:
            with pytest.raises(NotApplicable, match=f"^{name} needs outside rows.* Give --outside FILE.$"):
                toy(LEARNER, own(), None, rng=rng)
        if toy.needs_labels:
            with pytest.raises(NotApplicable, match=f"^{name} needs the true classes"):
                toy(LEARNER, replace(own(), y=None), foreign(), rng=rng)
            with pytest.raises(InputError, match="2 classes at least; got one class"):
                toy(LEARNER, replace(own(), y=np.zeros(120, np.int64)), foreign(), rng=rng)
        with pytest.raises(InputError, match="Outside rows must have the shape of the victim's rows"):
            toy(LEARNER, own(), foreign()[:, :2], rng=rng)

    def test_it_says_how_far_it_is(self, toy: Hardening) -> None:
        seen: list[tuple[int, int]] = []
        toy(LEARNER, own(), foreign(), rng=np.random.default_rng(0), watch=lambda *step: seen.append(step))
        assert seen[-1] == (LEARNER.epochs, LEARNER.epochs)

    def test_settings_survive_a_description(self, toy: Hardening, name: str) -> None:
        for hardening in (toy, CATALOG.build(name)):
            assert CATALOG.build(json.loads(json.dumps(describe(hardening)))) == hardening

    def test_its_folder_is_a_victim_and_a_model_server_takes_the_onnx(self, toy: Hardening, tmp_path: Path) -> None:
        model, x = trained(toy), own(50, 9).x
        files, sentence = model_files(model, own().x)
        assert sorted(files) == ["model.onnx", "model.safetensors"]
        assert sentence.startswith("The ONNX file gives the model's own probabilities within ")
        folder = write_artifact(Contents(files, {"onnx": sentence}), tmp_path / "it")
        for spec in (folder.path, str(folder)):
            np.testing.assert_array_equal(load_model(spec).scores(x), model.scores(x))
        np.testing.assert_allclose(OnnxModel(files["model.onnx"]).scores(x), model.scores(x), atol=1e-4)

    def test_its_pages_say_what_a_user_must_know(self, toy: Hardening) -> None:
        module = sys.modules[type(toy).__module__]
        text = module.__doc__ or ""
        assert re.search(r"\b(19|20)\d\d\b", text), "cite the publication, with its year"
        assert "section" in text, "say where in it"
        assert "\nThreat model" in text
        assert "\nCost" in text
        source = Path(module.__file__ or "").read_text()
        for f in fields(type(toy)):
            assert re.search(rf"^    {f.name}: .*  # \w", source, re.MULTILINE), f.name
