"""A model of texts for tests: what it says depends on each word and on where it stands."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from tests.gateway.harness import policy_text

from portcullis_ml.core.types import Array, Interface
from portcullis_ml.gateway.policy.policy import Policy, parse_policy
from portcullis_ml.gateway.protocols.texts import Hashing, TextInput
from portcullis_ml.gateway.protocols.wire import ModelSpec
from portcullis_ml.models.texts import TextInterface, TextModel, Texts

CLASSES = 3
INPUTS = {"hash": TextInput(), "hashing": TextInput(hashing=Hashing(dimensions=32))}
TEXTS = [
    "win a prize now",
    "",
    "Grüße, 世界 \U0001f600",
    'a "quoted" \\ text,\n[with] {marks}: \t\x01',
    "prize a win now",
]


def scores_of(texts: list[str]) -> Array:
    """(n, 3) probabilities, one text at a time."""
    return np.array([_scores(text) for text in texts]).reshape(-1, CLASSES)


def _scores(text: str) -> Array:
    z = np.zeros(CLASSES)
    for place, word in enumerate(text.split()):
        z[zlib.crc32(word.encode()) % CLASSES] += 1 / (1 + place)
    z = np.exp(z - z.max())
    return np.asarray(z / z.sum())


def served(text: TextInput, **settings: Any) -> ModelSpec:
    """The model as a protocol knows it."""
    interface = Interface(
        input_shape=text.shape,
        bounds=text.bounds,
        n_classes=CLASSES,
        text=text.hashing is None,
        **settings.pop("about", {}),
    )
    return ModelSpec(name="m", interface=interface, text=text, **{"max_rows": 8, **settings})


def victim(**settings: Any) -> tuple[TextModel, ModelSpec]:
    """The model, and how `ModelServer` serves it."""
    texts = Texts()
    interface = TextInterface(n_classes=CLASSES, texts=texts)
    spec = ModelSpec(name="m", interface=interface, text=TextInput(), **settings)
    return TextModel(scores_of, texts, CLASSES), spec


def policy(upstream: str, folder: Path, stages: str = "", more: str = "", text: str = "", top: str = "") -> Policy:
    """A policy before the model; `text` are lines of [model.text]."""
    about = f'[model]\nname = "m"\nclasses = {CLASSES}\n[model.text]\n{text}\n'
    return parse_policy(policy_text(victim()[0], upstream, folder, stages, about + more, top), folder=folder)
