"""What every recipe keeps, over the whole catalog: a new file is tested before its author writes a test."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from portcullis_ml.core.artifacts import Contents
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Answer, Request
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.models.artifacts import unpack_arrays, write_artifact
from portcullis_ml.models.onnx import OnnxModel
from portcullis_ml.recipes import CATALOG

from .toys import API, RECIPES, VICTIM, Setup, foreign, own

NAMES = list(CATALOG)
ASKED = np.concatenate([own(30, 5).x, foreign(30, 6)])


def toy_of(name: str) -> Setup:
    assert name in RECIPES, f"{name} has no toy: add a line for it to RECIPES in tests/recipes/toys.py"
    return RECIPES[name]()


@pytest.fixture
def toy(name: str) -> Setup:
    return toy_of(name)


def trained(toy: Setup, seed: int = 0) -> Contents:
    return toy.recipe(toy.victim, own(), foreign(), rng=np.random.default_rng(seed))


def test_every_toy_stands_for_a_recipe() -> None:
    assert sorted(RECIPES) == NAMES
    assert all(toy_of(name).recipe.name == name for name in NAMES)


def test_a_recipe_without_a_toy_is_told_what_to_add() -> None:
    with pytest.raises(AssertionError, match=r"no_such has no toy: add a line for it to RECIPES in tests/recipes"):
        toy_of("no_such")


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_one_rng_one_content(self, toy: Setup) -> None:
        first = trained(toy)
        torch.rand(3)  # whatever the global generators say
        assert trained(toy) == first

    def test_global_generators_are_left_alone(self, toy: Setup) -> None:
        before = (random.getstate(), repr(np.random.get_state(legacy=False)), torch.get_rng_state())  # noqa: NPY002
        trained(toy)
        assert random.getstate() == before[0]
        assert repr(np.random.get_state(legacy=False)) == before[1]  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[2])

    def test_its_rows_are_left_alone(self, toy: Setup) -> None:
        rows, outside = own(), foreign()
        for array in (rows.x, rows.y, outside):
            array.flags.writeable = False
        toy.recipe(toy.victim, rows, outside, rng=np.random.default_rng(0))

    def test_what_is_missing_is_said_in_a_sentence(self, toy: Setup) -> None:
        name, rng = toy.recipe.name, np.random.default_rng(0)
        with pytest.raises(NotApplicable, match=f"^{name} .* there are none. Give --train FILE.$"):
            toy.recipe(toy.victim, None, foreign(), rng=rng)
        if toy.recipe.needs_outside:
            with pytest.raises(NotApplicable, match=f"^{name} needs outside rows.* Give --outside FILE.$"):
                toy.recipe(toy.victim, own(), None, rng=rng)
        if toy.recipe.needs_labels:
            with pytest.raises(NotApplicable, match=f"^{name} needs the true classes"):
                toy.recipe(toy.victim, replace(own(), y=None), foreign(), rng=rng)
        with pytest.raises(InputError, match="Outside rows must have the shape of the victim's rows"):
            toy.recipe(toy.victim, own(), foreign()[:, :2], rng=rng)

    def test_it_says_how_far_it_is(self, toy: Setup) -> None:
        seen: list[tuple[int, int]] = []
        toy.recipe(toy.victim, own(), foreign(), rng=np.random.default_rng(0), watch=lambda *step: seen.append(step))
        assert seen
        assert seen[-1][0] == seen[-1][1]
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    def test_settings_survive_a_description(self, toy: Setup, name: str) -> None:
        for recipe in (toy.recipe, CATALOG.build(name)):
            assert CATALOG.build(json.loads(json.dumps(describe(recipe)))) == recipe

    def test_its_files_hold_arrays_and_graphs_only(self, toy: Setup) -> None:
        contents = trained(toy)
        assert contents.files
        json.dumps(dict(contents.about), allow_nan=False)
        for file, data in contents.files.items():
            assert file.endswith((".safetensors", ".onnx"))
            if file.endswith(".safetensors"):
                assert unpack_arrays(data)
            else:
                OnnxModel(data)

    def test_its_defense_says_that_the_recipe_is_still_to_be_trained(self, toy: Setup) -> None:
        with pytest.raises(InputError, match=f"Run `portcullis prepare {toy.recipe.name} "):
            toy.defense(toy.recipe).bind(API)

    def test_its_defense_answers_the_same_after_a_restart(self, toy: Setup, tmp_path: Path) -> None:
        defense = toy.defense(write_artifact(trained(toy), tmp_path / "it"))
        description = json.dumps(describe(defense))
        code = (
            "import json, sys; from recipes.test_contract import answered; "
            "sys.stdout.buffer.write(answered(sys.argv[1]))"
        )
        words = [sys.executable, "-c", code, description]
        folder = str(Path(__file__).parents[1])
        done = subprocess.run(words, cwd=folder, capture_output=True, check=True)
        assert done.stdout == answered(description)

    def test_its_pages_say_what_a_user_must_know(self, toy: Setup) -> None:
        module = sys.modules[type(toy.recipe).__module__]
        text = module.__doc__ or ""
        assert re.search(r"\b(19|20)\d\d\b", text), "cite the publication, with its year"
        assert "section" in text, "say where in it"
        assert "\nThreat model" in text
        assert "\nCost" in text
        source = Path(module.__file__ or "").read_text()
        for f in fields(type(toy.recipe)):
            assert re.search(rf"^    {f.name}: .*  # \w", source, re.MULTILINE), f.name


def answered(description: str) -> bytes:
    """Everything in the answers of a fresh guard with this defense."""
    guard = Guard(DEFENSES.build(json.loads(description)), key=b"k" * 32, interface=API)
    clean = Answer.of(VICTIM.scores(ASKED), API)
    answer = guard.release(Request("a", ASKED), clean).answer
    assert answer.labels is not None
    return answer.labels.tobytes() + (b"" if answer.scores is None else answer.scores.tobytes())
