"""Bad input to what defends by a trained part gets one line that says what was expected and what came.

That the thief's own pool was used as outside rows is a flag of the audit: tests/bench/test_prepare.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

from portcullis_ml.core.artifacts import Artifact, Contents
from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError, PortcullisError
from portcullis_ml.core.recipes import Hardening
from portcullis_ml.core.types import Interface, Reveals
from portcullis_ml.defenses import CATALOG
from portcullis_ml.defenses.out_of_domain import OutOfDomain
from portcullis_ml.detectors.coverage import Coverage
from portcullis_ml.detectors.extraction_monitor import ExtractionMonitor
from portcullis_ml.detectors.hardness import Hardness
from portcullis_ml.detectors.low_confidence import LowConfidence
from portcullis_ml.detectors.mahalanobis import Mahalanobis
from portcullis_ml.detectors.odin import Odin
from portcullis_ml.hardening import CATALOG as HARDENING
from portcullis_ml.models.artifacts import pack_arrays, write_artifact
from portcullis_ml.models.explain import explainer_named
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.recipes import CATALOG as RECIPES
from portcullis_ml.recipes.evaluation_set import EvaluationSet
from portcullis_ml.recipes.training_steps import TrainingSteps
from recipes.toys import LEARNER, VICTIM, network, own

from .toys import API, toy_filter, toy_misinformation, toy_scores, toy_surrogate

NARROW = Interface(input_shape=(4,), n_classes=3)  # the API of the recipes' toys
POISON, MISINFORM = CATALOG.load("prediction_poisoning"), CATALOG.load("adaptive_misinformation")


def said(error: type[PortcullisError], words: str, call: Callable[[], Any]) -> None:
    """The call raises that error, on one line that ends as a sentence does."""
    with pytest.raises(error, match=words) as raised:
        call()
    line = str(raised.value)
    assert "\n" not in line
    assert line.endswith(".")
    assert len(line) < 320


def outsiders() -> list[str]:
    return [name for catalog in (RECIPES, HARDENING) for name in catalog if catalog.load(name).needs_outside]


@pytest.mark.parametrize("name", outsiders())
def test_a_training_without_outside_rows(name: str) -> None:
    unit = (RECIPES if name in RECIPES else HARDENING).build(name)
    given: Any = LEARNER if isinstance(unit, Hardening) else network()
    words = rf"^{name} needs outside rows, unlike the victim's; there are none\. Give --outside FILE\.$"
    for outside in (None, np.empty((0, 4))):
        said(NotApplicable, words, lambda outside=outside: unit(given, own(), outside, rng=np.random.default_rng(0)))
    words = r"^Outside rows must have the shape of the victim's rows, \(4,\); got \(5,\)\.$"
    said(InputError, words, lambda: unit(given, own(), np.zeros((9, 5)), rng=np.random.default_rng(0)))


def evaluation() -> Contents:
    return EvaluationSet()(VICTIM, own(200), None, rng=np.random.default_rng(0))


def steps() -> Contents:
    return TrainingSteps(epochs=20, window=20)(VICTIM, own(120), None, rng=np.random.default_rng(0))


# What takes a trained artifact: how it is built from one, the artifact's content, and the API that it is of.
TAKERS: dict[str, tuple[Callable[[Any], Any], Callable[[], Contents], Interface]] = {
    "adaptive_misinformation": (lambda a: MISINFORM(network=a), lambda: toy_misinformation().read(), API),
    "coverage": (lambda a: Coverage(evaluation=a), evaluation, NARROW),
    "extraction_monitor": (lambda a: ExtractionMonitor(evaluation=a), evaluation, NARROW),
    "hardness": (lambda a: Hardness(steps=a), steps, NARROW),
    "mahalanobis": (lambda a: Mahalanobis(fitted=a), lambda: toy_scores("mahalanobis").read(), API),
    "odin": (lambda a: Odin(fitted=a), lambda: toy_scores("odin").read(), API),
    "out_of_domain": (lambda a: OutOfDomain(filter=a), lambda: toy_filter().read(), API),
    "out_of_domain, odin": (
        lambda a: OutOfDomain(filter=a, score="odin"), lambda: toy_scores("odin").read(), API
    ),
    "prediction_poisoning": (lambda a: POISON(surrogate=a), lambda: toy_surrogate().read(), API),
}  # fmt: skip


@pytest.fixture(params=TAKERS)
def taker(request: pytest.FixtureRequest) -> tuple[Callable[[Any], Any], Contents, Interface]:
    build, contents, api = TAKERS[request.param]
    return build, contents(), api


Taker = tuple[Callable[[Any], Any], Contents, Interface]


def test_an_artifact_of_another_shape(taker: Taker, tmp_path: Path) -> None:
    build, contents, api = taker
    artifact = write_artifact(contents, tmp_path / "it")
    build(artifact).bind(api)
    other = Interface(input_shape=(7,), n_classes=api.n_classes)
    words = r"must .*\(7,\).*\(4,\).*Prepare (one|some) for this model\.$"
    said(InputError, words, lambda: build(artifact).bind(other))
    regression = Interface(input_shape=(4,), task="regression")
    said(
        NotApplicable,
        "needs an API that predicts classes; this one does regression",
        lambda: build(artifact).bind(regression),
    )


@pytest.mark.parametrize("kept", [0, 9, 0.5])
def test_an_artifact_cut_short(taker: Taker, kept: float, tmp_path: Path) -> None:
    build, contents, api = taker
    for i, (name, data) in enumerate(contents.files.items()):
        part = data[: int(kept * len(data)) if kept < 1 else int(kept)]
        artifact = write_artifact(Contents({**contents.files, name: part}), tmp_path / str(i))
        said(InputError, rf"{name} was expected to (be|hold) ", lambda artifact=artifact: build(artifact).bind(api))


def test_an_artifact_without_its_file_or_changed_behind_its_back(taker: Taker, tmp_path: Path) -> None:
    build, contents, api = taker
    for i, name in enumerate(contents.files):
        rest = {n: data for n, data in contents.files.items() if n != name} or {"other.safetensors": b"1"}
        artifact = write_artifact(Contents(rest), tmp_path / str(i))
        said(InputError, rf"must hold {name}, as \w+ writes it; it does not", lambda a=artifact: build(a).bind(api))
    artifact = write_artifact(contents, tmp_path / "it")
    (tmp_path / "it" / next(iter(contents.files))).write_bytes(b"other")
    said(InputError, "was expected to hold what has the SHA-256", lambda: build(artifact).bind(api))


def test_a_recipe_where_its_artifact_should_be(taker: Taker) -> None:
    build, _, api = taker
    recipe = EvaluationSet()
    said(InputError, "it names the recipe. Run `portcullis prepare evaluation_set", lambda: build(recipe).bind(api))
    said(ParameterError, r"must be what \w+ has \w+: \"FOLDER\".*; got 'a word'", lambda: build("a word"))


def test_a_network_of_other_classes() -> None:
    other = Interface(input_shape=(4,), n_classes=6)
    for unit in (
        POISON(surrogate=toy_surrogate()),
        MISINFORM(network=toy_misinformation()),
        Odin(fitted=toy_scores("odin")),
    ):
        said(InputError, "6 classes; this one takes .* knows 5. Prepare one", lambda unit=unit: unit.bind(other))


def test_a_filter_that_knows_one_side(tmp_path: Path) -> None:
    arrays = {"mean": np.zeros(4), "deviation": np.ones(4), "w0": np.ones((1, 4)), "b0": np.zeros(1)}
    artifact: Artifact = write_artifact(Contents({"filter.safetensors": pack_arrays(arrays)}), tmp_path / "it")
    words = (
        r"a filter of rows \(4,\) that knows two sides, own and outside; this one is of \(4,\) and knows 1\. Prepare"
    )
    said(InputError, words, lambda: OutOfDomain(filter=artifact).bind(API))


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("noise(eps=-1)", r"LogitNoise\.eps must be a number of at least 0; got -1"),
        ("label_preserving_noise(ball=l3)", r"LabelPreservingNoise\.ball must be 'l1' or 'l2'; got 'l3'"),
        ("private_answers(eps=0)", r"PrivateAnswers\.eps must be a number above 0; got 0"),
        ("random_vertex(eps=2.5)", r"RandomVertex\.eps must be a number in \[0, 2\]; got 2\.5"),
        ("reverse_sigmoid(beta=1.5)", r"ReverseSigmoid\.beta must be a number in \[0, 1\]; got 1\.5"),
        ("temperature(t=0)", r"Temperature\.t must be a number above 0; got 0"),
        ("out_of_domain(score=msp, threshold=1)", r"OutOfDomain\.threshold must be in \(0, 1\); got 1"),
        ("out_of_domain(score=energy)", r"OutOfDomain\.score must be one of trained, msp, odin, mahalanobis; got"),
    ],
)  # fmt: skip
def test_a_setting_out_of_its_range(word: str, words: str) -> None:
    said(ParameterError, words, lambda: CATALOG.build(word))


@pytest.mark.parametrize(("ball", "eps", "most"), [("l1", 2.1, "2"), ("l2", 1.5, "1.414"), ("kl", -0.1, "2")])
def test_an_eps_outside_of_its_ball(ball: str, eps: float, most: str) -> None:
    words = rf"^PredictionPoisoning\.eps must be a number in \[0, {most}\] with ball={ball}; got {eps}"
    said(ParameterError, words, lambda: POISON(surrogate=toy_surrogate(), ball=ball, eps=eps))


def test_a_tau_on_a_model_that_gives_labels_alone() -> None:
    labels = API.revealing(reveals=Reveals.LABELS)
    units = (MISINFORM(network=toy_misinformation()), OutOfDomain(score="msp"), LowConfidence())
    for unit in units:
        said(NotApplicable, "needs a model that gives probabilities.*labels", lambda unit=unit: unit.bind(labels))
    words = r"AdaptiveMisinformation\.tau must be a number in \[0, 1\]; got 2"
    said(ParameterError, words, lambda: MISINFORM(network=toy_misinformation(), tau=2))


@pytest.mark.parametrize("word", ["grad_cam", "gradient_x_input", "tree_contributions"])
def test_an_explanation_of_a_model_that_has_none(word: str) -> None:
    plain = SklearnModel(GaussianNB().fit(np.eye(4), [0, 0, 1, 1]))
    words = rf"^{word} explains .*; this victim is a \w+\. Choose another: portcullis list explainers\.$"
    said(InputError, words, lambda: explainer_named(word)(plain))
